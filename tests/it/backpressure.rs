//! What producers meet when they are faster than the ledgers.

use std::num::NonZeroU64;

use insta::assert_json_snapshot;
use sluicegate::config::{BackpressureMode, Settings};

use crate::support::{TestApp, add, fast, stall};

const ROOM: u64 = 3;

fn stalled_with(mode: BackpressureMode) -> impl FnOnce(&mut Settings) {
    move |settings| {
        stall(settings);
        settings.backpressure.mode = mode;
        settings.backpressure.max_pending = NonZeroU64::new(ROOM).expect("not zero");
    }
}

async fn fill(app: &TestApp) {
    for number in 0..ROOM {
        app.post_keyed(&format!("order-{number}"), &add("hits", 1))
            .await
            .expect(202);
    }
}

#[tokio::test]
async fn drop_refuses_what_is_too_much_and_knows_what_it_has() {
    let app = TestApp::with(stalled_with(BackpressureMode::Drop)).await;
    fill(&app).await;
    for key in [None, Some("order-new")] {
        let request = app.request("POST", "/v1/transactions").json(&add("hits", 1));
        let refused = match key {
            Some(key) => app.send(request.header("idempotency-key", key)).await,
            None => app.send(request).await,
        };
        refused.problem(503, "SG-0011");
        let seconds: u64 = refused
            .header("retry-after")
            .expect("Retry-After")
            .parse()
            .expect("seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
        assert_json_snapshot!("backlog_full", refused.json());
    }
    assert_eq!(app.list("").await.len() as u64, ROOM, "nothing of it was stored");
    let known = app.post_keyed("order-1", &add("hits", 1)).await.expect(202);
    assert_eq!(known.header("idempotent-replayed"), Some("true"));
    app.post_keyed("order-1", &add("hits", 2))
        .await
        .problem(422, "SG-0003");
    app.get("/readyz").await.expect(200);

    let app = app.reopen(fast).await;
    app.drain().await;
    app.post_keyed("order-new", &add("hits", 1)).await.expect(202);
    app.drain().await;
    assert_eq!(app.counter("hits").await, ROOM + 1);
    app.finish().await;
}

#[tokio::test]
async fn a_restart_counts_the_backlog_it_finds() {
    let app = TestApp::with(stalled_with(BackpressureMode::Drop)).await;
    fill(&app).await;
    let app = app.reopen(|_| {}).await;
    app.post(&add("hits", 1)).await.problem(503, "SG-0011");
    app.leave().await;
}

#[tokio::test]
async fn control_accepts_and_tells_rate_and_room() {
    let app = TestApp::with(stalled_with(BackpressureMode::Control)).await;
    for expected in [
        "\"main\";r=2;t=1000",
        "\"main\";r=1;t=2000",
        "\"main\";r=0;t=3000",
        "\"main\";r=0;t=4000",
    ] {
        let accepted = app.post(&add("hits", 1)).await.expect(202);
        assert_eq!(accepted.header("ratelimit"), Some(expected));
        assert_eq!(accepted.header("ratelimit-policy"), Some("\"main\";q=1;w=1"));
    }
    let app = app.reopen(fast).await;
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn buffer_accepts_and_says_nothing() {
    let app = TestApp::with(stalled_with(BackpressureMode::Buffer)).await;
    fill(&app).await;
    let accepted = app.post(&add("hits", 1)).await.expect(202);
    assert_eq!(accepted.header("ratelimit"), None);
    let app = app.reopen(fast).await;
    app.drain().await;
    assert_eq!(app.counter("hits").await, ROOM + 1);
    app.finish().await;
}
