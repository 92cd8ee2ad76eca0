//! Opens what the configuration names: the store, the queue, the ledgers, the archive.

use std::sync::Arc;

use anyhow::Context;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archive::{Archivist, ArchivistParts};
use crate::clock::Clock;
use crate::config::{BackendSettings, LedgerSettings, QueueSettings, Settings, StoreSettings};
use crate::domain::{LedgerName, Timestamp};
use crate::http;
use crate::kv;
use crate::ledger::LedgerBackend;
use crate::ledger::fabric::FabricLedger;
use crate::ledger::simulator::SimulatorLedger;
use crate::notify::StatusHub;
use crate::queue::WorkQueue;
use crate::queue::embedded::EmbeddedQueue;
use crate::queue::rabbit::RabbitQueue;
use crate::store::TransactionStore;
use crate::store::documents::DocumentStore;
use crate::store::embedded::{DataFolder, EmbeddedStore};
use crate::store::postgres::{News, PostgresStore};
use crate::telemetry::metrics::Metrics;

/// A simulator's chain is small and hot; the store gets the configured cache.
pub(super) const CHAIN_CACHE_BYTES: usize = 16 << 20;

/// So many marks are put back at once.
const PUT_BACK: usize = 10_000;

/// What an open store consists of.
pub(super) struct Opened {
    pub(super) store: Arc<dyn TransactionStore>,
    /// What stands beside the records, in the same place.
    pub(super) documents: Arc<dyn DocumentStore>,
    /// The same, if it is the embedded one.
    pub(super) embedded: Option<Arc<EmbeddedStore>>,
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
            let store = Arc::new(store.tracked_by(tasks));
            Ok(Opened {
                store: store.clone(),
                documents: store.clone(),
                embedded: Some(store),
                folder: Some(folder),
            })
        }
        StoreSettings::Postgres(postgres) => {
            let store = PostgresStore::connect(postgres, metrics.store())
                .await
                .with_context(|| format!("open the store at {}", postgres.url))?;
            let mut news = Box::pin(store.settled_elsewhere());
            let (hub, stop) = (hub.clone(), stop.clone());
            tasks.spawn(async move {
                while let Some(Some(news)) = stop.run_until_cancelled(news.next()).await {
                    match news {
                        News::Settled(ids) => ids.into_iter().for_each(|id| hub.settled(id)),
                        News::Missed => hub.look_again(),
                    }
                }
            });
            let store = Arc::new(store);
            Ok(Opened {
                documents: store.clone(),
                store,
                embedded: None,
                folder: None,
            })
        }
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
        QueueSettings::RabbitMq(rabbit) => {
            let queue = RabbitQueue::new(rabbit.as_ref().clone(), metrics.clone())?;
            Ok(Arc::new(queue))
        }
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
                .with_context(|| format!("open the chain of ledger {name}, {}; if it is damaged, restore the data folder from a backup, or remove the chain and its .seal to begin one on which nothing has happened", chain.display()))?;
            let ledger = SimulatorLedger::open(engine, *simulator, clock.clone(), tasks, stop.clone())
                .with_context(|| format!("open ledger {name}"))?;
            Ok(Arc::new(ledger))
        }
        BackendSettings::Fabric(fabric) => {
            let ledger = FabricLedger::open(fabric.as_ref().clone(), clock.clone(), tasks, stop.clone())
                .with_context(|| format!("open ledger {name}"))?;
            Ok(Arc::new(ledger))
        }
    }
}

/// What moves old records to the archive, if there is one; `shared` if other processes may use the store.
pub(super) fn new_archivist(
    settings: &Settings,
    store: &Arc<dyn TransactionStore>,
    shared: Option<Arc<dyn DocumentStore>>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Option<Archivist> {
    let archive = settings.archive.clone()?;
    Some(Archivist::new(ArchivistParts {
        store: store.clone(),
        shared,
        clock: clock.clone(),
        settings: archive,
        retention: settings.retention,
        show: http::show_archived,
        metrics: metrics.archive(),
    }))
}
