//! Clients that post transactions, and repeat each with its idempotency key until it is acknowledged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sluicegate::clock::{Clock, SystemClock};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::site::Addresses;
use crate::support::{DEADLINE, http};

const COUNTERS: u64 = 200;
/// Few enough for their transactions to meet in a block.
const HOT_COUNTERS: u64 = 4;

static RUNS: AtomicU64 = AtomicU64::new(0);

/// An acknowledged transaction.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    /// What it adds 1 to; `None` if the ledger has to refuse it.
    pub(crate) counter: Option<String>,
    /// When the acknowledgement came, in ms since 1970.
    pub(crate) at: u64,
    /// How long the successful try took.
    pub(crate) took: Duration,
    /// How many tries it needed.
    pub(crate) tries: usize,
    /// How many of them were answered 503.
    pub(crate) refused: usize,
}

impl Accepted {
    /// Has one more accepted, by this node, at the first try.
    pub(crate) async fn by(node: &Node, counter: &str) -> Self {
        let body = json!({"ledger": "main", "contract": "counter", "function": "Add", "args": [counter, 1]});
        let (begun, request) = (
            Instant::now(),
            http().post(format!("{}/v1/transactions", node.address)),
        );
        let answer = request.json(&body).send().await.expect("answers");
        assert_eq!(answer.status(), 202);
        let record: Value = answer.json().await.expect("JSON");
        Self {
            id: record["id"].as_str().expect("an id").to_owned(),
            counter: Some(counter.to_owned()),
            at: SystemClock.now().as_millis(),
            took: begun.elapsed(),
            tries: 1,
            refused: 0,
        }
    }

    /// When the gateway says that it was accepted, in ms since 1970: it is in the id.
    pub(crate) fn dated(&self) -> u64 {
        let digits: String = self.id.chars().filter(|digit| *digit != '-').take(12).collect();
        u64::from_str_radix(&digits, 16).expect("a UUID of version 7")
    }
}

/// What clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// `Add`s that hardly ever conflict.
    Plain,
    /// Some to the same few counters, some that the ledger refuses, and some sent once more after the
    /// acknowledgement, as a client does that lost it.
    Mixed,
}

/// Clients under way.
pub(crate) struct Load {
    clients: JoinSet<()>,
    accepted: Log,
    hold: Hold,
    stop: CancellationToken,
}

/// What was acknowledged so far, oldest first.
pub(crate) type Log = Arc<Mutex<Vec<Accepted>>>;

/// Whether clients have to wait.
pub(crate) type Hold = Arc<watch::Sender<bool>>;

struct Client {
    name: String,
    demand: Demand,
    http: reqwest::Client,
    addresses: watch::Receiver<Addresses>,
    random: StdRng,
    /// Whose turn it is.
    turn: usize,
    /// Answers 503 since the last acknowledgement.
    refused: usize,
}

impl Load {
    /// Starts `clients` clients, each with a pause between two requests. Each goes through the addresses in
    /// turn, and takes the next one when a try fails.
    pub(crate) fn start(clients: u64, pause: Duration, addresses: &watch::Sender<Addresses>) -> Self {
        Self::of(Demand::Plain, clients, pause, addresses)
    }

    pub(crate) fn of(
        demand: Demand,
        clients: u64,
        pause: Duration,
        addresses: &watch::Sender<Addresses>,
    ) -> Self {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let (stop, accepted, hold) = (CancellationToken::new(), Log::default(), Hold::default());
        let mut set = JoinSet::new();
        for number in 0..clients {
            let mut client = Client {
                name: format!("run-{run}-client-{number}"),
                demand,
                http: http(),
                addresses: addresses.subscribe(),
                random: StdRng::seed_from_u64(run * 1_000 + number),
                turn: usize::try_from(number).expect("small"),
                refused: 0,
            };
            let (stop, log, mut held) = (stop.clone(), Arc::clone(&accepted), hold.subscribe());
            set.spawn(async move {
                let mut count = 0;
                while !stop.is_cancelled() {
                    let done = client.one(count).await;
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(done);
                    count += 1;
                    tokio::time::sleep(pause).await;
                    tokio::select! {
                        () = stop.cancelled() => {}
                        // The run ends with whoever holds them.
                        _ = held.wait_for(|held| !held) => {}
                    }
                }
            });
        }
        Self {
            clients: set,
            accepted,
            hold,
            stop,
        }
    }

    /// Set to `true`, it lets no client begin anything new.
    pub(crate) fn hold(&self) -> Hold {
        Arc::clone(&self.hold)
    }

    /// What is acknowledged so far, and will be.
    pub(crate) fn log(&self) -> Log {
        Arc::clone(&self.accepted)
    }

    /// Lets every client finish what it is at.
    pub(crate) async fn finish(self) -> Vec<Accepted> {
        self.stop.cancel();
        let all = tokio::time::timeout(DEADLINE, self.clients.join_all());
        all.await
            .expect("I3: all is well, and clients are not acknowledged");
        let accepted = std::mem::take(&mut *self.accepted.lock().unwrap_or_else(PoisonError::into_inner));
        assert!(
            accepted.len() > 20,
            "the clients hardly got through: {}",
            accepted.len()
        );
        accepted
    }
}

impl Client {
    /// Has one transaction accepted.
    async fn one(&mut self, count: u64) -> Accepted {
        let mixed = self.demand == Demand::Mixed;
        let key = format!("{}-{count}", self.name);
        let counter = if mixed && self.random.random_ratio(1, 12) {
            Some(format!("hot{}", self.random.random_range(0..HOT_COUNTERS)))
        } else if mixed && self.random.random_ratio(1, 25) {
            None
        } else {
            Some(format!("c{}", self.random.random_range(0..COUNTERS)))
        };
        let body = match &counter {
            Some(counter) => {
                json!({"ledger": "main", "contract": "counter", "function": "Add", "args": [counter, 1]})
            }
            None => json!({"ledger": "main", "contract": "basic", "function": "ReadAsset", "args": ["none"]}),
        };
        let mut tries = 0;
        let (id, took) = loop {
            tries += 1;
            let at = Instant::now();
            if let Some(id) = self.post(&key, &body).await {
                break (id, at.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        if mixed
            && self.random.random_ratio(1, 4)
            && let Some(again) = self.post(&key, &body).await
        {
            assert_eq!(again, id, "I5: a repeat is the same transaction");
        }
        Accepted {
            id,
            counter,
            at: SystemClock.now().as_millis(),
            took,
            tries,
            refused: std::mem::take(&mut self.refused),
        }
    }

    /// One try. Anything but an acknowledgement or "not now" fails the test.
    async fn post(&mut self, key: &str, body: &Value) -> Option<String> {
        self.turn += 1;
        let address = {
            let all = self.addresses.borrow();
            all.values().nth(self.turn % all.len()).expect("one").clone()
        };
        let request = self.http.post(format!("{address}/v1/transactions"));
        let answer = request.header("Idempotency-Key", key).json(body).send().await;
        let answer = answer.ok()?;
        let status = answer.status();
        let waits = answer.headers().contains_key("retry-after");
        let record: Value = answer.json().await.ok()?;
        if status == 503 {
            assert!(waits, "a 503 says when to come again");
            self.refused += 1;
            return None;
        }
        assert!(status.is_success(), "{status}: {record}");
        Some(record["id"].as_str().expect("an id").to_owned())
    }
}

/// The slowest of all.
pub(crate) fn slowest(accepted: &[Accepted]) -> Duration {
    accepted.iter().map(|one| one.took).max().unwrap_or_default()
}
