//! Two versions on one cluster: a rolling upgrade, and the way back, as clients and operators see them. The version before
//! is a program that `.ci/previous` builds from this repository's history.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::basics::skipped;
use crate::load::{Accepted, Demand, Load};
use crate::node::{BINARY, Node};
use crate::oracle::judge;
use crate::plan::{Plan, Topology};
use crate::site::{Addresses, Site};
use crate::steering::change;
use crate::support::{eventually, http};

/// Names the program of the version before.
const VARIABLE: &str = "SLUICEGATE_TEST_PREVIOUS";

const LANE: &str = "/v1/ledgers/main";

/// For nodes of this version. The one before does not know it: whoever shares out requests has to leave those out first.
const LAME_DUCK: (&str, &str) = ("SLUICEGATE__SHUTDOWN__LAME_DUCK_SECONDS", "3");

/// The program of the version before, if there is one here.
fn before() -> Option<PathBuf> {
    let Some(program) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) else {
        skipped(&format!(
            "two versions side by side: run .ci/previous, and set {VARIABLE} to what it prints"
        ));
        return None;
    };
    let program = PathBuf::from(program);
    assert!(program.is_file(), "{VARIABLE}: there is no {}", program.display());
    Some(program)
}

/// Whether it is of this version: it counts what the one before does not know.
async fn is_new(node: &Node) -> bool {
    let answer = http().get(format!("{}/metrics", node.address)).send().await;
    let text = answer.expect("answers").text().await.expect("text");
    text.contains("sluicegate_backlog_age_seconds")
}

async fn new_ones(site: &Site) -> Vec<bool> {
    futures_util::future::join_all(site.nodes.iter().map(is_new)).await
}

/// Ends a node as an operator does who wants no client to notice.
async fn ends(site: &mut Site, number: usize) {
    let leave_out = |addresses: &mut Addresses| {
        addresses.remove(&number);
    };
    let node = &site.nodes[number];
    if node.is_api() && is_new(node).await {
        // It says so itself, and is left out for that.
        node.signal("TERM").await;
        node.is_leaving().await;
        site.addresses.send_modify(leave_out);
        assert!(site.nodes[number].ended().await.success());
        return;
    }
    if node.is_api() {
        site.addresses.send_modify(leave_out);
        eventually("nobody posts to it any more", async || {
            let before = node.metric("sluicegate_accepted_total").await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            (node.metric("sluicegate_accepted_total").await == before).then_some(())
        })
        .await;
    }
    site.nodes[number].stop().await;
}

/// Starts a node that has ended as a version, and waits until it is ready.
async fn starts(site: &mut Site, number: usize, program: &Path) {
    let launch = &mut site.nodes[number].launch;
    launch.binary = program.to_owned();
    launch.variables.retain(|(name, _)| name != LAME_DUCK.0);
    if program == Path::new(BINARY) && launch.role == "api" {
        let (name, seconds) = LAME_DUCK;
        launch.variables.push((name.to_owned(), seconds.to_owned()));
    }
    site.start(number).await;
    site.nodes[number].get("/readyz").await;
}

async fn becomes(site: &mut Site, number: usize, program: &Path) {
    ends(site, number).await;
    starts(site, number, program).await;
}

/// Has one accepted by one node and brought to its end by whichever worker submits; read at another node.
async fn passes(site: &Site, accepts: usize, reads: usize) -> Accepted {
    let accepted = Accepted::by(&site.nodes[accepts], "passed").await;
    let path = format!("/v1/transactions/{}?wait=10", accepted.id);
    eventually("it is done", async || {
        (site.nodes[reads].get(&path).await["status"] == "done").then_some(())
    })
    .await;
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn i1_i2_an_upgrade_node_by_node_and_the_way_back_refuse_nobody_and_lose_nothing() {
    let Some(before) = before() else { return };
    let now = Path::new(BINARY);
    // On a busy machine database and ledger may take their time; that is not what this is about.
    let plan = Plan::new(Topology::Cluster).replace("\ntimeout_ms = 1000", "\ntimeout_ms = 5000");
    let plan = plan.replace("lease_seconds = 3", "lease_seconds = 10");
    let mut site = plan.binary(&before).start().await;
    assert_eq!(new_ones(&site).await, [false; 4], "two versions");
    let load = Load::of(Demand::Mixed, 4, Duration::from_millis(100), &site.addresses);
    let mut passed = Vec::new();

    // Half of it: the worker that submits hands over to the older one and stands by.
    let (early, late) = (0, 1);
    let first = site.active_worker().await;
    let second = 5 - first;
    becomes(&mut site, first, now).await;
    becomes(&mut site, early, now).await;
    assert_eq!(site.active_worker().await, second);
    passed.push(passes(&site, early, late).await);
    passed.push(passes(&site, late, early).await);
    assert_eq!(
        site.nodes[first].submissions().await,
        0.0,
        "the new one stands by"
    );

    // What is set at a new one holds at an old one, as far as that knows it. One that is old and sets something writes
    // down what it knows, and drops the rest.
    let set = json!({"rate_per_second": 150, "retry": {"outage_max_ms": 400}});
    change(&site.nodes[early], LANE, set).await;
    eventually("the older one has heard of it", async || {
        (site.nodes[late].get(LANE).await["rate_per_second"] == 150.0).then_some(())
    })
    .await;
    change(&site.nodes[late], LANE, json!({"rate_per_second": null})).await;
    eventually("the newer one has heard of it", async || {
        (site.nodes[early].get(LANE).await["overrides"] == json!({})).then_some(())
    })
    .await;

    // The worker that stood by goes on with what the older one began; there is no other.
    ends(&mut site, second).await;
    passed.push(passes(&site, late, early).await);
    passed.push(passes(&site, early, late).await);
    starts(&mut site, second, now).await;
    becomes(&mut site, late, now).await;
    assert_eq!(new_ones(&site).await, [true; 4]);
    site.work_goes_on(50).await;

    // And back, in any order.
    for number in [early, first, second, late] {
        becomes(&mut site, number, &before).await;
        site.work_goes_on(20).await;
    }
    assert_eq!(new_ones(&site).await, [false; 4]);
    passed.push(passes(&site, early, late).await);

    let mut accepted = load.finish().await;
    let most = accepted.iter().map(|one| one.tries).max();
    assert_eq!(most, Some(1), "tries of a client");
    eprintln!("{} accepted", accepted.len());
    accepted.extend(passed);
    judge(site, accepted).await;
}

/// An embedded store has one process, so there is no upgrade node by node: it stops as one version and starts as the other.
#[tokio::test(flavor = "multi_thread")]
async fn i1_a_new_version_goes_on_with_an_embedded_store_and_the_one_before_refuses_it_then() {
    let Some(before) = before() else { return };
    let mut site = Plan::new(Topology::Embedded).binary(&before).start().await;
    let load = Load::start(4, Duration::from_millis(10), &site.addresses);
    site.work_goes_on(50).await;
    site.nodes[0].kill().await;
    starts(&mut site, 0, Path::new(BINARY)).await;
    assert!(is_new(&site.nodes[0]).await);
    site.work_goes_on(50).await;
    let accepted = load.finish().await;
    site.nodes[0].stop().await;
    let mut launch = site.nodes[0].launch.clone();
    launch.binary = before;
    assert!(Node::try_start(launch).await.is_none(), "it does not start");
    let log = site.log();
    let words = "it has format 2 and this version knows 1: start the newer sluicegate that wrote it";
    assert!(log.contains(words), "{log}");
    site.start(0).await;
    judge(site, accepted).await;
}
