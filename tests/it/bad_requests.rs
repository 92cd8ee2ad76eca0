//! I10: a request that is wrong around its body: address, method, headers, content type.

use insta::assert_json_snapshot;

use crate::support::{TestApp, add};

#[tokio::test]
async fn i10_only_json_is_taken() {
    let app = TestApp::start().await;
    let body = add("hits", 1).to_string();
    for declared in [
        None,
        Some(""),
        Some("text/plain"),
        Some("application/x-www-form-urlencoded"),
        Some("application/jsonx"),
        Some("text/json"),
        Some("json"),
    ] {
        for path in ["/v1/transactions", "/v1/query"] {
            let mut request = app.request("POST", path).body(body.clone());
            if let Some(declared) = declared {
                request = request.header("content-type", declared);
            }
            let answer = app.send(request).await;
            assert_eq!(answer.status, 415, "{declared:?}: {}", answer.text);
            answer.problem(415, "SG-0008");
        }
    }
    for path in ["/v1/transactions", "/v1/transactions/batch", "/v1/query"] {
        let packed = app
            .request("POST", path)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip");
        let answer = app.send(packed.body(body.clone())).await;
        answer.problem(415, "SG-0008");
        assert_eq!(answer.header("accept-encoding"), Some("identity"), "{path}");
    }
    assert!(app.list("").await.is_empty());
    for declared in [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/vnd.erp+json",
    ] {
        let request = app
            .request("POST", "/v1/transactions")
            .header("content-type", declared);
        app.send(request.body(body.clone())).await.expect(202);
    }
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn i10_addresses_and_methods_that_do_not_exist() {
    let app = TestApp::start().await;
    for path in [
        "/v1",
        "/v1/transactions/",
        "/v2/transactions",
        "/v1/transactions/x/y",
        "/v1/%FF",
        "//",
        "/v1/query/",
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, 404, "{path}: {}", answer.text);
        answer.problem(404, "SG-0005");
    }
    for (method, path, allow) in [
        ("DELETE", "/v1/transactions", "GET,HEAD,OPTIONS,POST"),
        ("PUT", "/v1/transactions", "GET,HEAD,OPTIONS,POST"),
        ("BREW", "/v1/transactions", "GET,HEAD,OPTIONS,POST"),
        (
            "POST",
            "/v1/transactions/01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f",
            "GET,HEAD,OPTIONS",
        ),
        ("POST", "/v1/transactions/x/attempts", "GET,HEAD,OPTIONS"),
        ("GET", "/v1/query", "OPTIONS,POST"),
        ("POST", "/v1/ledgers", "GET,HEAD,OPTIONS"),
        ("DELETE", "/v1/ledgers/main", "GET,HEAD,OPTIONS,PATCH"),
        ("POST", "/livez", "GET,HEAD,OPTIONS"),
        ("DELETE", "/metrics", "GET,HEAD,OPTIONS"),
    ] {
        let answer = app.send(app.request(method, path)).await;
        assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text);
        answer.problem(405, "SG-0006");
        let mut allowed: Vec<&str> = answer
            .header("allow")
            .expect("Allow")
            .split(',')
            .map(str::trim)
            .collect();
        allowed.sort_unstable();
        assert_eq!(allowed.join(","), allow, "{method} {path}");
    }
    assert_json_snapshot!("no_route", app.get("/v2/transactions").await.json());
    let wrong_method = app.send(app.request("DELETE", "/v1/transactions")).await;
    assert_json_snapshot!("wrong_method", wrong_method.json());
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_a_ledger_that_does_not_exist() {
    let app = TestApp::start().await;
    for name in ["other", "MAIN", "%FF"] {
        app.get(&format!("/v1/ledgers/{name}"))
            .await
            .problem(404, "SG-0016");
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_a_preference_that_makes_no_sense() {
    let app = TestApp::start().await;
    for prefer in [
        "wait",
        "wait=",
        "wait=-1",
        "wait=1.5",
        "wait=soon",
        "respond-async, wait=1s",
        "WAIT=x",
    ] {
        let request = app.request("POST", "/v1/transactions").json(&add("hits", 1));
        let answer = app.send(request.header("prefer", prefer)).await;
        assert_eq!(answer.status, 400, "{prefer}: {}", answer.text);
        answer.fault(400, "SG-0009", "#header/Prefer");
    }
    let request = app.request("POST", "/v1/transactions").json(&add("hits", 1));
    let answer = app.send(request.header("prefer", b"wait=\xff1".as_slice())).await;
    answer.fault(400, "SG-0009", "#header/Prefer");
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_the_body_has_a_limit() {
    const LIMIT: usize = 64 << 10;
    let app = TestApp::with(|settings| settings.http.max_body_bytes = LIMIT).await;
    let padded = |bytes: usize| {
        let body = add("hits", 1).to_string();
        " ".repeat(bytes - body.len()) + &body
    };
    for path in ["/v1/transactions", "/v1/query"] {
        let request = app
            .request("POST", path)
            .header("content-type", "application/json");
        let answer = app.send(request.body(padded(LIMIT + 1))).await;
        answer.problem(413, "SG-0007");
        assert_json_snapshot!("body_too_large", answer.json());
    }
    assert!(app.list("").await.is_empty());
    let request = app
        .request("POST", "/v1/transactions")
        .header("content-type", "application/json");
    app.send(request.body(padded(LIMIT))).await.expect(202);
    app.drain().await;
    app.finish().await;
}
