//! I1, I2, I3 against the real binary: concurrent clients post while the process is killed (SIGKILL) and
//! started again at random moments. At the end every acknowledged transaction is done, and every counter on
//! the ledger equals exactly the number of `Add`s accepted for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::cli;

const ROUNDS: usize = 30;
const CLIENTS: u64 = 8;
const COUNTERS: u64 = 25;
const PATIENCE: Duration = Duration::from_secs(60);

/// Short blocks, short leases and endless tries: what takes seconds in production happens between two kills.
const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[store]
path = "data"
engine = "ENGINE"
[log]
level = "warn"
[ledgers.main]
kind = "simulator"
batch_timeout_ms = 15
max_message_count = 20
[ledgers.main.worker]
rate_per_second = 5000
burst = 50
max_in_flight = 64
lease_seconds = 1
check_after_ms = 300
[ledgers.main.retry]
min_ms = 5
max_ms = 60
max_attempts = 0
"#;

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_loses_nothing_and_repeats_nothing_on_redb() {
    campaign("redb", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_loses_nothing_and_repeats_nothing_on_sled() {
    campaign("sled", 2).await;
}

/// A running gateway and where it listens.
pub(crate) struct Gateway {
    pub(crate) process: Child,
    pub(crate) address: String,
}

pub(crate) async fn start(folder: &Path) -> Gateway {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.arg("serve").current_dir(folder).kill_on_drop(true);
    let (process, address) = cli::serve(&mut command).await;
    Gateway { process, address }
}

async fn campaign(engine: &str, seed: u64) {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(
        folder.path().join("config.toml"),
        CONFIG.replace("ENGINE", engine),
    )
    .expect("writes");
    let mut gateway = start(folder.path()).await;
    let (address, watched) = watch::channel(gateway.address.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(number, seed, watched.clone(), stop.clone()));
    }
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(random.random_range(30..450))).await;
        gateway.process.kill().await.expect("kills");
        gateway = start(folder.path()).await;
        address.send_replace(gateway.address.clone());
    }
    stop.store(true, Ordering::Relaxed);
    let accepted: Vec<(String, u64)> = clients.join_all().await.into_iter().flatten().collect();
    let api = Api::of(&gateway);
    judge(&api, &accepted).await;
    eprintln!("{engine}: {} accepted over {ROUNDS} kills", accepted.len());
    // Not a measure of speed, which is that of the machine: it shows that there was something to lose in each round.
    assert!(
        accepted.len() >= ROUNDS,
        "the clients hardly got through: {}",
        accepted.len()
    );
    end(gateway, folder.path()).await;
}

pub(crate) fn http() -> reqwest::Client {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5));
    client.build().expect("client")
}

/// Posts one `Add` after the other, repeating each with its key until it is acknowledged; answers ids and
/// counters. One in four is sent once more after that, as a client does that lost the answer.
pub(crate) async fn client(
    number: u64,
    seed: u64,
    address: watch::Receiver<String>,
    stop: Arc<AtomicBool>,
) -> Vec<(String, u64)> {
    let http = http();
    let mut random = StdRng::seed_from_u64(seed * 1_000 + number);
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let counter = random.random_range(0..COUNTERS);
        let key = format!("client-{number}-{}", accepted.len());
        let body = json!({"ledger": "main", "contract": "counter", "function": "Add",
            "args": [format!("c{counter}"), 1]});
        let post = || async {
            let url = format!("{}/v1/transactions", *address.borrow());
            let answer = http
                .post(url)
                .header("Idempotency-Key", &key)
                .json(&body)
                .send()
                .await
                .ok()?;
            let accepted = answer.status().is_success();
            let record: Value = answer.json().await.ok()?;
            assert!(accepted, "refused: {record}");
            Some(record["id"].as_str().expect("an id").to_owned())
        };
        let id = loop {
            match post().await {
                Some(id) => break id,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        if random.random_ratio(1, 4)
            && let Some(again) = post().await
        {
            assert_eq!(again, id, "a repeat is the same transaction (I5)");
        }
        accepted.push((id, counter));
    }
    accepted
}

pub(crate) struct Api {
    http: reqwest::Client,
    address: String,
}

impl Api {
    pub(crate) fn of(gateway: &Gateway) -> Self {
        Self {
            http: http(),
            address: gateway.address.clone(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}{path}", self.address))
            .send()
            .await
            .expect("answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }

    pub(crate) async fn counter(&self, counter: &str) -> u64 {
        let query = json!({"ledger": "main", "contract": "counter", "function": "Get",
            "args": [counter]});
        let url = format!("{}/v1/query", self.address);
        let answer: Value = self
            .http
            .post(url)
            .json(&query)
            .send()
            .await
            .expect("answers")
            .json()
            .await
            .expect("JSON");
        answer["result"]
            .as_u64()
            .unwrap_or_else(|| panic!("no number in {answer}"))
    }
}

pub(crate) async fn judge(api: &Api, accepted: &[(String, u64)]) {
    let start = Instant::now();
    while api.get("/v1/ledgers").await["items"][0]["backlog"] != 0 {
        assert!(
            start.elapsed() < PATIENCE,
            "I3: a backlog is left after {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut expected = BTreeMap::new();
    for (id, counter) in accepted {
        let record = api.get(&format!("/v1/transactions/{id}")).await;
        assert_eq!(record["status"], "done", "I1, I3: {record}");
        *expected.entry(*counter).or_insert(0_u64) += 1;
    }
    for (counter, times) in expected {
        assert_eq!(
            api.counter(&format!("c{counter}")).await,
            times,
            "I2: counter {counter}"
        );
    }
    let (mut listed, mut cursor) = (0, String::new());
    loop {
        let page = api.get(&format!("/v1/transactions?limit=500{cursor}")).await;
        listed += page["items"].as_array().expect("items").len();
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(
        listed,
        accepted.len(),
        "I5: one record for each acknowledged request"
    );
}

/// Stops the gateway as an operator would, and has its store checked.
pub(crate) async fn end(mut gateway: Gateway, folder: &Path) {
    let id = gateway.process.id().expect("runs").to_string();
    let told = Command::new("kill")
        .args(["-TERM", &id])
        .status()
        .await
        .expect("runs kill");
    assert!(told.success());
    let status = tokio::time::timeout(PATIENCE, gateway.process.wait())
        .await
        .expect("ends")
        .expect("waits");
    assert!(status.success(), "a graceful stop ends well: {status}");
    let check = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["store", "check"])
        .current_dir(folder)
        .output()
        .await
        .expect("runs");
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
}
