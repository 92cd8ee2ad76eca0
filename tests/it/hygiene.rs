//! What careful clients, browsers and proxies expect beside the answer itself.

use std::collections::BTreeSet;

use serde_json::json;
use sluicegate::kv::EngineKind;
use sluicegate::store::TransactionStore;
use sluicegate::store::embedded::{DataFolder, EmbeddedStore};
use sluicegate::telemetry::metrics::Metrics;

use crate::support::{Answer, TestApp, add, with};

/// What comes after the answer belongs to the same trace.
#[tokio::test]
async fn a_record_keeps_the_trace_that_it_came_with() {
    let app = TestApp::stalled().await;
    let theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let send = async |path: &str, body: serde_json::Value| {
        let request = app.request("POST", path).header("traceparent", theirs);
        app.send(request.json(&body)).await
    };
    let one = send("/v1/transactions", add("hits", 1)).await.expect(202).json();
    let many = send("/v1/transactions/batch", json!([add("hits", 1)]))
        .await
        .expect(200)
        .json();
    let stopped = app.leave().await;
    let folder = DataFolder::hold(&stopped.data, EngineKind::Redb).expect("holds");
    let metrics = Metrics::new().expect("metrics").store();
    let store = EmbeddedStore::open(EngineKind::Redb, &folder.store(), 1 << 20, metrics).expect("opens");
    for id in [&one["id"], &many["items"][0]["transaction"]["id"]] {
        let id = id.as_str().expect("an id").parse().expect("a UUID");
        let tx = store.get(id).await.expect("reads").expect("is there");
        assert_eq!(tx.origin.trace.as_deref(), Some(theirs));
    }
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let app = TestApp::start().await;
    let mut made = BTreeSet::new();
    for (method, path) in [
        ("GET", "/livez"),
        ("POST", "/v1/transactions"),
        ("GET", "/nothing"),
        ("BREW", "/v1/ledgers"),
        ("OPTIONS", "/v1/ledgers"),
        ("GET", "/docs/"),
    ] {
        let given = app
            .request(method, path)
            .header("x-request-id", "erp/4711-ü".replace('ü', "u"));
        let answer = app.send(given).await;
        assert_eq!(
            answer.header("x-request-id"),
            Some("erp/4711-u"),
            "{method} {path}"
        );
        for unfit in [b"a b".as_slice(), b"\xff", "x".repeat(129).as_bytes()] {
            let answer = app
                .send(app.request(method, path).header("x-request-id", unfit))
                .await;
            let id = answer.header("x-request-id").expect("an id").to_owned();
            assert!(id.len() == 32 && made.insert(id.clone()), "{method} {path}: {id}");
        }
        let answer = app.send(app.request(method, path)).await;
        assert!(made.insert(answer.header("x-request-id").expect("an id").to_owned()));
        assert_eq!(answer.header("traceparent"), None, "{method} {path}");
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn a_trace_goes_on_and_a_malformed_one_is_passed_over() {
    let app = TestApp::start().await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let theirs = format!("00-{trace}-b7ad6b7169203331-01");
    let submit = || app.request("POST", "/v1/transactions").json(&add("hits", 1));
    let answer = app
        .send(submit().header("traceparent", &theirs))
        .await
        .expect(202);
    let ours = answer.header("traceparent").expect("traceparent");
    assert!(
        ours.starts_with(&format!("00-{trace}-")) && ours.ends_with("-01"),
        "{ours}"
    );
    assert_ne!(ours, theirs, "our own place in it");
    for bad in [
        "",
        "00-x",
        &theirs.to_uppercase(),
        &theirs.replace(trace, &"0".repeat(32)),
    ] {
        let answer = app.send(submit().header("traceparent", bad)).await.expect(202);
        assert_eq!(answer.header("traceparent"), None, "{bad}");
    }
    app.drain().await;
    app.finish().await;
}

/// Asked without a client that would unpack it unseen.
async fn packed(app: &TestApp, path: &str, accepted: &str) -> Answer {
    app.send(app.request("GET", path).header("accept-encoding", accepted))
        .await
}

#[tokio::test]
async fn long_answers_are_compressed_for_those_who_take_it() {
    let app = TestApp::start().await;
    let long = with(
        add("hits", 1),
        "metadata",
        serde_json::json!({"note": "x".repeat(500)}),
    );
    for _ in 0..4 {
        app.settle(&long).await;
    }
    let path = "/v1/transactions";
    let plain = app.get(path).await.expect(200);
    assert_eq!(plain.header("content-encoding"), None);
    let tag = plain.header("etag").expect("an ETag").to_owned();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client
        .get(app.url(path))
        .header("accept-encoding", "br;q=1, gzip;q=0.5");
    let response = request.send().await.expect("an answer");
    let header = |name: &str| {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().expect("ASCII").to_owned())
    };
    assert_eq!(header("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(header("vary").as_deref(), Some("accept-encoding"));
    assert_eq!(
        header("etag"),
        Some(format!("W/{tag}")),
        "the same listing in other bytes"
    );
    let bytes = response.bytes().await.expect("a body");
    assert!(
        bytes.starts_with(b"\x1f\x8b") && bytes.len() < plain.text.len() / 2,
        "{} bytes",
        bytes.len()
    );
    for not in ["br", "gzip;q=0", "*;q=0", "identity;q=0", "identity"] {
        let answer = packed(&app, path, not).await.expect(200);
        assert_eq!(
            (answer.header("content-encoding"), &answer.text),
            (None, &plain.text),
            "{not}"
        );
    }
    let short = packed(&app, "/livez", "gzip").await.expect(200);
    assert_eq!(short.header("content-encoding"), None);
    let known = app
        .request("GET", path)
        .header("if-none-match", format!("W/{tag}"));
    app.send(known.header("accept-encoding", "gzip"))
        .await
        .expect(304);
    app.finish().await;
}

#[tokio::test]
async fn what_is_accepted_is_never_called_unacceptable() {
    let app = TestApp::start().await;
    for (name, value) in [
        ("accept", "text/html"),
        ("accept", "application/json;q=0"),
        ("accept-encoding", "*;q=0"),
        ("accept-language", "tlh"),
    ] {
        let request = app
            .request("POST", "/v1/transactions")
            .json(&add("hits", 1))
            .header(name, value);
        let answer = app.send(request).await.expect(202);
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{name}: {value}"
        );
    }
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn nothing_in_between_keeps_or_guesses() {
    let app = TestApp::start().await;
    let id = app.settle(&add("hits", 1)).await.id();
    for (path, caching) in [
        ("/livez", "no-store"),
        ("/nothing", "no-store"),
        ("/v1/transactions", "private, no-cache"),
        (&format!("/v1/transactions/{id}"), "private, no-cache"),
        (&format!("/v1/transactions/{id}/attempts"), "no-store"),
        ("/docs/", "no-cache"),
    ] {
        let answer = app.get(path).await;
        assert_eq!(answer.header("cache-control"), Some(caching), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    app.finish().await;
}

#[tokio::test]
async fn listings_and_lanes_are_sent_again_only_if_they_changed() {
    let app = TestApp::stalled().await;
    app.post(&add("hits", 1)).await.expect(202);
    for path in [
        "/v1/transactions?status=pending",
        "/v1/ledgers",
        "/v1/ledgers/main",
    ] {
        let first = app.get(path).await.expect(200);
        let tag = first.header("etag").expect("an ETag").to_owned();
        let ask = async || {
            app.send(app.request("GET", path).header("if-none-match", &tag))
                .await
        };
        let same = ask().await.expect(304);
        assert_eq!(
            (same.text.as_str(), same.header("etag")),
            ("", Some(tag.as_str())),
            "{path}"
        );
        app.post(&add("hits", 1)).await.expect(202);
        assert_ne!(ask().await.expect(200).text, first.text, "{path}");
    }
    app.leave().await;
}

const ERP: &str = "https://erp.example.com";

async fn preflight(app: &TestApp, origin: &str) -> Answer {
    let request = app
        .request("OPTIONS", "/v1/transactions")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,idempotency-key");
    app.send(request).await
}

#[tokio::test]
async fn pages_of_configured_origins_may_use_the_api() {
    let app = TestApp::with(|settings| settings.http.cors_origins = vec![ERP.to_owned()]).await;
    let allowed = preflight(&app, ERP).await.expect(200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(ERP));
    let methods = allowed.header("access-control-allow-methods").expect("methods");
    assert!(methods.contains("POST") && methods.contains("PATCH"), "{methods}");
    let headers = allowed.header("access-control-allow-headers").expect("headers");
    for name in [
        "content-type",
        "idempotency-key",
        "authorization",
        "prefer",
        "last-event-id",
    ] {
        assert!(headers.contains(name), "{headers}");
    }
    for other in [
        "https://evil.example.com",
        "http://erp.example.com",
        "https://erp.example.com:8443",
        "null",
    ] {
        let refused = preflight(&app, other).await;
        assert_eq!(refused.header("access-control-allow-origin"), None, "{other}");
    }
    let request = app
        .request("POST", "/v1/transactions")
        .json(&add("hits", 1))
        .header("origin", ERP);
    let answer = app.send(request).await.expect(202);
    assert_eq!(answer.header("access-control-allow-origin"), Some(ERP));
    let exposed = answer.header("access-control-expose-headers").expect("headers");
    for name in [
        "location",
        "etag",
        "retry-after",
        "x-request-id",
        "idempotent-replayed",
        "ratelimit",
    ] {
        assert!(exposed.contains(name), "{exposed}");
    }
    // A refusal can be read by the page as well; and OPTIONS still says what there is.
    let refused = app
        .send(app.request("GET", "/nothing").header("origin", ERP))
        .await;
    assert_eq!(refused.header("access-control-allow-origin"), Some(ERP));
    refused.problem(404, "SG-0005");
    let options = app
        .send(app.request("OPTIONS", "/v1/query").header("origin", ERP))
        .await
        .expect(204);
    assert_eq!(options.header("allow"), Some("POST,OPTIONS"));
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn nobody_else_may_unless_everybody_may() {
    let off = TestApp::start().await;
    let answer = preflight(&off, ERP).await.expect(204);
    assert!(
        answer
            .headers
            .keys()
            .all(|name| !name.as_str().starts_with("access-control")),
        "{:?}",
        answer.headers
    );
    off.finish().await;
    let open = TestApp::with(|settings| settings.http.cors_origins = vec!["*".to_owned()]).await;
    let answer = preflight(&open, ERP).await.expect(200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    open.finish().await;
}
