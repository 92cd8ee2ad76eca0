//! Accepting a transaction and reading its record.

use insta::assert_json_snapshot;
use serde_json::json;

use crate::support::{TestApp, add, with};

const REDACTED: [&str; 5] = ["id", "tx_id", "created_at", "updated_at", "finished_at"];

/// A record with what differs from run to run taken out, if it is there at all.
fn redacted(mut record: serde_json::Value) -> serde_json::Value {
    for field in REDACTED {
        if record[field].is_string() {
            record[field] = format!("[{field}]").into();
        }
    }
    record
}

#[tokio::test]
async fn a_transaction_is_accepted_as_pending() {
    let app = TestApp::stalled().await;
    let body = with(add("hits", 5), "metadata", json!({"order": "4711"}));
    let answer = app.post(&body).await.expect(202);
    let location = format!("/v1/transactions/{}", answer.id());
    assert_eq!(answer.header("location"), Some(location.as_str()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("etag"), Some("\"1\""));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("idempotent-replayed"), None);
    assert_eq!(answer.header("preference-applied"), None);
    assert_json_snapshot!("accepted", redacted(answer.json()));

    let read = app.get(&location).await.expect(200);
    assert_eq!(read.text, answer.text, "what was answered is what is stored");
    assert_eq!(read.header("etag"), Some("\"1\""));
    assert_eq!(read.header("retry-after"), Some("1"));
    app.leave().await;
}

#[tokio::test]
async fn a_transaction_is_done_with_its_block_and_result() {
    let app = TestApp::start().await;
    let id = app.post(&add("hits", 5)).await.expect(202).id();
    app.drain().await;
    let answer = app.get(&format!("/v1/transactions/{id}")).await.expect(200);
    assert_eq!(answer.header("retry-after"), None, "nothing will change any more");
    let record = answer.json();
    assert_json_snapshot!("done", redacted(record.clone()));
    let moment = |field: &str| record[field].as_str().expect("a moment").to_owned();
    assert!(moment("created_at") <= moment("finished_at"));
    assert_eq!(moment("updated_at"), moment("finished_at"));
    app.finish().await;
}

#[tokio::test]
async fn a_business_refusal_is_told_in_the_contracts_words() {
    let app = TestApp::start().await;
    let body = json!({"ledger": "main", "contract": "basic", "function": "TransferAsset", "args": ["car1", "Tomoko"]});
    let record = app.settle(&body).await.json();
    assert_json_snapshot!("rejected", redacted(record));
    app.finish().await;
}

#[tokio::test]
async fn digits_are_kept_as_they_were_written() {
    let app = TestApp::start().await;
    let args = r#"["big",123456789012345678901234567890,0.10,1e2,-0,{"price":0.10,"b":[1.00]}]"#;
    let body = format!(r#"{{"ledger":"main","contract":"counter","function":"Add","args": {args} }}"#);
    let request = app
        .request("POST", "/v1/transactions")
        .header("content-type", "application/json");
    let answer = app.send(request.body(body)).await.expect(202);
    assert!(
        answer.text.contains(&format!(r#""args":{args}"#)),
        "{}",
        answer.text
    );
    app.drain().await;
    let read = app.get(&format!("/v1/transactions/{}", answer.id())).await;
    assert!(read.text.contains(&format!(r#""args":{args}"#)), "{}", read.text);

    // The ledger gets the same digits, and its own come back unchanged.
    let tenth = r#"{"ledger":"main","contract":"counter","function":"Add","args":["big",0.10]}"#;
    let request = app
        .request("POST", "/v1/transactions")
        .header("content-type", "application/json");
    let refused = app
        .send(request.header("prefer", "wait=30").body(tenth))
        .await
        .expect(200)
        .json();
    let message = refused["error"]["message"].as_str().expect("a message");
    assert!(message.ends_with("got \"0.10\""), "{message}");
    let large = with(
        add("big", 0),
        "args",
        json!(["big", "123456789012345678901234567890"]),
    );
    let done = app.settle(&large).await;
    assert!(
        done.text.contains(r#""result":123456789012345678901234567890,"#),
        "{}",
        done.text
    );
    app.finish().await;
}

#[tokio::test]
async fn transient_inputs_are_never_shown() {
    let app = TestApp::start().await;
    let body = with(add("hits", 1), "transient", json!({"price": "c2VjcmV0"}));
    let accepted = app.post(&body).await.expect(202);
    let id = accepted.id();
    let answers = [
        accepted,
        app.get(&format!("/v1/transactions/{id}?wait=30"))
            .await
            .expect(200),
        app.get(&format!("/v1/transactions/{id}/attempts"))
            .await
            .expect(200),
        app.get("/v1/transactions").await.expect(200),
    ];
    for answer in answers {
        for secret in ["c2VjcmV0", "transient", "price"] {
            assert!(!answer.text.contains(secret), "{}", answer.text);
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn what_does_not_exist_is_not_found() {
    let app = TestApp::start().await;
    let unknown = "01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f";
    for id in [
        unknown,
        "4711",
        "%20",
        "01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5g",
        "%FF",
    ] {
        for path in [
            format!("/v1/transactions/{id}"),
            format!("/v1/transactions/{id}/attempts"),
        ] {
            app.get(&path).await.problem(404, "SG-0004");
        }
    }
    let problem = app.get(&format!("/v1/transactions/{unknown}")).await.json();
    assert_json_snapshot!("unknown_transaction", problem);
    app.finish().await;
}

#[tokio::test]
async fn i10_a_deadline_that_passes_in_the_queue_fails_it_unsent() {
    let app = TestApp::stalled().await;
    let body = with(add("hits", 1), "expires_in_seconds", 1);
    let id = app.post(&body).await.expect(202).id();
    let record = app
        .get(&format!("/v1/transactions/{id}?wait=30"))
        .await
        .expect(200)
        .json();
    assert_eq!(record["status"], "failed");
    assert_eq!(record["error"]["code"], "expired");
    assert_eq!((&record["attempts"], &record["tx_id"]), (&json!(0), &json!(null)));
    assert!(
        record["finished_at"].as_str() >= record["expires_at"].as_str(),
        "{record:#}"
    );
    assert_eq!(app.counter("hits").await, 0);
    let metrics = app.get("/metrics").await.text;
    assert!(
        metrics.contains("sluicegate_submissions_total{ledger=\"main\"} 0"),
        "{metrics}"
    );
    app.finish().await;
}
