//! The seam to the work queue.
//!
//! A message is a hint and carries an id, nothing else: the stored record is the truth (I4). So a message
//! may be lost, repeated, late or out of order without harm. There is no delay: waiting lives in the record
//! (`State::due`), which makes every queue behave alike.

pub mod embedded;
pub mod rabbit;

#[cfg(test)]
mod conformance;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use crate::domain::{LedgerName, Timestamp, TransactionId};
use crate::telemetry::TraceContext;

/// The traces that transactions belong to, of those that have one.
pub type Traces = HashMap<TransactionId, TraceContext>;

/// Why the queue could not do what it was asked. Asking again later can succeed.
#[derive(Debug, Clone, Error)]
#[error("the work queue is unavailable: {0}")]
pub struct QueueError(pub String);

/// Carries ids of due transactions to the worker of their ledger.
#[async_trait]
pub trait WorkQueue: Send + Sync + 'static {
    /// Announces transactions to the worker of `ledger` and waits until the queue has them for good, at most
    /// some seconds. Answers, in order, which it has; the others it may or may not have. `at` goes with the
    /// messages: see [`lost_before`](Self::lost_before); `traces` goes with them for those who look at them.
    ///
    /// # Errors
    /// [`QueueError`]: each may or may not have been announced.
    async fn publish(
        &self,
        ledger: &LedgerName,
        ids: &[TransactionId],
        at: Timestamp,
        traces: &Traces,
    ) -> Result<Vec<bool>, QueueError>;

    /// Starts to consume what is announced for `ledger`. Of several consumers, in whatever processes, only
    /// one is given anything at a time.
    ///
    /// # Errors
    /// [`QueueError`].
    async fn consume(&self, ledger: &LedgerName) -> Result<Box<dyn Consumer>, QueueError>;

    /// What was announced before this moment and has not been worked on is not in the queue any more; `None`
    /// if that cannot be told now.
    ///
    /// # Errors
    /// [`QueueError`].
    async fn lost_before(&self, ledger: &LedgerName, now: Timestamp)
    -> Result<Option<Timestamp>, QueueError>;

    /// How it is doing, as far as is known at this moment.
    fn health(&self) -> QueueHealth;

    /// Says goodbye to whatever it is connected to. Nothing depends on it; nothing works after it.
    async fn close(&self) {}
}

/// How a queue is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueHealth {
    /// The kind in the configuration file, such as `rabbitmq`.
    pub kind: &'static str,
    /// Why nothing can be announced now, if so. Requests are accepted all the same.
    pub trouble: Option<String>,
}

/// The receiving end of one ledger's queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits until there is something, then gives what is there at once, at most `max`. Cancel safe: what
    /// was not given is given later.
    ///
    /// # Errors
    /// [`QueueError`]: this consumer is at its end.
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, QueueError>;

    /// Tells for how long this is certainly the only consumer.
    fn tenure(&self) -> Tenure;
}

/// Whether a consumer is certainly still the only one of its queue. Whoever is about to send something to a
/// ledger asks at the last moment: a process that was frozen, or cut off from the queue, learns only
/// afterwards that another one took over (I6).
#[derive(Clone)]
pub struct Tenure(Arc<dyn Fn() -> bool + Send + Sync>);

impl Tenure {
    /// A tenure that lasts while `holds` says so.
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }

    /// Whether nobody else can have taken over.
    pub fn holds(&self) -> bool {
        (self.0)()
    }
}

/// One id, on loan. Dropping it unacknowledged gives it back, to be delivered again.
pub struct Delivery {
    /// The transaction to look at.
    pub id: TransactionId,
    receipt: Box<dyn Acknowledge>,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The new state is stored.
    Ack,
    /// Nothing was stored.
    Again,
    /// There is no readable record.
    Reject,
}

/// How a queue learns what became of a delivery; called at most once.
pub trait Acknowledge: Send + Sync {
    /// The delivery is over.
    fn settle(&mut self, settlement: Settlement);
}

impl Delivery {
    /// A delivery that reports to `receipt`.
    pub fn new(id: TransactionId, receipt: Box<dyn Acknowledge>) -> Self {
        Self { id, receipt }
    }

    /// The new state is stored: the store knows from here on when it has to be looked at again.
    pub fn ack(mut self) {
        self.receipt.settle(Settlement::Ack);
    }

    /// It leads to no readable record, and will not: keep it out of the way, for a person to look at.
    pub fn reject(mut self) {
        self.receipt.settle(Settlement::Reject);
    }
}
