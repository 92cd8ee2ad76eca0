//! Tokens of an identity provider, and where its public keys come from.
//!
//! - A file is read again when it changes; a new one that cannot be used changes nothing.
//! - An address is asked at the start, every few minutes, and when a token names a key that is not known, though not more
//!   often than every ten seconds: whoever invents key names cannot make us burden the provider. While it does not answer, the
//!   keys that are known stay in use.
//!
//! A token that was verified is remembered until it expires or the keys change, so that signatures are not computed for every
//! request. The memory is bounded. A restart forgets everything and asks again.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use reqwest::redirect::Policy;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::jwt::{self, Claims, KeySet, TokenError};
use crate::config::{JwksSource, JwtSettings};
use crate::domain::Timestamp;
use crate::reread;

/// How often the provider is asked anyway: a key that it withdraws does not count for longer.
const REFRESH: Duration = Duration::from_secs(300);
/// How often it is asked at most because of an unknown key.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any set of keys needs.
const LARGEST: usize = 1 << 20;
/// So many tokens are remembered.
const REMEMBERED: usize = 10_000;

type Fingerprint = [u8; 32];

/// Checks tokens.
pub(super) struct Tokens {
    settings: JwtSettings,
    keys: RwLock<Arc<KeySet>>,
    /// What the keys were made of.
    fingerprint: Mutex<Fingerprint>,
    verified: Mutex<HashMap<Fingerprint, Claims>>,
    http: reqwest::Client,
    /// When the provider was last asked. Held while it is.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Tokens {
    /// Reads the keys. A provider that does not answer now may later.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub(super) async fn open(settings: &JwtSettings) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(Policy::none());
        if let JwksSource::Url(url) = &settings.jwks
            && url.scheme() == "http"
        {
            // On this machine, by the rules for the setting.
            http = http.no_proxy().tls_certs_only([]);
        }
        let tokens = Self {
            settings: settings.clone(),
            keys: RwLock::default(),
            fingerprint: Mutex::default(),
            verified: Mutex::default(),
            http: http.build().context("set up requests to auth.jwks_url")?,
            asked: tokio::sync::Mutex::default(),
        };
        match &settings.jwks {
            JwksSource::File(path) => drop(tokens.look(path).map_err(anyhow::Error::msg)?),
            JwksSource::Url(_) => tokens.ask().await,
        }
        Ok(tokens)
    }

    /// Keeps the keys fresh until `stop`.
    pub(super) async fn look_after(self: Arc<Self>, stop: CancellationToken) {
        match &self.settings.jwks {
            JwksSource::File(path) => {
                let path = path.clone();
                reread::look_after("auth.jwks_file", move || self.look(&path), stop).await;
            }
            JwksSource::Url(_) => {
                while stop
                    .run_until_cancelled(tokio::time::sleep(REFRESH))
                    .await
                    .is_some()
                {
                    self.ask().await;
                }
            }
        }
    }

    /// Who sends `token`, if it was verified before.
    pub(super) fn known(&self, token: &str, now: Timestamp) -> Option<Claims> {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let claims = verified.get(&fingerprint(token.as_bytes()))?;
        (now < claims.expires_at).then(|| claims.clone())
    }

    /// Who sends `token`. If it names a key that is not known, the provider is asked for more, unless `may_ask` is false.
    ///
    /// # Errors
    /// [`TokenError`].
    pub(super) async fn verify(
        &self,
        token: &str,
        now: Timestamp,
        may_ask: bool,
    ) -> Result<Claims, TokenError> {
        let mut keys = self.keys();
        let mut verified = jwt::verify(token, &keys, &self.settings, now);
        if verified == Err(TokenError::UnknownKey) && may_ask && self.ask_for_more(&keys).await {
            keys = self.keys();
            verified = jwt::verify(token, &keys, &self.settings, now);
        }
        let claims = verified?;
        let mut remembered = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&keys, &self.keys()) {
            // The keys have changed since; the next request will show whether it still counts.
            return Ok(claims);
        }
        if remembered.len() >= REMEMBERED {
            // Each is verified once more; that is cheaper than to keep count of who was here last.
            remembered.clear();
        }
        remembered.insert(fingerprint(token.as_bytes()), claims.clone());
        Ok(claims)
    }

    fn keys(&self) -> Arc<KeySet> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the provider for keys beyond `known`, unless it was asked just now. Answers whether there may be others.
    async fn ask_for_more(&self, known: &Arc<KeySet>) -> bool {
        let JwksSource::Url(url) = &self.settings.jwks else {
            return false;
        };
        // Whoever waits here profits from the one who asks.
        let mut asked = self.asked.lock().await;
        if asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN) {
            *asked = Some(Instant::now());
            self.fetch_and_take(url).await;
        }
        !Arc::ptr_eq(known, &self.keys())
    }

    async fn ask(&self) {
        if let JwksSource::Url(url) = &self.settings.jwks {
            let mut asked = self.asked.lock().await;
            *asked = Some(Instant::now());
            self.fetch_and_take(url).await;
        }
    }

    async fn fetch_and_take(&self, url: &Url) {
        let fetched = self.fetch(url).await.map_err(|error| format!("{error:#}"));
        if let Err(error) = fetched.and_then(|json| self.take(&json)) {
            tracing::warn!(%url, error, "auth.jwks_url gives no keys; those that are known stay in use");
        }
    }

    async fn fetch(&self, url: &Url) -> anyhow::Result<Vec<u8>> {
        let mut answer = self.http.get(url.clone()).send().await?.error_for_status()?;
        anyhow::ensure!(answer.status().is_success(), "it answers {}", answer.status());
        let mut json = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            anyhow::ensure!(
                json.len() + chunk.len() <= LARGEST,
                "it answers more than {LARGEST} bytes"
            );
            json.extend_from_slice(&chunk);
        }
        Ok(json)
    }

    /// Takes what the file holds, if that is something else. Blocks.
    fn look(&self, path: &Path) -> Result<bool, String> {
        let json = std::fs::read(path)
            .map_err(|error| format!("auth.jwks_file: cannot read {}: {error}", path.display()))?;
        self.take(&json)
            .map_err(|what| format!("auth.jwks_file: {} {what}", path.display()))
    }

    fn take(&self, json: &[u8]) -> Result<bool, String> {
        let mut known = self.fingerprint.lock().unwrap_or_else(PoisonError::into_inner);
        let new = fingerprint(json);
        if *known == new {
            return Ok(false);
        }
        let keys = KeySet::read(json)?;
        *known = new;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        // After the keys: what a withdrawn key had signed is not remembered from here on.
        self.verified
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        Ok(true)
    }
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Sha256::digest(bytes).into()
}
