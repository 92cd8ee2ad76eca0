//! The worker's path against a direct client of the same ledger: throughput with the same number in flight,
//! and what the gateway adds to one transaction's latency when idle.
//!
//! `cargo bench --bench worker` (about a minute).
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark may panic"
)]

mod support;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use sluicegate::clock::SystemClock;
use sluicegate::config::{BackendSettings, SimulatorSettings};
use sluicegate::kv::{self, EngineKind};
use sluicegate::ledger::simulator::SimulatorLedger;
use support::ledger::{Direct, latencies, settings, throughput_through};
use support::median;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        println!(
            "| ledger | engine | direct, tx/s | through the gateway, tx/s | ratio |\n|---|---|---|---|---|"
        );
        for engine in EngineKind::ALL {
            throughput(
                "as fast as it can",
                engine,
                100,
                Duration::from_millis(20),
                20_000,
            )
            .await;
            throughput(
                "a block every 100 ms",
                engine,
                1_000,
                Duration::from_millis(100),
                5_000,
            )
            .await;
        }
        println!(
            "\n| engine | direct p50 ms | accept to done p50 ms | the gateway's share ms |\n|---|---|---|---|"
        );
        for engine in EngineKind::ALL {
            latency(engine).await;
        }
    });
}

fn open(engine: EngineKind, blocks: SimulatorSettings, folder: &std::path::Path) -> Direct {
    let chain = kv::open(engine, &folder.join("direct"), 16 << 20).expect("opens");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let ledger = SimulatorLedger::open(chain, blocks, Arc::new(SystemClock), &tasks, stop).expect("opens");
    Direct::new(Arc::new(ledger))
}

async fn throughput(
    name: &str,
    engine: EngineKind,
    count: u32,
    batch_timeout: Duration,
    transactions: usize,
) {
    let max_message_count = NonZeroU32::new(count).expect("not zero");
    let blocks = SimulatorSettings {
        batch_timeout,
        max_message_count,
    };
    let (mut direct, mut through, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let folder = tempfile::tempdir().expect("folder");
        let alone = open(engine, blocks, folder.path()).throughput(transactions).await;
        let backend = BackendSettings::Simulator(blocks);
        let gated = throughput_through(settings(backend, engine, folder.path()), transactions).await;
        direct.push(alone);
        through.push(gated);
        ratios.push(gated / alone);
    }
    println!(
        "| {name} | {engine} | {:.0} | {:.0} | {:.2} |",
        median(direct),
        median(through),
        median(ratios)
    );
}

async fn latency(engine: EngineKind) {
    // Blocks of one: the ledger answers as fast as it can, so the gateway's share stands out.
    let blocks = SimulatorSettings {
        batch_timeout: Duration::from_millis(500),
        max_message_count: NonZeroU32::MIN,
    };
    let folder = tempfile::tempdir().expect("folder");
    let direct = open(engine, blocks, folder.path());
    let backend = BackendSettings::Simulator(blocks);
    let (alone, gated) = latencies(&direct, settings(backend, engine, folder.path())).await;
    println!("| {engine} | {alone:.2} | {gated:.2} | {:.2} |", gated - alone);
}
