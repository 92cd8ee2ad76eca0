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

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use sluicegate::app;
use sluicegate::clock::SystemClock;
use sluicegate::config::{
    BackendSettings, EmbeddedStoreSettings, Settings, SimulatorSettings, StoreSettings,
};
use sluicegate::domain::{Argument, LedgerName, LedgerTxId, Request};
use sluicegate::kv::{self, EngineKind};
use sluicegate::ledger::LedgerBackend;
use sluicegate::ledger::simulator::SimulatorLedger;
use support::median;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const IN_FLIGHT: u32 = 256;
const ROUNDS: usize = 5;
const SAMPLES: usize = 300;

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

fn request(number: usize) -> Request {
    Request {
        ledger: LedgerName::new("main").expect("valid"),
        contract: "counter".into(),
        function: "Set".into(),
        args: vec![Argument::text(&format!("c{number}")), Argument::text("1")],
        transient: Default::default(),
        conflict_keys: Vec::new(),
        expires_in_seconds: None,
        metadata: Default::default(),
    }
}

/// Awaits outcomes by identifier, as any client of a ledger has to.
struct Direct {
    ledger: SimulatorLedger,
    waiting: Arc<Mutex<HashMap<LedgerTxId, oneshot::Sender<()>>>>,
    _folder: tempfile::TempDir,
}

impl Direct {
    fn open(engine: EngineKind, blocks: SimulatorSettings, tasks: &TaskTracker) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let chain = kv::open(engine, &folder.path().join("chain"), 16 << 20).expect("opens");
        let stop = CancellationToken::new();
        let ledger = SimulatorLedger::open(chain, blocks, Arc::new(SystemClock), tasks, stop).expect("opens");
        let waiting: Arc<Mutex<HashMap<LedgerTxId, oneshot::Sender<()>>>> = Arc::default();
        let (mut outcomes, known) = (ledger.outcomes(), waiting.clone());
        tokio::spawn(async move {
            while let Some(group) = outcomes.next().await {
                for (id, _) in group {
                    let waiter = known.lock().expect("lock").remove(&id);
                    waiter.map(|waiter| waiter.send(()));
                }
            }
        });
        Self {
            ledger,
            waiting,
            _folder: folder,
        }
    }

    async fn run(&self, number: usize) {
        let prepared = self.ledger.prepare(&request(number)).await.expect("prepares");
        let (told, outcome) = oneshot::channel();
        self.waiting
            .lock()
            .expect("lock")
            .insert(prepared.tx_id.clone(), told);
        self.ledger.submit(&prepared).await.expect("submits");
        outcome.await.expect("is told");
    }
}

fn settings(engine: EngineKind, blocks: SimulatorSettings, folder: &std::path::Path) -> Settings {
    let mut settings = Settings::default();
    settings.http.listen.set_port(0);
    settings.store = StoreSettings::Embedded(EmbeddedStoreSettings {
        path: folder.to_owned(),
        engine,
        ..EmbeddedStoreSettings::default()
    });
    let main = settings.ledgers.get_mut("main").expect("main");
    main.backend = BackendSettings::Simulator(blocks);
    main.worker.rate_per_second = 1_000_000.0;
    main.worker.burst = NonZeroU32::new(10_000).expect("not zero");
    main.worker.max_in_flight = NonZeroU32::new(IN_FLIGHT).expect("not zero");
    settings
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
        let tasks = TaskTracker::new();
        let ledger = Direct::open(engine, blocks, &tasks);
        let start = Instant::now();
        let clients = (0..IN_FLIGHT as usize).map(|client| {
            let ledger = &ledger;
            async move {
                for number in (client..transactions).step_by(IN_FLIGHT as usize) {
                    ledger.run(number).await;
                }
            }
        });
        join_all(clients).await;
        let alone = transactions as f64 / start.elapsed().as_secs_f64();
        drop(ledger);

        let folder = tempfile::tempdir().expect("folder");
        let app = app::build(settings(engine, blocks, folder.path()))
            .await
            .expect("builds");
        let gateway = app.gateway().clone();
        // The backlog is there before the worker starts, so only the worker's path is timed.
        for piece in 0..transactions / 500 {
            let accepts = (0..500).map(|n| gateway.accept(request(piece * 500 + n), None));
            for accepted in join_all(accepts).await {
                accepted.expect("accepts");
            }
        }
        let stop = CancellationToken::new();
        let start = Instant::now();
        let running = tokio::spawn(app.run(stop.clone().cancelled_owned()));
        while gateway.pending() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let gated = transactions as f64 / start.elapsed().as_secs_f64();
        stop.cancel();
        running.await.expect("runs").expect("ends well");
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
    let tasks = TaskTracker::new();
    let ledger = Direct::open(engine, blocks, &tasks);
    let folder = tempfile::tempdir().expect("folder");
    let app = app::build(settings(engine, blocks, folder.path()))
        .await
        .expect("builds");
    let gateway = app.gateway().clone();
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone().cancelled_owned()));
    let (mut alone, mut gated) = (Vec::new(), Vec::new());
    for number in 0..SAMPLES {
        let start = Instant::now();
        ledger.run(number).await;
        alone.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let id = gateway
            .accept(request(number), None)
            .await
            .expect("accepts")
            .transaction
            .id;
        let tx = gateway
            .wait(id, Duration::from_secs(10))
            .await
            .expect("reads")
            .expect("is there");
        assert!(tx.is_settled());
        gated.push(start.elapsed().as_secs_f64() * 1e3);
    }
    stop.cancel();
    running.await.expect("runs").expect("ends well");
    let (alone, gated) = (median(alone), median(gated));
    println!("| {engine} | {alone:.2} | {gated:.2} | {:.2} |", gated - alone);
}
