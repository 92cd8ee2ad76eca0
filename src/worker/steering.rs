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
    course: RwLock<Course>,
    changed: Notify,
}

impl Steering {
    pub(super) fn new(settings: WorkerSettings) -> Self {
        let course = Course {
            paused: false,
            settings,
        };
        Self {
            course: RwLock::new(course),
            changed: Notify::new(),
        }
    }

    pub(super) fn course(&self) -> Course {
        *self.course.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets another course. Answers the one before.
    pub(super) fn set(&self, course: Course) -> Course {
        let mut current = self.course.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, course);
        self.changed.notify_waiters();
        before
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
