//! Durable inserts per second through `PostgresStore` against raw multi-row inserts of the same rows.
//!
//! `cargo bench --bench postgres` (about four minutes; starts a PostgreSQL of its own on this machine). Raw is
//! the least that has to be done: the same two tables with the same indexes, rows prepared beforehand, groups
//! of the size that the store forms, on as many connections as it writes with, a commit with fsync for each
//! group. Each round runs the store and raw, in turn first; the ratio is taken per round, the median printed.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark may panic")]

mod support;

#[path = "../tests/support/postgres.rs"]
mod postgres;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sluicegate::clock::{Clock, SystemClock};
use sluicegate::config::{PostgresSettings, ServerUrl};
use sluicegate::domain::{LedgerName, Request, Transaction};
use sluicegate::store::postgres::{PostgresStore, migrate};
use sluicegate::store::{Inserted, TransactionStore};
use sluicegate::telemetry::metrics::Metrics;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;
use uuid::Uuid;

use support::median;

const ROUNDS: usize = 7;
const RUN: Duration = Duration::from_secs(3);
/// As many as the store has insert statements under way.
const RAW_CONNECTIONS: usize = 2;

const RAW: &str = "\
WITH stored AS (
    INSERT INTO transactions (id, ledger, contract, function, created_at, idempotency_key, metadata, request)
    SELECT id, 'main', 'counter', 'Set', now(), key, metadata::jsonb, request::json
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS i (id, key, metadata, request)
)
INSERT INTO work (ledger, transaction_id, version, stage, attempts, conflicts, outages, updated_at, due_at,
                  first_try, progress)
SELECT 'main', id, 1, 'queued', 0, 0, 0, now(), 0, true, progress
FROM unnest($1::uuid[], $5::text[]) AS i (id, progress)";

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let server = postgres::shared();
    println!(
        "| callers | idempotency keys | store per second | rows per commit | p50 ms | p99 ms | raw per second | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for callers in [64, 256] {
        for keys in [false, true] {
            runtime.block_on(compare(server, callers, keys));
        }
    }
}

async fn compare(server: &postgres::Server, callers: u64, keys: bool) {
    let (mut rates, mut sizes, mut p50s, mut p99s) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut raws, mut ratios) = (Vec::new(), Vec::new());
    // The size of a group is the store's to find; raw takes what it was in the round before.
    let mut group = through_the_store(&server.database(), callers, keys).await.group;
    for round in 0..ROUNDS {
        let size = group.round().max(1.0) as usize;
        // Each in a database of its own, and each goes first in every other round.
        let (measured, raw) = if round % 2 == 0 {
            let measured = through_the_store(&server.database(), callers, keys).await;
            (measured, raw(&server.database(), size, keys).await)
        } else {
            let raw = raw(&server.database(), size, keys).await;
            (through_the_store(&server.database(), callers, keys).await, raw)
        };
        group = measured.group;
        rates.push(measured.per_second);
        sizes.push(measured.group);
        p50s.push(measured.p50);
        p99s.push(measured.p99);
        ratios.push(measured.per_second / raw);
        raws.push(raw);
    }
    println!(
        "| {callers} | {} | {:.0} | {:.0} | {:.1} | {:.1} | {:.0} | {:.2} |",
        if keys { "yes" } else { "no" },
        median(rates),
        median(sizes),
        median(p50s),
        median(p99s),
        median(raws),
        median(ratios),
    );
}

fn settings(url: &str) -> PostgresSettings {
    PostgresSettings {
        url: ServerUrl::parse(url, &["postgres"]).expect("an address"),
        max_connections: NonZeroU32::new(8).expect("not zero"),
        timeout: Duration::from_secs(20),
        migrate: true,
    }
}

struct Measured {
    per_second: f64,
    /// Rows in a commit, on average.
    group: f64,
    p50: f64,
    p99: f64,
}

async fn through_the_store(url: &str, callers: u64, keys: bool) -> Measured {
    let metrics = Metrics::new().expect("metrics");
    let store = PostgresStore::connect(&settings(url), metrics.store()).await;
    let store = Arc::new(store.expect("connects"));
    // Statements are prepared, the first pages are there.
    load(&store, callers, keys, Duration::from_millis(500)).await;
    let before = commits(&metrics);
    let (latencies, took) = load(&store, callers, keys, RUN).await;
    let (rows, groups) = commits(&metrics);
    Measured {
        per_second: latencies.len() as f64 / took.as_secs_f64(),
        group: (rows - before.0) / (groups - before.1),
        p50: latencies.value_at_quantile(0.5) as f64 / 1e3,
        p99: latencies.value_at_quantile(0.99) as f64 / 1e3,
    }
}

