//! The engine: executes calls, orders what comes of them, and validates it, whatever the envelopes look like.
//!
//! The ledger in this process and `devnet` are two faces of it. An envelope is bytes to it, kept in the chain as
//! they came; what it validates are the effects that its caller reads from them.

use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::SimulatorSettings;
use crate::domain::{Cause, LedgerTxId};
use crate::kv::{KvEngine, KvError};

use super::block::{Settled, StoredBlock};
use super::chain::{Chain, OpenError};
use super::effects::{Call, Executed};
use super::orderer::{INBOX, Orderer};
use super::peer::{CallError, Peer, disk_cause};
use super::validate::{Claim, Submission};

/// What may come between the steps of the engine, so that a crash or a pause can be put exactly there.
#[async_trait]
pub(crate) trait Interference: Send + Sync + 'static {
    /// The transactions of a block are chosen; it is neither validated nor stored. What lasts is cut short by a
    /// shutdown.
    async fn before_block(&self);

    /// A block is durable, and nobody has been told.
    fn after_block(&self);
}

/// Nothing comes between.
pub(crate) struct Undisturbed;

#[async_trait]
impl Interference for Undisturbed {
    async fn before_block(&self) {}

    fn after_block(&self) {}
}

/// Why a submission was not taken. It is not in the chain, and will not get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum NotTaken {
    /// Too many wait already.
    #[error("{INBOX} submissions wait for a block already")]
    Full,
    /// It ends.
    #[error("the simulator is shut down")]
    Stopped,
}

/// What an engine works with.
pub(crate) struct EngineParts {
    /// Where the chain is.
    pub(crate) engine: Box<dyn KvEngine>,
    /// The envelope of block 0, if the chain is new.
    pub(crate) genesis: Vec<u8>,
    /// How blocks are cut.
    pub(crate) settings: SimulatorSettings,
    /// The time.
    pub(crate) clock: Arc<dyn Clock>,
    /// What comes between.
    pub(crate) interference: Arc<dyn Interference>,
    /// Where its tasks run.
    pub(crate) tasks: TaskTracker,
    /// Once it is cancelled, no more submissions are taken, those taken are stored, and the engine ends.
    pub(crate) shutdown: CancellationToken,
}

/// A running engine. Dropping it lets its orderer store what it holds and end.
pub(crate) struct Engine {
    peer: Arc<Peer>,
    inbox: mpsc::Sender<Submission>,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
}

impl Engine {
    /// Opens the chain, or starts a new one, and starts the orderer. Blocks on the disk; has to be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(crate) fn open(parts: EngineParts) -> Result<Self, OpenError> {
        let chain = Chain::open(parts.engine, &parts.genesis)?;
        let peer = Arc::new(Peer::new(chain, Arc::clone(&parts.interference)));
        let (inbox, received) = mpsc::channel(INBOX);
        let orderer = Orderer {
            inbox: received,
            peer: Arc::clone(&peer),
            settings: parts.settings,
            clock: Arc::clone(&parts.clock),
            tasks: parts.tasks.clone(),
            shutdown: parts.shutdown,
            interference: parts.interference,
        };
        parts.tasks.spawn(orderer.run());
        Ok(Self {
            peer,
            inbox,
            clock: parts.clock,
            tasks: parts.tasks,
        })
    }

    /// Number of the last durable block; 0 before the first.
    pub(crate) fn height(&self) -> u64 {
        self.peer.chain().height()
    }

    /// The same, as it grows.
    pub(crate) fn heights(&self) -> watch::Receiver<u64> {
        self.peer.heights()
    }

    /// Executes a call against committed state. Nothing is written.
    ///
    /// # Errors
    /// [`CallError`].
    pub(crate) async fn execute(&self, call: &Call) -> Result<Executed, CallError> {
        self.peer.execute(&self.tasks, call).await
    }

    /// Hands a transaction to the orderer. `Ok` means that it was taken; a crash may still lose it.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) fn submit(&self, tx_id: LedgerTxId, envelope: Vec<u8>, claim: Claim) -> Result<(), NotTaken> {
        let submission = Submission {
            tx_id,
            envelope,
            claim,
            arrived: self.clock.now(),
        };
        self.inbox.try_send(submission).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => NotTaken::Full,
            mpsc::error::TrySendError::Closed(_) => NotTaken::Stopped,
        })
    }

    /// The final word on a transaction; `None` if no durable block holds it.
    ///
    /// # Errors
    /// [`KvError`].
    pub(crate) fn settled(&self, tx_id: &LedgerTxId) -> Result<Option<Settled>, KvError> {
        self.peer.chain().settled(tx_id)
    }

    /// A durable block; `None` if there is none of this number yet. Block 0 has no transactions.
    ///
    /// # Errors
    /// [`KvError`].
    pub(crate) async fn block(&self, number: u64) -> Result<Option<StoredBlock>, KvError> {
        let peer = Arc::clone(&self.peer);
        let read = self.tasks.spawn_blocking(move || peer.chain().block(number));
        read.await
            .unwrap_or_else(|error| Err(KvError::Disk(error.to_string())))
    }

    /// The envelope of block 0.
    ///
    /// # Errors
    /// [`KvError`].
    pub(crate) fn genesis(&self) -> Result<Vec<u8>, KvError> {
        self.peer.chain().genesis()
    }

    /// Whether submissions would be taken and stored now.
    ///
    /// # Errors
    /// The cause, if they would not.
    pub(crate) fn probe(&self) -> Result<(), Cause> {
        if self.inbox.is_closed() {
            return Err(Cause::new("ORDERER_STOPPED", NotTaken::Stopped.to_string()));
        }
        if let Some(cause) = self.peer.trouble() {
            return Err(cause);
        }
        self.peer.chain().probe().map_err(|error| disk_cause(&error))
    }

    /// What executes and appends.
    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    #[cfg(test)]
    pub(super) fn inbox(&self) -> &mpsc::Sender<Submission> {
        &self.inbox
    }
}
