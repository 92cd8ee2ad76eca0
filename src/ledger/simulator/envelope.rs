//! What a transaction of the ledger in this process is, from endorsement to the block: one call, what it read and
//! what it wants to write.
//!
//! Invariant: the identifier is SHA-256 of nonce and creator, so it is known before anything is sent and
//! cannot be swapped for another one. The envelope is compact JSON, readable in the stored record and in
//! the block.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::LedgerTxId;
use crate::fabric::{NONCE_BYTES, hex, transaction_id};

use super::effects::{Call, Effects};

/// One endorsed transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    /// Hex SHA-256 of nonce and creator.
    pub(super) tx_id: LedgerTxId,
    /// Hex of the submission's bytes.
    nonce: String,
    /// Who proposed it.
    creator: String,
    /// What was called.
    pub(super) call: Call,
    /// What came of it.
    pub(super) effects: Effects,
    /// What the contract returned.
    pub(super) response: Option<Box<RawValue>>,
}

impl Envelope {
    /// Seals an executed call under the identifier that `nonce` and `creator` give it.
    pub(super) fn seal(
        nonce: [u8; NONCE_BYTES],
        creator: &str,
        call: Call,
        effects: Effects,
        response: Option<Box<RawValue>>,
    ) -> Self {
        Self {
            tx_id: identify(&nonce, creator),
            nonce: hex(&nonce),
            creator: creator.to_owned(),
            call,
            effects,
            response,
        }
    }

    /// Reads an envelope and checks that its identifier is the one of its nonce and creator, and that it
    /// stays within its contract.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(super) fn open(json: &[u8]) -> Result<Self, String> {
        let envelope: Self =
            serde_json::from_slice(json).map_err(|error| format!("not an envelope: {error}"))?;
        let nonce = from_hex(&envelope.nonce).ok_or("the nonce is not 24 bytes in hex")?;
        if identify(&nonce, &envelope.creator) != envelope.tx_id {
            return Err("the transaction id is not that of nonce and creator".into());
        }
        if envelope.call.contract.contains('\0') {
            return Err("the contract's name holds a NUL".into());
        }
        Ok(envelope)
    }
}

/// The part of an envelope that tells what came back.
#[derive(Deserialize)]
pub(super) struct Answer {
    /// What the contract returned.
    pub(super) response: Option<Box<RawValue>>,
}

/// The identifier of the transaction with this nonce.
pub(super) fn identify(nonce: &[u8], creator: &str) -> LedgerTxId {
    LedgerTxId(transaction_id(nonce, creator.as_bytes()))
}

fn from_hex(text: &str) -> Option<[u8; NONCE_BYTES]> {
    let mut bytes = [0; NONCE_BYTES];
    if text.len() != 2 * NONCE_BYTES {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::as_json;
    use super::*;

    fn sealed() -> String {
        let call = Call {
            contract: "basic".into(),
            function: "f".into(),
            args: vec!["1".into()],
        };
        let envelope = Envelope::seal([7; 24], "me", call, Effects::default(), None);
        serde_json::to_string(&envelope).expect("serialises")
    }

    fn open(json: &str) -> Result<Envelope, String> {
        Envelope::open(json.as_bytes())
    }

    #[test]
    fn an_envelope_opens_with_the_identifier_it_was_sealed_with() {
        let envelope = open(&sealed()).expect("opens");
        assert_eq!(envelope.tx_id, identify(&[7; 24], "me"));
        assert_eq!(envelope.tx_id.0.len(), 64);
    }

    #[test]
    fn a_tampered_envelope_does_not_open() {
        for (from, to) in [
            ("\"creator\":\"me\"", "\"creator\":\"you\""),
            ("\"nonce\":\"07", "\"nonce\":\"08"),
            ("\"nonce\":\"07", "\"nonce\":\"é"),
            ("\"response\":null", "\"response\":null,\"more\":1"),
        ] {
            let tampered = sealed().replace(from, to);
            assert_ne!(tampered, sealed());
            assert!(open(&tampered).is_err(), "{tampered}");
        }
        assert!(open("17").is_err());
    }

    #[test]
    fn returns_become_json_or_a_json_string() {
        let json = |text: &str| as_json(text).expect("some").get().to_owned();
        assert_eq!(json("{\"a\":1}"), "{\"a\":1}");
        assert_eq!(
            json("340282366920938463463374607431768211455"),
            "340282366920938463463374607431768211455"
        );
        assert_eq!(json("Tomoko"), "\"Tomoko\"");
        assert_eq!(json(" 1\n"), "1");
        assert_eq!(json(""), "\"\"");
    }
}
