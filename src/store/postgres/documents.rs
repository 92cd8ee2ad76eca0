//! Documents in PostgreSQL.

use std::ops::Range;

use async_trait::async_trait;

use super::{PostgresStore, unfinished};
use crate::store::StoreError;
use crate::store::documents::{Document, DocumentChange, DocumentStore, Kind};

#[async_trait]
impl DocumentStore for PostgresStore {
    async fn document(&self, _: Kind, _: &str) -> Result<Option<Document>, StoreError> {
        Err(unfinished())
    }

    async fn documents(
        &self,
        _: Kind,
        _: Range<&str>,
        _: bool,
        _: usize,
    ) -> Result<Vec<Document>, StoreError> {
        Err(unfinished())
    }

    async fn change_documents(&self, _: Vec<DocumentChange>) -> Result<bool, StoreError> {
        Err(unfinished())
    }
}
