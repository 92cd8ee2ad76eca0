//! The store that needs no other process: records and indexes in one embedded key-value file.
//!
//! - [`keys`] is the layout, [`record`] the encoding, [`writer`] the one thread that commits.
//! - [`mod@changes`] is the log of what changed, [`mod@documents`] what is kept beside the records.
//! - Reads go straight to the engine. A point read, and one of a few due marks, is done in place; what may
//!   visit many entries runs on a blocking thread ([`mod@reads`]).
//! - [`folder`] keeps a second process out; [`maintenance`] is `store check`, `repair` and `compact`;
//!   [`salvage`] is what `repair` does about a file that is damaged; [`backup`] and [`mod@restore`] are the commands of
//!   these names.
//!
//! After a crash the file holds every commit that was answered; nothing has to be replayed.

mod backup;
mod carve;
mod changes;
mod documents;
mod folder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod keys;
mod listing;
mod maintenance;
mod mutations;
mod pieces;
mod reads;
mod record;
mod restore;
mod salvage;
mod writer;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::task::TaskTracker;

pub use backup::{BackupEntry, BackupError, BackupHeader, BackupReader, BackupSource, refuse_backup};
pub use folder::{DataFolder, FolderError};
pub use maintenance::{Finding, MaintenanceError, Report, check, compact, repair};
pub use restore::{Identities, Inventory, Progress, RestoreError, Restored, restore, verify_backup};

use self::mutations::{beside, insertion, made, move_mark, note_number, removal, replacement};
use self::writer::{Command, Expect, Mutation, Shared, Verdict, Writer, store_error};
use super::{
    Backlog, Change, Changes, Due, Filter, Inserted, Mark, Page, Position, StoreError, TransactionStore,
};
use crate::domain::{Checkpoint, LedgerName, Status, TenantName, Timestamp, Transaction, TransactionId};
use crate::kv::{self, Batch, EngineKind, KvEngine, KvError, Order};
use crate::telemetry::metrics::StoreMetrics;

/// The layout this version writes. A store with a higher one was written by a newer version.
///
/// 2 has all that 1 has, and tenants, documents and the log of changes beside it. A store of format 1 becomes one of 2
/// when it is opened for use: whatever knows 1 only would change records and not note that in the log.
pub const STORE_FORMAT: u64 = 2;

/// So many marks are noted as announced in one command.
const ANNOUNCED_AT_ONCE: usize = 512;

/// So many changes are forgotten in one command.
const FORGOTTEN_AT_ONCE: usize = 512;

/// How many records there are, by ledger and status.
pub type Counts = BTreeMap<(LedgerName, Status), u64>;

/// So many commands may wait for the writer; further callers wait for a place.
const WAITING: usize = 8_192;

