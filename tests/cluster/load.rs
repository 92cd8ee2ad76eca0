//! Clients that post `Add`s, and repeat each with its idempotency key until it is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::http;

pub(crate) const COUNTERS: u64 = 200;

static RUNS: AtomicU64 = AtomicU64::new(0);

/// An acknowledged transaction.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) counter: u64,
    /// How long the successful try took.
    pub(crate) took: Duration,
    /// How many tries it needed.
    pub(crate) tries: usize,
}

/// Clients under way.
pub(crate) struct Load {
    clients: JoinSet<Vec<Accepted>>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts `clients` clients, each with a pause between two requests. Each goes through the addresses in
    /// turn, and takes the next one when a try fails.
    pub(crate) fn start(clients: u64, pause: Duration, addresses: &watch::Sender<Vec<String>>) -> Self {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let mut set = JoinSet::new();
        for number in 0..clients {
            let name = format!("run-{run}-client-{number}");
            set.spawn(client(
                name,
                run * 1_000 + number,
                pause,
                addresses.subscribe(),
                stop.clone(),
            ));
        }
        Self { clients: set, stop }
    }

    /// Lets every client finish what it is at.
    pub(crate) async fn finish(self) -> Vec<Accepted> {
        self.stop.store(true, Ordering::Relaxed);
        let accepted: Vec<_> = self.clients.join_all().await.into_iter().flatten().collect();
        assert!(
            accepted.len() > 20,
            "the clients hardly got through: {}",
            accepted.len()
        );
        accepted
    }
}

async fn client(
    name: String,
    seed: u64,
    pause: Duration,
    addresses: watch::Receiver<Vec<String>>,
    stop: Arc<AtomicBool>,
) -> Vec<Accepted> {
    let http = http();
    let mut random = StdRng::seed_from_u64(seed);
    let mut accepted = Vec::new();
    let mut turn = seed as usize;
    while !stop.load(Ordering::Relaxed) {
        let counter = random.random_range(0..COUNTERS);
        let key = format!("{name}-{}", accepted.len());
        let body = json!({"ledger": "main", "contract": "counter", "function": "Add",
            "args": [format!("c{counter}"), 1]});
        let mut tries = 0;
        let done = loop {
            tries += 1;
            turn += 1;
            let address = {
                let all = addresses.borrow();
                all[turn % all.len()].clone()
            };
            let at = Instant::now();
            if let Some(id) = post(&http, &address, &key, &body).await {
                break Accepted {
                    id,
                    counter,
                    took: at.elapsed(),
                    tries,
                };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        accepted.push(done);
        tokio::time::sleep(pause).await;
    }
    accepted
}

/// One try. Anything but an acknowledgement or "not now" fails the test.
async fn post(http: &reqwest::Client, address: &str, key: &str, body: &Value) -> Option<String> {
    let request = http.post(format!("{address}/v1/transactions"));
    let answer = request
        .header("Idempotency-Key", key)
        .json(body)
        .send()
        .await
        .ok()?;
    let status = answer.status();
    let waits = answer.headers().contains_key("retry-after");
    let record: Value = answer.json().await.ok()?;
    if status == 503 {
        assert!(waits, "a 503 says when to come again");
        return None;
    }
    assert!(status.is_success(), "{status}: {record}");
    Some(record["id"].as_str().expect("an id").to_owned())
}

/// The slowest of all.
pub(crate) fn slowest(accepted: &[Accepted]) -> Duration {
    accepted.iter().map(|one| one.took).max().unwrap_or_default()
}
