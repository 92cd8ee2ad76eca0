//! The chain and the world state in one engine.
//!
//! | key | value |
//! |---|---|
//! | `m` `format` | version of this layout |
//! | `m` `genesis` | the envelope of block 0, which configures the channel |
//! | `m` `height` | number of the last block |
//! | `h` block | [`Header`] as JSON |
//! | `e` block position | an [`Entry`] |
//! | `t` transaction id | block and position of the first entry with it, which decides about it |
//! | `s` contract NUL key | version and value |
//!
//! Invariant: a block, its state changes, its index entries and the new height are one batch. A crash leaves
//! all of a block or nothing of it, so state and chain never disagree, and nothing is rebuilt at a restart.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use thiserror::Error;

use crate::domain::{LedgerTxId, Timestamp};
use crate::fabric::block::Hash;
use crate::kv::{Batch, KvEngine, KvError, Order};

use super::block::{Block, Entry, Header, Settled, StoredBlock};
use super::state::{self, Version};

const FORMAT_KEY: &[u8] = b"mformat";
const GENESIS_KEY: &[u8] = b"mgenesis";
const HEIGHT_KEY: &[u8] = b"mheight";
const FORMAT: u64 = 3;

/// Why a chain cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The engine failed.
    #[error(transparent)]
    Storage(#[from] KvError),
    /// Another version of this program wrote the file.
    #[error("the chain has format {found}, this program reads format {FORMAT}; {}", remedy(*found))]
    Format {
        /// The format found.
        found: u64,
    },
}

fn remedy(found: u64) -> &'static str {
    if found > FORMAT {
        "use the newer program"
    } else {
        "use the older program, or start a new chain in another folder"
    }
}

/// What a scan of the world state calls for each key, its version and its value.
pub(super) type VisitState<'a> = &'a mut dyn FnMut(&str, Version, &str) -> ControlFlow<()>;

/// The durable ledger. Every method blocks.
pub(super) struct Chain {
    engine: Box<dyn KvEngine>,
    /// Number of the last block known to be on the disk.
    height: AtomicU64,
}

