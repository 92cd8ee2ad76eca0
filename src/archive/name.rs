//! What an object is called: `<first id>_<last id>_<status>_<count>_<SHA-256>.ndjson.zst`, in a folder for the day of its
//! first record, such as `2026/11/22`.
//!
//! Ids are in the order of acceptance and so are the names, so one who looks for an id, or for a stretch of time, need not
//! open what lies elsewhere.

use std::fmt::{self, Write as _};

use crate::domain::{Status, Timestamp, TransactionId};

const ENDING: &str = ".ndjson.zst";

/// The name of an object, which tells what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectName {
    /// The lowest id in it ...
    pub(super) first: TransactionId,
    /// ... and the highest.
    pub(super) last: TransactionId,
    /// The status that all of them have.
    pub(super) status: Status,
    /// How many they are.
    pub(super) count: usize,
    /// SHA-256 of its bytes as they are stored, in hexadecimal digits.
    pub(super) digest: String,
}

impl ObjectName {
    /// `None` if it is not the name of one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix(ENDING)?.split('_');
        let (first, last) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let status = parts.next()?;
        let name = Self {
            first,
            last,
            status: Status::ALL.into_iter().find(|one| one.as_str() == status)?,
            count: parts.next()?.parse().ok()?,
            digest: parts.next()?.to_owned(),
        };
        // Whatever else could be read as the same, is none of ours.
        (parts.next().is_none() && name.to_string() == text).then_some(name)
    }

    /// The folder that it is in: year, month and day (UTC) in which its first record was accepted.
    pub(super) fn day(&self) -> String {
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(&self.first.as_bytes()[..6]);
        let moment = Timestamp::from_millis(u64::from_be_bytes(millis)).to_string();
        moment.chars().take(10).collect::<String>().replace('-', "/")
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            first,
            last,
            status,
            count,
            digest,
        } = self;
        let status = status.as_str();
        write!(f, "{first}_{last}_{status}_{count}_{digest}{ENDING}")
    }
}

/// In hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_it_was_made_of_and_its_day() {
        let name = ObjectName {
            first: TransactionId::lowest_at(Timestamp::from_millis(1_767_225_600_000)),
            last: TransactionId::new(),
            status: Status::Failed,
            count: 2_000,
            digest: hex(&[0xab; 32]),
        };
        assert_eq!(name.day(), "2026/01/01");
        let text = name.to_string();
        assert_eq!(ObjectName::parse(&text), Some(name));
        for other in [
            text.replace("_failed_", "_lost_"),
            text.replace("_2000_", "_02000_"),
            text.replace(".zst", ""),
            text.to_uppercase(),
            String::new(),
        ] {
            assert_eq!(ObjectName::parse(&other), None, "{other}");
        }
    }

    #[test]
    fn every_id_has_a_day_in_the_order_of_ids() {
        let day = |first| {
            let name = ObjectName {
                first,
                last: first,
                status: Status::Done,
                count: 1,
                digest: String::new(),
            };
            name.day()
        };
        let days = [
            TransactionId::LOWEST,
            TransactionId::new(),
            TransactionId::HIGHEST,
        ]
        .map(day);
        assert!(days.is_sorted(), "{days:?}");
        assert_eq!(days[0], "1970/01/01");
    }
}
