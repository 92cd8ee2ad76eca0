//! The one writer: a thread that turns whatever waits into one durable commit (group commit).
//!
//! It takes the first mutation as soon as it comes, adds all that have gathered meanwhile, commits, and
//! answers everybody after the sync. Alone, a mutation waits for nobody; under load, the time of one sync is
//! the time in which the next group gathers. Only this thread writes, so the version checks and idempotency
//! look-ups it makes before a commit cannot be overtaken.
//!
//! On a crash the commit that was under way is there as a whole or not at all; nobody was answered yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use super::Counts;
use super::keys::{self, Entry};
use super::record;
use crate::domain::{LedgerName, Status, TenantName, Timestamp, TransactionId};
use crate::failpoint;
use crate::kv::{Batch, KvEngine, KvError};
use crate::store::{DueSignals, StoreError};
use crate::telemetry::metrics::StoreMetrics;

/// A group is closed at so many mutations or bytes, which bounds a commit's time and memory.
const MAX_GROUP: usize = 1_024;
const MAX_GROUP_BYTES: usize = 8 << 20;

/// What must hold for a mutation to be made.
pub(super) enum Expect {
    /// Nothing; it is a new record, unless this idempotency entry exists.
    New { idempotency: Option<Vec<u8>> },
    /// The stored record has this version.
    Version(u64),
    /// Under this key stands no number, or a lower one than this.
    Below(Vec<u8>, u64),
    /// This due mark stands, and nothing else in the group changes its record.
    Mark(Vec<u8>),
    /// The document under this key has this version, or there is none. What it will have, if it is not removed.
    Document {
        key: Vec<u8>,
        stored: Option<u64>,
        next: Option<u64>,
    },
}

/// All writes for one record, or for what stands beside the records.
pub(super) struct Mutation {
    pub(super) id: TransactionId,
    pub(super) expect: Expect,
    /// The version it leads to; `None` removes the record, or leaves it alone if only a mark moves.
    pub(super) version: Option<u64>,
    /// When the record changed, if it did: what the log of changes keeps.
    pub(super) changed_at: Option<Timestamp>,
    pub(super) puts: Vec<Entry>,
    pub(super) deletes: Vec<Vec<u8>>,
    /// Which counters go up and down.
    pub(super) counts: Vec<((LedgerName, Status), i64)>,
    /// A tenant other than the default one that has one more, or one less, that is not settled.
    pub(super) pending: Option<(TenantName, i64)>,
    /// The ledger whose worker has something new to look at.
    pub(super) wakes: Option<LedgerName>,
}

/// What became of a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Made,
    /// Another version is stored.
    Moved,
    /// The idempotency key is taken by this record.
    Exists(TransactionId),
    /// Whether the idempotency key is taken cannot be read.
    Unreadable,
    /// It would be made, were it not for another one of its command.
    Withheld,
}

pub(super) struct Command {
    pub(super) mutations: Vec<Mutation>,
    /// Whether none is made unless all are. None of them may then depend on another one.
    pub(super) all_or_none: bool,
    pub(super) reply: oneshot::Sender<Result<Vec<Verdict>, StoreError>>,
}

/// What the writer shares with the store's readers.
#[derive(Default)]
pub(super) struct Shared {
    counts: Mutex<Counts>,
    /// How many are not settled, of tenants other than the default one.
    tenants: Mutex<BTreeMap<TenantName, u64>>,
    signals: DueSignals,
    /// Told after each commit that changed a record.
    pub(super) changed: Arc<Notify>,
    /// The last change that is visible.
    last_change: AtomicU64,
    /// When the last commit of records failed, if none succeeded since.
    failed_at: Mutex<Option<Instant>>,
}

/// A store whose last commit failed so recently is not ready, even if a smaller write would fit.
const NOT_READY: Duration = Duration::from_secs(3);

