//! What a ledger can say about a submission: five cases, and nothing in between.

use std::collections::BTreeSet;
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

/// Where a ledger's stream of outcomes goes on: the next block to read. Means something to the backend that
/// made it, and to nobody else but that a later one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checkpoint(pub u64);

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
    /// The keys it reads and writes, if this ledger tells. In a stored record they are with the attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touched: Option<ReadWriteSet>,
}

/// The keys that a submission reads and writes, spelled `contract/key`. Those that another one in the same
/// block writes too are what conflicts come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadWriteSet {
    /// Keys it read, sorted, each once.
    pub reads: Vec<String>,
    /// Keys it wants to write or delete, sorted, each once.
    pub writes: Vec<String>,
    /// There are more than are kept.
    pub truncated: bool,
}

impl ReadWriteSet {
    /// How many keys are kept, of both kinds together.
    pub const MAX_KEYS: usize = 256;
    /// How many bytes all kept keys may have: a record keeps up to 32 attempts.
    pub const MAX_BYTES: usize = 16 << 10;

    /// The set of these keys, in any order. If there are too many, the first writes are kept, then the first
    /// reads; what is past the bounds is not looked at.
    pub fn new(reads: impl IntoIterator<Item = String>, writes: impl IntoIterator<Item = String>) -> Self {
        let (mut keys, mut bytes, mut truncated) = (Self::MAX_KEYS, Self::MAX_BYTES, false);
        let mut keep = |found: &mut dyn Iterator<Item = String>| {
            let mut kept = BTreeSet::new();
            for key in found {
                if kept.contains(&key) {
                    continue;
                }
                if keys == 0 || bytes < key.len() {
                    truncated = true;
                    break;
                }
                keys -= 1;
                bytes -= key.len();
                kept.insert(key);
            }
            kept.into_iter().collect()
        };
        let writes = keep(&mut writes.into_iter());
        let reads = keep(&mut reads.into_iter());
        Self {
            reads,
            writes,
            truncated,
        }
    }
}

/// Proof that a transaction took effect.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Receipt {
    /// The submission that took effect.
    pub tx_id: LedgerTxId,
    /// The block it stands in.
    pub block: u64,
    /// The ledger's name for this verdict, such as Fabric's `VALID`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
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
/// Confusing `Unavailable` with `Unknown` pays twice, and so does taking `Unknown` for `Absent`, so a backend that is not
/// certain says `Unknown`.
#[derive(Debug, Clone)]
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
    /// Whoever was asked has all that anybody is known to have, and does not have it. Unless it is still on its way, it
    /// will not take effect.
    Absent(Cause),
    /// It may or may not take effect: a timeout, a lost reply, nobody who could tell.
    Unknown(Cause),
}
