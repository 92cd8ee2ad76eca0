//! Makes a store from a backup.
//!
//! Everything that follows from a record is made anew, so the backup fits either engine. What was not settled is marked
//! as [rewound](Transaction::rewound): more may have happened to it than the backup knows, and the ledger is asked first.
//!
//! Invariant: there is no store, or a whole one. It is made beside its place and moved there once it is on the disk; what
//! a crash leaves beside it, the next use of the folder removes.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::backup::{BackupError, BackupHeader, BackupReader};
use super::folder::{self, DataFolder};
use super::pieces::Pieces;
use super::writer::store_error;
use super::{Counts, EmbeddedStore, keys, record};
use crate::domain::{LedgerName, LedgerTxId, State, Status, Timestamp, Transaction, TransactionId};
use crate::kv::{self, KvEngine, KvError, Order};
use crate::store::StoreError;

const BUFFER: usize = 256 << 10;

/// Why a backup was not restored. Whatever it is, nothing was changed.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// There is something to lose.
    #[error(
        "there is a store already at {0}; move the data folder away first, or set store.path to another folder"
    )]
    Occupied(PathBuf),
    /// The backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The new store cannot be written.
    #[error(transparent)]
    Engine(#[from] KvError),
    /// A record cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data folder refuses.
    #[error("the data folder refuses: {0}")]
    Folder(io::Error),
}

/// What the store remembers of having been restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When it was restored.
    pub at: Timestamp,
    /// When the backup was begun.
    pub made_at: Timestamp,
    /// Who the gateway was to its ledgers then ([`BackupHeader::identities`]).
    pub identities: BTreeMap<LedgerName, LedgerTxId>,
}

/// Who the gateway has to be, to its ledgers, when it starts on what was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identities {
    /// The same as when the backup was made; else what the ledger has already would not be found there.
    MustMatch,
    /// Anybody: what was submitted after the backup may then be submitted again.
    MayDiffer,
}

/// What is in a backup, or was restored.
#[derive(Debug)]
pub struct Inventory {
    /// What it says of itself.
    pub header: BackupHeader,
    /// Readable records, by ledger and status.
    pub counts: Counts,
    /// Records that were unreadable already when the backup was made.
    pub unreadable: u64,
}

/// Told, after each record, how many there were.
pub type Progress<'p> = &'p mut dyn FnMut(u64);

/// Reads all of a backup and answers what is in it. Changes nothing.
///
/// # Errors
/// [`BackupError`] if it cannot be used.
pub fn verify_backup(file: &Path, progress: Progress<'_>) -> Result<Inventory, BackupError> {
    let mut reader = open(file)?;
    let mut inventory = Inventory::of(&reader);
    while let Some((key, value)) = reader.next()? {
        if key.starts_with(b"r") {
            inventory.add(readable(&key, &value).as_ref());
            progress(reader.records());
        }
    }
    Ok(inventory)
}

/// Makes the store of `folder` from a backup, at the moment `at`. Reads all of the backup before anything is in place.
///
/// # Errors
/// [`RestoreError`]; there is then no store.
pub fn restore(
    folder: &DataFolder,
    cache_bytes: usize,
    file: &Path,
    at: Timestamp,
    identities: Identities,
    progress: Progress<'_>,
) -> Result<Inventory, RestoreError> {
    if folder.store().exists() {
        return Err(RestoreError::Occupied(folder.store()));
    }
    let reader = open(file)?;
    let header = reader.header().clone();
    let restored = Restored {
        at,
        made_at: header.made_at,
        identities: match identities {
            Identities::MustMatch => header.identities,
            Identities::MayDiffer => BTreeMap::new(),
        },
    };
    let (new, _) = folder.compacting();
    let engine = kv::open(folder.engine(), &new, cache_bytes)?;
    let filled = fill(&*engine, reader, &restored, progress);
    drop(engine);
    let placed = filled.and_then(|inventory| {
        folder.place_store().map_err(RestoreError::Folder)?;
        Ok(inventory)
    });
    if placed.is_err()
        && let Err(error) = folder::remove(&new)
    {
        tracing::warn!(%error, "what was begun is removed when the data folder is used next");
    }
    placed
}

