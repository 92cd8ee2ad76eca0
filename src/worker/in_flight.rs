//! Submissions whose outcome this process awaits, by the ledger's identifier.
//!
//! An entry holds its slot until its outcome, or until its check falls due; from then on the store's due mark is in
//! charge. So an outcome that never comes cannot hold a slot for ever. The entry itself stays for as long again: a
//! ledger that is slow to tell is slow to answer look-ups as well, and what it tells late must not be lost, or the
//! same bytes would be sent again and again. Nothing here has to survive a crash.
//!
//! A ledger that has more to do than it can must not be asked for more because it is late: a submission that is overdue
//! is only looked up, and sent again, if there is reason to believe it lost. There is none while our own call has not
//! ended, nor while the ledger, having taken it, goes on telling outcomes, and none yet of what was first sent after that
//! (the idea of TCP's RACK, RFC 8985).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::slots::Slot;
use crate::domain::{LedgerTxId, State, Transaction};

struct Awaited {
    tx: Transaction,
    /// By the monotonic clock: a wall clock that is set back must not hold the slot.
    until: Instant,
    /// Until when an outcome that is late is still of use.
    at_last: Instant,
    slot: Option<Slot>,
    /// When this process first began to send it.
    begun: Option<Instant>,
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
    /// Nothing for certain; the ledger is being asked.
    Asked,
}

