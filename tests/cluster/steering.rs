//! Gateways on one store that are steered, and that leave, while they work.

use std::time::Duration;

use serde_json::{Value, json};

use crate::load::{Accepted, Load};
use crate::node::Node;
use crate::oracle::judge;
use crate::plan::{Plan, Topology};
use crate::site::Site;
use crate::support::{eventually, http};

pub(crate) async fn change(node: &Node, path: &str, body: Value) {
    let request = http().patch(format!("{}{path}", node.address)).json(&body);
    let answer = request.send().await.expect("answers");
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
}

async fn setting(node: &Node, path: &str, name: &str) -> Value {
    node.get(path).await["settings"][name]["value"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_at_one_node_holds_on_all_of_them() {
    const LANE: &str = "/v1/ledgers/main";
    let site = Site::cluster(&["api", "api", "worker"]).await;
    let load = Load::start(3, Duration::from_millis(100), &site.addresses);
    site.work_goes_on(20).await;
    change(&site.nodes[0], LANE, json!({"paused": true, "max_in_flight": 9})).await;
    change(&site.nodes[0], "/v1/settings", json!({"log": {"level": "debug"}})).await;
    eventually("the other node has heard of it", async || {
        let paused = setting(&site.nodes[1], LANE, "paused").await == true;
        let flights = setting(&site.nodes[1], LANE, "max_in_flight").await == 9;
        let level = setting(&site.nodes[1], "/v1/settings", "log.level").await == "debug";
        (paused && flights && level).then_some(())
    })
    .await;
    // The worker has no API, and hears of it all the same.
    eventually("nothing is submitted any more", async || {
        let before = site.nodes[2].submissions().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        (site.nodes[2].submissions().await == before).then_some(())
    })
    .await;
    change(&site.nodes[1], LANE, json!({"paused": false})).await;
    site.work_goes_on(20).await;
    let accepted = load.finish().await;
    judge(site, accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lame_duck_hands_over_and_no_client_needs_a_second_try() {
    let plan = Plan::new(Topology::Cluster).roles(&["all", "all"]);
    let plan = plan.replace("drain_seconds = 5", "drain_seconds = 5\nlame_duck_seconds = 15");
    let mut site = plan.start().await;
    let load = Load::start(3, Duration::from_millis(100), &site.addresses);
    let mut by_ducks = Vec::new();
    for _ in 0..2 {
        let active = site.active_worker().await;
        let (leaving, other) = (&site.nodes[active], &site.nodes[1 - active]);
        let begun = other.submissions().await;
        leaving.signal("TERM").await;
        leaving.is_leaving().await;
        eventually("the other one submits", async || {
            (other.submissions().await > begun).then_some(())
        })
        .await;
        // Whoever has not noticed is served as ever.
        by_ducks.push(Accepted::by(leaving, "duck").await);
        // As a load balancer does.
        site.addresses.send_modify(|addresses| {
            addresses.remove(&active);
        });
        assert!(site.nodes[active].ended().await.success());
        site.start(active).await;
    }
    let mut accepted = load.finish().await;
    let most = accepted.iter().map(|one| one.tries).max();
    assert_eq!(most, Some(1), "tries of a client");
    accepted.extend(by_ducks);
    judge(site, accepted).await;
}
