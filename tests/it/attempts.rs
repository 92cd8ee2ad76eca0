//! `GET /v1/transactions/{id}/attempts`: what was tried, and how each try ended.

use insta::assert_json_snapshot;
use serde_json::json;

use crate::support::{TestApp, add};

#[tokio::test]
async fn before_the_first_try_there_is_none() {
    let app = TestApp::stalled().await;
    let id = app.post(&add("hits", 1)).await.expect(202).id();
    let view = app
        .get(&format!("/v1/transactions/{id}/attempts"))
        .await
        .expect(200)
        .json();
    assert_eq!(view, json!({"attempts": 0, "items": []}));
    app.leave().await;
}

#[tokio::test]
async fn a_committed_attempt_is_shown_with_its_times() {
    let app = TestApp::start().await;
    let record = app.settle(&add("hits", 1)).await.json();
    let id = record["id"].as_str().expect("an id");
    let view = app
        .get(&format!("/v1/transactions/{id}/attempts"))
        .await
        .expect(200)
        .json();
    assert_json_snapshot!("committed_attempt", view, {
        ".items[].started_at" => "[moment]",
        ".items[].sent_at" => "[moment]",
        ".items[].settled_at" => "[moment]",
        ".items[].tx_id" => "[tx_id]",
    });
    let attempt = &view["items"][0];
    assert_eq!(attempt["tx_id"], record["tx_id"]);
    assert_eq!(attempt["settled_at"], record["finished_at"]);
    let moments =
        ["started_at", "sent_at", "settled_at"].map(|field| attempt[field].as_str().expect("a moment"));
    assert!(moments.is_sorted(), "{moments:?}");
    app.finish().await;
}

#[tokio::test]
async fn a_refused_attempt_was_never_sent() {
    let app = TestApp::start().await;
    let body = json!({"ledger": "main", "contract": "basic", "function": "ReadAsset", "args": ["car1"]});
    let id = app.settle(&body).await.id();
    let view = app
        .get(&format!("/v1/transactions/{id}/attempts"))
        .await
        .expect(200)
        .json();
    assert_json_snapshot!("refused_attempt", view, {
        ".items[].started_at" => "[moment]",
        ".items[].settled_at" => "[moment]",
    });
    app.finish().await;
}
