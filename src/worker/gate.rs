//! Stops a lane while its ledger, or the store, does not work, so that an outage costs one probe now and
//! then instead of one try for every waiting transaction.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::Cause;
use crate::ledger::LedgerBackend;
use crate::store::StoreError;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// A lane that gets nowhere for so long is given up, for another worker to try.
const GIVE_UP: Duration = Duration::from_secs(15);
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// What a call to a ledger answers, or the cause that it did not in time.
pub(crate) async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, Cause> {
    let late = |_| Cause::new("TIMEOUT", format!("the ledger did not answer within {limit:?}"));
    tokio::time::timeout(limit, call).await.map_err(late)
}

#[derive(Default)]
pub(crate) struct Gate(Mutex<Closed>);

#[derive(Default)]
struct Closed {
    outage: Option<Cause>,
    store_failed_until: Option<Instant>,
    /// Since when, and when that was last a reason to let another worker try.
    store_down_since: Option<Instant>,
}

impl Gate {
    fn state(&self) -> std::sync::MutexGuard<'_, Closed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger could not be reached.
    pub(crate) fn ledger_failed(&self, ledger: &str, cause: &Cause) {
        let mut state = self.state();
        if state.outage.is_none() {
            tracing::warn!(ledger, %cause, "the ledger is unavailable; its lane waits");
        }
        state.outage = Some(cause.clone());
    }

    /// The store refused.
    pub(crate) fn store_failed(&self, ledger: &str, error: &StoreError) {
        let mut state = self.state();
        state.store_failed_until = Some(Instant::now() + STORE_PAUSE);
        if state.store_down_since.is_none() {
            state.store_down_since = Some(Instant::now());
            tracing::warn!(ledger, %error, "the store is unavailable; the lane waits");
        }
    }

    /// The store took what it was given.
    pub(crate) fn store_worked(&self, ledger: &str) {
        if self.state().store_down_since.take().is_some() {
            tracing::info!(ledger, "the store is available again");
        }
    }

    /// Why the ledger is unavailable, if it is.
    pub(crate) fn outage(&self) -> Option<Cause> {
        self.state().outage.clone()
    }

    /// Waits until both are believed to work: at once normally, else probing the ledger with growing
    /// pauses. Answers `false` if that takes so long that another worker, which may reach what this one does
    /// not, should have a try. Cancel safe.
    #[must_use]
    pub(crate) async fn pass(&self, name: &str, ledger: &dyn LedgerBackend, patience: Duration) -> bool {
        let begun = Instant::now();
        let (paused, store_is_long_down) = {
            let mut state = self.state();
            let long = state
                .store_down_since
                .is_some_and(|since| since.elapsed() >= GIVE_UP);
            if long {
                state.store_down_since = Some(begun);
            }
            (state.store_failed_until.take(), long)
        };
        if store_is_long_down {
            return false;
        }
        if let Some(until) = paused {
            tokio::time::sleep_until(until.into()).await;
        }
        let mut pause = SHORTEST;
        while self.outage().is_some() {
            if begun.elapsed() >= GIVE_UP {
                return false;
            }
            match within(patience, ledger.probe()).await.flatten() {
                Ok(()) => {
                    self.state().outage = None;
                    tracing::info!(ledger = name, "the ledger is available again");
                }
                Err(cause) => {
                    self.state().outage = Some(cause);
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
                    pause = (pause * 2).min(LONGEST);
                }
            }
        }
        true
    }
}
