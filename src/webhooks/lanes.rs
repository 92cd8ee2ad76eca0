//! How each endpoint is doing, so that one that is slow or down holds nobody else up (I9); nor does a tenant with many.
//!
//! In memory only: after a restart every endpoint is taken for well, and what is down is noticed anew. Kept only of
//! endpoints that have something under way or that failed lately, so it stays small (I7).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::config::WebhookSettings;
use crate::domain::Timestamp;
use crate::share;

/// The longest distance between two probes of an endpoint that is down.
const LONGEST_DISTANCE: Duration = Duration::from_secs(300);

/// An endpoint that failed is remembered for so long, once so many are remembered.
const REMEMBERED: Duration = Duration::from_secs(3_600);
const MANY: usize = 1_024;

/// Of the free places an endpoint gets one in so many at a time, and one at least.
const SHARE: usize = 4;

/// Endpoints by [`lane`](super::books::Due::lane).
pub(super) struct Lanes {
    settings: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: HashMap<String, Lane>,
    /// How many of each tenant are under way.
    tenants: HashMap<String, usize>,
}

struct Bounds {
    per_endpoint: usize,
    failures: u32,
    first: Duration,
    longest: Duration,
}

#[derive(Default)]
struct Lane {
    in_flight: usize,
    /// Failures since the last success.
    failures: u32,
    failed_at: Option<Timestamp>,
    /// Nothing goes out before this.
    closed_until: Option<Timestamp>,
}

/// What may be sent to an endpoint now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// So many deliveries.
    For(usize),
    /// None before one that is under way has ended.
    Full,
    /// None before this moment, because it fails or asked for time.
    Until(Timestamp),
}

impl Lanes {
    pub(super) fn new(settings: &WebhookSettings) -> Self {
        Self {
            settings: Bounds {
                per_endpoint: settings.max_in_flight_per_endpoint.get() as usize,
                failures: settings.breaker_failures.get(),
                first: settings.retry_min,
                longest: settings.retry_max.min(LONGEST_DISTANCE),
            },
            state: Mutex::default(),
        }
    }

    /// What may be sent to `lane` if `free` places are left in all.
    pub(super) fn room(&self, lane: &str, now: Timestamp, free: usize) -> Room {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = state.tenants.get(tenant(lane)).copied().unwrap_or_default();
        let none = Lane::default();
        let lane = state.lanes.get(lane).unwrap_or(&none);
        if let Some(until) = lane.closed_until.filter(|until| *until > now) {
            return Room::Until(until);
        }
        let most = match lane.failures >= self.settings.failures {
            true => 1,
            false => self.settings.per_endpoint.min((free / SHARE).max(1)),
        };
        let of_lane = most.saturating_sub(lane.in_flight);
        match of_lane.min(share::room(free, of_tenant)) {
            0 => Room::Full,
            room => Room::For(room),
        }
    }

    /// One more is under way.
    pub(super) fn begin(&self, lane: &str, now: Timestamp) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lanes.len() >= MANY {
            let lately = |lane: &Lane| lane.failed_at.is_some_and(|at| now.since(at) < REMEMBERED);
            state.lanes.retain(|_, lane| lane.in_flight > 0 || lately(lane));
        }
        state.lanes.entry(lane.to_owned()).or_default().in_flight += 1;
        *state.tenants.entry(tenant(lane).to_owned()).or_default() += 1;
    }

    /// One has ended: well, badly, or (`None`) without the endpoint having been asked. `rest` is what the endpoint asked for.
    pub(super) fn end(&self, lane: &str, well: Option<bool>, now: Timestamp, rest: Duration) {
        let mut all = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.tenants.get_mut(tenant(lane)) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                all.tenants.remove(tenant(lane));
            }
        }
        let Some(state) = all.lanes.get_mut(lane) else {
            return;
        };
        state.in_flight = state.in_flight.saturating_sub(1);
        match well {
            Some(true) => (state.failures, state.closed_until) = (0, None),
            Some(false) => {
                state.failures = state.failures.saturating_add(1);
                state.failed_at = Some(now);
                let beyond = (state.failures + 1)
                    .checked_sub(self.settings.failures)
                    .filter(|beyond| *beyond > 0);
                let distance = beyond.map_or(Duration::ZERO, |beyond| {
                    let doubled = self.settings.first.saturating_mul(1 << (beyond - 1).min(31));
                    doubled.min(self.settings.longest)
                });
                let until = now.plus(distance.max(rest.min(LONGEST_DISTANCE)));
                state.closed_until = state.closed_until.max(Some(until).filter(|until| *until > now));
            }
            None => {}
        }
        if state.in_flight == 0 && state.failures == 0 {
            all.lanes.remove(lane);
        }
    }
}

