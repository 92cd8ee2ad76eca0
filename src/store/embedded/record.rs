//! How a record stands on the disk: format byte, CRC-32 of the rest, version, JSON.
//!
//! The checksum turns a damaged value into an error instead of a wrong answer; the version stands in front
//! so that compare-and-swap need not parse; JSON lets old records be read by newer code and by a person.

use crate::domain::{Transaction, TransactionId};
use crate::store::StoreError;

pub(super) const FORMAT: u8 = 1;
pub(super) const HEADER: usize = 1 + 4 + 8;

pub(super) fn encode(tx: &Transaction) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; HEADER];
    bytes.reserve(1_024);
    bytes[5..HEADER].copy_from_slice(&tx.version.to_le_bytes());
    serde_json::to_writer(&mut bytes, tx).map_err(|error| StoreError::Damaged(error.to_string()))?;
    let checksum = crc32fast::hash(&bytes[5..]);
    bytes[0] = FORMAT;
    bytes[1..5].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// The record that stands under `id`.
pub(super) fn decode(id: TransactionId, bytes: &[u8]) -> Result<Transaction, StoreError> {
    let tx = decode_any(bytes)?;
    if tx.id != id {
        return Err(StoreError::Damaged(format!(
            "{} stands in the place of a record",
            tx.id
        )));
    }
    Ok(tx)
}

/// A record of which nobody knows the id.
pub(super) fn decode_any(bytes: &[u8]) -> Result<Transaction, StoreError> {
    let body = verified(bytes)?;
    serde_json::from_slice(&body[8..])
        .map_err(|error| StoreError::Damaged(format!("a record is not readable: {error}")))
}

/// The version alone, without checking or parsing the rest.
pub(super) fn version(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(5..HEADER)?.try_into().ok()?))
}

fn verified(bytes: &[u8]) -> Result<&[u8], StoreError> {
    let damaged = |what: &str| Err(StoreError::Damaged(what.to_owned()));
    if bytes.len() < HEADER {
        return damaged("a record is cut short");
    }
    if bytes[0] != FORMAT {
        return Err(StoreError::Damaged(format!(
            "a record has format {}, this version reads format {FORMAT}; was it written by a newer sluicegate?",
            bytes[0]
        )));
    }
    if crc32fast::hash(&bytes[5..]).to_le_bytes() != bytes[1..5] {
        return damaged("a record's checksum does not match");
    }
    Ok(&bytes[5..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::transaction;

    #[test]
    fn what_is_encoded_decodes_with_its_version_in_front() {
        let tx = transaction("main", None);
        let bytes = encode(&tx).expect("encodes");
        assert_eq!(version(&bytes), Some(1));
        assert_eq!(decode(tx.id, &bytes).expect("decodes").id, tx.id);
        let other = decode(TransactionId::new(), &bytes);
        assert!(matches!(other, Err(StoreError::Damaged(_))), "{other:?}");
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_with_the_remedy() {
        let mut bytes = encode(&transaction("main", None)).expect("encodes");
        bytes[0] = FORMAT + 1;
        let refusal = decode_any(&bytes).expect_err("is newer").to_string();
        assert!(refusal.contains("a newer sluicegate"), "{refusal}");
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = encode(&transaction("main", None)).expect("encodes");
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 1 << (position % 8);
            assert!(
                matches!(decode_any(&damaged), Err(StoreError::Damaged(_))),
                "byte {position}"
            );
        }
        assert!(decode_any(&bytes[..7]).is_err());
    }
}