impl Shared {
    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ledgers that have, or had, records of this status.
    pub(super) fn ledgers_with(&self, status: Status) -> Vec<LedgerName> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = counts.keys().filter(|(_, counted)| *counted == status);
        counted.map(|(ledger, _)| ledger.clone()).collect()
    }

    pub(super) fn pending_of(&self, tenant: &TenantName) -> u64 {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.get(tenant).copied().unwrap_or_default()
    }

    /// Those of all tenants but the default one.
    pub(super) fn pending_of_others(&self) -> u64 {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.values().sum()
    }

    pub(super) fn last_change(&self) -> u64 {
        self.last_change.load(Ordering::Acquire)
    }

    /// Whether a commit failed a moment ago.
    pub(super) fn is_failing(&self) -> bool {
        let failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < NOT_READY)
    }

    fn note_commit(&self, failed: bool) {
        let mut failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        *failed_at = failed.then(Instant::now);
    }

    pub(super) fn signal(&self, ledger: &LedgerName) -> Arc<Notify> {
        self.signals.of(ledger)
    }
}

pub(super) struct Writer {
    engine: Arc<dyn KvEngine>,
    shared: Arc<Shared>,
    metrics: StoreMetrics,
    /// The counters as committed; `None` after a failed commit, whose effect nobody knows.
    counts: Option<Counts>,
}

/// The group being built.
#[derive(Default)]
struct Group {
    batch: Batch,
    versions: HashMap<TransactionId, Option<u64>>,
    idempotency: HashMap<Vec<u8>, TransactionId>,
    numbers: HashMap<Vec<u8>, u64>,
    counts: HashMap<(LedgerName, Status), i64>,
    pending: BTreeMap<TenantName, i64>,
    documents: HashMap<Vec<u8>, Option<u64>>,
    /// Entries of the log of changes, in order.
    changes: Vec<Vec<u8>>,
    wakes: Vec<LedgerName>,
    mutations: usize,
    failed: Option<StoreError>,
}

impl Writer {
    pub(super) fn new(
        engine: Arc<dyn KvEngine>,
        shared: Arc<Shared>,
        metrics: StoreMetrics,
    ) -> Result<Self, StoreError> {
        let mut writer = Self {
            engine,
            shared,
            metrics,
            counts: None,
        };
        writer.load_counts()?;
        Ok(writer)
    }

