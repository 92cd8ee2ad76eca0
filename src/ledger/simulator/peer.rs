//! The peer: executes calls against committed state, appends blocks, and knows whether the disk is well.
//!
//! Invariant: a call sees the state of one block, whole and durable. The commit lock is shared by calls and
//! taken alone by an append (an engine may show a batch before it is on the disk); while a block cannot be
//! stored nothing is executed, because its batch may be visible and still be lost in a crash.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};
use tokio_util::task::TaskTracker;

use crate::domain::Cause;
use crate::kv::KvError;
use crate::ledger::{PrepareError, QueryError};

use super::block::Block;
use super::chain::Chain;
use super::contracts::{self, ContractError, Function};
use super::effects::{Call, Executed};
use super::engine::Interference;
use super::stub::Stub;

/// Why a call was not executed.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The contract refuses it, or there is no such function.
    Rejected(Cause),
    /// The state cannot be read just now.
    Unavailable(Cause),
}

impl From<CallError> for PrepareError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Rejected(cause) => Self::Rejected(cause),
            CallError::Unavailable(cause) => Self::Unavailable(cause),
        }
    }
}

impl From<CallError> for QueryError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Rejected(cause) => Self::Rejected(cause),
            CallError::Unavailable(cause) => Self::Unavailable(cause),
        }
    }
}

/// The executing and committing half of the simulator.
pub(super) struct Peer {
    chain: Chain,
    commits: Arc<RwLock<()>>,
    /// Why blocks cannot be stored; `None` while all is well.
    trouble: watch::Sender<Option<Cause>>,
    height: watch::Sender<u64>,
    interference: Arc<dyn Interference>,
}

impl Peer {
    /// A peer over an opened chain.
    pub(super) fn new(chain: Chain, interference: Arc<dyn Interference>) -> Self {
        Self {
            height: watch::Sender::new(chain.height()),
            chain,
            commits: Arc::default(),
            trouble: watch::Sender::new(None),
            interference,
        }
    }

    /// The durable ledger.
    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The number of the last block, as it grows.
    pub(super) fn heights(&self) -> watch::Receiver<u64> {
        self.height.subscribe()
    }

    /// Why blocks cannot be stored just now, if so.
    pub(super) fn trouble(&self) -> Option<Cause> {
        self.trouble.borrow().clone()
    }

    /// Notes why blocks cannot be stored, or that they can again. Logs the change, not every try.
    pub(super) fn note(&self, trouble: Option<&KvError>) {
        let cause = trouble.map(disk_cause);
        let before = self.trouble.send_replace(cause);
        match (before, trouble) {
            (None, Some(error)) => {
                let block = self.chain.height() + 1;
                tracing::error!(ledger.kind = "simulator", block, %error,
                    "a block cannot be stored; trying until it can");
            }
            (Some(_), None) => {
                tracing::info!(ledger.kind = "simulator", "blocks are stored again");
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// Executes a call against committed state.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn execute(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        call: &Call,
    ) -> Result<Executed, CallError> {
        let function = contracts::find(&call.contract, &call.function)
            .map_err(|unknown| CallError::Rejected(Cause::new(unknown.code(), unknown.to_string())))?;
        let still = Arc::clone(&self.commits).read_owned().await;
        if let Some(cause) = self.trouble() {
            return Err(CallError::Unavailable(cause));
        }
        if !function.scans {
            // A few point reads, mostly from the engine's cache: cheaper than changing threads.
            return self.run(&still, function, call);
        }
        let (peer, call) = (Arc::clone(self), call.clone());
        tasks
            .spawn_blocking(move || peer.run(&still, function, &call))
            .await
            .unwrap_or_else(|error| {
                Err(CallError::Unavailable(Cause::new(
                    "EXECUTION_ABORTED",
                    format!("the call was not executed to its end: {error}"),
                )))
            })
    }

    fn run(
        &self,
        _still: &OwnedRwLockReadGuard<()>,
        function: &Function,
        call: &Call,
    ) -> Result<Executed, CallError> {
        let mut stub = Stub::new(&self.chain, &call.contract);
        match function.call(&mut stub, &call.args) {
            Ok(returned) => Ok(stub.finish(returned)),
            Err(ContractError::Refused(words)) => {
                Err(CallError::Rejected(Cause::new("CHAINCODE_ERROR", words)))
            }
            Err(ContractError::Storage(error)) => Err(CallError::Unavailable(disk_cause(&error))),
        }
    }

    /// Makes a block durable, then tells what it settles. Blocks; to be called again with the same block if
    /// it fails.
    ///
    /// # Errors
    /// [`KvError`]; nothing was told.
    pub(super) fn append(&self, block: &Block) -> Result<(), KvError> {
        let alone = self.commits.blocking_write();
        if let Err(error) = self.chain.append(block) {
            // Before the lock is free: the next call must not read what may not last.
            self.note(Some(&error));
            return Err(error);
        }
        self.note(None);
        drop(alone);
        self.interference.after_block();
        self.height.send_replace(block.number);
        Ok(())
    }
}

/// The cause to tell when the engine fails.
pub(super) fn disk_cause(error: &KvError) -> Cause {
    Cause::new("STORAGE_ERROR", format!("the simulator's storage fails: {error}"))
}
