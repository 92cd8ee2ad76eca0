//! A block: transactions in their final order, each with the verdict that validation gave it.
//!
//! The engine does not look into an envelope: its bytes are kept and given back as they came.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::domain::{LedgerTxId, Timestamp};
use crate::fabric::block::{Hash, data_hash, header_hash};
use crate::kv::KvError;

/// The verdict on one transaction.
pub(crate) use crate::fabric::proto::protos::TxValidationCode as ValidationCode;

/// One transaction in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its identifier.
    pub(crate) tx_id: LedgerTxId,
    /// The verdict.
    pub(crate) code: ValidationCode,
    /// What the conflict was, for a person.
    pub(crate) detail: Option<String>,
    /// When it reached the orderer.
    pub(crate) arrived_at: Timestamp,
    /// The envelope as it was submitted.
    pub(crate) envelope: Vec<u8>,
}

impl Entry {
    /// The bytes in the chain: the code, the time of arrival, detail and identifier with their lengths, the
    /// envelope.
    pub(super) fn encode(&self) -> Vec<u8> {
        let detail = self.detail.as_deref().unwrap_or_default();
        let texts = [detail, &self.tx_id.0];
        let mut bytes = Vec::with_capacity(17 + detail.len() + self.tx_id.0.len() + self.envelope.len());
        bytes.push(u8::try_from(self.code as i32).unwrap_or(u8::MAX));
        bytes.extend_from_slice(&self.arrived_at.as_millis().to_be_bytes());
        for text in texts {
            bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&self.envelope);
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`KvError::Damaged`].
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, KvError> {
        Self::read(bytes).ok_or_else(|| KvError::Damaged("an entry of the chain cannot be read".into()))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (code, rest) = bytes.split_first()?;
        let (arrived_at, rest) = rest.split_first_chunk()?;
        let (detail, rest) = read_text(rest)?;
        let (tx_id, envelope) = read_text(rest)?;
        Some(Self {
            tx_id: LedgerTxId(tx_id.to_owned()),
            code: ValidationCode::try_from(i32::from(*code)).ok()?,
            detail: (!detail.is_empty()).then(|| detail.to_owned()),
            arrived_at: Timestamp::from_millis(u64::from_be_bytes(*arrived_at)),
            envelope: envelope.to_vec(),
        })
    }
}

fn read_text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some((std::str::from_utf8(text).ok()?, rest))
}

/// The final word on a transaction, and which block has it.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    /// The block.
    pub(crate) block: u64,
    /// The transaction there.
    pub(crate) entry: Arc<Entry>,
}

/// A validated block on its way to the disk.
#[derive(Debug)]
pub(super) struct Block {
    /// Its number; the first is 1.
    pub(super) number: u64,
    /// What is told about it as a whole.
    pub(super) header: Header,
    /// Its transactions in order.
    pub(super) entries: Vec<Arc<Entry>>,
    /// What it changes in the world state: engine keys and values, `None` for a removal.
    pub(super) changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// What to report once it is durable: for a repeat of an earlier transaction, what became of that.
    pub(super) settled: Vec<Settled>,
}

/// What stands in the chain about a block as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// When it was cut.
    pub(crate) cut_at: Timestamp,
    /// How many transactions it holds.
    pub(crate) transactions: u32,
    /// Hash of the header before; nothing in block 0.
    pub(crate) previous_hash: Vec<u8>,
    /// Hash of the envelopes.
    pub(crate) data_hash: Hash,
}

impl Header {
    /// The header of the block of these envelopes that follows a header with this hash.
    pub(super) fn new<'a>(
        cut_at: Timestamp,
        previous_hash: Vec<u8>,
        envelopes: impl ExactSizeIterator<Item = &'a [u8]>,
    ) -> Self {
        Self {
            cut_at,
            transactions: u32::try_from(envelopes.len()).unwrap_or(u32::MAX),
            previous_hash,
            data_hash: data_hash(envelopes),
        }
    }

    /// Its own hash, in block `number`.
    pub(super) fn hash(&self, number: u64) -> Hash {
        header_hash(number, &self.previous_hash, &self.data_hash)
    }
}

/// A block as it stands in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredBlock {
    /// Its number.
    pub(crate) number: u64,
    /// What is told about it as a whole.
    pub(crate) header: Header,
    /// Its transactions in order.
    pub(crate) entries: Vec<Entry>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_comes_back_as_it_was() {
        for detail in [None, Some("the key \"é\" has changed".to_owned())] {
            let entry = Entry {
                tx_id: LedgerTxId("ab".into()),
                code: ValidationCode::InvalidOtherReason,
                detail,
                arrived_at: Timestamp::from_millis(1_700_000_000_123),
                envelope: vec![0, 255, 7],
            };
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes).expect("an entry"), entry);
            assert!(Entry::decode(&bytes[..4]).is_err());
        }
        assert!(Entry::decode(&[]).is_err());
        assert!(
            Entry::decode(&[&[200][..], &[0; 16]].concat()).is_err(),
            "no such code"
        );
    }
}
