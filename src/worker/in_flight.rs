//! Submissions whose outcome this process awaits, by the ledger's identifier.
//!
//! An entry holds its slot until its outcome, or until its check falls due; from then on the store's due mark is in
//! charge. So an outcome that never comes cannot hold a slot for ever. The entry itself stays for as long again: a
//! ledger that is slow to tell is slow to answer look-ups as well, and what it tells late must not be lost, or the
//! same bytes would be sent again and again. Nothing here has to survive a crash.

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
    /// Until when an outcome that is late is still of use.
    at_last: Instant,
    slot: Option<Slot>,
}

impl Awaited {
    fn new(tx: Transaction, slot: Option<Slot>, at_most: Duration) -> Self {
        let until = Instant::now() + at_most;
        Self {
            tx,
            until,
            at_last: until + at_most,
            slot,
        }
    }
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
            let tx_id = sent.tx_id.clone();
            self.map().insert(tx_id, Awaited::new(tx, Some(slot), at_most));
        }
    }

    /// Awaits the outcome of one that was sent before, by this process or another, unless it is awaited already.
    pub(crate) fn adopt(&self, tx: Transaction, slot: Option<Slot>, at_most: Duration) {
        if let State::Submitted { sent, .. } = &tx.state {
            let tx_id = sent.tx_id.clone();
            self.map()
                .entry(tx_id)
                .or_insert_with(|| Awaited::new(tx, slot, at_most));
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

    /// Frees the slots of those whose check is due, and forgets those that nothing came of after that.
    pub(crate) fn release_due(&self, now: Instant) {
        self.map().retain(|_, awaited| {
            if awaited.until <= now {
                awaited.slot = None;
            }
            awaited.at_last > now
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::domain::{Event, Lease, Prepared, Timestamp};
    use crate::store::conformance::transaction;

    fn submitted(tx_id: &str) -> Transaction {
        let now = Timestamp::from_millis(1_000);
        let lease = Lease {
            owner: "worker".into(),
            until: now,
        };
        let sent = Prepared {
            tx_id: LedgerTxId(tx_id.into()),
            envelope: "bytes".into(),
            response: None,
            touched: None,
        };
        let prepared = Event::Prepared { sent, check_at: now };
        [Event::Claimed { lease }, prepared]
            .into_iter()
            .fold(transaction("main", None), |tx, event| {
                tx.apply(event, now).expect("legal")
            })
    }

    #[test]
    fn a_late_outcome_finds_its_transaction_but_holds_no_slot_for_it() {
        let slots = Arc::new(Semaphore::new(1));
        let slot = || slots.clone().try_acquire_owned().expect("a free slot");
        let (in_flight, check_after) = (InFlight::default(), Duration::from_secs(5));
        let begun = Instant::now();
        let id = |name: &str| LedgerTxId(name.into());
        in_flight.expect(submitted("a"), slot(), check_after);
        in_flight.release_due(begun + check_after / 2);
        assert_eq!(slots.available_permits(), 0, "its outcome is expected");

        // Some time after both, as the entry took its own look at the clock.
        let due = begun + check_after * 3 / 2;
        in_flight.release_due(due);
        assert_eq!(slots.available_permits(), 1, "others may go on");
        assert!(
            in_flight.take(&id("a")).is_some(),
            "it is told late, and not lost"
        );
        assert!(in_flight.take(&id("a")).is_none(), "once");

        in_flight.expect(submitted("b"), slot(), check_after);
        in_flight.release_due(begun + check_after * 3);
        assert!(!in_flight.awaits(&id("b")), "nothing is kept for ever");
        assert_eq!(slots.available_permits(), 1);
    }
}
