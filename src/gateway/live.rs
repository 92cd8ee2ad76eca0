//! What holds in this process of all that may change while it runs: the configuration, and what operators set over it.
//!
//! One lock guards both, so that a configuration that is read again and a document that arrives at the same moment never
//! mix. Nothing here is kept: the one is in the file, the other in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::common::{Common, CommonOverrides, SETTINGS, THE_ONE};
use super::overlay::{Setting, settings};
use super::overrides::{Overrides, values_of};
use super::steer::{self, LANE};
use super::{FieldError, Gateway, Parts, Tenants};
use crate::config::{BackpressureSettings, Settings};
use crate::domain::LedgerName;
use crate::store::StoreError;
use crate::telemetry;
use crate::worker::Course;

/// What may change while the gateway runs.
pub(super) struct Live {
    state: Mutex<State>,
    /// What holds of that, where every request looks.
    backpressure: RwLock<BackpressureSettings>,
    tenants: RwLock<Arc<Tenants>>,
    leaving: AtomicBool,
}

struct State {
    lanes: BTreeMap<LedgerName, LaneState>,
    common: CommonState,
}

struct LaneState {
    configured: Course,
    overrides: Overrides,
    /// Of the document that they are from; 0 is none.
    version: u64,
}

struct CommonState {
    configured: Common,
    overrides: CommonOverrides,
    version: u64,
}

/// What was set for a lane does not go with its configuration.
#[derive(Debug)]
pub struct Misfit {
    /// The lane.
    pub ledger: LedgerName,
    /// What is wrong, by the fields that were set.
    pub faults: Vec<FieldError>,
}

