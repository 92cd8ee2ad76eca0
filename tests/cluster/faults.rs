//! What may befall broker and database while clients are at it. In every case: what was acknowledged is settled
//! once all is well again, exactly once.

use std::time::{Duration, Instant};

use crate::load::{Accepted, Load, slowest};
use crate::oracle::{Evidence, judge, judge_by};
use crate::plan::{Plan, Topology};
use crate::proxy::Fault;
use crate::site::Site;
use crate::support::eventually;

/// An accept that waits for the broker would take as long as the time limit of a publish, 5 s.
const UNHURRIED: Duration = Duration::from_secs(2);

fn never_noticed(accepted: &[Accepted]) {
    let tries = accepted.iter().map(|one| one.tries).max();
    assert_eq!(tries, Some(1), "a client was turned away");
    assert!(
        slowest(accepted) < UNHURRIED,
        "an accept took {:?}",
        slowest(accepted)
    );
}

async fn trouble(site: &Site) -> Option<String> {
    let ready = site.api().get("/readyz").await;
    assert_eq!(ready["status"], "ready", "it accepts all the same");
    ready["queue"]["trouble"].as_str().map(str::to_owned)
}

async fn the_trouble_shows(site: &Site) -> String {
    eventually("the trouble shows", async || trouble(site).await).await
}

