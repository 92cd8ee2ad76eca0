//! Steering lanes while they run: pause, rate, burst and batches.
//!
//! What an operator changes lies over the configuration. It is a document in the store, so it holds on every node and over
//! restarts until it is taken back; each process looks for changes about once a second. A process that starts reads it
//! before it submits anything, so a paused lane stays paused. Validated as a whole: what does not fit together is refused
//! and nothing changes.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Caller, FieldError, Gateway, LaneStatus};
use crate::config::WorkerSettings;
use crate::store::StoreError;
use crate::store::documents::{Document, DocumentChange, Kind};
use crate::worker::{Course, Lane};

const LANE: Kind = "lane";

/// What lies over the configuration of a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
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
    /// A batch is taken on at this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<u32>,
    /// Or after so long, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_timeout_ms: Option<u64>,
}

/// What to change: what is `None` stays; `Some(None)` goes back to the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Steer {
    /// Pause, or resume.
    pub paused: Option<bool>,
    /// Submissions per second.
    pub rate_per_second: Option<Option<f64>>,
    /// How many may go out at once.
    pub burst: Option<Option<u32>>,
    /// A batch is taken on at this size.
    pub batch_size: Option<Option<u32>>,
    /// Or after so long, milliseconds.
    pub batch_timeout_ms: Option<Option<u64>>,
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
    fn onto(self, overrides: Overrides) -> Overrides {
        Overrides {
            paused: self.paused.unwrap_or(overrides.paused),
            rate_per_second: self.rate_per_second.unwrap_or(overrides.rate_per_second),
            burst: self.burst.unwrap_or(overrides.burst),
            batch_size: self.batch_size.unwrap_or(overrides.batch_size),
            batch_timeout_ms: self.batch_timeout_ms.unwrap_or(overrides.batch_timeout_ms),
        }
    }
}

impl Overrides {
    /// The course of a lane that is configured so.
    fn course(self, configured: &WorkerSettings) -> Result<Course, Vec<FieldError>> {
        let mut faults = Vec::new();
        let mut settings = *configured;
        let mut check = |holds: bool, pointer: &str, detail: String| {
            if !holds {
                let pointer = pointer.to_owned();
                faults.push(FieldError { pointer, detail });
            }
        };
        if let Some(rate) = self.rate_per_second {
            let fits = rate.is_finite() && (0.001..=1_000_000.0).contains(&rate);
            check(
                fits,
                "/rate_per_second",
                "must be 0.001 to 1000000; to submit nothing, pause the lane".to_owned(),
            );
            settings.rate_per_second = if fits { rate } else { configured.rate_per_second };
        }
        let mut whole = |value: Option<u32>, most: u32, pointer: &str, place: &mut NonZeroU32| {
            let Some(value) = value else { return };
            check(value <= most, pointer, format!("must be 1 to {most}"));
            match NonZeroU32::new(value) {
                Some(value) => *place = value,
                None => check(false, pointer, format!("must be 1 to {most}")),
            }
        };
        whole(self.burst, 1_000_000, "/burst", &mut settings.burst);
        whole(self.batch_size, 10_000, "/batch_size", &mut settings.batch_size);
        if let Some(millis) = self.batch_timeout_ms {
            check(
                millis <= 60_000,
                "/batch_timeout_ms",
                "must be 0 to 60000".to_owned(),
            );
            settings.batch_timeout = Duration::from_millis(millis);
        }
        let smallest = WorkerSettings::smallest_burst(settings.rate_per_second);
        let detail = format!(
            "is {}, with which {} per second cannot be reached; set burst to {smallest} at least",
            settings.burst, settings.rate_per_second
        );
        check(settings.burst >= smallest, "/burst", detail);
        match faults.is_empty() {
            true => Ok(Course {
                paused: self.paused,
                settings,
            }),
            false => Err(faults),
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
            let after = steer.onto(before);
            let course = after.course(lane.configured()).map_err(SteerRefusal::Invalid)?;
            let change = match &stored {
                Some(stored) => DocumentChange::replace(LANE, stored, &after)?,
                None => DocumentChange::create(LANE, ledger, &after)?,
            };
            // Whoever changed it meanwhile may have changed what this has to fit to.
            if self.0.documents.change_documents(vec![change]).await? {
                tracing::info!(by = %caller.subject, ledger, ?before, ?after, "the lane was steered");
                lane.steer(course, stored.map_or(1, |stored| stored.version + 1));
                let status = self.status(lane, &self.0.store.backlog());
                return Ok(status);
            }
        }
    }

    /// Sets all lanes on the course that the store says.
    ///
    /// # Errors
    /// [`StoreError`]; some lanes may not have been looked at.
    pub async fn follow_course(&self) -> Result<(), StoreError> {
        for document in self.0.documents.documents(LANE, "".."", false, 10_000).await? {
            let Some(lane) = self.0.lanes.get(document.key.as_str()) else {
                continue;
            };
            match overrides(Some(&document))?.course(lane.configured()) {
                Ok(course) => lane.steer(course, document.version),
                // The configuration has changed since; what was set then does not fit any more.
                Err(faults) => {
                    tracing::error!(
                        ledger = document.key,
                        ?faults,
                        "what was set for this lane does not fit its configuration; it is paused until it is set anew"
                    );
                    let stopped = Course {
                        paused: true,
                        settings: *lane.configured(),
                    };
                    lane.steer(stopped, document.version);
                }
            }
        }
        Ok(())
    }
}

fn overrides(document: Option<&Document>) -> Result<Overrides, StoreError> {
    document.map_or(Ok(Overrides::default()), Document::read)
}

impl Overrides {
    /// What differs from the configuration.
    pub(super) fn of(lane: &Lane) -> Self {
        let (course, configured) = (lane.course(), lane.configured());
        let settings = course.settings;
        Self {
            paused: course.paused,
            rate_per_second: (settings.rate_per_second != configured.rate_per_second)
                .then_some(settings.rate_per_second),
            burst: (settings.burst != configured.burst).then(|| settings.burst.get()),
            batch_size: (settings.batch_size != configured.batch_size).then(|| settings.batch_size.get()),
            batch_timeout_ms: (settings.batch_timeout != configured.batch_timeout)
                .then(|| u64::try_from(settings.batch_timeout.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}
