//! Opens what the configuration names: the store, the queue, the ledgers.

use std::sync::Arc;

use anyhow::Context;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::{BackendSettings, LedgerSettings, QueueSettings, Settings, StoreSettings};
use crate::domain::{LedgerName, Timestamp};
use crate::kv;
use crate::ledger::LedgerBackend;
use crate::ledger::simulator::{RemoteSimulator, SimulatorLedger};
use crate::notify::StatusHub;
use crate::queue::WorkQueue;
use crate::queue::embedded::EmbeddedQueue;
use crate::store::TransactionStore;
use crate::store::embedded::{DataFolder, EmbeddedStore};
use crate::telemetry::metrics::Metrics;

/// A simulator's chain is small and hot; the store gets the configured cache.
pub(super) const CHAIN_CACHE_BYTES: usize = 16 << 20;

/// So many marks are put back at once.
const PUT_BACK: usize = 10_000;

/// What an open store consists of.
pub(super) struct Opened {
    pub(super) store: Arc<dyn TransactionStore>,
    /// Whoever holds it owns the data; there is none if the data is elsewhere.
    pub(super) folder: Option<DataFolder>,
}

pub(super) async fn open_store(
    settings: &Settings,
    metrics: &Metrics,
    hub: &Arc<StatusHub>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Opened> {
    match &settings.store {
        StoreSettings::Embedded(embedded) => {
            let folder = DataFolder::hold(&embedded.path, embedded.engine)?;
            let path = folder.store();
            let store = EmbeddedStore::open(folder.engine(), &path, embedded.cache_bytes, metrics.store())
                .with_context(|| format!("open {}", path.display()))?;
            Ok(Opened {
                store: Arc::new(store),
                folder: Some(folder),
            })
        }
        StoreSettings::Postgres(_) => anyhow::bail!("not yet"),
    }
}

pub(super) async fn open_queue(
    settings: &Settings,
    store: &Arc<dyn TransactionStore>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> anyhow::Result<Arc<dyn WorkQueue>> {
    match &settings.queue {
        QueueSettings::Embedded => {
            // There may have been a broker before; what was announced there nobody will deliver.
            let ever = Timestamp::from_millis(u64::MAX);
            for ledger in settings.ledgers.keys() {
                while store.unannounce(ledger, ever, PUT_BACK).await? == PUT_BACK {}
            }
            Ok(Arc::new(EmbeddedQueue::new(store.clone(), clock.clone())))
        }
        QueueSettings::RabbitMq(_) => anyhow::bail!("not yet"),
    }
}

pub(super) fn open_ledger(
    name: &LedgerName,
    settings: &LedgerSettings,
    folder: Option<&DataFolder>,
    clock: &Arc<dyn Clock>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Arc<dyn LedgerBackend>> {
    match &settings.backend {
        BackendSettings::Simulator(simulator) => {
            let folder =
                folder.with_context(|| format!("ledger {name} is a simulator inside this process"))?;
            let chain = folder.chain(name.as_str());
            let engine = kv::open(folder.engine(), &chain, CHAIN_CACHE_BYTES)
                .with_context(|| format!("open the chain of ledger {name}, {}", chain.display()))?;
            let ledger = SimulatorLedger::open(engine, *simulator, clock.clone(), tasks, stop.clone())
                .with_context(|| format!("open ledger {name}"))?;
            Ok(Arc::new(ledger))
        }
        BackendSettings::RemoteSimulator { url } => {
            let ledger = RemoteSimulator::new(url, tasks).with_context(|| format!("open ledger {name}"))?;
            Ok(Arc::new(ledger))
        }
    }
}
