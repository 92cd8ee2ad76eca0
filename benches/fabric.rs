//! The gateway in front of Fabric against a bare client of the same protocol: throughput with the same number in
//! flight, and what the gateway adds to one transaction's latency when idle.
//!
//! `cargo bench --bench fabric` (about two minutes) starts a devnet for each row. With
//! `SLUICEGATE_BENCH_CONFIG=config.toml` it takes the ledger `main` of that file instead, which has to have a
//! chaincode `counter` like the devnet's.
#![allow(
    missing_docs,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark may panic"
)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use sluicegate::clock::SystemClock;
use sluicegate::config::{BackendSettings, FabricSettings};
use sluicegate::kv::EngineKind;
use sluicegate::ledger::fabric::FabricLedger;
use support::ledger::{Direct, latencies, settings, throughput_through};
use support::{Server, median};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const ROUNDS: usize = 5;
const TRANSACTIONS: usize = 3_000;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        println!("| ledger | bare client, tx/s | through the gateway, tx/s | ratio |\n|---|---|---|---|");
        if let Ok(path) = std::env::var("SLUICEGATE_BENCH_CONFIG") {
            let fabric = ledger_of(Path::new(&path));
            throughput("as configured", &fabric).await;
            return latency("as configured", &fabric).await;
        }
        for (name, count, timeout) in [
            ("blocks of 100 or 20 ms", "100", "20"),
            ("blocks of 500 or 500 ms", "500", "500"),
        ] {
            let devnet = Devnet::start(count, timeout);
            throughput(name, &devnet.ledger).await;
        }
        // Blocks of one: the ledger answers as fast as it can, so the gateway's share stands out.
        let devnet = Devnet::start("1", "500");
        latency("blocks of one", &devnet.ledger).await;
    });
}

struct Devnet {
    ledger: FabricSettings,
    _server: Server,
    _folder: tempfile::TempDir,
}

impl Devnet {
    fn start(count: &str, timeout: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
        command
            .args(["devnet", "--listen", "127.0.0.1:0", "--data"])
            .arg(folder.path().join("devnet"));
        command.args(["--max-message-count", count, "--batch-timeout-ms", timeout]);
        let server = Server::start(command);
        Self {
            ledger: ledger_of(&folder.path().join("devnet/gateway.toml")),
            _server: server,
            _folder: folder,
        }
    }
}

fn ledger_of(config: &Path) -> FabricSettings {
    let settings = sluicegate::config::load(Some(config))
        .expect("a configuration")
        .settings;
    match settings.ledgers.get("main").map(|ledger| &ledger.backend) {
        Some(BackendSettings::Fabric(fabric)) => fabric.as_ref().clone(),
        other => panic!("ledger main is not of kind fabric: {other:?}"),
    }
}

fn bare(fabric: &FabricSettings) -> Direct {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let ledger = FabricLedger::open(fabric.clone(), Arc::new(SystemClock), &tasks, stop).expect("opens");
    Direct::new(Arc::new(ledger))
}

async fn throughput(name: &str, fabric: &FabricSettings) {
    let (mut direct, mut through, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let alone = bare(fabric).throughput(TRANSACTIONS).await;
        let folder = tempfile::tempdir().expect("folder");
        let backend = BackendSettings::Fabric(Box::new(fabric.clone()));
        let gated =
            throughput_through(settings(backend, EngineKind::Redb, folder.path()), TRANSACTIONS).await;
        direct.push(alone);
        through.push(gated);
        ratios.push(gated / alone);
    }
    println!(
        "| {name} | {:.0} | {:.0} | {:.2} |",
        median(direct),
        median(through),
        median(ratios)
    );
}

async fn latency(name: &str, fabric: &FabricSettings) {
    let folder = tempfile::tempdir().expect("folder");
    let backend = BackendSettings::Fabric(Box::new(fabric.clone()));
    let (alone, gated) = latencies(&bare(fabric), settings(backend, EngineKind::Redb, folder.path())).await;
    println!(
        "\n| ledger | bare client p50 ms | accept to done p50 ms | the gateway's share ms |\n|---|---|---|---|"
    );
    println!("| {name} | {alone:.2} | {gated:.2} | {:.2} |", gated - alone);
}
