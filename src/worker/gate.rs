//! Stops a lane while its ledger, or the store, does not work, so that an outage costs one probe now and
//! then instead of one try for every waiting transaction.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::Cause;
use crate::ledger::LedgerBackend;
use crate::store::StoreError;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
const STORE_PAUSE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(crate) struct Gate(Mutex<Closed>);

#[derive(Default)]
struct Closed {
    outage: Option<Cause>,
    store_failed_until: Option<Instant>,
    store_is_down: bool,
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
        if !std::mem::replace(&mut state.store_is_down, true) {
            tracing::warn!(ledger, %error, "the store is unavailable; the lane waits");
        }
    }

    /// The store took what it was given.
    pub(crate) fn store_worked(&self, ledger: &str) {
        if std::mem::take(&mut self.state().store_is_down) {
            tracing::info!(ledger, "the store is available again");
        }
    }

    /// Why the ledger is unavailable, if it is.
    pub(crate) fn outage(&self) -> Option<Cause> {
        self.state().outage.clone()
    }

    /// Waits until both are believed to work: at once normally, else probing the ledger with growing
    /// pauses. Cancel safe.
    pub(crate) async fn pass(&self, name: &str, ledger: &dyn LedgerBackend, patience: Duration) {
        let paused = self.state().store_failed_until.take();
        if let Some(until) = paused {
            tokio::time::sleep_until(until.into()).await;
        }
        let mut pause = SHORTEST;
        while self.outage().is_some() {
            let late = |_| {
                Err(Cause::new(
                    "TIMEOUT",
                    format!("the ledger did not answer within {patience:?}"),
                ))
            };
            match tokio::time::timeout(patience, ledger.probe())
                .await
                .unwrap_or_else(late)
            {
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
    }
}
