//! `sluicegate bench run`: a load on a running gateway.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::super::answer::ClientError;
use super::super::client::Client;
use super::super::serve::allow_many_connections;
use super::super::submit::random_key;
use super::super::{AddressArgs, GatewayArgs};
use super::call::Body;
use super::drive::{Order, Target};
use super::follow::{Breaks, ENDINGS, Stream};
use super::load::{Load, LoadArgs};
use super::recorder::Recorder;
use super::report::{Kind, Lane};
use super::session::{Besides, Session};
use crate::domain::LedgerName;

/// Put a load on a running gateway and measure it
///
/// With --rate, transactions are due by a schedule that waits for no answer, and all latencies count from the moment at
/// which a transaction was due: a gateway that stalls shows with every transaction that it kept waiting (no coordinated
/// omission). With --connections, each of so many callers sends when it has its answer; that finds the highest
/// throughput, and says less about latency.
///
/// Accept latency ends when the answer 202 has been read. End-to-end latency ends when the event that says done or failed
/// has been read, from /v1/events, by the label bench=RUN that all transactions of a run carry; both by the clock of this
/// process. No request is repeated: a refusal is counted by its code. Fairness is Jain's index, (sum x)^2 / (n * sum x^2),
/// over the keys of {key}, x being the mean end-to-end latency, or number of tries, of the transactions with that key: 1 if
/// all keys are served alike, 1/n if one bears it all; and the same over single transactions.
///
/// Ctrl-C ends it early; what was measured is shown and written. Exit status: 0 after a whole run, 1 if the gateway cannot
/// be used or nothing was accepted, 130 after Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate bench run --rate 200 --contract counter --function Add --args '[\"{key}\", 1]'
  sluicegate bench run --rate 500 --arrivals poisson --keys zipf:1000:0.99 --duration 60 \\
      --contract counter --function Add --args '[\"{key}\", 1]' --json zipf.json --html zipf.html
  sluicegate bench run --connections 64 --accept-only --contract counter --function Set --args '[\"{run}-{n}\", 1]'
  sluicegate bench run --rate 100 --mix '9 counter Add [\"{key}\", 1]' --mix '1 basic ReadAsset [\"{key}\"]'")]
pub(super) struct RunArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Do not follow the transactions to their end: neither end-to-end latency nor tries, and less work for both sides
    #[arg(long)]
    accept_only: bool,
    /// Send a fresh Idempotency-Key with each request
    #[arg(long)]
    idempotency_keys: bool,
    #[command(flatten)]
    address: AddressArgs,
}

pub(super) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let url = args.address.url.clone();
    let (load, files) = args.load.check()?;
    allow_many_connections();
    let client = Arc::new(Client::new(&GatewayArgs {
        address: args.address,
        tries: 1,
    })?);
    let run = Uuid::now_v7().to_string();
    let counted = lane(&client, &load.ledger).await;
    let lane = counted.map_err(|error| {
        let what = match &error {
            ClientError::Refused(refusal) if refusal.status == 404 => {
                format!("--ledger {}: name one that the gateway has", load.ledger)
            }
            ClientError::Refused(_) => {
                "the gateway refuses this caller; give an API key with SLUICEGATE_KEY".to_owned()
            }
            ClientError::Unreachable { .. } | ClientError::Strange { .. } => no_gateway(&url),
        };
        anyhow::Error::new(error).context(what)
    })?;
    let mut streams = Vec::new();
    if !args.accept_only {
        for ending in ENDINGS {
            let stream = Stream::open(&client, ending, &run).await;
            streams.push(
                stream.context("follow transactions at /v1/events (or leave that out with --accept-only)")?,
            );
        }
    }
    let bodies = Bodies::new(&load, &run)?;
    let (timeout, ledger) = (load.timeout, load.ledger.clone());
    let session = Session::new(
        load,
        files,
        run,
        Kind::Gateway,
        without_credentials(&url),
        !args.accept_only,
    );
    let breaks = Arc::new(Breaks::default());
    let mut background = JoinSet::new();
    for stream in streams {
        background.spawn(stream.follow(session.recorder.clone(), breaks.clone()));
    }
    let (start, counting) = (session.recorder.start(), client.clone());
    let mut before = JoinSet::new();
    if lane.is_some() {
        let ledger = ledger.clone();
        before.spawn(async move {
            tokio::time::sleep_until(start.into()).await;
            self::lane(&counting, &ledger).await.ok().flatten()
        });
    }
    let target = Arc::new(Gateway {
        client: client.clone(),
        recorder: session.recorder.clone(),
        bodies,
        timeout,
        idempotency_keys: args.idempotency_keys,
    });
    session
        .go(target, async || {
            let begun = before.try_join_next().and_then(Result::ok).flatten();
            let now = self::lane(&client, &ledger).await.ok().flatten();
            let mut notes = Vec::new();
            let broken = breaks.broken.load(Ordering::Relaxed);
            if broken > 0 {
                notes.push(format!(
                    "The event streams broke {broken} times; end-to-end latencies of what settled then are too long."
                ));
            }
            if breaks.gaps.load(Ordering::Relaxed) > 0 {
                notes.push(
                    "Events were missed: some of what counts as pending may be settled. `sluicegate list` tells.".to_owned(),
                );
            }
            Besides {
                lane: begun.zip(now).and_then(|(begun, now)| now.since(begun)),
                notes,
            }
        })
        .await
}

