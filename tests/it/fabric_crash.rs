//! I1, I2, I3 across a real socket, with a ledger that outlives the gateway: concurrent clients post while the gateway
//! AND the devnet are killed, at random moments and at the points where a reply, a block or a word to the listeners is
//! missing; meanwhile replies are dropped and connections closed. At the end every acknowledged transaction is done,
//! every counter is exact, and the chain holds one valid transaction for each.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::crash::{Api, Gateway, client, end, judge, start};
use crate::support::fabric::FabricDevnet;

const ROUNDS: usize = 16;
const CLIENTS: u64 = 6;

/// Short leases and timeouts: what takes seconds in production happens between two kills.
const CONFIG: &str = r#"
endorse_timeout_ms = 1000
submit_timeout_ms = 1000
commit_status_timeout_ms = 300
stall_after_ms = 1500
[http]
listen = "127.0.0.1:0"
[store]
path = "data"
[log]
level = "error"
[ledgers.main.worker]
rate_per_second = 5000
burst = 50
max_in_flight = 24
lease_seconds = 4
check_after_ms = 500
[ledgers.main.retry]
min_ms = 5
max_ms = 60
max_attempts = 0
outage_min_ms = 10
outage_max_ms = 100
"#;

/// What the devnet does to calls that it has executed, and to some that it has not.
const FAULTS: [&str; 7] = [
    r#"{"method": "submit", "action": "drop_reply", "probability": 0.04}"#,
    r#"{"method": "submit", "action": "close_after", "probability": 0.01}"#,
    r#"{"method": "submit", "action": "close_before", "probability": 0.01}"#,
    r#"{"method": "submit", "action": "refuse", "code": 14, "message": "no orderers could successfully process transaction", "probability": 0.02}"#,
    r#"{"method": "endorse", "action": "drop_reply", "probability": 0.01}"#,
    r#"{"method": "endorse", "action": "refuse", "code": 2, "message": "too many requests for /gateway.Gateway, exceeding concurrency limit (500)", "probability": 0.01}"#,
    r#"{"method": "commit_status", "action": "drop_reply", "probability": 0.2}"#,
];

const CRASH_POINTS: [&str; 5] = [
    "before-endorse-reply",
    "before-order",
    "before-submit-reply",
    "after-order-before-block",
    "after-block-before-reply",
];

async fn devnet(folder: &Path, listen: &str) -> FabricDevnet {
    let mut words = vec![
        "--listen",
        listen,
        "--batch-timeout-ms",
        "15",
        "--max-message-count",
        "20",
    ];
    words.extend(FAULTS.iter().flat_map(|fault| ["--fault", fault]));
    FabricDevnet::start(folder, &words).await
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_killing_gateway_and_ledger_loses_nothing_and_repeats_nothing() {
    let (folder, network) = (
        tempfile::tempdir().expect("folder"),
        tempfile::tempdir().expect("folder"),
    );
    let mut ledger = devnet(network.path(), "127.0.0.1:0").await;
    let listen = ledger.address.to_string();
    std::fs::write(
        folder.path().join("config.toml"),
        format!("{}{CONFIG}", ledger.section),
    )
    .expect("writes");
    let mut gateway = start(folder.path()).await;
    let (address, watched) = watch::channel(gateway.address.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(number, 3, watched.clone(), stop.clone()));
    }
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..700))).await;
        match random.random_range(0..4) {
            0 => gateway = restart(gateway, folder.path()).await,
            1 => {
                ledger.kill().await;
                ledger = devnet(network.path(), &listen).await;
            }
            2 => {
                let point = CRASH_POINTS[random.random_range(0..CRASH_POINTS.len())];
                ledger.tell("PUT", "/crash", &json!(point)).await;
                ledger.ended().await;
                ledger = devnet(network.path(), &listen).await;
            }
            _ => {
                ledger.kill().await;
                gateway = restart(gateway, folder.path()).await;
                ledger = devnet(network.path(), &listen).await;
            }
        }
        address.send_replace(gateway.address.clone());
    }
    stop.store(true, Ordering::Relaxed);
    let accepted: Vec<(String, u64)> = clients.join_all().await.into_iter().flatten().collect();
    ledger.tell("DELETE", "/faults", &Value::Null).await;
    let api = Api::of(&gateway);
    judge(&api, &accepted).await;
    one_for_each(&api, &ledger, &accepted).await;
    eprintln!("{} accepted over {ROUNDS} blows", accepted.len());
    assert!(
        accepted.len() > ROUNDS * 5,
        "the clients hardly got through: {}",
        accepted.len()
    );
    end(gateway, folder.path()).await;
    ledger.stop().await;
}

async fn restart(mut gateway: Gateway, folder: &Path) -> Gateway {
    gateway.process.kill().await.expect("kills");
    start(folder).await
}

/// The valid transactions of the chain are exactly those that the records name.
async fn one_for_each(api: &Api, ledger: &FabricDevnet, accepted: &[(String, u64)]) {
    let chain = ledger.get("/transactions?from=0").await;
    let chain = chain.as_array().expect("transactions");
    let valid: Vec<&str> = chain
        .iter()
        .filter(|entry| entry["code"] == "VALID")
        .map(|entry| entry["id"].as_str().expect("an id"))
        .collect();
    let unique: BTreeSet<String> = valid.iter().map(|id| (*id).to_owned()).collect();
    assert_eq!(unique.len(), valid.len(), "I2: an id that is valid twice");
    let mut named = BTreeSet::new();
    for (id, _) in accepted {
        let record = api.get(&format!("/v1/transactions/{id}")).await;
        named.insert(record["tx_id"].as_str().expect("an id").to_owned());
    }
    assert_eq!(
        named, unique,
        "I2: one valid transaction for each that was accepted"
    );
    let repeats = chain
        .iter()
        .filter(|entry| entry["code"] == "DUPLICATE_TXID")
        .count();
    eprintln!(
        "{} entries in the chain, {repeats} of them repeats that took no effect",
        chain.len()
    );
}
