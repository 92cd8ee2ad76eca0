//! How many organisations have to endorse a transaction.

use std::fmt;

/// The endorsement policy of every chaincode of a devnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// One, whichever it is.
    Any,
    /// More than half of them.
    #[default]
    Majority,
    /// Every one.
    All,
}

impl Policy {
    /// How many of `organisations`.
    pub(super) fn needs(self, organisations: usize) -> usize {
        match self {
            Self::Any => 1,
            Self::Majority => organisations / 2 + 1,
            Self::All => organisations,
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Majority => "majority",
            Self::All => "all",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        let needs = |policy: Policy| [1, 2, 3].map(|count| policy.needs(count));
        assert_eq!(needs(Policy::Any), [1, 1, 1]);
        assert_eq!(needs(Policy::Majority), [1, 2, 2]);
        assert_eq!(needs(Policy::All), [1, 2, 3]);
    }
}
