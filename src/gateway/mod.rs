//! What the gateway does, without a word of HTTP: accept, read, wait, list, query.
//!
//! Accepting is one durable commit and nothing else: no ledger and no broker is asked, so neither can delay
//! or refuse it. A crash before the commit leaves nothing, a crash after it leaves a transaction that the
//! worker brings to its end; the caller who got no answer repeats with the same idempotency key (I5).

mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use thiserror::Error;

pub use crate::ledger::{Query, QueryError};
pub use validate::FieldError;

use crate::clock::Clock;
use crate::config::{BackpressureMode, BackpressureSettings, WorkerSettings};
use crate::domain::{Cause, LedgerName, Request, Transaction, TransactionId};
use crate::failpoint;
use crate::notify::StatusHub;
pub use crate::queue::QueueHealth;
use crate::queue::WorkQueue;
use crate::store::{Backlog, Filter, Inserted, Page, StoreError, TransactionStore};
use crate::telemetry::metrics::Metrics;
use crate::worker::Lane;

/// Why a request was not accepted. Nothing was stored, except possibly after [`Refusal::Store`].
#[derive(Debug, Error)]
pub enum Refusal {
    /// Fields are wrong.
    #[error("{} field(s) are not acceptable", .0.len())]
    Invalid(Vec<FieldError>),
    /// The idempotency key belongs to a different request.
    #[error("the idempotency key was used for another request, now transaction {0}")]
    KeyReused(TransactionId),
    /// There are `max_pending` unsettled transactions, and the operator chose to refuse more.
    #[error("the backlog is full")]
    BacklogFull {
        /// How many that is.
        max_pending: u64,
        /// When half a per cent of it should be worked off.
        retry_after: Duration,
    },
    /// The store could not take it. It may be stored all the same.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a query was not answered.
#[derive(Debug, Error)]
pub enum QueryRefusal {
    /// Fields are wrong.
    #[error("{} field(s) are not acceptable", .0.len())]
    Invalid(Vec<FieldError>),
    /// The ledger refused it, or could not be asked.
    #[error(transparent)]
    Ledger(#[from] QueryError),
}

/// An accepted transaction.
#[derive(Debug)]
pub struct Accepted {
    /// The record as it stands.
    pub transaction: Transaction,
    /// Whether this is the record of an earlier request with the same idempotency key.
    pub repeated: bool,
}

/// One ledger's lane as operators see it.
#[derive(Debug, Clone)]
pub struct LaneStatus {
    /// The ledger's name.
    pub name: LedgerName,
    /// The kind of backend.
    pub kind: &'static str,
    /// Transactions not settled.
    pub backlog: u64,
    /// Of those, the ones between claim and outcome.
    pub in_flight: usize,
    /// Why the ledger is unavailable, if it is.
    pub outage: Option<Cause>,
    /// Whether this process may submit to it; if not, it knows nothing of flights and outages.
    pub works_here: bool,
    /// Rate, batches and bounds.
    pub settings: WorkerSettings,
}

/// Everything a gateway works with.
pub struct Parts {
    /// The truth.
    pub store: Arc<dyn TransactionStore>,
    /// What carries accepted ids to the workers; nothing here waits for it.
    pub queue: Arc<dyn WorkQueue>,
    /// Who waits for what.
    pub hub: Arc<StatusHub>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The lanes by ledger.
    pub lanes: BTreeMap<LedgerName, Arc<Lane>>,
    /// Whether the lanes are run by this process.
    pub works: bool,
    /// What to do about a long backlog.
    pub backpressure: BackpressureSettings,
    /// What is counted.
    pub metrics: Metrics,
}

/// The application behind the API.
pub struct Gateway(Parts);

impl Gateway {
    /// A gateway of these parts.
    pub fn new(parts: Parts) -> Self {
        Self(parts)
    }

    /// Checks a request and stores it. When this answers `Ok`, it is durable (I1).
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn accept(&self, request: Request, key: Option<String>) -> Result<Accepted, Refusal> {
        let parts = &self.0;
        let lane = validate::validate(&request, key.as_deref(), &parts.lanes).map_err(Refusal::Invalid)?;
        if parts.backpressure.mode == BackpressureMode::Drop
            && self.pending() >= parts.backpressure.max_pending.get()
            && !self.is_repeat(key.as_deref()).await?
        {
            let max_pending = parts.backpressure.max_pending.get();
            let seconds = (max_pending as f64 / 200.0 / lane.settings().rate_per_second).clamp(1.0, 60.0);
            let retry_after = Duration::from_secs_f64(seconds);
            return Err(Refusal::BacklogFull {
                max_pending,
                retry_after,
            });
        }
        let transaction = Transaction::accept(request, key, parts.clock.now());
        failpoint::reached("accept-before-store");
        match parts.store.insert(&transaction).await? {
            Inserted::Created => {
                lane.metrics().accepted.increment(1);
                Ok(Accepted {
                    transaction,
                    repeated: false,
                })
            }
            Inserted::Existing(existing) => {
                let same = |tx: &Transaction| tx.idempotency.as_ref().map(|(_, print)| *print);
                if same(&existing) != same(&transaction) {
                    return Err(Refusal::KeyReused(existing.id));
                }
                lane.metrics().repeated.increment(1);
                Ok(Accepted {
                    transaction: *existing,
                    repeated: true,
                })
            }
        }
    }

