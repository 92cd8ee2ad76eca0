//! Wall-clock time as the records keep it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment, in whole milliseconds since 1970-01-01T00:00:00Z.
///
/// Stored as a number; shown (`Display`) as RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment that lies `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This moment moved `by` into the future; stops at the largest moment instead of wrapping.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// This moment moved `by` into the past; stops at the epoch.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Reads an RFC 3339 moment. One before 1970 counts as its beginning: nothing here is older.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let moment: jiff::Timestamp = text.parse().ok()?;
        Some(Self(u64::try_from(moment.as_millisecond()).unwrap_or_default()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = i64::try_from(self.0)
            .ok()
            .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
            .unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{moment:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_milliseconds_in_utc_and_reads_them_back() {
        let moment = Timestamp::from_millis(1_767_225_600_007);
        assert_eq!(moment.to_string(), "2026-01-01T00:00:00.007Z");
        assert_eq!(
            Timestamp::parse_rfc3339("2026-01-01T01:00:00.007+01:00"),
            Some(moment)
        );
    }

    #[test]
    fn refuses_what_is_not_a_moment() {
        assert_eq!(Timestamp::parse_rfc3339("yesterday"), None);
        assert_eq!(
            Timestamp::parse_rfc3339("1969-01-01T00:00:00Z"),
            Some(Timestamp(0))
        );
    }

    #[test]
    fn arithmetic_stops_at_the_ends() {
        let late = Timestamp::from_millis(u64::MAX);
        assert_eq!(late.plus(Duration::from_secs(1)), late);
        assert!(!late.to_string().is_empty());
        let epoch = Timestamp::from_millis(0);
        assert_eq!(epoch.minus(Duration::from_secs(1)), epoch);
        assert_eq!(epoch.since(late), Duration::ZERO);
    }
}
