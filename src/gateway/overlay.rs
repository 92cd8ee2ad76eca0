//! What lies over the configuration, and who put it there.
//!
//! The configuration is what a process was told on its own machine. What operators set through the API is a document in the
//! store that lies over it: all nodes follow it, and it stays over restarts until it is taken back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Caller;
use crate::domain::Timestamp;

/// Values by the names of their settings.
pub(super) type Values = BTreeMap<&'static str, Value>;

/// Who set something, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// Who: [`Caller::subject`].
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// Marks by the names of what was set. What was set before there were any has none.
pub(super) type Marks = BTreeMap<String, Mark>;

/// Something that can be set while the gateway runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What holds.
    pub value: Value,
    /// What the configuration says.
    pub configured: Value,
    /// Whether an operator set it.
    pub overridden: bool,
    /// Who, and when, if that is known.
    pub mark: Option<Mark>,
}

/// The marks of what is set `after` a change by `caller`: what has changed has its own, the rest keeps those it had.
pub(super) fn marked(
    marks: &Marks,
    before: &Values,
    after: &Values,
    caller: &Caller,
    at: Timestamp,
) -> Marks {
    let mark = |(name, value): (&&'static str, &Value)| {
        let mark = match before.get(name) == Some(value) {
            true => marks.get(*name)?.clone(),
            false => Mark {
                by: caller.subject.clone(),
                at,
            },
        };
        Some(((*name).to_owned(), mark))
    };
    after.iter().filter_map(mark).collect()
}

/// All settings: what holds, what is configured, and what of it was set.
pub(super) fn settings(holds: Values, mut configured: Values, set: &Values, marks: &Marks) -> Vec<Setting> {
    let setting = |(name, value)| Setting {
        name,
        value,
        configured: configured.remove(name).unwrap_or_default(),
        overridden: set.contains_key(name),
        mark: marks.get(name).cloned(),
    };
    holds.into_iter().map(setting).collect()
}
