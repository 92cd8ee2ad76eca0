//! The only place where concrete types meet: picks store, queue and ledgers, owns the tasks and their end.
//!
//! Shutdown has an order: stop taking requests and deliveries, let requests and submissions under way finish
//! within the drain time, stop the ledgers, close the store. Nothing depends on it for safety: SIGKILL is an
//! equally good end, only less polite.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::select_all;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, SystemClock};
use crate::config::{BackendSettings, LedgerSettings, Settings, StoreSettings};
use crate::domain::LedgerName;
use crate::gateway::{Gateway, Parts};
use crate::http;
use crate::kv;
use crate::ledger::LedgerBackend;
use crate::ledger::simulator::SimulatorLedger;
use crate::notify::StatusHub;
use crate::queue::embedded::EmbeddedQueue;
use crate::reconciler::Reconciler;
use crate::store::TransactionStore;
use crate::store::embedded::{DataFolder, EmbeddedStore};
use crate::telemetry::metrics::Metrics;
use crate::worker::{Lane, LaneParts};

/// What is cut off when draining took too long is given this much to unwind.
const UNWIND: Duration = Duration::from_secs(2);

/// A simulator's chain is small and hot; the store gets the configured cache.
const CHAIN_CACHE_BYTES: usize = 16 << 20;

/// A gateway that is ready to run.
pub struct App {
    settings: Settings,
    address: SocketAddr,
    listener: TcpListener,
    gateway: Arc<Gateway>,
    metrics: Metrics,
    lanes: Vec<Arc<Lane>>,
    reconciler: Reconciler,
    hub: Arc<StatusHub>,
    tasks: TaskTracker,
    ledgers_stop: CancellationToken,
    /// Kept to the very end: whoever holds it owns the data.
    _folder: DataFolder,
}

/// Replaces the ledgers of the configuration: tests bring their own.
pub type LedgerFactory<'a> = &'a dyn Fn(&LedgerName) -> Option<Arc<dyn LedgerBackend>>;

/// Builds a gateway from settings, bound to its address, with nothing running yet.
///
/// # Errors
/// If the address is taken, the data folder cannot be used, or the store or a ledger cannot be opened.
pub async fn build(settings: Settings) -> anyhow::Result<App> {
    build_with(settings, Arc::new(SystemClock), &|_| None).await
}

/// Like [`build`], with another clock, and other ledgers where the factory has one.
///
/// # Errors
/// As [`build`].
pub async fn build_with(
    settings: Settings,
    clock: Arc<dyn Clock>,
    other_ledgers: LedgerFactory<'_>,
) -> anyhow::Result<App> {
    // First, so that a second start by mistake touches nothing.
    let listen = settings.http.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}; stop the program that does, or set another address with --listen or http.listen")
    })?;
    let address = listener.local_addr().context("read the listening address")?;

    let StoreSettings::Embedded(embedded) = &settings.store else {
        anyhow::bail!("not built yet");
    };
    let folder = DataFolder::hold(&embedded.path, embedded.engine)?;
    let metrics = Metrics::new().context("set up metrics")?;
    let store: Arc<dyn TransactionStore> = Arc::new(
        EmbeddedStore::open(
            folder.engine(),
            &folder.store(),
            embedded.cache_bytes,
            metrics.store(),
        )
        .with_context(|| format!("open {}", folder.store().display()))?,
    );
    for (ledger, count) in &store.backlog() {
        if *count > 0 && !settings.ledgers.contains_key(ledger) {
            tracing::error!(%ledger, count, "pending transactions are for a ledger that is not configured; they wait until it is");
        }
    }
    let queue = Arc::new(EmbeddedQueue::new(store.clone(), clock.clone()));
    let hub = Arc::new(StatusHub::default());
    let tasks = TaskTracker::new();
    let ledgers_stop = CancellationToken::new();

    let mut lanes = BTreeMap::new();
    for (name, ledger) in &settings.ledgers {
        let backend = match other_ledgers(name) {
            Some(other) => other,
            None => open_ledger(name, ledger, &folder, &clock, &tasks, &ledgers_stop)?,
        };
        let parts = LaneParts {
            name: name.clone(),
            ledger: backend,
            store: store.clone(),
            queue: queue.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            settings: ledger.worker,
            retry: ledger.retry,
            metrics: metrics.lane(name),
            tasks: tasks.clone(),
        };
        lanes.insert(name.clone(), Arc::new(Lane::new(parts)));
    }
    let reconciler = Reconciler {
        store: store.clone(),
        hub: hub.clone(),
        clock: clock.clone(),
        retention: settings.retention,
        metrics: metrics.clone(),
        lanes: lanes
            .iter()
            .map(|(name, lane)| (name.clone(), lane.metrics().clone()))
            .collect(),
    };
    let gateway = Arc::new(Gateway::new(Parts {
        store,
        queue,
        hub: hub.clone(),
        clock,
        lanes: lanes.clone(),
        backpressure: settings.backpressure,
        metrics: metrics.clone(),
    }));
    Ok(App {
        settings,
        address,
        listener,
        gateway,
        metrics,
        lanes: lanes.into_values().collect(),
        reconciler,
        hub,
        tasks,
        ledgers_stop,
        _folder: folder,
    })
}

