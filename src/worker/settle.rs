//! What the ledger said, stored and told.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::Lane;
use crate::domain::{AttemptOutcome, Event, Outcome, State, Transaction};
use crate::ledger::Outcomes;
use crate::store::{self, Change, StoreError};

/// How often entries whose check is due are let go.
const SWEEP: Duration = Duration::from_millis(500);

/// A record moves under an outcome only when a check is claimed at the same moment, which is rare; whoever
/// loses this often leaves it to the next check.
const RACES: usize = 3;

impl Lane {
    /// Settles outcomes as they come, until `stop`.
    pub(super) async fn settle_outcomes(self: Arc<Self>, mut outcomes: Outcomes, stop: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut open = true;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = sweep.tick() => self.in_flight.release_due(),
                group = outcomes.next(), if open => match group {
                    Some(group) => {
                        let ours = group
                            .into_iter()
                            .filter_map(|(tx_id, outcome)| Some((self.in_flight.take(&tx_id)?, outcome)));
                        // What could not be stored, the ledger is asked for again.
                        if let Err(error) = self.settle(ours.collect()).await {
                            self.gate.store_failed(self.parts.name.as_str(), &error);
                        }
                    }
                    // Checks find the outcomes from now on.
                    None => {
                        tracing::error!(ledger = %self.parts.name, "the ledger tells no outcomes any more; it is asked for each");
                        open = false;
                    }
                },
            }
        }
    }

    /// Stores the outcomes of submitted transactions in one commit.
    pub(super) async fn settle(&self, mut group: Vec<(Transaction, Outcome)>) -> Result<(), StoreError> {
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
            for (old, outcome) in group {
                if stored.iter().any(|new| new.id == old.id) {
                    continue;
                }
                if let Some(newer) = self.parts.store.get(old.id).await?
                    && let (Some(sent), Some(was)) = (newer.state.sent(), old.state.sent())
                    && sent.tx_id == was.tx_id
                {
                    moved.push((newer, outcome));
                }
            }
            group = moved;
        }
        Ok(())
    }

    fn verdict(&self, tx: &Transaction, outcome: &Outcome) -> Option<Event> {
        match outcome {
            Outcome::Committed(receipt) => {
                let mut receipt = receipt.clone();
                // Some ledgers tell the contract's answer only while endorsing.
                if receipt.result.is_none() {
                    receipt.result = tx.state.sent().and_then(|sent| sent.response.clone());
                }
                Some(Event::Committed { receipt })
            }
            Outcome::Conflict(cause) => {
                let retry_at = self.retry_at(&self.parts.retry.conflict, tx.conflicts + 1);
                Some(Event::Conflicted {
                    cause: cause.clone(),
                    retry_at,
                })
            }
            Outcome::Rejected(cause) => Some(Event::Rejected { cause: cause.clone() }),
            Outcome::Unavailable(_) | Outcome::Unknown(_) => None,
        }
    }

    /// Stores changes in one commit, counts and tells those that were made, and answers them in order.
    pub(super) async fn store_changes(&self, changes: Vec<Change>) -> Result<Vec<Transaction>, StoreError> {
        let news = store::swap(&*self.parts.store, changes).await?;
        for tx in &news {
            self.count(tx);
            self.parts.hub.changed(tx);
        }
        Ok(news)
    }

    fn count(&self, tx: &Transaction) {
        let metrics = &self.parts.metrics;
        let ending = tx
            .history
            .last()
            .and_then(|attempt| Some((attempt.sent_at, attempt.ending.as_ref()?)));
        let conflicted = ending.is_some_and(|(_, ending)| ending.outcome == AttemptOutcome::Conflict);
        if let Some((Some(sent_at), ending)) = ending
            && ending.at == tx.updated_at
        {
            metrics
                .commit_latency
                .record(ending.at.since(sent_at).as_secs_f64());
            if conflicted {
                metrics.conflicts.increment(1);
            }
        }
        let outcome = match &tx.state {
            State::Done { .. } => "done",
            State::Failed { failure } => failure.code.as_str(),
            State::Pending { .. } => return metrics.retried(if conflicted { "conflict" } else { "outage" }),
            State::Parked { .. } => return metrics.parked.increment(1),
            State::Preparing { .. } | State::Submitted { .. } => return,
        };
        metrics.settled(outcome, tx.updated_at.since(tx.created_at));
        tracing::debug!(tx.id = %tx.id, outcome, attempts = tx.attempts, "settled");
    }
}
