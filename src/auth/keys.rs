//! API keys: kept in the store as hashes, known to every process.
//!
//! Invariants: a token is in no document, log or answer but the one that its maker gets. A revoked key stays known as such, so
//! that a gateway that once had keys is never open to everybody again. A request costs no read: every process knows all
//! keys and looks after new ones and revocations every second, and a key that it does not know yet is looked up at once.
//! While the store cannot be read, what is known stays in force. A crash loses nothing that was answered.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::token::{self, TokenHash};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::domain::{TenantName, Timestamp};
use crate::gateway::{Caller, Scope, Scopes};
use crate::store::StoreError;
use crate::store::documents::{Document, DocumentChange, DocumentStore, Kind};

const KIND: Kind = "key";
/// How often other processes' keys and revocations are looked for.
const LOOK: Duration = Duration::from_secs(1);
const PAGE: usize = 500;

/// An API key without what it takes to use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// The part of the token that everybody may see.
    pub id: String,
    /// What its maker calls it.
    pub name: String,
    hash: TokenHash,
    /// Whose records it sees and makes; `None` sees those of all.
    pub tenant: Option<TenantName>,
    /// What it may do.
    #[serde(serialize_with = "write_scopes", deserialize_with = "read_scopes")]
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends; `None` never does.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
    /// Who made it.
    pub created_by: String,
}

/// What somebody wants of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// What to call it.
    pub name: String,
    /// Whose records it sees and makes; `None` sees those of all.
    pub tenant: Option<TenantName>,
    /// What it may do.
    #[serde(serialize_with = "write_scopes", deserialize_with = "read_scopes")]
    pub scopes: Scopes,
    /// How long it lasts; `None` is for ever.
    pub lasts: Option<Duration>,
}

/// Longest name of a key, in characters.
pub const LONGEST_NAME: usize = 100;

/// Why there is no new key, or an old one was not revoked.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The name is empty, too long, or holds what cannot be shown.
    #[error("is not a name of 1 to {LONGEST_NAME} characters without line breaks")]
    Name,
    /// A key that may do nothing is of no use.
    #[error("holds none of submit, read and operate")]
    Scopes,
    /// There is no key of this identifier.
    #[error("there is no such key")]
    Missing,
    /// The operating system has no random numbers.
    #[error("no random numbers are to be had: {0}")]
    Random(String),
    /// The store could not do it. It may be done all the same.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All keys.
pub struct Keys {
    documents: Arc<dyn DocumentStore>,
    audit: Audit,
    clock: Arc<dyn Clock>,
    known: RwLock<HashMap<String, Arc<ApiKey>>>,
}

