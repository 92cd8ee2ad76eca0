//! Transactions that read and write the same key: all get through, each once, and it can be seen how.

use std::num::NonZeroU32;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestApp, add, ledger, simulator};

const WRITERS: usize = 12;

/// A block is cut when it holds `WRITERS` transactions; the long timeout is for those that come again.
fn one_block_for_all(settings: &mut sluicegate::config::Settings) {
    ledger(settings).backend = simulator(100, WRITERS as u32);
}

async fn post_all(app: &TestApp) -> Vec<String> {
    let body = add("hits", 1);
    join_all((0..WRITERS).map(|_| async { app.post(&body).await.expect(202).id() })).await
}

#[tokio::test]
async fn i2_conflicting_additions_each_count_once() {
    let app = TestApp::with(one_block_for_all).await;
    let ids = post_all(&app).await;
    app.drain().await;
    let mut results = Vec::new();
    let mut tries = 0;
    for id in &ids {
        let record = app.record(id).await;
        assert_eq!(record["status"], "done", "{record:#}");
        results.push(record["result"].as_u64().expect("a number"));
        tries += record["attempts"].as_u64().expect("a number");
    }
    results.sort_unstable();
    let expected: Vec<u64> = (1..=WRITERS as u64).collect();
    assert_eq!(results, expected, "each saw the sum of those before it");
    assert_eq!(app.counter("hits").await, WRITERS);
    assert!(tries > WRITERS as u64, "nothing conflicted, so nothing was shown");
    app.finish().await;
}

#[tokio::test]
async fn the_tries_of_a_conflicted_transaction_are_remembered() {
    let app = TestApp::with(one_block_for_all).await;
    let ids = post_all(&app).await;
    app.drain().await;
    let mut conflicted = 0;
    for id in &ids {
        let record = app.record(id).await;
        let view = app
            .get(&format!("/v1/transactions/{id}/attempts"))
            .await
            .expect(200)
            .json();
        let attempts = view["items"].as_array().expect("attempts");
        assert_eq!(view["attempts"], record["attempts"]);
        assert_eq!(json!(attempts.len()), record["attempts"]);
        let (last, before) = attempts.split_last().expect("one at least");
        assert_eq!(last["outcome"], "committed");
        assert_eq!(last["tx_id"], record["tx_id"]);
        for (number, attempt) in (1..).zip(before) {
            assert_eq!(attempt["number"], number);
            assert_eq!(attempt["outcome"], "conflict", "{attempt:#}");
            assert_eq!(attempt["code"], "MVCC_READ_CONFLICT");
            assert_ne!(
                attempt["tx_id"], last["tx_id"],
                "each try is a transaction of its own"
            );
        }
        conflicted += usize::from(!before.is_empty());
    }
    assert!(conflicted > 0, "nothing conflicted, so nothing was shown");
    app.finish().await;
}

#[tokio::test]
async fn a_used_up_budget_fails_with_nothing_done() {
    let app = TestApp::with(|settings| {
        let main = ledger(settings);
        // The block waits for all of them, so all but one read what is no longer so.
        main.backend = simulator(60_000, WRITERS as u32);
        main.retry.conflict.max_attempts = NonZeroU32::new(1);
    })
    .await;
    post_all(&app).await;
    app.drain().await;
    let failed = app.list("status=failed").await;
    assert_eq!(
        (failed.len(), app.list("status=done").await.len()),
        (WRITERS - 1, 1)
    );
    for record in failed {
        let error = &record["error"];
        assert_eq!(error["code"], "conflicts_exhausted", "{record:#}");
        assert_eq!(error["ledger_code"], "MVCC_READ_CONFLICT");
        assert_eq!(error["retryable"], true);
        assert_eq!((&record["attempts"], &record["block"]), (&json!(1), &Value::Null));
    }
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn i9_a_hot_key_does_not_hold_up_the_others() {
    let app = TestApp::with(|settings| ledger(settings).backend = simulator(20, 100)).await;
    let hot = add("hot", 1);
    let others: Vec<Value> = (0..20).map(|number| add(&format!("cold{number}"), 1)).collect();
    let bodies = others.iter().flat_map(|other| [&hot, other]);
    join_all(bodies.map(|body| async { app.post(body).await.expect(202) })).await;
    app.drain().await;
    for record in app.list("").await {
        assert_eq!(record["status"], "done", "{record:#}");
        if record["args"][0] != "hot" {
            assert_eq!(
                record["attempts"], 1,
                "it shares no key with any other: {record:#}"
            );
        }
    }
    assert_eq!(app.counter("hot").await, 20);
    app.finish().await;
}
