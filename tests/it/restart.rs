//! Stopping in an orderly way and starting again on the same folder.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{DEADLINE, TestApp, add, fast, ledger, simulator, spawn, stall};

#[tokio::test]
async fn i3_a_backlog_is_worked_off_after_the_restart() {
    let app = TestApp::stalled().await;
    let body = add("hits", 1);
    let ids = join_all((0..20).map(|_| async { app.post(&body).await.expect(202).id() })).await;
    let app = app.reopen(stall).await;
    assert_eq!(
        app.list("status=pending").await.len(),
        20,
        "it outlived the restart"
    );
    let app = app.reopen(fast).await;
    app.drain().await;
    for id in ids {
        assert_eq!(app.record(&id).await["status"], "done");
    }
    assert_eq!(app.counter("hits").await, 20);
    app.finish().await;
}

#[tokio::test]
async fn a_restart_changes_no_record_and_the_chain_goes_on() {
    let app = TestApp::start().await;
    let first = app.settle(&add("hits", 5)).await.json();
    let before = app.get("/v1/transactions").await.text;
    let app = app.reopen(|_| {}).await;
    assert_eq!(app.get("/v1/transactions").await.text, before);
    assert_eq!(app.counter("hits").await, 5);
    let second = app.settle(&add("hits", 2)).await.json();
    assert_eq!(second["result"], 7);
    assert_eq!(
        second["block"],
        json!(first["block"].as_u64().expect("a block") + 1)
    );
    app.finish().await;
}

#[tokio::test]
async fn a_restart_in_mid_flow_loses_and_repeats_nothing() {
    let mut app = TestApp::with(|settings| ledger(settings).backend = simulator(10, 5)).await;
    const ROUNDS: u64 = 4;
    const KEYS: u64 = 20;
    for _ in 0..ROUNDS {
        join_all((0..KEYS).map(|key| {
            let (app, body) = (&app, add(&format!("k{key}"), 1));
            async move { app.post(&body).await.expect(202) }
        }))
        .await;
        app = app.reopen(|_| {}).await;
    }
    app.drain().await;
    assert_eq!(app.list("status=done").await.len() as u64, ROUNDS * KEYS);
    for key in 0..KEYS {
        assert_eq!(app.counter(&format!("k{key}")).await, ROUNDS);
    }
    app.finish().await;
}

#[tokio::test]
async fn i2_what_was_in_flight_at_the_stop_is_asked_for_not_sent_anew() {
    let app = TestApp::with(|settings| {
        let main = ledger(settings);
        // Submitted at once, in no block for a minute, and the stop does not wait for it.
        main.backend = simulator(60_000, 100);
        main.worker.check_after = Duration::from_millis(100);
        settings.shutdown.drain = Duration::ZERO;
    })
    .await;
    let id = app.post(&add("hits", 1)).await.expect(202).id();
    let path = format!("/v1/transactions/{id}");
    let submitted = crate::support::eventually("it is submitted", async || {
        let record = app.get(&path).await.expect(200).json();
        (record["stage"] == "submitted").then_some(record)
    })
    .await;
    let app = app
        .reopen(|settings| ledger(settings).backend = simulator(20, 100))
        .await;
    app.drain().await;
    let done = app.record(&id).await;
    assert_eq!(done["tx_id"], submitted["tx_id"], "the same bytes went out again");
    assert_eq!((&done["status"], &done["attempts"]), (&json!("done"), &json!(1)));
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_end() {
    let app = TestApp::with(|settings| ledger(settings).backend = simulator(300, 100)).await;
    let request = app
        .request("POST", "/v1/transactions")
        .json(&add("hits", 1))
        .header("prefer", "wait=60");
    let waiting = spawn(async move {
        request
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("a body")
    });
    crate::support::eventually("it is under way", async || {
        let pending = app.list("stage=submitted").await;
        (!pending.is_empty()).then_some(())
    })
    .await;
    let start = Instant::now();
    let app = app.reopen(|_| {}).await;
    let text = waiting.await.expect("waits");
    assert!(text.contains(r#""status":"done""#), "{text}");
    assert!(start.elapsed() < DEADLINE);
    app.finish().await;
}

#[tokio::test]
async fn connections_that_idle_do_not_hold_up_the_end() {
    let app = TestApp::start().await;
    let mut idle = Vec::new();
    for _ in 0..5 {
        idle.push(crate::support::raw::open(app.address, b"").await);
    }
    app.get("/livez").await.expect(200);
    let start = Instant::now();
    app.leave().await;
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "the drain time is 20 s"
    );
    drop(idle);
}
