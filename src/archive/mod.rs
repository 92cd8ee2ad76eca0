//! Where records go before retention removes them: a folder, or a bucket of S3 or of what speaks like it.
//!
//! - [`storage`] is the place, [`name`] what an object is called, [`portion`] what is in it.
//! - [`archivist`] moves what is due there: it reads a portion, writes it, reads it back, and only then removes exactly the
//!   records that it read, if they still are as they were. [`turn`] keeps the nodes of a cluster from doing so twice.
//! - [`mod@search`] finds records again, with nothing but the archive.
//!
//! An object never changes, and its name bears the SHA-256 of its bytes, so whoever reads it can tell whether it is whole.
//! A crash at any point leaves records in the store, in the archive, or in both. What was read once more is written once
//! more: under the same name, if it is the same portion; else a record is in two objects, and a search tells it once.

mod archivist;
mod name;
mod portion;
mod search;
mod storage;
#[cfg(test)]
mod tests;
mod turn;

use std::io;

use serde_json::value::RawValue;
use thiserror::Error;

pub use archivist::{Archivist, ArchivistParts};
pub use search::{Found, Query, search, verify};
pub use storage::Archive;

use crate::domain::Transaction;
use crate::store::StoreError;

/// Writes a record as it is to stand in the archive: without what must not be kept.
pub type Show = fn(&Transaction) -> serde_json::Result<Box<RawValue>>;

/// Why something was not archived, or cannot be found.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The folder or the bucket does not do what it is asked, for now or until somebody mends it.
    #[error("{0}")]
    Away(String),
    /// What is in an object is not what was written there.
    #[error("{0}")]
    Damaged(String),
    /// The records cannot be read or removed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Whoever was to be told of what was found cannot be.
    #[error(transparent)]
    Told(#[from] io::Error),
}

/// Does what takes a while on a thread where nobody waits for anything else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| ArchiveError::Damaged(format!("a step failed: {error}")))?
}
