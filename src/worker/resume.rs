//! Taking up a lane: what it waits for, from where it listens, and how far it has come.
//!
//! With each consumer that it gets, after a restart or trouble with the queue, and once more when that consumer is given
//! something for the first time after standing by, a lane reads the stored checkpoint, adopts what the store says is
//! submitted, and subscribes from that checkpoint. So what was settled while nobody listened is told again to one who
//! waits for it, and needs no look-up. A check that is due is put off for a moment, so that the ledger is not asked for
//! what it is about to tell.
//!
//! The rule: the checkpoint passes a group of outcomes once all are stored that this lane waited for.
//! - A group that the store does not take is tried again until it does; what comes after it waits.
//! - If the store is damaged there, the checkpoint stands still until the lane subscribes again.
//! - A lane that may have been replaced moves no checkpoint.
//!
//! A crash loses up to a second of checkpoints: some outcomes are told again, to nobody. Whatever the stream
//! misses, and whatever is not adopted, is found by its check.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::Lane;
use crate::domain::{Checkpoint, Event};
use crate::failpoint;
use crate::ledger::Outcomes;
use crate::queue::Tenure;
use crate::store::{Change, StoreError};

/// How long a due check is put off: a replay of some seconds' blocks takes less.
const REPLAY: Duration = Duration::from_secs(2);

/// How often the checkpoint is stored at most.
const EVERY: Duration = Duration::from_secs(1);

/// The end of a drain does not wait longer for a store that is away.
const FAREWELL: Duration = Duration::from_secs(2);

/// A stream of outcomes, and the right to say how far it was stored.
pub(super) struct Subscription {
    pub(super) outcomes: Outcomes,
    pub(super) tenure: Tenure,
}

impl Lane {
    /// Adopts and subscribes; who `listens` already subscribes again only for what was adopted. To be called before
    /// anything is sent.
    pub(super) async fn resume(
        &self,
        tenure: &Tenure,
        listens: bool,
    ) -> Result<Option<Subscription>, StoreError> {
        let parts = &self.parts;
        let from = parts.store.checkpoint(&parts.name).await?;
        let adopted = self.adopt(from.is_some()).await?;
        Ok((adopted > 0 || !listens).then(|| Subscription {
            outcomes: parts.ledger.outcomes(from),
            tenure: tenure.clone(),
        }))
    }

    /// Waits for what is submitted and not waited for yet. Each holds a slot, as long as there are any. Answers how many
    /// there were.
    async fn adopt(&self, is_replayed: bool) -> Result<usize, StoreError> {
        let parts = &self.parts;
        let settings = self.settings();
        let (most, check_after) = (settings.max_in_flight.get(), settings.check_after);
        let submitted = parts.store.submitted(&parts.name, most as usize).await?;
        let now = parts.clock.now();
        let check_at = now.plus(REPLAY.min(check_after));
        let (mut adopted, mut put_off) = (Vec::new(), Vec::new());
        for tx in submitted {
            let awaited = tx
                .state
                .sent()
                .is_none_or(|sent| self.in_flight.awaits(&sent.tx_id));
            match tx.state.due() {
                _ if awaited => {}
                Some(due) if due >= check_at || (due > now && !is_replayed) => adopted.push(tx),
                _ if is_replayed => put_off.extend(
                    self.legal(tx.apply(Event::CheckClaimed { check_at }, now))
                        .map(|new| Change { old: tx, new }),
                ),
                // Nothing will tell it, and its check is due.
                _ => {}
            }
        }
        if !put_off.is_empty() {
            failpoint::reached("adopt-before-store");
            adopted.extend(self.store_changes(put_off).await?);
            failpoint::reached("adopt-after-store");
        }
        let count = adopted.len();
        for tx in adopted {
            let slot = self.slots.try_take();
            let at_most = self.until_check(&tx, now);
            self.in_flight.adopt(tx, slot, at_most);
        }
        Ok(count)
    }

    /// Stores the checkpoint that was reached, about once a second and a last time when nobody moves it any
    /// more. It has its own pace so that settling never waits for it.
    pub(super) async fn keep_checkpoint(&self, mut reached: watch::Receiver<Option<Checkpoint>>) {
        let mut stored = None;
        loop {
            let is_over = timeout(EVERY, reached.wait_for(|_| false)).await.is_ok();
            let now = *reached.borrow();
            if let Some(to) = now.filter(|_| now > stored) {
                failpoint::reached("checkpoint-before-store");
                let advance = self.parts.store.advance_checkpoint(&self.parts.name, to);
                match if is_over {
                    timeout(FAREWELL, advance).await
                } else {
                    Ok(advance.await)
                } {
                    Ok(Ok(())) => {
                        failpoint::reached("checkpoint-after-store");
                        stored = now;
                    }
                    Ok(Err(error)) => {
                        tracing::debug!(ledger = %self.parts.name, %error, "the checkpoint is not stored");
                    }
                    Err(_) => {
                        tracing::debug!(ledger = %self.parts.name, "the checkpoint was not stored in time")
                    }
                }
            }
            if is_over {
                return;
            }
        }
    }
}
