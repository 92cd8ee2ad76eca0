//! I5: the same key with the same payload is the same transaction, however often and at whatever moment.

use futures_util::future::join_all;
use insta::assert_json_snapshot;
use serde_json::json;

use crate::support::{TestApp, add, fast, raw, stall, with};

#[tokio::test]
async fn i5_a_repeat_answers_with_the_same_record() {
    let app = TestApp::start().await;
    let first = app.post_keyed("order-1", &add("hits", 1)).await.expect(202);
    assert_eq!(first.header("idempotent-replayed"), None);
    app.drain().await;
    let again = app.post_keyed("order-1", &add("hits", 1)).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.id(), first.id());
    assert_eq!(
        again.json(),
        app.record(&first.id()).await,
        "as it stands, not as it was"
    );
    assert_eq!(app.list("").await.len(), 1);
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn i5_another_spelling_is_the_same_payload() {
    let app = TestApp::start().await;
    let spellings = [
        r#"{"ledger":"main","contract":"counter","function":"Add","args":["hits",1],"metadata":{"a":"1","b":"2"}}"#,
        r#"{"metadata":{"b":"2","a":"1"},"args":["hits",1],"function":"Add","contract":"counter","ledger":"main"}"#,
        "{ \"ledger\" : \"main\",\n\t\"contract\":\"\\u0063ounter\", \"function\":\"Add\", \"args\": [ \"hits\" , 1 ],
           \"transient\":{}, \"conflict_keys\":[], \"expires_in_seconds\":null, \"metadata\":{\"a\":\"1\",\"b\":\"2\"}}",
    ];
    let mut ids = Vec::new();
    for body in spellings {
        let request = app
            .request("POST", "/v1/transactions")
            .header("idempotency-key", "order-1");
        let answer = app
            .send(request.header("content-type", "application/json").body(body))
            .await;
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text);
        ids.push(answer.id());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    app.drain().await;
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn i5_another_payload_is_refused_and_the_record_named() {
    let app = TestApp::start().await;
    let id = app.post_keyed("order-1", &add("hits", 1)).await.expect(202).id();
    let others = [
        add("hits", 2),
        with(add("hits", 1), "args", json!(["hits", "1"])),
        with(add("hits", 1), "metadata", json!({"order": "1"})),
        with(add("hits", 1), "transient", json!({"price": "MTAw"})),
        with(add("hits", 1), "expires_in_seconds", 60),
    ];
    for other in others {
        let refused = app.post_keyed("order-1", &other).await;
        let detail = refused.fault(422, "SG-0003", "#header/Idempotency-Key");
        assert!(detail.contains(&id), "{detail}");
    }
    let problem = app
        .post_keyed("order-1", &add("hits", 2))
        .await
        .text
        .replace(&id, "[id]");
    let problem: serde_json::Value = serde_json::from_str(&problem).expect("JSON");
    assert_json_snapshot!("key_reused", problem);
    app.drain().await;
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn i5_a_hundred_at_once_are_one_transaction() {
    let app = TestApp::start().await;
    let body = add("hits", 1);
    let answers = join_all((0..100).map(|_| app.post_keyed("order-1", &body))).await;
    let first = answers
        .iter()
        .filter(|answer| answer.header("idempotent-replayed").is_none());
    assert_eq!(first.count(), 1, "exactly one of them made the record");
    let id = answers[0].id();
    for answer in &answers {
        assert!(matches!(answer.status, 200 | 202), "{}", answer.text);
        assert_eq!(answer.id(), id);
    }
    app.drain().await;
    assert_eq!(app.list("").await.len(), 1);
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn i5_a_hundred_different_ones_at_once_with_one_key_leave_one() {
    let app = TestApp::start().await;
    let answers = join_all((0..100).map(|number| {
        let (app, body) = (&app, add("hits", 1_000 + number));
        async move { app.post_keyed("order-1", &body).await }
    }))
    .await;
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 202);
    assert_eq!(accepted.len(), 1);
    for answer in refused {
        answer.problem(422, "SG-0003");
    }
    app.drain().await;
    assert_eq!(app.counter("hits").await, accepted[0].json()["args"][1]);
    app.finish().await;
}

#[tokio::test]
async fn i5_a_key_survives_a_restart_with_its_pending_record() {
    let app = TestApp::stalled().await;
    let first = app.post_keyed("order-1", &add("hits", 1)).await.expect(202);
    let app = app.reopen(stall).await;
    let again = app.post_keyed("order-1", &add("hits", 1)).await.expect(202);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.text, first.text);
    app.post_keyed("order-1", &add("hits", 2))
        .await
        .problem(422, "SG-0003");
    let app = app.reopen(fast).await;
    app.drain().await;
    let done = app.post_keyed("order-1", &add("hits", 1)).await.expect(200);
    assert_eq!((done.id(), &done.json()["status"]), (first.id(), &json!("done")));
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn a_key_has_a_form() {
    let app = TestApp::start().await;
    for key in ["", "order 1", "order\t1", &"k".repeat(256)] {
        let refused = app.post_keyed(key, &add("hits", 1)).await;
        refused.fault(422, "SG-0002", "#header/Idempotency-Key");
    }
    let body = add("hits", 1).to_string();
    let length = format!("content-length: {}", body.len());
    let twice = [
        "content-type: application/json",
        "idempotency-key: a",
        "idempotency-key: a",
        &length,
    ];
    let answer = raw::exchange(app.address, (raw::head(&twice) + &body).as_bytes()).await;
    answer
        .expect("an answer")
        .fault(400, "SG-0009", "#header/Idempotency-Key");
    let beyond = [
        "content-type: application/json",
        "idempotency-key: Auftrag-Größe",
        &length,
    ];
    let answer = raw::exchange(app.address, (raw::head(&beyond) + &body).as_bytes()).await;
    answer
        .expect("an answer")
        .fault(400, "SG-0009", "#header/Idempotency-Key");
    assert!(app.list("").await.is_empty());
    app.post_keyed(&"k".repeat(255), &add("hits", 1))
        .await
        .expect(202);
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn without_a_key_every_request_is_its_own() {
    let app = TestApp::start().await;
    let (one, two) = (
        app.settle(&add("hits", 1)).await,
        app.settle(&add("hits", 1)).await,
    );
    assert_ne!(one.id(), two.id());
    assert_eq!(app.counter("hits").await, 2);
    app.finish().await;
}
