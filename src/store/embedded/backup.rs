//! A backup: the store in one file that describes itself, is checked as a whole, and fits either engine.
//!
//! ```text
//! "SLUICEGATE BACKUP 1\n"
//! length (u32) and JSON                         the header
//! lengths of key and value (u32 each), both     an entry, and so on
//! 0 (u32), how many entries (u64)               the end; u32::MAX instead: length (u32) and why it was given up
//! SHA-256 of everything before
//! ```
//!
//! Numbers are little-endian. Of the store it holds what nothing else follows from: checkpoints, records, what a repair
//! set aside, idempotency entries and documents, in this order.
//!
//! Invariants: what was acknowledged before the backup began is in it. Each record stands in it as it stood at one
//! moment of the copying, and a checkpoint as it stood before all of them, so no outcome before it is missing in a
//! record. That is enough, for no record says anything about another. Nothing is locked, and nothing waits. A file that is
//! cut short or changed anywhere is refused.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::{DataFolder, EmbeddedStore, MaintenanceError, after, counts_of, keys, maintenance};
use crate::domain::{LedgerName, LedgerTxId, Timestamp};
use crate::kv::{KvEngine, KvError, Order};

const MAGIC: &[u8] = b"SLUICEGATE BACKUP ";
const VERSION: &[u8] = b"1\n";

/// Instead of a key's length: the end, and the end before its time.
const END: u32 = 0;
const GIVEN_UP: u32 = u32::MAX;

/// Larger is none of these, so a damaged length does not read for ever.
const LONGEST_KEY: u32 = 64 << 10;
const LONGEST_TEXT: u32 = 1 << 20;

/// So much is read at once. What is read is written when the engine is left, so a slow reader keeps nothing in it.
const PIECE: usize = 1 << 20;

/// What is copied; checkpoints first.
const KINDS: [&[u8]; 5] = [b"k", b"r", b"q", b"i", b"x"];

/// What stands before the entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The version of the program that made it.
    pub program: String,
    /// When it was begun.
    pub made_at: Timestamp,
    /// About how many records it holds.
    pub records: u64,
    /// Who the gateway is to each ledger: the identifier that a submission of no record would have. Another one now
    /// means that the identifiers of all submissions are others.
    pub identities: BTreeMap<LedgerName, LedgerTxId>,
}

/// Why a backup cannot be made, or used.
#[derive(Debug, Error)]
pub enum BackupError {
    /// It is something else.
    #[error("this is no backup of a sluicegate store")]
    Foreign,
    /// A newer version made it.
    #[error("this backup has a newer format; use the sluicegate that made it, or a later one")]
    Newer,
    /// It ends too early.
    #[error("the backup is cut short: it is not complete and cannot be used; take another one")]
    CutShort,
    /// Its contents are not what was written.
    #[error("the backup is damaged ({0}) and cannot be used; take another one")]
    Damaged(&'static str),
    /// Whoever made it could not go on.
    #[error("the backup was given up: {0}")]
    GivenUp(String),
    /// It cannot be read or written.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::CutShort,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Self::GivenUp("the gateway did not go on with it for too long".to_owned())
            }
            _ => Self::Io(error),
        }
    }
}

impl EmbeddedStore {
    /// What backups are read from.
    pub fn source(&self) -> BackupSource {
        BackupSource(self.engine.clone())
    }
}

/// A store that backups can be taken from, running or not.
#[derive(Clone)]
pub struct BackupSource(Arc<dyn KvEngine>);

impl BackupSource {
    /// Opens the store of a folder that nobody uses. Blocks.
    ///
    /// # Errors
    /// [`MaintenanceError`].
    pub fn open(folder: &DataFolder, cache_bytes: usize) -> Result<Self, MaintenanceError> {
        Ok(Self(maintenance::open(folder, cache_bytes)?))
    }

    /// Writes a backup, begun at `made_at` by one who is known by `identities` to the ledgers. Blocks.
    ///
    /// # Errors
    /// If `to` refuses, or the store cannot be read, which whoever reads the backup is told as well.
    pub fn write(
        &self,
        made_at: Timestamp,
        identities: BTreeMap<LedgerName, LedgerTxId>,
        to: &mut dyn Write,
    ) -> io::Result<()> {
        // About how many records there are.
        let records = match counts_of(&*self.0) {
            Ok(counts) => counts.values().sum(),
            Err(error) => {
                refuse_backup(to, &error.to_string())?;
                return Err(io::Error::other(error));
            }
        };
        let header = BackupHeader {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            made_at,
            records,
            identities,
        };
        write(&*self.0, &header, to)
    }
}

/// Writes a backup of `engine` to `to`.
///
/// # Errors
/// If `to` refuses; what was written is then cut short. If the engine fails; whoever reads is told why.
fn write(engine: &dyn KvEngine, header: &BackupHeader, to: &mut dyn Write) -> io::Result<()> {
    let mut to = Digesting::begin(to)?;
    let json = serde_json::to_vec(header)?;
    to.number(u32::try_from(json.len()).map_err(io::Error::other)?)?;
    to.write_all(&json)?;
    let mut entries = 0_u64;
    for kind in KINDS {
        let (mut from, end) = (kind.to_vec(), after(kind));
        loop {
            let piece = match piece(engine, &from, &end) {
                Ok(piece) => piece,
                Err(error) => {
                    give_up(&mut to, &error.to_string())?;
                    return Err(io::Error::other(error));
                }
            };
            let Some((last, _)) = piece.last() else { break };
            from = [last, &[0][..]].concat();
            for (key, value) in &piece {
                to.entry(key, value)?;
            }
            entries += piece.len() as u64;
        }
    }
    to.number(END)?;
    to.write_all(&entries.to_le_bytes())?;
    let digest = to.digest.finalize();
    to.inner.write_all(&digest)?;
    to.inner.flush()
}

