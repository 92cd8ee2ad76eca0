//! The seam to the store, which is the one truth (I4).
//!
//! Whatever an implementation answers `Ok` to is durable: it survives SIGKILL and power loss (I1). All
//! changes go through [`TransactionStore::compare_and_swap`] on the record's version (I8), so two workers
//! that believe to own a transaction cannot both move it.

pub mod documents;
pub mod embedded;
pub mod postgres;
mod signals;

#[cfg(test)]
mod changes_tests;
#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
mod documents_tests;
#[cfg(test)]
mod large_tests;
#[cfg(test)]
mod oldest_tests;
#[cfg(test)]
mod places;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod rewound_tests;
#[cfg(test)]
mod settled_tests;
#[cfg(test)]
mod tenants_tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::Notify;

pub(crate) use signals::DueSignals;

use crate::domain::{
    Checkpoint, LedgerName, Stage, Status, TenantName, Timestamp, Transaction, TransactionId,
};

/// A read of many records ends after so many bytes of them, however many were asked for: a record may have more
/// than a megabyte. It gives one record at least.
pub(crate) const MOST_BYTES: usize = 8 << 20;

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The disk, or the database, refuses for now. A write may or may not have happened; asking again
    /// later can succeed.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored cannot be read. Needs `sluicegate store check`.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

/// What became of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is stored.
    Created,
    /// Nothing was stored: the idempotency key belongs to this record already.
    Existing(TransactionId),
    /// Nothing was stored, because of another one that was to be stored with it.
    Withheld,
}

/// A change from one version of a record to a later one.
#[derive(Debug, Clone)]
pub struct Change {
    /// The record as it was read.
    pub old: Transaction,
    /// The record as it shall be; made by [`Transaction::apply`], in one step or several.
    pub new: Transaction,
}

/// Makes changes in one commit and answers the new records of those that were made, in order.
///
/// # Errors
/// [`StoreError`], as [`TransactionStore::compare_and_swap`].
pub async fn swap(
    store: &dyn TransactionStore,
    changes: Vec<Change>,
) -> Result<Vec<Transaction>, StoreError> {
    let mut news: Vec<_> = changes.iter().map(|change| change.new.clone()).collect();
    let mut made = store.compare_and_swap(changes).await?.into_iter();
    news.retain(|_| made.next().unwrap_or(false));
    Ok(news)
}

/// Stands for a transaction that a worker has to look at, from a moment on. Every unsettled transaction has
/// exactly one, unless it is parked; it is stored in the same commit as the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The transaction.
    pub id: TransactionId,
    /// Since when it is due.
    pub due_at: Timestamp,
    /// Whether it is due whatever the clock says: no worker has looked at it before, and it did not ask to wait.
    pub first_try: bool,
}

impl Mark {
    /// The mark of a record in its present state.
    pub fn of(tx: &Transaction) -> Option<Self> {
        let due_at = tx.state.due()?;
        Some(Self {
            id: tx.id,
            due_at,
            first_try: tx.is_first_try(),
        })
    }
}

/// What a worker of one ledger has to look at.
#[derive(Debug, Default)]
pub struct Due {
    /// Due transactions: first tries and repeated ones in turn, each kind oldest first, so that neither
    /// starves the other.
    pub marks: Vec<Mark>,
    /// When something not yet due will be; `None` if nothing waits, or if there was more than asked for.
    pub next: Option<Timestamp>,
}

impl Due {
    /// Up to `limit` of both kinds in turn, repeated ones first; then what is left of the longer one.
    fn in_turn(again: Vec<Mark>, first: Vec<Mark>, limit: usize) -> Vec<Mark> {
        let (mut again, mut first) = (again.into_iter().fuse(), first.into_iter().fuse());
        let pairs = std::iter::from_fn(move || {
            let pair: Vec<_> = again.next().into_iter().chain(first.next()).collect();
            (!pair.is_empty()).then_some(pair)
        });
        pairs.flatten().take(limit).collect()
    }
}

/// A place in the order of changes. Opaque to others than the store that made it; of the same log, later ones compare as
/// greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub(crate) u64, pub(crate) u64);

impl Position {
    /// Whether both are places in the same order.
    pub fn is_of_the_log_of(self, other: Self) -> bool {
        self.0 == other.0
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.0, self.1)
    }
}

/// A text that is no [`Position`].
#[derive(Debug, Error)]
#[error("is not the id of an event")]
pub struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (first, second) = text.split_once('-').ok_or(NoPosition)?;
        // A sign would be read, and is none of ours.
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
            number.ok_or(NoPosition)
        };
        Ok(Self(number(first)?, number(second)?))
    }
}

