//! A ledger that executes, orders and validates like Fabric, in this process.
//!
//! A call is executed against committed state ([`stub`]); what it read and wants to write becomes an
//! [`envelope`]; the [`orderer`] puts envelopes into blocks; [`validate`] lets those take effect whose
//! reads still hold; the [`chain`] stores a block with all that follows from it. Together they are the [`engine`],
//! which knows nothing of what is in an envelope; `devnet` runs it with Fabric's, in a process of its own.
//!
//! Invariants: a transaction id takes effect at most once; the valid transactions in block order are a
//! serial execution; an outcome is told only after its block is durable. A crash loses what no block holds
//! yet, and nothing else. Memory holds the waiting submissions and one block, never the history.

mod block;
mod chain;
mod contracts;
mod effects;
mod engine;
mod envelope;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod orderer;
mod peer;
mod replay;
mod state;
mod stub;
mod validate;

#[cfg(test)]
mod contract_tests;
#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod serial_tests;
#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::SimulatorSettings;
use crate::domain::{
    Argument, Cause, Checkpoint, LedgerTxId, Outcome, Prepared, Receipt, Request, SubmissionId,
};
use crate::kv::{KvEngine, KvError};

use super::{LedgerBackend, Outcomes, PrepareError, Query, QueryError, SubmitError, Unacceptable, as_json};

pub use chain::OpenError;

pub(crate) use block::{StoredBlock, ValidationCode};
pub(crate) use contracts::exists as contract_exists;
pub(crate) use effects::{Call, Effects, Executed, RangeRead};
pub(crate) use engine::{Engine, EngineParts, Interference, NotTaken, Undisturbed};
pub(crate) use peer::CallError;
pub(crate) use state::Version;
pub(crate) use validate::Claim;

use block::Settled;
use envelope::{Answer, Envelope};
use peer::disk_cause;

/// Who proposes all transactions of this gateway.
const CREATOR: &str = "SimulatorMSP/gateway";

/// The simulated ledger. Dropping it lets its orderer store what it holds and end.
pub struct SimulatorLedger {
    engine: Arc<Engine>,
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
        let engine = Engine::open(EngineParts {
            engine,
            genesis: Vec::new(),
            settings,
            clock,
            interference: Arc::new(Undisturbed),
            tasks: tasks.clone(),
            shutdown,
        })?;
        Ok(Self {
            engine: Arc::new(engine),
        })
    }

    /// Number of the last durable block; 0 before the first.
    pub fn height(&self) -> u64 {
        self.engine.height()
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

    fn identify(&self, submission: SubmissionId) -> LedgerTxId {
        identify(submission)
    }

    async fn prepare(&self, submission: SubmissionId, request: &Request) -> Result<Prepared, PrepareError> {
        // First, as a peer does it: an earlier copy may be the reason why the contract would refuse.
        let tx_id = self.identify(submission);
        match self.engine.settled(&tx_id) {
            Ok(None) => {}
            Ok(Some(_)) => return Err(PrepareError::AlreadyOnLedger(tx_id)),
            Err(error) => return Err(PrepareError::Unavailable(disk_cause(&error))),
        }
        let call = call(&request.contract, &request.function, &request.args);
        let executed = self.engine.execute(&call).await?;
        let response = executed.returned.and_then(|text| as_json(&text));
        let touched = executed.effects.touched(&call.contract);
        let envelope = Envelope::seal(submission.to_bytes(), CREATOR, call, executed.effects, response);
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
            touched: Some(touched),
        })
    }

    async fn ready(&self) -> Result<(), Cause> {
        Ok(())
    }

    async fn submit(&self, prepared: &Prepared) -> Result<(), SubmitError> {
        let rejected = |detail: String| SubmitError::Rejected(Cause::new("BAD_ENVELOPE", detail));
        let bytes = prepared.envelope.clone().into_bytes();
        let envelope = Envelope::open(&bytes).map_err(rejected)?;
        if envelope.tx_id != prepared.tx_id {
            return Err(rejected(format!(
                "the envelope is that of {}, not of {}",
                envelope.tx_id, prepared.tx_id
            )));
        }
        let claim = Claim::Endorsed {
            contract: envelope.call.contract,
            effects: envelope.effects,
        };
        self.engine
            .submit(envelope.tx_id, bytes, claim)
            .map_err(|refused| {
                let code = match refused {
                    NotTaken::Full => "ORDERER_FULL",
                    NotTaken::Stopped => "ORDERER_STOPPED",
                };
                SubmitError::Unavailable(Cause::new(code, refused.to_string()))
            })
    }

    fn outcomes(&self, from: Option<Checkpoint>) -> Outcomes {
        replay::outcomes(self.engine.peer(), from)
    }

    async fn lookup(&self, tx_id: &LedgerTxId) -> Outcome {
        let told = self.engine.settled(tx_id);
        match told.and_then(|settled| settled.as_ref().map(outcome).transpose()) {
            Ok(Some(outcome)) => outcome,
            // What waits for a block ends with this process, and so with whoever sent it.
            Ok(None) => Outcome::Absent(Cause::new("NOT_FOUND", "no block holds this transaction")),
            Err(error) => Outcome::Unavailable(disk_cause(&error)),
        }
    }

    async fn query(&self, query: &Query) -> Result<Box<RawValue>, QueryError> {
        let call = call(&query.contract, &query.function, &query.args);
        let executed = self.engine.execute(&call).await?;
        Ok(executed
            .returned
            .and_then(|text| as_json(&text))
            .unwrap_or_else(|| RawValue::NULL.to_owned()))
    }

    async fn probe(&self) -> Result<(), Cause> {
        self.engine.probe()
    }
}

/// The identifier of a submission: all gateways are the same one to it.
pub fn identify(submission: SubmissionId) -> LedgerTxId {
    envelope::identify(&submission.to_bytes(), CREATOR)
}

/// The verdict in the words of the seam.
///
/// # Errors
/// [`KvError::Damaged`] if the envelope cannot be read.
fn outcome(settled: &Settled) -> Result<Outcome, KvError> {
    let (entry, block) = (&settled.entry, settled.block);
    let code = entry.code.as_str_name();
    Ok(match entry.code {
        ValidationCode::Valid => {
            let answer: Answer = serde_json::from_slice(&entry.envelope).map_err(|error| {
                KvError::Damaged(format!("the envelope of {} cannot be read: {error}", entry.tx_id))
            })?;
            Outcome::Committed(Receipt {
                tx_id: entry.tx_id.clone(),
                block,
                code: Some(code.to_owned()),
                result: answer.response,
            })
        }
        ValidationCode::MvccReadConflict | ValidationCode::PhantomReadConflict => {
            let detail = entry.detail.as_deref().unwrap_or("what it read has changed");
            Outcome::Conflict(Cause::new(code, format!("{detail} (block {block})")))
        }
        _ => Outcome::Rejected(Cause::new(
            code,
            format!("the ledger found it invalid (block {block})"),
        )),
    })
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
