//! Steering a lane while it runs.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use sluicegate::domain::{FailureCode, State};
use sluicegate::gateway::{Caller, Steer, SteerRetry};

use crate::support::scripted::{Act, Scripted};
use crate::support::{Answer, TestApp, add, eventually, fast, ledger, simulator};
use crate::worker::{Lab, settings};

impl TestApp {
    async fn steer(&self, body: &Value) -> Answer {
        self.send(self.request("PATCH", "/v1/ledgers/main").json(body))
            .await
    }

    async fn lane(&self) -> Value {
        self.get("/v1/ledgers/main").await.expect(200).json()
    }

    /// Takes back what was set for the lane.
    async fn clear(&self) -> Value {
        let request = self.request("DELETE", "/v1/ledgers/main/overrides");
        self.send(request).await.expect(200).json()
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
        (json!({"max_in_flight": 0}), "/max_in_flight"),
        (json!({"retry": {"strategy": "never"}}), "/retry/strategy"),
        (json!({"retry": {"min_ms": 0}}), "/retry/min_ms"),
        (json!({"retry": {"min_ms": 600_000}}), "/retry/min_ms"),
        (json!({"retry": {"max_ms": 1}}), "/retry/max_ms"),
        (
            json!({"retry": {"max_attempts": 1_000_001}}),
            "/retry/max_attempts",
        ),
        (json!({"retry": {"patience": 1}}), "/retry/patience"),
        (json!({"check_after_ms": 99}), "/check_after_ms"),
        (json!({"check_after_ms": 3_600_001}), "/check_after_ms"),
        (json!({"retry": {"outage_min_ms": 0}}), "/retry/outage_min_ms"),
        (
            json!({"retry": {"outage_min_ms": 80_000_000}}),
            "/retry/outage_min_ms",
        ),
        (
            json!({"retry": {"outage_min_ms": 9, "outage_max_ms": 8}}),
            "/retry/outage_max_ms",
        ),
        (
            json!({"retry": {"outage_max_attempts": 1_000_001}}),
            "/retry/outage_max_attempts",
        ),
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

#[tokio::test]
async fn i7_flights_and_retries_are_bounded_as_they_are_set() {
    // Blocks are cut after half a second: until then what was sent is in flight.
    let app = TestApp::with(|settings| ledger(settings).backend = simulator(500, 10_000)).await;
    let lane = app
        .steer(&json!({"max_in_flight": 3, "retry": {"max_attempts": 1}}))
        .await
        .expect(200)
        .json();
    assert_eq!(
        lane["overrides"],
        json!({"max_in_flight": 3, "retry": {"max_attempts": 1}})
    );
    // All for one key: of each block one takes effect, and the others conflict, once.
    for _ in 0..9 {
        app.post(&add("hot", 1)).await.expect(202);
    }
    let mut most = 0;
    eventually("the backlog is empty", async || {
        let lane = app.lane().await;
        most = most.max(lane["in_flight"].as_u64().expect("a number"));
        (lane["backlog"] == 0).then_some(())
    })
    .await;
    assert_eq!(most, 3);
    let failed = app.list("status=failed").await;
    assert!(failed.len() >= 4, "{} failed", failed.len());
    for tx in &failed {
        assert_eq!(tx["attempts"], 1, "{tx:#}");
    }
    // More may fly at once, while some do.
    app.steer(&json!({"max_in_flight": null, "retry": null}))
        .await
        .expect(200);
    for n in 0..9 {
        app.post(&add(&format!("key {n}"), 1)).await.expect(202);
    }
    eventually("more than three are in flight", async || {
        (app.lane().await["in_flight"].as_u64() > Some(3)).then_some(())
    })
    .await;
    app.drain().await;
    assert_eq!(app.list("status=failed").await.len(), failed.len());
    app.finish().await;
}

#[tokio::test]
async fn a_lane_says_who_set_what_and_all_but_the_pause_is_cleared() {
    let app = TestApp::start().await;
    let configured = app.lane().await["settings"].clone();
    assert_eq!(configured["retry.min_ms"]["source"], "configuration");
    let set = json!({
        "paused": true, "burst": 40, "check_after_ms": 700,
        "retry": {"strategy": "constant", "min_ms": 7, "outage_max_ms": 900, "outage_max_attempts": 8},
    });
    app.steer(&set).await.expect(200);
    let app = app.reopen(|_| {}).await;
    let lane = app.lane().await;
    for (name, value) in [
        ("paused", json!(true)),
        ("burst", json!(40)),
        ("retry.strategy", json!("constant")),
        ("retry.min_ms", json!(7)),
        ("check_after_ms", json!(700)),
        ("retry.outage_max_ms", json!(900)),
        ("retry.outage_max_attempts", json!(8)),
    ] {
        assert_ne!(configured[name]["value"], value, "{name}: it would prove nothing");
        let setting = &lane["settings"][name];
        assert_eq!(setting["value"], value, "{name}");
        assert_eq!(setting["configured"], configured[name]["value"], "{name}");
        assert_eq!(
            (
                &setting["source"],
                &setting["survives_restart"],
                &setting["set_by"]
            ),
            (&json!("override"), &json!(true), &json!("anonymous")),
            "{name}"
        );
        assert!(setting["set_at"].is_string(), "{name}");
    }
    assert_eq!(lane["settings"]["retry.max_ms"], configured["retry.max_ms"]);
    let cleared = app.clear().await;
    assert_eq!(
        (&cleared["overrides"], &cleared["state"]),
        (&json!({}), &json!("paused"))
    );
    let mut unpaused = cleared["settings"].clone();
    unpaused["paused"] = configured["paused"].clone();
    assert_eq!(unpaused, configured, "all else is as configured");
    let audit = app.get("/v1/audit").await.expect(200).json();
    assert_eq!(audit["items"][0]["action"], "DELETE /v1/ledgers/{name}/overrides");
    app.send(app.request("DELETE", "/v1/ledgers/none/overrides"))
        .await
        .problem(404, "SG-0016");
    app.finish().await;
}

#[tokio::test]
async fn how_outages_are_borne_and_when_the_ledger_is_asked_is_set_while_it_runs() {
    // Built in: no number of outages fails a transaction, and nobody asks before an hour is over.
    let ledger = Scripted::new(&[Act::CommitSilently; 2], true);
    let mut patient = settings();
    patient.ledgers.get_mut("main").expect("main").worker.check_after = Duration::from_secs(3_600);
    let lab = Lab::start(&ledger, patient).await;
    let steer = async |steer: Steer| {
        let steered = lab.gateway.steer(&Caller::anonymous(), "main", steer).await;
        steered.expect("steers")
    };
    let kept = lab.accept("Pay").await;
    eventually("it is sent", async || (ledger.sends().len() == 1).then_some(())).await;
    let lane = steer(Steer {
        check_after_ms: Some(Some(100)),
        ..Steer::default()
    })
    .await;
    assert_eq!(lane.settings.check_after, Duration::from_millis(100));
    let asked = lab.accept("Pay").await;
    let tx = lab.settled(asked).await;
    assert!(matches!(tx.state, State::Done { .. }), "{:?}", tx.state);
    let earlier = lab.gateway.get(&Caller::anonymous(), kept).await.expect("reads");
    assert!(
        !earlier.expect("is there").is_settled(),
        "it waits as it was told"
    );

    ledger.down.store(true, Ordering::SeqCst);
    let patient = lab.accept("Pay").await;
    eventually("it could not be prepared", async || {
        let tx = lab
            .gateway
            .get(&Caller::anonymous(), patient)
            .await
            .expect("reads");
        tx.is_some_and(|tx| tx.outages == 1).then_some(())
    })
    .await;
    ledger.down.store(false, Ordering::SeqCst);
    let tx = lab.settled(patient).await;
    assert!(matches!(tx.state, State::Done { .. }), "{:?}", tx.state);
    let retry = SteerRetry {
        outage_max_attempts: Some(Some(1)),
        ..SteerRetry::default()
    };
    steer(Steer {
        retry,
        ..Steer::default()
    })
    .await;
    ledger.down.store(true, Ordering::SeqCst);
    let waits = lab.accept("Pay").await;
    let tx = lab.settled(waits).await;
    let State::Failed { failure } = &tx.state else {
        panic!("{:?}", tx.state)
    };
    assert_eq!(failure.code, FailureCode::LedgerUnavailable);
    lab.stop().await;
}

#[tokio::test]
async fn a_lane_whose_overrides_do_not_fit_a_new_configuration_waits_for_a_person() {
    let app = TestApp::start().await;
    app.steer(&json!({"rate_per_second": 20_000})).await.expect(200);
    let app = app
        .reopen(|settings| {
            let worker = &mut ledger(settings).worker;
            worker.rate_per_second = 1_000.0;
            worker.burst = std::num::NonZeroU32::new(2).expect("not zero");
        })
        .await;
    assert_eq!(app.lane().await["state"], "paused");
    app.post(&add("hits", 1)).await.expect(202);
    let cleared = app.clear().await;
    assert_eq!(
        (&cleared["state"], &cleared["rate_per_second"]),
        (&json!("running"), &json!(1_000.0))
    );
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn backpressure_is_set_for_the_running_gateway_and_the_next_one() {
    let app = TestApp::stalled().await;
    let set =
        async |app: &TestApp, body: Value| app.send(app.request("PATCH", "/v1/settings").json(&body)).await;
    let now = set(&app, json!({"backpressure": {"mode": "drop", "max_pending": 1}}))
        .await
        .expect(200)
        .json();
    let mode = &now["settings"]["backpressure.mode"];
    assert_eq!(
        (&mode["value"], &mode["configured"], &mode["source"]),
        (&json!("drop"), &json!("buffer"), &json!("override"))
    );
    app.post(&add("hits", 1)).await.expect(202);
    app.post(&add("hits", 1)).await.problem(503, "SG-0011");
    let app = app.reopen(|_| {}).await;
    assert_eq!(app.get("/v1/settings").await.expect(200).json(), now);
    app.post(&add("hits", 1)).await.problem(503, "SG-0011");
    for (body, pointer) in [
        (json!({"backpressure": {"mode": "hope"}}), "/backpressure/mode"),
        (
            json!({"backpressure": {"max_pending": 0}}),
            "/backpressure/max_pending",
        ),
        (json!({"log": {"level": "ifno"}}), "/log/level"),
        (json!({"log": {"format": "json"}}), "/log/format"),
        (json!({"store": {}}), "/store"),
    ] {
        let refused = set(&app, body).await.problem(422, "SG-0002");
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
    let back = set(&app, json!({"backpressure": null})).await.expect(200).json();
    assert_eq!(back["settings"]["backpressure.mode"]["source"], "configuration");
    app.post(&add("hits", 1)).await.expect(202);
    let app = app.reopen(fast).await;
    app.drain().await;
    app.finish().await;
}
