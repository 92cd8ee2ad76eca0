//! The record: one transaction, its version and a bounded history of its attempts.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::outcome::{LedgerTxId, ReadWriteSet};
use super::request::{Fingerprint, Request};
use super::state::{Event, IllegalTransition, Stage, State, Status};
use super::tenant::{Action, Origin, TenantName};
use super::time::Timestamp;

/// How many attempts a record remembers; older ones are dropped, the counters keep counting.
pub const MAX_HISTORY: usize = 32;

/// How many actions of people a record remembers.
const MAX_ACTIONS: usize = 16;

/// UUIDv7: unique, and ordered by the moment of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TransactionId(Uuid);

impl TransactionId {
    /// Not above any other.
    pub const LOWEST: Self = Self::from_bytes([0; 16]);
    /// Not below any other.
    pub const HIGHEST: Self = Self::from_bytes([u8::MAX; 16]);

    /// A fresh identifier. Those made by one process are strictly increasing.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The identifier stored in these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The 16 bytes, whose order is the order of acceptance.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Whether it is one that [`new`](Self::new) could have made.
    pub fn is_time_ordered(&self) -> bool {
        self.0.get_version_num() == 7
    }

    /// The smallest identifier that could have been made at `moment`.
    pub fn lowest_at(moment: Timestamp) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&moment.as_millis().to_be_bytes()[2..]);
        Self(Uuid::from_bytes(bytes))
    }

    /// When it was made.
    pub fn made_at(&self) -> Timestamp {
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&self.as_bytes()[..6]);
        Timestamp::from_millis(u64::from_be_bytes(millis))
    }
}

/// Names one submission of one record, for good: a ledger's own identifier follows from it and from who we are, and
/// from nothing else. So whoever prepares the same submission again, from a store that went back in time even, makes
/// the same identifier, which the ledger lets take effect once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubmissionId {
    /// The record.
    pub record: TransactionId,
    /// How many of its submissions are on the ledger as invalid: 0 for the first.
    pub number: u64,
}

impl SubmissionId {
    /// That of no record. What a ledger would call it tells one identity of ours from another.
    pub const NONE: Self = Self {
        record: TransactionId::LOWEST,
        number: 0,
    };

    /// How many bytes [`to_bytes`](Self::to_bytes) makes.
    pub const BYTES: usize = 24;

    /// The record, then the number, big-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (record, number) = bytes.split_at_mut(16);
        record.copy_from_slice(self.record.as_bytes());
        number.copy_from_slice(&self.number.to_be_bytes());
        bytes
    }
}

impl Default for TransactionId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TransactionId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self)
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// It took effect.
    Committed,
    /// The ledger called it invalid because of a conflict.
    Conflict,
    /// The ledger or the contract refused it.
    Rejected,
    /// The ledger could not be reached; nothing was sent.
    Unavailable,
    /// The worker lost its lease before anything was sent.
    Abandoned,
    /// The ledger cannot tell.
    Unknown,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When it was known.
    pub at: Timestamp,
    /// How.
    pub outcome: AttemptOutcome,
    /// The ledger's code, if it gave one.
    pub code: Option<String>,
    /// A sentence for a person.
    pub message: Option<String>,
}

/// One try to get the transaction onto the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When a worker claimed it.
    pub started_at: Timestamp,
    /// The ledger's identifier; `None` if it was never prepared.
    pub tx_id: Option<LedgerTxId>,
    /// When it was about to be sent.
    pub sent_at: Option<Timestamp>,
    /// The keys it reads and writes, if the ledger told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touched: Option<ReadWriteSet>,
    /// How it ended; `None` while it runs.
    pub ending: Option<Ending>,
}

