//! The engine that is one line of configuration away: sled 0.34, its default tree.
//!
//! Two things make it keep the promise of the seam. `flush` alone ends in `sync_file_range`, which does
//! not survive a power cut, so every commit also syncs a second descriptor of the log file. And opening a
//! damaged log can panic, so opening is guarded and the panic becomes an error that says what to do.

use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use sled::{Config, Db, Mode};

use super::{Batch, KvEngine, KvError, Order, Visit};

/// sled's own threads may hold its files a moment longer than its last handle, so a lock is waited for.
const LINGER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

pub(super) struct SledEngine {
    db: Db,
    log: File,
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
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
                .map_err(|_| KvError::Damaged("sled could not read its log and gave up".to_owned()))?
                .map_err(opening);
            match opened {
                Err(KvError::Locked) if Instant::now() < patience => std::thread::sleep(PAUSE),
                other => break other?,
            }
        };
        // Opened without truncation: the descriptor is only there to be synced.
        let log = File::options()
            .write(true)
            .open(path.join("db"))
            .map_err(|error| KvError::Disk(error.to_string()))?;
        Ok(Self { db, log })
    }
}

impl KvEngine for SledEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let value = self.db.get(key).map_err(storage)?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, range: Range<&[u8]>, order: Order, visit: Visit<'_>) -> Result<(), KvError> {
        let mut entries = self.db.range(range);
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
        let mut writes = sled::Batch::default();
        for (key, value) in batch.into_writes() {
            match value {
                Some(value) => writes.insert(key, value),
                None => writes.remove(key),
            }
        }
        self.db.apply_batch(writes).map_err(storage)?;
        self.db.flush().map_err(storage)?;
        self.log
            .sync_data()
            .map_err(|error| KvError::Disk(error.to_string()))
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
