//! The orderer: one task that puts submissions in order, cuts blocks and has them validated and stored.
//!
//! Invariants: blocks are appended one at a time, in order; a block that the disk refuses is kept and tried
//! again, unchanged, until it is stored. What waits in the inbox is lost in a crash, which is what a real
//! orderer that dies before consensus does too: callers look it up and send it again. A shutdown stores
//! what was taken before it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::kv::KvError;

use super::engine::Interference;
use super::peer::Peer;
use super::validate::{Submission, validate};
use crate::config::SimulatorSettings;

/// Submissions that may wait for a block; beyond that the orderer is unavailable.
pub(super) const INBOX: usize = 4096;

/// Between two tries to store a block.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The ordering task.
pub(super) struct Orderer {
    pub(super) inbox: mpsc::Receiver<Submission>,
    pub(super) peer: Arc<Peer>,
    pub(super) settings: SimulatorSettings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    pub(super) interference: Arc<dyn Interference>,
}

/// The orderer has to end; what it held is lost.
struct Stopped;

impl Orderer {
    /// Works until the shutdown, then stores what it still holds.
    pub(super) async fn run(mut self) {
        loop {
            let first = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {
                    // Nothing more comes in; the inbox ends where it is empty.
                    self.inbox.close();
                    self.inbox.recv().await
                }
                first = self.inbox.recv() => first,
            };
            let Some(first) = first else { break };
            let block = self.fill(first).await;
            let transactions = block.len();
            if self.settle(block).await.is_err() {
                self.inbox.close();
                let lost = transactions + self.inbox.len();
                tracing::warn!(
                    ledger.kind = "simulator",
                    lost,
                    "stopped with unstored submissions"
                );
                break;
            }
        }
    }

    /// Collects a block: until it is full, or the batch timeout has passed since its first transaction
    /// arrived, as in Fabric.
    async fn fill(&mut self, first: Submission) -> Vec<Submission> {
        let waited = self.clock.now().since(first.arrived);
        let clock = Arc::clone(&self.clock);
        let timeout = clock.sleep(self.settings.batch_timeout.saturating_sub(waited));
        tokio::pin!(timeout);
        let mut block = vec![first];
        while block.len() < self.settings.max_message_count.get() as usize {
            tokio::select! {
                biased;
                next = self.inbox.recv() => match next {
                    Some(next) => block.push(next),
                    None => break,
                },
                () = self.shutdown.cancelled() => break,
                () = &mut timeout => break,
            }
        }
        block
    }

    /// Validates a block once, then stores it. Validating it again after a failed commit could take its
    /// own transactions, stored after all, for duplicates.
    async fn settle(&self, submissions: Vec<Submission>) -> Result<(), Stopped> {
        tokio::select! {
            biased;
            () = self.interference.before_block() => {}
            () = self.shutdown.cancelled() => {}
        }
        let cut_at = self.clock.now();
        let submissions = Arc::new(submissions);
        let block = self
            .until_done(move |peer| validate(peer.chain(), &submissions, cut_at))
            .await?;
        let block = Arc::new(block);
        self.until_done(move |peer| peer.append(&block)).await
    }

    /// Runs `job` on a blocking thread until the disk lets it succeed.
    async fn until_done<T: Send + 'static>(
        &self,
        job: impl Fn(&Peer) -> Result<T, KvError> + Clone + Send + 'static,
    ) -> Result<T, Stopped> {
        loop {
            let (peer, try_once) = (Arc::clone(&self.peer), job.clone());
            let error = match self.tasks.spawn_blocking(move || try_once(&peer)).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(ended) if ended.is_cancelled() => return Err(Stopped),
                // An engine that panics has failed like one that says so.
                Err(panicked) => KvError::Disk(panicked.to_string()),
            };
            self.peer.note(Some(&error));
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(Stopped),
                () = self.clock.sleep(RETRY_PAUSE) => {}
            }
        }
    }
}
