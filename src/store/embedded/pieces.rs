//! Many writes to a store that nobody else uses, committed piece by piece, so that memory does not grow with them.
//!
//! They are not atomic: a crash leaves some of the pieces. Whoever needs all or nothing writes to a new file, and puts
//! that in place when it is whole.

use super::keys::{self, Entry};
use super::{Counts, STORE_FORMAT};
use crate::domain::Transaction;
use crate::kv::{Batch, KvEngine, KvError};

/// A piece is committed at about this size, bytes.
const PIECE: usize = 4 << 20;

pub(super) struct Pieces<'e> {
    engine: &'e dyn KvEngine,
    piece: Batch,
}

impl<'e> Pieces<'e> {
    pub(super) fn new(engine: &'e dyn KvEngine) -> Self {
        let piece = Batch::default();
        Self { engine, piece }
    }

    /// Begins a store of this version's format.
    pub(super) fn of_new_store(engine: &'e dyn KvEngine) -> Self {
        let mut pieces = Self::new(engine);
        let format = STORE_FORMAT.to_be_bytes().to_vec();
        pieces.piece.put(keys::FORMAT.to_vec(), format);
        pieces
    }

    pub(super) fn put(&mut self, (key, value): Entry) -> Result<(), KvError> {
        self.piece.put(key, value);
        self.commit_if_full()
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) -> Result<(), KvError> {
        self.piece.delete(key);
        self.commit_if_full()
    }

    /// A record, as it is `encoded`, and all that follows from it.
    pub(super) fn put_record(&mut self, tx: &Transaction, encoded: Vec<u8>) -> Result<(), KvError> {
        for entry in keys::index(tx) {
            self.put(entry)?;
        }
        self.put((keys::record(tx.id), encoded))
    }

    pub(super) fn put_counts(&mut self, counts: &Counts) -> Result<(), KvError> {
        for ((ledger, status), count) in counts {
            self.put((keys::count(ledger, *status), count.to_be_bytes().to_vec()))?;
        }
        Ok(())
    }

    /// Commits what is left.
    pub(super) fn finish(self) -> Result<(), KvError> {
        self.engine.commit(self.piece)
    }

    fn commit_if_full(&mut self) -> Result<(), KvError> {
        if self.piece.bytes() < PIECE {
            return Ok(());
        }
        self.engine.commit(std::mem::take(&mut self.piece))
    }
}
