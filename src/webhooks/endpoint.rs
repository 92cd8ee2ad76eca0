//! An endpoint: where a tenant wants to be told, of what, and with which secrets.
//!
//! The endpoint called [`CALLBACK`] is every tenant's: it has no URL of its own and holds the secrets for what goes to
//! the `callback_url` of requests.

use serde::{Deserialize, Serialize};

use super::sign::Secret;
use crate::domain::{Status, TenantName, Timestamp};

/// The name of what a request's own `callback_url` stands for.
pub const CALLBACK: &str = "callback";

/// How many secrets may be in force at once; with another one the oldest ends.
const MOST_SECRETS: usize = 4;

/// An endpoint as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `wh_` and 26 characters, or [`CALLBACK`].
    pub id: String,
    /// Whose it is.
    pub tenant: TenantName,
    /// Where to; empty for [`CALLBACK`].
    pub url: String,
    /// The owner's words.
    pub description: String,
    /// Of what it is told: `done`, `failed` or both.
    pub statuses: Vec<Status>,
    /// Why nothing is sent there, if so.
    pub disabled: Option<Disabled>,
    /// When it was made.
    pub created_at: Timestamp,
    /// What signs, newest first.
    pub(super) secrets: Vec<Keyed>,
}

/// Why nothing is sent to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disabled {
    /// Its owner said so.
    ByOwner,
    /// It answered 410 Gone.
    Gone,
}

/// A secret and how long it signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyed {
    pub(super) secret: Secret,
    /// `None`: until it is rotated.
    pub(super) until: Option<Timestamp>,
}

impl Endpoint {
    /// The pseudo endpoint of a tenant.
    pub(super) fn callback(tenant: TenantName, now: Timestamp) -> Self {
        Self {
            id: CALLBACK.to_owned(),
            tenant,
            url: String::new(),
            description: "the callback_url of requests".to_owned(),
            statuses: SETTLED.to_vec(),
            disabled: None,
            created_at: now,
            secrets: vec![Keyed::new()],
        }
    }

    /// What signs at `now`, newest first.
    pub(super) fn secrets(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        let in_force = move |keyed: &&Keyed| keyed.until.is_none_or(|until| now < until);
        self.secrets.iter().filter(in_force).map(|keyed| &keyed.secret)
    }

    /// Takes a new secret; those before it sign until `until` at the latest. Answers the new one.
    pub(super) fn rotate(&mut self, now: Timestamp, until: Timestamp) -> Secret {
        let secret = Secret::new();
        self.sign_with(secret.clone(), now, until);
        secret
    }

    /// Takes this secret, unless it is the present one; those before it sign until `until` at the latest.
    pub(super) fn sign_with(&mut self, secret: Secret, now: Timestamp, until: Timestamp) {
        if self.secrets.first().is_some_and(|keyed| keyed.secret == secret) {
            return;
        }
        self.secrets
            .retain(|keyed| keyed.until.is_none_or(|until| now < until));
        for keyed in &mut self.secrets {
            keyed.until = Some(keyed.until.map_or(until, |earlier| earlier.min(until)));
        }
        self.secrets
            .retain(|keyed| keyed.until.is_some_and(|until| now < until));
        self.secrets.insert(0, Keyed { secret, until: None });
        self.secrets.truncate(MOST_SECRETS);
    }
}

/// The statuses that are told.
pub(super) const SETTLED: [Status; 2] = [Status::Done, Status::Failed];

impl Keyed {
    pub(super) fn new() -> Self {
        Self {
            secret: Secret::new(),
            until: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rotated_secrets_sign_until_their_overlap_ends() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1_000);
        let mut endpoint = Endpoint::callback(TenantName::default(), at(0));
        let first = endpoint.secrets[0].secret.clone();
        let second = endpoint.rotate(at(10), at(20));
        let third = endpoint.rotate(at(15), at(40));
        let signing = |endpoint: &Endpoint, at| endpoint.secrets(at).cloned().collect::<Vec<_>>();
        assert_eq!(signing(&endpoint, at(19)), [third.clone(), second.clone(), first]);
        assert_eq!(signing(&endpoint, at(20)), [third.clone(), second]);
        assert_eq!(signing(&endpoint, at(40)), [third]);
        let now = at(50);
        let only = endpoint.rotate(now, now);
        assert_eq!(
            signing(&endpoint, now),
            [only],
            "without an overlap the old one ends at once"
        );
        for _ in 0..10 {
            endpoint.rotate(now, now.plus(Duration::from_secs(60)));
        }
        assert_eq!(endpoint.secrets.len(), MOST_SECRETS);
    }
}
