//! A ledger driven directly, as any client of it has to, and through a gateway.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark may panic"
)]

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use sluicegate::app;
use sluicegate::config::{BackendSettings, EmbeddedStoreSettings, Settings, StoreSettings};
use sluicegate::domain::{Argument, LedgerName, LedgerTxId, Outcome, Request, SubmissionId, TransactionId};
use sluicegate::gateway::Caller;
use sluicegate::kv::EngineKind;
use sluicegate::ledger::LedgerBackend;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::median;

/// Transactions under way at the same time, either way.
pub const IN_FLIGHT: u32 = 256;
const SAMPLES: usize = 300;

/// Sets a counter of its own, so that nothing conflicts.
pub fn request(number: usize) -> Request {
    let args = vec![Argument::text(&format!("c{number}")), Argument::text("1")];
    Request::call(LedgerName::new("main").expect("valid"), "counter", "Set", args)
}

/// A gateway without limits of its own, in front of one ledger.
pub fn settings(backend: BackendSettings, engine: EngineKind, folder: &std::path::Path) -> Settings {
    let mut settings = Settings::default();
    settings.http.listen.set_port(0);
    settings.store = StoreSettings::Embedded(EmbeddedStoreSettings {
        path: folder.to_owned(),
        engine,
        ..EmbeddedStoreSettings::default()
    });
    let main = settings.ledgers.get_mut("main").expect("main");
    main.backend = backend;
    main.worker.rate_per_second = 1_000_000.0;
    main.worker.burst = NonZeroU32::new(10_000).expect("not zero");
    main.worker.max_in_flight = NonZeroU32::new(IN_FLIGHT).expect("not zero");
    settings
}

/// A client that sends and awaits outcomes by itself.
pub struct Direct {
    ledger: Arc<dyn LedgerBackend>,
    waiting: Arc<Mutex<HashMap<LedgerTxId, oneshot::Sender<Outcome>>>>,
    listening: JoinHandle<()>,
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Direct {
    pub fn new(ledger: Arc<dyn LedgerBackend>) -> Self {
        let waiting: Arc<Mutex<HashMap<LedgerTxId, oneshot::Sender<Outcome>>>> = Arc::default();
        let (mut outcomes, known) = (ledger.outcomes(None), waiting.clone());
        let listening = tokio::spawn(async move {
            while let Some(group) = outcomes.next().await {
                for (id, outcome) in group.outcomes {
                    let waiter = known.lock().expect("lock").remove(&id);
                    waiter.map(|waiter| waiter.send(outcome));
                }
            }
        });
        Self {
            ledger,
            waiting,
            listening,
        }
    }

    /// Brings one transaction to its end.
    pub async fn run(&self, number: usize) {
        let submission = SubmissionId {
            record: TransactionId::new(),
            number: 0,
        };
        let prepared = self
            .ledger
            .prepare(submission, &request(number))
            .await
            .expect("prepares");
        let (told, outcome) = oneshot::channel();
        self.waiting
            .lock()
            .expect("lock")
            .insert(prepared.tx_id.clone(), told);
        self.ledger.submit(&prepared).await.expect("submits");
        let outcome = outcome.await.expect("is told");
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }

    /// Transactions per second.
    pub async fn throughput(&self, transactions: usize) -> f64 {
        let start = Instant::now();
        let clients = (0..IN_FLIGHT as usize).map(|client| async move {
            for number in (client..transactions).step_by(IN_FLIGHT as usize) {
                self.run(number).await;
            }
        });
        join_all(clients).await;
        transactions as f64 / start.elapsed().as_secs_f64()
    }
}

/// Transactions per second of the worker. The backlog is there before it starts, so only its path is timed.
pub async fn throughput_through(settings: Settings, transactions: usize) -> f64 {
    let app = app::build(settings).await.expect("builds");
    let gateway = app.gateway().clone();
    let caller = Caller::anonymous();
    for piece in 0..transactions / 500 {
        let accepts = (0..500).map(|n| gateway.accept(&caller, request(piece * 500 + n), None, None));
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
    let rate = transactions as f64 / start.elapsed().as_secs_f64();
    stop.cancel();
    running.await.expect("runs").expect("ends well");
    rate
}

/// Median milliseconds of one transaction at a time: directly, and from accept to done.
pub async fn latencies(direct: &Direct, settings: Settings) -> (f64, f64) {
    let app = app::build(settings).await.expect("builds");
    let gateway = app.gateway().clone();
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone().cancelled_owned()));
    let caller = Caller::anonymous();
    let (mut alone, mut gated) = (Vec::new(), Vec::new());
    for number in 0..SAMPLES {
        let start = Instant::now();
        direct.run(number).await;
        alone.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let accepted = gateway
            .accept(&caller, request(number), None, None)
            .await
            .expect("accepts");
        let id = accepted.transaction.id;
        let tx = gateway
            .wait(&caller, id, Duration::from_secs(10))
            .await
            .expect("reads");
        assert!(tx.expect("is there").is_settled());
        gated.push(start.elapsed().as_secs_f64() * 1e3);
    }
    stop.cancel();
    running.await.expect("runs").expect("ends well");
    (median(alone), median(gated))
}
