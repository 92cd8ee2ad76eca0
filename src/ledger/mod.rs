//! The seam to a ledger.
//!
//! Order of a submission: [`prepare`](LedgerBackend::prepare) makes the bytes and the ledger's identifier;
//! the worker stores both; only then [`submit`](LedgerBackend::submit) sends them. A crash anywhere finds
//! either nothing sent, or an identifier to look up and the very bytes to send again (I2).

pub mod fabric;
pub mod simulator;

#[cfg(test)]
pub(crate) mod conformance;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::domain::{
    Argument, Cause, Checkpoint, LedgerTxId, Outcome, Prepared, Request, SubmissionId, Timestamp,
};

/// Why a request can never work on this ledger: told to the caller before anything is stored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{pointer}: {detail}")]
pub struct Unacceptable {
    /// JSON Pointer of the field at fault, such as `/contract`.
    pub pointer: &'static str,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// Why preparing failed. In every case nothing was sent.
#[derive(Debug, Clone, Error)]
pub enum PrepareError {
    /// The contract or the ledger refuses the call for good.
    #[error("rejected: {0}")]
    Rejected(Cause),
    /// Those who endorse see different states of what it reads, which a moment later is over.
    #[error("conflict: {0}")]
    Conflict(Cause),
    /// This request cannot be prepared now, for a reason that does not concern others; try later.
    #[error("postponed: {0}")]
    Postponed(Cause),
    /// The ledger could not be reached or is not ready; try later.
    #[error("unavailable: {0}")]
    Unavailable(Cause),
    /// The ledger has this very submission already, valid or not: whoever asks has forgotten that it was sent.
    /// [`LedgerBackend::lookup`] tells what became of it.
    #[error("{0} is on the ledger already")]
    AlreadyOnLedger(LedgerTxId),
}

/// Why sending failed.
#[derive(Debug, Clone, Error)]
pub enum SubmitError {
    /// These bytes can never take effect, neither from this call nor from an earlier one.
    #[error("rejected: {0}")]
    Rejected(Cause),
    /// This call certainly sent nothing.
    #[error("unavailable: {0}")]
    Unavailable(Cause),
    /// It may have been sent. Everything that is not certain belongs here.
    #[error("unknown: {0}")]
    Unknown(Cause),
}

/// Why a query has no answer.
#[derive(Debug, Clone, Error)]
pub enum QueryError {
    /// The contract or the ledger refuses the call.
    #[error("rejected: {0}")]
    Rejected(Cause),
    /// The ledger could not be reached; try later.
    #[error("unavailable: {0}")]
    Unavailable(Cause),
}

/// A read-only contract call, answered by the ledger at once and never queued.
#[derive(Debug, Clone)]
pub struct Query {
    /// The contract to call.
    pub contract: String,
    /// The function of that contract.
    pub function: String,
    /// The arguments in order.
    pub args: Vec<Argument>,
}

/// What a ledger settled at once, such as a block.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Final outcomes. May be empty: then only the checkpoint is news.
    pub outcomes: Vec<(LedgerTxId, Outcome)>,
    /// Where to go on once these and all before them are stored; `None` if this ledger cannot resume.
    pub checkpoint: Option<Checkpoint>,
}

/// What a ledger settles, in its order. It is read no faster than it can be stored, so a backend has to hold
/// back, or drop what look-ups find.
pub type Outcomes = BoxStream<'static, Settled>;

/// One ledger.
///
/// Every method may be called concurrently, and every future dropped: a dropped `submit` counts as
/// [`SubmitError::Unknown`], a dropped `prepare` as never called.
#[async_trait]
pub trait LedgerBackend: Send + Sync + 'static {
    /// The kind in the configuration file, such as `simulator`.
    fn kind(&self) -> &'static str;

    /// Checks, without asking the ledger, what can be known to be wrong.
    ///
    /// # Errors
    /// [`Unacceptable`] names the field and the remedy.
    fn check(&self, request: &Request) -> Result<(), Unacceptable>;

    /// Our own certificates that are in use, by the setting that names the file, and when each ends.
    fn certificates(&self) -> Vec<(&'static str, Timestamp)> {
        Vec::new()
    }

    /// The contract that a call means if it names none.
    fn default_contract(&self) -> Option<&str> {
        None
    }

    /// Whether the ledger lets a submission with one identifier take effect at most once, so that the
    /// same bytes may be sent again. If not, what cannot be looked up is parked.
    fn deduplicates(&self) -> bool;

    /// The identifier that this submission has on the ledger, if it is there or will be. It follows from the
    /// submission and from who we are.
    fn identify(&self, submission: SubmissionId) -> LedgerTxId;

    /// Endorses or signs a request. Sends nothing that could take effect. The identifier is the one that
    /// [`identify`](Self::identify) tells, however often a submission is prepared.
    ///
    /// # Errors
    /// [`PrepareError`]; [`PrepareError::AlreadyOnLedger`] if those who endorse know the identifier, whatever else is
    /// wrong with the request.
    async fn prepare(&self, submission: SubmissionId, request: &Request) -> Result<Prepared, PrepareError>;

    /// Waits until a submission could leave at once: connected, for one. What is to leave at a certain moment must not
    /// wait for that afterwards.
    ///
    /// # Errors
    /// Why nothing can be sent.
    async fn ready(&self) -> Result<(), Cause>;

    /// Sends prepared bytes. `Ok` means that the ledger took them, not that they took effect: that comes
    /// through [`outcomes`](Self::outcomes) or [`lookup`](Self::lookup).
    ///
    /// # Errors
    /// [`SubmitError`].
    async fn submit(&self, prepared: &Prepared) -> Result<(), SubmitError>;

    /// Outcomes of all that was settled since the group that told the checkpoint `from`, and from now on;
    /// without one, or if this ledger cannot resume, from now on: of what is submitted after its first group none
    /// should be missed. [`Outcome::Committed`], [`Outcome::Conflict`] and [`Outcome::Rejected`] only.
    ///
    /// Submissions of others may be among them, and outcomes may be told more than once. The stream may miss
    /// some (a slow reader, a lost connection); `lookup` finds those. A ledger that resumes tells an empty
    /// group with a checkpoint as soon as it knows where it begins. A checkpoint past its end (the ledger was
    /// set up anew) means from now on.
    fn outcomes(&self, from: Option<Checkpoint>) -> Outcomes;

    /// What became of one submission, as far as one question tells. [`Outcome::Unknown`] if there is no final word on it
    /// yet, or nobody who could tell. Asked of whatever is overdue, so it has to be cheap.
    async fn lookup(&self, tx_id: &LedgerTxId) -> Outcome;

    /// The same, at whatever it costs to tell [`Outcome::Absent`] from [`Outcome::Unknown`]. The former has to be certain:
    /// it is what lets a transaction of a restored store fail.
    async fn search(&self, tx_id: &LedgerTxId) -> Outcome {
        self.lookup(tx_id).await
    }

    /// Runs a read-only call.
    ///
    /// # Errors
    /// [`QueryError`].
    async fn query(&self, query: &Query) -> Result<Box<RawValue>, QueryError>;

    /// Asks whether the ledger would take submissions now.
    ///
    /// # Errors
    /// The cause, if it would not.
    async fn probe(&self) -> Result<(), Cause>;
}

/// What a contract returned, as JSON: itself if it is JSON, else a JSON string.
pub(crate) fn as_json(text: &str) -> Option<Box<RawValue>> {
    match RawValue::from_string(text.to_owned()) {
        Ok(json) => Some(json),
        Err(_) => serde_json::value::to_raw_value(text).ok(),
    }
}
