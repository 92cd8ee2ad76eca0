//! Waiting for the end: `Prefer: wait=N`, `?wait=N`, and reading only what changed.

use std::time::Instant;

use serde_json::json;

use crate::support::{DEADLINE, TestApp, add, spawn};

#[tokio::test]
async fn prefer_wait_answers_with_the_settled_record() {
    let app = TestApp::start().await;
    let start = Instant::now();
    let request = app.request("POST", "/v1/transactions").json(&add("hits", 2));
    let answer = app.send(request.header("prefer", "wait=60")).await.expect(200);
    assert!(
        start.elapsed() < DEADLINE,
        "it answers when settled, not after 60 s"
    );
    assert_eq!(answer.json()["status"], "done");
    assert_eq!(answer.json()["result"], 2);
    assert_eq!(answer.header("preference-applied"), Some("wait"));
    assert_eq!(answer.header("retry-after"), None);
    let location = format!("/v1/transactions/{}", answer.id());
    assert_eq!(answer.header("location"), Some(location.as_str()));
    let read = app.get(&location).await;
    assert_eq!(
        (&read.text, read.header("etag")),
        (&answer.text, answer.header("etag"))
    );
    app.finish().await;
}

#[tokio::test]
async fn prefer_wait_gives_up_with_what_is_known() {
    let app = TestApp::stalled().await;
    for (prefer, applied) in [
        ("wait=0", Some("wait")),
        ("wait=1", Some("wait")),
        ("respond-async, WAIT=\"0\"", Some("wait")),
        ("respond-async", None),
    ] {
        let request = app.request("POST", "/v1/transactions").json(&add("hits", 2));
        let answer = app.send(request.header("prefer", prefer)).await.expect(202);
        assert_eq!(answer.header("preference-applied"), applied, "{prefer}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.json()["status"], "pending");
    }
    app.leave().await;
}

#[tokio::test]
async fn a_long_poll_ends_when_the_record_is_settled() {
    let app = TestApp::start().await;
    let id = app.post(&add("hits", 2)).await.expect(202).id();
    let start = Instant::now();
    let polled = app
        .get(&format!("/v1/transactions/{id}?wait=60"))
        .await
        .expect(200);
    assert!(start.elapsed() < DEADLINE, "not after 60 s");
    assert_eq!(polled.json()["status"], "done");
    let again = app
        .get(&format!("/v1/transactions/{id}?wait=60"))
        .await
        .expect(200);
    assert!(start.elapsed() < DEADLINE, "what is settled needs no wait");
    assert_eq!(again.text, polled.text);
    app.finish().await;
}

#[tokio::test]
async fn many_who_wait_for_one_are_all_told() {
    let app = TestApp::stalled().await;
    let body = crate::support::with(add("hits", 2), "expires_in_seconds", 1);
    let id = app.post(&body).await.expect(202).id();
    let polls: Vec<_> = (0..20)
        .map(|_| {
            let request = app.request("GET", &format!("/v1/transactions/{id}?wait=60"));
            spawn(async move {
                request
                    .send()
                    .await
                    .expect("an answer")
                    .text()
                    .await
                    .expect("a body")
            })
        })
        .collect();
    for poll in polls {
        let text = tokio::time::timeout(DEADLINE, poll)
            .await
            .expect("is told")
            .expect("polls");
        assert!(text.contains(r#""status":"failed""#), "{text}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_long_poll_that_runs_out_shows_the_record_as_it_is() {
    let app = TestApp::stalled().await;
    let id = app.post(&add("hits", 2)).await.expect(202).id();
    let polled = app
        .get(&format!("/v1/transactions/{id}?wait=1"))
        .await
        .expect(200);
    assert_eq!(polled.json()["status"], "pending");
    assert_eq!(polled.header("retry-after"), Some("1"));
    app.leave().await;
}

#[tokio::test]
async fn the_longest_wait_is_the_operators() {
    let app = TestApp::with(|settings| {
        crate::support::stall(settings);
        settings.http.max_wait = std::time::Duration::from_secs(1);
    })
    .await;
    let start = Instant::now();
    let request = app.request("POST", "/v1/transactions").json(&add("hits", 2));
    let id = app
        .send(request.header("prefer", "wait=60"))
        .await
        .expect(202)
        .id();
    assert!(
        start.elapsed() < DEADLINE,
        "a preference is met as far as it can be"
    );
    // A parameter is not: whoever asks for more has to know that they do not get it.
    let answer = app.get(&format!("/v1/transactions/{id}?wait=2")).await;
    let detail = answer.fault(400, "SG-0009", "#query/wait");
    assert!(
        detail.contains("at most 1 s") && detail.contains("http.max_wait_seconds"),
        "{detail}"
    );
    app.get(&format!("/v1/transactions/{id}?wait=1"))
        .await
        .expect(200);
    app.leave().await;
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let app = TestApp::start().await;
    let done = app.settle(&add("hits", 2)).await;
    let path = format!("/v1/transactions/{}", done.id());
    let etag = done.header("etag").expect("an ETag").to_owned();
    let known = [
        etag.clone(),
        format!("W/{etag}"),
        format!("\"1\", {etag}"),
        format!("\"1\",W/{etag} , \"99\""),
        "*".to_owned(),
    ];
    for known in known {
        let answer = app
            .send(app.request("GET", &path).header("if-none-match", &known))
            .await;
        assert_eq!((answer.status, answer.text.as_str()), (304, ""), "{known}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
    }
    for other in ["\"1\"", "\"1\", \"99\"", "\"\""] {
        let answer = app
            .send(app.request("GET", &path).header("if-none-match", other))
            .await
            .expect(200);
        assert_eq!(answer.text, done.text, "{other}");
    }
    assert_ne!(etag, "\"1\"", "a new version has a new tag");
    app.finish().await;
}

#[tokio::test]
async fn a_wait_has_to_be_a_number_of_seconds() {
    let app = TestApp::start().await;
    let id = app.settle(&add("hits", 2)).await.id();
    let path = format!("/v1/transactions/{id}");
    for wait in ["", "-1", "1.5", "soon", "99999999999"] {
        let answer = app.get(&format!("{path}?wait={wait}")).await;
        answer.fault(400, "SG-0009", "#query/wait");
    }
    app.get(&format!("{path}?weit=1"))
        .await
        .fault(400, "SG-0009", "#query/weit");
    assert_eq!(app.list("").await.len(), 1);
    assert_eq!(app.counter("hits").await, json!(2));
    app.finish().await;
}
