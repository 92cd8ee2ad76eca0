//! What an operator may change of a lane while it runs: whether it submits at all, how fast, in what portions, and when it
//! tries again.
//!
//! In memory only; what is to outlive the process is kept and brought back by whoever steers.

use std::sync::{PoisonError, RwLock};

use tokio::sync::Notify;

use crate::config::WorkerSettings;
use crate::domain::RetryPolicy;

/// What holds for a lane now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    /// Nothing is begun while it is so.
    pub paused: bool,
    /// Rate, batches and bounds.
    pub settings: WorkerSettings,
    /// When to try again.
    pub retry: RetryPolicy,
}

pub(super) struct Steering {
    course: RwLock<Course>,
    changed: Notify,
}

impl Steering {
    pub(super) fn new(course: Course) -> Self {
        Self {
            course: RwLock::new(course),
            changed: Notify::new(),
        }
    }

    pub(super) fn course(&self) -> Course {
        *self.course.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets another course. Nobody else sets one while `apply` runs.
    pub(super) fn set(&self, course: Course, apply: impl FnOnce()) {
        let mut current = self.course.write().unwrap_or_else(PoisonError::into_inner);
        if course == *current {
            return;
        }
        *current = course;
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