impl Live {
    /// As configured.
    pub(super) fn new(parts: &Parts, tenants: Tenants) -> Self {
        let lane = |configured| LaneState {
            configured,
            overrides: Overrides::default(),
            version: 0,
        };
        let lanes = parts.lanes.iter();
        let state = State {
            lanes: lanes
                .map(|(name, running)| (name.clone(), lane(running.course())))
                .collect(),
            common: CommonState {
                configured: parts.common.clone(),
                overrides: CommonOverrides::default(),
                version: 0,
            },
        };
        Self {
            state: Mutex::new(state),
            backpressure: RwLock::new(parts.common.backpressure),
            tenants: RwLock::new(Arc::new(tenants)),
            leaving: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn backpressure(&self) -> BackpressureSettings {
        *self.backpressure.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tenants(&self) -> Arc<Tenants> {
        self.tenants
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What operators set for a lane, and all that can be set, as it is.
    pub(super) fn lane(&self, ledger: &LedgerName, holds: &Course) -> (Overrides, Vec<Setting>) {
        let state = self.state();
        let Some(lane) = state.lanes.get(ledger) else {
            return Default::default();
        };
        let set = &lane.overrides;
        let all = settings(
            values_of(holds),
            values_of(&lane.configured),
            &set.values(),
            &set.marks,
        );
        (set.clone(), all)
    }

    /// The same for what is not one lane's.
    pub(super) fn common(&self) -> Vec<Setting> {
        let state = self.state();
        let (configured, set) = (&state.common.configured, &state.common.overrides);
        let holds = set.onto(configured);
        settings(holds.values(), configured.values(), &set.values(), &set.marks)
    }

    fn apply_common(&self, before: &Common, now: Common) {
        if before.log_level != now.log_level
            && let Err(error) = telemetry::set_log_level(&now.log_level)
        {
            tracing::error!(%error, level = now.log_level, "the log level stays as it was");
        }
        *self.backpressure.write().unwrap_or_else(PoisonError::into_inner) = now.backpressure;
    }
}

impl CommonState {
    fn holds(&self) -> Common {
        self.overrides.onto(&self.configured)
    }
}

impl Gateway {
    /// Whether these go with what is configured for the lane.
    pub(super) fn check_course(
        &self,
        ledger: &LedgerName,
        overrides: &Overrides,
    ) -> Result<(), Vec<FieldError>> {
        let state = self.1.state();
        let lane = state.lanes.get(ledger);
        lane.map_or(Ok(()), |lane| overrides.course(&lane.configured).map(|_| ()))
    }

    /// Sets a lane on the course that a document says, unless a later one was seen.
    pub(super) fn set_course(&self, ledger: &LedgerName, overrides: Overrides, version: u64) {
        let mut state = self.1.state();
        let (Some(lane), Some(running)) = (state.lanes.get_mut(ledger), self.0.lanes.get(ledger)) else {
            return;
        };
        if version <= lane.version {
            return;
        }
        (lane.overrides, lane.version) = (overrides, version);
        match lane.overrides.course(&lane.configured) {
            Ok(course) => running.steer(course),
            // It was set over another configuration.
            Err(faults) => {
                tracing::error!(
                    %ledger,
                    ?faults,
                    "what was set for this lane does not fit its configuration; it is paused until it is set anew"
                );
                let stopped = Course {
                    paused: true,
                    ..lane.configured
                };
                running.steer(stopped);
            }
        }
    }

    /// Takes over what was set over the settings that are not one lane's, unless something later was seen.
    pub(super) fn set_common(&self, overrides: CommonOverrides, version: u64) {
        let mut state = self.1.state();
        let common = &mut state.common;
        if version <= common.version {
            return;
        }
        let before = common.holds();
        (common.overrides, common.version) = (overrides, version);
        self.1.apply_common(&before, common.holds());
    }

    /// Takes over all that the store says.
    ///
    /// # Errors
    /// [`StoreError`]; some of it may not have been looked at.
    pub async fn follow_course(&self) -> Result<(), StoreError> {
        for document in self.0.documents.documents(LANE, "".."", false, 10_000).await? {
            if let Some(lane) = self.0.lanes.get(document.key.as_str()) {
                let overrides = steer::overrides(Some(&document))?;
                self.set_course(lane.name(), overrides, document.version);
            }
        }
        if let Some(document) = self.0.documents.document(SETTINGS, THE_ONE).await? {
            self.set_common(document.read()?, document.version);
        }
        Ok(())
    }

    /// Takes over what may change while it runs from a configuration that was read again, all of it or nothing: courses of
    /// lanes (but for the time of a lease), backpressure, the log level, tenants. What operators set stays above it.
    /// Lanes that this process does not have are passed over.
    ///
    /// # Errors
    /// What was set for some lanes does not fit; nothing has changed.
    pub fn configure(&self, settings: &Settings) -> Result<(), Vec<Misfit>> {
        let mut state = self.1.state();
        let (mut courses, mut misfits) = (Vec::new(), Vec::new());
        for (ledger, lane) in &mut state.lanes {
            let Some(wanted) = settings.ledgers.get(ledger) else {
                continue;
            };
            let configured = Course {
                paused: false,
                settings: wanted.worker,
                retry: wanted.retry,
            };
            match lane.overrides.course(&configured) {
                Ok(course) => courses.push((ledger.clone(), configured, course)),
                Err(faults) => misfits.push(Misfit {
                    ledger: ledger.clone(),
                    faults,
                }),
            }
        }
        if !misfits.is_empty() {
            return Err(misfits);
        }
        for (ledger, configured, course) in courses {
            if let (Some(lane), Some(running)) = (state.lanes.get_mut(&ledger), self.0.lanes.get(&ledger)) {
                lane.configured = configured;
                running.steer(course);
            }
        }
        let before = state.common.holds();
        state.common.configured = Common::of(settings);
        self.1.apply_common(&before, state.common.holds());
        let tenants = self.1.tenants().changed(&settings.tenants);
        *self.1.tenants.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tenants);
        Ok(())
    }

    /// The keys of the configuration that something lies over, such as `ledgers.main.worker.burst`.
    pub fn overridden(&self) -> BTreeSet<String> {
        let state = self.1.state();
        let lanes = state.lanes.iter().flat_map(|(ledger, lane)| {
            let set = lane.overrides.values().into_keys();
            set.map(move |name| match name.starts_with("retry.") {
                true => format!("ledgers.{ledger}.{name}"),
                false => format!("ledgers.{ledger}.worker.{name}"),
            })
        });
        let common = state.common.overrides.values().into_keys();
        lanes.chain(common.map(str::to_owned)).collect()
    }

    /// From now on it says that it is not ready: it is about to go, and whoever shares out requests is to leave it out. It
    /// still answers all that comes.
    pub fn leave(&self) {
        self.1.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether it is about to go.
    pub fn is_leaving(&self) -> bool {
        self.1.leaving.load(Ordering::Relaxed)
    }
}
