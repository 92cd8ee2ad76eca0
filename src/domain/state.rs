//! The state machine of a transaction: one function, [`State::apply`], that refuses illegal moves (I8).
//!
//! What has to happen next is derived from the stored state ([`State::due`]) and never kept beside it, so
//! a crash between "stored" and "done" cannot lose an effect: whoever reads the state knows what to do.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::outcome::{Cause, LedgerTxId, Prepared, Receipt};
use super::time::Timestamp;

/// A claim on a transaction for the short while in which it is prepared.
///
/// Leases save work; the version check keeps it correct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The worker that holds it; for people, nothing is decided by it.
    pub owner: String,
    /// When others may take over.
    pub until: Timestamp,
}

/// Why a transaction ended without effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// Its deadline passed while it waited for a try.
    Expired,
    /// The ledger or the contract refuses it.
    Rejected,
    /// It met conflicts as often as the policy allows.
    ConflictsExhausted,
    /// The ledger was out of reach as often as the policy allows.
    LedgerUnavailable,
    /// Somebody cancelled it before it was submitted.
    Cancelled,
}

impl FailureCode {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Expired,
        Self::Rejected,
        Self::ConflictsExhausted,
        Self::LedgerUnavailable,
        Self::Cancelled,
    ];

    /// The code as the API shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::ConflictsExhausted => "conflicts_exhausted",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the same request may well succeed if it is sent again.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::ConflictsExhausted | Self::LedgerUnavailable => true,
            Self::Expired | Self::Rejected | Self::Cancelled => false,
        }
    }
}

/// The end of a transaction without effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, in our words.
    pub code: FailureCode,
    /// Why, in a sentence.
    pub message: String,
    /// The ledger's own code, if the ledger decided.
    pub ledger_code: Option<String>,
}

/// Where a transaction stands. Each state carries exactly what is needed to go on from it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Durable, owned by nobody; to be picked up at `due_at`.
    Pending {
        /// Earliest moment of the next try.
        due_at: Timestamp,
    },
    /// A worker prepares it. Nothing was sent.
    Preparing {
        /// Who, and for how long.
        lease: Lease,
    },
    /// It may have reached the ledger.
    Submitted {
        /// The very bytes that were, or are about to be, sent.
        sent: Prepared,
        /// When to ask the ledger if no outcome has come by itself.
        check_at: Timestamp,
    },
    /// The ledger cannot tell and does not deduplicate: a person has to settle it (I3).
    Parked {
        /// The bytes that were sent.
        sent: Prepared,
        /// What is known.
        cause: Cause,
    },
    /// It took effect.
    Done {
        /// The proof.
        receipt: Receipt,
    },
    /// It ended without effect.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// The three statuses of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not settled yet.
    Pending,
    /// Took effect.
    Done,
    /// Ended without effect.
    Failed,
}

impl Status {
    /// All statuses.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Done, Self::Failed];

    /// The status as the API shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// How far a pending transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Waiting for its first try.
    Queued,
    /// Being endorsed or signed.
    Preparing,
    /// Sent, outcome awaited.
    Submitted,
    /// Waiting for another try.
    Backoff,
    /// Waiting for a person.
    Parked,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Preparing,
        Self::Submitted,
        Self::Backoff,
        Self::Parked,
    ];

    /// The stage as the API shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Submitted => "submitted",
            Self::Backoff => "backoff",
            Self::Parked => "parked",
        }
    }
}

