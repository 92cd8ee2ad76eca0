//! Submissions whose outcome this process awaits, by the ledger's identifier.
//!
//! An entry holds its slot until its outcome, or until its check falls due; from then on the store's due mark is in
//! charge. So an outcome that never comes cannot hold a slot for ever. The entry itself stays for as long again: a
//! ledger that is slow to tell is slow to answer look-ups as well, and what it tells late must not be lost, or the
//! same bytes would be sent again and again. Nothing here has to survive a crash.
//!
//! A ledger that has more to do than it can must not be asked for more because it is late: a submission that is overdue
//! is only looked up, and sent again, if there is reason to believe it lost. It is none while our own call has not
//! ended, nor while the ledger took it and goes on telling outcomes of what was sent before it (the idea of TCP's RACK,
//! RFC 8985).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
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
    sent: Sent,
}

/// What this process knows of a sending.
#[derive(Clone, Copy)]
enum Sent {
    /// Nothing for certain.
    Perhaps,
    /// The call has not ended.
    Now,
    /// The ledger took it.
    Taken(Instant),
}

impl Awaited {
    fn new(tx: Transaction, slot: Option<Slot>, at_most: Duration) -> Self {
        let until = Instant::now() + at_most;
        Self {
            tx,
            until,
            at_last: until + at_most,
            slot,
            sent: Sent::Perhaps,
        }
    }
}

#[derive(Default)]
pub(crate) struct InFlight(Mutex<All>);

#[derive(Default)]
struct All {
    awaited: HashMap<LedgerTxId, Awaited>,
    told: Option<Told>,
}

/// How far the ledger has come with what was sent.
struct Told {
    /// When it told something last.
    at: Instant,
    /// When the last sent of all that was told was taken.
    up_to: Instant,
}

impl InFlight {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Awaits the outcome of a submitted transaction for `at_most`. To be called before it is sent.
    pub(crate) fn expect(&self, tx: Transaction, slot: Slot, at_most: Duration) {
        if let State::Submitted { sent, .. } = &tx.state {
            let tx_id = sent.tx_id.clone();
            let awaited = Awaited::new(tx, Some(slot), at_most);
            self.all().awaited.insert(tx_id, awaited);
        }
    }

    /// Awaits the outcome of one that was sent before, by this process or another, unless it is awaited already.
    pub(crate) fn adopt(&self, tx: Transaction, slot: Option<Slot>, at_most: Duration) {
        if let State::Submitted { sent, .. } = &tx.state {
            let tx_id = sent.tx_id.clone();
            let mut all = self.all();
            all.awaited
                .entry(tx_id)
                .or_insert_with(|| Awaited::new(tx, slot, at_most));
        }
    }

    /// Goes on awaiting one for `at_most`, if there is no reason to believe it lost; else gives it back. That the ledger
    /// told nothing for `quiet` is a reason.
    pub(crate) fn await_on(
        &self,
        tx: Transaction,
        slot: Slot,
        at_most: Duration,
        quiet: Duration,
    ) -> Option<(Transaction, Slot)> {
        let mut all = self.all();
        let All { awaited, told } = &mut *all;
        let Some(entry) = tx.state.sent().and_then(|sent| awaited.get_mut(&sent.tx_id)) else {
            return Some((tx, slot));
        };
        let is_on_its_way = match entry.sent {
            Sent::Perhaps => false,
            Sent::Now => true,
            Sent::Taken(at) => told
                .as_ref()
                .is_some_and(|told| told.at.elapsed() < quiet && told.up_to <= at),
        };
        if !is_on_its_way {
            return Some((tx, slot));
        }
        *entry = Awaited {
            sent: entry.sent,
            ..Awaited::new(tx, Some(slot), at_most)
        };
        None
    }

    /// One that is awaited is being sent, until what this answers is dropped.
    pub(crate) fn sending<'f>(&'f self, tx_id: &'f LedgerTxId) -> Sending<'f> {
        self.note(tx_id, Sent::Now);
        Sending {
            in_flight: self,
            tx_id,
            sent: Sent::Perhaps,
        }
    }

