//! A lane that can be cut off: from changing the store, and from its queue without knowing of another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use sluicegate::domain::{Checkpoint, LedgerName, Status, TenantName, Timestamp, Transaction, TransactionId};
use sluicegate::queue::{Consumer, Delivery, QueueError, QueueHealth, Tenure, Traces, WorkQueue};
use sluicegate::store::{
    Backlog, Change, Changes, Due, Filter, Inserted, Mark, Page, Position, StoreError, TransactionStore,
};
use tokio::sync::Notify;

/// A store that refuses changes of records while it is cut off.
pub(crate) struct CutStore {
    pub(crate) inner: Arc<dyn TransactionStore>,
    pub(crate) cut: Arc<AtomicBool>,
}

#[async_trait]
impl TransactionStore for CutStore {
    async fn insert(&self, tx: &Transaction) -> Result<Inserted, StoreError> {
        self.inner.insert(tx).await
    }

    async fn insert_many(
        &self,
        transactions: &[Transaction],
        all_or_none: bool,
    ) -> Result<Vec<Inserted>, StoreError> {
        self.inner.insert_many(transactions, all_or_none).await
    }

    async fn changes(&self, after: Position, limit: usize) -> Result<Option<Changes>, StoreError> {
        self.inner.changes(after, limit).await
    }

    async fn last_change(&self) -> Result<Position, StoreError> {
        self.inner.last_change().await
    }

    fn changed(&self) -> Arc<Notify> {
        self.inner.changed()
    }

    async fn forget_changes(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.inner.forget_changes(before, limit).await
    }

    async fn oldest_pending(&self, ledger: &LedgerName) -> Result<Option<TransactionId>, StoreError> {
        self.inner.oldest_pending(ledger).await
    }

    fn pending_of(&self, tenant: &TenantName) -> u64 {
        self.inner.pending_of(tenant)
    }

    async fn get(&self, id: TransactionId) -> Result<Option<Transaction>, StoreError> {
        self.inner.get(id).await
    }

    async fn submitted(&self, ledger: &LedgerName, limit: usize) -> Result<Vec<Transaction>, StoreError> {
        self.inner.submitted(ledger, limit).await
    }

    async fn find_by_idempotency_key(&self, key: &str) -> Result<Option<Transaction>, StoreError> {
        self.inner.find_by_idempotency_key(key).await
    }

    async fn compare_and_swap(&self, changes: Vec<Change>) -> Result<Vec<bool>, StoreError> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("cut off by the test".into()));
        }
        self.inner.compare_and_swap(changes).await
    }

    async fn due(&self, ledger: &LedgerName, now: Timestamp, limit: usize) -> Result<Due, StoreError> {
        self.inner.due(ledger, now, limit).await
    }

    async fn announced(&self, ledger: &LedgerName, marks: &[Mark], at: Timestamp) -> Result<(), StoreError> {
        self.inner.announced(ledger, marks, at).await
    }

    async fn unannounce(
        &self,
        ledger: &LedgerName,
        before: Timestamp,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.inner.unannounce(ledger, before, limit).await
    }

    fn due_signal(&self, ledger: &LedgerName) -> Arc<Notify> {
        self.inner.due_signal(ledger)
    }

    async fn expired(&self, now: Timestamp, limit: usize) -> Result<Vec<Transaction>, StoreError> {
        self.inner.expired(now, limit).await
    }

    async fn list(
        &self,
        filter: &Filter,
        cursor: Option<TransactionId>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.inner.list(filter, cursor, limit).await
    }

    async fn prune(&self, status: Status, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.inner.prune(status, before, limit).await
    }

    async fn settled_before(
        &self,
        status: Status,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Transaction>, StoreError> {
        self.inner.settled_before(status, before, limit).await
    }

    async fn remove_settled(&self, records: &[Transaction]) -> Result<usize, StoreError> {
        self.inner.remove_settled(records).await
    }

    async fn checkpoint(&self, ledger: &LedgerName) -> Result<Option<Checkpoint>, StoreError> {
        self.inner.checkpoint(ledger).await
    }

    async fn advance_checkpoint(&self, ledger: &LedgerName, to: Checkpoint) -> Result<(), StoreError> {
        self.inner.advance_checkpoint(ledger, to).await
    }

    fn backlog(&self) -> Backlog {
        self.inner.backlog()
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.inner.probe().await
    }
}

/// A queue whose consumer can lose its tenure.
pub(crate) struct CutQueue {
    pub(crate) inner: Arc<dyn WorkQueue>,
    pub(crate) replaced: Arc<AtomicBool>,
}

#[async_trait]
impl WorkQueue for CutQueue {
    async fn publish(
        &self,
        ledger: &LedgerName,
        ids: &[TransactionId],
        now: Timestamp,
        traces: &Traces,
    ) -> Result<Vec<bool>, QueueError> {
        self.inner.publish(ledger, ids, now, traces).await
    }

    async fn consume(&self, ledger: &LedgerName) -> Result<Box<dyn Consumer>, QueueError> {
        let consumer = self.inner.consume(ledger).await?;
        let replaced = self.replaced.clone();
        Ok(Box::new(CutConsumer { consumer, replaced }))
    }

    async fn lost_before(
        &self,
        ledger: &LedgerName,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, QueueError> {
        self.inner.lost_before(ledger, now).await
    }

    fn health(&self) -> QueueHealth {
        self.inner.health()
    }
}

struct CutConsumer {
    consumer: Box<dyn Consumer>,
    replaced: Arc<AtomicBool>,
}

#[async_trait]
impl Consumer for CutConsumer {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        if self.replaced.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.consumer.next(max).await
    }

    fn tenure(&self) -> Tenure {
        let replaced = self.replaced.clone();
        Tenure::new(move || !replaced.load(Ordering::SeqCst))
    }
}
