//! What the ledger said, stored and told.
//!
//! Outcomes are stored in the order in which they are told, and the checkpoint moves behind them (`resume.rs`
//! has the rule). A crash before an outcome is stored leaves its record submitted: it is told again, or looked up.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::Lane;
use super::resume::Subscription;
use crate::domain::{Checkpoint, Event, LedgerTxId, Outcome, Transaction};
use crate::failpoint;
use crate::ledger::Settled;
use crate::store::{self, Change, StoreError};

/// How often entries whose check is due are let go.
const SWEEP: Duration = Duration::from_millis(500);

/// Between two tries to store what the store refused.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// A record moves under an outcome only when a check is claimed at the same moment, which is rare; whoever
/// loses this often leaves it to the next check.
const RACES: usize = 3;

impl Lane {
    /// Settles outcomes as they come, from the latest subscription, until `stop`. Tells how far it has come.
    pub(super) async fn settle_outcomes(
        self: Arc<Self>,
        mut subscribed: mpsc::UnboundedReceiver<Subscription>,
        reached: watch::Sender<Option<Checkpoint>>,
        stop: CancellationToken,
    ) {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut current: Option<Subscription> = None;
        // Whether everything since it was subscribed is stored.
        let mut is_whole = true;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = sweep.tick() => {
                    self.in_flight.release_due(Instant::now());
                    self.adapt();
                }
                Some(newer) = subscribed.recv() => (current, is_whole) = (Some(newer), true),
                group = next(&mut current) => match group {
                    Some(Settled { outcomes, checkpoint }) => {
                        is_whole &= self.settle_group(outcomes, &stop).await;
                        let may = current.as_ref().is_some_and(|current| current.tenure.holds());
                        if is_whole && may && checkpoint.is_some() {
                            reached.send_replace(checkpoint);
                        }
                    }
                    // Checks find the outcomes from now on.
                    None => {
                        tracing::error!(ledger = %self.parts.name, "the ledger tells no outcomes any more; it is asked for each");
                        current = None;
                    }
                },
            }
        }
    }

    /// Lets the rate follow what the ledger bears, if that is asked for.
    fn adapt(&self) {
        let Some(adapted) = self.pacing.adapt(|since| self.in_flight.oldest(since)) else {
            return;
        };
        let (rate, reason) = (adapted.rate_per_second, adapted.reason.as_str());
        self.parts.metrics.adapted(reason);
        tracing::debug!(ledger = %self.parts.name, rate, reason, "the rate was adapted");
    }

    /// Stores those outcomes that this lane waits for, however often it has to try. Answers whether it did.
    async fn settle_group(&self, outcomes: Vec<(LedgerTxId, Outcome)>, stop: &CancellationToken) -> bool {
        let ours = outcomes.into_iter().filter_map(|(tx_id, outcome)| {
            let (tx, begun) = self.in_flight.told(&tx_id)?;
            if let Some(begun) = begun {
                self.pacing.told(begun, matches!(outcome, Outcome::Conflict(_)));
            }
            Some((tx, outcome))
        });
        let ours: Vec<_> = ours.collect();
        if ours.is_empty() {
            return true;
        }
        loop {
            let name = self.parts.name.as_str();
            match self.settle(&ours).await {
                Ok(()) => {
                    self.gate.store_worked(name);
                    return true;
                }
                Err(error) => {
                    self.gate.store_failed(name, &error);
                    // Trying again would not help, and others wait; the ledger is asked for these.
                    if matches!(error, StoreError::Damaged(_)) {
                        return false;
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(STORE_PAUSE) => self.in_flight.release_due(Instant::now()),
            }
        }
    }

    /// Stores the outcomes of submitted transactions in one commit.
    pub(super) async fn settle(&self, group: &[(Transaction, Outcome)]) -> Result<(), StoreError> {
        if group.is_empty() {
            return Ok(());
        }
        failpoint::reached("outcome-before-store");
        let mut group = Cow::Borrowed(group);
        for _ in 0..RACES {
            let now = self.parts.clock.now();
            let changes: Vec<_> = group
                .iter()
                .filter_map(|(old, outcome)| {
                    let new = self.legal(old.apply(self.verdict(old, outcome)?, now))?;
                    Some(Change {
                        old: old.clone(),
                        new,
                    })
                })
                .collect();
            let wanted = changes.len();
            let stored = self.store_changes(changes).await?;
            if stored.len() == wanted {
                return Ok(());
            }
            let mut moved = Vec::new();
            for (old, outcome) in group.iter() {
                if stored.iter().any(|new| new.id == old.id) {
                    continue;
                }
                if let Some(newer) = self.parts.store.get(old.id).await?
                    && let (Some(sent), Some(was)) = (newer.state.sent(), old.state.sent())
                    && sent.tx_id == was.tx_id
                {
                    moved.push((newer, outcome.clone()));
                }
            }
            group = Cow::Owned(moved);
        }
        Ok(())
    }

    /// The move that an outcome asks for; `None` if it says nothing final.
    pub(super) fn verdict(&self, tx: &Transaction, outcome: &Outcome) -> Option<Event> {
        match outcome {
            Outcome::Committed(receipt) => {
                let mut receipt = receipt.clone();
                // Some ledgers tell the contract's answer only while endorsing. Of a rewound transaction it may have
                // been an earlier copy that took effect, with an answer that nobody has any more.
                if receipt.result.is_none() && !tx.rewound {
                    receipt.result = tx.state.sent().and_then(|sent| sent.response.clone());
                }
                Some(Event::Committed { receipt })
            }
            Outcome::Conflict(cause) => {
                let retry_at = self.retry_at(tx, &self.course().retry.conflict, tx.conflicts + 1);
                Some(Event::Conflicted {
                    cause: cause.clone(),
                    retry_at,
                })
            }
            Outcome::Rejected(cause) => Some(Event::Rejected { cause: cause.clone() }),
            Outcome::Unavailable(_) | Outcome::Absent(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Stores changes in one commit, tells those that were made, and answers them in order.
    pub(super) async fn store_changes(&self, changes: Vec<Change>) -> Result<Vec<Transaction>, StoreError> {
        let news = store::swap(&*self.parts.store, changes).await?;
        for tx in &news {
            self.tell(tx);
            self.parts.hub.changed(tx);
        }
        Ok(news)
    }
}

/// The next group; never, while there is no subscription.
async fn next(current: &mut Option<Subscription>) -> Option<Settled> {
    match current {
        Some(subscription) => subscription.outcomes.next().await,
        None => std::future::pending().await,
    }
}
