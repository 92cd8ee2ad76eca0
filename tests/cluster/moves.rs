//! Which moves of a record may be seen from outside (I8), and what one who reads it again and again remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// Where a record stands: its stage while it is pending, else its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Queued,
    Preparing,
    /// While it was prepared it was found on the ledger: a version that is never seen, only passed.
    Found,
    Submitted,
    Backoff,
    Parked,
    Done,
    Failed,
}

impl Stage {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "queued" => Self::Queued,
            "preparing" => Self::Preparing,
            "submitted" => Self::Submitted,
            "backoff" => Self::Backoff,
            "parked" => Self::Parked,
            "done" => Self::Done,
            "failed" => Self::Failed,
            _ => return None,
        })
    }

    fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }

    /// What one version later may be, and whether that begins an attempt.
    fn next(self) -> &'static [(Self, u64)] {
        match self {
            Self::Queued | Self::Backoff => &[(Self::Preparing, 1), (Self::Failed, 0)],
            Self::Preparing => &[
                (Self::Submitted, 0),
                (Self::Backoff, 0),
                (Self::Failed, 0),
                (Self::Found, 0),
            ],
            Self::Found => &[(Self::Done, 0), (Self::Backoff, 0), (Self::Failed, 0)],
            Self::Submitted => &[
                (Self::Submitted, 0),
                (Self::Parked, 0),
                (Self::Done, 0),
                (Self::Backoff, 0),
                (Self::Failed, 0),
            ],
            Self::Parked => &[(Self::Done, 0), (Self::Backoff, 0), (Self::Failed, 0)],
            Self::Done | Self::Failed => &[],
        }
    }
}

/// A record at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) version: u64,
    pub(crate) stage: Stage,
    pub(crate) attempts: u64,
}

impl Seen {
    /// As every record begins.
    pub(crate) const ACCEPTED: Self = Self {
        version: 1,
        stage: Stage::Queued,
        attempts: 0,
    };

    /// What the API shows.
    pub(crate) fn of(record: &Value) -> Option<Self> {
        let stage = record["stage"].as_str().or_else(|| record["status"].as_str())?;
        Some(Self {
            version: record["version"].as_u64()?,
            stage: Stage::named(stage)?,
            attempts: record["attempts"].as_u64()?,
        })
    }

    /// Whether a record that stood here may stand there later, with every version between the two a legal move.
    pub(crate) fn may_become(self, later: Self) -> bool {
        let Some(moves) = later.version.checked_sub(self.version) else {
            return false;
        };
        let mut reached = BTreeSet::from([(self.stage, self.attempts)]);
        for _ in 0..moves {
            reached = reached
                .iter()
                .flat_map(|(stage, attempts)| {
                    stage
                        .next()
                        .iter()
                        .map(move |(next, more)| (*next, attempts + more))
                })
                .collect();
        }
        reached.contains(&(later.stage, later.attempts))
    }
}

/// What one reader saw of each record.
#[derive(Default)]
pub(crate) struct Memory(BTreeMap<String, (Seen, u64)>);

impl Memory {
    /// Notes what was read after all that was noted before.
    ///
    /// # Errors
    /// The promise that is broken.
    pub(crate) fn note(&mut self, id: &str, record: &Value) -> Result<(), String> {
        let seen = Seen::of(record).ok_or_else(|| format!("I8: {id} cannot be understood: {record}"))?;
        let (before, content) = self.0.get(id).copied().unwrap_or((Seen::ACCEPTED, 0));
        if !before.may_become(seen) {
            return Err(format!("I8: {id} went from {before:?} to {seen:?}"));
        }
        let mut hasher = DefaultHasher::new();
        record.to_string().hash(&mut hasher);
        if before.stage.is_settled() && content != hasher.finish() {
            return Err(format!("I8: {id} was settled and changed, to {record}"));
        }
        self.0.insert(id.to_owned(), (seen, hasher.finish()));
        Ok(())
    }
}