impl EmbeddedStore {
    /// That this store was restored from a backup, if so. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn restored(&self) -> Result<Option<Restored>, StoreError> {
        let stored = self.engine.get(keys::RESTORED).map_err(store_error)?;
        let read = stored.map(|json| serde_json::from_slice(&json)).transpose();
        read.map_err(|error| StoreError::Damaged(format!("its note of the backup cannot be read: {error}")))
    }

    /// Whether something of this ledger is neither settled nor sure to be what the ledger knows
    /// ([`Transaction::rewound`]), and may be submitted. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn has_rewound(&self, ledger: &LedgerName) -> Result<bool, StoreError> {
        let from = keys::listing(ledger, Status::Pending, TransactionId::LOWEST);
        let to = keys::listing(ledger, Status::Pending, TransactionId::HIGHEST);
        let mut found = Ok(false);
        self.engine
            .scan(&from..&to, Order::Ascending, &mut |key, _| {
                found = keys::id(key).map_or(Ok(false), |id| {
                    // One that cannot be read is not submitted, nor is one that waits for a person.
                    let read = self.engine.get(&keys::record(id))?;
                    let tx = read.and_then(|bytes| record::decode(id, &bytes).ok());
                    Ok(tx.is_some_and(|tx| tx.rewound && !matches!(tx.state, State::Parked { .. })))
                });
                match found {
                    Ok(false) => ControlFlow::Continue(()),
                    Ok(true) | Err(_) => ControlFlow::Break(()),
                }
            })
            .map_err(store_error)?;
        found.map_err(store_error)
    }
}

impl Inventory {
    fn of<R: Read>(reader: &BackupReader<R>) -> Self {
        Self {
            header: reader.header().clone(),
            counts: Counts::new(),
            unreadable: 0,
        }
    }

    fn add(&mut self, record: Option<&Transaction>) {
        match record {
            Some(tx) => {
                *self
                    .counts
                    .entry((tx.request.ledger.clone(), tx.status()))
                    .or_default() += 1
            }
            None => self.unreadable += 1,
        }
    }
}

/// The record of an entry.
fn readable(key: &[u8], value: &[u8]) -> Option<Transaction> {
    record::decode(keys::id(key)?, value).ok()
}

fn open(file: &Path) -> Result<BackupReader<BufReader<File>>, BackupError> {
    let file = File::open(file).map_err(BackupError::Io)?;
    BackupReader::open(BufReader::with_capacity(BUFFER, file))
}

fn fill(
    engine: &dyn KvEngine,
    mut reader: BackupReader<BufReader<File>>,
    restored: &Restored,
    progress: Progress<'_>,
) -> Result<Inventory, RestoreError> {
    let mut inventory = Inventory::of(&reader);
    let mut pieces = Pieces::of_new_store(engine);
    let json = serde_json::to_vec(restored).map_err(|error| StoreError::Damaged(error.to_string()))?;
    pieces.put((keys::RESTORED.to_vec(), json))?;
    // Records that cannot be read, or were set aside for that: their idempotency keys stay taken.
    let mut lost = HashSet::new();
    while let Some((key, value)) = reader.next()? {
        match key.first() {
            Some(b'r') => {
                let readable = readable(&key, &value);
                inventory.add(readable.as_ref());
                if let Some(mut tx) = readable {
                    tx.rewound |= !tx.is_settled();
                    pieces.put_record(&tx, record::encode(&tx)?)?;
                } else {
                    // As it was: `store check` tells of it, and `store repair` sets it aside.
                    lost.extend(keys::id(&key));
                    pieces.put((key, value))?;
                }
                progress(reader.records());
            }
            // That of any other record follows from it, or it was made and removed during the copying.
            Some(b'i') if keys::id(&value).is_none_or(|id| !lost.contains(&id)) => {}
            Some(b'q') => {
                lost.extend(keys::id(&key));
                pieces.put((key, value))?;
            }
            _ => pieces.put((key, value))?,
        }
    }
    pieces.put_counts(&inventory.counts)?;
    pieces.finish()?;
    Ok(inventory)
}
