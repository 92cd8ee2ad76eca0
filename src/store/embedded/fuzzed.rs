//! What has to hold of a stored record, whatever bytes are in its place.

#![allow(clippy::expect_used, reason = "a broken property panics")]

use std::collections::BTreeSet;

use super::keys;
use super::record::{decode_any, encode, version};
use crate::domain::Transaction;
use crate::store::{Mark, StoreError};

/// A value as it stands on the disk. What is no record is called damaged.
pub(crate) fn value(bytes: &[u8]) -> Option<Transaction> {
    match decode_any(bytes) {
        Ok(transaction) => Some(transaction),
        Err(StoreError::Damaged(words)) => {
            assert!(!words.is_empty());
            None
        }
        Err(error) => panic!("a damaged record is taken for trouble with the disk: {error}"),
    }
}

/// The JSON of a record behind a header of `format` with the right checksum, which no fuzzer would guess.
pub(crate) fn sealed(format: u8, json: &[u8]) -> Vec<u8> {
    let body = [&[0; 8], json].concat();
    let checksum = crc32fast::hash(&body).to_le_bytes();
    [&[format][..], &checksum, &body].concat()
}

/// A record is read as it was written, and so are the entries that point to it.
pub(crate) fn comes_back(transaction: &Transaction) {
    let stored = encode(transaction).expect("encodes");
    assert_eq!(version(&stored), Some(transaction.version));
    let again = decode_any(&stored).expect("decodes");
    assert_eq!(encode(&again).expect("encodes"), stored);
    let index = keys::index(transaction);
    let distinct: BTreeSet<_> = index.iter().map(|(key, _)| key).collect();
    assert_eq!(distinct.len(), index.len());
    if let Some(mark) = Mark::of(transaction) {
        let key = keys::due(&transaction.request.ledger, &mark);
        assert!(distinct.contains(&key));
        assert_eq!(keys::moment(&key), Some(mark.due_at));
        assert_eq!(keys::id(&key), Some(transaction.id));
        assert_eq!(keys::unannounced(&keys::announced(&key)), key);
    }
}
