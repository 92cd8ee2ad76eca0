//! What was sent and is overdue: looked up, and sent again if the ledger does not know it (I2, I3).
//!
//! A ledger that is slow must not get more to do for being slow: what is only on its way is left alone (`in_flight.rs`
//! decides), and what is not is asked for at growing distances.
//!
//! The claim of a check has moved its due mark before anything here begins, so a crash anywhere brings it back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::Lane;
use super::slots::Slot;
use crate::domain::{Cause, Event, Outcome, Timestamp, Transaction};
use crate::failpoint;
use crate::queue::Tenure;
use crate::store::{Change, StoreError};

/// A ledger that cannot deduplicate is asked for this long before a person has to decide.
const PARK_AFTER: Duration = Duration::from_secs(60);

/// So many times `check_after` at most until a submission is looked up again.
const MOST_PATIENCE: u32 = 8;

impl Lane {
    /// How long to wait until a submission is looked up again: as long as it was waited for so far, within bounds. A ledger
    /// that is slow must not get more to do for being slow.
    pub(super) fn patience(&self, tx: &Transaction, now: Timestamp) -> Duration {
        let check_after = self.settings().check_after;
        let so_far = tx.sent_at().map_or(check_after, |at| now.since(at));
        so_far.clamp(check_after, check_after * MOST_PATIENCE)
    }

    /// How long it still is until that.
    pub(super) fn until_check(&self, tx: &Transaction, now: Timestamp) -> Duration {
        let left = tx.state.due().map_or(Duration::ZERO, |due| due.since(now));
        left.min(self.settings().check_after * MOST_PATIENCE)
    }

    /// Asks the ledger about what is overdue, whether or not the queue has given it. The checks that the queue gives later
    /// find nothing to do.
    pub(super) async fn check_overdue(self: Arc<Self>, tenure: Tenure) {
        match self.try_check_overdue(&tenure).await {
            Ok(()) => self.gate.store_worked(self.parts.name.as_str()),
            Err(error) => self.gate.store_failed(self.parts.name.as_str(), &error),
        }
    }

    async fn try_check_overdue(&self, tenure: &Tenure) -> Result<(), StoreError> {
        if !tenure.holds() {
            return Ok(());
        }
        let (parts, now) = (&self.parts, self.parts.clock.now());
        let most = self.settings().max_in_flight.get() as usize;
        let submitted = parts.store.submitted(&parts.name, most).await?;
        let overdue = submitted.into_iter().filter(|tx| tx.is_due(now));
        let (mut claims, mut slots) = (Vec::new(), Vec::new());
        for old in overdue {
            let Some(slot) = self.slots.try_take() else {
                break;
            };
            if let Some(new) = self.claim(&old, now) {
                claims.push(Change { old, new });
                slots.push(slot);
            }
        }
        let claimed = self.store_changes(claims).await?;
        self.check(claimed, slots, tenure).await
    }

    /// Asks the ledger about submissions of which nothing was heard. What it does not have is sent again, unless the lane
    /// is paused.
    pub(super) async fn check(
        &self,
        checks: Vec<Transaction>,
        slots: Vec<Slot>,
        tenure: &Tenure,
    ) -> Result<(), StoreError> {
        let claimed = self.parts.clock.now();
        let until_next = |tx: &Transaction| self.until_check(tx, claimed);
        let quiet = self.settings().check_after;
        let overdue = checks.into_iter().zip(slots).filter_map(|(tx, slot)| {
            let at_most = until_next(&tx);
            self.in_flight.await_on(tx, slot, at_most, quiet)
        });
        let (checks, slots): (Vec<_>, Vec<_>) = overdue.unzip();
        if checks.is_empty() {
            return Ok(());
        }
        failpoint::reached("check-before-lookup");
        let outcomes = join_all(checks.iter().map(|tx| async {
            match tx.state.sent() {
                Some(sent) => self.lookup(&sent.tx_id).await,
                None => Outcome::Unknown(Cause::new("NOT_SENT", "nothing was sent")),
            }
        }))
        .await;
        failpoint::reached("check-after-lookup");
        let (mut settled, mut parked, mut resends) = (Vec::new(), Vec::new(), Vec::new());
        let now = self.parts.clock.now();
        for ((tx, outcome), slot) in checks.into_iter().zip(outcomes).zip(slots) {
            let Some(sent) = tx.state.sent().cloned() else {
                continue;
            };
            if !self.in_flight.answered(&sent.tx_id) {
                continue;
            }
            match outcome {
                Outcome::Unavailable(cause) => self.unreachable(&cause),
                // It is asked for again, and sent again when the lane goes on.
                Outcome::Absent(_) | Outcome::Unknown(_)
                    if self.steering.course().paused && self.parts.ledger.deduplicates() => {}
                // Whoever waited for certainty might wait for ever; the ledger takes the same bytes once.
                Outcome::Absent(_) | Outcome::Unknown(_) if self.parts.ledger.deduplicates() => {
                    let at_most = until_next(&tx);
                    self.in_flight.expect(tx, slot, at_most);
                    resends.push(sent);
                }
                Outcome::Absent(cause) | Outcome::Unknown(cause) => {
                    if tx.sent_at().is_none_or(|at| now.since(at) >= PARK_AFTER)
                        && let Some(new) = self.legal(tx.apply(Event::Unresolvable { cause }, now))
                    {
                        parked.push(Change { old: tx, new });
                    }
                }
                verdict @ (Outcome::Committed(_) | Outcome::Conflict(_) | Outcome::Rejected(_)) => {
                    settled.push((tx, verdict));
                }
            }
        }
        let store = async {
            self.settle(&settled).await?;
            self.store_changes(parked).await
        };
        // What is to be sent is awaited already, so it has to be.
        let resend = self.submit(resends, tenure, |metrics| metrics.resends.increment(1));
        let (stored, resent) = tokio::join!(store, resend);
        stored.map(drop).and(resent)
    }
}