impl Chain {
    /// Opens the chain in `engine`, or starts one with `genesis` as the envelope of block 0.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(super) fn open(engine: Box<dyn KvEngine>, genesis: &[u8]) -> Result<Self, OpenError> {
        match number(engine.as_ref(), FORMAT_KEY)? {
            Some(FORMAT) => {}
            Some(found) => return Err(OpenError::Format { found }),
            None => {
                let mut batch = Batch::default();
                batch.put(FORMAT_KEY.to_vec(), FORMAT.to_be_bytes().to_vec());
                batch.put(GENESIS_KEY.to_vec(), genesis.to_vec());
                batch.put(HEIGHT_KEY.to_vec(), 0_u64.to_be_bytes().to_vec());
                engine.commit(batch)?;
            }
        }
        let height = number(engine.as_ref(), HEIGHT_KEY)?
            .ok_or_else(|| KvError::Damaged("the chain has no height".into()))?;
        Ok(Self {
            engine,
            height: AtomicU64::new(height),
        })
    }

    /// Number of the last durable block; 0 before the first. Does not block.
    pub(super) fn height(&self) -> u64 {
        self.height.load(Ordering::Acquire)
    }

    /// Asks the engine for one value, to see whether it answers.
    ///
    /// # Errors
    /// [`KvError`].
    pub(super) fn probe(&self) -> Result<(), KvError> {
        self.engine.get(HEIGHT_KEY).map(drop)
    }

    /// Version and value of a key of `contract`.
    ///
    /// # Errors
    /// [`KvError`].
    pub(super) fn value(&self, contract: &str, key: &str) -> Result<Option<(Version, String)>, KvError> {
        let Some(bytes) = self.engine.get(&state::encode_key(contract, key))? else {
            return Ok(None);
        };
        let (version, value) = state::decode_value(&bytes)?;
        Ok(Some((version, value.to_owned())))
    }

    /// Visits the keys of `contract` from `start` to before `end` in order; an empty bound is open.
    ///
    /// # Errors
    /// [`KvError`].
    pub(super) fn scan(
        &self,
        contract: &str,
        start: &str,
        end: &str,
        visit: VisitState<'_>,
    ) -> Result<(), KvError> {
        let Some(range) = state::encode_range(contract, start, end) else {
            return Ok(());
        };
        let mut damage = Ok(());
        self.engine
            .scan(&range.start..&range.end, Order::Ascending, &mut |key, value| {
                let read = state::decode_key(contract, key)
                    .and_then(|key| state::decode_value(value).map(|(version, value)| (key, version, value)));
                match read {
                    Ok((key, version, value)) => visit(key, version, value),
                    Err(error) => {
                        damage = Err(error);
                        ControlFlow::Break(())
                    }
                }
            })?;
        damage
    }

    /// The final word on a transaction; `None` if no durable block holds it.
    ///
    /// # Errors
    /// [`KvError`].
    pub(super) fn settled(&self, tx_id: &LedgerTxId) -> Result<Option<Settled>, KvError> {
        let Some(at) = self.engine.get(&index_key(tx_id))? else {
            return Ok(None);
        };
        let block = at
            .first_chunk()
            .map(|block| u64::from_be_bytes(*block))
            .ok_or_else(|| KvError::Damaged(format!("the index entry of {tx_id} is too short")))?;
        // A block whose commit failed may be in the engine; it counts once the engine has said so.
        if block > self.height() {
            return Ok(None);
        }
        let mut key = vec![b'e'];
        key.extend_from_slice(&at);
        let entry = self
            .engine
            .get(&key)?
            .ok_or_else(|| KvError::Damaged(format!("the index knows {tx_id}, the chain does not")))?;
        let entry = Arc::new(Entry::decode(&entry)?);
        Ok(Some(Settled { block, entry }))
    }

    /// The envelope of block 0.
    ///
    /// # Errors
    /// [`KvError`].
    pub(super) fn genesis(&self) -> Result<Vec<u8>, KvError> {
        let stored = self.engine.get(GENESIS_KEY)?;
        stored.ok_or_else(|| KvError::Damaged("the chain has no block 0".into()))
    }

    /// A durable block; `None` if there is none of this number yet. In block 0 there are no entries.
    ///
    /// # Errors
    /// [`KvError`].
    pub(super) fn block(&self, number: u64) -> Result<Option<StoredBlock>, KvError> {
        if number > self.height() {
            return Ok(None);
        }
        let header = self.header(number)?;
        let entries = if number == 0 {
            Vec::new()
        } else {
            self.entries(number)?
        };
        Ok(Some(StoredBlock {
            number,
            header,
            entries,
        }))
    }

    /// The hash that the block after `number` has to refer to.
    ///
    /// # Errors
    /// [`KvError`].
    pub(super) fn hash_after(&self, number: u64) -> Result<Hash, KvError> {
        Ok(self.header(number)?.hash(number))
    }

    fn header(&self, number: u64) -> Result<Header, KvError> {
        if number == 0 {
            let genesis = self.genesis()?;
            let mut header = Header::new(Timestamp::from_millis(0), Vec::new(), [&genesis[..]].into_iter());
            header.transactions = 0;
            return Ok(header);
        }
        let stored = self.engine.get(&block_key(b'h', number))?;
        let stored = stored.ok_or_else(|| KvError::Damaged(format!("block {number} has no header")))?;
        serde_json::from_slice(&stored).map_err(|error| {
            KvError::Damaged(format!("the header of block {number} cannot be read: {error}"))
        })
    }

    /// Makes `block` durable. To be called again with the same block if it fails.
    ///
    /// # Errors
    /// [`KvError`]; the engine may hold the block nevertheless, but [`height`](Self::height) and
    /// [`settled`](Self::settled) do not show it yet.
    pub(super) fn append(&self, block: &Block) -> Result<(), KvError> {
        let mut batch = Batch::default();
        batch.put(block_key(b'h', block.number), encode(&block.header)?);
        let first: HashSet<*const Entry> = block
            .settled
            .iter()
            .filter(|settled| settled.block == block.number)
            .map(|settled| Arc::as_ptr(&settled.entry))
            .collect();
        for (position, entry) in (0_u32..).zip(&block.entries) {
            let key = entry_key(block.number, position);
            if first.contains(&Arc::as_ptr(entry)) {
                batch.put(index_key(&entry.tx_id), key[1..].to_vec());
            }
            batch.put(key, entry.encode());
        }
        for (key, value) in &block.changes {
            match value {
                Some(value) => batch.put(key.clone(), value.clone()),
                None => batch.delete(key.clone()),
            }
        }
        batch.put(HEIGHT_KEY.to_vec(), block.number.to_be_bytes().to_vec());
        self.engine.commit(batch)?;
        self.height.store(block.number, Ordering::Release);
        Ok(())
    }

    /// The entries of a block, in order.
    ///
    /// # Errors
    /// [`KvError`].
    pub(super) fn entries(&self, block: u64) -> Result<Vec<Entry>, KvError> {
        let (from, to) = (block_key(b'e', block), block_key(b'e', block + 1));
        let mut entries = Ok(Vec::new());
        self.engine.scan(&from..&to, Order::Ascending, &mut |_, value| {
            let read = Entry::decode(value);
            match (&mut entries, read) {
                (Ok(entries), Ok(entry)) => {
                    entries.push(entry);
                    ControlFlow::Continue(())
                }
                (_, Ok(_)) => ControlFlow::Break(()),
                (entries, Err(error)) => {
                    *entries = Err(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        entries
    }
}

fn number(engine: &dyn KvEngine, key: &[u8]) -> Result<Option<u64>, KvError> {
    let Some(bytes) = engine.get(key)? else {
        return Ok(None);
    };
    let bytes = <[u8; 8]>::try_from(bytes.as_slice()).map_err(|_| {
        KvError::Damaged(format!(
            "the chain's {} is not a number",
            String::from_utf8_lossy(key)
        ))
    })?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

fn block_key(kind: u8, block: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&block.to_be_bytes());
    key
}

fn entry_key(block: u64, position: u32) -> Vec<u8> {
    let mut key = block_key(b'e', block);
    key.extend_from_slice(&position.to_be_bytes());
    key
}

fn index_key(tx_id: &LedgerTxId) -> Vec<u8> {
    let mut key = vec![b't'];
    key.extend_from_slice(tx_id.0.as_bytes());
    key
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, KvError> {
    serde_json::to_vec(value)
        .map_err(|error| KvError::Damaged(format!("the block cannot be encoded: {error}")))
}
