//! One batch on its way out: claim, prepare, store, submit; or, for what was sent already, [`check`](super::check).
//!
//! Each step's commit is shared by the batch. What is prepared at once is claimed and stored as submitted in one commit;
//! if the ledger takes its time, the claims are stored first: others then see that it is being prepared, and leave it
//! alone. Either way nothing is sent before its bytes are stored, and of two that prepare one record only one stores it.
//! Between any two lines here the process may die; the record then stands in the last stored state, from which the next
//! delivery goes on.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use super::Lane;
use super::gate::within;
use super::slots::Slot;
use crate::domain::{
    Cause, Decision, Event, IllegalTransition, Lease, LedgerTxId, Outcome, Prepared, RetrySettings, State,
    Timestamp, Transaction,
};
use crate::failpoint;
use crate::ledger::{PrepareError, SubmitError};
use crate::queue::{Delivery, Tenure};
use crate::store::{Change, StoreError};
use crate::telemetry::metrics::LaneMetrics;

/// So many records that cannot be read are remembered.
const MOST_UNREADABLE: usize = 10_000;

/// Whoever announced it may have a clock that is ahead of ours by so much. A repeated message can bring a
/// retry forward by as much, which the version check makes harmless.
const CLOCK_SKEW: Duration = Duration::from_secs(1);

/// What takes longer to prepare is claimed first (docs/adr/0027).
const AT_ONCE: Duration = Duration::from_millis(20);

fn is_submitted(tx: &Transaction) -> bool {
    matches!(tx.state, State::Submitted { .. })
}

/// Why something was not sent, as far as is known.
enum Unsent {
    /// Another worker may have taken over; nothing was sent.
    LaneLost,
    /// What the ledger said, or did not say.
    Refused(SubmitError),
}

impl Lane {
    /// Brings a batch as far as the ledger. Holds one of `slots` for each until its outcome.
    pub(super) async fn work_off(self: Arc<Self>, batch: Vec<Delivery>, slots: Vec<Slot>, tenure: Tenure) {
        match self.try_work_off(batch, slots, &tenure).await {
            Ok(()) => self.gate.store_worked(self.parts.name.as_str()),
            Err(error) => self.gate.store_failed(self.parts.name.as_str(), &error),
        }
    }

    async fn try_work_off(
        &self,
        batch: Vec<Delivery>,
        mut slots: Vec<Slot>,
        tenure: &Tenure,
    ) -> Result<(), StoreError> {
        if !tenure.holds() {
            return Ok(());
        }
        let now = self.parts.clock.now();
        let mut claims = Vec::new();
        let mut readable = Vec::new();
        let ids: Vec<_> = batch.iter().map(|delivery| delivery.id).collect();
        let records = self.parts.store.get_many(&ids).await;
        for (delivery, record) in batch.into_iter().zip(records) {
            match record {
                Ok(Some(old)) => {
                    readable.push(delivery);
                    if let Some(new) = self.claim(&old, now) {
                        claims.push(Change { old, new });
                    }
                }
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                // It must not hold up its neighbours, nor come again and again.
                Ok(None) => self.reject(delivery, "there is no such record"),
                Err(StoreError::Damaged(reason)) => self.reject(delivery, &reason),
            }
        }
        failpoint::reached("claim-before-store");
        let (fresh, others): (Vec<_>, Vec<_>) = claims
            .into_iter()
            .partition(|claim| matches!(claim.new.state, State::Preparing { .. }));
        let checked: HashSet<_> = others.iter().map(|claim| claim.new.id).collect();
        let mut preparing = pin!(join_all(fresh.iter().map(|claim| self.prepared(&claim.new))));
        let early = timeout(AT_ONCE, &mut preparing).await.ok();
        let is_late = early.is_none();
        let mut changes = match early {
            Some(news) => self.begun(&fresh, news),
            None => fresh.clone(),
        };
        changes.extend(others);
        let stored = self.store_changes(changes).await?;
        failpoint::reached("claim-before-ack");
        // Stored: from here on leases and checks bring them back, not the queue.
        readable.into_iter().for_each(Delivery::ack);

        let (checks, begun): (Vec<_>, Vec<_>) = stored.into_iter().partition(|tx| checked.contains(&tx.id));
        let checks: Vec<_> = checks.into_iter().filter(is_submitted).collect();
        let rest = slots.split_off(begun.len());
        let attempt = async {
            let ready = match is_late {
                true => self.store_late(&fresh, begun, preparing.await).await?,
                false => begun,
            };
            self.send_off(ready, slots, tenure).await
        };
        // Both to their end: a failure of one must not cut off the other between a commit and a send.
        let (attempted, checked) = tokio::join!(attempt, self.check(checks, rest, tenure));
        attempted.and(checked)
    }

