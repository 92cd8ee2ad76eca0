//! The default engine: redb, one table of bytes to bytes.
//!
//! Every commit is one redb write transaction with `Durability::Immediate`: copy-on-write pages, a
//! checksummed commit slot, one sync. A crash leaves the last commit slot that verifies.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError, TableDefinition};

use super::{Batch, KvEngine, KvError, Order, Visit};
use crate::failpoint;

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");

pub(super) struct RedbEngine(Database);

impl RedbEngine {
    pub(super) fn open(path: &Path, cache_bytes: usize) -> Result<Self, KvError> {
        let database = Builder::new()
            .set_cache_size(cache_bytes)
            .create(path)
            .map_err(opening)?;
        let engine = Self(database);
        // Makes sure that the table exists, so that readers need not care.
        if engine.is_new()? {
            engine.commit(Batch::default())?;
        }
        Ok(engine)
    }

    fn is_new(&self) -> Result<bool, KvError> {
        let reading = self.0.begin_read().map_err(|error| storage(error.into()))?;
        match reading.open_table(TABLE) {
            Ok(_) => Ok(false),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(true),
            Err(error) => Err(storage(error.into())),
        }
    }
}

impl KvEngine for RedbEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let reading = self.0.begin_read().map_err(|error| storage(error.into()))?;
        let table = reading.open_table(TABLE).map_err(|error| storage(error.into()))?;
        let value = table.get(key).map_err(|error| storage(error.into()))?;
        Ok(value.map(|guard| guard.value().to_vec()))
    }

    fn scan(&self, range: Range<&[u8]>, order: Order, visit: Visit<'_>) -> Result<(), KvError> {
        let reading = self.0.begin_read().map_err(|error| storage(error.into()))?;
        let table = reading.open_table(TABLE).map_err(|error| storage(error.into()))?;
        let mut entries = table
            .range::<&[u8]>(range)
            .map_err(|error| storage(error.into()))?;
        while let Some(entry) = match order {
            Order::Ascending => entries.next(),
            Order::Descending => entries.next_back(),
        } {
            let (key, value) = entry.map_err(|error| storage(error.into()))?;
            if let ControlFlow::Break(()) = visit(key.value(), value.value()) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let writing = self.0.begin_write().map_err(|error| storage(error.into()))?;
        {
            let mut table = writing.open_table(TABLE).map_err(|error| storage(error.into()))?;
            for (key, value) in batch.into_writes() {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()).map(drop),
                    None => table.remove(key.as_slice()).map(drop),
                }
                .map_err(|error| storage(error.into()))?;
            }
        }
        failpoint::reached("store-before-sync");
        writing.commit().map_err(|error| storage(error.into()))
    }
}

fn opening(error: DatabaseError) -> KvError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => KvError::Locked,
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == std::io::ErrorKind::InvalidData =>
        {
            KvError::Damaged(error.to_string())
        }
        DatabaseError::Storage(error) => storage(error.into()),
        other => KvError::Damaged(other.to_string()),
    }
}

fn storage(error: redb::Error) -> KvError {
    match error {
        redb::Error::Corrupted(detail) => KvError::Damaged(detail),
        other => KvError::Disk(other.to_string()),
    }
}