impl Awaited {
    fn new(tx: Transaction, slot: Option<Slot>, at_most: Duration) -> Self {
        let until = Instant::now() + at_most;
        Self {
            tx,
            until,
            at_last: until + at_most,
            slot,
            begun: None,
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
    /// When the last of all that was told was first sent.
    up_to: Option<Instant>,
}

impl InFlight {
    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Awaits the outcome of a submitted transaction for `at_most`. To be called before it is sent.
    pub(crate) fn expect(&self, tx: Transaction, slot: Slot, at_most: Duration) {
        if let State::Submitted { sent, .. } = &tx.state {
            let tx_id = sent.tx_id.clone();
            let mut all = self.all();
            let begun = all.awaited.get(&tx_id).and_then(|entry| entry.begun);
            let entry = Awaited {
                begun,
                ..Awaited::new(tx, Some(slot), at_most)
            };
            all.awaited.insert(tx_id, entry);
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

    /// Goes on awaiting one for `at_most`. If there is reason to believe it lost, gives it back to be looked up, and awaits it
    /// without its slot until it is [`answered`](Self::answered). That the ledger told nothing for `quiet` is a reason.
    pub(crate) fn await_on(
        &self,
        tx: Transaction,
        slot: Slot,
        at_most: Duration,
        quiet: Duration,
    ) -> Option<(Transaction, Slot)> {
        let tx_id = tx.state.sent()?.tx_id.clone();
        let mut all = self.all();
        let before = all.awaited.remove(&tx_id);
        let (begun, sent) = before.map_or((None, Sent::Perhaps), |entry| (entry.begun, entry.sent));
        let is_on_its_way = match (sent, &all.told) {
            (Sent::Now, _) => true,
            (Sent::Taken(at), Some(told)) => {
                told.at.elapsed() < quiet && told.up_to.is_none_or(|begun| begun <= at)
            }
            (Sent::Taken(_), None) | (Sent::Perhaps | Sent::Asked, _) => false,
        };
        let (sent, held, back) = match is_on_its_way {
            true => (sent, Some(slot), None),
            false => (Sent::Asked, None, Some((tx.clone(), slot))),
        };
        let entry = Awaited {
            begun,
            sent,
            ..Awaited::new(tx, held, at_most)
        };
        all.awaited.insert(tx_id, entry);
        back
    }

    /// One was looked up. Answers whether it is awaited still: if not, it was told meanwhile.
    pub(crate) fn answered(&self, tx_id: &LedgerTxId) -> bool {
        let mut all = self.all();
        let entry = all.awaited.get_mut(tx_id);
        entry.map(|entry| entry.sent = Sent::Perhaps).is_some()
    }

    /// One that is awaited is being sent, until what this answers is dropped.
    pub(crate) fn sending<'f>(&'f self, tx_id: &'f LedgerTxId) -> Sending<'f> {
        if let Some(entry) = self.all().awaited.get_mut(tx_id) {
            entry.begun.get_or_insert_with(Instant::now);
            entry.sent = Sent::Now;
        }
        Sending {
            in_flight: self,
            tx_id,
            sent: Sent::Perhaps,
        }
    }

    /// Whether this outcome is awaited.
    pub(crate) fn awaits(&self, tx_id: &LedgerTxId) -> bool {
        self.all().awaited.contains_key(tx_id)
    }

    /// The transaction that waits for this outcome, which was told and is now awaited no more, and when this process first
    /// began to send it. Its slot is free.
    pub(crate) fn told(&self, tx_id: &LedgerTxId) -> Option<(Transaction, Option<Instant>)> {
        let mut all = self.all();
        let entry = all.awaited.remove(tx_id)?;
        let before = all.told.as_ref().and_then(|told| told.up_to);
        all.told = Some(Told {
            at: Instant::now(),
            up_to: before.max(entry.begun),
        });
        Some((entry.tx, entry.begun))
    }

    /// When the first of those was sent, of what this process sent since a moment, whose outcome is awaited.
    pub(crate) fn oldest(&self, since: Option<Instant>) -> Option<Instant> {
        let all = self.all();
        let begun = all.awaited.values().filter_map(|entry| entry.begun);
        begun
            .filter(|begun| since.is_none_or(|since| *begun >= since))
            .min()
    }

    /// It is not awaited any more. Its slot is free.
    pub(crate) fn forget(&self, tx_id: &LedgerTxId) -> Option<Transaction> {
        self.all().awaited.remove(tx_id).map(|awaited| awaited.tx)
    }

    /// Frees its slot before its check is due.
    pub(crate) fn release(&self, tx_id: &LedgerTxId) {
        if let Some(entry) = self.all().awaited.get_mut(tx_id) {
            entry.slot = None;
        }
    }

    /// Frees the slots of those whose check is due, and forgets those that nothing came of after that, but for those that
    /// are being sent or looked up.
    pub(crate) fn release_due(&self, now: Instant) {
        self.all().awaited.retain(|_, awaited| {
            if awaited.until <= now {
                awaited.slot = None;
            }
            awaited.at_last > now || matches!(awaited.sent, Sent::Now | Sent::Asked)
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
        if let Some(entry) = self.in_flight.all().awaited.get_mut(self.tx_id) {
            entry.sent = self.sent;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use super::super::slots::Slots;
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
            tx_id: id(tx_id),
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

    fn id(name: &str) -> LedgerTxId {
        LedgerTxId(name.into())
    }

    fn at_most(slots: u32) -> NonZeroU32 {
        NonZeroU32::new(slots).expect("not zero")
    }

    fn slot(slots: &Arc<Slots>) -> Slot {
        slots.try_take().expect("a free slot")
    }

    #[test]
    fn what_is_late_is_given_up_only_for_a_reason() {
        const LONG: Duration = Duration::from_secs(3_600);
        let slots = Slots::new(at_most(100));
        let in_flight = InFlight::default();
        let gives_up = |name: &str, quiet| {
            in_flight
                .await_on(submitted(name), slot(&slots), LONG, quiet)
                .is_some()
        };
        let told = |name: &str| in_flight.told(&id(name)).expect("awaited").0;
        let send = |name: &str| {
            in_flight.expect(submitted(name), slot(&slots), LONG);
            in_flight.sending(&id(name)).taken();
        };
        assert!(gives_up("unheard of", LONG));

        let sent = id("sent");
        in_flight.expect(submitted("sent"), slot(&slots), LONG);
        let sending = in_flight.sending(&sent);
        assert!(!gives_up("sent", Duration::ZERO), "its call has not ended");
        drop(sending);
        assert!(gives_up("sent", LONG), "it may not have arrived");

        // Each gets a moment of its own: what was sent at the same moment says nothing of one another.
        for name in ["first", "second", "third", "fourth", "fifth"] {
            send(name);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(gives_up("second", LONG), "the ledger tells nothing at all");
        told("first");
        assert!(!gives_up("third", LONG), "its turn is to come");
        assert!(
            gives_up("third", Duration::ZERO),
            "the ledger tells nothing any more"
        );
        // Sent again; what is told now may be the copy that was sent first.
        send("second");
        told("second");
        assert!(!gives_up("fourth", LONG), "its turn is to come");
        told("fifth");
        assert!(gives_up("fourth", LONG), "it was passed over");
    }

    #[test]
    fn what_is_told_while_it_is_looked_up_is_known_to_be() {
        const SHORT: Duration = Duration::from_millis(1);
        let slots = Slots::new(at_most(2));
        let in_flight = InFlight::default();
        for name in ["told", "untold"] {
            let given = in_flight.await_on(submitted(name), slot(&slots), SHORT, SHORT);
            assert!(given.is_some_and(|(tx, _)| tx.state.sent().is_some()));
        }
        assert_eq!(slots.free(), 2, "a slot is held by one only");
        // However long the ledger takes to answer.
        in_flight.release_due(Instant::now() + SHORT * 1_000);
        assert!(in_flight.told(&id("told")).is_some());
        assert!(!in_flight.answered(&id("told")));
        assert!(in_flight.answered(&id("untold")));
        in_flight.release_due(Instant::now() + SHORT * 1_000);
        assert!(!in_flight.awaits(&id("untold")), "nothing is kept for ever");
    }

    #[test]
    fn a_late_outcome_finds_its_transaction_but_holds_no_slot_for_it() {
        let slots = Slots::new(at_most(1));
        let (in_flight, check_after) = (InFlight::default(), Duration::from_secs(5));
        let begun = Instant::now();
        in_flight.expect(submitted("a"), slot(&slots), check_after);
        in_flight.release_due(begun + check_after / 2);
        assert_eq!(slots.free(), 0, "its outcome is expected");

        // Some time after both, as the entry took its own look at the clock.
        let due = begun + check_after * 3 / 2;
        in_flight.release_due(due);
        assert_eq!(slots.free(), 1, "others may go on");
        assert!(
            in_flight.told(&id("a")).is_some(),
            "it is told late, and not lost"
        );
        assert!(in_flight.told(&id("a")).is_none(), "once");

        in_flight.expect(submitted("b"), slot(&slots), check_after);
        in_flight.release_due(begun + check_after * 3);
        assert!(!in_flight.awaits(&id("b")), "nothing is kept for ever");
        assert_eq!(slots.free(), 1);
    }
}
