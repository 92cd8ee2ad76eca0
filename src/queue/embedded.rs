//! The queue that needs no broker: it is read off the store's due marks.
//!
//! Publishing is storing, so an accepted transaction is in the queue in the same commit, and a crash loses
//! neither. Only the ids on loan, and those that were rejected, are in memory, never the backlog (I7). Order is
//! the store's: first tries and repeated ones in turn, each oldest first.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{
    Acknowledge, Consumer, Delivery, QueueError, QueueHealth, Settlement, Tenure, Traces, WorkQueue,
};
use crate::clock::Clock;
use crate::domain::{LedgerName, Timestamp, TransactionId};
use crate::store::{Mark, TransactionStore};

/// A clock that jumps ahead makes things due early; that is noticed after so long at the latest.
const LONGEST_NAP: Duration = Duration::from_secs(5);

/// So many rejected ids are remembered for a ledger, in a few MB. Any others come again with the next consumer.
const MOST_REJECTED: usize = 100_000;

/// [`WorkQueue`] over the due marks of a [`TransactionStore`].
pub struct EmbeddedQueue {
    store: Arc<dyn TransactionStore>,
    clock: Arc<dyn Clock>,
    /// What leads to no readable record keeps its due mark. It is lent to no consumer of this process again.
    rejected: Mutex<HashMap<LedgerName, Ids>>,
}

impl EmbeddedQueue {
    /// A queue over `store`.
    pub fn new(store: Arc<dyn TransactionStore>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            rejected: Mutex::default(),
        }
    }
}

#[async_trait]
impl WorkQueue for EmbeddedQueue {
    async fn publish(
        &self,
        _: &LedgerName,
        ids: &[TransactionId],
        _: Timestamp,
        _: &Traces,
    ) -> Result<Vec<bool>, QueueError> {
        // The due mark was stored with the record, and the store has told the consumer.
        Ok(vec![true; ids.len()])
    }

    async fn consume(&self, ledger: &LedgerName) -> Result<Box<dyn Consumer>, QueueError> {
        let rejected = locked(&self.rejected).entry(ledger.clone()).or_default().clone();
        Ok(Box::new(EmbeddedConsumer {
            store: self.store.clone(),
            clock: self.clock.clone(),
            ledger: ledger.clone(),
            signal: self.store.due_signal(ledger),
            on_loan: Ids::default(),
            rejected,
        }))
    }

    async fn lost_before(&self, _: &LedgerName, _: Timestamp) -> Result<Option<Timestamp>, QueueError> {
        Ok(None)
    }

    fn health(&self) -> QueueHealth {
        QueueHealth {
            kind: "embedded",
            trouble: None,
        }
    }
}

type Ids = Arc<Mutex<HashSet<TransactionId>>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct EmbeddedConsumer {
    store: Arc<dyn TransactionStore>,
    clock: Arc<dyn Clock>,
    ledger: LedgerName,
    signal: Arc<Notify>,
    on_loan: Ids,
    rejected: Ids,
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        loop {
            let away = locked(&self.on_loan).len() + locked(&self.rejected).len();
            let now = self.clock.now();
            let due = self
                .store
                .due(&self.ledger, now, max + away)
                .await
                .map_err(|error| QueueError(error.to_string()))?;
            // From here to the return nothing waits, so a dropped future has lent nothing.
            let deliveries = self.lend(due.marks, max);
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            let nap = due
                .next
                .map_or(LONGEST_NAP, |next| next.since(now))
                .min(LONGEST_NAP);
            tokio::select! {
                () = self.signal.notified() => {}
                () = self.clock.sleep(nap) => {}
            }
        }
    }

    fn tenure(&self) -> Tenure {
        // The store belongs to this process, and this process consumes once.
        Tenure::new(|| true)
    }
}

impl EmbeddedConsumer {
    fn lend(&self, due: Vec<Mark>, max: usize) -> Vec<Delivery> {
        let mut on_loan = locked(&self.on_loan);
        let rejected = locked(&self.rejected);
        due.into_iter()
            .map(|mark| mark.id)
            .filter(|id| !on_loan.contains(id) && !rejected.contains(id))
            .take(max)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|id| {
                on_loan.insert(id);
                let loan = Loan {
                    id,
                    on_loan: self.on_loan.clone(),
                    rejected: self.rejected.clone(),
                    signal: self.signal.clone(),
                    settlement: Settlement::Again,
                };
                Delivery::new(id, Box::new(loan))
            })
            .collect()
    }
}

/// Ends with the delivery: the store's due mark tells whether it comes again. One that was rejected does not, so
/// that it neither holds up its neighbours nor comes again and again.
struct Loan {
    id: TransactionId,
    on_loan: Ids,
    rejected: Ids,
    signal: Arc<Notify>,
    settlement: Settlement,
}

impl Acknowledge for Loan {
    fn settle(&mut self, settlement: Settlement) {
        self.settlement = settlement;
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // In this order, so that a rejected one is never in neither.
        if self.settlement == Settlement::Reject && !self.is_remembered() {
            return;
        }
        locked(&self.on_loan).remove(&self.id);
        if self.settlement == Settlement::Again {
            self.signal.notify_one();
        }
    }
}

impl Loan {
    /// Remembers what was rejected. If there is no room for it, it stays on loan.
    fn is_remembered(&self) -> bool {
        let mut rejected = locked(&self.rejected);
        if rejected.len() < MOST_REJECTED {
            rejected.insert(self.id);
        }
        rejected.contains(&self.id)
    }
}
