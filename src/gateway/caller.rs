//! Who asks, and what they may do. Whoever checks a key or a token makes one of these; everything behind it trusts it.

use std::net::IpAddr;

use crate::domain::{Origin, TenantName, Transaction};

/// Something that a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Bring transactions, cancel them, run failed ones again.
    Submit,
    /// See transactions, ledgers and events, and ask ledgers.
    Read,
    /// Steer ledgers, settle what is parked, manage keys.
    Operate,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Submit, Self::Read, Self::Operate];

    /// The scope as keys and tokens name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }

    /// The scope of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// All there are.
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether this one is among them.
    pub fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Those there are, in order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who: `key:` and a key's id, `jwt:` and a subject, or `anonymous`.
    pub subject: String,
    /// Whose records they see and make; `None` sees those of all, and makes those of the default tenant.
    pub tenant: Option<TenantName>,
    /// What they may do.
    pub scopes: Scopes,
    /// From which address they ask.
    pub from: Option<IpAddr>,
}

impl Caller {
    /// Whoever reaches a gateway that asks for no keys.
    pub fn anonymous() -> Self {
        Self {
            subject: "anonymous".to_owned(),
            tenant: None,
            scopes: Scopes::all(),
            from: None,
        }
    }

    /// Whether they may see this record (I9).
    pub fn sees(&self, tx: &Transaction) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| tx.tenant == *tenant)
    }

    /// The tenant that their records belong to.
    pub fn own_tenant(&self) -> TenantName {
        self.tenant.clone().unwrap_or_default()
    }

    /// Where a transaction that they bring comes from.
    pub(super) fn origin(&self, trace: Option<String>) -> Origin {
        Origin {
            by: Some(self.subject.clone()),
            from: self.from,
            trace,
            retry_of: None,
        }
    }
}
