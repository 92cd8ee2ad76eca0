//! Tells callers what became of their transactions: signed POSTs by Standard Webhooks, at least once.
//!
//! - `dispatch` follows the store's changes and makes a delivery of every settled transaction for every endpoint that wants it,
//!   in one commit with how far it got: nothing is left out and nothing queued twice, whatever crashes.
//! - `deliver` sends what is due, `lanes` keeps an endpoint that is down from slowing others (I9), `send` makes
//!   one attempt, `sign` signs it, `target` and `address` keep it from going where only the gateway can go.
//! - `endpoint` and `delivery` are what is stored, `books` how, `configured` what of it the operator decides;
//!   [`Webhooks`] is what their owners see and do (I9), `log` the part about deliveries.
//!
//! Everything is in the store, nothing but the health of endpoints in memory (I7). A crash repeats an attempt whose outcome
//! was not noted, with the same `webhook-id`.

mod address;
mod books;
mod configured;
mod deliver;
mod delivery;
mod dispatch;
mod endpoint;
mod lanes;
mod log;
mod send;
mod sign;
mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::value::RawValue;
use thiserror::Error;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::books::{Books, Feed, Stored};
use self::delivery::Patience;
use self::endpoint::Keyed;
use crate::clock::Clock;
use crate::config::WebhookSettings;
use crate::domain::{DelayStrategy, RetrySettings, Status, TenantName, Transaction};
use crate::store::documents::DocumentStore;
use crate::store::{StoreError, TransactionStore};
use crate::telemetry::Tracer;
use crate::telemetry::metrics::WebhookMetrics;

pub use delivery::{Attempt, Delivery, DeliveryId, Progress};
pub use endpoint::{CALLBACK, Disabled, Endpoint};
pub use log::{DeliveryFilter, DeliveryPage};
pub use sign::Secret;
pub use target::{Forbidden, Guard};

/// How many endpoints a tenant may have.
const MOST_ENDPOINTS: usize = 50;
/// The longest description.
const MAX_DESCRIPTION: usize = 512;
/// The longest time that an old secret signs beside the new one, in seconds: 30 days.
const MAX_OVERLAP: u64 = 30 * 24 * 3_600;

/// The lease goes on for so long after the receiver's time is over: for the commit that notes what it answered.
const NOTING: Duration = Duration::from_secs(5);

/// A look-up may outlive the attempt that it was for; so many fit in for each place, so that those of one tenant, which
/// has not all places, do not take all of them (I9). Each holds a thread, of which there are some hundreds.
const LOOK_UPS_PER_PLACE: u32 = 2;
const MOST_LOOK_UPS: u32 = 256;

/// A change that meets another one is made again, so often.
const TRIES: usize = 5;

/// Writes a record as the API shows it.
pub type Show = fn(&Transaction) -> serde_json::Result<Box<RawValue>>;

/// What webhooks work with.
pub struct Parts {
    /// The records.
    pub store: Arc<dyn TransactionStore>,
    /// Endpoints and deliveries; the same store.
    pub documents: Arc<dyn DocumentStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How it is done.
    pub settings: WebhookSettings,
    /// How long a delivery is kept after its end; `None` is for ever.
    pub keep: Option<Duration>,
    /// How a record is shown.
    pub show: Show,
    /// What is counted.
    pub metrics: WebhookMetrics,
    /// What is traced.
    pub tracer: Tracer,
    /// Whose tasks the attempts are.
    pub tasks: TaskTracker,
}

/// What the owners of endpoints see and do. A tenant of `None` is the gateway's operator, who sees those of all.
pub struct Webhooks {
    parts: Parts,
    books: Books,
    guard: Guard,
    patience: Patience,
    /// Something may be due, or a place is free.
    news: Notify,
    /// Tenants that have what stands for callbacks: it is never removed.
    have_callbacks: Mutex<BTreeSet<TenantName>>,
}

/// What an endpoint is to be.
#[derive(Debug, Clone, Default)]
pub struct EndpointChange {
    /// Where to.
    pub url: Option<String>,
    /// Of what it is told.
    pub statuses: Option<Vec<Status>>,
    /// Its owner's words.
    pub description: Option<String>,
    /// Whether nothing is sent there.
    pub disabled: Option<bool>,
}

/// A field at fault: its JSON Pointer, and what is wrong.
pub type Fault = (String, String);

