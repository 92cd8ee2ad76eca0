//! Endpoints that the operator configures: at every start what is stored is made equal to the configuration.
//!
//! From then on they are like any other, but for what the configuration decides. Several processes may do this at the
//! same time; with different configurations the last one to start wins.

use std::time::Duration;

use super::books::Stored;
use super::endpoint::{Endpoint, Keyed};
use super::sign::Secret;
use super::{EndpointChange, Fault, TRIES, Webhooks, contended};
use crate::config::EndpointSettings;
use crate::store::StoreError;

/// What the ids of configured endpoints begin with; the name follows.
const PREFIX: &str = "wh_config_";

/// A secret that was replaced in the configuration signs for so long beside the new one.
const OVERLAP: Duration = Duration::from_secs(24 * 3_600);

impl Webhooks {
    /// Makes what is stored equal to the configuration.
    pub(super) async fn configure(&self) -> Result<(), StoreError> {
        for (name, wanted) in &self.parts.settings.endpoints {
            self.ensure(&format!("{PREFIX}{name}"), wanted).await?;
        }
        for stored in self.books.endpoints(None).await? {
            let endpoint = &stored.value;
            let is_wanted = self
                .configured(&endpoint.id)
                .is_some_and(|wanted| wanted.tenant == endpoint.tenant);
            if endpoint.id.starts_with(PREFIX) && !is_wanted {
                // If it has changed meanwhile, another process was quicker.
                self.books.change_endpoint(&stored, None).await?;
            }
        }
        Ok(())
    }

    async fn ensure(&self, id: &str, wanted: &EndpointSettings) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let made = match self.books.endpoint(&wanted.tenant, id).await? {
                None => {
                    let new = self.as_wanted(None, id, wanted)?;
                    self.books.add_endpoint(&new).await?
                }
                Some(old) => {
                    let new = self.as_wanted(Some(&old), id, wanted)?;
                    new == old.value || self.books.change_endpoint(&old, Some(&new)).await?
                }
            };
            if made {
                return Ok(());
            }
        }
        Err(contended())
    }

    fn as_wanted(
        &self,
        old: Option<&Stored<Endpoint>>,
        id: &str,
        wanted: &EndpointSettings,
    ) -> Result<Endpoint, StoreError> {
        let now = self.parts.clock.now();
        let mut endpoint = old.map_or_else(
            || Endpoint {
                id: id.to_owned(),
                tenant: wanted.tenant.clone(),
                url: String::new(),
                description: "configured by the operator".to_owned(),
                statuses: Vec::new(),
                disabled: None,
                created_at: now,
                secrets: vec![Keyed::new()],
            },
            |old| old.value.clone(),
        );
        endpoint.url.clone_from(&wanted.url);
        endpoint.statuses.clone_from(&wanted.statuses);
        if let Some(secret) = &wanted.secret {
            let secret: Secret = secret
                .expose()
                .parse()
                .map_err(|what: &str| StoreError::Damaged(what.to_owned()))?;
            if old.is_none() {
                endpoint.secrets.clear();
            }
            endpoint.sign_with(secret, now, now.plus(OVERLAP));
        }
        Ok(endpoint)
    }

    /// What is configured under this id.
    fn configured(&self, id: &str) -> Option<&EndpointSettings> {
        self.parts.settings.endpoints.get(id.strip_prefix(PREFIX)?)
    }

    /// What a change would touch that the configuration decides.
    pub(super) fn decided(&self, id: &str, wanted: &EndpointChange) -> Vec<Fault> {
        let touched = [
            ("/url", wanted.url.is_some()),
            ("/statuses", wanted.statuses.is_some()),
        ];
        let touched = touched.into_iter().filter(|(_, touched)| *touched);
        match id.strip_prefix(PREFIX) {
            Some(name) => touched
                .map(|(pointer, _)| (pointer.to_owned(), words(name)))
                .collect(),
            None => Vec::new(),
        }
    }

    /// Why a configured endpoint cannot be removed.
    pub(super) fn kept(&self, id: &str) -> Option<String> {
        Some(format!("this webhook {}", words(id.strip_prefix(PREFIX)?)))
    }

    /// Why its secret cannot be rotated.
    pub(super) fn keyed(&self, id: &str) -> Option<String> {
        self.configured(id)?.secret.as_ref()?;
        self.kept(id)
    }
}

fn words(name: &str) -> String {
    format!("is decided by the configuration: change webhooks.endpoints.{name} there")
}