    /// The changes of those that were claimed and prepared at once. One that cannot be made is claimed, and its lease runs
    /// out.
    fn begun(&self, claims: &[Change], news: Vec<Result<Transaction, IllegalTransition>>) -> Vec<Change> {
        if !claims.is_empty() {
            failpoint::reached("prepare-before-store");
        }
        let both = claims.iter().zip(news);
        both.map(|(claim, new)| Change {
            old: claim.old.clone(),
            new: self.legal(new).unwrap_or_else(|| claim.new.clone()),
        })
        .collect()
    }

    /// A delivery that leads to no readable record. If it comes again, that is no news.
    fn reject(&self, delivery: Delivery, reason: &str) {
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if unreadable.len() >= MOST_UNREADABLE {
            unreadable.clear();
        }
        if !unreadable.insert(delivery.id) {
            return delivery.ack();
        }
        drop(unreadable);
        tracing::error!(ledger = %self.parts.name, tx.id = %delivery.id, reason, "a delivery leads to no readable record; set aside");
        self.parts.metrics.rejected_deliveries.increment(1);
        delivery.reject();
    }

    /// The move that takes charge of a delivered transaction; `None` if there is nothing to do for it.
    pub(super) fn claim(&self, old: &Transaction, now: Timestamp) -> Option<Transaction> {
        let settings = &self.parts.settings;
        if !old.is_due(now.plus(CLOCK_SKEW)) {
            return None;
        }
        let begin = |tx: &Transaction| {
            if tx.expires_unasked_at().is_some_and(|deadline| deadline <= now) {
                return tx.apply(Event::Expired, now);
            }
            let lease = Lease {
                owner: self.owner.clone(),
                until: now.plus(settings.lease),
            };
            tx.apply(Event::Claimed { lease }, now)
        };
        let next = match &old.state {
            State::Pending { .. } => begin(old),
            State::Preparing { .. } => {
                self.parts.metrics.retried("lease_lost");
                old.apply(Event::LeaseLost { due_at: now }, now)
                    .and_then(|tx| begin(&tx))
            }
            State::Submitted { .. } => old.apply(
                Event::CheckClaimed {
                    check_at: now.plus(self.patience(old, now)),
                },
                now,
            ),
            State::Parked { .. } | State::Done { .. } | State::Failed { .. } => return None,
        };
        self.legal(next)
    }

    /// Stores what was prepared of those whose claims were stored before it. Answers the records as they are then.
    async fn store_late(
        &self,
        claims: &[Change],
        claimed: Vec<Transaction>,
        news: Vec<Result<Transaction, IllegalTransition>>,
    ) -> Result<Vec<Transaction>, StoreError> {
        let ours: HashSet<_> = claimed.iter().map(|tx| tx.id).collect();
        let both = claims.iter().zip(news);
        let changes = both.filter(|(claim, _)| ours.contains(&claim.new.id));
        let changes = changes.filter_map(|(claim, new)| {
            let new = self.legal(new)?;
            Some(Change {
                old: claim.new.clone(),
                new,
            })
        });
        failpoint::reached("prepare-before-store");
        self.store_changes(changes.collect()).await
    }

    /// Sends those of `stored` that are to be sent; their bytes are stored.
    async fn send_off(
        &self,
        stored: Vec<Transaction>,
        slots: Vec<Slot>,
        tenure: &Tenure,
    ) -> Result<(), StoreError> {
        let mut sends = Vec::new();
        for (tx, slot) in stored.into_iter().zip(slots) {
            if let State::Submitted { sent, .. } = &tx.state {
                let sent = sent.clone();
                self.in_flight.expect(tx, slot, self.settings().check_after);
                sends.push(sent);
            }
        }
        self.submit(sends, tenure, LaneMetrics::submitted).await
    }

