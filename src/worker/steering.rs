//! What an operator may change of a lane while it runs: whether it submits at all, how fast, and in what portions.
//!
//! In memory only; what is to outlive the process is kept and brought back by whoever steers.

use std::sync::{PoisonError, RwLock};

use tokio::sync::Notify;

use crate::config::WorkerSettings;

/// What holds for a lane now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    /// Nothing is begun while it is so.
    pub paused: bool,
    /// Rate, batches and bounds.
    pub settings: WorkerSettings,
}

pub(super) struct Steering {
    /// With the version of what it was set by: 0 is the configuration.
    course: RwLock<(Course, u64)>,
    changed: Notify,
}

impl Steering {
    pub(super) fn new(settings: WorkerSettings) -> Self {
        let course = Course {
            paused: false,
            settings,
        };
        Self {
            course: RwLock::new((course, 0)),
            changed: Notify::new(),
        }
    }

    pub(super) fn course(&self) -> Course {
        self.course.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Sets another course, unless a later one is set. Nobody else sets one while `apply` runs.
    pub(super) fn set(&self, course: Course, version: u64, apply: impl FnOnce()) {
        let mut current = self.course.write().unwrap_or_else(PoisonError::into_inner);
        let (before, stands) = *current;
        if version < stands || (course == before && version == stands) {
            return;
        }
        *current = (course, version);
        apply();
        self.changed.notify_waiters();
    }

    /// Waits until it is not paused. Cancel safe.
    pub(super) async fn running(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.course().paused {
                return;
            }
            changed.await;
        }
    }
}
