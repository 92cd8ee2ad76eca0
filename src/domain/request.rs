//! What a caller asked for: the part of a transaction that never changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::argument::Argument;
use super::time::Timestamp;

/// Whether it is 1 to 64 of `a-z 0-9 _ -`, starting with a letter or digit.
pub(super) fn is_name(name: &str) -> bool {
    let valid = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=64).contains(&bytes.len())
        && bytes.first().is_some_and(|&c| valid(c))
        && bytes.iter().all(|&c| valid(c) || c == b'_' || c == b'-')
}

/// The name of a configured ledger, such as `main`: 1 to 64 of `a-z 0-9 _ -`, starting with a letter
/// or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LedgerName(Arc<str>);

impl LedgerName {
    /// Checks a name. `None` if it does not have the form above.
    pub fn new(name: &str) -> Option<Self> {
        is_name(name).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LedgerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for LedgerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A contract call that somebody wants to take effect on a ledger, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which configured ledger it is for.
    pub ledger: LedgerName,
    /// The contract (chaincode) to call.
    pub contract: String,
    /// The function of that contract.
    pub function: String,
    /// The arguments in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
    /// Private inputs that ledgers such as Fabric keep off the chain, base64. Never shown to readers,
    /// and forgotten once the transaction is done.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub transient: BTreeMap<String, String>,
    /// A hint: the keys this call is expected to write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflict_keys: Vec<String>,
    /// Seconds after acceptance past which it must not be submitted any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u32>,
    /// The moment before which it must not be submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Who is told when it has settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
    /// The caller's own labels, shown and searchable, never sent to the ledger.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl Request {
    /// A call of a contract and nothing beside it: no private inputs, no hints, no bounds in time, nobody to tell.
    pub fn call(
        ledger: LedgerName,
        contract: impl Into<String>,
        function: impl Into<String>,
        args: Vec<Argument>,
    ) -> Self {
        Self {
            ledger,
            contract: contract.into(),
            function: function.into(),
            args,
            transient: BTreeMap::new(),
            conflict_keys: Vec::new(),
            expires_in_seconds: None,
            not_before: None,
            callback_url: None,
            metadata: BTreeMap::new(),
        }
    }

    /// SHA-256 over the whole request: equal exactly when a repeat asks for the same thing (I5).
    pub fn fingerprint(&self) -> Fingerprint {
        // A plain struct of strings and numbers always serialises; were it ever not to, the empty text
        // would make all such requests differ from every real one.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Fingerprint(Sha256::digest(json).into())
    }
}

/// Digest of a [`Request`].
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The digest stored in these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_names_have_a_fixed_form() {
        for good in ["main", "a", "7seas", "fabric-eu_1"] {
            assert!(LedgerName::new(good).is_some(), "{good}");
        }
        for bad in ["", "Main", "-x", "a b", "a/b", &"x".repeat(65)] {
            assert!(LedgerName::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn fingerprints_ignore_spelling_and_see_content() {
        let parse = |json: &str| -> Request { serde_json::from_str(json).expect("valid") };
        let one = parse(r#"{"ledger":"main","contract":"c","function":"f","args":[1, {"a": 2}]}"#);
        let same = parse(r#"{"args":[1,{"a":2}],"function":"f","contract":"c","ledger":"main"}"#);
        let other = parse(r#"{"ledger":"main","contract":"c","function":"f","args":[1,{"a":2.0}]}"#);
        assert_eq!(one.fingerprint(), same.fingerprint());
        assert_ne!(one.fingerprint(), other.fingerprint());
    }
}
