//! How fast a lane submits: the limit (I6), and below it, if that is asked for, what the ledger bears.

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::adaptive::{Adaptation, Adapted};
use super::limiter::RateLimiter;
use crate::config::WorkerSettings;

pub(crate) struct Pacing {
    /// Lets batches begin at the pace of the ledger, so that nothing is claimed long before it can be sent.
    batches: RateLimiter,
    /// Holds the limit where it counts, at each send: what a slow disk delayed does not go out all at once.
    sends: RateLimiter,
    state: Mutex<State>,
}

struct State {
    rate: f64,
    burst: NonZeroU32,
    /// `None` if the rate is the limit.
    adaptation: Option<Adaptation>,
}

impl Pacing {
    pub(crate) fn new(settings: &WorkerSettings) -> Self {
        let (rate, burst) = (settings.rate_per_second, settings.burst);
        Self {
            batches: RateLimiter::new(rate, burst),
            sends: RateLimiter::new(rate, burst),
            state: Mutex::new(State {
                rate,
                burst,
                adaptation: adaptation(settings),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets another limit. What is known of the ledger stays known, unless it is to be judged otherwise.
    pub(crate) fn set(&self, settings: &WorkerSettings) {
        let mut state = self.state();
        if state.adaptation.as_ref().map(Adaptation::settings) != settings.adaptive {
            state.adaptation = adaptation(settings);
        }
        let rate = match &mut state.adaptation {
            Some(adaptation) => {
                adaptation.limit(settings.rate_per_second);
                adaptation.adapted().rate_per_second
            }
            None => settings.rate_per_second,
        };
        self.apply(&mut state, rate, settings.burst);
    }

    fn apply(&self, state: &mut State, rate: f64, burst: NonZeroU32) {
        if (state.rate, state.burst) != (rate, burst) {
            (state.rate, state.burst) = (rate, burst);
            self.batches.set(rate, burst);
            self.sends.set(rate, burst);
        }
    }

    /// Takes all there is, for somebody else may have used it.
    pub(crate) fn empty(&self) {
        self.batches.empty();
        self.sends.empty();
    }

    /// How many of `wanted` may be begun, one at least. Cancel safe.
    pub(crate) async fn begin(&self, wanted: usize) -> usize {
        self.batches.take(wanted).await
    }

    /// Waits until one may be sent. Cancel safe.
    pub(crate) async fn send(&self) {
        self.sends.take(1).await;
        if let Some(adaptation) = &mut self.state().adaptation {
            adaptation.sent();
        }
    }

    /// A call failed for reasons of the ledger.
    pub(crate) fn failed(&self) {
        if let Some(adaptation) = &mut self.state().adaptation {
            adaptation.failed();
        }
    }

    /// The ledger told its verdict on one that was sent at `begun`.
    pub(crate) fn told(&self, begun: Instant, is_conflict: bool) {
        if let Some(adaptation) = &mut self.state().adaptation {
            adaptation.told(begun, is_conflict, Instant::now());
        }
    }

    /// Adapts the rate, if that is asked for and due. `oldest` tells when the first of those was sent, of what was sent since
    /// a moment, that the ledger has not told of. Answers the new rate, if it is another one.
    pub(crate) fn adapt(&self, oldest: impl FnOnce(Option<Instant>) -> Option<Instant>) -> Option<Adapted> {
        let mut state = self.state();
        let adapted = state.adaptation.as_mut()?.judge(oldest, Instant::now())?;
        let burst = state.burst;
        self.apply(&mut state, adapted.rate_per_second, burst);
        Some(adapted)
    }

    /// The rate that holds and why; `None` if it is simply the limit.
    pub(crate) fn adapted(&self) -> Option<Adapted> {
        Some(self.state().adaptation.as_ref()?.adapted())
    }
}

fn adaptation(settings: &WorkerSettings) -> Option<Adaptation> {
    let adaptive = settings.adaptive?;
    Some(Adaptation::new(
        adaptive,
        settings.rate_per_second,
        Instant::now(),
    ))
}
