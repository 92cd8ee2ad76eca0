//! Finding records in an archive, and looking whether it is whole.
//!
//! One object at a time is in memory, compressed, with one of its records, and the names of those of a month. A record that is in two objects is told once:
//! objects come in the order of their first ids, so an id below the next one's first cannot come again and is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::Deserialize;

use super::portion::unpack;
use super::storage::Archive;
use super::{ArchiveError, name};
use crate::domain::{LedgerName, Status, TenantName, Timestamp, TransactionId};

/// Which records are looked for. All conditions must hold.
#[derive(Debug, Default, Clone)]
pub struct Query {
    /// Only this one.
    pub id: Option<TransactionId>,
    /// Only what the ledger knows by this identifier.
    pub tx_id: Option<String>,
    /// Only with this idempotency key.
    pub idempotency_key: Option<String>,
    /// Only of this tenant.
    pub tenant: Option<TenantName>,
    /// Only with this status.
    pub status: Option<Status>,
    /// Only for this ledger.
    pub ledger: Option<LedgerName>,
    /// Accepted at or after this moment.
    pub created_from: Option<Timestamp>,
    /// Accepted before this moment.
    pub created_before: Option<Timestamp>,
    /// With these labels.
    pub metadata: BTreeMap<String, String>,
}

/// What a search comes upon.
#[derive(Debug)]
pub enum Found<'a> {
    /// A record, as it was archived: one line of JSON.
    Record(&'a str),
    /// An object that cannot be used, and why.
    Damaged(&'a str, &'a str),
}

/// What is looked at of a line.
#[derive(Deserialize)]
struct Line {
    id: TransactionId,
    tenant: String,
    status: String,
    ledger: String,
    tx_id: Option<String>,
    idempotency_key: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl Line {
    fn parse(text: &str) -> Result<Self, ArchiveError> {
        serde_json::from_str(text)
            .map_err(|error| ArchiveError::Damaged(format!("it has a line that is no record: {error}")))
    }
}

impl Query {
    /// The ids that may match, both included.
    fn ids(&self) -> (TransactionId, TransactionId) {
        if let Some(id) = self.id {
            return (id, id);
        }
        let low = self
            .created_from
            .map_or(TransactionId::LOWEST, TransactionId::lowest_at);
        let high = self
            .created_before
            .map_or(TransactionId::HIGHEST, TransactionId::lowest_at);
        (low, high)
    }

    fn may_be_in(&self, name: &name::ObjectName) -> bool {
        let (low, high) = self.ids();
        name.last >= low && name.first <= high && self.status.is_none_or(|status| status == name.status)
    }

    fn matches(&self, line: &Line) -> bool {
        let below = self
            .created_before
            .is_none_or(|moment| line.id < TransactionId::lowest_at(moment));
        let from = self
            .created_from
            .is_none_or(|moment| line.id >= TransactionId::lowest_at(moment));
        let is = |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| wanted == found);
        below
            && from
            && self.id.is_none_or(|id| id == line.id)
            && is(self.status.map(Status::as_str), &line.status)
            && is(self.tenant.as_ref().map(TenantName::as_str), &line.tenant)
            && is(self.ledger.as_ref().map(LedgerName::as_str), &line.ledger)
            && (self.tx_id.is_none() || self.tx_id == line.tx_id)
            && (self.idempotency_key.is_none() || self.idempotency_key == line.idempotency_key)
            && self
                .metadata
                .iter()
                .all(|(key, value)| line.metadata.get(key) == Some(value))
    }
}

/// Tells all that match, oldest first, as long as `tell` wants more. An object that cannot be used is told as such, and the
/// others are searched all the same.
///
/// # Errors
/// If the archive cannot be reached, or `tell` fails.
pub async fn search(
    archive: &Archive,
    query: &Query,
    tell: &mut (dyn FnMut(Found<'_>) -> io::Result<bool> + Send),
) -> Result<(), ArchiveError> {
    let (_, highest) = query.ids();
    let mut told = BTreeSet::new();
    let mut walk = archive.walk().await?;
    while let Some(entries) = walk.next().await? {
        for entry in entries {
            if entry.name.first > highest {
                return Ok(());
            }
            if !query.may_be_in(&entry.name) {
                continue;
            }
            told = told.split_off(&entry.name.first);
            let read = archive.read(&entry.path).await;
            let looked = read.and_then(|bytes| {
                unpack(&entry.name, &bytes, &mut |text| {
                    let line = Line::parse(text)?;
                    if !query.matches(&line) || !told.insert(line.id) {
                        return Ok(true);
                    }
                    Ok(tell(Found::Record(text))?)
                })
            });
            match looked {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(ArchiveError::Damaged(what)) => {
                    if !tell(Found::Damaged(entry.path.as_ref(), &what))? {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Reads every object and looks whether it is what its name says; tells those that are not. Answers how many objects and how
/// many records are right; a record that is in two objects counts twice.
///
/// # Errors
/// If the archive cannot be reached, or `tell` fails.
pub async fn verify(
    archive: &Archive,
    tell: &mut (dyn FnMut(Found<'_>) -> io::Result<bool> + Send),
) -> Result<(u64, u64), ArchiveError> {
    let (mut objects, mut records) = (0, 0);
    let mut walk = archive.walk().await?;
    while let Some(entries) = walk.next().await? {
        for entry in entries {
            let name = &entry.name;
            let read = archive.read(&entry.path).await;
            let looked = read.and_then(|bytes| {
                unpack(name, &bytes, &mut |text| {
                    let line = Line::parse(text)?;
                    let fits =
                        (name.first..=name.last).contains(&line.id) && line.status == name.status.as_str();
                    match fits {
                        true => Ok(true),
                        false => Err(ArchiveError::Damaged(format!(
                            "its record {} does not fit its name",
                            line.id
                        ))),
                    }
                })
            });
            match looked {
                Ok(_) => {
                    objects += 1;
                    records += name.count as u64;
                }
                Err(ArchiveError::Damaged(what)) => {
                    if !tell(Found::Damaged(entry.path.as_ref(), &what))? {
                        return Ok((objects, records));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok((objects, records))
}
