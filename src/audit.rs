//! The audit log: who did what, when and from where.
//!
//! - What operators do is a document, on the disk before it is answered, and a log line of the target `sluicegate::audit`.
//! - Who brought a transaction stands in its record, as long as that is kept, and in a log line of the same target.
//!
//! Entries are only ever added, and removed when retention says so. Their keys are in the order of time.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::clock::Clock;
use crate::domain::{TenantName, Timestamp, Transaction};
use crate::gateway::Caller;
use crate::store::StoreError;
use crate::store::documents::{DocumentChange, DocumentStore, Kind};

const KIND: Kind = "audit";
const TARGET: &str = "sluicegate::audit";

/// Something that was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: String,
    /// Whose records they see; `None` is all.
    pub tenant: Option<TenantName>,
    /// From which address; `None` is this machine's command line.
    pub from: Option<IpAddr>,
    /// What: a method and a route, such as `POST /v1/keys`.
    pub action: String,
    /// To what.
    pub target: String,
    /// What else there is to say.
    pub detail: Option<Value>,
}

/// Where entries are kept.
#[derive(Clone)]
pub struct Audit {
    documents: Arc<dyn DocumentStore>,
    clock: Arc<dyn Clock>,
}

impl Audit {
    /// A log beside these records.
    pub fn new(documents: Arc<dyn DocumentStore>, clock: Arc<dyn Clock>) -> Self {
        Self { documents, clock }
    }

    /// Writes down what was done. It is on the disk when this answers.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn record(
        &self,
        who: &Caller,
        action: &str,
        target: &str,
        detail: Option<Value>,
    ) -> Result<(), StoreError> {
        let change = self.change(who, action, target, detail)?;
        // Its key is new, so nobody can have been faster.
        self.documents.change_documents(vec![change]).await.map(|_| ())
    }

    /// As [`record`](Self::record), for whoever has something else to change in the same commit.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn change(
        &self,
        who: &Caller,
        action: &str,
        target: &str,
        detail: Option<Value>,
    ) -> Result<DocumentChange, StoreError> {
        let entry = Entry {
            at: self.clock.now(),
            who: who.subject.clone(),
            tenant: who.tenant.clone(),
            from: who.from,
            action: action.to_owned(),
            target: target.to_owned(),
            detail,
        };
        let from = entry.from.map(tracing::field::display);
        tracing::info!(target: TARGET, who = entry.who, from, action, target, "an operator acts");
        DocumentChange::create(KIND, Uuid::now_v7().to_string(), &entry)
    }

    /// Up to `limit` entries, newest first, older than the one of key `before`; each with its key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self, before: Option<Uuid>, limit: usize) -> Result<Vec<(String, Entry)>, StoreError> {
        let end = before.map(|key| key.to_string()).unwrap_or_default();
        let found = self.documents.documents(KIND, ""..&*end, true, limit).await?;
        found
            .into_iter()
            .map(|document| Ok((document.key.clone(), document.read()?)))
            .collect()
    }

    /// Removes up to `limit` entries from before that time. Answers how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prune(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let millis = before.as_millis();
        let end = format!("{:08x}-{:04x}-", millis >> 16 & 0xffff_ffff, millis & 0xffff);
        let old = self.documents.documents(KIND, ""..&*end, false, limit).await?;
        let changes: Vec<_> = old
            .iter()
            .map(|entry| DocumentChange::remove(KIND, entry))
            .collect();
        let count = changes.len();
        if count > 0 {
            // Whoever else removes them has removed them.
            self.documents.change_documents(changes).await?;
        }
        Ok(count)
    }
}

/// Tells who brought a transaction.
pub fn accepted(transaction: &Transaction) {
    let origin = &transaction.origin;
    let (who, from) = (origin.by.as_deref(), origin.from.map(tracing::field::display));
    tracing::info!(target: TARGET, who, tenant = %transaction.tenant, from, tx.id = %transaction.id, "accepted");
}