/// Why nothing was done.
#[derive(Debug, Error)]
pub enum WebhookRefusal {
    /// There is no such endpoint or delivery that the caller may see.
    #[error("there is none")]
    Missing,
    /// Fields are wrong.
    #[error("{} field(s) are not acceptable", .0.len())]
    Invalid(Vec<Fault>),
    /// It cannot be done as things are; the words say what would help.
    #[error("{0}")]
    NotNow(String),
    /// The store could not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How many deliveries may look up names at once.
fn look_ups(settings: &WebhookSettings) -> usize {
    let places = settings.max_in_flight.get();
    places.saturating_mul(LOOK_UPS_PER_PLACE).min(MOST_LOOK_UPS) as usize
}

impl Webhooks {
    /// Opens what is stored, and notes where the changes begin that have to be told. Call it before anything is accepted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(parts: Parts) -> Result<Arc<Self>, StoreError> {
        let books = Books(parts.documents.clone());
        if books.feed().await?.is_none() {
            let position = parts.store.last_change().await?;
            // If another process was quicker, nothing of ours was accepted yet.
            books.begin_feed(&Feed::new(position, parts.clock.now())).await?;
        }
        let settings = &parts.settings;
        let patience = Patience {
            retry: RetrySettings {
                strategy: DelayStrategy::Exponential,
                min: settings.retry_min,
                max: settings.retry_max,
                max_attempts: None,
            },
            give_up_after: settings.give_up_after,
            lease: settings.timeout + NOTING,
        };
        let hooks = Self {
            guard: Guard::new(settings.allow_targets.clone(), look_ups(settings)),
            books,
            patience,
            news: Notify::new(),
            have_callbacks: Mutex::default(),
            parts,
        };
        hooks.configure().await?;
        Ok(Arc::new(hooks))
    }

    /// Makes and sends deliveries until `stop`; what is then under way may end within `drain`.
    ///
    /// # Errors
    /// If no client can be made.
    pub fn start(
        self: &Arc<Self>,
        stop: &CancellationToken,
        drain: Duration,
    ) -> Result<[JoinHandle<()>; 2], reqwest::Error> {
        let sender = send::Sender::new(self.guard.clone(), self.parts.settings.timeout)?;
        let dispatcher = dispatch::Dispatcher::new(self.clone());
        let deliverer = deliver::Deliverer::new(self.clone(), sender);
        let tasks = &self.parts.tasks;
        Ok([
            tasks.spawn(dispatcher.run(stop.clone())),
            tasks.spawn(deliverer.run(stop.clone(), drain)),
        ])
    }

