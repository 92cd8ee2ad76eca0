//! Moves what retention is about to remove into the archive: read, write, read back, then remove.
//!
//! Nothing is removed but what was read back and found right, and of that only what did not change since. While the archive
//! or the store is away, everything stays where it is. A crash, or a round that failed, needs no repair: the next round
//! begins with the same records.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::portion::pack;
use super::storage::Archive;
use super::turn::Turn;
use super::{ArchiveError, Show, blocking};
use crate::clock::Clock;
use crate::config::{ArchiveSettings, RetentionSettings};
use crate::domain::{Status, Timestamp, Transaction};
use crate::failpoint;
use crate::store::TransactionStore;
use crate::store::documents::DocumentStore;
use crate::telemetry::metrics::ArchiveMetrics;

/// How often it looks for what is due; after a failure the distance doubles, up to the longest.
const ROUND: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
/// Before the first round.
const START: Duration = Duration::from_secs(1);

/// The most records in one object; fewer if they are large.
const PORTION: usize = 2_000;
/// So many are removed in one commit, which others wait for; then they have a moment for themselves.
const REMOVE_AT_ONCE: usize = 200;
const BREATH: Duration = Duration::from_millis(20);

/// A step takes less, unless a disk that is mounted from elsewhere hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What an archivist works with.
pub struct ArchivistParts {
    /// The records.
    pub store: Arc<dyn TransactionStore>,
    /// What is beside them, if other processes may use the same store.
    pub shared: Option<Arc<dyn DocumentStore>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where the archive is.
    pub settings: ArchiveSettings,
    /// How long settled records are kept.
    pub retention: RetentionSettings,
    /// How a record is shown.
    pub show: Show,
    /// What is counted.
    pub metrics: ArchiveMetrics,
}

/// Archives and removes what retention no longer keeps.
pub struct Archivist {
    parts: ArchivistParts,
    turn: Option<Turn>,
    /// Open since it was found to work; `None` before, and after a failure.
    archive: Option<Archive>,
}

impl Archivist {
    /// One that has not begun.
    pub fn new(parts: ArchivistParts) -> Self {
        parts.metrics.available.set(1.0);
        let turn = parts.shared.clone().map(Turn::new);
        Self {
            parts,
            turn,
            archive: None,
        }
    }

    /// With an archive that is open already.
    #[cfg(test)]
    pub(super) fn with(parts: ArchivistParts, archive: Archive) -> Self {
        Self {
            archive: Some(archive),
            ..Self::new(parts)
        }
    }

    /// Works until `stop`. It may be cut off between any two steps.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut wait, mut fails) = (START, false);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.parts.clock.sleep(wait) => {}
            }
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.round() => ended,
            };
            let failed = ended.is_err();
            match ended {
                Ok(()) if fails => tracing::info!("records are archived again"),
                Ok(()) => {}
                Err(error) if !fails => {
                    tracing::error!(%error, "records cannot be archived, and none is removed until they can");
                }
                Err(error) => tracing::debug!(%error, "records still cannot be archived"),
            }
            wait = match failed {
                true => (wait.max(ROUND / 2) * 2).min(LONGEST),
                false => ROUND,
            };
            self.parts.metrics.available.set(if failed { 0.0 } else { 1.0 });
            if failed {
                self.parts.metrics.failures.increment(1);
            }
            fails = failed;
        }
    }

    /// Archives all that is due, unless that is another one's turn.
    pub(super) async fn round(&mut self) -> Result<(), ArchiveError> {
        let ended = self.work().await;
        if matches!(ended, Err(ArchiveError::Away(_) | ArchiveError::Damaged(_))) {
            self.archive = None;
        }
        ended
    }

    async fn work(&mut self) -> Result<(), ArchiveError> {
        let archive = match &self.archive {
            Some(archive) => archive.clone(),
            None => {
                // Better known at the start than when the first record is due.
                let settings = self.parts.settings.clone();
                let archive = in_time(blocking(move || Archive::open(&settings))).await?;
                in_time(archive.probe()).await?;
                self.archive.insert(archive).clone()
            }
        };
        let kept = [
            (Status::Done, self.parts.retention.done),
            (Status::Failed, self.parts.retention.failed),
        ];
        for (status, keep) in kept {
            let Some(keep) = keep else { continue };
            let before = self.parts.clock.now().minus(keep);
            let gathered = before.minus(self.parts.settings.gather);
            // What waits for others is not read again and again.
            let oldest = self.parts.store.settled_before(status, gathered, 1).await?;
            if !oldest.is_empty() {
                while self.portion(&archive, status, before).await? > 0 {}
            }
        }
        Ok(())
    }

    /// Archives and removes one portion. Answers how many records are removed.
    async fn portion(
        &self,
        archive: &Archive,
        status: Status,
        before: Timestamp,
    ) -> Result<usize, ArchiveError> {
        let (store, show) = (&self.parts.store, self.parts.show);
        if let Some(turn) = &self.turn
            && !turn.take(self.parts.clock.now()).await?
        {
            return Ok(0);
        }
        let records: Arc<[Transaction]> = store.settled_before(status, before, PORTION).await?.into();
        failpoint::reached("archive-before-put");
        let packing = records.clone();
        let Some(portion) = blocking(move || pack(packing.iter().collect(), show)).await? else {
            return Ok(0);
        };
        in_time(archive.put(&portion)).await?;
        failpoint::reached("archive-before-verify");
        in_time(archive.verify(&portion.name)).await?;
        failpoint::reached("archive-before-remove");
        self.parts.metrics.objects.increment(1);
        let mut removed = 0;
        for piece in records.chunks(REMOVE_AT_ONCE) {
            removed += store.remove_settled(piece).await?;
            tokio::time::sleep(BREATH).await;
        }
        self.parts.metrics.records.increment(removed as u64);
        Ok(removed)
    }
}

/// The end of a step, if it comes.
async fn in_time<T>(step: impl Future<Output = Result<T, ArchiveError>>) -> Result<T, ArchiveError> {
    let late = |_| ArchiveError::Away(format!("the archive did not answer in {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, step).await.map_err(late)?
}
