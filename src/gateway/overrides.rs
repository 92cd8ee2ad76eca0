//! What operators set of a lane: what lies over its configuration, and whether the two go together.
//!
//! It is a document in the store, in this shape. Every field may be missing, and one that is not known is passed over: nodes
//! of an older and of a newer version read each other's.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::FieldError;
use super::overlay::{Marks, Values};
use crate::config::WorkerSettings;
use crate::domain::{DelayStrategy, RetryPolicy, RetrySettings};
use crate::worker::Course;

/// Longest delay of a retry, milliseconds: a day.
const LONGEST_DELAY: u64 = 86_400_000;

/// Most tries that can be set.
const MOST_ATTEMPTS: u32 = 1_000_000;

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
    /// So long after it was sent the ledger is asked for an outcome that did not come, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_after_ms: Option<u64>,
    /// When to try again.
    #[serde(skip_serializing_if = "RetryOverrides::is_empty")]
    pub retry: RetryOverrides,
    /// Who set what.
    #[serde(skip_serializing_if = "Marks::is_empty")]
    pub(super) marks: Marks,
}

/// What lies over the configured retries: after a conflict, and while the ledger cannot be reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryOverrides {
    /// How the delay is chosen: the name of a [`DelayStrategy`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Shortest delay after a conflict, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<u64>,
    /// Longest delay after a conflict, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<u64>,
    /// After so many conflicts it gives up; 0 never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Shortest delay in an outage, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outage_min_ms: Option<u64>,
    /// Longest delay in an outage, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outage_max_ms: Option<u64>,
    /// After so many tries that did not reach the ledger it gives up; 0 never does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outage_max_attempts: Option<u32>,
}

impl RetryOverrides {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
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

    /// The bounds of one budget, and whether they fit to each other. The pointers are those of the three.
    fn budget(
        &mut self,
        (min_ms, max_ms, max_attempts): (Option<u64>, Option<u64>, Option<u32>),
        [min, max, attempts]: [&str; 3],
        settings: &mut RetrySettings,
    ) {
        self.millis(min_ms, 1, LONGEST_DELAY, min, &mut settings.min);
        self.millis(max_ms, 1, LONGEST_DELAY, max, &mut settings.max);
        match max_attempts {
            Some(most) if most > MOST_ATTEMPTS => {
                self.note(
                    attempts,
                    format!("must be 0 to {MOST_ATTEMPTS}; 0 never gives up"),
                );
            }
            Some(most) => settings.max_attempts = NonZeroU32::new(most),
            None => {}
        }
        if settings.max < settings.min {
            let (least, most) = (settings.min.as_millis(), settings.max.as_millis());
            let detail = format!(
                "does not fit: the longest delay, {most} ms, is below the shortest, {least} ms; set both"
            );
            self.note(max_ms.map_or(min, |_| max), detail);
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
        let place = &mut settings.check_after;
        faults.millis(self.check_after_ms, 100, 3_600_000, "/check_after_ms", place);
        let smallest = WorkerSettings::smallest_burst(settings.rate_per_second);
        if settings.burst < smallest {
            let detail = format!(
                "is {}, with which {} per second cannot be reached; set burst to {smallest} at least",
                settings.burst, settings.rate_per_second
            );
            faults.note("/burst", detail);
        }
        let mut retry = configured.retry;
        self.retry.onto(&mut retry, &mut faults);
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
            ("check_after_ms", json!(self.check_after_ms)),
            ("retry.strategy", json!(retry.strategy)),
            ("retry.min_ms", json!(retry.min_ms)),
            ("retry.max_ms", json!(retry.max_ms)),
            ("retry.max_attempts", json!(retry.max_attempts)),
            ("retry.outage_min_ms", json!(retry.outage_min_ms)),
            ("retry.outage_max_ms", json!(retry.outage_max_ms)),
            ("retry.outage_max_attempts", json!(retry.outage_max_attempts)),
        ];
        all.into_iter()
            .filter(|(_, value)| *value != Value::Null)
            .collect()
    }
}

impl RetryOverrides {
    fn onto(&self, policy: &mut RetryPolicy, faults: &mut Faults) {
        if let Some(name) = &self.strategy {
            match DelayStrategy::ALL
                .into_iter()
                .find(|known| known.as_str() == name)
            {
                Some(strategy) => policy.conflict.strategy = strategy,
                None => faults.note(
                    "/retry/strategy",
                    "must be jitter, constant or exponential".to_owned(),
                ),
            }
        }
        faults.budget(
            (self.min_ms, self.max_ms, self.max_attempts),
            ["/retry/min_ms", "/retry/max_ms", "/retry/max_attempts"],
            &mut policy.conflict,
        );
        faults.budget(
            (self.outage_min_ms, self.outage_max_ms, self.outage_max_attempts),
            [
                "/retry/outage_min_ms",
                "/retry/outage_max_ms",
                "/retry/outage_max_attempts",
            ],
            &mut policy.outage,
        );
    }
}

/// What holds on this course.
pub(super) fn values_of(course: &Course) -> Values {
    let (settings, RetryPolicy { conflict, outage }) = (&course.settings, &course.retry);
    let millis = |duration: Duration| json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    let attempts = |retry: &RetrySettings| json!(retry.max_attempts.map_or(0, NonZeroU32::get));
    Values::from([
        ("paused", json!(course.paused)),
        ("rate_per_second", json!(settings.rate_per_second)),
        ("burst", json!(settings.burst)),
        ("max_in_flight", json!(settings.max_in_flight)),
        ("batch_size", json!(settings.batch_size)),
        ("batch_timeout_ms", millis(settings.batch_timeout)),
        ("check_after_ms", millis(settings.check_after)),
        ("retry.strategy", json!(conflict.strategy.as_str())),
        ("retry.min_ms", millis(conflict.min)),
        ("retry.max_ms", millis(conflict.max)),
        ("retry.max_attempts", attempts(conflict)),
        ("retry.outage_min_ms", millis(outage.min)),
        ("retry.outage_max_ms", millis(outage.max)),
        ("retry.outage_max_attempts", attempts(outage)),
    ])
}
