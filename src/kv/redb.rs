//! The default engine: redb, one table of bytes to bytes.
//!
//! Every commit is one redb write transaction with `Durability::Immediate`: copy-on-write pages, a
//! checksummed commit slot, one sync. A crash leaves the last commit slot that verifies.
//!
//! A batch is written in the order of its keys. New keys that have no other one between them are put in through one
//! cursor, which fills each page before it takes the next; one by one they would split pages and leave them half empty.

use std::ops::{Bound, ControlFlow, Range};
use std::path::Path;

use redb::{
    Builder, CursorError, Database, DatabaseError, ReadableDatabase, StorageError, Table, TableDefinition,
};

use super::{Batch, KvEngine, KvError, Order, Visit, Write};
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
            let mut writes = batch.into_writes();
            // Stable: of several writes to one key, the last stays the last.
            writes.sort_by(|(one, _), (other, _)| one.cmp(other));
            apply(&mut table, &writes).map_err(storage)?;
        }
        failpoint::reached("store-before-sync");
        writing.commit().map_err(|error| storage(error.into()))
    }
}

/// Makes writes in the order of their keys; of several to one key, the last.
fn apply(table: &mut Table<'_, &[u8], &[u8]>, mut writes: &[Write]) -> Result<(), redb::Error> {
    // Whether what comes next is likely not there yet: what is new comes in runs.
    let mut is_new = true;
    while let [(key, value), rest @ ..] = writes {
        let next = rest.first().map(|(next, value)| (next, value.is_some()));
        let mut done = 1;
        match value {
            _ if next.is_some_and(|(next, _)| next == key) => {}
            None => drop(table.remove(key.as_slice())?),
            Some(_) if is_new && next.is_some_and(|(next, put)| put && next.first() == key.first()) => {
                done = insert_run(table, writes)?;
                // Nothing: the first one is there.
                is_new = done > 0;
            }
            Some(value) => is_new = table.insert(key.as_slice(), value.as_slice())?.is_none(),
        }
        writes = &writes[done..];
    }
    Ok(())
}

/// Puts in as many of the first writes as are new keys without another one between them. Answers how many.
fn insert_run(table: &mut Table<'_, &[u8], &[u8]>, writes: &[Write]) -> Result<usize, redb::Error> {
    let Some((first, _)) = writes.first() else {
        return Ok(0);
    };
    let mut cursor = table.lower_bound_mut(Bound::Included(first.as_slice()))?;
    let mut count = 0;
    for (key, value) in writes {
        let Some(value) = value else { break };
        match cursor.insert_before(key.as_slice(), value.as_slice()) {
            Ok(()) => count += 1,
            Err(CursorError::UnorderedKey) => break,
            Err(error) => return Err(error.into()),
        }
    }
    cursor.close()?;
    Ok(count)
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
