//! I10: what no HTTP client would send. The gateway refuses it or closes the connection, and lives on.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::support::{DEADLINE, TestApp, add, raw, spawn};

const JSON: &str = "content-type: application/json";

/// A client may take this long for its head, and as long again for its body.
const PATIENCE: Duration = Duration::from_millis(300);

async fn impatient() -> TestApp {
    TestApp::with(|settings| {
        settings.http.header_timeout = PATIENCE;
        settings.http.body_timeout = PATIENCE;
        settings.http.max_body_bytes = 1 << 10;
    })
    .await
}

#[tokio::test]
async fn i10_what_is_not_http() {
    let app = impatient().await;
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice();
    for bytes in [
        hello,
        b"\x00\x00\x00\x00\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /liv ez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nno colon here\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nna me: x\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /v1/transactions HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/transactions HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\nhello",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        if let Some(answer) = raw::exchange(app.address, bytes).await {
            let shown = String::from_utf8_lossy(bytes);
            assert!((400..500).contains(&answer.status), "{shown}: {answer:?}");
        }
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_heads_beyond_all_bounds() {
    let app = impatient().await;
    let many: String = (0..200)
        .map(|number| format!("x-{number}: {number}\r\n"))
        .collect();
    let long = format!("x: {}\r\n", "x".repeat(100 << 10));
    let fits = format!("x: {}\r\n", "x".repeat(60 << 10));
    let head = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{fits}\r\n");
    let answer = raw::exchange(app.address, head.as_bytes()).await;
    answer.expect("an answer").expect(200);
    for lines in [&many, &long] {
        let head = format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{lines}\r\n");
        if let Some(answer) = raw::exchange(app.address, head.as_bytes()).await {
            assert_eq!(answer.status, 431, "{answer:?}");
        }
    }
    let long = format!(
        "GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "x".repeat(100 << 10)
    );
    if let Some(answer) = raw::exchange(app.address, long.as_bytes()).await {
        assert!(matches!(answer.status, 414 | 431), "{answer:?}");
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_a_body_too_large_is_refused_before_it_is_sent() {
    let app = impatient().await;
    let head = raw::head(&[JSON, "content-length: 1025"]);
    let answer = raw::exchange(app.address, head.as_bytes())
        .await
        .expect("an answer");
    answer.problem(413, "SG-0007");
    let head = raw::head(&[JSON, "expect: 100-continue", "content-length: 999999999999"]);
    let answer = raw::exchange(app.address, head.as_bytes())
        .await
        .expect("an answer");
    answer.problem(413, "SG-0007");
    // A length that is not told is counted.
    let chunk = raw::head(&[JSON, "transfer-encoding: chunked"]) + "401\r\n" + &" ".repeat(1025);
    let answer = raw::exchange(app.address, chunk.as_bytes())
        .await
        .expect("an answer");
    answer.problem(413, "SG-0007");
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_a_body_that_breaks_off() {
    let app = impatient().await;
    let good = add("hits", 1).to_string();
    let head = raw::head(&[JSON, &format!("content-length: {}", good.len() + 1)]);
    let mut stream = raw::open(app.address, (head + &good).as_bytes()).await;
    stream.shutdown().await.expect("half closed");
    if let Some(answer) = raw::answer(stream).await {
        answer.problem(400, "SG-0001");
    }
    let chunked = raw::head(&[JSON, "transfer-encoding: chunked"]) + "zz\r\n" + &good;
    if let Some(answer) = raw::exchange(app.address, chunked.as_bytes()).await {
        answer.problem(400, "SG-0001");
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_a_head_that_never_ends_loses_its_connection() {
    let app = impatient().await;
    let silent = raw::open(app.address, b"").await;
    let stuck = raw::open(
        app.address,
        b"POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\n",
    )
    .await;
    let mut dripping = raw::open(app.address, b"POST /v1/transactions HTTP/1.1\r\n").await;
    // Always something, never an end: the time is for the whole head.
    let drip = async {
        while dripping.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(PATIENCE / 20).await;
        }
    };
    tokio::time::timeout(DEADLINE, drip).await.expect("is cut off");
    for stream in [silent, stuck] {
        if let Some(answer) = raw::answer(stream).await {
            assert_eq!(answer.status, 408, "{answer:?}");
        }
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_a_body_that_never_ends_is_given_up() {
    let app = impatient().await;
    let head = raw::head(&[JSON, "content-length: 1000"]);
    let stuck = raw::exchange(app.address, (head.clone() + "{\"ledger\":").as_bytes()).await;
    let problem = stuck.expect("an answer").problem(408, "SG-0010");
    insta::assert_json_snapshot!("body_too_slow", problem);
    let (reader, mut writer) = raw::open(app.address, head.as_bytes()).await.into_split();
    let drip = spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(PATIENCE / 20).await;
        }
    });
    let answer = raw::answer(reader).await.expect("an answer");
    answer.problem(408, "SG-0010");
    tokio::time::timeout(DEADLINE, drip)
        .await
        .expect("is cut off")
        .expect("drips");
    app.finish_untouched().await;
}

#[tokio::test]
async fn connections_are_used_again() {
    let app = TestApp::start().await;
    let bad = "POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{]";
    let last = "GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = raw::exchange(app.address, format!("{bad}{last}").as_bytes())
        .await
        .expect("answers");
    assert_eq!(answer.status, 400);
    assert!(
        answer.text.contains("HTTP/1.1 200"),
        "the second request got no answer: {}",
        answer.text
    );
    app.finish_untouched().await;
}
