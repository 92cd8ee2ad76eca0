//! How a record, or a document, stands on the disk: format byte, CRC-32 of the rest, version, JSON.
//!
//! The checksum turns a damaged value into an error instead of a wrong answer; the version stands in front
//! so that compare-and-swap need not parse; JSON lets old records be read by newer code and by a person.

use crate::domain::{Transaction, TransactionId};
use crate::store::StoreError;

pub(super) const FORMAT: u8 = 1;
pub(super) const HEADER: usize = 1 + 4 + 8;

pub(super) fn encode(tx: &Transaction) -> Result<Vec<u8>, StoreError> {
    let mut written = Ok(());
    let bytes = frame(tx.version, |bytes| written = serde_json::to_writer(bytes, tx));
    written.map_err(|error| StoreError::Damaged(error.to_string()))?;
    Ok(bytes)
}

/// What `write` appends, with format, checksum and version in front.
pub(super) fn frame(version: u64, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.reserve(1_024);
    bytes[5..HEADER].copy_from_slice(&version.to_le_bytes());
    write(&mut bytes);
    let checksum = crc32fast::hash(&bytes[5..]);
    bytes[0] = FORMAT;
    bytes[1..5].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Version and content of what was [framed](frame).
pub(super) fn unframe(bytes: &[u8]) -> Result<(u64, &[u8]), StoreError> {
    let body = verified(bytes)?;
    Ok((version(bytes).unwrap_or_default(), &body[8..]))
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
    let (_, json) = unframe(bytes)?;
    serde_json::from_slice(json)
        .map_err(|error| StoreError::Damaged(format!("a record is not readable: {error}")))
}

/// The version alone, without checking or parsing the rest.
pub(super) fn version(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(5..HEADER)?.try_into().ok()?))
}

fn verified(bytes: &[u8]) -> Result<&[u8], StoreError> {
    let damaged = |what: &str| Err(StoreError::Damaged(what.to_owned()));
    if bytes.len() < HEADER {
        return damaged("it is cut short");
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