/// A transaction as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transaction {
    /// Its identifier.
    pub id: TransactionId,
    /// 1 when accepted, one more with every change: what compare-and-swap compares.
    pub version: u64,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "TenantName::is_default")]
    pub tenant: TenantName,
    /// What was asked for.
    pub request: Arc<Request>,
    /// The caller's idempotency key, with the digest of the request it came with.
    pub idempotency: Option<(String, Fingerprint)>,
    /// Who brought it.
    #[serde(default, skip_serializing_if = "Origin::is_unknown")]
    pub origin: Origin,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it last changed; once it is settled, when that was.
    pub updated_at: Timestamp,
    /// Where it stands.
    pub state: State,
    /// How many attempts were begun.
    pub attempts: u32,
    /// How many ended in a conflict: the conflict budget.
    pub conflicts: u32,
    /// How many ended with the ledger out of reach: the outage budget.
    pub outages: u32,
    /// How many of its submissions are on the ledger as invalid for good. Only the ledger's own word on a submission
    /// raises it, never an outage, a lost lease or endorsers that disagree: see [`SubmissionId`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub submissions_ended: u64,
    /// The store went back in time (an old backup was restored), so the ledger may know more of this transaction than
    /// this record does. It fails only after the ledger was asked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rewound: bool,
    /// The last [`MAX_HISTORY`] attempts, oldest first.
    pub history: Vec<Attempt>,
    /// What people did to it, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<Action>,
}

impl Transaction {
    /// A newly accepted transaction of nobody in particular, due at once or as the request says.
    pub fn accept(request: Request, idempotency_key: Option<String>, now: Timestamp) -> Self {
        let idempotency = idempotency_key.map(|key| (key, request.fingerprint()));
        let due_at = request.not_before.map_or(now, |moment| moment.max(now));
        Self {
            id: TransactionId::new(),
            version: 1,
            tenant: TenantName::default(),
            request: Arc::new(request),
            idempotency,
            origin: Origin::default(),
            created_at: now,
            updated_at: now,
            state: State::Pending { due_at },
            attempts: 0,
            conflicts: 0,
            outages: 0,
            submissions_ended: 0,
            rewound: false,
            history: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// What its idempotency key is stored as, over all tenants.
    pub fn idempotency_entry(&self) -> Option<Cow<'_, str>> {
        self.idempotency.as_ref().map(|(key, _)| self.tenant.scoped(key))
    }

    /// The idempotency key that a retry of this transaction has, so that there is one retry of it, however often it is
    /// asked for. No caller's key begins with a space.
    pub fn retry_key(&self) -> String {
        format!(" retry {}", self.id)
    }

    /// The submission to prepare next, or the one that is under way.
    pub fn submission(&self) -> SubmissionId {
        SubmissionId {
            record: self.id,
            number: self.submissions_ended,
        }
    }

    /// The record after `event`, one version on.
    ///
    /// # Errors
    /// [`IllegalTransition`] if the state machine knows no such move.
    pub fn apply(&self, mut event: Event, now: Timestamp) -> Result<Self, IllegalTransition> {
        let mut next = Self {
            state: State::Pending { due_at: now },
            ..self.clone()
        };
        next.note(&mut event, now);
        next.state = self.state.apply(event)?;
        next.version = self.version + 1;
        next.updated_at = now;
        if next.status() == Status::Done && !next.request.transient.is_empty() {
            Arc::make_mut(&mut next.request).transient.clear();
        }
        Ok(next)
    }

    /// [`apply`](Self::apply), of what a person did.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn act(&self, event: Event, action: Action) -> Result<Self, IllegalTransition> {
        let mut next = self.apply(event, action.at)?;
        if next.actions.len() == MAX_ACTIONS {
            next.actions.remove(0);
        }
        next.actions.push(action);
        Ok(next)
    }

