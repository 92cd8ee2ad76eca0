//! Steering lanes while they run: pause, rate, burst, batches, flights, retries and checks.
//!
//! What an operator changes lies over the configuration. It is a document in the store, so it holds on every node and over
//! restarts until it is taken back; each process looks for changes about once a second. A process that starts reads it
//! before it submits anything, so a paused lane stays paused. Validated as a whole: what does not fit together is refused
//! and nothing changes.

use thiserror::Error;

use super::overlay::marked;
use super::overrides::{Overrides, RetryOverrides};
use super::{Caller, FieldError, Gateway, LaneStatus};
use crate::store::StoreError;
use crate::store::documents::{Document, DocumentChange, Kind};

pub(super) const LANE: Kind = "lane";

/// What to change: what is `None` stays; `Some(None)` goes back to the configuration.
#[derive(Debug, Clone, Default)]
pub struct Steer {
    /// Pause, or resume.
    pub paused: Option<bool>,
    /// Submissions per second.
    pub rate_per_second: Option<Option<f64>>,
    /// How many may go out at once.
    pub burst: Option<Option<u32>>,
    /// How many may await their outcome at the same time.
    pub max_in_flight: Option<Option<u32>>,
    /// A batch is taken on at this size.
    pub batch_size: Option<Option<u32>>,
    /// Or after so long, milliseconds.
    pub batch_timeout_ms: Option<Option<u64>>,
    /// So long after it was sent the ledger is asked for an outcome that did not come, milliseconds.
    pub check_after_ms: Option<Option<u64>>,
    /// When to try again.
    pub retry: SteerRetry,
}

/// What to change of retries.
#[derive(Debug, Clone, Default)]
pub struct SteerRetry {
    /// How the delay is chosen: the name of a [`DelayStrategy`](crate::domain::DelayStrategy).
    pub strategy: Option<Option<String>>,
    /// Shortest delay after a conflict, milliseconds.
    pub min_ms: Option<Option<u64>>,
    /// Longest delay after a conflict, milliseconds.
    pub max_ms: Option<Option<u64>>,
    /// After so many conflicts it gives up; 0 never does.
    pub max_attempts: Option<Option<u32>>,
    /// Shortest delay in an outage, milliseconds.
    pub outage_min_ms: Option<Option<u64>>,
    /// Longest delay in an outage, milliseconds.
    pub outage_max_ms: Option<Option<u64>>,
    /// After so many tries that did not reach the ledger it gives up; 0 never does.
    pub outage_max_attempts: Option<Option<u32>>,
}

impl SteerRetry {
    /// All of it goes back to the configuration.
    pub fn clear() -> Self {
        Self {
            strategy: Some(None),
            min_ms: Some(None),
            max_ms: Some(None),
            max_attempts: Some(None),
            outage_min_ms: Some(None),
            outage_max_ms: Some(None),
            outage_max_attempts: Some(None),
        }
    }
}

/// Why a lane was left as it is.
#[derive(Debug, Error)]
pub enum SteerRefusal {
    /// There is no such ledger.
    #[error("there is no such ledger")]
    Missing,
    /// Values are not acceptable, alone or together.
    #[error("{} field(s) are not acceptable", .0.len())]
    Invalid(Vec<FieldError>),
    /// The store could not keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Steer {
    /// Everything but the pause goes back to the configuration.
    pub fn clear() -> Self {
        Self {
            paused: None,
            rate_per_second: Some(None),
            burst: Some(None),
            max_in_flight: Some(None),
            batch_size: Some(None),
            batch_timeout_ms: Some(None),
            check_after_ms: Some(None),
            retry: SteerRetry::clear(),
        }
    }

    fn onto(self, before: Overrides) -> Overrides {
        let (retry, old) = (self.retry, before.retry);
        Overrides {
            paused: self.paused.unwrap_or(before.paused),
            rate_per_second: self.rate_per_second.unwrap_or(before.rate_per_second),
            burst: self.burst.unwrap_or(before.burst),
            max_in_flight: self.max_in_flight.unwrap_or(before.max_in_flight),
            batch_size: self.batch_size.unwrap_or(before.batch_size),
            batch_timeout_ms: self.batch_timeout_ms.unwrap_or(before.batch_timeout_ms),
            check_after_ms: self.check_after_ms.unwrap_or(before.check_after_ms),
            retry: RetryOverrides {
                strategy: retry.strategy.unwrap_or(old.strategy),
                min_ms: retry.min_ms.unwrap_or(old.min_ms),
                max_ms: retry.max_ms.unwrap_or(old.max_ms),
                max_attempts: retry.max_attempts.unwrap_or(old.max_attempts),
                outage_min_ms: retry.outage_min_ms.unwrap_or(old.outage_min_ms),
                outage_max_ms: retry.outage_max_ms.unwrap_or(old.outage_max_ms),
                outage_max_attempts: retry.outage_max_attempts.unwrap_or(old.outage_max_attempts),
            },
            marks: before.marks,
        }
    }
}

impl Gateway {
    /// Changes the course of a lane, here at once and on all other nodes within seconds.
    ///
    /// # Errors
    /// [`SteerRefusal`]; nothing has changed, except possibly after [`SteerRefusal::Store`].
    pub async fn steer(
        &self,
        caller: &Caller,
        ledger: &str,
        steer: Steer,
    ) -> Result<LaneStatus, SteerRefusal> {
        let lane = self.0.lanes.get(ledger).ok_or(SteerRefusal::Missing)?;
        loop {
            let stored = self.0.documents.document(LANE, ledger).await?;
            let before = overrides(stored.as_ref())?;
            let mut after = steer.clone().onto(before.clone());
            let now = self.0.clock.now();
            after.marks = marked(&before.marks, &before.values(), &after.values(), caller, now);
            self.check_course(lane.name(), &after)
                .map_err(SteerRefusal::Invalid)?;
            let change = match &stored {
                Some(stored) => DocumentChange::replace(LANE, stored, &after)?,
                None => DocumentChange::create(LANE, ledger, &after)?,
            };
            // Whoever changed it meanwhile may have changed what this has to fit to.
            if self.0.documents.change_documents(vec![change]).await? {
                let (was, is) = (before.values(), after.values());
                tracing::info!(by = %caller.subject, ledger, ?was, ?is, "the lane was steered");
                self.set_course(lane.name(), after, stored.map_or(1, |stored| stored.version + 1));
                return Ok(self.status(lane, &self.0.store.backlog()));
            }
        }
    }
}

/// What a document of the kind [`LANE`] holds.
pub(super) fn overrides(document: Option<&Document>) -> Result<Overrides, StoreError> {
    document.map_or(Ok(Overrides::default()), Document::read)
}