    /// The record once it was tried to prepare it.
    async fn prepared(&self, tx: &Transaction) -> Result<Transaction, IllegalTransition> {
        let now = || self.parts.clock.now();
        // Only of a rewound one: others are not claimed past their deadline.
        let is_late = tx.rewound && tx.expires_at().is_some_and(|deadline| deadline <= now());
        let event = match self.prepare(tx).await {
            Err(PrepareError::AlreadyOnLedger(tx_id)) => return self.found(tx, tx_id).await,
            Err(PrepareError::Postponed(cause)) => self.out_of_reach(tx, cause),
            Err(PrepareError::Unavailable(cause)) => self.ledger_failed(tx, cause),
            // Whoever endorses, or refuses to, has looked for its identifier and not found it.
            Ok(_) | Err(PrepareError::Rejected(_) | PrepareError::Conflict(_)) if is_late => Event::Expired,
            Ok(sent) => {
                let check_at = now().plus(self.settings().check_after);
                Event::Prepared { sent, check_at }
            }
            Err(PrepareError::Rejected(cause)) => Event::Rejected { cause },
            Err(PrepareError::Conflict(cause)) => {
                let retry_at = self.retry_at(tx, &self.course().retry.conflict, tx.conflicts + 1);
                Event::Disagreed { cause, retry_at }
            }
        };
        // Those who endorse may lag behind the ledger: it is asked by the identifier before this one fails.
        if tx.rewound && matches!(event, Event::Expired | Event::Rejected { .. }) {
            let tx_id = self.parts.ledger.identify(tx.submission());
            match self.search(&tx_id).await {
                Outcome::Absent(_) => {}
                Outcome::Unknown(cause) => return tx.apply(self.out_of_reach(tx, cause), now()),
                Outcome::Unavailable(cause) => return tx.apply(self.ledger_failed(tx, cause), now()),
                verdict @ (Outcome::Committed(_) | Outcome::Conflict(_) | Outcome::Rejected(_)) => {
                    return self.told(tx, tx_id, &verdict);
                }
            }
        }
        tx.apply(event, now())
    }

    /// The ledger has the submission that was to be prepared: what became of it decides. If nobody can tell yet, it is
    /// asked again later, and nothing new is made meanwhile.
    async fn found(&self, tx: &Transaction, tx_id: LedgerTxId) -> Result<Transaction, IllegalTransition> {
        tracing::debug!(ledger = %self.parts.name, tx.id = %tx.id, tx.ledger_id = %tx_id, "the ledger has this transaction already; what became of it counts");
        let verdict = self.lookup(&tx_id).await;
        self.told(tx, tx_id, &verdict)
    }

    fn told(
        &self,
        tx: &Transaction,
        tx_id: LedgerTxId,
        outcome: &Outcome,
    ) -> Result<Transaction, IllegalTransition> {
        let now = self.parts.clock.now();
        let found = tx.apply(Event::FoundOnLedger { tx_id }, now)?;
        let event = self.verdict(&found, outcome).unwrap_or_else(|| {
            let cause = Cause::new(
                "ALREADY_ON_LEDGER",
                "the ledger has it and does not tell yet what became of it",
            );
            self.out_of_reach(&found, cause)
        });
        found.apply(event, now)
    }

    /// It is tried again later.
    fn out_of_reach(&self, tx: &Transaction, cause: Cause) -> Event {
        let retry_at = self.retry_at(tx, &self.course().retry.outage, tx.outages + 1);
        Event::Unavailable { cause, retry_at }
    }

    /// The same, and the lane waits for the ledger.
    fn ledger_failed(&self, tx: &Transaction, cause: Cause) -> Event {
        self.unreachable(&cause);
        self.out_of_reach(tx, cause)
    }

    /// A call failed: the lane waits for the ledger.
    pub(super) fn unreachable(&self, cause: &Cause) {
        self.pacing.failed();
        self.gate.ledger_failed(self.parts.name.as_str(), cause);
    }

