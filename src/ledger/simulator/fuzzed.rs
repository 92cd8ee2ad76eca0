//! What has to hold of a stored chain and of stored envelopes, whatever bytes are in their place.

#![allow(clippy::expect_used, reason = "a broken property panics")]

use super::block::{Entry, Header};
use super::envelope::Envelope;

/// An entry of the chain: whatever can be read is written with the same bytes.
pub(crate) fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::decode(bytes) {
        assert_eq!(entry.encode(), bytes);
    }
}

/// The header of a block.
pub(crate) fn header(json: &[u8]) {
    if let Ok(header) = serde_json::from_slice::<Header>(json) {
        let again = serde_json::to_vec(&header).expect("JSON");
        assert_eq!(
            serde_json::from_slice::<Header>(&again).expect("a header"),
            header
        );
        header.hash(u64::MAX);
    }
}

/// An envelope: its identifier is that of its nonce and creator.
pub(crate) fn envelope(json: &[u8]) {
    match Envelope::open(json) {
        Ok(envelope) => {
            let again = serde_json::to_vec(&envelope).expect("JSON");
            let again = Envelope::open(&again).expect("opens again");
            assert_eq!(again.tx_id, envelope.tx_id);
            assert_eq!(again.effects, envelope.effects);
            envelope.effects.touched(&envelope.call.contract);
        }
        Err(words) => assert!(!words.is_empty()),
    }
}
