//! Many transactions in one request.

use serde_json::{Value, json};

use crate::support::{Answer, TestApp, add, with};

impl TestApp {
    async fn batch(&self, query: &str, items: &Value) -> Answer {
        let path = format!("/v1/transactions/batch{query}");
        self.send(self.request("POST", &path).json(items)).await
    }
}

fn keyed(key: &str, item: Value) -> Value {
    with(item, "idempotency_key", json!(key))
}

#[tokio::test]
async fn a_bad_item_does_not_sink_the_others() {
    let app = TestApp::start().await;
    let items =
        json!([add("a", 1), {"ledger": "main"}, add("b", 2), 7, with(add("c", 3), "colour", json!("red"))]);
    let answer = app.batch("", &items).await.expect(200).json();
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(2), &json!(3)));
    let statuses: Vec<_> = answer["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| &item["status"])
        .collect();
    assert_eq!(statuses, [202, 422, 202, 422, 422]);
    assert_eq!(answer["items"][0]["transaction"]["args"], json!(["a", 1]));
    assert_eq!(answer["items"][1]["problem"]["code"], "SG-0002");
    assert_eq!(answer["items"][1]["problem"]["errors"][0]["pointer"], "/contract");
    assert_eq!(answer["items"][4]["problem"]["errors"][0]["pointer"], "/colour");
    app.drain().await;
    assert_eq!([app.counter("a").await, app.counter("b").await], [1, 2]);
    app.finish().await;
}

#[tokio::test]
async fn atomic_is_all_or_nothing() {
    let app = TestApp::start().await;
    let items = json!([add("a", 1), {"ledger": "main", "function": "Add"}, with(add("b", 1), "expires_in_seconds", json!(0))]);
    let refused = app.batch("?atomic=true", &items).await.expect(422).json();
    let pointers: Vec<_> = refused["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| &error["pointer"])
        .collect();
    assert_eq!(pointers, ["/1/contract", "/2/expires_in_seconds"]);
    assert!(app.list("").await.is_empty(), "nothing is stored");

    let good = json!([keyed("1", add("a", 1)), keyed("2", add("a", 1))]);
    let answer = app.batch("?atomic=true", &good).await.expect(200).json();
    assert_eq!(answer["accepted"], 2);
    // One more, and one that was there before with another request.
    let mixed = json!([keyed("3", add("a", 1)), keyed("2", add("a", 9))]);
    let refused = app.batch("?atomic=true", &mixed).await.expect(422).json();
    assert_eq!(refused["errors"][0]["pointer"], "/1/idempotency_key");
    let repeated = json!([keyed("3", add("a", 1)), keyed("2", add("a", 1))]);
    let answer = app.batch("?atomic=true", &repeated).await.expect(200).json();
    assert_eq!((&answer["accepted"], &answer["repeated"]), (&json!(1), &json!(1)));
    app.drain().await;
    assert_eq!(app.counter("a").await, 3);
    app.finish().await;
}

#[tokio::test]
async fn i5_a_repeated_batch_makes_nothing_new() {
    let app = TestApp::start().await;
    let items: Value = (0..1_000).map(|n| add(&format!("key {n}"), 1)).collect();
    let post = || {
        app.send(
            app.request("POST", "/v1/transactions/batch")
                .header("idempotency-key", "batch-1")
                .json(&items),
        )
    };
    let (one, two) = tokio::join!(post(), post());
    let (one, two) = (one.expect(200).json(), two.expect(200).json());
    let new = |answer: &Value| answer["accepted"].as_u64().expect("a number");
    assert_eq!(new(&one) + new(&two), 1_000);
    let ids = |answer: &Value| -> Vec<_> {
        let items = answer["items"].as_array().expect("items").clone();
        items
            .into_iter()
            .map(|item| item["transaction"]["id"].clone())
            .collect()
    };
    assert_eq!(ids(&one), ids(&two), "in order");
    app.drain().await;
    assert_eq!(app.counter("key 999").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn lines_are_items_too() {
    let app = TestApp::start().await;
    let lines = format!("{}\n\n{}\nnonsense\n", add("a", 1), add("a", 2));
    let request = app
        .request("POST", "/v1/transactions/batch")
        .header("content-type", "application/x-ndjson");
    let answer = app.send(request.body(lines)).await.expect(200).json();
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(2), &json!(1)));
    assert_eq!(answer["items"][2]["problem"]["code"], "SG-0001");
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn i10_a_batch_that_is_none_is_refused_as_a_whole() {
    let app = TestApp::start().await;
    let many: Value = (0..1_001).map(|_| add("hits", 1)).collect();
    for (items, pointer, word) in [
        (many, "", "at most 1000"),
        (json!([]), "", "no transaction"),
        (add("hits", 1), "", "array"),
        (json!("text"), "", "array"),
    ] {
        let refused = app.batch("", &items).await.expect(422).json();
        assert_eq!(refused["errors"][0]["pointer"], pointer);
        let detail = refused["detail"].as_str().expect("a detail");
        assert!(detail.contains(word), "{detail}");
    }
    let refused = app
        .batch("?atomic=perhaps", &json!([add("hits", 1)]))
        .await
        .expect(400)
        .json();
    assert_eq!(refused["errors"][0]["pointer"], "#query/atomic");
    let request = app
        .request("POST", "/v1/transactions/batch")
        .header("content-type", "text/csv");
    app.send(request.body("a,b")).await.expect(415);
    let request = app
        .request("POST", "/v1/transactions/batch")
        .header("content-type", "application/json");
    app.send(request.body("[{")).await.expect(400);
    let twice = json!([keyed("k", add("hits", 1)), keyed("k", add("hits", 1))]);
    let refused = app.batch("?atomic=true", &twice).await.expect(422).json();
    assert_eq!(refused["errors"][0]["pointer"], "/1/idempotency_key");
    let single = with(add("hits", 1), "idempotency_key", json!("k"));
    let refused = app.post(&single).await.expect(422).json();
    assert_eq!(refused["errors"][0]["pointer"], "/idempotency_key");
    app.finish_untouched().await;
}
