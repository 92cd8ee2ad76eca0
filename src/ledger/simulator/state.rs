//! The world state's encoding: every key belongs to one contract and carries the version that wrote it.
//!
//! Invariant: the encoded keys of one contract are contiguous and in the byte order of the keys themselves,
//! so a contract's range query is one engine scan and can never see another contract's keys.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::kv::KvError;

/// First byte of every world state key in the engine.
const STATE: u8 = b's';

/// Bytes of the version before a stored value.
const VERSION_BYTES: usize = 12;

/// Which transaction wrote a value: block number, then position in the block.
///
/// In JSON `[block, position]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Version(pub(crate) u64, pub(crate) u32);

/// The engine key of `key` in the world state of `contract`.
///
/// Contract names hold no NUL, so the first NUL ends the name whatever the key contains.
pub(super) fn encode_key(contract: &str, key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(contract.len() + key.len() + 2);
    bytes.push(STATE);
    bytes.extend_from_slice(contract.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// The engine keys from `start` to before `end`; an empty `end` means all that follow. `None` if no key
/// can lie in it.
pub(super) fn encode_range(contract: &str, start: &str, end: &str) -> Option<Range<Vec<u8>>> {
    let from = encode_key(contract, start);
    let to = if end.is_empty() {
        let mut past = encode_key(contract, "");
        // The separator plus one sorts after every key of this contract.
        past.pop();
        past.push(1);
        past
    } else {
        encode_key(contract, end)
    };
    (from < to).then_some(from..to)
}

/// The contract's own key within an engine key of that contract.
///
/// # Errors
/// [`KvError::Damaged`] if it is none.
pub(super) fn decode_key<'a>(contract: &str, bytes: &'a [u8]) -> Result<&'a str, KvError> {
    bytes
        .get(contract.len() + 2..)
        .and_then(|key| std::str::from_utf8(key).ok())
        .ok_or_else(|| KvError::Damaged("a world state key is not text".into()))
}

/// What the engine keeps for a value.
pub(super) fn encode_value(version: Version, value: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(VERSION_BYTES + value.len());
    bytes.extend_from_slice(&version.0.to_be_bytes());
    bytes.extend_from_slice(&version.1.to_be_bytes());
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

/// The version and the value the engine kept.
///
/// # Errors
/// [`KvError::Damaged`] if these bytes are not such a value.
pub(super) fn decode_value(bytes: &[u8]) -> Result<(Version, &str), KvError> {
    let damaged = || KvError::Damaged("a world state value has no version or is not text".into());
    let (block, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
    let (position, value) = rest.split_first_chunk().ok_or_else(damaged)?;
    let value = std::str::from_utf8(value).map_err(|_| damaged())?;
    let version = Version(u64::from_be_bytes(*block), u32::from_be_bytes(*position));
    Ok((version, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_never_leaves_its_contract() {
        let all = encode_range("basic", "", "").expect("not empty");
        for inside in ["a", "\0", "\u{10ffff}"] {
            assert!(all.contains(&encode_key("basic", inside)), "{inside:?}");
        }
        for other in ["basi", "basic2", "token", "b"] {
            assert!(!all.contains(&encode_key(other, "a")), "{other}");
        }
    }

    #[test]
    fn a_range_is_half_open_and_may_be_empty() {
        let range = encode_range("basic", "b", "d").expect("not empty");
        assert!(range.contains(&encode_key("basic", "b")));
        assert!(!range.contains(&encode_key("basic", "d")));
        assert_eq!(encode_range("basic", "d", "b"), None);
        assert_eq!(encode_range("basic", "b", "b"), None);
    }

    #[test]
    fn values_come_back_with_their_version() {
        let bytes = encode_value(Version(7, 3), "é");
        assert_eq!(decode_value(&bytes).expect("valid"), (Version(7, 3), "é"));
        assert_eq!(
            decode_key("basic", &encode_key("basic", "k")).expect("valid"),
            "k"
        );
        assert!(decode_value(&bytes[..11]).is_err());
    }
}
