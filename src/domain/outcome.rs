//! What a ledger can say about a submission: five cases, and nothing in between.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The ledger's own identifier of one submission, known before anything is sent.
///
/// Fabric: hex of SHA-256(nonce ‖ creator). Ethereum: the hash of the signed transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LedgerTxId(pub String);

impl fmt::Display for LedgerTxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An endorsed or signed submission, ready to be sent, and sent again, byte for byte.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prepared {
    /// How the ledger will know it.
    pub tx_id: LedgerTxId,
    /// The signed envelope as the backend encodes it; opaque to everybody else. Kept as text so that a
    /// stored record can be read by a person.
    pub envelope: String,
    /// What the contract answered while endorsing, if this ledger tells it this early.
    pub response: Option<Box<RawValue>>,
}

/// Proof that a transaction took effect.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receipt {
    /// The submission that took effect.
    pub tx_id: LedgerTxId,
    /// The block it stands in.
    pub block: u64,
    /// What the contract returned, if it returned anything.
    pub result: Option<Box<RawValue>>,
}

/// Why a submission had no effect, in the ledger's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The ledger's code, such as `MVCC_READ_CONFLICT`.
    pub code: String,
    /// One sentence for a person.
    pub message: String,
}

impl Cause {
    /// A cause from its two parts.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// What became of a submission.
///
/// Confusing `Unavailable` with `Unknown` pays twice, so a backend that is not certain says `Unknown`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It took effect.
    Committed(Receipt),
    /// It is on record as invalid because what it read has changed since. It can never take effect; a
    /// fresh attempt may succeed.
    Conflict(Cause),
    /// The ledger refuses it for good. It can never take effect.
    Rejected(Cause),
    /// This call certainly sent nothing (and learned nothing).
    Unavailable(Cause),
    /// It may or may not take effect: a timeout, a lost reply, an identifier the ledger has not seen.
    Unknown(Cause),
}
