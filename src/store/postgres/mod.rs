//! The store that any number of gateways share: a PostgreSQL database.
//!
//! - [`schema`] is the tables and their migrations, [`row`] what stands in them.
//! - [`writer`] gathers what has to be written into groups; [`insert`] and [`change`] are the statements.
//! - [`due`], [`listing`] and [`counts`] read; [`news`] hears what other processes settled.
//! - [`mod@log`] is the log of what changed, [`mod@documents`] what is kept beside the records.
//! - [`session`] holds the connections, [`failure`] sorts what can go wrong with them.
//!
//! Everything a change touches is one transaction of the database, and `Ok` means that it has confirmed the
//! commit. When this process dies, the database rolls back what was under way; nothing has to be mended. When
//! the database dies or fails over, calls end with [`StoreError::Unavailable`] within the configured time, and
//! work again by themselves once it is back. A write whose answer was lost may be stored; the idempotency key,
//! or the version, tells.

mod address;
mod change;
mod counts;
mod documents;
mod due;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod insert;
mod listing;
mod log;
mod news;
mod row;
mod schema;
mod session;
mod writer;

#[cfg(test)]
#[path = "../../../tests/support/postgres.rs"]
pub(crate) mod server;

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod exact_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod sharing_tests;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::Stream;
use sqlx::Row;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use news::News;
pub use schema::{SchemaStatus, migrate, schema_status};

use self::change::{ChangeRow, Changes};
use self::counts::{Counts, Deltas};
use self::failure::Failure;
use self::insert::{Batch, Fate};
use self::news::Listener;
use self::row::{NewRow, record};
use self::session::Sessions;
use self::writer::Writer;
use super::{
    Backlog, Change, Due, DueSignals, Filter, Inserted, Mark, Page, Position, StoreError, TransactionStore,
};
use crate::config::PostgresSettings;
use crate::domain::{Checkpoint, LedgerName, Status, TenantName, Timestamp, Transaction, TransactionId};
use crate::telemetry::metrics::StoreMetrics;

/// How often the unsettled are counted anew; less often if that takes long.
const COUNT_EVERY: Duration = Duration::from_secs(1);
const COUNT_SHARE: u32 = 20;
const COUNT_AT_LEAST_EVERY: Duration = Duration::from_secs(30);
/// So many statements of one kind are under way at a time, if there are connections for them.
const SLOTS: u32 = 2;
/// A good-bye takes no longer.
const FAREWELL: Duration = Duration::from_secs(5);

const GET: &str = concat!(record!(), "WHERE t.id = $1");
const GET_MANY: &str = concat!(record!(), "WHERE t.id = ANY($1)");
const FIND: &str = concat!(record!(), "WHERE t.idempotency_key = $1");
const CHECKPOINT: &str = "SELECT next_block FROM checkpoints WHERE ledger = $1";
const ADVANCE: &str = "\
INSERT INTO checkpoints AS noted (ledger, next_block) VALUES ($1, $2) \
ON CONFLICT (ledger) DO UPDATE SET next_block = EXCLUDED.next_block WHERE noted.next_block < EXCLUDED.next_block";
/// The first entry of the primary key.
const OLDEST: &str = "SELECT transaction_id FROM work WHERE ledger = $1 ORDER BY transaction_id LIMIT 1";
const PROBE: &str = "UPDATE probe SET at = now()";

/// What the store keeps in memory; all of it can be lost.
struct Memory {
    /// This store, among those that share the database.
    instance: Uuid,
    counts: Counts,
    signals: DueSignals,
    /// Told of every commit, and of news of others.
    changed: Arc<Notify>,
}

impl Memory {
    fn committed(&self, transaction: &str, deltas: &Deltas) {
        self.counts.committed(transaction, deltas);
        self.changed.notify_waiters();
    }
}

/// [`TransactionStore`] in PostgreSQL.
pub struct PostgresStore {
    sessions: Arc<Sessions>,
    memory: Arc<Memory>,
    inserts: Writer<NewRow>,
    batches: Writer<Batch>,
    changes: Writer<Changes>,
    listener: Listener,
    /// By whom due work is held back from others.
    holder: Uuid,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop: DropGuard,
}

