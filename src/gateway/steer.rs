//! Steering lanes while they run: pause, rate, burst, batches, flights and retries.
//!
//! What an operator changes lies over the configuration. It is a document in the store, so it holds on every node and over
//! restarts until it is taken back; each process looks for changes about once a second. A process that starts reads it
//! before it submits anything, so a paused lane stays paused. Validated as a whole: what does not fit together is refused
//! and nothing changes.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use super::overlay::{Marks, Values, marked};
use super::{Caller, FieldError, Gateway, LaneStatus};
use crate::config::WorkerSettings;
use crate::domain::{DelayStrategy, RetrySettings};
use crate::store::StoreError;
use crate::store::documents::{Document, DocumentChange, Kind};
use crate::worker::Course;

pub(super) const LANE: Kind = "lane";

/// Longest delay of a retry, milliseconds: a day.
const LONGEST_DELAY: u64 = 86_400_000;

/// What lies over the configuration of a lane.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// Nothing is submitted.
    pub paused: bool,
    /// Submissions per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<f64>,
    /// How many may go out at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// How many may await their outcome at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// A batch is taken on at this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// Or after so long, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_timeout_ms: Option<u64>,
    /// When to try again after a conflict.
    #[serde(skip_serializing_if = "RetryOverrides::is_empty")]
    pub retry: RetryOverrides,
    /// Who set what.
    #[serde(skip_serializing_if = "Marks::is_empty")]
    pub(super) marks: Marks,
}

/// What lies over the configured retries after a conflict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryOverrides {
    /// How the delay is chosen: the name of a [`DelayStrategy`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Shortest delay, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<u64>,
    /// Longest delay, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<u64>,
    /// After so many tries it gives up; 0 never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
}

impl RetryOverrides {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

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
    /// When to try again after a conflict.
    pub retry: SteerRetry,
}

/// What to change of retries after a conflict.
#[derive(Debug, Clone, Default)]
pub struct SteerRetry {
    /// How the delay is chosen: the name of a [`DelayStrategy`].
    pub strategy: Option<Option<String>>,
    /// Shortest delay, milliseconds.
    pub min_ms: Option<Option<u64>>,
    /// Longest delay, milliseconds.
    pub max_ms: Option<Option<u64>>,
    /// After so many tries it gives up; 0 never does.
    pub max_attempts: Option<Option<u32>>,
}

impl SteerRetry {
    /// All of it goes back to the configuration.
    pub fn clear() -> Self {
        Self {
            strategy: Some(None),
            min_ms: Some(None),
            max_ms: Some(None),
            max_attempts: Some(None),
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
            retry: RetryOverrides {
                strategy: retry.strategy.unwrap_or(old.strategy),
                min_ms: retry.min_ms.unwrap_or(old.min_ms),
                max_ms: retry.max_ms.unwrap_or(old.max_ms),
                max_attempts: retry.max_attempts.unwrap_or(old.max_attempts),
            },
            marks: before.marks,
        }
    }
}

/// Notes what is wrong.
struct Faults(Vec<FieldError>);

impl Faults {
    fn note(&mut self, pointer: &str, detail: String) {
        let pointer = pointer.to_owned();
        self.0.push(FieldError { pointer, detail });
    }

    /// Puts a whole number in its place, if there is one and it is good.
    fn count(&mut self, value: Option<u32>, most: u32, pointer: &str, place: &mut NonZeroU32) {
        let Some(value) = value else { return };
        match NonZeroU32::new(value).filter(|value| value.get() <= most) {
            Some(value) => *place = value,
            None => self.note(pointer, format!("must be 1 to {most}")),
        }
    }

    /// The same for milliseconds.
    fn millis(&mut self, value: Option<u64>, least: u64, most: u64, pointer: &str, place: &mut Duration) {
        let Some(value) = value else { return };
        match (least..=most).contains(&value) {
            true => *place = Duration::from_millis(value),
            false => self.note(pointer, format!("must be {least} to {most}")),
        }
    }
}

