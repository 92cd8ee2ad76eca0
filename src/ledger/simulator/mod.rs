//! A ledger that executes, orders and validates like Fabric, in this process or in one of its own.
//!
//! A call is executed against committed state ([`stub`]); what it read and wants to write becomes an
//! [`envelope`]; the [`orderer`] puts envelopes into blocks; [`validate`] lets those take effect whose
//! reads still hold; the [`chain`] stores a block with all that follows from it. [`mod@serve`] offers a ledger
//! to other processes, and [`remote`] is the ledger that they see.
//!
//! Invariants: a transaction id takes effect at most once; the valid transactions in block order are a
//! serial execution; an outcome is told only after its block is durable. A crash loses what no block holds
//! yet, and nothing else. Memory holds the waiting submissions and one block, never the history.

mod block;
mod chain;
mod contracts;
mod envelope;
mod orderer;
mod peer;
mod remote;
mod serve;
mod state;
mod stub;
mod subscription;
mod validate;
mod wire;

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod remote_tests;
#[cfg(test)]
mod serial_tests;
#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::SimulatorSettings;
use crate::domain::{Argument, Cause, LedgerTxId, Outcome, Prepared, Request};
use crate::kv::KvEngine;

use super::{LedgerBackend, Outcomes, PrepareError, Query, QueryError, SubmitError, Unacceptable};

pub use chain::OpenError;
pub use remote::{RemoteError, RemoteSimulator};
pub use serve::{router, serve};

use chain::Chain;
use envelope::{Call, Envelope, NONCE_BYTES, to_json};
use orderer::{INBOX, Orderer};
use peer::{Peer, disk_cause};
use validate::Submission;

/// Who proposes all transactions of this gateway.
const CREATOR: &str = "SimulatorMSP/gateway";

/// The simulated ledger. Dropping it lets its orderer store what it holds and end.
pub struct SimulatorLedger {
    peer: Arc<Peer>,
    inbox: mpsc::Sender<Submission>,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
}

impl SimulatorLedger {
    /// Opens the ledger in `engine`, or starts a new one, and starts its orderer on `tasks`. Once
    /// `shutdown` is cancelled it takes no more submissions, stores those it took, and ends. Blocks on the
    /// disk; has to be called within a tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        engine: Box<dyn KvEngine>,
        settings: SimulatorSettings,
        clock: Arc<dyn Clock>,
        tasks: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, OpenError> {
        let peer = Arc::new(Peer::new(Chain::open(engine)?));
        let (inbox, received) = mpsc::channel(INBOX);
        let orderer = Orderer {
            inbox: received,
            peer: Arc::clone(&peer),
            settings,
            clock: Arc::clone(&clock),
            tasks: tasks.clone(),
            shutdown,
        };
        tasks.spawn(orderer.run());
        Ok(Self {
            peer,
            inbox,
            clock,
            tasks: tasks.clone(),
        })
    }

    /// Number of the last durable block; 0 before the first.
    pub fn height(&self) -> u64 {
        self.peer.chain().height()
    }
}

#[async_trait]
impl LedgerBackend for SimulatorLedger {
    fn kind(&self) -> &'static str {
        "simulator"
    }

    fn check(&self, request: &Request) -> Result<(), Unacceptable> {
        check(request)
    }

    fn deduplicates(&self) -> bool {
        true
    }

    async fn prepare(&self, request: &Request) -> Result<Prepared, PrepareError> {
        let call = call(&request.contract, &request.function, &request.args);
        let (returned, effects) = self.peer.execute(&self.tasks, &call).await?;
        let response = returned.and_then(to_json);
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let envelope = Envelope::seal(nonce, CREATOR, call, effects, response);
        let text = serde_json::to_string(&envelope).map_err(|error| {
            PrepareError::Rejected(Cause::new(
                "ENDORSEMENT_ERROR",
                format!("the envelope cannot be encoded: {error}"),
            ))
        })?;
        Ok(Prepared {
            tx_id: envelope.tx_id,
            envelope: text,
            response: envelope.response,
        })
    }

    async fn submit(&self, prepared: &Prepared) -> Result<(), SubmitError> {
        let rejected = |detail: String| SubmitError::Rejected(Cause::new("BAD_ENVELOPE", detail));
        let text: Box<RawValue> = serde_json::from_str(&prepared.envelope)
            .map_err(|error| rejected(format!("the envelope is not JSON: {error}")))?;
        let envelope = Envelope::open(&text).map_err(rejected)?;
        if envelope.tx_id != prepared.tx_id {
            return Err(rejected(format!(
                "the envelope is that of {}, not of {}",
                envelope.tx_id, prepared.tx_id
            )));
        }
        let submission = Submission {
            text,
            envelope,
            arrived: self.clock.now(),
        };
        self.inbox.try_send(submission).map_err(|refused| {
            SubmitError::Unavailable(match refused {
                mpsc::error::TrySendError::Full(_) => Cause::new(
                    "ORDERER_FULL",
                    format!("{INBOX} submissions wait for a block already"),
                ),
                mpsc::error::TrySendError::Closed(_) => stopped(),
            })
        })
    }

    fn outcomes(&self) -> Outcomes {
        // A reader that lags gets an error for what it missed; lookups find that.
        BroadcastStream::new(self.peer.subscribe())
            .filter_map(async |block| block.ok().map(|block| block.as_ref().clone()))
            .boxed()
    }

    async fn lookup(&self, tx_id: &LedgerTxId) -> Outcome {
        match self.peer.chain().verdict(tx_id) {
            Ok(Some(outcome)) => outcome,
            Ok(None) => Outcome::Unknown(Cause::new("NOT_FOUND", "no block holds this transaction")),
            Err(error) => Outcome::Unavailable(disk_cause(&error)),
        }
    }

    async fn query(&self, query: &Query) -> Result<Box<RawValue>, QueryError> {
        let call = call(&query.contract, &query.function, &query.args);
        let (returned, _dropped) = self.peer.execute(&self.tasks, &call).await?;
        Ok(returned
            .and_then(to_json)
            .unwrap_or_else(|| RawValue::NULL.to_owned()))
    }

    async fn probe(&self) -> Result<(), Cause> {
        if self.inbox.is_closed() {
            return Err(stopped());
        }
        if let Some(cause) = self.peer.trouble() {
            return Err(cause);
        }
        self.peer.chain().probe().map_err(|error| disk_cause(&error))
    }
}

/// Whether there is such a contract and function. The contracts are built in, so every process knows them.
fn check(request: &Request) -> Result<(), Unacceptable> {
    match contracts::find(&request.contract, &request.function) {
        Ok(_) => Ok(()),
        Err(unknown) => Err(Unacceptable {
            pointer: unknown.pointer(),
            detail: unknown.to_string(),
        }),
    }
}

fn call(contract: &str, function: &str, args: &[Argument]) -> Call {
    Call {
        contract: contract.to_owned(),
        function: function.to_owned(),
        args: args.iter().map(|arg| arg.ledger_text().into_owned()).collect(),
    }
}

fn stopped() -> Cause {
    Cause::new("ORDERER_STOPPED", "the simulator is shut down")
}
