//! Clients that read what was acknowledged again and again: it stays there, and moves as it may (I1, I8).

use std::sync::PoisonError;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::load::Log;
use crate::moves::Memory;
use crate::site::Addresses;
use crate::support::http;

/// Most look at what is under way, the rest at anything there is.
const RECENT: usize = 60;
/// A record is read so often in a row.
const READS: usize = 4;

/// Observers under way.
pub(crate) struct Observers {
    tasks: JoinSet<Observed>,
    stop: CancellationToken,
}

/// What they saw.
#[derive(Default)]
pub(crate) struct Observed {
    pub(crate) reads: u64,
    pub(crate) objections: Vec<String>,
}

impl Observers {
    pub(crate) fn start(count: u64, log: &Log, addresses: &watch::Sender<Addresses>) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for number in 0..count {
            tasks.spawn(observe(number, log.clone(), addresses.subscribe(), stop.clone()));
        }
        Self { tasks, stop }
    }

    pub(crate) async fn finish(self) -> Observed {
        self.stop.cancel();
        let mut all = Observed::default();
        for one in self.tasks.join_all().await {
            all.reads += one.reads;
            all.objections.extend(one.objections);
        }
        all
    }
}

async fn observe(
    seed: u64,
    log: Log,
    addresses: watch::Receiver<Addresses>,
    stop: CancellationToken,
) -> Observed {
    let (http, mut random) = (http(), StdRng::seed_from_u64(seed));
    let (mut memory, mut observed) = (Memory::default(), Observed::default());
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let id = {
            let log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.is_empty() {
                continue;
            }
            let from = if random.random_ratio(1, 4) {
                0
            } else {
                log.len().saturating_sub(RECENT)
            };
            log[random.random_range(from..log.len())].id.clone()
        };
        for _ in 0..READS {
            let address = {
                let all = addresses.borrow();
                let nth = random.random_range(0..all.len());
                all.values().nth(nth).expect("one").clone()
            };
            match read(&http, &format!("{address}/v1/transactions/{id}")).await {
                Ok(Some(record)) => {
                    observed.reads += 1;
                    observed.objections.extend(memory.note(&id, &record).err());
                }
                Ok(None) => {}
                Err(objection) => observed.objections.push(objection),
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(1..40))).await;
        }
    }
    observed
}

/// The record; nothing if the gateway cannot answer now.
async fn read(http: &reqwest::Client, url: &str) -> Result<Option<Value>, String> {
    let Ok(answer) = http.get(url).send().await else {
        return Ok(None);
    };
    let status = answer.status();
    let Ok(body) = answer.json::<Value>().await else {
        return Ok(None);
    };
    match status.as_u16() {
        200 => Ok(Some(body)),
        503 => Ok(None),
        404 => Err(format!("I1: acknowledged and not there: {url}")),
        _ => Err(format!("{url}: {status} {body}")),
    }
}
