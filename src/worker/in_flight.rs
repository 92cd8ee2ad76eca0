//! Submissions whose outcome this process awaits, by the ledger's identifier.
//!
//! An entry lives until its outcome, or until its check falls due; from then on the store's due mark is in
//! charge. So an outcome that never comes cannot hold a slot for ever. Nothing here has to survive a crash.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::domain::{LedgerTxId, State, Transaction};

/// One of `max_in_flight`, given back when dropped.
pub(crate) type Slot = OwnedSemaphorePermit;

struct Awaited {
    tx: Transaction,
    /// By the monotonic clock: a wall clock that is set back must not hold the slot.
    until: Instant,
    _slot: Option<Slot>,
}

#[derive(Default)]
pub(crate) struct InFlight(Mutex<HashMap<LedgerTxId, Awaited>>);

impl InFlight {
    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<LedgerTxId, Awaited>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Awaits the outcome of a submitted transaction for `at_most`. To be called before it is sent.
    pub(crate) fn expect(&self, tx: Transaction, slot: Slot, at_most: Duration) {
        if let State::Submitted { sent, .. } = &tx.state {
            let (tx_id, until) = (sent.tx_id.clone(), Instant::now() + at_most);
            self.map().insert(
                tx_id,
                Awaited {
                    tx,
                    until,
                    _slot: Some(slot),
                },
            );
        }
    }

    /// Awaits the outcome of one that was sent before, by this process or another, unless it is awaited already.
    pub(crate) fn adopt(&self, tx: Transaction, slot: Option<Slot>, at_most: Duration) {
        if let State::Submitted { sent, .. } = &tx.state {
            let (tx_id, until) = (sent.tx_id.clone(), Instant::now() + at_most);
            self.map().entry(tx_id).or_insert(Awaited {
                tx,
                until,
                _slot: slot,
            });
        }
    }

    /// Whether this outcome is awaited.
    pub(crate) fn awaits(&self, tx_id: &LedgerTxId) -> bool {
        self.map().contains_key(tx_id)
    }

    /// The transaction that waits for this outcome, which now waits no more. Its slot is free.
    pub(crate) fn take(&self, tx_id: &LedgerTxId) -> Option<Transaction> {
        self.map().remove(tx_id).map(|awaited| awaited.tx)
    }

    /// Lets go of those whose check is due.
    pub(crate) fn release_due(&self) {
        let now = Instant::now();
        self.map().retain(|_, awaited| awaited.until > now);
    }
}
