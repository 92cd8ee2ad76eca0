//! Keys from the command line: in the store itself, or by the gateway that holds it.
//!
//! Whoever may write the data folder, or log in to the database, may make keys: there is no other way to the first one. What
//! they do is in the audit log as `cli`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::control;
use crate::auth::{ApiKey, Keys, NewKey};
use crate::clock::SystemClock;
use crate::config::{Settings, StoreSettings};
use crate::gateway::Caller;
use crate::store::documents::DocumentStore;
use crate::store::embedded::{DataFolder, EmbeddedStore};
use crate::store::postgres::PostgresStore;
use crate::telemetry::metrics::Metrics;

/// What somebody wants.
#[derive(Debug, Serialize, Deserialize)]
pub enum KeyOrder {
    /// A new key.
    Create(NewKey),
    /// All keys.
    List,
    /// The end of the key with this identifier.
    Revoke(String),
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeyAnswer {
    /// The keys it is about.
    pub keys: Vec<ApiKey>,
    /// The token of a new one, which cannot be had again.
    pub token: Option<String>,
}

/// Does what is wanted, in the store that the configuration names.
///
/// # Errors
/// Whatever keeps it from being done.
pub async fn manage_keys(settings: &Settings, order: KeyOrder) -> anyhow::Result<KeyAnswer> {
    let metrics = Metrics::new().context("set up metrics")?;
    match &settings.store {
        StoreSettings::Postgres(postgres) => {
            let store = PostgresStore::connect(postgres, metrics.store())
                .await
                .with_context(|| format!("open the store at {}", postgres.url))?;
            in_store(Arc::new(store), order).await
        }
        StoreSettings::Embedded(embedded) => {
            let line = format!("{}{}", control::KEYS, serde_json::to_string(&order)?);
            if let Some(running) = control::ask(&embedded.path, &line)? {
                return heard(&running);
            }
            let folder = DataFolder::hold(&embedded.path, embedded.engine)?;
            let path = folder.store();
            let store = EmbeddedStore::open(folder.engine(), &path, embedded.cache_bytes, metrics.store())
                .with_context(|| format!("open {}", path.display()))?;
            in_store(Arc::new(store), order).await
        }
    }
}

async fn in_store<S: DocumentStore + crate::store::TransactionStore>(
    store: Arc<S>,
    order: KeyOrder,
) -> anyhow::Result<KeyAnswer> {
    let keys = Keys::open(store.clone(), Arc::new(SystemClock)).await?;
    let answer = carry_out(&keys, order).await;
    store.close().await;
    answer.map_err(anyhow::Error::msg)
}

/// Does what is wanted, or says why not.
pub(super) async fn carry_out(keys: &Keys, order: KeyOrder) -> Result<KeyAnswer, String> {
    let by = Caller {
        subject: "cli".to_owned(),
        ..Caller::anonymous()
    };
    match order {
        KeyOrder::Create(new) => {
            let (key, token) = keys.create(&by, new).await.map_err(|error| error.to_string())?;
            Ok(KeyAnswer {
                keys: vec![key],
                token: Some(token),
            })
        }
        KeyOrder::List => {
            let keys = keys.list().await.map_err(|error| error.to_string())?;
            Ok(KeyAnswer { keys, token: None })
        }
        KeyOrder::Revoke(id) => {
            let key = keys.revoke(&by, &id).await.map_err(|error| error.to_string())?;
            Ok(KeyAnswer {
                keys: vec![key],
                token: None,
            })
        }
    }
}

/// Tells the command line what came of its order.
pub(super) fn tell(mut stream: &UnixStream, answer: &Result<KeyAnswer, String>) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn heard(running: &UnixStream) -> anyhow::Result<KeyAnswer> {
    let mut line = String::new();
    BufReader::new(running)
        .read_line(&mut line)
        .context("hear from the running gateway")?;
    let answer: Result<KeyAnswer, String> = serde_json::from_str(&line)
        .context("the running gateway did not answer; it may be of an older version")?;
    answer.map_err(anyhow::Error::msg)
}