    /// Where webhooks may go.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The endpoints of a tenant, or of all; not what stands for callbacks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn endpoints(&self, tenant: Option<&TenantName>) -> Result<Vec<Endpoint>, StoreError> {
        let all = self
            .books
            .endpoints(tenant)
            .await?
            .into_iter()
            .map(|stored| stored.value);
        Ok(all.filter(|endpoint| endpoint.id != CALLBACK).collect())
    }

    /// One endpoint, or what stands for the callbacks of a tenant.
    ///
    /// # Errors
    /// [`WebhookRefusal`].
    pub async fn endpoint(&self, tenant: Option<&TenantName>, id: &str) -> Result<Endpoint, WebhookRefusal> {
        Ok(self.find(tenant, id).await?.value)
    }

    async fn find(&self, tenant: Option<&TenantName>, id: &str) -> Result<Stored<Endpoint>, WebhookRefusal> {
        if id == CALLBACK {
            return Ok(self.callback(&tenant.cloned().unwrap_or_default()).await?);
        }
        let found = match tenant {
            Some(tenant) if is_id(id) => self.books.endpoint(tenant, id).await?,
            Some(_) => None,
            // An operator's look, over a few endpoints for each tenant.
            None => self
                .books
                .endpoints(None)
                .await?
                .into_iter()
                .find(|stored| stored.value.id == id),
        };
        found.ok_or(WebhookRefusal::Missing)
    }

    /// Notes that a tenant is about to bring something with a `callback_url`. Call it before that is stored: who is not
    /// noted is not looked for.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn expect_callback(&self, tenant: &TenantName) -> Result<(), StoreError> {
        let tenants = || self.have_callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        if !tenants().contains(tenant) {
            self.callback(tenant).await?;
            tenants().insert(tenant.clone());
        }
        Ok(())
    }

    /// What stands for the callbacks of a tenant; made when it is first asked for.
    async fn callback(&self, tenant: &TenantName) -> Result<Stored<Endpoint>, StoreError> {
        for _ in 0..TRIES {
            if let Some(callback) = self.books.endpoint(tenant, CALLBACK).await? {
                return Ok(callback);
            }
            let new = Endpoint::callback(tenant.clone(), self.parts.clock.now());
            self.books.add_endpoint(&new).await?;
        }
        Err(contended())
    }

    /// Makes an endpoint. Answers its secret, for the last time.
    ///
    /// # Errors
    /// [`WebhookRefusal`].
    pub async fn create(
        &self,
        tenant: Option<&TenantName>,
        wanted: EndpointChange,
    ) -> Result<(Endpoint, Secret), WebhookRefusal> {
        let tenant = tenant.cloned().unwrap_or_default();
        let mut faults = self.faults(&wanted).await;
        if wanted.url.is_none() {
            faults.push(("/url".to_owned(), "is missing".to_owned()));
        }
        if faults.is_empty() && self.endpoints(Some(&tenant)).await?.len() >= MOST_ENDPOINTS {
            let words = format!(
                "there are {MOST_ENDPOINTS} webhooks, which is all that a tenant may have; remove one first"
            );
            faults.push((String::new(), words));
        }
        if !faults.is_empty() {
            return Err(WebhookRefusal::Invalid(faults));
        }
        let mut endpoint = Endpoint {
            id: format!("wh_{}", uuid::Uuid::now_v7().simple()),
            tenant,
            url: String::new(),
            description: String::new(),
            statuses: endpoint::SETTLED.to_vec(),
            disabled: None,
            created_at: self.parts.clock.now(),
            secrets: vec![Keyed::new()],
        };
        wanted.apply(&mut endpoint);
        if !self.books.add_endpoint(&endpoint).await? {
            return Err(contended().into());
        }
        let secret = endpoint.secrets[0].secret.clone();
        Ok((endpoint, secret))
    }

    /// Changes an endpoint.
    ///
    /// # Errors
    /// [`WebhookRefusal`].
    pub async fn change(
        &self,
        tenant: Option<&TenantName>,
        id: &str,
        wanted: EndpointChange,
    ) -> Result<Endpoint, WebhookRefusal> {
        self.own(tenant, id).await?;
        let mut faults = self.faults(&wanted).await;
        faults.extend(self.decided(id, &wanted));
        if !faults.is_empty() {
            return Err(WebhookRefusal::Invalid(faults));
        }
        for _ in 0..TRIES {
            let old = self.own(tenant, id).await?;
            let mut new = old.value.clone();
            wanted.clone().apply(&mut new);
            if self.books.change_endpoint(&old, Some(&new)).await? {
                return Ok(new);
            }
        }
        Err(contended().into())
    }

    /// Removes an endpoint. What waits for it fails when it is its turn.
    ///
    /// # Errors
    /// [`WebhookRefusal`].
    pub async fn remove(&self, tenant: Option<&TenantName>, id: &str) -> Result<(), WebhookRefusal> {
        for _ in 0..TRIES {
            let old = self.own(tenant, id).await?;
            if let Some(why) = self.kept(id) {
                return Err(WebhookRefusal::NotNow(why));
            }
            if self.books.change_endpoint(&old, None).await? {
                return Ok(());
            }
        }
        Err(contended().into())
    }

    /// Gives an endpoint, or a tenant's callbacks, a new secret; the old one signs as well for `overlap_seconds`. Answers
    /// the new one, for the last time.
    ///
    /// # Errors
    /// [`WebhookRefusal`].
    pub async fn rotate(
        &self,
        tenant: Option<&TenantName>,
        id: &str,
        overlap_seconds: u64,
    ) -> Result<(Endpoint, Secret), WebhookRefusal> {
        for _ in 0..TRIES {
            let old = self.find(tenant, id).await?;
            if let Some(why) = self.keyed(id) {
                return Err(WebhookRefusal::NotNow(why));
            }
            if overlap_seconds > MAX_OVERLAP {
                let words = format!("must be 0 to {MAX_OVERLAP} (30 days)");
                return Err(WebhookRefusal::Invalid(vec![(
                    "/overlap_seconds".to_owned(),
                    words,
                )]));
            }
            let (now, mut new) = (self.parts.clock.now(), old.value.clone());
            let secret = new.rotate(now, now.plus(Duration::from_secs(overlap_seconds)));
            if self.books.change_endpoint(&old, Some(&new)).await? {
                return Ok((new, secret));
            }
        }
        Err(contended().into())
    }

    /// An endpoint that may be changed: not what stands for callbacks.
    async fn own(&self, tenant: Option<&TenantName>, id: &str) -> Result<Stored<Endpoint>, WebhookRefusal> {
        match id {
            CALLBACK => Err(WebhookRefusal::Missing),
            id => self.find(tenant, id).await,
        }
    }

    /// What is wrong with what an endpoint is to be.
    async fn faults(&self, wanted: &EndpointChange) -> Vec<Fault> {
        let mut faults = Vec::new();
        if let Some(url) = &wanted.url
            && let Err(forbidden) = self.guard.accept(url).await
        {
            faults.push(("/url".to_owned(), forbidden.to_string()));
        }
        if let Some(statuses) = &wanted.statuses
            && (statuses.is_empty() || statuses.len() > 2 || statuses.contains(&Status::Pending))
        {
            faults.push((
                "/statuses".to_owned(),
                "must be \"done\", \"failed\" or both".to_owned(),
            ));
        }
        if wanted
            .description
            .as_ref()
            .is_some_and(|text| text.len() > MAX_DESCRIPTION)
        {
            faults.push((
                "/description".to_owned(),
                format!("must be at most {MAX_DESCRIPTION} bytes"),
            ));
        }
        faults
    }
}

impl EndpointChange {
    fn apply(self, endpoint: &mut Endpoint) {
        if let Some(url) = self.url {
            endpoint.url = url;
        }
        if let Some(mut statuses) = self.statuses {
            statuses.dedup();
            endpoint.statuses = statuses;
        }
        if let Some(description) = self.description {
            endpoint.description = description;
        }
        if let Some(disabled) = self.disabled {
            endpoint.disabled = disabled.then_some(Disabled::ByOwner);
        }
    }
}

/// Whether it can be an endpoint's: what a client sends must not reach into the order of keys.
fn is_id(id: &str) -> bool {
    id.len() <= 80
        && id
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || c == b'_' || c == b'-')
}

fn contended() -> StoreError {
    StoreError::Unavailable("others change the same document all the time".to_owned())
}
