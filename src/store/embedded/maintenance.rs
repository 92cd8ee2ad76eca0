//! `store check`, `store repair`, `store compact`: for a store that no gateway is using.
//!
//! Records are the truth; every index entry follows from a record. So checking means to compare both ways,
//! and repairing means to rewrite what does not follow. A record that cannot be read is never thrown away:
//! its bytes go to a file beside the store first. That is enough as long as the engine's file is what the engine
//! left; if it is not, [`super::salvage`] makes a new one.

use std::fs::File;
use std::io;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::folder::DataFolder;
use super::pieces::Pieces;
use super::{Counts, check_format, keys, open_engine, record, salvage};
use crate::domain::TransactionId;
use crate::kv::{self, Batch, KvEngine, KvError, Order, seal};
use crate::store::StoreError;

/// Why maintenance could not be done.
#[derive(Debug, Error)]
pub enum MaintenanceError {
    /// There is nothing to maintain.
    #[error("there is no store at {0}; is store.path right?")]
    Missing(PathBuf),
    /// The engine cannot open, read or write its file.
    #[error(transparent)]
    Engine(KvError),
    /// The engine's file is damaged.
    #[error(
        "the store is damaged: {0}; copy the data folder, then run `sluicegate store repair`: it keeps all that can be read, and lists what cannot"
    )]
    Damaged(String),
    /// The engine's file is damaged, and there is no record in it.
    #[error(
        "no record can be found in {0}, which is left as it is; restore it from a backup, or set store.path to another folder to begin anew"
    )]
    Nothing(PathBuf),
    /// The store was written by a newer version.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file beside the store cannot be written.
    #[error("the data folder refuses: {0}")]
    Folder(#[from] io::Error),
}

pub(super) type Result<T, E = MaintenanceError> = std::result::Result<T, E>;