    /// What [`accept`](Self::accept) would store.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn check(&self, request: Request, key: Option<String>) -> Result<Transaction, Refusal> {
        validate::validate(&request, key.as_deref(), &self.0.lanes).map_err(Refusal::Invalid)?;
        Ok(Transaction::accept(request, key, self.0.clock.now()))
    }

    /// A repeat adds nothing to the backlog, so a full one does not refuse it.
    async fn is_repeat(&self, key: Option<&str>) -> Result<bool, StoreError> {
        match key {
            Some(key) => Ok(self.0.store.find_by_idempotency_key(key).await?.is_some()),
            None => Ok(false),
        }
    }

    /// Transactions not settled, over all ledgers.
    pub fn pending(&self) -> u64 {
        self.0.store.backlog().values().sum()
    }

    /// What the operator chose to do about a long backlog.
    pub fn backpressure(&self) -> &BackpressureSettings {
        &self.0.backpressure
    }

    /// The record with this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get(&self, id: TransactionId) -> Result<Option<Transaction>, StoreError> {
        self.0.store.get(id).await
    }

    /// The record with this id once it is settled, or as it stands after `at_most`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn wait(
        &self,
        id: TransactionId,
        at_most: Duration,
    ) -> Result<Option<Transaction>, StoreError> {
        let waiter = self.0.hub.listen(id);
        let over = tokio::time::Instant::now() + at_most;
        loop {
            let settled = waiter.settled();
            match self.get(id).await? {
                Some(tx) if !tx.is_settled() && !at_most.is_zero() && !self.0.hub.is_released() => {}
                now => return Ok(now),
            }
            // Whoever is told looks; it may be a false alarm.
            if tokio::time::timeout_at(over, settled).await.is_err() {
                return self.get(id).await;
            }
        }
    }

    /// A page of records, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(
        &self,
        filter: &Filter,
        cursor: Option<TransactionId>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.0.store.list(filter, cursor, limit).await
    }

    /// Asks a ledger, at once and without a record.
    ///
    /// # Errors
    /// [`QueryRefusal`].
    pub async fn query(&self, ledger: &str, query: &Query) -> Result<Box<RawValue>, QueryRefusal> {
        let Some(lane) = self.0.lanes.get(ledger) else {
            return Err(QueryRefusal::Invalid(vec![self.unknown_ledger(ledger)]));
        };
        validate::validate_query(query).map_err(QueryRefusal::Invalid)?;
        Ok(lane.ledger().query(query).await?)
    }

    /// The contract that a call to this ledger means if it names none.
    pub fn default_contract(&self, ledger: &str) -> Option<&str> {
        self.0.lanes.get(ledger)?.ledger().default_contract()
    }

    /// The fault of a ledger name that is not configured.
    pub fn unknown_ledger(&self, name: &str) -> FieldError {
        validate::unknown_ledger(name, self.0.lanes.keys())
    }

    /// Every lane, by name.
    pub fn lanes(&self) -> Vec<LaneStatus> {
        let backlog = self.0.store.backlog();
        self.0
            .lanes
            .values()
            .map(|lane| self.status(lane, &backlog))
            .collect()
    }

    /// The lane of one ledger.
    pub fn lane(&self, ledger: &str) -> Option<LaneStatus> {
        let lane = self.0.lanes.get(ledger)?;
        Some(self.status(lane, &self.0.store.backlog()))
    }

    /// Whether a request would be accepted now, and how the queue is doing.
    ///
    /// # Errors
    /// [`StoreError`] says why not.
    pub async fn ready(&self) -> Result<QueueHealth, StoreError> {
        self.0.store.probe().await?;
        Ok(self.0.queue.health())
    }

    /// All metrics in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let backlog = self.0.store.backlog();
        for lane in self.0.lanes.values() {
            let (status, metrics) = (self.status(lane, &backlog), lane.metrics());
            metrics.backlog.set(status.backlog as f64);
            if self.0.works {
                metrics.in_flight.set(status.in_flight as f64);
                metrics
                    .available
                    .set(if status.outage.is_none() { 1.0 } else { 0.0 });
            }
        }
        self.0.metrics.render()
    }

    fn status(&self, lane: &Lane, backlog: &Backlog) -> LaneStatus {
        LaneStatus {
            name: lane.name().clone(),
            kind: lane.ledger().kind(),
            backlog: backlog.get(lane.name()).copied().unwrap_or_default(),
            in_flight: lane.in_flight(),
            outage: lane.outage(),
            works_here: self.0.works,
            settings: *lane.settings(),
        }
    }
}