/// [`TransactionStore`] over a [`KvEngine`].
pub struct EmbeddedStore {
    engine: Arc<dyn KvEngine>,
    /// Names the log of changes.
    change_log: u64,
    shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Command>>,
    /// Reads under way: each holds the file, also when nobody waits for it any more.
    reads: TaskTracker,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens, or creates, the store `path` with the engine `kind` and about `cache_bytes` of cache.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the file cannot be read or was written by a newer version,
    /// [`StoreError::Unavailable`] if the disk refuses or another process has it open.
    pub fn open(
        kind: EngineKind,
        path: &Path,
        cache_bytes: usize,
        metrics: StoreMetrics,
    ) -> Result<Self, StoreError> {
        let engine = open_engine(kind, path, cache_bytes).map_err(|error| match error {
            StoreError::Damaged(detail) => StoreError::Damaged(format!(
                "{detail}; copy the data folder, then run `sluicegate store check` and `sluicegate store repair`"
            )),
            other => other,
        })?;
        take_format(&*engine)?;
        let change_log = changes::log(&*engine)?;
        let shared = Arc::new(Shared::default());
        let writer = Writer::new(engine.clone(), shared.clone(), metrics)?;
        let (commands, waiting) = mpsc::channel(WAITING);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| writer.run(waiting))).is_err() {
                    // Nobody knows what is in memory now. What is on the disk is good: start from that.
                    tracing::error!("the store's writer panicked; the process ends to start from the disk");
                    std::process::abort();
                }
            })
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self {
            engine,
            change_log,
            shared,
            commands: Some(commands),
            reads: TaskTracker::new(),
            writer: Some(writer),
        })
    }

    /// Hands mutations to the writer and waits for the commit.
    async fn write(&self, mutations: Vec<Mutation>) -> Result<Vec<Verdict>, StoreError> {
        self.command(mutations, false).await
    }

    async fn command(&self, mutations: Vec<Mutation>, all_or_none: bool) -> Result<Vec<Verdict>, StoreError> {
        let closed = || StoreError::Unavailable("the store's writer has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(closed)?;
        commands
            .send(Command {
                mutations,
                all_or_none,
                reply,
            })
            .await
            .map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    fn read(&self, id: TransactionId) -> Result<Option<Transaction>, StoreError> {
        if let Some(bytes) = self.engine.get(&keys::record(id)).map_err(store_error)? {
            return record::decode(id, &bytes).map(Some);
        }
        match self.engine.get(&keys::set_aside(id)).map_err(store_error)? {
            Some(_) => Err(StoreError::Damaged(format!(
                "the record {id} was set aside by a repair"
            ))),
            None => Ok(None),
        }
    }

    /// What an insert came to.
    fn inserted(verdict: Verdict) -> Result<Inserted, StoreError> {
        match verdict {
            Verdict::Unreadable => Err(StoreError::Damaged(
                "the entry of an idempotency key cannot be read".to_owned(),
            )),
            Verdict::Exists(id) => Ok(Inserted::Existing(id)),
            Verdict::Withheld => Ok(Inserted::Withheld),
            Verdict::Made | Verdict::Moved => Ok(Inserted::Created),
        }
    }

    /// The due marks of one class, oldest first, and the moment of the first one past `now`.
    fn marks(
        &self,
        ledger: &LedgerName,
        first_try: bool,
        now: Timestamp,
        limit: usize,
    ) -> Result<Due, StoreError> {
        let mut due = Due::default();
        let prefix = keys::due_prefix(ledger, u8::from(!first_try));
        let end = after(&prefix);
        self.engine
            .scan(prefix.as_slice()..&end, Order::Ascending, &mut |key, _| {
                match (keys::moment(key), keys::id(key)) {
                    (Some(moment), _) if moment > now => {
                        due.next = Some(moment);
                        return ControlFlow::Break(());
                    }
                    (Some(due_at), Some(id)) => due.marks.push(Mark {
                        id,
                        due_at,
                        first_try,
                    }),
                    _ => {}
                }
                if due.marks.len() == limit {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
            .map_err(store_error)?;
        Ok(due)
    }
}

/// Opens the engine of a store, which holds a format at least if anything was ever written to it: sled takes a
/// log of nonsense for an empty one.
fn open_engine(kind: EngineKind, path: &Path, cache_bytes: usize) -> Result<Arc<dyn KvEngine>, StoreError> {
    let was_written = kv::was_written(path);
    let engine = kv::open(kind, path, cache_bytes).map_err(store_error)?;
    if was_written && engine.get(keys::FORMAT).map_err(store_error)?.is_none() {
        return Err(StoreError::Damaged("nothing is left in it".to_owned()));
    }
    Ok(Arc::from(engine))
}

/// Marks a store that is new, or of an older version, with this version's format; refuses what a newer one wrote.
fn take_format(engine: &dyn KvEngine) -> Result<(), StoreError> {
    if check_format(engine)? == Some(STORE_FORMAT) {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.put(keys::FORMAT.to_vec(), STORE_FORMAT.to_be_bytes().to_vec());
    engine.commit(batch).map_err(store_error)
}

/// The format of a store, `None` of a new one; refuses what a newer version wrote.
fn check_format(engine: &dyn KvEngine) -> Result<Option<u64>, StoreError> {
    let Some(stored) = engine.get(keys::FORMAT).map_err(store_error)? else {
        return Ok(None);
    };
    match stored.as_slice().try_into().map(u64::from_be_bytes) {
        Ok(format) if format <= STORE_FORMAT => Ok(Some(format)),
        Ok(format) => Err(StoreError::Damaged(format!(
            "it has format {format} and this version knows {STORE_FORMAT}: start the newer sluicegate that wrote it"
        ))),
        Err(_) => Err(StoreError::Damaged("its format entry is not a number".to_owned())),
    }
}

/// What the counters say, those that can be read.
fn counts_of(engine: &dyn KvEngine) -> Result<Counts, KvError> {
    let mut counts = Counts::new();
    engine.scan(b"c"..&after(b"c"), Order::Ascending, &mut |key, value| {
        if let (Some(what), Ok(count)) = (keys::counted(key), value.try_into()) {
            counts.insert(what, u64::from_be_bytes(count));
        }
        ControlFlow::Continue(())
    })?;
    Ok(counts)
}

/// How many are not settled, by tenant, of those other than the default one.
fn pending_by_tenant(engine: &dyn KvEngine) -> Result<BTreeMap<TenantName, u64>, KvError> {
    let (mut pending, mut from, end) = (BTreeMap::new(), b"t".to_vec(), after(b"t"));
    // From tenant to tenant, past all that is settled.
    loop {
        let mut next = None;
        engine.scan(&from..&end, Order::Ascending, &mut |key, _| {
            next = keys::listed_tenant(key);
            ControlFlow::Break(())
        })?;
        let Some(tenant) = next else {
            return Ok(pending);
        };
        let first = keys::tenant_prefix(&tenant, Status::Pending);
        from = after(&first);
        let mut count = 0;
        engine.scan(&first..&from, Order::Ascending, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        pending.insert(tenant, count);
    }
}

/// The first key after all that start with `prefix`; keys start with an ASCII letter.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX]
}

/// Keys of marks that were announced before `before`, oldest due first.
fn announced_before(
    engine: &dyn KvEngine,
    ledger: &LedgerName,
    before: Timestamp,
    limit: usize,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut found = Vec::new();
    for class in [0, 1] {
        let prefix = keys::announced(&keys::due_prefix(ledger, class));
        let end = after(&prefix);
        engine
            .scan(prefix.as_slice()..&end, Order::Ascending, &mut |key, at| {
                let at = at.try_into().map(u64::from_be_bytes).unwrap_or_default();
                if Timestamp::from_millis(at) < before {
                    found.push(key.to_vec());
                }
                if found.len() == limit {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })
            .map_err(store_error)?;
    }
    found.truncate(limit);
    Ok(found)
}

#[async_trait]
impl TransactionStore for EmbeddedStore {
    async fn insert(&self, tx: &Transaction) -> Result<Inserted, StoreError> {
        match self.write(vec![insertion(tx)?]).await?.first() {
            Some(verdict) => Self::inserted(*verdict),
            None => Ok(Inserted::Created),
        }
    }

    async fn insert_many(
        &self,
        transactions: &[Transaction],
        all_or_none: bool,
    ) -> Result<Vec<Inserted>, StoreError> {
        let mutations = transactions.iter().map(insertion).collect::<Result<_, _>>()?;
        let verdicts = self.command(mutations, all_or_none).await?;
        verdicts.into_iter().map(Self::inserted).collect()
    }

    async fn get(&self, id: TransactionId) -> Result<Option<Transaction>, StoreError> {
        self.read(id)
    }

    async fn find_by_idempotency_key(&self, key: &str) -> Result<Option<Transaction>, StoreError> {
        let id = self.engine.get(&keys::idempotency(key)).map_err(store_error)?;
        match id.and_then(|value| keys::id(&value)) {
            Some(id) => self.read(id),
            None => Ok(None),
        }
    }

    async fn compare_and_swap(&self, changes: Vec<Change>) -> Result<Vec<bool>, StoreError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let mutations = changes.iter().map(replacement).collect::<Result<_, _>>()?;
        let verdicts = self.write(mutations).await?;
        Ok(verdicts
            .into_iter()
            .map(|verdict| verdict == Verdict::Made)
            .collect())
    }

    async fn due(&self, ledger: &LedgerName, now: Timestamp, limit: usize) -> Result<Due, StoreError> {
        // First tries are due whatever the clock said when they were accepted: it may have been set back since.
        let ever = Timestamp::from_millis(u64::MAX);
        let first = self.marks(ledger, true, ever, limit)?;
        let again = self.marks(ledger, false, now, limit)?;
        Ok(Due {
            marks: Due::in_turn(again.marks, first.marks, limit),
            next: again.next,
        })
    }

    async fn announced(&self, ledger: &LedgerName, marks: &[Mark], at: Timestamp) -> Result<(), StoreError> {
        // In pieces, so that the accepts that share their commits do not wait long.
        for piece in marks.chunks(ANNOUNCED_AT_ONCE) {
            let moves = piece.iter().map(|mark| {
                let due = keys::due(ledger, mark);
                let announced = (keys::announced(&due), at.as_millis().to_be_bytes().to_vec());
                move_mark(mark.id, due, announced, None)
            });
            self.write(moves.collect()).await?;
        }
        Ok(())
    }

    async fn unannounce(
        &self,
        ledger: &LedgerName,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let name = ledger.clone();
        let lost = self
            .blocking(move |engine| announced_before(engine, &name, before, limit))
            .await?;
        let moves = lost.into_iter().filter_map(|announced| {
            let due = (keys::unannounced(&announced), Vec::new());
            Some(move_mark(
                keys::id(&announced)?,
                announced,
                due,
                Some(ledger.clone()),
            ))
        });
        let moves: Vec<_> = moves.collect();
        if moves.is_empty() {
            return Ok(0);
        }
        Ok(made(&self.write(moves).await?))
    }

    fn due_signal(&self, ledger: &LedgerName) -> Arc<Notify> {
        self.shared.signal(ledger)
    }

    async fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<Transaction>, StoreError> {
        self.blocking(move |engine| {
            let mut ids = Vec::new();
            let range = b"e".as_slice()..&*keys::deadlines_until(now);
            engine
                .scan(range, Order::Ascending, &mut |key, _| {
                    ids.extend(keys::id(key));
                    if ids.len() == limit {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })
                .map_err(store_error)?;
            listing::load(engine, ids)
        })
        .await
    }

    async fn list(
        &self,
        filter: &Filter,
        cursor: Option<TransactionId>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let ledgers = match &filter.ledger {
            Some(ledger) => vec![ledger.clone()],
            None => {
                let mut all: Vec<_> = self
                    .shared
                    .counts()
                    .into_keys()
                    .map(|(ledger, _)| ledger)
                    .collect();
                all.dedup();
                all
            }
        };
        let filter = filter.clone();
        self.blocking(move |engine| listing::page(engine, &filter, &ledgers, cursor, limit))
            .await
    }

    async fn prune(&self, status: Status, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let ledgers = self.shared.ledgers_with(status);
        let old = self
            .blocking(move |engine| listing::removals(engine, &ledgers, status, before, limit))
            .await?;
        if old.is_empty() {
            return Ok(0);
        }
        let verdicts = self.write(old).await?;
        Ok(made(&verdicts))
    }

    async fn settled_before(
        &self,
        status: Status,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Transaction>, StoreError> {
        let ledgers = self.shared.ledgers_with(status);
        self.blocking(move |engine| listing::settled_before(engine, &ledgers, status, before, limit))
            .await
    }

    async fn remove_settled(&self, records: &[Transaction]) -> Result<usize, StoreError> {
        let removals = records.iter().filter(|tx| tx.is_settled()).map(removal);
        let verdicts = self.write(removals.collect()).await?;
        Ok(made(&verdicts))
    }

    async fn submitted(&self, ledger: &LedgerName, limit: usize) -> Result<Vec<Transaction>, StoreError> {
        let ledger = ledger.clone();
        self.blocking(move |engine| listing::submitted(engine, &ledger, limit))
            .await
    }

    async fn checkpoint(&self, ledger: &LedgerName) -> Result<Option<Checkpoint>, StoreError> {
        // One that cannot be read is none: what is not told then, look-ups find.
        let stored = self.engine.get(&keys::checkpoint(ledger)).map_err(store_error)?;
        Ok(keys::number(stored).map(Checkpoint))
    }

    async fn advance_checkpoint(&self, ledger: &LedgerName, to: Checkpoint) -> Result<(), StoreError> {
        let advance = note_number(keys::checkpoint(ledger), to.0);
        self.write(vec![advance]).await.map(drop)
    }

    async fn changes(&self, after: Position, limit: usize) -> Result<Option<Changes>, StoreError> {
        let (log, visible) = (self.change_log, self.shared.last_change());
        if after.0 != log {
            return Ok(None);
        }
        self.blocking(move |engine| changes::read(engine, log, after.1, visible, limit))
            .await
    }

    async fn last_change(&self) -> Result<Position, StoreError> {
        Ok(Position(self.change_log, self.shared.last_change()))
    }

    fn changed(&self) -> Arc<Notify> {
        self.shared.changed.clone()
    }

    async fn forget_changes(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let old = self
            .blocking(move |engine| changes::old(engine, before, limit))
            .await?;
        // In pieces, so that the accepts that share their commits do not wait long.
        for piece in old.chunks(FORGOTTEN_AT_ONCE) {
            let last = piece.last().copied().unwrap_or_default();
            let mut note = note_number(keys::CHANGES_FORGOTTEN.to_vec(), last);
            note.deletes = piece.iter().copied().map(keys::change).collect();
            self.write(vec![note]).await?;
        }
        Ok(old.len())
    }

    fn pending_of(&self, tenant: &TenantName) -> u64 {
        match tenant.is_default() {
            true => {
                let all: u64 = self.backlog().values().sum();
                all.saturating_sub(self.shared.pending_of_others())
            }
            false => self.shared.pending_of(tenant),
        }
    }

    fn backlog(&self) -> Backlog {
        let counts = self.shared.counts();
        let pending = counts
            .into_iter()
            .filter(|((_, status), _)| *status == Status::Pending);
        pending.map(|((ledger, _), count)| (ledger, count)).collect()
    }

    async fn oldest_pending(&self, ledger: &LedgerName) -> Result<Option<TransactionId>, StoreError> {
        let mut oldest = None;
        let prefix = keys::listing_prefix(ledger, Status::Pending);
        let end = after(&prefix);
        self.engine
            .scan(prefix.as_slice()..&end, Order::Ascending, &mut |key, _| {
                oldest = keys::id(key);
                ControlFlow::Break(())
            })
            .map_err(store_error)?;
        Ok(oldest)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        if self.shared.is_failing() {
            return Err(StoreError::Unavailable("the last commit failed".to_owned()));
        }
        let mut probe = beside(Expect::New { idempotency: None });
        probe.puts.push((keys::PROBE.to_vec(), Vec::new()));
        self.write(vec![probe]).await.map(drop)
    }
}

impl Drop for EmbeddedStore {
    /// Commits what was handed in, then lets go of the file.
    fn drop(&mut self) {
        self.commands = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the store's writer had panicked");
        }
    }
}
