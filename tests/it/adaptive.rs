//! A rate that follows what the ledger bears, as operators see it.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Value, json};

use sluicegate::config::AdaptiveSettings;

use crate::support::{TestApp, add, eventually, ledger, simulator};

const LIMIT: f64 = 200.0;

impl TestApp {
    async fn adaptive(&self) -> (f64, String) {
        let lane = self.get("/v1/ledgers/main").await.expect(200).json();
        let adaptive = &lane["adaptive"];
        let reason = adaptive["reason"].as_str().expect("a reason").to_owned();
        (adaptive["rate_per_second"].as_f64().expect("a rate"), reason)
    }

    async fn submit_all(&self, items: &[Value]) {
        let request = self.request("POST", "/v1/transactions/batch").json(&items);
        let answer = self.send(request).await.expect(200).json();
        assert_eq!(answer["accepted"], items.len());
    }
}

#[tokio::test]
async fn conflicts_lower_the_rate_and_it_comes_back_when_there_are_none() {
    let app = TestApp::with(|settings| {
        let ledger = ledger(settings);
        ledger.backend = simulator(100, 100);
        ledger.worker.rate_per_second = LIMIT;
        ledger.retry.conflict.max_attempts = NonZeroU32::new(10_000);
        ledger.worker.adaptive = Some(AdaptiveSettings {
            min_rate_per_second: 20.0,
            max_latency: Duration::from_secs(60),
            max_conflict_share: 0.3,
        });
    })
    .await;
    assert_eq!(app.adaptive().await, (LIMIT, "limit".to_owned()));
    // Twenty submissions and more to a block, all of the same key: one of them is valid.
    app.submit_all(&vec![add("hot", 1); 100]).await;
    eventually("it is lowered", async || {
        let (rate, reason) = app.adaptive().await;
        (reason == "conflicts" && rate <= LIMIT / 2.0).then_some(())
    })
    .await;
    let metrics = app.get("/metrics").await.text;
    let counted = "sluicegate_rate_adaptations_total{ledger=\"main\",reason=\"conflicts\"} ";
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("sluicegate_adapted_rate_per_second{ledger=\"main\"} "));
    app.drain().await;
    assert_eq!(app.counter("hot").await, 100);
    let (lowered, _) = app.adaptive().await;
    let apart: Vec<_> = (0..400).map(|n| add(&format!("key-{n}"), 1)).collect();
    app.submit_all(&apart).await;
    eventually("it recovers", async || {
        let (rate, reason) = app.adaptive().await;
        (rate > lowered && reason != "conflicts").then_some(())
    })
    .await;
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn a_ledger_that_is_slow_gets_less_and_the_limit_can_still_be_set() {
    let app = TestApp::with(|settings| {
        let ledger = ledger(settings);
        ledger.backend = simulator(1_500, 1_000);
        ledger.worker.rate_per_second = LIMIT;
        ledger.worker.adaptive = Some(AdaptiveSettings {
            max_latency: Duration::from_millis(200),
            ..AdaptiveSettings::default()
        });
    })
    .await;
    let apart: Vec<_> = (0..900).map(|n| add(&format!("key-{n}"), 1)).collect();
    app.submit_all(&apart).await;
    eventually("it is lowered", async || {
        let (rate, reason) = app.adaptive().await;
        (reason == "latency" && rate < LIMIT).then_some(())
    })
    .await;
    let steer = app
        .request("PATCH", "/v1/ledgers/main")
        .json(&json!({"rate_per_second": 7}));
    let lane = app.send(steer).await.expect(200).json();
    assert_eq!(lane["adaptive"]["rate_per_second"], 7.0);
    app.leave().await;
}
