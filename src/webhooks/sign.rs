//! Signatures by Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, one for each secret that is in force.
//!
//! While a secret is rotated the old one signs as well, so a receiver may change over at any moment of the overlap.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::domain::Timestamp;

const PREFIX: &str = "whsec_";

/// What gateway and receiver share: 32 random bytes, written as `whsec_` and base64. Shown only by
/// [`reveal`](Self::reveal).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret([u8; 32]);

impl Secret {
    /// A fresh one.
    pub(crate) fn new() -> Self {
        Self(rand::random())
    }

    /// The secret itself, for the one who made it: never for a log.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(self.0))
    }

    /// `v1,` and the signature.
    fn sign(&self, id: &str, at: Timestamp, body: &[u8]) -> String {
        // HMAC fills a key up with zeros to the block's size; done here, nothing can be wrong with its length.
        let mut key = [0; 64];
        key[..32].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&key.into());
        mac.update(format!("{id}.{}.", seconds(at)).as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl FromStr for Secret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text
            .strip_prefix(PREFIX)
            .and_then(|rest| STANDARD.decode(rest).ok());
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or("is not whsec_ and 32 bytes in base64")
    }
}

impl TryFrom<String> for Secret {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.reveal()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The moment as `webhook-timestamp` has it.
pub(super) fn seconds(at: Timestamp) -> u64 {
    at.as_millis() / 1_000
}

/// The value of `webhook-signature`: a signature by each secret, separated by spaces.
pub(super) fn signature<'s>(
    secrets: impl IntoIterator<Item = &'s Secret>,
    id: &str,
    at: Timestamp,
    body: &[u8],
) -> String {
    let each: Vec<_> = secrets
        .into_iter()
        .map(|secret| secret.sign(id, at, body))
        .collect();
    each.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    /// By the independent implementation that receivers use.
    fn verifies(secret: &Secret, id: &str, at: Timestamp, signature: &str, body: &[u8]) -> bool {
        let mut headers = axum::http::HeaderMap::new();
        let at = seconds(at).to_string();
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", &at),
            ("webhook-signature", signature),
        ] {
            headers.insert(name, value.parse().expect("a header"));
        }
        let verifier = standardwebhooks::Webhook::new(&secret.reveal()).expect("a secret");
        verifier.verify(body, &headers).is_ok()
    }

    #[test]
    fn every_secret_in_force_verifies_and_no_other() {
        let (new, old, other) = (Secret::new(), Secret::new(), Secret::new());
        let now = SystemClock.now();
        let body = r#"{"type":"transaction.done","text":"ä"}"#.as_bytes();
        let header = signature([&new, &old], "dlv_1", now, body);
        for (secret, good) in [(&new, true), (&old, true), (&other, false)] {
            assert_eq!(verifies(secret, "dlv_1", now, &header, body), good);
        }
        assert!(!verifies(&new, "dlv_2", now, &header, body), "another id");
        assert!(!verifies(
            &new,
            "dlv_1",
            now.plus(std::time::Duration::from_secs(1)),
            &header,
            body
        ));
        assert!(!verifies(&new, "dlv_1", now, &header, b"{}"), "another body");
    }

    #[test]
    fn secrets_are_read_back_and_not_shown() {
        let secret = Secret::new();
        assert_eq!(secret.reveal().parse(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        for bad in ["", "whsec_", "whsec_AAAA", &secret.reveal()[6..], "whsec_%%%"] {
            assert!(bad.parse::<Secret>().is_err(), "{bad}");
        }
    }
}
