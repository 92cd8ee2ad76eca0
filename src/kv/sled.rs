//! The engine that is one line of configuration away: sled 0.34, its default tree.
//!
//! Three things make it keep the promise of the seam. `flush` alone ends in `sync_file_range`, which does
//! not survive a power cut, so every commit also syncs a second descriptor of the log file. Opening or reading a
//! damaged log can panic, which [`super::reopen`] turns into an error. And after a failed write sled can
//! neither go on nor be closed (its drop waits for ever for the log to become stable), so a commit is not
//! begun unless there is ample room, and an engine that failed all the same is set aside until the process
//! ends: it refuses everything and says that a restart is needed.

use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sled::{Config, Db, Mode};

use super::{Batch, KvEngine, KvError, Order, Visit};
use crate::failpoint;

/// sled's own threads may hold its files a moment longer than its last handle, so a lock is waited for.
const LINGER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// A commit is begun only if so much is free beyond four times its own size: sled writes ahead in segments
/// of 512 KiB, several at a time.
const ROOM: u64 = 8 << 20;

pub(super) struct SledEngine {
    /// Always there until the drop.
    db: Option<Db>,
    log: File,
    /// The first failed write, after which nothing else is tried.
    failed: OnceLock<String>,
}

impl SledEngine {
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, KvError> {
        let config = Config::new()
            .path(path)
            .cache_capacity(cache_bytes as u64)
            .mode(Mode::HighThroughput)
            .flush_every_ms(None);
        let patience = Instant::now() + LINGER;
        let db = loop {
            match config.open().map_err(opening) {
                Err(KvError::Locked) if Instant::now() < patience => std::thread::sleep(PAUSE),
                other => break other?,
            }
        };
        // Opened without truncation: the descriptor is only there to be synced.
        let log = File::options()
            .write(true)
            .open(path.join("db"))
            .map_err(|error| KvError::Disk(error.to_string()))?;
        Ok(Self {
            db: Some(db),
            log,
            failed: OnceLock::new(),
        })
    }

    fn db(&self) -> Result<&Db, KvError> {
        match (self.failed.get(), &self.db) {
            (None, Some(db)) => Ok(db),
            (failed, _) => Err(KvError::Refused(format!(
                "sled cannot go on after a failed write ({}); restart the gateway once the disk is well",
                failed.map_or("closed", String::as_str)
            ))),
        }
    }

    /// Keeps sled from running into a disk that is full or read-only.
    fn make_sure_of_room(&self, bytes: usize) -> Result<(), KvError> {
        let disk = rustix::fs::fstatvfs(&self.log).map_err(|error| KvError::Refused(error.to_string()))?;
        if disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return Err(KvError::Refused("the disk is read-only".to_owned()));
        }
        let needed = ROOM + 4 * bytes as u64;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < needed {
            return Err(KvError::Refused(format!(
                "the disk is full: {free} bytes are free, {needed} are needed"
            )));
        }
        Ok(())
    }

    fn write(&self, db: &Db, writes: sled::Batch) -> Result<(), KvError> {
        db.apply_batch(writes).map_err(storage)?;
        failpoint::reached("store-before-sync");
        db.flush().map_err(storage)?;
        self.log
            .sync_data()
            .map_err(|error| KvError::Disk(error.to_string()))
    }
}

impl KvEngine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let value = self.db()?.get(key).map_err(storage)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, range: Range<&[u8]>, order: Order, visit: Visit<'_>) -> Result<(), KvError> {
        let mut entries = self.db()?.range(range);
        while let Some(entry) = match order {
            Order::Ascending => entries.next(),
            Order::Descending => entries.next_back(),
        } {
            let (key, value) = entry.map_err(storage)?;
            if let ControlFlow::Break(()) = visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let db = self.db()?;
        self.make_sure_of_room(batch.bytes())?;
        let mut writes = sled::Batch::default();
        for (key, value) in batch.into_writes() {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.write(db, writes).map_err(|error| {
            tracing::error!(%error, "sled failed to write; restart the gateway once the disk is well");
            let first = self.failed.get_or_init(|| error.to_string()).clone();
            match error {
                KvError::Damaged(_) => error,
                KvError::Disk(_) | KvError::Refused(_) | KvError::Locked => KvError::Refused(first),
            }
        })
    }
}

impl Drop for SledEngine {
    fn drop(&mut self) {
        if self.failed.get().is_some() {
            // Dropping it would wait for ever. The process is about to end, or to be restarted.
            std::mem::forget(self.db.take());
        }
    }
}

fn opening(error: sled::Error) -> KvError {
    match error {
        // sled tells a held lock only by its text; anything else that starts otherwise is the disk.
        sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => KvError::Locked,
        other => storage(other),
    }
}

fn storage(error: sled::Error) -> KvError {
    match error {
        sled::Error::Corruption { .. } => KvError::Damaged(error.to_string()),
        other => KvError::Disk(other.to_string()),
    }
}