/// Whose a lane is.
fn tenant(lane: &str) -> &str {
    lane.split_once('/').map_or(lane, |(tenant, _)| tenant)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: &str = "default/wh_1";

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn lanes() -> Lanes {
        Lanes::new(&WebhookSettings {
            retry_min: Duration::from_millis(100),
            retry_max: Duration::from_millis(350),
            ..WebhookSettings::default()
        })
    }

    fn fail(lanes: &Lanes, now: Timestamp) {
        lanes.begin(LANE, now);
        lanes.end(LANE, Some(false), now, Duration::ZERO);
    }

    #[test]
    fn i9_an_endpoint_gets_a_share_of_the_places_and_one_at_least() {
        let lanes = lanes();
        assert_eq!(lanes.room(LANE, at(0), 64), Room::For(8));
        assert_eq!(lanes.room(LANE, at(0), 20), Room::For(5));
        assert_eq!(lanes.room(LANE, at(0), 1), Room::For(1));
        assert_eq!(lanes.room(LANE, at(0), 0), Room::Full);
        for _ in 0..8 {
            lanes.begin(LANE, at(0));
        }
        assert_eq!(lanes.room(LANE, at(0), 64), Room::Full);
        assert_eq!(lanes.room("default/wh_2", at(0), 56), Room::For(8));
        lanes.end(LANE, Some(true), at(0), Duration::ZERO);
        assert_eq!(lanes.room(LANE, at(0), 64), Room::For(1));
    }

    #[test]
    fn i9_a_tenant_with_many_endpoints_leaves_places_to_others() {
        let lanes = lanes();
        let mut free = 64;
        let mut take = |tenant: &str| {
            (0..200)
                .filter(|n| {
                    let lane = format!("{tenant}/callback/host-{n}:443");
                    let has_room = matches!(lanes.room(&lane, at(0), free), Room::For(_));
                    if has_room {
                        lanes.begin(&lane, at(0));
                        free -= 1;
                    }
                    has_room
                })
                .count()
        };
        let shares: Vec<_> = ["a", "b", "c", "d"].map(&mut take).into();
        assert_eq!(shares, [48, 12, 3, 1]);
        for n in 0..48 {
            lanes.end(
                &format!("a/callback/host-{n}:443"),
                Some(true),
                at(0),
                Duration::ZERO,
            );
        }
        assert_eq!(lanes.room("b/wh_1", at(0), 48), Room::For(8));
        assert_eq!(lanes.room("a/wh_1", at(0), 1), Room::For(1));
    }

    #[test]
    fn i9_an_endpoint_that_fails_is_probed_at_growing_distances_until_it_is_well() {
        let lanes = lanes();
        for _ in 0..4 {
            fail(&lanes, at(0));
        }
        assert_eq!(lanes.room(LANE, at(0), 64), Room::For(8));
        fail(&lanes, at(0));
        assert_eq!(lanes.room(LANE, at(99), 64), Room::Until(at(100)));
        assert_eq!(lanes.room(LANE, at(100), 64), Room::For(1));
        for (now, next) in [(100, 300), (300, 650), (650, 1_000)] {
            fail(&lanes, at(now));
            assert_eq!(lanes.room(LANE, at(now), 64), Room::Until(at(next)));
        }
        lanes.begin(LANE, at(1_000));
        assert_eq!(lanes.room(LANE, at(1_000), 64), Room::Full, "one probe at a time");
        lanes.end(LANE, Some(true), at(1_000), Duration::ZERO);
        assert_eq!(lanes.room(LANE, at(1_000), 64), Room::For(8));
        let state = lanes.state.lock().expect("lock");
        assert!(
            state.lanes.is_empty() && state.tenants.is_empty(),
            "nothing is kept of what is well"
        );
    }

    #[test]
    fn who_asks_for_time_gets_it() {
        let lanes = lanes();
        lanes.begin(LANE, at(0));
        lanes.end(LANE, Some(false), at(0), Duration::from_secs(7));
        assert_eq!(lanes.room(LANE, at(6_999), 64), Room::Until(at(7_000)));
        assert_eq!(lanes.room(LANE, at(7_000), 64), Room::For(8));
    }
}
