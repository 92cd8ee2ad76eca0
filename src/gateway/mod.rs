//! What the gateway does, without a word of HTTP: accept, read, wait, list, query.
//!
//! Accepting is one durable commit and nothing else: no ledger and no broker is asked, so neither can delay
//! or refuse it. A crash before the commit leaves nothing, a crash after it leaves a transaction that the
//! worker brings to its end; the caller who got no answer repeats with the same idempotency key (I5).

mod batch;
mod caller;
mod common;
mod live;
mod operations;
mod overlay;
mod overrides;
mod steer;
mod tenants;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use thiserror::Error;
use tokio::sync::Notify;

pub use crate::ledger::{Query, QueryError};
pub use batch::{Item, Stored};
pub use caller::{Caller, Scope, Scopes};
pub use common::{Common, SetCommon};
use live::Live;
pub use live::Misfit;
pub use operations::{ActionRefusal, Verdict};
pub use overlay::{Mark, Setting};
pub use overrides::{Overrides, RetryOverrides};
pub use steer::{Steer, SteerRefusal, SteerRetry};
pub use tenants::{TenantRefusal, Tenants};
pub use validate::FieldError;

use crate::audit::{self, Audit};
use crate::clock::Clock;
use crate::config::{BackpressureMode, BackpressureSettings, WorkerSettings};
use crate::domain::{Cause, LedgerName, Request, RetryPolicy, TenantName, Transaction, TransactionId};
use crate::failpoint;
use crate::notify::StatusHub;
pub use crate::queue::QueueHealth;
use crate::queue::WorkQueue;
use crate::store::documents::DocumentStore;
use crate::store::{Backlog, Changes, Filter, Inserted, Page, Position, StoreError, TransactionStore};
use crate::telemetry::history::{Point, Tally};
use crate::telemetry::metrics::Metrics;
use crate::webhooks::{Forbidden, Webhooks};
use crate::worker::{Adapted, Lane};

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
    /// Its tenant may not, or not now.
    #[error("the tenant may not do this")]
    Tenant(TenantRefusal),
    /// It is good, but another item of its batch is not, and the batch is all or nothing.
    #[error("another item of the batch is not acceptable")]
    Withheld,
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
    /// The tenant may not, or not now.
    #[error("the tenant may not do this")]
    Tenant(TenantRefusal),
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

/// The answer to a repeat of an accepted request.
fn repeat_of(existing: Transaction, asked: &Transaction) -> Result<Accepted, Refusal> {
    let print = |tx: &Transaction| tx.idempotency.as_ref().map(|(_, print)| *print);
    if print(&existing) != print(asked) {
        return Err(Refusal::KeyReused(existing.id));
    }
    Ok(Accepted {
        transaction: existing,
        repeated: true,
    })
}

fn bad_callback(forbidden: &Forbidden) -> FieldError {
    FieldError {
        pointer: "/callback_url".to_owned(),
        detail: forbidden.to_string(),
    }
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
    /// Nothing is submitted, because an operator paused it, or because what was set does not fit the configuration.
    pub paused: bool,
    /// Rate, batches and bounds.
    pub settings: WorkerSettings,
    /// When it tries again.
    pub retry: RetryPolicy,
    /// What operators have set over the configuration.
    pub overrides: Overrides,
    /// The rate that follows what the ledger bears, if that is configured; as this process knows it.
    pub adapted: Option<Adapted>,
    /// All that can be set, and who set it.
    pub steering: Vec<Setting>,
    /// What this process did since it began.
    pub total: Tally,
    /// Of the submissions of the last minutes, the part that met a conflict.
    pub conflict_share: f64,
    /// What the last minutes were like.
    pub history: Vec<Point>,
}

/// Everything a gateway works with.
pub struct Parts {
    /// The truth.
    pub store: Arc<dyn TransactionStore>,
    /// What stands beside the records.
    pub documents: Arc<dyn DocumentStore>,
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
    /// What to do about a long backlog, and what to log, as configured.
    pub common: Common,
    /// What is counted.
    pub metrics: Metrics,
    /// Who is told of what has settled.
    pub webhooks: Arc<Webhooks>,
}

/// The application behind the API.
// What it works with, and what may change while it does.
pub struct Gateway(Parts, Live);

impl Gateway {
    /// A gateway of these parts; `tenants` is what the configuration allows to each.
    pub fn new(parts: Parts, tenants: Tenants) -> Self {
        let live = Live::new(&parts, tenants);
        Self(parts, live)
    }

