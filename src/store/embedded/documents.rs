//! Documents in the embedded store: a value is framed as a record is, and the same thread writes it.

use std::ops::{ControlFlow, Range};

use async_trait::async_trait;
use serde_json::value::RawValue;

use super::writer::{Expect, Mutation, Verdict, store_error};
use super::{EmbeddedStore, beside, keys, record};
use crate::kv::Order;
use crate::store::StoreError;
use crate::store::documents::{Document, DocumentChange, DocumentStore, Kind};

fn mutation(change: DocumentChange) -> Mutation {
    let key = keys::document(change.kind, &change.key);
    let next = change.body.as_ref().map(|_| change.expected.unwrap_or(0) + 1);
    let mut mutation = beside(Expect::Document {
        key: key.clone(),
        stored: change.expected,
        next,
    });
    match next.zip(change.body) {
        Some((version, body)) => {
            let framed = record::frame(version, |bytes| bytes.extend_from_slice(body.get().as_bytes()));
            mutation.puts.push((key, framed));
        }
        None => mutation.deletes.push(key),
    }
    mutation
}

fn read(key: &str, bytes: &[u8]) -> Result<Document, StoreError> {
    let (version, json) = record::unframe(bytes)?;
    let damaged = |what: String| StoreError::Damaged(format!("the document {key} cannot be read: {what}"));
    let text = String::from_utf8(json.to_vec()).map_err(|error| damaged(error.to_string()))?;
    Ok(Document {
        key: key.to_owned(),
        version,
        body: RawValue::from_string(text).map_err(|error| damaged(error.to_string()))?,
    })
}

#[async_trait]
impl DocumentStore for EmbeddedStore {
    async fn document(&self, kind: Kind, key: &str) -> Result<Option<Document>, StoreError> {
        let stored = self.engine.get(&keys::document(kind, key)).map_err(store_error)?;
        stored.map(|bytes| read(key, &bytes)).transpose()
    }

    async fn documents(
        &self,
        kind: Kind,
        wanted: Range<&str>,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<Document>, StoreError> {
        let start = keys::document(kind, wanted.start);
        let end = match wanted.end {
            "" => super::after(&keys::document(kind, "")),
            end => keys::document(kind, end),
        };
        let skip = keys::document(kind, "").len();
        let order = match newest_first {
            true => Order::Descending,
            false => Order::Ascending,
        };
        self.blocking(move |engine| {
            let mut found = Vec::new();
            if limit == 0 || end <= start {
                return Ok(found);
            }
            engine
                .scan(&start..&end, order, &mut |key, value| {
                    let key = String::from_utf8_lossy(&key[skip..]);
                    // One that cannot be read must not hide the others.
                    match read(&key, value) {
                        Ok(document) => found.push(document),
                        Err(error) => tracing::error!(%error, "a document is passed over"),
                    }
                    match found.len() < limit {
                        true => ControlFlow::Continue(()),
                        false => ControlFlow::Break(()),
                    }
                })
                .map_err(store_error)?;
            Ok(found)
        })
        .await
    }

    async fn change_documents(&self, changes: Vec<DocumentChange>) -> Result<bool, StoreError> {
        let mutations: Vec<_> = changes.into_iter().map(mutation).collect();
        if mutations.is_empty() {
            return Ok(true);
        }
        let verdicts = self.command(mutations, true).await?;
        Ok(verdicts.iter().all(|verdict| *verdict == Verdict::Made))
    }
}