    /// Runs until every sender is gone, then returns; what was sent before is committed first.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let mut group = Group::default();
            let mut answers = Vec::new();
            let mut take = |command: Command, group: &mut Group| {
                let verdicts = self.add(group, command.mutations, command.all_or_none);
                answers.push((command.reply, verdicts));
            };
            take(first, &mut group);
            loop {
                let before = group.mutations;
                while !group.is_full()
                    && let Ok(command) = commands.try_recv()
                {
                    take(command, &mut group);
                }
                // Others are at it: those who are ready to run now may join before the disk is asked. Alone,
                // or when a turn brings nobody, there is nothing to wait for.
                if group.mutations <= before.max(1) || group.is_full() {
                    break;
                }
                std::thread::yield_now();
            }
            let committed = self.commit(group);
            for (reply, verdicts) in answers {
                // Whoever asked may have gone; the write stands all the same.
                let _gone = reply.send(committed.clone().map(|()| verdicts));
            }
        }
    }

    /// Checks and adds the mutations of one command, one after the other, so that each sees those before.
    ///
    /// A failed look-up means that the disk is failing: the whole group is given up, nothing of it is written.
    fn add(&self, group: &mut Group, mutations: Vec<Mutation>, all_or_none: bool) -> Vec<Verdict> {
        let judged: Result<Vec<_>, _> = if all_or_none {
            let judged = mutations.iter().map(|mutation| self.judge(group, mutation));
            let verdicts: Result<Vec<_>, _> = judged.collect();
            verdicts.map(|mut verdicts| {
                if verdicts.iter().all(|verdict| *verdict == Verdict::Made) {
                    mutations.into_iter().for_each(|mutation| group.add(mutation));
                } else {
                    let made = verdicts.iter_mut().filter(|verdict| **verdict == Verdict::Made);
                    made.for_each(|verdict| *verdict = Verdict::Withheld);
                }
                verdicts
            })
        } else {
            let judged = mutations.into_iter().map(|mutation| {
                let verdict = self.judge(group, &mutation)?;
                if verdict == Verdict::Made {
                    group.add(mutation);
                }
                Ok(verdict)
            });
            judged.collect()
        };
        judged.unwrap_or_else(|error| {
            group.failed = Some(error);
            Vec::new()
        })
    }

    fn judge(&self, group: &Group, mutation: &Mutation) -> Result<Verdict, StoreError> {
        match (self.compare(group, mutation), &mutation.expect) {
            // Damage at one place must not stop what is written elsewhere.
            (Err(StoreError::Damaged(_)), Expect::New { .. }) => Ok(Verdict::Unreadable),
            (Err(StoreError::Damaged(_)), _) => Ok(Verdict::Moved),
            (judged, _) => judged,
        }
    }

    fn compare(&self, group: &Group, mutation: &Mutation) -> Result<Verdict, StoreError> {
        match &mutation.expect {
            Expect::Document { key, stored, .. } => {
                let there = match group.documents.get(key) {
                    Some(version) => *version,
                    None => {
                        let bytes = self.engine.get(key).map_err(store_error)?;
                        bytes.and_then(|bytes| record::version(&bytes))
                    }
                };
                Ok(if there == *stored {
                    Verdict::Made
                } else {
                    Verdict::Moved
                })
            }
            Expect::New { idempotency: None } => Ok(Verdict::Made),
            Expect::New {
                idempotency: Some(key),
            } => {
                if let Some(id) = group.idempotency.get(key) {
                    return Ok(Verdict::Exists(*id));
                }
                let taken = self.engine.get(key).map_err(store_error)?;
                Ok(taken
                    .and_then(|value| keys::id(&value))
                    .map_or(Verdict::Made, Verdict::Exists))
            }
            Expect::Below(key, number) => {
                let stored = match group.numbers.get(key) {
                    Some(stored) => Some(*stored),
                    None => keys::number(self.engine.get(key).map_err(store_error)?),
                };
                let below = stored.is_none_or(|stored| stored < *number);
                Ok(if below { Verdict::Made } else { Verdict::Moved })
            }
            Expect::Mark(key) => {
                let untouched = !group.versions.contains_key(&mutation.id);
                let stands = untouched && self.engine.get(key).map_err(store_error)?.is_some();
                Ok(if stands { Verdict::Made } else { Verdict::Moved })
            }
            Expect::Version(expected) => {
                let stored = match group.versions.get(&mutation.id) {
                    Some(version) => *version,
                    None => {
                        let bytes = self.engine.get(&keys::record(mutation.id)).map_err(store_error)?;
                        bytes.and_then(|bytes| record::version(&bytes))
                    }
                };
                Ok(if stored == Some(*expected) {
                    Verdict::Made
                } else {
                    Verdict::Moved
                })
            }
        }
    }

    fn commit(&mut self, group: Group) -> Result<(), StoreError> {
        if let Some(error) = group.failed {
            return Err(error);
        }
        if group.batch.is_empty() {
            return Ok(());
        }
        if self.counts.is_none() {
            self.load_counts()?;
        }
        let mut counts = self.counts.take().unwrap_or_default();
        let mut batch = group.batch;
        for (what, change) in group.counts {
            let count = counts.entry(what.clone()).or_default();
            *count = count.saturating_add_signed(change);
            batch.put(keys::count(&what.0, what.1), count.to_be_bytes().to_vec());
        }
        let (mut last_change, changes) = (self.shared.last_change(), group.changes);
        let changed = !changes.is_empty();
        for entry in changes {
            last_change += 1;
            batch.put(keys::change(last_change), entry);
        }
        failpoint::reached("store-before-commit");
        let committed = self
            .metrics
            .time_commit(group.mutations, || self.engine.commit(batch));
        self.shared.note_commit(committed.is_err());
        committed.map_err(store_error)?;
        failpoint::reached("store-after-commit");
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts.clone();
        self.counts = Some(counts);
        if !group.pending.is_empty() {
            let mut tenants = self.shared.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            for (tenant, change) in group.pending {
                let pending = tenants.entry(tenant).or_default();
                *pending = pending.saturating_add_signed(change);
            }
        }
        for ledger in group.wakes {
            self.shared.signal(&ledger).notify_one();
        }
        if changed {
            self.shared.last_change.store(last_change, Ordering::Release);
            self.shared.changed.notify_waiters();
        }
        Ok(())
    }

    /// Reads what is kept in memory off the disk.
    fn load_counts(&mut self) -> Result<(), StoreError> {
        let counts = super::counts_of(&*self.engine).map_err(store_error)?;
        let tenants = super::pending_by_tenant(&*self.engine).map_err(store_error)?;
        *self.shared.tenants.lock().unwrap_or_else(PoisonError::into_inner) = tenants;
        let last_change = super::changes::last(&*self.engine)?;
        self.shared.last_change.store(last_change, Ordering::Release);
        *self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts.clone();
        self.counts = Some(counts);
        Ok(())
    }
}