    /// Checks a request and stores it. When this answers `Ok`, it is durable (I1). `trace` is the `traceparent` that it
    /// came with.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn accept(
        &self,
        caller: &Caller,
        request: Request,
        key: Option<String>,
        trace: Option<String>,
    ) -> Result<Accepted, Refusal> {
        let (mut transaction, lane) = self.check_item(&caller.own_tenant(), Item { request, key })?;
        self.look_up_callback(&transaction.request).await?;
        transaction.origin = caller.origin(trace);
        if transaction.request.callback_url.is_some() {
            self.0.webhooks.expect_callback(&transaction.tenant).await?;
        }
        self.admit(transaction, &lane).await
    }

    /// Stores a record that is good, if there is room for it.
    async fn admit(&self, transaction: Transaction, lane: &Lane) -> Result<Accepted, Refusal> {
        let tenant = &transaction.tenant;
        if self.room(tenant) == Some(0) && !self.is_repeat(&transaction).await? {
            return Err(self.full(tenant, lane));
        }
        failpoint::reached("accept-before-store");
        let inserted = self.0.store.insert(&transaction).await?;
        self.answer(transaction, inserted).await
    }

    /// The record that a request would become, if all about it is good that can be known here, and its lane.
    fn check_item(&self, tenant: &TenantName, item: Item) -> Result<(Transaction, Arc<Lane>), Refusal> {
        let Item { request, key } = item;
        let now = self.0.clock.now();
        let callback = request.callback_url.as_deref().and_then(|url| {
            let forbidden = self.0.webhooks.guard().read(url).err()?;
            Some(bad_callback(&forbidden))
        });
        let tenants = self.1.tenants();
        // First: what the ledger and its contracts are called is not told to those who may not use them.
        if self.0.lanes.contains_key(&request.ledger) {
            let allowed = tenants.allows(tenant, request.ledger.as_str(), &request.contract);
            allowed.map_err(Refusal::Tenant)?;
        }
        let checked = validate::validate(&request, key.as_deref(), now, &self.0.lanes, |name| {
            tenants.sees(tenant, name.as_str())
        });
        let lane = match (checked, callback) {
            (Ok(lane), None) => lane,
            (checked, callback) => {
                let faults = checked.err().into_iter().flatten().chain(callback);
                return Err(Refusal::Invalid(faults.collect()));
            }
        };
        tenants.admit(tenant).map_err(Refusal::Tenant)?;
        let mut transaction = Transaction::accept(request, key, now);
        transaction.tenant = tenant.clone();
        Ok((transaction, lane.clone()))
    }

    /// Refuses a `callback_url` whose name leads where nothing may be sent. After the tenant was admitted: it may take a
    /// look-up, which is bounded.
    async fn look_up_callback(&self, request: &Request) -> Result<(), Refusal> {
        let Some(url) = &request.callback_url else {
            return Ok(());
        };
        let found = self.0.webhooks.guard().accept(url).await;
        found.map_err(|forbidden| Refusal::Invalid(vec![bad_callback(&forbidden)]))
    }

    /// Who is told of what has settled.
    pub fn webhooks(&self) -> &Webhooks {
        &self.0.webhooks
    }

    /// What the store made of a record, for whoever brought it.
    async fn answer(&self, transaction: Transaction, inserted: Inserted) -> Result<Accepted, Refusal> {
        let metrics = self
            .0
            .lanes
            .get(&transaction.request.ledger)
            .map(|lane| lane.metrics());
        match inserted {
            Inserted::Created => {
                audit::accepted(&transaction);
                metrics.inspect(|metrics| metrics.accepted());
                Ok(Accepted {
                    transaction,
                    repeated: false,
                })
            }
            Inserted::Existing(id) => {
                let existing = self.0.store.get(id).await?;
                // Retention removed it in the same moment; a repeat of the request will be a new one.
                let removed = || StoreError::Unavailable(format!("{id} was removed just now"));
                let accepted = repeat_of(existing.ok_or_else(removed)?, &transaction)?;
                metrics.inspect(|metrics| metrics.repeated.increment(1));
                Ok(accepted)
            }
            Inserted::Withheld => Err(Refusal::Withheld),
        }
    }

    /// How many more may be accepted for a tenant; `None` if there is no limit.
    fn room(&self, tenant: &TenantName) -> Option<u64> {
        let own = self.room_of(tenant).map(|(room, _)| room);
        own.into_iter().chain(self.room_for_all()).min()
    }

    /// What its own limit leaves to a tenant, and the limit.
    fn room_of(&self, tenant: &TenantName) -> Option<(u64, u64)> {
        let limit = self.1.tenants().max_pending(tenant)?;
        Some((limit.saturating_sub(self.0.store.pending_of(tenant)), limit))
    }

    fn room_for_all(&self) -> Option<u64> {
        let backpressure = self.1.backpressure();
        let limited = backpressure.mode == BackpressureMode::Drop;
        limited.then(|| backpressure.max_pending.get().saturating_sub(self.pending()))
    }

    /// The refusal of what there is no room for.
    fn full(&self, tenant: &TenantName, lane: &Lane) -> Refusal {
        let retry_after = |max_pending: u64| {
            let seconds = (max_pending as f64 / 200.0 / lane.settings().rate_per_second).clamp(1.0, 60.0);
            Duration::from_secs_f64(seconds)
        };
        match (self.room_of(tenant), self.room_for_all()) {
            (Some((own, limit)), all) if all.is_none_or(|all| own <= all) => {
                Refusal::Tenant(TenantRefusal::Full {
                    max_pending: limit,
                    retry_after: retry_after(limit),
                })
            }
            _ => {
                let max_pending = self.1.backpressure().max_pending.get();
                Refusal::BacklogFull {
                    max_pending,
                    retry_after: retry_after(max_pending),
                }
            }
        }
    }

    /// What [`accept`](Self::accept) would store.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn check(&self, request: Request, key: Option<String>) -> Result<Transaction, Refusal> {
        let checked = self.check_item(&TenantName::default(), Item { request, key });
        checked.map(|(transaction, _)| transaction)
    }

    /// A repeat adds nothing to the backlog, so a full one does not refuse it.
    async fn is_repeat(&self, transaction: &Transaction) -> Result<bool, StoreError> {
        match transaction.idempotency_entry() {
            Some(key) => Ok(self.0.store.find_by_idempotency_key(&key).await?.is_some()),
            None => Ok(false),
        }
    }

    /// The log of what operators do.
    pub fn audit(&self) -> Audit {
        Audit::new(self.0.documents.clone(), self.0.clock.clone())
    }

    /// Transactions not settled, over all ledgers.
    pub fn pending(&self) -> u64 {
        self.0.store.backlog().values().sum()
    }

    /// What the operator chose to do about a long backlog.
    pub fn backpressure(&self) -> BackpressureSettings {
        self.1.backpressure()
    }

    /// The record with this id, if the caller may see it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn get(&self, caller: &Caller, id: TransactionId) -> Result<Option<Transaction>, StoreError> {
        let found = self.0.store.get(id).await?;
        Ok(found.filter(|tx| caller.sees(tx)))
    }

    /// The record that came with this idempotency key, if the caller may see it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn find(&self, caller: &Caller, key: &str) -> Result<Option<Transaction>, StoreError> {
        let tenant = caller.own_tenant();
        let found = self.0.store.find_by_idempotency_key(&tenant.scoped(key)).await?;
        // What is asked for may have the form of another tenant's key, or of one of ours.
        let is_it = |tx: &Transaction| {
            tx.tenant == tenant && tx.idempotency.as_ref().is_some_and(|(own, _)| own == key)
        };
        Ok(found.filter(is_it))
    }

    /// The record with this id once it is settled, or as it stands after `at_most`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn wait(
        &self,
        caller: &Caller,
        id: TransactionId,
        at_most: Duration,
    ) -> Result<Option<Transaction>, StoreError> {
        let waiter = self.0.hub.listen(id);
        let over = tokio::time::Instant::now() + at_most;
        loop {
            let settled = waiter.settled();
            match self.get(caller, id).await? {
                Some(tx) if !tx.is_settled() && !at_most.is_zero() && !self.0.hub.is_released() => {}
                now => return Ok(now),
            }
            // Whoever is told looks; it may be a false alarm.
            if tokio::time::timeout_at(over, settled).await.is_err() {
                return self.get(caller, id).await;
            }
        }
    }

    /// What changed after a position ([`TransactionStore::changes`]), whoever may see it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn changes(&self, after: Position, limit: usize) -> Result<Option<Changes>, StoreError> {
        self.0.store.changes(after, limit).await
    }

    /// The position after all that has changed so far.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_change(&self) -> Result<Position, StoreError> {
        self.0.store.last_change().await
    }

    /// Notifies all who wait whenever a record changed in this process.
    pub fn changed(&self) -> Arc<Notify> {
        self.0.store.changed()
    }

    /// Who is told of changes of one transaction, and of the end.
    pub fn hub(&self) -> &Arc<StatusHub> {
        &self.0.hub
    }

    /// A page of those records that the caller may see, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(
        &self,
        caller: &Caller,
        mut filter: Filter,
        cursor: Option<TransactionId>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        if let Some(tenant) = &caller.tenant {
            filter.tenant = Some(tenant.clone());
        }
        self.0.store.list(&filter, cursor, limit).await
    }

    /// Asks a ledger, at once and without a record.
    ///
    /// # Errors
    /// [`QueryRefusal`].
    pub async fn query(
        &self,
        caller: &Caller,
        ledger: &str,
        query: &Query,
    ) -> Result<Box<RawValue>, QueryRefusal> {
        let Some(lane) = self.0.lanes.get(ledger) else {
            return Err(QueryRefusal::Invalid(vec![self.unknown_ledger(caller, ledger)]));
        };
        let (tenant, tenants) = (caller.own_tenant(), self.1.tenants());
        let allowed = tenants.allows(&tenant, ledger, &query.contract);
        allowed.map_err(QueryRefusal::Tenant)?;
        validate::validate_query(query).map_err(QueryRefusal::Invalid)?;
        tenants.admit(&tenant).map_err(QueryRefusal::Tenant)?;
        Ok(lane.ledger().query(query).await?)
    }

    /// The contract that a call to this ledger means if it names none.
    pub fn default_contract(&self, ledger: &str) -> Option<&str> {
        self.0.lanes.get(ledger)?.ledger().default_contract()
    }

    /// The fault of a ledger name that is not configured, with those that the caller may know of.
    pub fn unknown_ledger(&self, caller: &Caller, name: &str) -> FieldError {
        let known = self.0.lanes.keys();
        validate::unknown_ledger(name, known.filter(|name| self.may_use(caller, name.as_str())))
    }

    /// Whether the caller may know of this ledger.
    pub fn may_use(&self, caller: &Caller, ledger: &str) -> bool {
        let tenant = caller.tenant.as_ref();
        tenant.is_none_or(|tenant| self.1.tenants().sees(tenant, ledger))
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

    /// The rate and the backlog of a lane, and no more: cheap enough for every answer.
    pub fn pace(&self, ledger: &str) -> Option<(f64, u64)> {
        let lane = self.0.lanes.get(ledger)?;
        let backlog = self.0.store.backlog().get(ledger).copied();
        Some((lane.settings().rate_per_second, backlog.unwrap_or_default()))
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
        let (backlog, now) = (self.0.store.backlog(), self.0.clock.now());
        for lane in self.0.lanes.values() {
            let (waiting, metrics) = (
                backlog.get(lane.name()).copied().unwrap_or_default(),
                lane.metrics(),
            );
            metrics.backlog.set(waiting as f64);
            // What was the oldest when that was last asked may be settled since.
            let oldest = metrics.oldest.get().filter(|_| waiting > 0);
            let age = oldest.map(|accepted_at| now.since(accepted_at));
            metrics.backlog_age.set(age.unwrap_or_default().as_secs_f64());
            let course = lane.course();
            metrics.rate_limit.set(course.settings.rate_per_second);
            metrics.paused.set(if course.paused { 1.0 } else { 0.0 });
            for (setting, ends) in lane.ledger().certificates() {
                let name = format!("ledgers.{}.{setting}", lane.name());
                self.0.metrics.certificate(name, ends);
            }
            if self.0.works {
                metrics.in_flight.set(lane.in_flight() as f64);
                if let Some(adapted) = lane.adapted() {
                    metrics.adapted_rate(adapted.rate_per_second);
                }
                metrics.available(lane.outage().is_none());
            }
        }
        self.0.metrics.render()
    }

    fn status(&self, lane: &Lane, backlog: &Backlog) -> LaneStatus {
        let course = lane.course();
        let (overrides, steering) = self.1.lane(lane.name(), &course);
        LaneStatus {
            name: lane.name().clone(),
            kind: lane.ledger().kind(),
            backlog: backlog.get(lane.name()).copied().unwrap_or_default(),
            in_flight: lane.in_flight(),
            outage: lane.outage(),
            works_here: self.0.works,
            paused: course.paused,
            settings: course.settings,
            retry: course.retry,
            overrides,
            steering,
            adapted: lane.adapted().filter(|_| self.0.works),
            total: lane.metrics().history.total(),
            conflict_share: lane.metrics().history.conflict_share(),
            history: lane.metrics().history.points(),
        }
    }
}
