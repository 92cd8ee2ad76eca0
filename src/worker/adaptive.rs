//! A rate that follows what the ledger bears, never above the limit: additive increase, multiplicative decrease.
//!
//! Once an interval it is judged what became of what was sent: calls that failed halve the rate, verdicts that came late
//! or were conflicts too often lower it by a fifth, and as long as all is well and the rate is used it grows by the same
//! step. What was sent before the rate was lowered says nothing about the lower rate, so it is left out, as TCP does for
//! a round trip. Pure but for the moments that it is told.
//!
//! In memory only: a process that starts, or takes a lane over, begins at the limit.

use std::time::{Duration, Instant};

use crate::config::AdaptiveSettings;

/// The shortest time between two judgements.
const INTERVAL: Duration = Duration::from_secs(1);
/// Fewer verdicts than this are no ground to judge by ...
const ENOUGH: u32 = 10;
/// ... unless there were no more in so long a time.
const LONGEST: Duration = Duration::from_secs(10);
/// From nothing to the limit, if all goes well.
const CLIMB: Duration = Duration::from_secs(60);
/// A rate that is used less than this shows nothing.
const USED: f64 = 0.8;

/// Why the rate is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is the configured limit.
    Limit,
    /// Calls to the ledger failed.
    Outage,
    /// Verdicts took longer than they should.
    Latency,
    /// Too many submissions met a conflict.
    Conflicts,
    /// It was lower, and all goes well.
    Recovering,
}

impl Reason {
    /// Its name in the API and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Outage => "outage",
            Self::Latency => "latency",
            Self::Conflicts => "conflicts",
            Self::Recovering => "recovering",
        }
    }

    /// What is left of a rate that is lowered for this.
    fn keeps(self) -> f64 {
        match self {
            Self::Outage => 0.5,
            Self::Limit | Self::Latency | Self::Conflicts | Self::Recovering => 0.8,
        }
    }
}

/// The rate that holds now, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adapted {
    /// Submissions per second.
    pub rate_per_second: f64,
    /// Why not more, or less.
    pub reason: Reason,
}

pub(super) struct Adaptation {
    settings: AdaptiveSettings,
    /// The limit.
    most: f64,
    now: Adapted,
    /// When it was lowered last.
    lowered: Option<Instant>,
    window: Window,
}

/// What happened since the last judgement.
struct Window {
    begun: Instant,
    sent: u32,
    told: u32,
    conflicts: u32,
    waited: Duration,
    failed: bool,
}

impl Window {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            sent: 0,
            told: 0,
            conflicts: 0,
            waited: Duration::ZERO,
            failed: false,
        }
    }
}

impl Adaptation {
    pub(super) fn new(settings: AdaptiveSettings, most: f64, now: Instant) -> Self {
        Self {
            settings,
            most,
            now: Adapted {
                rate_per_second: most,
                reason: Reason::Limit,
            },
            lowered: None,
            window: Window::new(now),
        }
    }

    pub(super) fn settings(&self) -> AdaptiveSettings {
        self.settings
    }

    pub(super) fn adapted(&self) -> Adapted {
        self.now
    }

    /// Another limit: a rate that is at it goes along, one that was lowered stays, within the bounds.
    pub(super) fn limit(&mut self, most: f64) {
        let at_limit = self.now.reason == Reason::Limit;
        self.most = most;
        if at_limit || self.now.rate_per_second >= most {
            self.now = Adapted {
                rate_per_second: most,
                reason: Reason::Limit,
            };
        }
        self.now.rate_per_second = self.now.rate_per_second.max(self.least());
    }

    fn least(&self) -> f64 {
        self.settings.min_rate_per_second.min(self.most)
    }

    /// One was sent.
    pub(super) fn sent(&mut self) {
        self.window.sent += 1;
    }

    /// A call failed for reasons of the ledger.
    pub(super) fn failed(&mut self) {
        self.window.failed = true;
    }

