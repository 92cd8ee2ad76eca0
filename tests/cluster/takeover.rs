//! Several processes on one store and one broker: who works, who takes over, who hears of it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::Load;
use crate::oracle::judge;
use crate::plan::{Plan, Topology};
use crate::site::Site;
use crate::support::{eventually, http};

const TAKEOVER: Duration = Duration::from_secs(5);

/// A batch has 50, of which a few are on their way at any instant: they leave 5 ms apart.
const ON_THE_WIRE: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_is_active_and_a_settlement_is_heard_on_every_node() {
    let site = Site::cluster(&["api", "api", "worker", "worker"]).await;
    let load = Load::start(4, Duration::from_millis(40), &site.addresses);
    // Held by a node that settles nothing itself: it is told by the one that does.
    for _ in 0..5 {
        let start = Instant::now();
        let body =
            json!({"ledger": "main", "contract": "counter", "function": "Add", "args": ["watched", 1]});
        let answer = http()
            .post(format!("{}/v1/transactions", site.api().address))
            .header("Prefer", "wait=30")
            .json(&body)
            .send()
            .await
            .expect("answers");
        assert_eq!(answer.status(), 200, "the record, settled");
        assert!(start.elapsed() < Duration::from_secs(10), "told, not timed out");
    }
    load.finish().await;
    eventually("the backlog drains", async || {
        (site.api().get("/v1/ledgers").await["items"][0]["backlog"] == 0).then_some(())
    })
    .await;
    let mut active = 0;
    for worker in site.workers() {
        active += u32::from(worker.submissions().await > 0.0);
    }
    assert_eq!(active, 1, "the other one stands by");
    assert_eq!(site.api().counter("watched").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_is_replaced_within_five_seconds() {
    let mut site = Site::cluster(&["api", "worker", "worker"]).await;
    let load = Load::start(4, Duration::from_millis(40), &site.addresses);
    for _ in 0..3 {
        let active = site.active_worker().await;
        site.nodes[active].kill().await;
        let killed = Instant::now();
        site.work_goes_on(5).await;
        let took = killed.elapsed();
        assert!(took < TAKEOVER, "taken over after {took:?}");
        eprintln!("taken over after {took:?}");
        site.start(active).await;
    }
    let accepted = load.finish().await;
    judge(site, accepted).await;
}

/// Two workers have a bucket each; together they may do what one may.
#[tokio::test(flavor = "multi_thread")]
async fn i6_a_takeover_brings_no_burst_of_its_own() {
    let plan = Plan::new(Topology::Cluster).roles(&["api", "worker", "worker"]);
    let mut site = plan.limit(100.0, 200.0).start().await;
    // More than it may do, so that much waits and the bucket of the active one never fills.
    let load = Load::start(8, Duration::from_millis(30), &site.addresses);
    for _ in 0..3 {
        let active = site.active_worker().await;
        site.work_goes_on(100).await;
        site.nodes[active].kill().await;
        site.work_goes_on(100).await;
        site.start(active).await;
    }
    let accepted = load.finish().await;
    let above = judge(site, accepted).await.above_rate;
    assert!(above < 100.0, "{above:.0} above the rate: a bucket that was full");
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_worker_that_was_frozen_past_its_lease_submits_nothing_when_it_wakes() {
    // What is overdue is asked for and sent again, by whoever has the lane: on a slow machine that would be taken for what this
    // is about.
    let plan = Plan::new(Topology::Cluster).replace("check_after_ms = 3000", "check_after_ms = 15000");
    let site = plan.roles(&["api", "worker", "worker"]).start().await;
    // More than it may submit: it always has a batch in hand, stored and waiting for its turn to be sent.
    let load = Load::start(16, Duration::from_millis(20), &site.addresses);
    let frozen = site.active_worker().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.nodes[frozen].signal("STOP").await;
    let mut accepted = load.finish().await;
    let load = Load::start(4, Duration::from_millis(50), &site.addresses);
    site.work_goes_on(800).await;
    site.nodes[frozen].signal("CONT").await;
    site.work_goes_on(500).await;
    accepted.extend(load.finish().await);
    let verdict = judge(site, accepted).await;
    // What it had handed to its sockets when it froze arrives all the same: the same bytes, which the ledger
    // takes once. It must not be more than that.
    let late = verdict.repeated;
    eprintln!("{} submissions arrived late", late.len());
    assert!(late.len() <= ON_THE_WIRE, "{late:?} were submitted twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_needs_no_more_than_one_retry_of_a_client() {
    let mut site = Site::cluster(&["api", "api", "worker", "worker"]).await;
    let load = Load::start(6, Duration::from_millis(50), &site.addresses);
    for node in 0..site.nodes.len() {
        site.restart(node).await;
        // As an operator does: the next one goes when this one is ready and its clients have found it.
        site.nodes[node].get("/readyz").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let accepted = load.finish().await;
    let most = accepted.iter().map(|one| one.tries).max();
    assert!(most <= Some(2), "a client needed {most:?} tries");
    judge(site, accepted).await;
}