/// What changed after some position.
#[derive(Debug)]
pub struct Changes {
    /// Records as they stand, each with the place of its last change, in that order. A record that changes while this is
    /// read may be left out: it then comes later.
    pub items: Vec<(Position, Transaction)>,
    /// Where to go on.
    pub next: Position,
    /// Whether there was more than could be read at once.
    pub more: bool,
}

/// Which records to list. All conditions must hold.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only those of this tenant.
    pub tenant: Option<TenantName>,
    /// Only what the ledger knows by this identifier.
    pub tx_id: Option<String>,
    /// Only this status.
    pub status: Option<Status>,
    /// Only this stage (which only pending ones have).
    pub stage: Option<Stage>,
    /// Only this ledger.
    pub ledger: Option<LedgerName>,
    /// Only this contract.
    pub contract: Option<String>,
    /// Only this function.
    pub function: Option<String>,
    /// Accepted at or after this moment.
    pub created_from: Option<Timestamp>,
    /// Accepted before this moment.
    pub created_before: Option<Timestamp>,
    /// With these labels.
    pub metadata: BTreeMap<String, String>,
}

impl Filter {
    /// The ids that may match, from the first one (inclusive) to the last (exclusive), for a page below `cursor`.
    fn ids(&self, cursor: Option<TransactionId>) -> Range<TransactionId> {
        let from = self
            .created_from
            .map_or(TransactionId::LOWEST, TransactionId::lowest_at);
        let below = self
            .created_before
            .map_or(TransactionId::HIGHEST, TransactionId::lowest_at);
        from..cursor.map_or(below, |cursor| cursor.min(below))
    }

    /// Whether a record has all that is asked for.
    pub fn matches(&self, tx: &Transaction) -> bool {
        let request = &tx.request;
        self.ids(None).contains(&tx.id)
            && self.tenant.as_ref().is_none_or(|tenant| tx.tenant == *tenant)
            && self
                .tx_id
                .as_ref()
                .is_none_or(|wanted| tx.ledger_tx_id().is_some_and(|id| id.0 == *wanted))
            && self.status.is_none_or(|status| tx.status() == status)
            && self.stage.is_none_or(|stage| tx.stage() == Some(stage))
            && self
                .ledger
                .as_ref()
                .is_none_or(|ledger| request.ledger == *ledger)
            && self
                .contract
                .as_ref()
                .is_none_or(|contract| request.contract == *contract)
            && self
                .function
                .as_ref()
                .is_none_or(|function| request.function == *function)
            && self
                .metadata
                .iter()
                .all(|(key, value)| request.metadata.get(key) == Some(value))
    }
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    /// Newest first.
    pub items: Vec<Transaction>,
    /// Where the next page starts: below this id. `None` if this was the last one. A page may be short, or
    /// empty, and still have a next one: a search looks at a bounded number of records at a time, and a page
    /// ends after some megabytes of them.
    pub next: Option<TransactionId>,
}

/// How many transactions are not settled, by ledger.
pub type Backlog = BTreeMap<LedgerName, u64>;

