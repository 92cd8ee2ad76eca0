//! The seam to the work queue.
//!
//! A message is a hint and carries an id, nothing else: the stored record is the truth (I4). So a message
//! may be lost, repeated, late or out of order without harm. There is no delay: waiting lives in the record
//! (`State::due`), which makes every queue behave alike.

pub mod embedded;

#[cfg(test)]
mod conformance;

use async_trait::async_trait;
use thiserror::Error;

use crate::domain::{LedgerName, TransactionId};

/// Why the queue could not do what it was asked. Asking again later can succeed.
#[derive(Debug, Clone, Error)]
#[error("the work queue is unavailable: {0}")]
pub struct QueueError(pub String);

/// Carries ids of due transactions to the worker of their ledger.
#[async_trait]
pub trait WorkQueue: Send + Sync + 'static {
    /// Announces a transaction to the worker of `ledger`.
    ///
    /// # Errors
    /// [`QueueError`]: it may or may not have been announced.
    async fn publish(&self, ledger: &LedgerName, id: TransactionId) -> Result<(), QueueError>;

    /// Starts to consume what is announced for `ledger`.
    ///
    /// # Errors
    /// [`QueueError`].
    async fn consume(&self, ledger: &LedgerName) -> Result<Box<dyn Consumer>, QueueError>;
}

/// The receiving end of one ledger's queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits until there is something, then gives what is there at once, at most `max`. Cancel safe: what
    /// was not given is given later.
    ///
    /// # Errors
    /// [`QueueError`].
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, QueueError>;
}

/// One id, on loan. Dropping it unacknowledged gives it back, to be delivered again.
pub struct Delivery {
    /// The transaction to look at.
    pub id: TransactionId,
    receipt: Box<dyn Acknowledge>,
}

/// How a queue learns what became of a delivery; called at most once.
pub trait Acknowledge: Send + Sync {
    /// The delivery is settled, or given back (`again`).
    fn settle(&mut self, again: bool);
}

impl Delivery {
    /// A delivery that reports to `receipt`.
    pub fn new(id: TransactionId, receipt: Box<dyn Acknowledge>) -> Self {
        Self { id, receipt }
    }

    /// The new state is stored: the store knows from here on when it has to be looked at again.
    pub fn ack(mut self) {
        self.receipt.settle(false);
    }

    /// Nothing was stored; deliver it again.
    pub fn nack(mut self) {
        self.receipt.settle(true);
    }
}