    /// The ledger told its verdict on one that was sent at `begun`.
    pub(super) fn told(&mut self, begun: Instant, is_conflict: bool, now: Instant) {
        if self.lowered.is_none_or(|lowered| begun >= lowered) {
            self.window.told += 1;
            self.window.conflicts += u32::from(is_conflict);
            self.window.waited += now.saturating_duration_since(begun);
        }
    }

    /// Judges, if it is time. `oldest` tells when the first of those was sent, of what was sent since a moment, that the ledger
    /// has not told of. Answers the new rate, if it is another one.
    pub(super) fn judge(
        &mut self,
        oldest: impl FnOnce(Option<Instant>) -> Option<Instant>,
        now: Instant,
    ) -> Option<Adapted> {
        let window = &self.window;
        let elapsed = now.saturating_duration_since(window.begun);
        if elapsed < INTERVAL {
            return None;
        }
        let late = |waited: Duration| waited > self.settings.max_latency;
        let silent = window.told == 0
            && oldest(self.lowered).is_some_and(|begun| late(now.saturating_duration_since(begun)));
        let enough = window.told >= ENOUGH || elapsed >= LONGEST;
        let share = f64::from(window.conflicts) / f64::from(window.told.max(1));
        let before = self.now;
        if window.failed {
            self.lower(Reason::Outage, now);
        } else if silent || (enough && late(window.waited / window.told.max(1))) {
            self.lower(Reason::Latency, now);
        } else if !enough {
            return None;
        } else if share > self.settings.max_conflict_share {
            self.lower(Reason::Conflicts, now);
        } else if window.told > 0
            && f64::from(window.sent) >= USED * before.rate_per_second * elapsed.as_secs_f64()
        {
            self.raise(elapsed.min(LONGEST));
        }
        self.window = Window::new(now);
        (self.now != before).then_some(self.now)
    }

    fn lower(&mut self, reason: Reason, now: Instant) {
        self.now = Adapted {
            rate_per_second: (self.now.rate_per_second * reason.keeps()).max(self.least()),
            reason,
        };
        self.lowered = Some(now);
    }