/// Where transactions live.
///
/// Every future may be dropped; a write that was begun may then still happen.
#[async_trait]
pub trait TransactionStore: Send + Sync + 'static {
    /// Stores a new record with its indexes, its idempotency entry and its due mark in one durable commit.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn insert(&self, tx: &Transaction) -> Result<Inserted, StoreError>;

    /// Stores many new records in one durable commit, and answers for each in order. With `all_or_none` nothing is
    /// stored if one of them exists; those that were not stored for that reason are told as [`Inserted::Withheld`]. No
    /// two of them may then have the same idempotency key.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn insert_many(
        &self,
        transactions: &[Transaction],
        all_or_none: bool,
    ) -> Result<Vec<Inserted>, StoreError>;

    /// The record with this id.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn get(&self, id: TransactionId) -> Result<Option<Transaction>, StoreError>;

    /// The records with these ids, in order. One that cannot be read does not hide the others.
    async fn get_many(&self, ids: &[TransactionId]) -> Vec<Result<Option<Transaction>, StoreError>> {
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            records.push(self.get(*id).await);
        }
        records
    }

    /// The record that this idempotency key belongs to, as [`TenantName::scoped`] writes it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn find_by_idempotency_key(&self, key: &str) -> Result<Option<Transaction>, StoreError>;

    /// Makes each change if the stored version still is `old.version`, all of them in one durable commit.
    /// Answers, in order, which were made.
    ///
    /// # Errors
    /// [`StoreError`]; then none, or all that could be made, were.
    async fn compare_and_swap(&self, changes: Vec<Change>) -> Result<Vec<bool>, StoreError>;

    /// Up to `limit` transactions of a ledger that a worker has to look at and that are not announced. A store
    /// that processes share may keep what it gave to one of them from the others for some seconds.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn due(&self, ledger: &LedgerName, now: Timestamp, limit: usize) -> Result<Due, StoreError>;

    /// Notes that these were announced to a work queue at `at`: [`due`](Self::due) gives them no more until
    /// the record changes or [`unannounce`](Self::unannounce) finds them. A mark that is gone stays gone.
    ///
    /// # Errors
    /// [`StoreError`]; then some may be noted.
    async fn announced(&self, ledger: &LedgerName, marks: &[Mark], at: Timestamp) -> Result<(), StoreError>;

    /// Makes up to `limit` transactions due again that were announced before `before` and did not change
    /// since: their messages are lost. Answers how many.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn unannounce(
        &self,
        ledger: &LedgerName,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, StoreError>;

    /// Told whenever something of this ledger may have become due earlier than was known, by a change that
    /// this process made.
    fn due_signal(&self, ledger: &LedgerName) -> Arc<Notify>;

    /// Up to `limit` transactions that wait for a try and whose deadline has passed; fewer, but not none, if they
    /// are large.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<Transaction>, StoreError>;

    /// Up to `limit` records that match, newest first, below `cursor`; fewer if they are large ([`Page::next`]).
    ///
    /// # Errors
    /// [`StoreError`].
    async fn list(
        &self,
        filter: &Filter,
        cursor: Option<TransactionId>,
        limit: usize,
    ) -> Result<Page, StoreError>;

    /// Removes up to `limit` records of `status` that were settled before `before`, with everything that
    /// points to them. Answers how many.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn prune(&self, status: Status, before: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// Up to `limit` records of `status` that were settled before `before`, about the oldest first; fewer, but not none, if
    /// they are large. Asked again before they are removed, it begins with the same ones.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn settled_before(
        &self,
        status: Status,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Transaction>, StoreError>;

    /// Removes those of these settled records that still are as they were read, with everything that points to them, in
    /// one durable commit. Answers how many. They should be few: others wait for that commit.
    ///
    /// # Errors
    /// [`StoreError`]; then none, or all that could be, were removed.
    async fn remove_settled(&self, records: &[Transaction]) -> Result<usize, StoreError>;

    /// Up to `limit` transactions of a ledger that may be on their way there ([`Stage::Submitted`]). May leave
    /// out some if very many others wait for another try.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn submitted(&self, ledger: &LedgerName, limit: usize) -> Result<Vec<Transaction>, StoreError> {
        let filter = Filter {
            ledger: Some(ledger.clone()),
            stage: Some(Stage::Submitted),
            ..Filter::default()
        };
        let (mut found, mut cursor) = (Vec::new(), None);
        while found.len() < limit {
            let page = self.list(&filter, cursor, limit - found.len()).await?;
            found.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// Where the outcomes of this ledger go on that are not stored yet; `None` if that was never noted.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn checkpoint(&self, ledger: &LedgerName) -> Result<Option<Checkpoint>, StoreError>;

    /// Notes that all outcomes before `to` are stored. It never goes back: a later one that is noted stays.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn advance_checkpoint(&self, ledger: &LedgerName, to: Checkpoint) -> Result<(), StoreError>;

    /// What changed after `after`, up to about `limit` records, and no more than [some megabytes](Page::next) of them;
    /// `None` if that position is not known, or no longer. Changes become visible here in the order of their positions,
    /// by whatever process they were made, and no sooner than they are durable; in a store that processes share, only once
    /// whatever was begun before them has ended.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn changes(&self, after: Position, limit: usize) -> Result<Option<Changes>, StoreError>;

    /// The position after all changes that are visible.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn last_change(&self) -> Result<Position, StoreError>;

    /// Notifies all who wait whenever this process changed a record.
    fn changed(&self) -> Arc<Notify>;

    /// Forgets about `limit` changes that were made before `before`, the oldest; the records stay. Answers how many: fewer
    /// than `limit` only if no more are to be forgotten.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn forget_changes(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError>;

    /// How many transactions are not settled. Exact for what this process changed; a store that processes
    /// share may be seconds behind the others.
    fn backlog(&self) -> Backlog;

    /// Of the transactions of a ledger that are not settled, the one that was accepted first, parked ones included; `None`
    /// if there is none. Cheap however many there are.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn oldest_pending(&self, ledger: &LedgerName) -> Result<Option<TransactionId>, StoreError>;

    /// How many transactions of a tenant are not settled; as exact as [`backlog`](Self::backlog).
    fn pending_of(&self, tenant: &TenantName) -> u64;

    /// Writes something and waits until it is durable: whether an accept would work now.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn probe(&self) -> Result<(), StoreError>;

    /// Says goodbye to whatever it is connected to. Nothing depends on it; nothing works after it.
    async fn close(&self) {}
}