impl Group {
    fn is_full(&self) -> bool {
        self.mutations >= MAX_GROUP || self.batch.bytes() >= MAX_GROUP_BYTES || self.failed.is_some()
    }

    fn add(&mut self, mutation: Mutation) {
        self.mutations += 1;
        match mutation.expect {
            Expect::Mark(_) => {}
            Expect::Below(key, number) => {
                self.numbers.insert(key, number);
            }
            Expect::New { idempotency } => {
                self.versions.insert(mutation.id, mutation.version);
                self.idempotency.extend(idempotency.map(|key| (key, mutation.id)));
            }
            Expect::Version(_) => {
                self.versions.insert(mutation.id, mutation.version);
            }
            Expect::Document { key, next, .. } => {
                self.documents.insert(key, next);
            }
        }
        if let (Some(version), Some(at)) = (mutation.version, mutation.changed_at) {
            self.changes.push(keys::change_entry(mutation.id, version, at));
        }
        if let Some((tenant, change)) = mutation.pending {
            *self.pending.entry(tenant).or_default() += change;
        }
        for key in mutation.deletes {
            self.batch.delete(key);
        }
        for (key, value) in mutation.puts {
            self.batch.put(key, value);
        }
        for (what, change) in mutation.counts {
            *self.counts.entry(what).or_default() += change;
        }
        if let Some(ledger) = mutation.wakes
            && !self.wakes.contains(&ledger)
        {
            self.wakes.push(ledger);
        }
    }
}

pub(super) fn store_error(error: KvError) -> StoreError {
    match error {
        KvError::Damaged(detail) => StoreError::Damaged(detail),
        KvError::Disk(_) | KvError::Refused(_) | KvError::Locked => {
            StoreError::Unavailable(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::kv::{self, EngineKind, Order, Visit};
    use crate::store::conformance::transaction;
    use crate::telemetry::metrics::Metrics;

    /// An engine that cannot read one key.
    struct Spoilt(Box<dyn KvEngine>, Vec<u8>);

    impl KvEngine for Spoilt {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
            if key == self.1 {
                return Err(KvError::Damaged("spoilt".to_owned()));
            }
            self.0.get(key)
        }

        fn scan(&self, range: Range<&[u8]>, order: Order, visit: Visit<'_>) -> Result<(), KvError> {
            self.0.scan(range, order, visit)
        }

        fn commit(&self, batch: Batch) -> Result<(), KvError> {
            self.0.commit(batch)
        }
    }

    #[test]
    fn i9_damage_in_one_place_fails_nobody_else_in_the_group() {
        let folder = tempfile::tempdir().expect("folder");
        let engine = kv::open(EngineKind::Redb, &folder.path().join("kv"), 1 << 20).expect("opens");
        let engine = Arc::new(Spoilt(engine, keys::idempotency("spoilt")));
        let metrics = Metrics::new().expect("metrics").store();
        let writer = Writer::new(engine.clone(), Arc::default(), metrics).expect("starts");
        let (commands, waiting) = mpsc::channel(8);
        let answers: Vec<_> = ["one", "spoilt", "two"]
            .iter()
            .map(|key| {
                let tx = transaction("main", Some(key));
                let (reply, answer) = oneshot::channel();
                let mutations = vec![super::super::insertion(&tx).expect("encodes")];
                let sent = commands.try_send(Command {
                    mutations,
                    all_or_none: false,
                    reply,
                });
                sent.expect("has room");
                (tx.id, answer)
            })
            .collect();
        drop(commands);
        writer.run(waiting);
        let expected = [Verdict::Made, Verdict::Unreadable, Verdict::Made];
        for ((id, mut answer), expected) in answers.into_iter().zip(expected) {
            let verdicts = answer.try_recv().expect("answered").expect("committed");
            assert_eq!(verdicts, [expected]);
            let stored = engine.get(&keys::record(id)).expect("reads");
            assert_eq!(stored.is_some(), expected == Verdict::Made);
        }
    }
}