impl Keys {
    /// Reads the keys there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(documents: Arc<dyn DocumentStore>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let keys = Self {
            audit: Audit::new(documents.clone(), clock.clone()),
            documents,
            clock,
            known: RwLock::default(),
        };
        keys.look().await?;
        Ok(keys)
    }

    /// Keeps up with what other processes do, until `stop`.
    pub(super) async fn look_after(&self, stop: CancellationToken) {
        let mut waits = false;
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            match self.look().await {
                Ok(()) => waits = false,
                Err(error) => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::warn!(%error, "API keys cannot be read; those that are known stay in force");
                    }
                }
            }
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        for key in self.all().await? {
            self.learn(key);
        }
        Ok(())
    }

    async fn all(&self) -> Result<Vec<ApiKey>, StoreError> {
        let mut keys: Vec<ApiKey> = Vec::new();
        let mut from = String::new();
        loop {
            let page = self.documents.documents(KIND, &*from.."", false, PAGE).await?;
            for document in &page {
                keys.push(document.read()?);
            }
            match page.last() {
                // The next key there can be.
                Some(last) if page.len() == PAGE => from = format!("{}\u{1}", last.key),
                _ => return Ok(keys),
            }
        }
    }

    fn learn(&self, key: ApiKey) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // What was read before a revocation may be told after it.
        if known.get(&key.id).is_none_or(|known| known.revoked_at.is_none()) {
            known.insert(key.id.clone(), Arc::new(key));
        }
    }

    /// Whether there never was one.
    pub fn none_was_ever_made(&self) -> bool {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// The key of this token, revoked or expired or not, if this process knows it.
    pub(super) fn known(&self, text: &str) -> Option<Arc<ApiKey>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .get(token::id_in(text)?)
            .filter(|key| key.hash.is_of(text))
            .cloned()
    }

    /// The key of this token, asked of the store.
    pub(super) async fn find(&self, text: &str) -> Result<Option<Arc<ApiKey>>, StoreError> {
        let Some(id) = token::id_in(text) else {
            return Ok(None);
        };
        if let Some(document) = self.documents.document(KIND, id).await? {
            self.learn(document.read()?);
        }
        Ok(self.known(text))
    }

    /// All keys, revoked and expired ones too, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn list(&self) -> Result<Vec<ApiKey>, StoreError> {
        let mut keys = self.all().await?;
        keys.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
        Ok(keys)
    }

    /// Makes a key. Answers it and the token, which cannot be had again.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn create(&self, by: &Caller, new: NewKey) -> Result<(ApiKey, String), KeyError> {
        let fits = (1..=LONGEST_NAME).contains(&new.name.chars().count());
        if !fits || new.name.trim().is_empty() || new.name.contains(char::is_control) {
            return Err(KeyError::Name);
        }
        if new.scopes == Scopes::default() {
            return Err(KeyError::Scopes);
        }
        let now = self.clock.now();
        loop {
            let (id, token) = token::generate().map_err(|error| KeyError::Random(error.to_string()))?;
            let key = ApiKey {
                id,
                name: new.name.clone(),
                hash: TokenHash::of(&token),
                tenant: new.tenant.clone(),
                scopes: new.scopes,
                created_at: now,
                expires_at: new.lasts.map(|lasts| now.plus(lasts)),
                revoked_at: None,
                created_by: by.subject.clone(),
            };
            let stored = self.documents.change_documents(vec![
                DocumentChange::create(KIND, &key.id, &key)?,
                self.audit
                    .change(by, "POST /v1/keys", &key.id, Some(key.audited()))?,
            ]);
            // With two in a trillion keys the identifier is taken.
            if stored.await? {
                self.learn(key.clone());
                return Ok((key, token));
            }
        }
    }

    /// Ends a key for good. One that was revoked already stays as it is.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn revoke(&self, by: &Caller, id: &str) -> Result<ApiKey, KeyError> {
        if !token::is_id(id) {
            return Err(KeyError::Missing);
        }
        loop {
            let document = self
                .documents
                .document(KIND, id)
                .await?
                .ok_or(KeyError::Missing)?;
            let key = self.revoked(by, &document).await?;
            if let Some(key) = key {
                self.learn(key.clone());
                return Ok(key);
            }
        }
    }

    /// `None` if somebody else changed it meanwhile.
    async fn revoked(&self, by: &Caller, document: &Document) -> Result<Option<ApiKey>, StoreError> {
        let mut key: ApiKey = document.read()?;
        if key.revoked_at.is_some() {
            return Ok(Some(key));
        }
        key.revoked_at = Some(self.clock.now());
        let changes = vec![
            DocumentChange::replace(KIND, document, &key)?,
            self.audit.change(by, "DELETE /v1/keys/{id}", &key.id, None)?,
        ];
        Ok(self.documents.change_documents(changes).await?.then_some(key))
    }
}

impl ApiKey {
    /// What the audit log keeps of a new one.
    fn audited(&self) -> serde_json::Value {
        let scopes: Vec<_> = self.scopes.iter().map(Scope::as_str).collect();
        serde_json::json!({"name": self.name, "tenant": self.tenant, "scopes": scopes})
    }
}

fn write_scopes<S: Serializer>(scopes: &Scopes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(scopes.iter().map(Scope::as_str))
}

/// A scope of a later version is passed over: to know less is to allow less.
fn read_scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scopes, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    Ok(names.iter().filter_map(|name| Scope::parse(name)).collect())
}
