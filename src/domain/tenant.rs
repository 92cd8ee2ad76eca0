//! Who a transaction belongs to, who brought it, and what people did to it.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::request::is_name;
use super::time::Timestamp;
use super::transaction::TransactionId;

/// The tenant of those who have none.
const DEFAULT: &str = "default";

/// Whose a record is. It has the form of a [`LedgerName`](super::LedgerName); everybody belongs to `default` until keys
/// say otherwise.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TenantName(Arc<str>);

impl TenantName {
    /// Checks a name. `None` if it does not have the form.
    pub fn new(name: &str) -> Option<Self> {
        is_name(name).then(|| Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the tenant of those who have none.
    pub fn is_default(&self) -> bool {
        &*self.0 == DEFAULT
    }

    /// What an idempotency key of this tenant is stored as: keys hold no spaces, so those of two tenants never meet.
    pub fn scoped<'k>(&self, key: &'k str) -> Cow<'k, str> {
        match self.is_default() {
            true => Cow::Borrowed(key),
            false => Cow::Owned(format!("{self} {key}")),
        }
    }

    /// The key that [`scoped`](Self::scoped) was made of.
    pub fn unscoped<'k>(&self, scoped: &'k str) -> &'k str {
        let key = scoped.strip_prefix(self.as_str());
        match key.and_then(|key| key.strip_prefix(' ')) {
            Some(key) if !self.is_default() => key,
            _ => scoped,
        }
    }
}

impl Default for TenantName {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a transaction came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Who asked for it, such as `key:ab12cd34`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// From which address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpAddr>,
    /// The `traceparent` of the request (W3C Trace Context).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The failed transaction that it runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<TransactionId>,
}

impl Origin {
    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// What a person did to a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// `cancel` or `settle`.
    pub action: String,
    /// Who, as in [`Origin::by`].
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_the_keys_of_two_tenants_never_meet() {
        let acme = TenantName::new("acme").expect("a name");
        let nobody = TenantName::default();
        assert_eq!(nobody.scoped("acme/1"), "acme/1");
        assert_ne!(acme.scoped("1"), nobody.scoped("acme/1"));
        for tenant in [&acme, &nobody] {
            assert_eq!(tenant.unscoped(&tenant.scoped("k1")), "k1");
        }
    }
}
