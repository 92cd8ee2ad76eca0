//! A block: transactions in their final order, each with the verdict that validation gave it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::{Cause, LedgerTxId, Outcome, Receipt, Timestamp};
use crate::kv::KvError;

use super::envelope::Answer;

/// The verdict on one transaction, named as in Fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum ValidationCode {
    /// It took effect.
    Valid,
    /// Its identifier stands earlier in the chain; the verdict there counts.
    DuplicateTxid,
    /// A key it read has another version by now.
    MvccReadConflict,
    /// A range it queried holds other keys by now.
    PhantomReadConflict,
}

/// One transaction in a block.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The verdict.
    pub(super) code: ValidationCode,
    /// What the conflict was, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// The envelope as it was submitted.
    pub(super) envelope: Box<RawValue>,
}

impl Entry {
    /// What to tell about this entry; `None` for a duplicate, about which its original tells.
    ///
    /// # Errors
    /// [`KvError::Damaged`] if the envelope cannot be read.
    pub(super) fn outcome(&self, tx_id: &LedgerTxId, block: u64) -> Result<Option<Outcome>, KvError> {
        let conflict = |code: &str| {
            let detail = self.detail.as_deref().unwrap_or("what it read has changed");
            Some(Outcome::Conflict(Cause::new(
                code,
                format!("{detail} (block {block})"),
            )))
        };
        Ok(match self.code {
            ValidationCode::Valid => {
                let answer: Answer = serde_json::from_str(self.envelope.get()).map_err(|error| {
                    KvError::Damaged(format!("the envelope of {tx_id} cannot be read: {error}"))
                })?;
                Some(Outcome::Committed(Receipt {
                    tx_id: tx_id.clone(),
                    block,
                    result: answer.response,
                }))
            }
            ValidationCode::DuplicateTxid => None,
            ValidationCode::MvccReadConflict => conflict("MVCC_READ_CONFLICT"),
            ValidationCode::PhantomReadConflict => conflict("PHANTOM_READ_CONFLICT"),
        })
    }
}

/// A validated block.
#[derive(Debug)]
pub(super) struct Block {
    /// Its number; the first is 1.
    pub(super) number: u64,
    /// When it was cut.
    pub(super) cut_at: Timestamp,
    /// Its transactions in order, with their identifiers.
    pub(super) entries: Vec<(LedgerTxId, Entry)>,
    /// What it changes in the world state: engine keys and values, `None` for a removal.
    pub(super) changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What to report once it is durable.
    pub(super) outcomes: Vec<(LedgerTxId, Outcome)>,
}

/// What stands in the chain about a block as a whole.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    /// When it was cut.
    pub(super) cut_at: Timestamp,
    /// How many transactions it holds.
    pub(super) transactions: u32,
}
