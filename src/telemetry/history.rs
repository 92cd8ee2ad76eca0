//! What happened on the way to one ledger in the last minutes, for people who look at it.
//!
//! A ring of a fixed number of points (I7), in memory: it begins anew with the process. Each process tells of what it did
//! itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::Timestamp;

/// The time between two points.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// So many points are kept.
const POINTS: usize = 60;

/// How many there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Transactions accepted.
    pub accepted: u64,
    /// Transactions that took effect.
    pub done: u64,
    /// Transactions that ended without.
    pub failed: u64,
    /// Submissions that met a conflict.
    pub conflicts: u64,
    /// Submissions sent for the first time.
    pub submissions: u64,
}

impl Tally {
    fn since(self, earlier: Self) -> Self {
        Self {
            accepted: self.accepted - earlier.accepted,
            done: self.done - earlier.done,
            failed: self.failed - earlier.failed,
            conflicts: self.conflicts - earlier.conflicts,
            submissions: self.submissions - earlier.submissions,
        }
    }
}

/// What happened in one interval.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// The end of the interval.
    pub at: Timestamp,
    /// What was not settled then.
    pub backlog: u64,
    /// What happened in it.
    pub tally: Tally,
}

/// Counts since the start of the process, and the points.
#[derive(Default)]
pub struct LaneHistory {
    pub(super) accepted: AtomicU64,
    pub(super) done: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) conflicts: AtomicU64,
    pub(super) submissions: AtomicU64,
    points: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    points: VecDeque<Point>,
    last: Tally,
}

impl LaneHistory {
    /// All since the process began.
    pub fn total(&self) -> Tally {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Tally {
            accepted: read(&self.accepted),
            done: read(&self.done),
            failed: read(&self.failed),
            conflicts: read(&self.conflicts),
            submissions: read(&self.submissions),
        }
    }

    /// Ends an interval. To be called once in each.
    pub fn sample(&self, at: Timestamp, backlog: u64) {
        let total = self.total();
        let mut ring = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = total.since(ring.last);
        ring.last = total;
        if ring.points.len() == POINTS {
            ring.points.pop_front();
        }
        ring.points.push_back(Point { at, backlog, tally });
    }

    /// The last minutes, oldest first.
    pub fn points(&self) -> Vec<Point> {
        let ring = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        ring.points.iter().copied().collect()
    }

    /// Of the submissions of the last minutes, the part that met a conflict; 0 if there were none.
    pub fn conflict_share(&self) -> f64 {
        let ring = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |count: fn(&Tally) -> u64| ring.points.iter().map(|point| count(&point.tally)).sum::<u64>();
        let (conflicts, submissions) = (sum(|tally| tally.conflicts), sum(|tally| tally.submissions));
        if submissions == 0 {
            return 0.0;
        }
        (conflicts as f64 / submissions as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_tells_what_happened_since_the_one_before() {
        let history = LaneHistory::default();
        for second in 0..100 {
            history.submissions.fetch_add(4, Ordering::Relaxed);
            history.conflicts.fetch_add(1, Ordering::Relaxed);
            history.sample(Timestamp::from_millis(second), second);
        }
        let points = history.points();
        assert_eq!(points.len(), POINTS);
        assert_eq!(points[0].backlog, 40);
        assert!(points.iter().all(|point| point.tally.submissions == 4));
        assert!((history.conflict_share() - 0.25).abs() < 1e-9);
        assert_eq!(history.total().submissions, 400);
    }
}
