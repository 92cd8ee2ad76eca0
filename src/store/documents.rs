//! The seam to the small things beside the records: keys, webhooks, deliveries, what operators set.
//!
//! A document is JSON under a kind and a key, with a version of its own. Several change in one durable commit or not at
//! all, by compare-and-swap, so that whoever decides on what they read never overwrites what another process wrote.
//! What depends on the order of keys, such as what is due next, is kept under keys in that order.

use std::ops::Range;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::StoreError;

/// What a document is about; each has its own keys. Short and lower case.
pub type Kind = &'static str;

/// In bytes: what both stores take as a key.
const LONGEST_KEY: usize = 512;

/// A stored document.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its key: text without U+0000, at most 512 bytes.
    pub key: String,
    /// 1 when it was made, one more with every change.
    pub version: u64,
    /// What it holds.
    pub body: Box<RawValue>,
}

impl Document {
    /// What it holds, read.
    ///
    /// # Errors
    /// [`StoreError::Damaged`].
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, StoreError> {
        serde_json::from_str(self.body.get()).map_err(|error| {
            StoreError::Damaged(format!("the document {} cannot be read: {error}", self.key))
        })
    }
}

/// A change of one document.
#[derive(Debug, Clone)]
pub struct DocumentChange {
    /// Its kind.
    pub kind: Kind,
    /// Its key.
    pub key: String,
    /// The version that it has; `None`: there is none yet.
    pub expected: Option<u64>,
    /// What it shall hold; `None` removes it.
    pub body: Option<Box<RawValue>>,
}

impl DocumentChange {
    /// A new document.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if `body` cannot be written as JSON.
    pub fn create(kind: Kind, key: impl Into<String>, body: &impl Serialize) -> Result<Self, StoreError> {
        Self::new(kind, key.into(), None, body)
    }

    /// Another body for a document that was read.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if `body` cannot be written as JSON.
    pub fn replace(kind: Kind, old: &Document, body: &impl Serialize) -> Result<Self, StoreError> {
        Self::new(kind, old.key.clone(), Some(old.version), body)
    }

    /// The end of a document that was read.
    pub fn remove(kind: Kind, old: &Document) -> Self {
        Self {
            kind,
            key: old.key.clone(),
            expected: Some(old.version),
            body: None,
        }
    }

    fn new(
        kind: Kind,
        key: String,
        expected: Option<u64>,
        body: &impl Serialize,
    ) -> Result<Self, StoreError> {
        if key.len() > LONGEST_KEY {
            let found = key.len();
            return Err(StoreError::Damaged(format!(
                "the key of a document has {found} bytes"
            )));
        }
        let body = serde_json::value::to_raw_value(body)
            .map_err(|error| StoreError::Damaged(format!("the document {key} cannot be written: {error}")))?;
        Ok(Self {
            kind,
            key,
            expected,
            body: Some(body),
        })
    }
}

/// Where documents live: in the same store as the records.
///
/// Every future may be dropped; a write that was begun may then still happen.
#[async_trait]
pub trait DocumentStore: Send + Sync + 'static {
    /// The document under this key.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn document(&self, kind: Kind, key: &str) -> Result<Option<Document>, StoreError>;

    /// Up to `limit` documents whose keys are in `keys` (an empty end means no end), in the order of their bytes, or
    /// against it.
    ///
    /// # Errors
    /// [`StoreError`].
    async fn documents(
        &self,
        kind: Kind,
        keys: Range<&str>,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<Document>, StoreError>;

    /// Makes all of these changes in one durable commit, or none: `false` if one of them does not find the version that
    /// it expects. No key may be among them twice.
    ///
    /// # Errors
    /// [`StoreError`]; then all or none were made.
    async fn change_documents(&self, changes: Vec<DocumentChange>) -> Result<bool, StoreError>;
}
