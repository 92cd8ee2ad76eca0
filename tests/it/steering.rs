//! Steering a lane while it runs.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use sluicegate::gateway::{Caller, Steer};

use crate::support::scripted::{Act, Scripted};
use crate::support::{Answer, TestApp, add, eventually};
use crate::worker::{Lab, settings};

impl TestApp {
    async fn steer(&self, body: &Value) -> Answer {
        self.send(self.request("PATCH", "/v1/ledgers/main").json(body))
            .await
    }

    async fn lane(&self) -> Value {
        self.get("/v1/ledgers/main").await.expect(200).json()
    }
}

#[tokio::test]
async fn a_paused_lane_accepts_and_submits_nothing_even_after_a_restart() {
    let app = TestApp::start().await;
    let lane = app.steer(&json!({"paused": true})).await.expect(200).json();
    assert_eq!(
        (&lane["state"], &lane["paused"]),
        (&json!("paused"), &json!(true))
    );
    let id = app.post(&add("hits", 1)).await.expect(202).id();
    let app = app.reopen(|_| {}).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.record(&id).await["attempts"], 0);
    assert_eq!(app.lane().await["state"], "paused");
    let lane = app.steer(&json!({"paused": false})).await.expect(200).json();
    assert_eq!(lane["state"], "running");
    app.drain().await;
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn i3_a_paused_lane_asks_for_what_is_overdue_and_sends_nothing() {
    let ledger = Scripted::new(&[Act::CommitSilently, Act::LoseAll], true);
    let mut patient = settings();
    patient.ledgers.get_mut("main").expect("main").worker.check_after = Duration::from_secs(2);
    let lab = Lab::start(&ledger, patient).await;
    let sent = [lab.accept("Pay").await, lab.accept("Pay").await];
    eventually("both are sent", async || {
        (ledger.sends().len() == 2).then_some(())
    })
    .await;
    let steer = async |paused| {
        let steer = Steer {
            paused: Some(paused),
            ..Steer::default()
        };
        let steered = lab.gateway.steer(&Caller::anonymous(), "main", steer).await;
        assert_eq!(steered.expect("steers").overrides.paused, paused);
    };
    steer(true).await;
    let waits = lab.accept("Pay").await;
    eventually("both are asked for", async || {
        (ledger.lookups.load(Ordering::SeqCst) >= 2).then_some(())
    })
    .await;
    eventually("what took effect is settled", async || {
        let settled = async |id| {
            let tx = lab.gateway.get(&Caller::anonymous(), id).await.expect("reads");
            tx.is_some_and(|tx| tx.is_settled())
        };
        let settled = (settled(sent[0]).await, settled(sent[1]).await);
        (settled.0 != settled.1).then_some(())
    })
    .await;
    assert_eq!(ledger.sends().len(), 2, "nothing is sent, and nothing again");
    steer(false).await;
    for id in sent.into_iter().chain([waits]) {
        lab.settled(id).await;
    }
    assert_eq!(ledger.effects(), 3);
    lab.stop().await;
}

#[tokio::test]
async fn a_rate_that_is_set_holds_at_once_for_those_who_wait_too() {
    // One in a quarter of an hour.
    let app = TestApp::stalled().await;
    for _ in 0..20 {
        app.post(&add("hits", 1)).await.expect(202);
    }
    let lane = app
        .steer(&json!({"rate_per_second": 1000, "burst": 50}))
        .await
        .expect(200)
        .json();
    assert_eq!(lane["overrides"], json!({"rate_per_second": 1000.0, "burst": 50}));
    app.drain().await;
    let back = app
        .steer(&json!({"rate_per_second": null, "burst": null}))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&back["overrides"], &back["rate_per_second"]),
        (&json!({}), &json!(0.001))
    );
    app.finish().await;
}

#[tokio::test]
async fn i6_a_lower_rate_is_kept() {
    let app = TestApp::start().await;
    app.steer(&json!({"rate_per_second": 20, "burst": 1}))
        .await
        .expect(200);
    let begun = Instant::now();
    for n in 0..20 {
        app.post(&add(&format!("key {n}"), 1)).await.expect(202);
    }
    app.drain().await;
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    app.finish().await;
}

#[tokio::test]
async fn i10_what_does_not_fit_changes_nothing() {
    let app = TestApp::start().await;
    let before = app.lane().await;
    for (body, pointer) in [
        (json!({"rate_per_second": 0}), "/rate_per_second"),
        (json!({"rate_per_second": "fast"}), "/rate_per_second"),
        (json!({"burst": 0}), "/burst"),
        (json!({"rate_per_second": 1_000_000, "burst": 1}), "/burst"),
        (json!({"batch_size": 10_001}), "/batch_size"),
        (json!({"batch_timeout_ms": 60_001}), "/batch_timeout_ms"),
        (json!({"batch_timeout_ms": -1}), "/batch_timeout_ms"),
        (json!({"paused": "yes"}), "/paused"),
        (json!({"speed": 1}), "/speed"),
    ] {
        let refused = app.steer(&body).await.problem(422, "SG-0002");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{body}");
    }
    let missing = app
        .send(app.request("PATCH", "/v1/ledgers/none").json(&json!({})))
        .await;
    missing.problem(404, "SG-0016");
    let after = app.lane().await;
    assert_eq!(
        (&before["overrides"], &before["burst"]),
        (&after["overrides"], &after["burst"])
    );
    app.finish().await;
}

#[tokio::test]
async fn a_lane_tells_what_the_last_minutes_were_like() {
    let app = TestApp::start().await;
    for _ in 0..10 {
        app.post(&add("hot", 1)).await.expect(202);
    }
    app.drain().await;
    let lane = eventually("a point is taken", async || {
        let lane = app.lane().await;
        let points = lane["history"]["points"].as_array().expect("points").clone();
        let done: u64 = points.iter().filter_map(|point| point["done"].as_u64()).sum();
        (done == 10).then_some(lane)
    })
    .await;
    assert_eq!(
        (&lane["accepted"], &lane["done"], &lane["failed"]),
        (&json!(10), &json!(10), &json!(0))
    );
    let (conflicts, submissions) = (lane["conflicts"].as_u64(), lane["submissions"].as_u64());
    assert_eq!(submissions, conflicts.map(|conflicts| conflicts + 10));
    assert!(lane["conflict_share"].as_f64().expect("a share") < 1.0);
    app.finish().await;
}
