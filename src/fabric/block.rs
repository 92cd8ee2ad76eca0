//! What chains blocks together: the hash of a block's data, and that of its header.

use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub(crate) type Hash = [u8; 32];

/// The hash of a block's data: over all its envelopes, one after another.
pub(crate) fn data_hash<'a>(envelopes: impl IntoIterator<Item = &'a [u8]>) -> Hash {
    let mut hash = Sha256::new();
    for envelope in envelopes {
        hash.update(envelope);
    }
    hash.finalize().into()
}

/// The hash of a block's header, which the next block holds: over number, previous hash and data hash as an
/// ASN.1 DER sequence of an integer and two octet strings. Block 0 has no previous hash.
pub(crate) fn header_hash(number: u64, previous: &[u8], data: &[u8]) -> Hash {
    let mut body = Vec::with_capacity(128);
    let digits = number.to_be_bytes();
    let zeros = digits.iter().take(7).take_while(|digit| **digit == 0).count();
    let mut integer = digits[zeros..].to_vec();
    // A leading bit that is set would make it negative.
    if integer[0] & 0x80 != 0 {
        integer.insert(0, 0);
    }
    for (tag, value) in [(0x02, integer.as_slice()), (0x04, previous), (0x04, data)] {
        push(&mut body, tag, value);
    }
    let mut sequence = Vec::with_capacity(body.len() + 4);
    push(&mut sequence, 0x30, &body);
    Sha256::digest(&sequence).into()
}

/// One DER value.
fn push(to: &mut Vec<u8>, tag: u8, value: &[u8]) {
    to.push(tag);
    let length = value.len().to_be_bytes();
    let zeros = length.iter().take_while(|byte| **byte == 0).count();
    match u8::try_from(value.len()) {
        Ok(short) if short < 0x80 => to.push(short),
        _ => {
            to.push(0x80 | u8::try_from(length.len() - zeros).unwrap_or(0));
            to.extend_from_slice(&length[zeros..]);
        }
    }
    to.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_der() {
        let encode = |tag, value: &[u8]| {
            let mut bytes = Vec::new();
            push(&mut bytes, tag, value);
            bytes
        };
        assert_eq!(encode(2, &[5]), [2, 1, 5]);
        assert_eq!(encode(4, &[]), [4, 0]);
        assert_eq!(encode(4, &[7; 127])[..2], [4, 127]);
        assert_eq!(encode(4, &[7; 200])[..3], [4, 0x81, 200]);
        assert_eq!(encode(4, &[7; 300])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn a_header_is_hashed_over_its_der_form() {
        let hash = |der: &[u8]| -> Hash { Sha256::digest(der).into() };
        assert_eq!(
            header_hash(0, b"", b"d"),
            hash(&[0x30, 8, 2, 1, 0, 4, 0, 4, 1, b'd'])
        );
        assert_eq!(
            header_hash(128, b"p", b"d"),
            hash(&[0x30, 10, 2, 2, 0, 128, 4, 1, b'p', 4, 1, b'd'])
        );
        assert_eq!(data_hash([&b"ab"[..], b"c"]), hash(b"abc"));
    }
}
