//! A contract call and what comes of it: what it read, what it wants to write, what it returns and tells.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::state::Version;
use crate::domain::ReadWriteSet;

/// A contract call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    /// The contract.
    pub(crate) contract: String,
    /// Its function.
    pub(crate) function: String,
    /// The arguments as the contract sees them.
    pub(crate) args: Vec<String>,
}

/// A range query and what it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RangeRead {
    /// First key of the range; empty for the contract's first.
    pub(crate) start: String,
    /// First key after the range; empty for no end.
    pub(crate) end: String,
    /// The keys there were, in order, with their versions.
    pub(crate) seen: Vec<(String, Version)>,
}

/// What a call read and wants to write.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Effects {
    /// Version of each key read by name; `None` if there was no such key.
    pub(crate) reads: BTreeMap<String, Option<Version>>,
    /// The range queries.
    pub(crate) ranges: Vec<RangeRead>,
    /// New value of each key; `None` deletes it.
    pub(crate) writes: BTreeMap<String, Option<String>>,
}

impl Effects {
    /// The keys of `contract` that are read or written. What a range query saw counts as read.
    pub(crate) fn touched(&self, contract: &str) -> ReadWriteSet {
        let spelled = |key: &String| format!("{contract}/{key}");
        let ranged = self.ranges.iter().flat_map(|range| &range.seen);
        let reads = self.reads.keys().chain(ranged.map(|(key, _)| key));
        ReadWriteSet::new(reads.map(spelled), self.writes.keys().map(spelled))
    }
}

/// What a contract tells the world if its transaction commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name.
    pub(crate) name: String,
    /// What it carries.
    pub(crate) payload: Vec<u8>,
}

/// An executed call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Executed {
    /// What the contract returned.
    pub(crate) returned: Option<String>,
    /// What it read and wants to write.
    pub(crate) effects: Effects,
    /// The event it set; the last one, if it set several.
    pub(crate) event: Option<Event>,
}
