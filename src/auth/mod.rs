//! Who calls: API keys of our own, and tokens of an identity provider, turned into a [`Caller`].
//!
//! Invariants: whoever is not known is nobody. Only while no key was ever made and no provider is configured is everybody
//! welcome, as `anonymous`; then the gateway listens on this machine alone, which [`app`](crate::app) sees to. What a refusal
//! tells depends on what the caller has proved: of a key they learn that it has expired or was revoked only if they hold it.

mod jwt;
mod keys;
#[cfg(test)]
mod tests;
mod token;
mod tokens;
mod tries;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::jwt::Claims;
use self::tokens::Tokens;
use self::tries::FailedTries;
use crate::clock::Clock;
use crate::config::AuthSettings;
use crate::domain::Timestamp;
use crate::gateway::Caller;
use crate::store::StoreError;

pub use keys::{ApiKey, KeyError, Keys, LONGEST_NAME, NewKey};

/// Why somebody is nobody. The text is for them.
#[derive(Debug, Error)]
pub enum Denied {
    /// They sent nothing.
    #[error(
        "this needs an API key or a token: send it as `Authorization: Bearer ...`, a key also as `X-API-Key`"
    )]
    Missing,
    /// It is not one of ours, or not what it claims to be.
    #[error("the API key is not known; check that it was copied whole")]
    UnknownKey,
    /// It was good once.
    #[error("the API key {id} expired at {at}; ask the operator for a new one")]
    ExpiredKey {
        /// Its identifier.
        id: String,
        /// When it ended.
        at: Timestamp,
    },
    /// It was good once.
    #[error("the API key {id} was revoked at {at}; ask the operator for a new one")]
    RevokedKey {
        /// Its identifier.
        id: String,
        /// When it ended.
        at: Timestamp,
    },
    /// The token does not count.
    #[error("the token is not accepted: {0}")]
    Token(String),
    /// Too many failed tries came from their address.
    #[error("too many credentials from your address were wrong (auth.max_failed_tries_per_minute)")]
    TooManyTries(Duration),
    /// Whether a key is good cannot be read now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Knows who calls.
pub struct Authenticator {
    keys: Arc<Keys>,
    tokens: Option<Arc<Tokens>>,
    tries: FailedTries,
    clock: Arc<dyn Clock>,
}

impl Authenticator {
    /// Reads what is needed to know callers.
    ///
    /// # Errors
    /// A file of public keys that cannot be used.
    pub async fn open(
        settings: &AuthSettings,
        keys: Arc<Keys>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let tokens = match &settings.jwt {
            Some(jwt) => Some(Arc::new(Tokens::open(jwt).await?)),
            None => None,
        };
        Ok(Self {
            keys,
            tokens,
            tries: FailedTries::new(settings.max_failed_tries_per_minute),
            clock,
        })
    }

    /// Keeps up with new and revoked keys until `stop`.
    pub fn look_after(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let (keys, until) = (self.keys.clone(), stop.clone());
        tasks.spawn(async move { keys.look_after(until).await });
        if let Some(tokens) = &self.tokens {
            tasks.spawn(tokens.clone().look_after(stop.clone()));
        }
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Whether everybody is welcome: no key was ever made, and there is no provider of tokens.
    pub fn is_open(&self) -> bool {
        self.tokens.is_none() && self.keys.none_was_ever_made()
    }

    /// Who sends this key or token, from this address.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn caller(&self, credential: Option<&str>, from: Option<IpAddr>) -> Result<Caller, Denied> {
        let Some(credential) = credential else {
            return match self.is_open() {
                true => Ok(Caller {
                    from,
                    ..Caller::anonymous()
                }),
                false => Err(Denied::Missing),
            };
        };
        let now = self.clock.now();
        // What is known costs no more than the answer to a stranger would, so that others' failed tries from the same
        // address, of a proxy for instance, do not shut out who is known.
        if let Some(key) = self.keys.known(credential) {
            return self.by_key(&key, now, from);
        }
        if let Some(claims) = self
            .tokens
            .as_ref()
            .and_then(|tokens| tokens.known(credential, now))
        {
            return Ok(by_claims(claims, from));
        }
        let shut_out = from
            .and_then(|from| self.tries.wait(from))
            .map(Denied::TooManyTries);
        if let Some(tokens) = &self.tokens
            && !token::looks_like_one(credential)
        {
            // A signature cannot be guessed, so to check one gives nothing away; but the provider is not asked for strangers.
            let verified = tokens.verify(credential, now, shut_out.is_none()).await;
            return match (verified, shut_out) {
                (Ok(claims), _) => Ok(by_claims(claims, from)),
                (Err(_), Some(shut_out)) => Err(shut_out),
                (Err(error), None) => Err(self.failed(from, Denied::Token(error.to_string()))),
            };
        }
        if let Some(shut_out) = shut_out {
            return Err(shut_out);
        }
        if token::looks_like_one(credential) {
            return match self.keys.find(credential).await? {
                Some(key) => self.by_key(&key, now, from),
                None => Err(self.failed(from, Denied::UnknownKey)),
            };
        }
        let what = "this gateway knows API keys only, which begin with sg_".to_owned();
        Err(self.failed(from, Denied::Token(what)))
    }

    fn by_key(&self, key: &ApiKey, now: Timestamp, from: Option<IpAddr>) -> Result<Caller, Denied> {
        let id = key.id.clone();
        if let Some(at) = key.revoked_at {
            return Err(self.failed(from, Denied::RevokedKey { id, at }));
        }
        if let Some(at) = key.expires_at.filter(|at| *at <= now) {
            return Err(self.failed(from, Denied::ExpiredKey { id, at }));
        }
        Ok(Caller {
            subject: format!("key:{id}"),
            tenant: key.tenant.clone(),
            scopes: key.scopes,
            from,
        })
    }

    fn failed(&self, from: Option<IpAddr>, denied: Denied) -> Denied {
        if let Some(from) = from {
            self.tries.failed(from);
        }
        denied
    }
}

fn by_claims(claims: Claims, from: Option<IpAddr>) -> Caller {
    Caller {
        subject: format!("jwt:{}", claims.subject),
        tenant: claims.tenant,
        scopes: claims.scopes,
        from,
    }
}
