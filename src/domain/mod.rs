//! The pure heart: what a transaction is and which moves it may make.
//!
//! No tokio, no I/O, no clock, no random numbers: time and chance come in as arguments, so every rule
//! here can be tested by calling a function. Everything else in the crate depends on this module; it
//! depends on nothing of ours.
#![warn(clippy::wildcard_enum_match_arm)]

mod argument;
mod outcome;
mod request;
mod retry;
mod state;
mod tenant;
mod time;
mod transaction;

pub use argument::{Argument, ArgumentError, MAX_DEPTH};
pub use outcome::{Cause, Checkpoint, LedgerTxId, Outcome, Prepared, ReadWriteSet, Receipt};
pub use request::{Fingerprint, LedgerName, Request};
pub use retry::{Decision, DelayStrategy, RetryPolicy, RetrySettings};
pub use state::{Event, Failure, FailureCode, IllegalTransition, Lease, Stage, State, Status};
pub use tenant::{Action, Origin, TenantName};
pub use time::Timestamp;
pub use transaction::{
    Attempt, AttemptOutcome, Ending, MAX_HISTORY, SubmissionId, Transaction, TransactionId,
};