    /// Sends stored bytes whose outcomes are already awaited. `count` counts each that goes out.
    pub(super) async fn submit(
        &self,
        sends: Vec<Prepared>,
        tenure: &Tenure,
        count: fn(&LaneMetrics),
    ) -> Result<(), StoreError> {
        let results = join_all(sends.iter().map(|sent| self.send(sent, tenure, count))).await;
        let mut rejected = Vec::new();
        for (sent, result) in sends.iter().zip(results) {
            match result {
                Ok(()) => {}
                // Whoever took over asks the ledger when the check falls due, and sends these bytes if need be.
                Err(Unsent::LaneLost) => drop(self.in_flight.forget(&sent.tx_id)),
                Err(Unsent::Refused(SubmitError::Rejected(cause))) => {
                    rejected.extend(
                        self.in_flight
                            .forget(&sent.tx_id)
                            .map(|tx| (tx, Outcome::Rejected(cause))),
                    );
                }
                // The check falls due: the ledger is asked, and the same bytes go out again if need be.
                Err(Unsent::Refused(SubmitError::Unavailable(cause))) => {
                    self.in_flight.release(&sent.tx_id);
                    self.unreachable(&cause);
                }
                Err(Unsent::Refused(SubmitError::Unknown(cause))) => {
                    tracing::debug!(tx.ledger_id = %sent.tx_id, %cause, "sent, perhaps");
                }
            }
        }
        self.settle(&rejected).await
    }

    /// No call to a ledger may take longer than half a lease: a ledger that hangs is one that is unavailable,
    /// and where it may have been reached, one that cannot tell.
    async fn within<T>(&self, call: impl Future<Output = T>) -> Result<T, Cause> {
        within(self.parts.settings.lease / 2, call).await
    }

    async fn prepare(&self, tx: &Transaction) -> Result<Prepared, PrepareError> {
        failpoint::reached("prepare-before-call");
        let prepared = self
            .within(self.parts.ledger.prepare(tx.submission(), &tx.request))
            .await;
        prepared.unwrap_or_else(|late| Err(PrepareError::Unavailable(late)))
    }

    pub(super) async fn lookup(&self, tx_id: &LedgerTxId) -> Outcome {
        let told = self.within(self.parts.ledger.lookup(tx_id)).await;
        told.unwrap_or_else(Outcome::Unavailable)
    }

    async fn search(&self, tx_id: &LedgerTxId) -> Outcome {
        let told = self.within(self.parts.ledger.search(tx_id)).await;
        told.unwrap_or_else(Outcome::Unavailable)
    }

    async fn send(&self, sent: &Prepared, tenure: &Tenure, count: fn(&LaneMetrics)) -> Result<(), Unsent> {
        let sending = self.in_flight.sending(&sent.tx_id);
        let ready = self.within(self.parts.ledger.ready()).await.flatten();
        ready.map_err(|cause| Unsent::Refused(SubmitError::Unavailable(cause)))?;
        self.pacing.send().await;
        if !tenure.holds() {
            return Err(Unsent::LaneLost);
        }
        count(&self.parts.metrics);
        failpoint::reached("submit-before-send");
        let answer = self.within(self.parts.ledger.submit(sent)).await;
        failpoint::reached("submit-after-reply");
        let answer = answer.unwrap_or_else(|late| Err(SubmitError::Unknown(late)));
        answer.map_err(Unsent::Refused)?;
        sending.taken();
        Ok(())
    }

    /// When the `tries`-th try that ended this way is repeated; `None` if the budget is used up. A rewound one is tried
    /// until the ledger decides: a later submission of it may have taken effect.
    pub(super) fn retry_at(&self, tx: &Transaction, budget: &RetrySettings, tries: u32) -> Option<Timestamp> {
        match budget.decide(tries, rand::random()) {
            Decision::Retry(delay) => Some(self.parts.clock.now().plus(delay)),
            Decision::GiveUp if tx.rewound => Some(self.parts.clock.now().plus(budget.max)),
            Decision::GiveUp => None,
        }
    }

    /// An illegal move is a defect of this module: it is reported and not made.
    pub(super) fn legal(&self, next: Result<Transaction, IllegalTransition>) -> Option<Transaction> {
        next.inspect_err(|error| tracing::error!(ledger = %self.parts.name, %error, "illegal move"))
            .ok()
    }
}