fn open_ledger(
    name: &LedgerName,
    settings: &LedgerSettings,
    folder: &DataFolder,
    clock: &Arc<dyn Clock>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<dyn LedgerBackend>> {
    match &settings.backend {
        BackendSettings::Simulator(simulator) => {
            let chain = folder.chain(name.as_str());
            let engine = kv::open(folder.engine(), &chain, CHAIN_CACHE_BYTES)
                .with_context(|| format!("open the chain of ledger {name}, {}", chain.display()))?;
            let ledger = SimulatorLedger::open(engine, *simulator, clock.clone(), tasks, stop.clone())
                .with_context(|| format!("open ledger {name}"))?;
            Ok(Arc::new(ledger))
        }
    }
}

impl App {
    /// The address it listens on; the port is the real one where the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The application behind the API.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Runs until `until` ends, then shuts down in order.
    ///
    /// # Errors
    /// If a part of it stopped by itself, which is a defect: better to end, and be started again, than to go on
    /// accepting what nobody works off.
    pub async fn run(self, until: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            settings,
            listener,
            gateway,
            metrics,
            lanes,
            reconciler,
            hub,
            tasks,
            ledgers_stop,
            ..
        } = self;
        let drain = settings.shutdown.drain;
        let stop = CancellationToken::new();
        let router = http::router(gateway, metrics, &settings.http);
        let server = http::serve(
            listener,
            router,
            settings.http.header_timeout,
            stop.clone(),
            drain,
            tasks.clone(),
        );
        let mut vital: Vec<_> = lanes
            .into_iter()
            .map(|lane| tasks.spawn(lane.run(stop.clone(), drain)))
            .collect();
        vital.push(tasks.spawn(reconciler.run(stop.clone())));
        vital.push(tasks.spawn(server));
        let early = tokio::select! {
            () = until => None,
            (ended, _, _) = select_all(&mut vital) => Some(ended),
        };
        stop.cancel();
        // In order: the lanes settle what is in flight; then nobody has anything left to wait for; then the
        // server can finish its answers.
        let server = vital.pop();
        for task in vital.into_iter().filter(|task| !task.is_finished()) {
            ended(task).await;
        }
        hub.release_all();
        if let Some(server) = server.filter(|server| !server.is_finished()) {
            ended(server).await;
        }
        ledgers_stop.cancel();
        tasks.close();
        if tokio::time::timeout(UNWIND, tasks.wait()).await.is_err() {
            tracing::warn!(
                left = tasks.len(),
                "some tasks did not end; what they had stored is safe"
            );
        }
        match early {
            None => Ok(()),
            Some(Ok(())) => anyhow::bail!("a part of the gateway stopped without being told to"),
            Some(Err(error)) => Err(error).context("a part of the gateway failed"),
        }
    }
}

async fn ended(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a part of the gateway ended badly");
    }
}