fn no_gateway(url: &str) -> String {
    let url = without_credentials(url);
    format!("no gateway can be used at {url}; start one with `sluicegate serve`, or name another with --url")
}

/// The address as it may stand in a report.
fn without_credentials(url: &str) -> String {
    match url.split_once("://") {
        Some((_, rest)) => rest.rsplit_once('@').map_or(rest, |(_, host)| host).to_owned(),
        None => url.to_owned(),
    }
}

/// The counters of a lane.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Counters {
    submissions: u64,
    conflicts: u64,
}

impl Counters {
    /// `None` if the process that counts was started anew in between.
    fn since(self, begun: Self) -> Option<Lane> {
        let submissions = self.submissions.checked_sub(begun.submissions)?;
        let conflicts = self.conflicts.checked_sub(begun.conflicts)?;
        Some(Lane {
            submissions,
            conflicts,
            conflict_share: conflicts as f64 / submissions.max(1) as f64,
        })
    }
}

/// What the gateway counts for a ledger. `None` if this caller may not ask.
async fn lane(client: &Client, ledger: &LedgerName) -> Result<Option<Counters>, ClientError> {
    match client.get_json(&format!("/v1/ledgers/{ledger}"), &[]).await {
        Ok(json) => client.parse(&json).map(Some),
        Err(ClientError::Refused(refusal)) if refusal.status == 403 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Each call as it is sent: in the warm-up, and after it.
struct Bodies {
    warm_up: Vec<Body>,
    measured: Vec<Body>,
}

impl Bodies {
    fn new(load: &Load, run: &str) -> serde_json::Result<Self> {
        let all = |label: &str| -> serde_json::Result<Vec<Body>> {
            let calls = load.calls.iter();
            calls
                .map(|call| Body::new(call, load.ledger.as_str(), run, label))
                .collect()
        };
        Ok(Self {
            // Events of the warm-up are not followed.
            warm_up: all(&format!("{run}-warm-up"))?,
            measured: all(run)?,
        })
    }

    fn of(&self, order: &Order) -> String {
        let bodies = if order.measured {
            &self.measured
        } else {
            &self.warm_up
        };
        bodies
            .get(order.call)
            .map_or_else(String::new, |body| body.text(order.key, order.number))
    }
}

/// A gateway that takes transactions over HTTP.
struct Gateway {
    client: Arc<Client>,
    recorder: Arc<Recorder>,
    bodies: Bodies,
    timeout: Duration,
    idempotency_keys: bool,
}

impl Target for Gateway {
    async fn send(&self, order: Order) {
        let key = self.idempotency_keys.then(random_key);
        let answer = self
            .client
            .submit_once(self.bodies.of(&order), key.as_ref(), self.timeout)
            .await;
        let now = Instant::now();
        match answer {
            Ok(record) => match record.id.parse() {
                Ok(id) => self.recorder.accepted(&order, id, now),
                Err(_) => self
                    .recorder
                    .unanswered(&order, "an id that is none".to_owned(), now),
            },
            Err(ClientError::Refused(refusal)) => {
                let code = match &refusal.code {
                    Some(code) => code.clone(),
                    None => format!("HTTP {}", refusal.status),
                };
                self.recorder.refused(&order, &code, &refusal.to_string(), now);
            }
            Err(ClientError::Unreachable { reason, .. } | ClientError::Strange { reason, .. }) => {
                self.recorder.unanswered(&order, reason, now);
            }
        }
    }
}
