//! Background care: what no request and no delivery would get to.
//!
//! - Transactions whose deadline passes while they wait in a long backlog fail as expired on time.
//! - Settled records, entries of the audit log, and the order in which records changed are removed when retention says so;
//!   records not, if [`crate::archive`] does it.
//! - Metric samples are folded, and the points of each lane's history taken.
//!
//! Each round starts from what the store says, so a crash, or a round that failed, needs no repair.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::RetentionSettings;
use crate::domain::{Event, LedgerName, Status, Timestamp};
use crate::failpoint;
use crate::notify::StatusHub;
use crate::store::{self, Change, StoreError, TransactionStore};
use crate::telemetry::history::INTERVAL;
use crate::telemetry::metrics::{LaneMetrics, Metrics};

const ROUND: Duration = Duration::from_secs(1);
/// Retention is not urgent: it removes little at a time, so that nobody waits for its commits.
const PRUNE_EVERY: u32 = 10;
/// In rounds: the interval of a lane's history.
const SAMPLE_EVERY: u32 = INTERVAL.as_secs() as u32;
const PRUNE_AT_ONCE: usize = 200;
const EXPIRE_AT_ONCE: usize = 500;
const FORGET_AT_ONCE: usize = 2_000;

/// What the reconciler works with.
pub struct Reconciler {
    /// The truth.
    pub store: Arc<dyn TransactionStore>,
    /// Who is told of changes.
    pub hub: Arc<StatusHub>,
    /// What operators did.
    pub audit: Audit,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long settled records are kept.
    pub retention: RetentionSettings,
    /// Whether somebody archives records, and removes them then.
    pub archives: bool,
    /// What is counted.
    pub metrics: Metrics,
    /// What is counted for each ledger.
    pub lanes: BTreeMap<LedgerName, LaneMetrics>,
}

impl Reconciler {
    /// Works until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut round = 0_u32;
        let mut waits = false;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.clock.sleep(ROUND) => {}
            }
            self.metrics.fold_samples();
            // Each commit of a round stands by itself, so a round may be cut off between any two.
            tokio::select! {
                () = stop.cancelled() => break,
                result = self.round(round.is_multiple_of(PRUNE_EVERY)) => match result {
                    Ok(()) => waits = false,
                    Err(error) => if !std::mem::replace(&mut waits, true) {
                        tracing::warn!(%error, "background care waits for the store");
                    },
                },
            }
            if round.is_multiple_of(SAMPLE_EVERY)
                && let Some(Err(error)) = stop.run_until_cancelled(self.sample()).await
            {
                tracing::debug!(%error, "the age of the backlog is not known");
            }
            round = round.wrapping_add(1);
        }
    }

    /// Notes how the lanes are.
    async fn sample(&self) -> Result<(), StoreError> {
        let (now, backlog) = (self.clock.now(), self.store.backlog());
        for (ledger, lane) in &self.lanes {
            lane.history
                .sample(now, backlog.get(ledger).copied().unwrap_or_default());
        }
        for (ledger, lane) in &self.lanes {
            let oldest = self.store.oldest_pending(ledger).await?;
            lane.oldest.set(oldest.map(|id| id.made_at()));
        }
        Ok(())
    }

    async fn round(&self, prune: bool) -> Result<(), StoreError> {
        // However few they are: the store gives less at once if they are large.
        while self.expire().await? > 0 {}
        if prune {
            let kept = [
                (Status::Done, self.retention.done),
                (Status::Failed, self.retention.failed),
            ];
            for (status, keep) in kept {
                if let Some(keep) = keep
                    && !self.archives
                {
                    let before = self.clock.now().minus(keep);
                    while self.prune(status, before).await? == PRUNE_AT_ONCE {}
                }
            }
            if let Some(keep) = self.retention.audit {
                let before = self.clock.now().minus(keep);
                while self.audit.prune(before, PRUNE_AT_ONCE).await? == PRUNE_AT_ONCE {}
            }
            let before = self.clock.now().minus(self.retention.events);
            while self.store.forget_changes(before, FORGET_AT_ONCE).await? >= FORGET_AT_ONCE {}
        }
        Ok(())
    }

    /// Removes what was settled long ago. Answers how many it removed.
    async fn prune(&self, status: Status, before: Timestamp) -> Result<usize, StoreError> {
        failpoint::reached("prune-before-store");
        let removed = self.store.prune(status, before, PRUNE_AT_ONCE).await?;
        if removed > 0 {
            failpoint::reached("prune-after-store");
        }
        Ok(removed)
    }

    /// Fails what waits past its deadline. Answers how many it failed.
    async fn expire(&self) -> Result<usize, StoreError> {
        let now = self.clock.now();
        let expired = self.store.expired(now, EXPIRE_AT_ONCE).await?;
        let changes: Vec<_> = expired
            .into_iter()
            .filter_map(|old| {
                let new = old.apply(Event::Expired, now).ok()?;
                Some(Change { old, new })
            })
            .collect();
        if changes.is_empty() {
            return Ok(0);
        }
        failpoint::reached("expire-before-store");
        let failed = store::swap(&*self.store, changes).await?;
        failpoint::reached("expire-after-store");
        for tx in &failed {
            if let Some(lane) = self.lanes.get(&tx.request.ledger) {
                lane.settled("expired", tx.updated_at.since(tx.created_at));
            }
            self.hub.changed(tx);
        }
        Ok(failed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, SystemClock};
    use crate::domain::Argument;
    use crate::kv::EngineKind;
    use crate::store::conformance::transaction;
    use crate::store::embedded::EmbeddedStore;

    /// The store gives a few of them at a time.
    #[tokio::test]
    async fn large_records_expire_in_one_round_as_small_ones_do() {
        let folder = tempfile::tempdir().expect("folder");
        let metrics = Metrics::new().expect("metrics");
        let path = folder.path().join("store");
        let store = EmbeddedStore::open(EngineKind::Redb, &path, 1 << 20, metrics.store()).expect("opens");
        for _ in 0..20 {
            let mut tx = transaction("main", None);
            let request = Arc::make_mut(&mut tx.request);
            request.args = vec![Argument::text(&"x".repeat(1 << 20))];
            request.expires_in_seconds = Some(1);
            store.insert(&tx).await.expect("inserts");
        }
        let store = Arc::new(store);
        let clock = Arc::new(ManualClock::new(SystemClock.now().plus(Duration::from_secs(60))));
        let reconciler = Reconciler {
            store: store.clone(),
            hub: Arc::default(),
            audit: Audit::new(store.clone(), clock.clone()),
            clock,
            retention: RetentionSettings {
                done: None,
                failed: None,
                audit: None,
                events: Duration::from_secs(3_600),
                deliveries: None,
            },
            archives: false,
            metrics,
            lanes: BTreeMap::new(),
        };
        reconciler.round(false).await.expect("works");
        assert_eq!(store.backlog().values().sum::<u64>(), 0);
    }
}
