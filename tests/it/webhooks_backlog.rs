//! I7 with webhooks: ten thousand deliveries wait for a receiver that is not there, on the disk and not in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::crash::{Gateway, start};
use crate::support::eventually;
use crate::support::receiver::{Got, Receiver};

const DUE: usize = 10_000;
/// A batch holds so many.
const BATCH: usize = 1_000;

const CONFIG: &str = "
[http]
listen = '127.0.0.1:0'
[store]
cache_mb = 8
[log]
level = 'warn'
[webhooks]
allow_targets = ['127.0.0.1']
timeout_ms = 1000
retry_min_ms = 20
retry_max_ms = 200
max_in_flight = 256
max_in_flight_per_endpoint = 64
[ledgers.main]
kind = 'simulator'
batch_timeout_ms = 20
max_message_count = 500
[ledgers.main.worker]
rate_per_second = 10000
burst = 1000
batch_size = 500
max_in_flight = 1000
";

/// Its memory, in MiB.
fn resident(gateway: &Gateway) -> u64 {
    let id = gateway.process.id().expect("runs");
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("reads");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("is told");
    let kib: u64 = line
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number");
    kib >> 10
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_ten_thousand_deliveries_wait_on_the_disk_and_all_arrive() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("config.toml"), CONFIG).expect("writes");
    let gateway = start(folder.path()).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let get = async |path: &str| -> String {
        let answer = http
            .get(format!("{}{path}", gateway.address))
            .send()
            .await
            .expect("an answer");
        answer.text().await.expect("text")
    };
    // Nobody is there: the port is kept, and refused.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let url = format!("http://{address}/hook");
    let submit = async |from: usize, count: usize| {
        let items: Vec<Value> = (from..from + count)
            .map(|number| {
                let args = json!([format!("counter{number}"), 1]);
                json!({"ledger": "main", "contract": "counter", "function": "Add", "args": args, "callback_url": url})
            })
            .collect();
        let request = http
            .post(format!("{}/v1/transactions/batch", gateway.address))
            .json(&items);
        let answer: Value = request
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        assert_eq!(answer["accepted"], count, "{answer}");
    };
    let queued = async |count: usize| {
        let line = format!("sluicegate_webhook_deliveries_total {count}");
        eventually(&line, async || {
            get("/metrics").await.contains(&line).then_some(())
        })
        .await;
    };
    submit(0, BATCH).await;
    queued(BATCH).await;
    let few = resident(&gateway);
    for from in (BATCH..DUE).step_by(BATCH) {
        submit(from, BATCH).await;
        queued(from + BATCH).await;
    }
    let overdue = async || -> f64 {
        let metrics = get("/metrics").await;
        let value = |line: &str| {
            line.strip_prefix("sluicegate_webhook_overdue_seconds ")?
                .parse()
                .ok()
        };
        metrics.lines().find_map(value).expect("is told")
    };
    eventually("it is told that they are overdue", async || {
        (overdue().await > 0.5).then_some(())
    })
    .await;
    let many = resident(&gateway);
    eprintln!("{BATCH} deliveries due: {few} MiB; {DUE}: {many} MiB");
    assert!(many < few + 64, "from {few} to {many} MiB");
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .expect("the port is free");
    let receiver = Receiver::on(listener, |_| 200.into());
    let all = async || (receiver.count() >= DUE).then_some(());
    crate::basics::within(Duration::from_secs(240), "all arrive", all).await;
    let ids: BTreeSet<_> = receiver.got().iter().map(Got::id).collect();
    assert_eq!(ids.len(), DUE, "each has come");
    eventually("nothing is overdue", async || {
        (overdue().await == 0.0).then_some(())
    })
    .await;
}