/// Identifies this process in the database. All stores of a process share it, so that one that is opened
/// again sees what its predecessor was given.
fn process() -> Uuid {
    static PROCESS: OnceLock<Uuid> = OnceLock::new();
    *PROCESS.get_or_init(Uuid::now_v7)
}

impl PostgresStore {
    /// Connects, brings the tables up to date if the settings allow it, and starts the background tasks. Tries
    /// for the configured time if the database is not there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the database cannot be reached or used, or its tables are out of date and
    /// may not be migrated; [`StoreError::Damaged`] if they are a newer version's.
    pub async fn connect(settings: &PostgresSettings, metrics: StoreMetrics) -> Result<Self, StoreError> {
        Self::connect_as(settings, metrics, process()).await
    }

    /// Like [`connect`](Self::connect), with an identity of its own: tests have several nodes in one process.
    async fn connect_as(
        settings: &PostgresSettings,
        metrics: StoreMetrics,
        holder: Uuid,
    ) -> Result<Self, StoreError> {
        if settings.migrate {
            for migration in migrate(settings).await? {
                tracing::info!(migration, "migrated the database");
            }
        } else {
            let outstanding = schema_status(settings).await?.outstanding;
            if !outstanding.is_empty() {
                return Err(StoreError::Unavailable(format!(
                    "the database lacks the migrations {}, and store.migrate is false: run `sluicegate migrate`",
                    outstanding.join(", ")
                )));
            }
        }
        let sessions = Sessions::new(settings)?;
        warn_of_unsafe_server(&sessions)
            .await
            .map_err(Failure::into_store_error)?;
        let memory = Arc::new(Memory {
            instance: Uuid::now_v7(),
            counts: Counts::default(),
            signals: DueSignals::default(),
            changed: Arc::default(),
        });
        memory
            .counts
            .refresh(&sessions)
            .await
            .map_err(Failure::into_store_error)?;
        log::begin(&sessions).await.map_err(Failure::into_store_error)?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        // Reads need a connection as well.
        let slots = usize::try_from(SLOTS.min((sessions.most() / 3).max(1))).unwrap_or(1);
        let inserts = Writer::start(
            &sessions,
            memory.clone(),
            slots,
            metrics.clone(),
            &tasks,
            stop.clone(),
        );
        let batches = Writer::start(
            &sessions,
            memory.clone(),
            1,
            metrics.clone(),
            &tasks,
            stop.clone(),
        );
        let changes = Writer::start(&sessions, memory.clone(), slots, metrics, &tasks, stop.clone());
        let listener = Listener::new(memory.changed.clone());
        let options = sessions.options().clone();
        tasks.spawn(listener.run(options, sessions.timeout(), memory.instance, stop.clone()));
        tasks.spawn(keep_counting(memory.clone(), sessions.clone(), stop.clone()));
        Ok(Self {
            sessions,
            memory,
            inserts,
            batches,
            changes,
            listener,
            holder,
            tasks,
            _stop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// What other processes settle from now on. Whoever waits for a transaction should listen first, then look,
    /// and look again after [`News::Missed`].
    pub fn settled_elsewhere(&self) -> impl Stream<Item = News> + Send + Unpin + use<> {
        self.listener.stream()
    }

    async fn one(&self, statement: session::Statement<'_>) -> Result<Option<Transaction>, StoreError> {
        let read = async {
            let rows = self.sessions.rows(statement).await?;
            rows.first().map(row::decode).transpose()
        };
        read.await.map_err(Failure::into_store_error)
    }
}

async fn keep_counting(memory: Arc<Memory>, sessions: Arc<Sessions>, stop: CancellationToken) {
    let mut pause = COUNT_EVERY;
    let count = async {
        loop {
            tokio::time::sleep(pause).await;
            pause = match memory.counts.refresh(&sessions).await {
                Ok(took) => (took * COUNT_SHARE).clamp(COUNT_EVERY, COUNT_AT_LEAST_EVERY),
                Err(error) => {
                    tracing::debug!(%error, "cannot count what is not settled");
                    COUNT_EVERY
                }
            };
            sessions.trim();
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = count => {}
    }
}

/// A server may be set up to lose what it has confirmed. Nothing here can make up for that.
async fn warn_of_unsafe_server(sessions: &Sessions) -> Result<(), Failure> {
    let rows = sessions
        .rows(sqlx::query(
            "SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'",
        ))
        .await?;
    for row in rows {
        let name: String = row.try_get(0)?;
        tracing::error!(
            "the database server runs with {name}=off: a power cut can destroy what was acknowledged; set it to on"
        );
    }
    Ok(())
}

/// A record that shall be stored, as its row.
fn new_row(tx: &Transaction) -> Result<NewRow, StoreError> {
    if tx.is_settled() {
        return Err(StoreError::Damaged(format!(
            "{} is settled before it was stored",
            tx.id
        )));
    }
    row::new(tx).map_err(Failure::into_store_error)
}

fn inserted(fate: Fate) -> Result<Inserted, StoreError> {
    match fate {
        Fate::Created => Ok(Inserted::Created),
        Fate::Existing(existing) => Ok(Inserted::Existing(existing)),
        Fate::Withheld => Ok(Inserted::Withheld),
        // A repeat of the request will be a new one.
        Fate::Vanished => Err(StoreError::Unavailable(
            "the holder of the idempotency key was removed just now".to_owned(),
        )),
    }
}

#[async_trait]
impl TransactionStore for PostgresStore {
    async fn insert(&self, tx: &Transaction) -> Result<Inserted, StoreError> {
        inserted(self.inserts.run(new_row(tx)?).await?)
    }

    async fn insert_many(
        &self,
        transactions: &[Transaction],
        all_or_none: bool,
    ) -> Result<Vec<Inserted>, StoreError> {
        if transactions.is_empty() {
            return Ok(Vec::new());
        }
        let rows = transactions.iter().map(new_row).collect::<Result<_, _>>()?;
        let fates = self.batches.run(Batch { rows, all_or_none }).await?;
        fates.into_iter().map(inserted).collect()
    }

    async fn get(&self, id: TransactionId) -> Result<Option<Transaction>, StoreError> {
        self.one(sqlx::query(GET).bind(row::uuid(id))).await
    }

    async fn get_many(&self, ids: &[TransactionId]) -> Vec<Result<Option<Transaction>, StoreError>> {
        let wanted: Vec<_> = ids.iter().copied().map(row::uuid).collect();
        match self.sessions.rows(sqlx::query(GET_MANY).bind(wanted)).await {
            Ok(rows) => {
                let found: HashMap<_, _> = rows
                    .iter()
                    .filter_map(|found| {
                        let id = row::transaction_id(found.try_get("id").ok()?);
                        Some((id, row::decode(found).map_err(Failure::into_store_error)))
                    })
                    .collect();
                ids.iter().map(|id| found.get(id).cloned().transpose()).collect()
            }
            Err(failure) => match failure.into_store_error() {
                // A row that the database itself cannot read fails the statement for all.
                StoreError::Damaged(_) if ids.len() > 1 => {
                    let mut records = Vec::with_capacity(ids.len());
                    for id in ids {
                        records.push(self.get(*id).await);
                    }
                    records
                }
                error => ids.iter().map(|_| Err(error.clone())).collect(),
            },
        }
    }

    async fn find_by_idempotency_key(&self, key: &str) -> Result<Option<Transaction>, StoreError> {
        self.one(sqlx::query(FIND).bind(row::plain(key))).await
    }

    async fn compare_and_swap(&self, changes: Vec<Change>) -> Result<Vec<bool>, StoreError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let rows = changes.iter().map(ChangeRow::new).collect::<Result<_, _>>();
        self.changes
            .run(Changes(rows.map_err(Failure::into_store_error)?))
            .await
    }

    async fn due(&self, ledger: &LedgerName, now: Timestamp, limit: usize) -> Result<Due, StoreError> {
        due::due(&self.sessions, self.holder, ledger, now, limit)
            .await
            .map_err(Failure::into_store_error)
    }

    async fn announced(&self, ledger: &LedgerName, marks: &[Mark], at: Timestamp) -> Result<(), StoreError> {
        due::announced(&self.sessions, ledger, marks, at)
            .await
            .map_err(Failure::into_store_error)
    }

    async fn unannounce(
        &self,
        ledger: &LedgerName,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let found = due::unannounce(&self.sessions, ledger, before, limit)
            .await
            .map_err(Failure::into_store_error)?;
        if found > 0 {
            self.memory.signals.of(ledger).notify_one();
        }
        Ok(found)
    }

    fn due_signal(&self, ledger: &LedgerName) -> Arc<Notify> {
        self.memory.signals.of(ledger)
    }

    async fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<Transaction>, StoreError> {
        due::expired(&self.sessions, now, limit)
            .await
            .map_err(Failure::into_store_error)
    }

    async fn list(
        &self,
        filter: &Filter,
        cursor: Option<TransactionId>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        listing::page(&self.sessions, filter, cursor, limit)
            .await
            .map_err(Failure::into_store_error)
    }

    async fn prune(&self, status: Status, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        listing::prune(&self.sessions, status, before, limit)
            .await
            .map_err(Failure::into_store_error)
    }

    async fn settled_before(
        &self,
        status: Status,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Transaction>, StoreError> {
        listing::settled_before(&self.sessions, status, before, limit)
            .await
            .map_err(Failure::into_store_error)
    }

    async fn remove_settled(&self, records: &[Transaction]) -> Result<usize, StoreError> {
        listing::remove_settled(&self.sessions, records)
            .await
            .map_err(Failure::into_store_error)
    }

    async fn checkpoint(&self, ledger: &LedgerName) -> Result<Option<Checkpoint>, StoreError> {
        let read = async {
            let rows = self.sessions.rows(sqlx::query(CHECKPOINT).bind(ledger.as_str()));
            let next: Option<i64> = rows.await?.first().map(|row| row.try_get(0)).transpose()?;
            Ok(next.and_then(|next| u64::try_from(next).ok()).map(Checkpoint))
        };
        read.await.map_err(Failure::into_store_error)
    }

    async fn advance_checkpoint(&self, ledger: &LedgerName, to: Checkpoint) -> Result<(), StoreError> {
        // What does not fit is told again; no ledger has so many blocks.
        let next = i64::try_from(to.0).unwrap_or(i64::MAX);
        let advance = sqlx::query(ADVANCE).bind(ledger.as_str()).bind(next);
        let advanced = self.sessions.rows(advance).await;
        advanced.map(drop).map_err(Failure::into_store_error)
    }

    async fn changes(&self, after: Position, limit: usize) -> Result<Option<super::Changes>, StoreError> {
        log::read(&self.sessions, after, limit)
            .await
            .map_err(Failure::into_store_error)
    }

    async fn last_change(&self) -> Result<Position, StoreError> {
        log::last(&self.sessions).await.map_err(Failure::into_store_error)
    }

    fn changed(&self) -> Arc<Notify> {
        self.memory.changed.clone()
    }

    async fn forget_changes(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        log::forget(&self.sessions, before, limit)
            .await
            .map_err(Failure::into_store_error)
    }

    fn backlog(&self) -> Backlog {
        self.memory.counts.backlog()
    }

    async fn oldest_pending(&self, ledger: &LedgerName) -> Result<Option<TransactionId>, StoreError> {
        let read = async {
            let rows = self.sessions.rows(sqlx::query(OLDEST).bind(ledger.as_str()));
            let oldest: Option<Uuid> = rows.await?.first().map(|row| row.try_get(0)).transpose()?;
            Ok(oldest.map(row::transaction_id))
        };
        read.await.map_err(Failure::into_store_error)
    }

    fn pending_of(&self, tenant: &TenantName) -> u64 {
        self.memory.counts.pending_of(tenant)
    }

    /// Writes what was handed in, ends the background tasks and closes the connections. Dropping the store does
    /// the same without anybody waiting for it.
    async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(FAREWELL, self.tasks.wait()).await.is_err() {
            tracing::warn!("the database did not answer in time; the connections are cut");
        }
        self.sessions.close().await;
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let probe = self.sessions.rows(sqlx::query(PROBE));
        probe.await.map(drop).map_err(Failure::into_store_error)
    }
}