/// I8: every version of every record, as the database noted them: `id|version|stage|attempts`, those of a record
/// together and in order.
///
/// # Errors
/// The first move that is illegal.
pub(crate) fn history_is_legal(history: &str) -> Result<(), String> {
    let mut before: Option<(&str, Seen)> = None;
    for line in history.lines() {
        let unreadable = || format!("I8: the history says {line:?}");
        let [id, version, stage, attempts] = *line.split('|').collect::<Vec<_>>() else {
            return Err(unreadable());
        };
        let seen = Seen {
            version: version.parse().map_err(|_| unreadable())?,
            stage: Stage::named(stage).ok_or_else(unreadable)?,
            attempts: attempts.parse().map_err(|_| unreadable())?,
        };
        let legal = match before {
            Some((of, before)) if of == id => before.version < seen.version && before.may_become(seen),
            _ => seen == Seen::ACCEPTED,
        };
        if !legal {
            return Err(format!("I8: {id} went from {before:?} to {seen:?}"));
        }
        before = Some((id, seen));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(version: u64, stage: &str, attempts: u64) -> Value {
        let settled = ["done", "failed"].contains(&stage);
        json!({"version": version, "attempts": attempts,
            "status": if settled { stage } else { "pending" },
            "stage": if settled { Value::Null } else { stage.into() }})
    }

    fn verdict(records: &[(u64, &str, u64)]) -> Result<(), String> {
        let mut memory = Memory::default();
        records
            .iter()
            .try_for_each(|(version, stage, attempts)| memory.note("it", &record(*version, stage, *attempts)))
    }

    #[test]
    fn legal_histories_pass() {
        for legal in [
            &[
                (1, "queued", 0),
                (2, "preparing", 1),
                (3, "submitted", 1),
                (4, "done", 1),
            ][..],
            &[(1, "queued", 0), (1, "queued", 0), (4, "done", 1), (4, "done", 1)],
            &[
                (3, "submitted", 1),
                (5, "submitted", 1),
                (6, "backoff", 1),
                (9, "done", 2),
            ],
            // A lease was lost and taken anew in one step.
            &[(2, "preparing", 1), (4, "preparing", 2), (5, "failed", 2)],
            &[(4, "parked", 1), (5, "done", 1)],
            // It was found on the ledger while it was prepared.
            &[(2, "preparing", 1), (4, "done", 1)],
        ] {
            assert_eq!(verdict(legal), Ok(()), "{legal:?}");
        }
    }

    #[test]
    fn illegal_histories_do_not() {
        for illegal in [
            &[(3, "submitted", 1), (2, "preparing", 1)][..],
            &[(4, "done", 1), (5, "backoff", 1)],
            &[(4, "done", 1), (3, "submitted", 1)],
            &[(1, "queued", 0), (2, "done", 0)],
            &[(2, "preparing", 1), (3, "done", 1)],
            &[(2, "preparing", 1), (2, "submitted", 1)],
            // An attempt that nobody began, and one that is forgotten.
            &[(3, "submitted", 2)],
            &[(3, "submitted", 1), (6, "submitted", 1), (7, "backoff", 0)],
            &[(4, "parked", 1), (5, "submitted", 1)],
            &[(1, "unheard of", 0)],
        ] {
            assert!(verdict(illegal).is_err(), "{illegal:?}");
        }
        let mut memory = Memory::default();
        memory.note("it", &record(4, "done", 1)).expect("legal");
        let mut changed = record(4, "done", 1);
        changed["tx_id"] = "another".into();
        memory.note("it", &changed).expect_err("a settled record changed");
    }

    #[test]
    fn the_history_of_a_database_is_judged_step_by_step() {
        let good =
            "a|1|queued|0\na|2|preparing|1\na|4|preparing|2\na|5|submitted|2\na|6|done|2\nb|1|queued|0";
        assert_eq!(history_is_legal(good), Ok(()));
        for (from, to) in [
            ("a|1|queued|0\n", ""),
            ("a|5|submitted|2", "a|5|parked|2"),
            ("a|6|done|2", "a|5|submitted|2"),
            ("a|6|done|2", "a|6|done|2\na|7|backoff|2"),
            ("b|1|queued|0", "b|1|nonsense|0"),
        ] {
            history_is_legal(&good.replace(from, to)).expect_err(to);
        }
    }
}