    fn raise(&mut self, elapsed: Duration) {
        let grown = self.now.rate_per_second + self.most * elapsed.div_duration_f64(CLIMB);
        let is_limit = grown >= self.most;
        self.now = Adapted {
            rate_per_second: grown.min(self.most),
            reason: if is_limit {
                Reason::Limit
            } else {
                Reason::Recovering
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: AdaptiveSettings = AdaptiveSettings {
        min_rate_per_second: 2.0,
        max_latency: Duration::from_millis(500),
        max_conflict_share: 0.3,
    };

    /// A ledger, second by second.
    struct Ride {
        adaptation: Adaptation,
        now: Instant,
    }

    impl Ride {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                adaptation: Adaptation::new(SETTINGS, 100.0, now),
                now,
            }
        }

        /// A second in which `use_of` the rate is sent, and all of it told, `latency` later, `share` of it as conflicts.
        fn second(&mut self, use_of: f64, latency: Duration, share: f64) -> Adapted {
            let sent = (self.adaptation.adapted().rate_per_second * use_of).ceil() as u32;
            self.now += Duration::from_secs(1);
            for n in 0..sent {
                self.adaptation.sent();
                let is_conflict = f64::from(n) < share * f64::from(sent);
                self.adaptation.told(self.now, is_conflict, self.now + latency);
            }
            self.adaptation.judge(|_| None, self.now);
            self.adaptation.adapted()
        }

        fn seconds(&mut self, count: u32, latency: Duration, share: f64) -> Adapted {
            for _ in 0..count {
                self.second(1.0, latency, share);
            }
            self.adaptation.adapted()
        }
    }

    const FAST: Duration = Duration::from_millis(50);
    const SLOW: Duration = Duration::from_millis(600);

    #[test]
    fn it_stays_at_the_limit_while_all_goes_well() {
        let adapted = Ride::new().seconds(30, FAST, 0.1);
        assert_eq!((adapted.rate_per_second, adapted.reason), (100.0, Reason::Limit));
    }

    #[test]
    fn each_trouble_lowers_it_down_to_the_least_and_names_its_reason() {
        for (latency, share, reason) in [(SLOW, 0.0, Reason::Latency), (FAST, 0.4, Reason::Conflicts)] {
            let mut ride = Ride::new();
            assert_eq!(
                ride.seconds(1, latency, share),
                Adapted {
                    rate_per_second: 80.0,
                    reason
                }
            );
            let least = ride.seconds(200, latency, share);
            assert_eq!(
                least,
                Adapted {
                    rate_per_second: 2.0,
                    reason
                }
            );
        }
        let mut ride = Ride::new();
        ride.adaptation.failed();
        let halved = ride.seconds(1, FAST, 0.0);
        assert_eq!(
            halved,
            Adapted {
                rate_per_second: 50.0,
                reason: Reason::Outage
            }
        );
    }

    #[test]
    fn it_recovers_to_the_limit_in_a_minute_if_it_is_used() {
        let mut ride = Ride::new();
        ride.seconds(40, SLOW, 0.0);
        let still = (0..60).map(|_| ride.second(0.5, FAST, 0.0)).last();
        assert_eq!(
            still,
            Some(Adapted {
                rate_per_second: 2.0,
                reason: Reason::Latency
            })
        );
        assert_eq!(ride.seconds(30, FAST, 0.0).reason, Reason::Recovering);
        let adapted = ride.seconds(40, FAST, 0.0);
        assert_eq!((adapted.rate_per_second, adapted.reason), (100.0, Reason::Limit));
    }

    #[test]
    fn what_was_sent_before_it_was_lowered_does_not_lower_it_again() {
        let mut ride = Ride::new();
        let before = ride.now;
        ride.seconds(1, SLOW, 0.0);
        ride.now += Duration::from_secs(1);
        for _ in 0..50 {
            ride.adaptation.told(before, true, ride.now);
        }
        assert_eq!(ride.adaptation.judge(|_| None, ride.now), None);
    }

    #[test]
    fn a_ledger_that_says_nothing_is_slow() {
        let mut ride = Ride::new();
        let sent = ride.now;
        ride.adaptation.sent();
        ride.now += Duration::from_secs(2);
        let adapted = ride.adaptation.judge(|_| Some(sent), ride.now).expect("lowered");
        assert_eq!(adapted.reason, Reason::Latency);
        ride.now += Duration::from_secs(2);
        // Nothing has been sent since.
        let since = |since: Option<Instant>| (since <= Some(sent)).then_some(sent);
        assert_eq!(ride.adaptation.judge(since, ride.now), None);
    }

    #[test]
    fn another_limit_bounds_it_at_once() {
        let mut ride = Ride::new();
        ride.adaptation.limit(200.0);
        assert_eq!(ride.adaptation.adapted().rate_per_second, 200.0);
        ride.seconds(1, SLOW, 0.0);
        ride.adaptation.limit(300.0);
        assert_eq!(ride.adaptation.adapted().rate_per_second, 160.0);
        ride.adaptation.limit(10.0);
        assert_eq!(
            ride.adaptation.adapted(),
            Adapted {
                rate_per_second: 10.0,
                reason: Reason::Limit
            }
        );
    }

    proptest! {
        #[test]
        fn i6_it_is_never_above_the_limit_nor_below_the_least(
            seconds in prop::collection::vec((0.0..1.2f64, 0u64..2_000, 0.0..1.0f64, any::<bool>(), prop::option::of(0.5..500.0f64)), 1..60),
        ) {
            let mut ride = Ride::new();
            for (use_of, latency, share, fails, limit) in seconds {
                if let Some(limit) = limit {
                    ride.adaptation.limit(limit);
                }
                if fails {
                    ride.adaptation.failed();
                }
                let adapted = ride.second(use_of, Duration::from_millis(latency), share);
                let most = ride.adaptation.most;
                prop_assert!(adapted.rate_per_second <= most);
                prop_assert!(adapted.rate_per_second >= SETTINGS.min_rate_per_second.min(most));
            }
        }
    }
}