/// The entries from `from` on, up to about [`PIECE`] bytes of them.
fn piece(engine: &dyn KvEngine, from: &[u8], to: &[u8]) -> Result<Vec<keys::Entry>, KvError> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    engine.scan(from..to, Order::Ascending, &mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        bytes += key.len() + value.len();
        match bytes < PIECE {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(entries)
}

/// Tells whoever reads that there will be no backup, or no more of it.
///
/// # Errors
/// If `to` refuses.
pub fn refuse_backup(to: &mut dyn Write, why: &str) -> io::Result<()> {
    give_up(&mut Digesting::begin(to)?, why)
}

fn give_up(to: &mut Digesting<'_>, why: &str) -> io::Result<()> {
    let why = &why.as_bytes()[..why.len().min(LONGEST_TEXT as usize)];
    to.number(GIVEN_UP)?;
    to.number(u32::try_from(why.len()).map_err(io::Error::other)?)?;
    to.write_all(why)?;
    to.inner.flush()
}

/// Keeps the digest of what is written.
struct Digesting<'w> {
    inner: &'w mut dyn Write,
    digest: Sha256,
}

impl<'w> Digesting<'w> {
    /// Writes what every backup begins with.
    fn begin(inner: &'w mut dyn Write) -> io::Result<Self> {
        let digest = Sha256::new();
        let mut to = Self { inner, digest };
        to.write_all(MAGIC)?;
        to.write_all(VERSION)?;
        Ok(to)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.inner.write_all(bytes)
    }

    fn number(&mut self, number: u32) -> io::Result<()> {
        self.write_all(&number.to_le_bytes())
    }

    fn entry(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        for part in [key, value] {
            self.number(u32::try_from(part.len()).map_err(io::Error::other)?)?;
        }
        self.write_all(key)?;
        self.write_all(value)
    }
}

/// A key of the store, and its value.
pub type BackupEntry = (Vec<u8>, Vec<u8>);

/// Reads a backup, entry by entry. Only once [`next`](Self::next) has answered `None` is it known to be whole.
pub struct BackupReader<R> {
    from: Digested<R>,
    header: BackupHeader,
    entries: u64,
    records: u64,
}

impl<R: Read> BackupReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn open(from: R) -> Result<Self, BackupError> {
        let mut from = Digested {
            inner: from,
            digest: Sha256::new(),
        };
        match from.bytes(MAGIC.len()) {
            Ok(magic) if magic == MAGIC => {}
            Ok(_) | Err(BackupError::CutShort) => return Err(BackupError::Foreign),
            Err(error) => return Err(error),
        }
        if from.bytes(VERSION.len())? != VERSION {
            return Err(BackupError::Newer);
        }
        let length = match from.number()? {
            GIVEN_UP => return Err(from.why_given_up()),
            length if length > LONGEST_TEXT => return Err(BackupError::Damaged("its header has no end")),
            length => length as usize,
        };
        let header = serde_json::from_slice(&from.bytes(length)?);
        Ok(Self {
            from,
            header: header.map_err(|_| BackupError::Damaged("its header cannot be read"))?,
            entries: 0,
            records: 0,
        })
    }

    /// What stands before the entries.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// What it reads from.
    pub fn get_ref(&self) -> &R {
        &self.from.inner
    }

    /// How many records were among the entries so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The next key and value; `None` at the end, if all of it is as it was written.
    ///
    /// # Errors
    /// [`BackupError`].
    #[expect(clippy::should_implement_trait, reason = "it may fail")]
    pub fn next(&mut self) -> Result<Option<BackupEntry>, BackupError> {
        let key = match self.from.number()? {
            END => return self.end().map(|()| None),
            GIVEN_UP => return Err(self.from.why_given_up()),
            length if length > LONGEST_KEY => return Err(BackupError::Damaged("a key has no end")),
            length => length as usize,
        };
        let value = self.from.number()? as usize;
        let (key, value) = (self.from.bytes(key)?, self.from.bytes(value)?);
        self.entries += 1;
        self.records += u64::from(key.starts_with(b"r"));
        Ok(Some((key, value)))
    }

    fn end(&mut self) -> Result<(), BackupError> {
        if self.from.bytes(size_of::<u64>())? != self.entries.to_le_bytes() {
            return Err(BackupError::Damaged(
                "it does not hold as many entries as it says",
            ));
        }
        let digest = self.from.digest.clone().finalize();
        if self.from.bytes(digest.len())?[..] != digest[..] {
            return Err(BackupError::Damaged("its checksum does not match"));
        }
        match self.from.inner.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(BackupError::Damaged("something follows its end")),
        }
    }
}

/// Keeps the digest of what is read.
struct Digested<R> {
    inner: R,
    digest: Sha256,
}

impl<R: Read> Digested<R> {
    fn number(&mut self) -> Result<u32, BackupError> {
        let mut bytes = [0; 4];
        self.inner.read_exact(&mut bytes)?;
        self.digest.update(bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    /// Takes no more memory than there are bytes, whatever a damaged length says.
    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, BackupError> {
        let mut bytes = Vec::new();
        self.inner.by_ref().take(length as u64).read_to_end(&mut bytes)?;
        if bytes.len() < length {
            return Err(BackupError::CutShort);
        }
        self.digest.update(&bytes);
        Ok(bytes)
    }

    fn why_given_up(&mut self) -> BackupError {
        let words = self
            .number()
            .and_then(|length| self.bytes(length.min(LONGEST_TEXT) as usize));
        match words {
            Ok(words) => BackupError::GivenUp(String::from_utf8_lossy(&words).into_owned()),
            Err(error) => error,
        }
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