    fn note(&self, tx_id: &LedgerTxId, sent: Sent) {
        if let Some(entry) = self.all().awaited.get_mut(tx_id) {
            entry.sent = sent;
        }
    }

    /// Whether this outcome is awaited.
    pub(crate) fn awaits(&self, tx_id: &LedgerTxId) -> bool {
        self.all().awaited.contains_key(tx_id)
    }

    /// The transaction that waits for this outcome, which was told and is now awaited no more. Its slot is free.
    pub(crate) fn told(&self, tx_id: &LedgerTxId) -> Option<Transaction> {
        let mut all = self.all();
        let entry = all.awaited.remove(tx_id)?;
        let now = Instant::now();
        let up_to = match entry.sent {
            Sent::Taken(at) => Some(at),
            // It arrived, but nobody knows when.
            Sent::Now | Sent::Perhaps => None,
        };
        let before = all.told.as_ref().map(|told| told.up_to);
        if let Some(up_to) = up_to.max(before) {
            all.told = Some(Told { at: now, up_to });
        }
        Some(entry.tx)
    }

    /// It is not awaited any more. Its slot is free.
    pub(crate) fn forget(&self, tx_id: &LedgerTxId) -> Option<Transaction> {
        self.all().awaited.remove(tx_id).map(|awaited| awaited.tx)
    }

    /// Frees the slots of those whose check is due, and forgets those that nothing came of after that.
    pub(crate) fn release_due(&self, now: Instant) {
        self.all().awaited.retain(|_, awaited| {
            if awaited.until <= now {
                awaited.slot = None;
            }
            awaited.at_last > now
        });
    }
}

/// A submission that is being sent.
pub(crate) struct Sending<'f> {
    in_flight: &'f InFlight,
    tx_id: &'f LedgerTxId,
    sent: Sent,
}

impl Sending<'_> {
    /// The ledger took it.
    pub(crate) fn taken(mut self) {
        self.sent = Sent::Taken(Instant::now());
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.in_flight.note(self.tx_id, self.sent);
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
    fn what_is_late_is_given_up_only_for_a_reason() {
        const LONG: Duration = Duration::from_secs(3_600);
        let slots = Arc::new(Semaphore::new(100));
        let slot = || slots.clone().try_acquire_owned().expect("a free slot");
        let in_flight = InFlight::default();
        let gives_up = |name: &str, quiet| in_flight.await_on(submitted(name), slot(), LONG, quiet).is_some();
        let send = |name: &str| {
            in_flight.expect(submitted(name), slot(), LONG);
            in_flight.sending(&LedgerTxId(name.into())).taken();
        };
        assert!(gives_up("unheard of", LONG));

        let id = LedgerTxId("sent".into());
        in_flight.expect(submitted("sent"), slot(), LONG);
        let sending = in_flight.sending(&id);
        assert!(!gives_up("sent", Duration::ZERO), "its call has not ended");
        drop(sending);
        assert!(gives_up("sent", LONG), "it may not have arrived");

        for name in ["first", "second", "third"] {
            send(name);
        }
        assert!(gives_up("second", LONG), "the ledger tells nothing at all");
        in_flight.told(&LedgerTxId("first".into())).expect("awaited");
        assert!(!gives_up("second", LONG), "its turn is to come");
        assert!(
            gives_up("second", Duration::ZERO),
            "the ledger tells nothing any more"
        );
        in_flight.told(&LedgerTxId("third".into())).expect("awaited");
        assert!(gives_up("second", LONG), "it was passed over");
        send("fourth");
        assert!(!gives_up("fourth", LONG));
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
            in_flight.forget(&id("a")).is_some(),
            "it is told late, and not lost"
        );
        assert!(in_flight.forget(&id("a")).is_none(), "once");

        in_flight.expect(submitted("b"), slot(), check_after);
        in_flight.release_due(begun + check_after * 3);
        assert!(!in_flight.awaits(&id("b")), "nothing is kept for ever");
        assert_eq!(slots.available_permits(), 1);
    }
}