async fn load(
    store: &Arc<PostgresStore>,
    callers: u64,
    keys: bool,
    run: Duration,
) -> (Histogram<u64>, Duration) {
    let mut all = Histogram::<u64>::new(3).expect("histogram");
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for caller in 0..callers {
        let store = store.clone();
        tasks.spawn(async move {
            let mut latencies = Histogram::<u64>::new(3).expect("histogram");
            let mut number = 0;
            while start.elapsed() < run {
                let key = keys.then(|| key(caller, number));
                let tx = Transaction::accept(request(caller, number), key, SystemClock.now());
                let sent = Instant::now();
                let inserted = store.insert(&tx).await.expect("inserts");
                assert!(matches!(inserted, Inserted::Created));
                let took = u64::try_from(sent.elapsed().as_micros()).expect("short");
                latencies.record(took).expect("records");
                number += 1;
            }
            latencies
        });
    }
    for latencies in tasks.join_all().await {
        all.add(latencies).expect("adds");
    }
    (all, start.elapsed())
}

fn key(caller: u64, number: u64) -> String {
    // The id of the run keeps the warm-up's apart.
    format!("{}-{caller}-{number}", Uuid::now_v7().simple())
}

/// What a body of about 600 bytes asks for.
fn request(caller: u64, number: u64) -> Request {
    let label = |name: &str, value: String| (name.to_owned(), value);
    Request {
        ledger: LedgerName::new("main").expect("a name"),
        contract: "counter".to_owned(),
        function: "Set".to_owned(),
        args: vec![
            sluicegate::domain::Argument::text(&format!("c{caller}-{number}")),
            sluicegate::domain::Argument::text("1"),
        ],
        transient: BTreeMap::new(),
        conflict_keys: Vec::new(),
        expires_in_seconds: None,
        not_before: None,
        callback_url: None,
        metadata: BTreeMap::from([
            label("order", format!("4711-{number}")),
            label("note", "x".repeat(200)),
            label("more", "x".repeat(250)),
        ]),
    }
}

/// Rows and groups committed so far.
fn commits(metrics: &Metrics) -> (f64, f64) {
    metrics.fold_samples();
    let text = metrics.render();
    let value = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .expect("the metric");
        line.rsplit(' ')
            .next()
            .and_then(|value| value.parse().ok())
            .expect("a number")
    };
    (
        value("sluicegate_store_commit_size_sum"),
        value("sluicegate_store_commit_size_count"),
    )
}

/// Rows per second by the least that has to be done.
async fn raw(url: &str, group: usize, keys: bool) -> f64 {
    migrate(&settings(url)).await.expect("migrates");
    let stored = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for connection in 0..RAW_CONNECTIONS as u64 {
        let (url, stored) = (url.to_owned(), stored.clone());
        tasks.spawn(async move {
            let mut database = PgConnection::connect(&url).await.expect("connects");
            let rows: Vec<(String, String)> = (0..group as u64)
                .map(|number| {
                    let request = request(connection, number);
                    let metadata = serde_json::to_string(&request.metadata).expect("JSON");
                    (metadata, serde_json::to_string(&request).expect("JSON"))
                })
                .collect();
            let progress = r#"{"created_at":1767225600007,"updated_at":1767225600007,"state":{"pending":{"due_at":1767225600007}},"attempts":0,"conflicts":0,"outages":0}"#;
            let mut number = 0;
            // Warm, as the store's were.
            for warm in [Duration::from_millis(500), RUN] {
                if warm == RUN {
                    stored.store(0, Ordering::Relaxed);
                }
                let start = Instant::now();
                while start.elapsed() < warm {
                    number += 1;
                    sqlx::query(RAW)
                        .bind((0..group).map(|_| Uuid::now_v7()).collect::<Vec<_>>())
                        .bind((0..group).map(|_| keys.then(|| key(connection, number))).collect::<Vec<_>>())
                        .bind(rows.iter().map(|(metadata, _)| metadata.as_str()).collect::<Vec<_>>())
                        .bind(rows.iter().map(|(_, request)| request.as_str()).collect::<Vec<_>>())
                        .bind(vec![progress; group])
                        .execute(&mut database)
                        .await
                        .expect("inserts");
                    stored.fetch_add(group as u64, Ordering::Relaxed);
                }
            }
        });
    }
    tasks.join_all().await;
    stored.load(Ordering::Relaxed) as f64 / RUN.as_secs_f64()
}