    /// Keeps counters and history in step with what happened. Moves what the history keeps out of the event.
    fn note(&mut self, event: &mut Event, now: Timestamp) {
        let (outcome, code, message) = match event {
            Event::Claimed { .. } => {
                self.attempts += 1;
                if self.history.len() == MAX_HISTORY {
                    self.history.remove(0);
                }
                self.history.push(Attempt {
                    number: self.attempts,
                    started_at: now,
                    tx_id: None,
                    sent_at: None,
                    touched: None,
                    ending: None,
                });
                return;
            }
            Event::Prepared { sent, .. } => {
                let touched = sent.touched.take();
                if let Some(attempt) = self.history.last_mut() {
                    attempt.touched = touched;
                    attempt.tx_id = Some(sent.tx_id.clone());
                    attempt.sent_at = Some(now);
                }
                return;
            }
            Event::FoundOnLedger { tx_id } => {
                self.rewound = true;
                if let Some(attempt) = self.history.last_mut() {
                    attempt.tx_id = Some(tx_id.clone());
                }
                return;
            }
            Event::Expired | Event::CheckClaimed { .. } => return,
            // One that is being prepared has an attempt that comes to nothing.
            Event::Cancelled { .. } if self.history.last().is_none_or(|a| a.ending.is_some()) => return,
            Event::Cancelled { .. } => (AttemptOutcome::Abandoned, None, None),
            Event::LeaseLost { .. } => (AttemptOutcome::Abandoned, None, None),
            Event::Unavailable { cause, .. } => {
                self.outages += 1;
                (
                    AttemptOutcome::Unavailable,
                    Some(&cause.code),
                    Some(&cause.message),
                )
            }
            Event::Disagreed { cause, .. } => {
                self.conflicts += 1;
                (AttemptOutcome::Conflict, Some(&cause.code), Some(&cause.message))
            }
            Event::Conflicted { cause, .. } => {
                self.conflicts += 1;
                self.submissions_ended += 1;
                (AttemptOutcome::Conflict, Some(&cause.code), Some(&cause.message))
            }
            Event::Committed { receipt } => (AttemptOutcome::Committed, receipt.code.as_ref(), None),
            Event::Rejected { cause } => (AttemptOutcome::Rejected, Some(&cause.code), Some(&cause.message)),
            Event::Unresolvable { cause } => {
                (AttemptOutcome::Unknown, Some(&cause.code), Some(&cause.message))
            }
        };
        if let Some(attempt) = self.history.last_mut() {
            attempt.ending = Some(Ending {
                at: now,
                outcome,
                code: code.cloned(),
                message: message.cloned(),
            });
        }
    }

    /// Pending, done or failed.
    pub fn status(&self) -> Status {
        self.state.status()
    }

    /// How far it is, while it is pending.
    pub fn stage(&self) -> Option<Stage> {
        match &self.state {
            State::Pending { .. } if self.attempts == 0 => Some(Stage::Queued),
            State::Pending { .. } => Some(Stage::Backoff),
            State::Preparing { .. } => Some(Stage::Preparing),
            State::Submitted { .. } => Some(Stage::Submitted),
            State::Parked { .. } => Some(Stage::Parked),
            State::Done { .. } | State::Failed { .. } => None,
        }
    }

    /// When its latest attempt was first sent, if it was.
    pub fn sent_at(&self) -> Option<Timestamp> {
        self.history.last().and_then(|attempt| attempt.sent_at)
    }

    /// Whether it has reached its end.
    pub fn is_settled(&self) -> bool {
        self.status() != Status::Pending
    }

    /// Whether a worker has to look at it now. A first try is due whatever the clock said when it was accepted:
    /// it may have been set back since.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.state
            .due()
            .is_some_and(|due| self.is_first_try() || due <= now)
    }

    /// Whether no worker has looked at it before and it did not ask to wait.
    pub fn is_first_try(&self) -> bool {
        self.attempts == 0 && self.request.not_before.is_none()
    }

    /// The moment past which it no further try is begun.
    pub fn expires_at(&self) -> Option<Timestamp> {
        let seconds = self.request.expires_in_seconds?;
        Some(
            self.created_at
                .plus(std::time::Duration::from_secs(u64::from(seconds))),
        )
    }

    /// The moment past which it fails without the ledger being asked, if it waits.
    pub fn expires_unasked_at(&self) -> Option<Timestamp> {
        self.expires_at().filter(|_| !self.rewound)
    }

    /// The ledger's identifier of the submission that counts: the one that took effect or is under way,
    /// else the last one tried.
    pub fn ledger_tx_id(&self) -> Option<&LedgerTxId> {
        if let State::Done { receipt } = &self.state {
            return Some(&receipt.tx_id);
        }
        self.history.iter().rev().find_map(|a| a.tx_id.as_ref())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
#[path = "transaction_tests.rs"]
mod tests;