impl Overrides {
    /// The course of a lane that is configured so.
    pub(super) fn course(&self, configured: &Course) -> Result<Course, Vec<FieldError>> {
        let mut faults = Faults(Vec::new());
        let mut settings = configured.settings;
        if let Some(rate) = self.rate_per_second {
            match (0.001..=1_000_000.0).contains(&rate) {
                true => settings.rate_per_second = rate,
                false => faults.note(
                    "/rate_per_second",
                    "must be 0.001 to 1000000; to submit nothing, pause the lane".to_owned(),
                ),
            }
        }
        faults.count(self.burst, 1_000_000, "/burst", &mut settings.burst);
        let place = &mut settings.max_in_flight;
        faults.count(self.max_in_flight, 100_000, "/max_in_flight", place);
        faults.count(self.batch_size, 10_000, "/batch_size", &mut settings.batch_size);
        let place = &mut settings.batch_timeout;
        faults.millis(self.batch_timeout_ms, 0, 60_000, "/batch_timeout_ms", place);
        let smallest = WorkerSettings::smallest_burst(settings.rate_per_second);
        if settings.burst < smallest {
            let detail = format!(
                "is {}, with which {} per second cannot be reached; set burst to {smallest} at least",
                settings.burst, settings.rate_per_second
            );
            faults.note("/burst", detail);
        }
        let mut retry = configured.retry;
        self.retry.onto(&mut retry.conflict, &mut faults);
        match faults.0.is_empty() {
            true => Ok(Course {
                paused: self.paused,
                settings,
                retry,
            }),
            false => Err(faults.0),
        }
    }

    /// What is set.
    pub(super) fn values(&self) -> Values {
        let retry = &self.retry;
        let all = [
            ("paused", json!(self.paused.then_some(true))),
            ("rate_per_second", json!(self.rate_per_second)),
            ("burst", json!(self.burst)),
            ("max_in_flight", json!(self.max_in_flight)),
            ("batch_size", json!(self.batch_size)),
            ("batch_timeout_ms", json!(self.batch_timeout_ms)),
            ("retry.strategy", json!(retry.strategy)),
            ("retry.min_ms", json!(retry.min_ms)),
            ("retry.max_ms", json!(retry.max_ms)),
            ("retry.max_attempts", json!(retry.max_attempts)),
        ];
        all.into_iter()
            .filter(|(_, value)| *value != Value::Null)
            .collect()
    }
}

impl RetryOverrides {
    fn onto(&self, settings: &mut RetrySettings, faults: &mut Faults) {
        if let Some(name) = &self.strategy {
            match DelayStrategy::ALL
                .into_iter()
                .find(|known| known.as_str() == name)
            {
                Some(strategy) => settings.strategy = strategy,
                None => faults.note(
                    "/retry/strategy",
                    "must be jitter, constant or exponential".to_owned(),
                ),
            }
        }
        faults.millis(self.min_ms, 1, LONGEST_DELAY, "/retry/min_ms", &mut settings.min);
        faults.millis(self.max_ms, 1, LONGEST_DELAY, "/retry/max_ms", &mut settings.max);
        match self.max_attempts {
            Some(attempts) if attempts > 1_000_000 => {
                faults.note(
                    "/retry/max_attempts",
                    "must be 0 to 1000000; 0 never gives up".to_owned(),
                );
            }
            Some(attempts) => settings.max_attempts = NonZeroU32::new(attempts),
            None => {}
        }
        if settings.max < settings.min {
            let pointer = match self.max_ms {
                Some(_) => "/retry/max_ms",
                None => "/retry/min_ms",
            };
            let (least, most) = (settings.min.as_millis(), settings.max.as_millis());
            let detail = format!(
                "does not fit: the longest delay, {most} ms, is below the shortest, {least} ms; set both"
            );
            faults.note(pointer, detail);
        }
    }
}

/// What holds on this course.
pub(super) fn values_of(course: &Course) -> Values {
    let (settings, retry) = (&course.settings, &course.retry.conflict);
    let millis = |duration: Duration| json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    Values::from([
        ("paused", json!(course.paused)),
        ("rate_per_second", json!(settings.rate_per_second)),
        ("burst", json!(settings.burst)),
        ("max_in_flight", json!(settings.max_in_flight)),
        ("batch_size", json!(settings.batch_size)),
        ("batch_timeout_ms", millis(settings.batch_timeout)),
        ("retry.strategy", json!(retry.strategy.as_str())),
        ("retry.min_ms", millis(retry.min)),
        ("retry.max_ms", millis(retry.max)),
        (
            "retry.max_attempts",
            json!(retry.max_attempts.map_or(0, NonZeroU32::get)),
        ),
    ])
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