async fn all_is_well(site: &Site) {
    eventually("all is well", async || {
        trouble(site).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_and_accepts_without_its_broker() {
    let mut site = Plan::new(Topology::Broker).prepare().await;
    site.broker_part().line.set(Fault::Cut);
    site.start_all().await;
    let load = Load::start(4, Duration::from_millis(40), &site.addresses);
    the_trouble_shows(&site).await;
    assert_eq!(site.api().metric("sluicegate_queue_available").await, 0.0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(site.api().metric("sluicegate_queue_outbox_age_seconds").await > 0.5);
    assert_eq!(
        site.ledger.calls("submit").await,
        0,
        "without a broker nobody may submit"
    );
    site.broker_part().line.set(Fault::None);
    all_is_well(&site).await;
    assert_eq!(site.api().metric("sluicegate_queue_available").await, 1.0);
    let accepted = load.finish().await;
    never_noticed(&accepted);
    judge(site, accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_under_load_costs_no_request() {
    let site = Site::broker().await;
    let load = Load::start(4, Duration::from_millis(30), &site.addresses);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        site.broker_part().server.kill9();
        the_trouble_shows(&site).await;
        tokio::task::block_in_place(|| site.broker_part().server.restart());
        all_is_well(&site).await;
    }
    let accepted = load.finish().await;
    never_noticed(&accepted);
    judge(site, accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_to_the_broker_that_breaks_in_every_way_costs_no_request() {
    let site = Site::broker().await;
    let load = Load::start(4, Duration::from_millis(40), &site.addresses);
    let slow = Fault::Slow(Duration::from_millis(30));
    for fault in [Fault::Cut, Fault::Stall, Fault::HalfOpen, slow] {
        site.broker_part().line.set(fault);
        tokio::time::sleep(Duration::from_secs(4)).await;
        site.broker_part().line.set(Fault::None);
        site.work_goes_on(20).await;
    }
    let accepted = load.finish().await;
    never_noticed(&accepted);
    judge(site, accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_takes_no_messages_for_want_of_memory_costs_no_request() {
    let site = Site::broker().await;
    let load = Load::start(4, Duration::from_millis(40), &site.addresses);
    tokio::time::sleep(Duration::from_millis(500)).await;
    site.broker_part()
        .server
        .ctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    let said = the_trouble_shows(&site).await;
    eprintln!("trouble: {said}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    site.broker_part()
        .server
        .ctl(&["set_vm_memory_high_watermark", "absolute", "4GB"]);
    all_is_well(&site).await;
    let accepted = load.finish().await;
    never_noticed(&accepted);
    judge(site, accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_worker_has_in_hand_is_not_taken_for_lost() {
    let site = Plan::new(Topology::Broker).limit(2.0, 20.0).start().await;
    let load = Load::start(4, Duration::from_millis(20), &site.addresses);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let accepted = load.finish().await;
    // Longer than anything may be in hand before a loss is suspected.
    tokio::time::sleep(Duration::from_secs(16)).await;
    let backlog = site.api().get("/v1/ledgers").await["items"][0]["backlog"].clone();
    assert!(
        backlog.as_u64() > Some(10),
        "of {} only {backlog} wait",
        accepted.len()
    );
    assert_eq!(
        site.api().metric("sluicegate_queue_announced_again_total").await,
        0.0
    );
    assert_eq!(site.api().metric("sluicegate_queue_duplicates_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_stop_under_load_waits_for_what_was_begun_and_for_nothing_else() {
    // Whatever was left to its check would hold up the stop until the drain time is over, 5 s.
    let mut site = Site::broker_with("check_after_ms = 3000", "check_after_ms = 30000").await;
    let mut accepted = Vec::new();
    for _ in 0..3 {
        let load = Load::start(8, Duration::ZERO, &site.addresses);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let told = Instant::now();
        site.nodes[0].stop().await;
        let took = told.elapsed();
        site.start(0).await;
        accepted.extend(load.finish().await);
        assert!(took < Duration::from_secs(2), "it took {took:?} to stop");
    }
    judge(site, accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_messages_that_are_lost_are_announced_again() {
    // So slow that messages wait, however slow the machine is.
    let site = Plan::new(Topology::Broker).limit(100.0, 20.0).start().await;
    let mut accepted = Vec::new();
    for loss in ["purge_queue", "delete_queue"] {
        let load = Load::start(8, Duration::from_millis(10), &site.addresses);
        eventually("a backlog waits", async || (site.messages() > 300).then_some(())).await;
        let announced_again = site.api().metric("sluicegate_queue_announced_again_total").await;
        site.broker_part().server.ctl(&[loss, &site.queue()]);
        accepted.extend(load.finish().await);
        eventually("what was lost is announced again", async || {
            let now = site.api().metric("sluicegate_queue_announced_again_total").await;
            (now > announced_again).then_some(())
        })
        .await;
    }
    site.broker_part()
        .server
        .ctl(&["close_all_connections", "by hand"]);
    never_noticed(&accepted);
    judge(site, accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i4_messages_that_mean_nothing_or_come_again_do_no_harm() {
    let site = Site::broker().await;
    let load = Load::start(4, Duration::from_millis(40), &site.addresses);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let accepted = load.finish().await;
    let mut bodies: Vec<String> = ["", "nonsense", "0195f000-0000-7000-8000-000000000000"]
        .map(str::to_owned)
        .into();
    bodies.extend((0..1_000).map(|n| accepted[n % accepted.len()].id.clone()));
    site.publish(&bodies).await;
    eventually("what means nothing is put aside", async || {
        (site.dead_letters() == 3).then_some(())
    })
    .await;
    let evidence = Evidence {
        dead_letters: 3,
        ..Evidence::of(accepted)
    };
    judge_by(site, evidence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_a_database_that_breaks_in_every_way_loses_nothing_it_acknowledged() {
    let site = Site::cluster(&["api", "worker", "worker"]).await;
    let load = Load::start(4, Duration::from_millis(30), &site.addresses);
    let line = &site.database_part().line;
    let slow = Fault::Slow(Duration::from_millis(30));
    for fault in [Fault::Cut, Fault::Stall, Fault::HalfOpen, slow] {
        line.set(fault);
        tokio::time::sleep(Duration::from_secs(3)).await;
        line.set(Fault::None);
        site.work_goes_on(20).await;
    }
    for _ in 0..2 {
        site.database_part().server.kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        tokio::task::block_in_place(|| site.database_part().server.restart());
        site.work_goes_on(20).await;
    }
    let accepted = load.finish().await;
    judge(site, accepted).await;
}
