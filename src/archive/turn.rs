//! Whose turn it is to archive, where several processes share a store.
//!
//! It saves work and is not what records depend on: two that archive the same write the same object, and each record is
//! removed once. Whoever dies in its turn is waited for that long.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::store::StoreError;
use crate::store::documents::{DocumentChange, DocumentStore, Kind};

const KIND: Kind = "archive";
const KEY: &str = "turn";

/// A portion takes less, unless its place is slow.
const LASTS: Duration = Duration::from_secs(20);

#[derive(Serialize, Deserialize)]
struct Body {
    by: Uuid,
    until: Timestamp,
}

/// This process among those that share a store.
pub(super) struct Turn {
    documents: Arc<dyn DocumentStore>,
    own: Uuid,
}

impl Turn {
    pub(super) fn new(documents: Arc<dyn DocumentStore>) -> Self {
        Self {
            documents,
            own: Uuid::now_v7(),
        }
    }

    /// Takes the turn, or keeps it for another while. Answers whether it is ours.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn take(&self, now: Timestamp) -> Result<bool, StoreError> {
        let body = Body {
            by: self.own,
            until: now.plus(LASTS),
        };
        let old = self.documents.document(KIND, KEY).await?;
        let change = match &old {
            None => DocumentChange::create(KIND, KEY, &body)?,
            Some(document) => {
                // One that cannot be read keeps nobody.
                let taken = document.read::<Body>().ok();
                // Nor does one of a clock that was far ahead.
                let holds = |taken: &Body| now < taken.until && taken.until.since(now) <= LASTS * 2;
                if taken.is_some_and(|taken| taken.by != self.own && holds(&taken)) {
                    return Ok(false);
                }
                DocumentChange::replace(KIND, document, &body)?
            }
        };
        self.documents.change_documents(vec![change]).await
    }
}