impl From<KvError> for MaintenanceError {
    fn from(error: KvError) -> Self {
        match error {
            KvError::Damaged(detail) => Self::Damaged(detail),
            other => Self::Engine(other),
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A record that cannot be read.
    Unreadable {
        /// Its id.
        id: String,
        /// Why.
        reason: String,
    },
    /// A record that a salvage found, but that may not be the newest version of it.
    Unsettled {
        /// Its id.
        id: String,
        /// What became of it.
        what: &'static str,
    },
    /// An index entry that should be there and is not.
    Missing {
        /// The record it belongs to.
        id: String,
    },
    /// An index entry that no record asks for.
    Stale {
        /// The entry's key, escaped.
        key: String,
    },
    /// A counter that is wrong.
    Miscounted {
        /// What it counts.
        what: String,
        /// What it says.
        stored: u64,
        /// What was counted.
        actual: u64,
    },
}

/// What `check` or `repair` found.
#[derive(Debug, Default)]
pub struct Report {
    /// Readable records, by ledger and status.
    pub counts: Counts,
    /// Everything that is, or was, wrong.
    pub findings: Vec<Finding>,
    /// Where a repair put the bytes of records that it could not read, or listed what it set aside.
    pub quarantine: Option<PathBuf>,
    /// Where a repair that had to make a new file left the damaged one.
    pub damaged: Option<PathBuf>,
}

impl Report {
    /// How many records can be read.
    pub fn records(&self) -> u64 {
        self.counts.values().sum()
    }
}

pub(super) fn open(folder: &DataFolder, cache_bytes: usize) -> Result<Arc<dyn KvEngine>> {
    let path = folder.store();
    if !path.exists() {
        return Err(MaintenanceError::Missing(path));
    }
    let engine = open_engine(folder.engine(), &path, cache_bytes).map_err(|error| match error {
        StoreError::Damaged(detail) => MaintenanceError::Damaged(detail),
        unavailable => MaintenanceError::Store(unavailable),
    })?;
    check_format(&*engine)?;
    Ok(engine)
}

/// Reads every record and every index entry and compares them.
///
/// # Errors
/// If the store cannot be opened or read at all.
pub fn check(folder: &DataFolder, cache_bytes: usize) -> Result<Report> {
    inspect(&*open(folder, cache_bytes)?, &mut |_| Ok(()))
}

/// Checks, and mends what it finds: rewrites indexes and counters, and moves records that cannot be read
/// into a file beside the store. Of an engine's file that is damaged it makes a new one, with all that can be
/// read and is settled.
///
/// # Errors
/// If the store cannot be read or written, or holds no record; what was mended so far stays mended.
pub fn repair(folder: &DataFolder, cache_bytes: usize) -> Result<Report> {
    match open(folder, cache_bytes).and_then(|engine| mend(folder, &*engine)) {
        Err(MaintenanceError::Damaged(detail)) => {
            tracing::warn!(
                detail,
                "the file is damaged; a new one is made of what can be read"
            );
            salvage::salvage(folder, cache_bytes)
        }
        other => other,
    }
}

fn mend(folder: &DataFolder, engine: &dyn KvEngine) -> Result<Report> {
    let path = folder
        .store()
        .with_extension(format!("unreadable-{}.txt", TransactionId::new()));
    let mut quarantine: Option<File> = None;
    let mut mending = Batch::default();
    let mut mend = |fix: Fix| {
        match fix {
            Fix::Put(key, value) => mending.put(key, value),
            Fix::Delete(key) => mending.delete(key),
            Fix::Quarantine(key, value) => {
                let file = match &mut quarantine {
                    Some(file) => file,
                    none => none.insert(File::create(&path)?),
                };
                writeln!(file, "{} {}", key.escape_ascii(), STANDARD.encode(&value))?;
                // Its effect may stand on the ledger: a repeat of its request must not become a new one.
                if let Some(id) = keys::id(&key) {
                    mending.put(keys::set_aside(id), Vec::new());
                }
                mending.delete(key);
            }
        }
        Ok(())
    };
    let mut report = inspect(engine, &mut mend)?;
    if let Some(file) = quarantine {
        file.sync_all()?;
        report.quarantine = Some(path);
    }
    let mut pieces = Pieces::new(engine);
    for (key, value) in mending.into_writes() {
        match value {
            Some(value) => pieces.put((key, value))?,
            None => pieces.delete(key)?,
        }
    }
    pieces.finish()?;
    Ok(report)
}

enum Fix {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Quarantine(Vec<u8>, Vec<u8>),
}

fn inspect(engine: &dyn KvEngine, mend: &mut dyn FnMut(Fix) -> Result<()>) -> Result<Report> {
    let mut report = Report::default();
    each(engine, b"r", &mut |key, value| {
        let known = keys::id(key);
        let id = known.map_or_else(|| key.escape_ascii().to_string(), |id| id.to_string());
        let tx = match record::decode(known.unwrap_or(TransactionId::LOWEST), value) {
            Ok(tx) => tx,
            Err(StoreError::Damaged(reason) | StoreError::Unavailable(reason)) => {
                report.findings.push(Finding::Unreadable { id, reason });
                return mend(Fix::Quarantine(key.to_vec(), value.to_vec()));
            }
        };
        for (key, value) in keys::index(&tx) {
            let announced = key.starts_with(b"d") && engine.get(&keys::announced(&key))?.is_some();
            if engine.get(&key)?.as_ref() != Some(&value) && !announced {
                report.findings.push(Finding::Missing { id: id.clone() });
                mend(Fix::Put(key, value))?;
            }
        }
        *report
            .counts
            .entry((tx.request.ledger.clone(), tx.status()))
            .or_default() += 1;
        Ok(())
    })?;
    for kind in [b"l", b"t", b"d", b"a", b"e", b"i"] {
        each(engine, kind, &mut |key, value| {
            let id = keys::id(if kind == b"i" { value } else { key });
            let bytes = id.map(|id| engine.get(&keys::record(id))).transpose()?.flatten();
            let aside = id
                .map(|id| engine.get(&keys::set_aside(id)))
                .transpose()?
                .flatten();
            let wanted = match id.zip(bytes).map(|(id, bytes)| record::decode(id, &bytes)) {
                Some(Ok(tx)) => {
                    let key = match kind {
                        b"a" => keys::unannounced(key),
                        _ => key.to_vec(),
                    };
                    keys::index(&tx).iter().any(|(wanted, _)| *wanted == key)
                }
                // The key of a record that cannot be read stays taken.
                Some(Err(_)) => kind == b"i",
                None => kind == b"i" && aside.is_some(),
            };
            if wanted {
                return Ok(());
            }
            report.findings.push(Finding::Stale {
                key: key.escape_ascii().to_string(),
            });
            mend(Fix::Delete(key.to_vec()))
        })?;
    }
    each(engine, b"k", &mut |key, value| {
        if value.len() == size_of::<u64>() {
            return Ok(());
        }
        report.findings.push(Finding::Stale {
            key: key.escape_ascii().to_string(),
        });
        mend(Fix::Delete(key.to_vec()))
    })?;
    let mut stored = Counts::new();
    each(
        engine,
        b"c",
        &mut |key, value| match (keys::counted(key), value.try_into()) {
            (Some(what), Ok(count)) => {
                stored.insert(what, u64::from_be_bytes(count));
                Ok(())
            }
            _ => {
                report.findings.push(Finding::Stale {
                    key: key.escape_ascii().to_string(),
                });
                mend(Fix::Delete(key.to_vec()))
            }
        },
    )?;
    let all: std::collections::BTreeSet<_> = stored.keys().chain(report.counts.keys()).cloned().collect();
    for what in all {
        let says = stored.get(&what).copied().unwrap_or_default();
        let actual = report.counts.get(&what).copied().unwrap_or_default();
        if says != actual {
            mend(Fix::Put(
                keys::count(&what.0, what.1),
                actual.to_be_bytes().to_vec(),
            ))?;
            report.findings.push(Finding::Miscounted {
                what: format!("{} {}", what.0, what.1.as_str()),
                stored: says,
                actual,
            });
        }
    }
    Ok(report)
}

/// Called for every entry; an error ends the scan.
type Try<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> Result<()>;

fn each(engine: &dyn KvEngine, prefix: &[u8], visit: Try<'_>) -> Result<()> {
    let mut result = Ok(());
    let end = super::after(prefix);
    engine.scan(
        prefix..&end,
        Order::Ascending,
        &mut |key, value| match visit(key, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                result = Err(error);
                ControlFlow::Break(())
            }
        },
    )?;
    result
}

/// Writes the store anew without the space that was freed in it. Answers the sizes before and after, bytes.
///
/// # Errors
/// If the store cannot be read or the disk has no room for a second copy; the store is then as it was.
pub fn compact(folder: &DataFolder, cache_bytes: usize) -> Result<(u64, u64)> {
    let engine = open(folder, cache_bytes)?;
    let before = size(&folder.store())?;
    let (new, _) = folder.compacting();
    {
        let copy = kv::open(folder.engine(), &new, cache_bytes)?;
        let mut pieces = Pieces::new(&*copy);
        each(&*engine, b"", &mut |key, value| {
            Ok(pieces.put((key.to_vec(), value.to_vec()))?)
        })?;
        pieces.finish()?;
    }
    drop(engine);
    folder.replace_store()?;
    Ok((before, size(&folder.store())?))
}

fn size(path: &Path) -> io::Result<u64> {
    let lengths = seal::files(path)?
        .into_iter()
        .map(|file| Ok(file.metadata()?.len()));
    lengths.sum()
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
