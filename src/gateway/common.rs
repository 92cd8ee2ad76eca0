//! Settings that are not one lane's and may change while the gateway runs: backpressure and the log level.
//!
//! What operators set of them is one document in the store, which all nodes follow, as for lanes (`steer.rs`).

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::overlay::{Marks, Setting, Values, marked};
use super::{Caller, FieldError, Gateway, SteerRefusal};
use crate::config::{self, BackpressureMode, BackpressureSettings, Settings};
use crate::store::documents::{Document, DocumentChange, Kind};

pub(super) const SETTINGS: Kind = "settings";

/// The key of the one document there is.
pub(super) const THE_ONE: &str = "gateway";

/// Longest text of a log level.
const LONGEST_LEVEL: usize = 500;

/// The settings themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// What happens when producers are faster than the ledgers.
    pub backpressure: BackpressureSettings,
    /// What is logged.
    pub log_level: String,
}

impl Common {
    /// As configured.
    pub fn of(settings: &Settings) -> Self {
        Self {
            backpressure: settings.backpressure,
            log_level: settings.log.level.clone(),
        }
    }

    pub(super) fn values(&self) -> Values {
        Values::from([
            ("backpressure.mode", json!(self.backpressure.mode.as_str())),
            ("backpressure.max_pending", json!(self.backpressure.max_pending)),
            ("log.level", json!(self.log_level)),
        ])
    }
}

/// What lies over them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct CommonOverrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_pending: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_level: Option<String>,
    #[serde(skip_serializing_if = "Marks::is_empty")]
    pub(super) marks: Marks,
}

/// What to change: what is `None` stays; `Some(None)` goes back to the configuration.
#[derive(Debug, Clone, Default)]
pub struct SetCommon {
    /// The name of a [`BackpressureMode`].
    pub mode: Option<Option<String>>,
    /// How many unsettled transactions there may be.
    pub max_pending: Option<Option<u64>>,
    /// A level, or directives.
    pub log_level: Option<Option<String>>,
}

impl CommonOverrides {
    pub(super) fn values(&self) -> Values {
        let all = [
            ("backpressure.mode", json!(self.mode)),
            ("backpressure.max_pending", json!(self.max_pending)),
            ("log.level", json!(self.log_level)),
        ];
        all.into_iter()
            .filter(|(_, value)| *value != Value::Null)
            .collect()
    }

    /// What holds. What is not acceptable, which only another version can have set, does not.
    pub(super) fn onto(&self, configured: &Common) -> Common {
        let backpressure = &configured.backpressure;
        let log_level = self.log_level.as_ref();
        Common {
            backpressure: BackpressureSettings {
                mode: self.mode.as_deref().and_then(mode).unwrap_or(backpressure.mode),
                max_pending: self
                    .max_pending
                    .and_then(max_pending)
                    .unwrap_or(backpressure.max_pending),
            },
            log_level: log_level
                .filter(|level| config::check_log_level(level).is_ok())
                .unwrap_or(&configured.log_level)
                .clone(),
        }
    }

    fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut faults = Vec::new();
        let mut note = |pointer: &str, detail: String| {
            let pointer = pointer.to_owned();
            faults.push(FieldError { pointer, detail });
        };
        if self.mode.as_deref().is_some_and(|name| mode(name).is_none()) {
            note("/backpressure/mode", "must be buffer, drop or control".to_owned());
        }
        if self.max_pending.is_some_and(|most| max_pending(most).is_none()) {
            note("/backpressure/max_pending", "must be 1 to 1000000000".to_owned());
        }
        match self.log_level.as_deref() {
            Some(level) if level.len() > LONGEST_LEVEL => {
                note("/log/level", format!("must have {LONGEST_LEVEL} bytes at most"));
            }
            Some(level) => {
                if let Err(what) = config::check_log_level(level) {
                    let remedy = "write error, warn, info, debug or trace, or directives such as info,sluicegate::worker=debug";
                    note("/log/level", format!("{what}; {remedy}"));
                }
            }
            None => {}
        }
        match faults.is_empty() {
            true => Ok(()),
            false => Err(faults),
        }
    }
}

fn mode(name: &str) -> Option<BackpressureMode> {
    let mut all = BackpressureMode::ALL.into_iter();
    all.find(|mode| mode.as_str() == name)
}

fn max_pending(most: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(most).filter(|most| most.get() <= 1_000_000_000)
}

impl Gateway {
    /// Everything that is not one lane's and may be set while it runs.
    pub fn settings(&self) -> Vec<Setting> {
        self.1.common()
    }

    /// Changes some of it, here at once and on all other nodes within seconds.
    ///
    /// # Errors
    /// [`SteerRefusal`]; nothing has changed, except possibly after [`SteerRefusal::Store`].
    pub async fn set(&self, caller: &Caller, set: SetCommon) -> Result<Vec<Setting>, SteerRefusal> {
        loop {
            let stored = self.0.documents.document(SETTINGS, THE_ONE).await?;
            let before: CommonOverrides = stored.as_ref().map_or(Ok(Default::default()), Document::read)?;
            let old = before.clone();
            let change = set.clone();
            let mut after = CommonOverrides {
                mode: change.mode.unwrap_or(old.mode),
                max_pending: change.max_pending.unwrap_or(old.max_pending),
                log_level: change.log_level.unwrap_or(old.log_level),
                marks: old.marks,
            };
            after.check().map_err(SteerRefusal::Invalid)?;
            let (was, is) = (before.values(), after.values());
            after.marks = marked(&before.marks, &was, &is, caller, self.0.clock.now());
            let change = match &stored {
                Some(stored) => DocumentChange::replace(SETTINGS, stored, &after)?,
                None => DocumentChange::create(SETTINGS, THE_ONE, &after)?,
            };
            if self.0.documents.change_documents(vec![change]).await? {
                tracing::info!(by = %caller.subject, ?was, ?is, "settings of the gateway were changed");
                self.set_common(after, stored.map_or(1, |stored| stored.version + 1));
                return Ok(self.settings());
            }
        }
    }
}
