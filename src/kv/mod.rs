//! A narrow key-value seam over an embedded engine: get, ordered scan, one atomic durable batch.
//!
//! Invariant: when [`KvEngine::commit`] returns `Ok`, every write of the batch survives SIGKILL and power
//! loss; after a crash either the whole batch is there or none of it. Two engines implement it, redb (the
//! default) and sled; `docs/adr/0003-embedded-engines.md` says why.

mod redb;
mod reopen;
pub(crate) mod seal;
mod sled;

#[cfg(test)]
mod conformance;

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::path::Path;

use thiserror::Error;

/// Why an engine could not do what it was asked, sorted by what helps.
#[derive(Debug, Error)]
pub enum KvError {
    /// The disk refused (full, read-only, unplugged). What was asked may or may not have happened; the
    /// same call can succeed once the disk is well again.
    #[error("the disk refused: {0}")]
    Disk(String),
    /// The engine does not go on: there is no room, or a write failed and it cannot be opened anew. What was
    /// asked may have happened only if it is the write that failed.
    #[error("{0}")]
    Refused(String),
    /// Somebody else has the file open.
    #[error("another process has it open")]
    Locked,
    /// The file is damaged, or not a file of this engine.
    #[error("the file is damaged: {0}")]
    Damaged(String),
}

/// Which engine keeps the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// [redb](https://docs.rs/redb) 4, copy-on-write B-trees.
    Redb,
    /// [sled](https://docs.rs/sled) 0.34, log-structured.
    Sled,
}

impl EngineKind {
    /// Both engines.
    pub const ALL: [Self; 2] = [Self::Redb, Self::Sled];

    /// The name in the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redb => "redb",
            Self::Sled => "sled",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Direction of a scan over keys in byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    Ascending,
    /// Largest key first.
    Descending,
}

/// A key and what it is set to; `None` removes it.
pub type Write = (Vec<u8>, Option<Vec<u8>>);

/// Writes that become durable together. Later writes to a key win over earlier ones.
#[derive(Debug, Default)]
pub struct Batch {
    writes: Vec<Write>,
    bytes: usize,
}

impl Batch {
    /// Sets `key` to `value`.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += key.len() + value.len();
        self.writes.push((key, Some(value)));
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.bytes += key.len();
        self.writes.push((key, None));
    }

    /// Whether nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Size of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The writes in order.
    pub fn into_writes(self) -> Vec<Write> {
        self.writes
    }
}

/// What a scan calls for every key and value; `Break` ends it.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// An embedded ordered key-value engine. All calls block; `commit` waits for the disk.
pub trait KvEngine: Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`KvError`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Visits the keys of a half-open range in order. Whether writes made meanwhile are seen is up to the
    /// engine; the visitor must not write.
    ///
    /// # Errors
    /// [`KvError`]; what was visited before it stays visited.
    fn scan(&self, range: Range<&[u8]>, order: Order, visit: Visit<'_>) -> Result<(), KvError>;

    /// Applies a batch atomically and returns once it is on the disk.
    ///
    /// # Errors
    /// [`KvError::Disk`] leaves open whether the batch took effect (never a part of it).
    fn commit(&self, batch: Batch) -> Result<(), KvError>;
}

/// Whether something was ever written to the engine's file at `path`, whatever has become of it since.
pub fn was_written(path: &Path) -> bool {
    seal::path(path).exists()
}

/// Opens, or creates, the engine `kind` at `path` with about `cache_bytes` of cache. An engine that fails
/// with [`KvError::Disk`] is closed and opened anew by the next call, so it recovers when the disk does.
/// (sled cannot be closed after a failed write; it is kept from running into a full disk instead.)
///
/// A file that was closed in order has to be as it was left ([`seal`]), and an engine that panics over what it
/// reads has met damage.
///
/// # Errors
/// [`KvError`], among them [`KvError::Locked`] if another process has it open.
pub fn open(kind: EngineKind, path: &Path, cache_bytes: usize) -> Result<Box<dyn KvEngine>, KvError> {
    let path = path.to_owned();
    let opener = {
        let path = path.clone();
        move || match kind {
            EngineKind::Redb => redb::RedbEngine::open(&path, cache_bytes)
                .map(|engine| -> Box<dyn KvEngine> { Box::new(engine) }),
            EngineKind::Sled => sled::SledEngine::open(&path, cache_bytes)
                .map(|engine| -> Box<dyn KvEngine> { Box::new(engine) }),
        }
    };
    Ok(Box::new(reopen::Reopening::open(kind, path, Box::new(opener))?))
}
