//! Submissions whose outcome this process awaits, by the ledger's identifier.
//!
//! An entry lives until its outcome, or until its check falls due; from then on the store's due mark is in
//! charge. So an outcome that never comes cannot hold a slot for ever. Nothing here has to survive a crash.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::domain::{LedgerTxId, State, Timestamp, Transaction};

/// One of `max_in_flight`, given back when dropped.
pub(crate) type Slot = OwnedSemaphorePermit;

struct Awaited {
    tx: Transaction,
    check_at: Timestamp,
    _slot: Slot,
}

#[derive(Default)]
pub(crate) struct InFlight(Mutex<HashMap<LedgerTxId, Awaited>>);

impl InFlight {
    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<LedgerTxId, Awaited>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Awaits the outcome of a submitted transaction. To be called before it is sent.
    pub(crate) fn expect(&self, tx: Transaction, slot: Slot) {
        if let State::Submitted { sent, check_at } = &tx.state {
            let (tx_id, check_at) = (sent.tx_id.clone(), *check_at);
            self.map().insert(
                tx_id,
                Awaited {
                    tx,
                    check_at,
                    _slot: slot,
                },
            );
        }
    }

    /// The transaction that waits for this outcome, which now waits no more. Its slot is free.
    pub(crate) fn take(&self, tx_id: &LedgerTxId) -> Option<Transaction> {
        self.map().remove(tx_id).map(|awaited| awaited.tx)
    }

    /// Lets go of those whose check is due.
    pub(crate) fn release_due(&self, now: Timestamp) {
        self.map().retain(|_, awaited| awaited.check_at > now);
    }
}
