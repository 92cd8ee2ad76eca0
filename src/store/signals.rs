//! Tells the consumer of a ledger that something may have become due.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::LedgerName;

/// A signal for each ledger. They live in memory: after a crash every consumer looks by itself.
#[derive(Default)]
pub(crate) struct DueSignals(Mutex<HashMap<LedgerName, Arc<Notify>>>);

impl DueSignals {
    /// The signal of this ledger, the same one every time.
    pub(crate) fn of(&self, ledger: &LedgerName) -> Arc<Notify> {
        let mut signals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match signals.get(ledger) {
            Some(signal) => signal.clone(),
            None => signals.entry(ledger.clone()).or_default().clone(),
        }
    }
}