/// Something that happened to a transaction.
#[derive(Debug, Clone)]
pub enum Event {
    /// A worker took it to prepare it.
    Claimed {
        /// Its claim.
        lease: Lease,
    },
    /// The lease ran out; whoever held it sent nothing, or its version check fails.
    LeaseLost {
        /// When it is due again.
        due_at: Timestamp,
    },
    /// Its deadline passed.
    Expired,
    /// Somebody wants it no more, and nothing of it is on its way.
    Cancelled {
        /// Who.
        by: String,
    },
    /// The prepared bytes; they are sent only after this is stored.
    Prepared {
        /// The bytes and the ledger's identifier.
        sent: Prepared,
        /// When to ask the ledger if nothing is heard.
        check_at: Timestamp,
    },
    /// The ledger could not be reached while preparing; `retry_at` is `None` when the budget is used up.
    Unavailable {
        /// What the ledger, or the network, said.
        cause: Cause,
        /// When to try again.
        retry_at: Option<Timestamp>,
    },
    /// A worker is about to ask the ledger what became of it.
    CheckClaimed {
        /// When the next one may ask.
        check_at: Timestamp,
    },
    /// It took effect.
    Committed {
        /// The proof.
        receipt: Receipt,
    },
    /// While it was prepared, the ledger said that it has this very submission already: the store went back in time.
    /// What became of it decides; until that is known nothing else is sent.
    FoundOnLedger {
        /// The submission.
        tx_id: LedgerTxId,
    },
    /// Those who endorse disagree, so nothing could be submitted; `retry_at` is `None` when the budget is used up.
    Disagreed {
        /// What they said.
        cause: Cause,
        /// When to try again, with the same submission.
        retry_at: Option<Timestamp>,
    },
    /// The submission is on the ledger as invalid for good; `retry_at` is `None` when the budget is used up.
    Conflicted {
        /// The ledger's verdict.
        cause: Cause,
        /// When to try again with a fresh submission.
        retry_at: Option<Timestamp>,
    },
    /// The ledger or the contract refuses it for good.
    Rejected {
        /// The ledger's verdict.
        cause: Cause,
    },
    /// The ledger cannot tell what became of it, and sending it again might do it twice.
    Unresolvable {
        /// What is known.
        cause: Cause,
    },
}

impl Event {
    /// A short name for messages and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "claimed",
            Self::LeaseLost { .. } => "lease_lost",
            Self::Expired => "expired",
            Self::Cancelled { .. } => "cancelled",
            Self::Prepared { .. } => "prepared",
            Self::Unavailable { .. } => "unavailable",
            Self::CheckClaimed { .. } => "check_claimed",
            Self::Committed { .. } => "committed",
            Self::FoundOnLedger { .. } => "found_on_ledger",
            Self::Disagreed { .. } => "disagreed",
            Self::Conflicted { .. } => "conflicted",
            Self::Rejected { .. } => "rejected",
            Self::Unresolvable { .. } => "unresolvable",
        }
    }
}

/// A move that the state machine does not know.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a transaction that is {state} cannot be {event}")]
pub struct IllegalTransition {
    /// Where it stands.
    pub state: &'static str,
    /// What was asked of it.
    pub event: &'static str,
}

