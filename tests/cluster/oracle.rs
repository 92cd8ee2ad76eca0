//! What has to hold at the end, whatever happened before.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::load::Accepted;
use crate::site::{BURST, RATE, Site};
use crate::support::eventually;

/// Sends at the gateway and arrivals at the ledger are some scheduling apart.
const SCHEDULING: Duration = Duration::from_millis(250);

/// Everything that was acknowledged is settled, its effects are on the ledger exactly once, the rate was kept,
/// and nothing is left over.
pub(crate) async fn judge(site: &Site, accepted: &[Accepted]) {
    eventually("I3: the backlog drains", async || {
        let lanes = site.api().get("/v1/ledgers").await;
        (lanes["items"][0]["backlog"] == 0).then_some(())
    })
    .await;
    let records = listed(site).await;
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    for one in accepted {
        let status = records.get(&one.id).map(String::as_str);
        assert_eq!(status, Some("done"), "I1, I3: {}", one.id);
        *expected.entry(one.counter).or_default() += 1;
    }
    assert_eq!(
        records.len(),
        accepted.len(),
        "I5: one record for each acknowledged request"
    );
    for (counter, times) in expected {
        let stands = site.api().counter(&format!("c{counter}")).await;
        assert_eq!(stands, times, "I2: counter {counter}");
    }
    rate_was_kept(site).await;
    eventually("no message is left", async || {
        (site.messages() == 0).then_some(())
    })
    .await;
}

/// Every record's status, by id.
async fn listed(site: &Site) -> BTreeMap<String, String> {
    let (mut listed, mut cursor) = (BTreeMap::new(), String::new());
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    loop {
        let page = site
            .api()
            .get(&format!("/v1/transactions?limit=500{cursor}"))
            .await;
        let items = page["items"].as_array().expect("items");
        listed.extend(
            items
                .iter()
                .map(|record| (text(&record["id"]), text(&record["status"]))),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return listed,
        }
    }
}

/// I6: in any stretch of time the ledger saw at most rate × time + burst, over all processes together. What a
/// bucket that drains at the rate would have held at its fullest is the worst of all stretches.
async fn rate_was_kept(site: &Site) {
    let (mut held, mut fullest, mut before) = (0.0_f64, 0.0_f64, 0);
    for one in site.ledger.all_sent().await {
        let passed = Duration::from_millis(one.arrived_at - before);
        before = one.arrived_at;
        held = (held - RATE * passed.as_secs_f64()).max(0.0) + 1.0;
        fullest = fullest.max(held);
    }
    eprintln!("at most {fullest:.0} above the rate, burst {BURST}");
    let allowed = BURST + RATE * SCHEDULING.as_secs_f64();
    assert!(
        fullest <= allowed,
        "I6: {fullest} above the rate, {allowed} allowed"
    );
}
