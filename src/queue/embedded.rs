//! The queue that needs no broker: it is read off the store's due marks.
//!
//! Publishing is storing, so an accepted transaction is in the queue in the same commit, and a crash loses
//! neither. Only the ids on loan are in memory, never the backlog (I7). Order is the store's: first tries and
//! repeated ones in turn, each oldest first.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Acknowledge, Consumer, Delivery, QueueError, QueueHealth, Settlement, Tenure, WorkQueue};
use crate::clock::Clock;
use crate::domain::{LedgerName, Timestamp, TransactionId};
use crate::store::{Mark, TransactionStore};

/// A clock that jumps ahead makes things due early; that is noticed after so long at the latest.
const LONGEST_NAP: Duration = Duration::from_secs(5);

/// [`WorkQueue`] over the due marks of a [`TransactionStore`].
pub struct EmbeddedQueue {
    store: Arc<dyn TransactionStore>,
    clock: Arc<dyn Clock>,
}

impl EmbeddedQueue {
    /// A queue over `store`.
    pub fn new(store: Arc<dyn TransactionStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }
}

#[async_trait]
impl WorkQueue for EmbeddedQueue {
    async fn publish(
        &self,
        _: &LedgerName,
        ids: &[TransactionId],
        _: Timestamp,
    ) -> Result<Vec<bool>, QueueError> {
        // The due mark was stored with the record, and the store has told the consumer.
        Ok(vec![true; ids.len()])
    }

    async fn consume(&self, ledger: &LedgerName) -> Result<Box<dyn Consumer>, QueueError> {
        Ok(Box::new(EmbeddedConsumer {
            store: self.store.clone(),
            clock: self.clock.clone(),
            ledger: ledger.clone(),
            signal: self.store.due_signal(ledger),
            on_loan: OnLoan::default(),
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

type OnLoan = Arc<Mutex<HashSet<TransactionId>>>;

struct EmbeddedConsumer {
    store: Arc<dyn TransactionStore>,
    clock: Arc<dyn Clock>,
    ledger: LedgerName,
    signal: Arc<Notify>,
    on_loan: OnLoan,
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        loop {
            let lent = self.on_loan.lock().unwrap_or_else(PoisonError::into_inner).len();
            let now = self.clock.now();
            let due = self
                .store
                .due(&self.ledger, now, max + lent)
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
        let mut on_loan = self.on_loan.lock().unwrap_or_else(PoisonError::into_inner);
        due.into_iter()
            .map(|mark| mark.id)
            .filter(|id| !on_loan.contains(id))
            .take(max)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|id| {
                on_loan.insert(id);
                let loan = Loan {
                    id,
                    on_loan: self.on_loan.clone(),
                    signal: self.signal.clone(),
                    settlement: Settlement::Again,
                };
                Delivery::new(id, Box::new(loan))
            })
            .collect()
    }
}

/// Ends with the delivery: the store's due mark tells whether it comes again. One that was rejected is lent
/// until the process ends, so that it neither holds up its neighbours nor comes again and again.
struct Loan {
    id: TransactionId,
    on_loan: OnLoan,
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
        if self.settlement == Settlement::Reject {
            return;
        }
        self.on_loan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
        if self.settlement == Settlement::Again {
            self.signal.notify_one();
        }
    }
}