impl State {
    /// The state after `event`. This function is the only way to a new state.
    ///
    /// # Errors
    /// [`IllegalTransition`] for every pair that is not listed in it; the record stays as it was.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "over events: one that is not listed is refused"
    )]
    pub fn apply(&self, event: Event) -> Result<Self, IllegalTransition> {
        match self {
            Self::Pending { .. } => match event {
                Event::Claimed { lease } => Ok(Self::Preparing { lease }),
                Event::Expired => Ok(Self::expired()),
                Event::Cancelled { by } => Ok(Self::cancelled(&by)),
                other => Err(self.illegal(&other)),
            },
            Self::Preparing { lease } => match event {
                Event::Prepared { sent, check_at } => Ok(Self::Submitted { sent, check_at }),
                Event::LeaseLost { due_at } => Ok(Self::Pending { due_at }),
                Event::Unavailable { cause, retry_at } => {
                    Ok(Self::retried(FailureCode::LedgerUnavailable, cause, retry_at))
                }
                Event::Disagreed { cause, retry_at } => {
                    Ok(Self::retried(FailureCode::ConflictsExhausted, cause, retry_at))
                }
                Event::FoundOnLedger { .. } => Ok(Self::Preparing { lease: lease.clone() }),
                // Of one that had to be asked about first.
                Event::Expired => Ok(Self::expired()),
                // Whoever prepares it loses the version check, and sends nothing.
                Event::Cancelled { by } => Ok(Self::cancelled(&by)),
                // Nothing was sent from this record; these are about what was found on the ledger, or a refusal.
                other => self.settle(other),
            },
            Self::Submitted { sent, .. } => match event {
                Event::CheckClaimed { check_at } => Ok(Self::Submitted {
                    sent: sent.clone(),
                    check_at,
                }),
                Event::Unresolvable { cause } => Ok(Self::Parked {
                    sent: sent.clone(),
                    cause,
                }),
                other => self.settle(other),
            },
            Self::Parked { .. } => self.settle(event),
            Self::Done { .. } | Self::Failed { .. } => Err(self.illegal(&event)),
        }
    }

    /// The verdicts that end a submission, wherever it stood.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "over events: one that is not listed is refused"
    )]
    fn settle(&self, event: Event) -> Result<Self, IllegalTransition> {
        match event {
            Event::Committed { receipt } => Ok(Self::Done { receipt }),
            Event::Conflicted { cause, retry_at } => {
                Ok(Self::retried(FailureCode::ConflictsExhausted, cause, retry_at))
            }
            Event::Rejected { cause } => Ok(Self::rejected(cause)),
            other => Err(self.illegal(&other)),
        }
    }

    fn illegal(&self, event: &Event) -> IllegalTransition {
        IllegalTransition {
            state: self.name(),
            event: event.name(),
        }
    }

    fn retried(exhausted: FailureCode, cause: Cause, retry_at: Option<Timestamp>) -> Self {
        match retry_at {
            Some(due_at) => Self::Pending { due_at },
            None => Self::failed(
                exhausted,
                format!("no tries left; the last one ended with {cause}"),
                Some(cause.code),
            ),
        }
    }

    fn expired() -> Self {
        let message = "its deadline passed before it took effect".to_owned();
        Self::failed(FailureCode::Expired, message, None)
    }

    fn cancelled(by: &str) -> Self {
        let message = format!("cancelled by {by} before it was submitted");
        Self::failed(FailureCode::Cancelled, message, None)
    }

    fn rejected(cause: Cause) -> Self {
        Self::failed(FailureCode::Rejected, cause.message, Some(cause.code))
    }

    fn failed(code: FailureCode, message: String, ledger_code: Option<String>) -> Self {
        Self::Failed {
            failure: Failure {
                code,
                message,
                ledger_code,
            },
        }
    }

    /// The status that the API shows for this state.
    pub fn status(&self) -> Status {
        match self {
            Self::Pending { .. } | Self::Preparing { .. } | Self::Submitted { .. } | Self::Parked { .. } => {
                Status::Pending
            }
            Self::Done { .. } => Status::Done,
            Self::Failed { .. } => Status::Failed,
        }
    }

    /// When a worker has to look at it next; `None` if only an outcome, a person or nobody does.
    pub fn due(&self) -> Option<Timestamp> {
        match self {
            Self::Pending { due_at } => Some(*due_at),
            Self::Preparing { lease } => Some(lease.until),
            Self::Submitted { check_at, .. } => Some(*check_at),
            Self::Parked { .. } | Self::Done { .. } | Self::Failed { .. } => None,
        }
    }

    /// The submission that may be on its way, if there is one.
    pub fn sent(&self) -> Option<&Prepared> {
        match self {
            Self::Submitted { sent, .. } | Self::Parked { sent, .. } => Some(sent),
            Self::Pending { .. } | Self::Preparing { .. } | Self::Done { .. } | Self::Failed { .. } => None,
        }
    }

    /// A short name for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Preparing { .. } => "preparing",
            Self::Submitted { .. } => "submitted",
            Self::Parked { .. } => "parked",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
        }
    }
}
