//! From settled transactions to deliveries.
//!
//! Follows the store's changes from a stored position. What is made for a page of them is stored in ONE commit with
//! the new position, by compare-and-swap on it: a crash repeats the page or goes on after it, and of several processes
//! that follow, one makes the deliveries and the others read again. So every event is queued once.
//!
//! While nobody wants to be told of anything, no record is read. A page without anything to queue moves the position in memory only; a crash then reads it again, to no effect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Webhooks;
use super::books::{Feed, Stored};
use super::delivery::{Delivery, Progress};
use super::endpoint::{CALLBACK, Endpoint};
use crate::domain::{TenantName, Timestamp, Transaction};
use crate::failpoint;
use crate::store::{Filter, Position, StoreError};

/// Changes read at once.
const PAGE: usize = 200;

/// Changes are gathered for so long: a record that changes several times meanwhile is read once.
const GATHER: Duration = Duration::from_millis(200);

/// What another process changed is noticed after so long.
const LONGEST_NAP: Duration = Duration::from_millis(500);

const PAUSE: Duration = Duration::from_secs(1);

/// A position that nothing was queued for is noted so often.
const NOTE: Duration = Duration::from_secs(30);

/// So far may the clocks of two processes be apart, and a note behind what is on its way.
const SLACK: Duration = Duration::from_secs(120);

/// How often what is old is removed, and how much in one go.
const PRUNE: Duration = Duration::from_secs(10);
const PRUNE_AT_ONCE: usize = 200;

/// Makes deliveries.
pub(super) struct Dispatcher {
    hooks: Arc<Webhooks>,
    /// Where it is; `None` before it has read that.
    place: Option<Place>,
    pruned_at: Timestamp,
}

struct Place {
    stored: Stored<Feed>,
    /// At or after the stored one.
    position: Position,
}

impl Dispatcher {
    pub(super) fn new(hooks: Arc<Webhooks>) -> Self {
        Self {
            hooks,
            place: None,
            pruned_at: Timestamp::from_millis(0),
        }
    }

    /// Works until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut waits = false;
        while !stop.is_cancelled() {
            let changed = self.hooks.parts.store.changed();
            let mut change = std::pin::pin!(changed.notified());
            change.as_mut().enable();
            let nap = match stop.run_until_cancelled(self.round()).await {
                None => break,
                Some(Ok(more)) => {
                    waits = false;
                    if more { Duration::ZERO } else { LONGEST_NAP }
                }
                Some(Err(error)) => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::warn!(%error, "webhooks wait for the store");
                    }
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(PAUSE) => continue,
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = change => tokio::time::sleep(GATHER.min(nap)).await,
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// Works off a page of changes. Answers whether there is more.
    pub(super) async fn round(&mut self) -> Result<bool, StoreError> {
        let now = self.hooks.parts.clock.now();
        if now.since(self.pruned_at) >= PRUNE {
            self.pruned_at = now;
            self.prune(now).await?;
        }
        let place = match self.place.take() {
            Some(place) => place,
            None => self.read_place().await?,
        };
        // First: whoever wants to be told of something is noted before it is accepted, and so before it changes.
        let last = self.hooks.parts.store.last_change().await?;
        let (next, more, deliveries) = if self.hooks.books.nobody_is_told().await? {
            (last, false, Vec::new())
        } else {
            let Some(changes) = self.hooks.parts.store.changes(place.position, PAGE).await? else {
                self.catch_up(place.stored).await?;
                return Ok(true);
            };
            let deliveries = self.deliveries(changes.items.iter().map(|(_, tx)| tx)).await?;
            (changes.next, changes.more, deliveries)
        };
        let noted_at = place.stored.value.at;
        if deliveries.is_empty() && (next == place.position || now.since(noted_at) < NOTE) {
            self.place = Some(Place {
                position: next,
                ..place
            });
            return Ok(more);
        }
        self.advance(place.stored, next, &deliveries).await?;
        // Whether or not it was this process that went on.
        Ok(more || self.place.is_none())
    }

    async fn read_place(&self) -> Result<Place, StoreError> {
        // It was noted before anything could be accepted.
        let missing = || StoreError::Damaged("how far webhooks are worked off is not noted".to_owned());
        let stored = self.hooks.books.feed().await?.ok_or_else(missing)?;
        let position = stored.value.position()?;
        Ok(Place { stored, position })
    }

    /// Stores deliveries and goes on to `position`. If another process did, it reads anew where to go on.
    async fn advance(
        &mut self,
        stored: Stored<Feed>,
        position: Position,
        deliveries: &[Delivery],
    ) -> Result<(), StoreError> {
        let feed = Feed::new(position, self.hooks.parts.clock.now());
        let stored = self.hooks.books.advance_feed(stored, feed, deliveries).await?;
        if let Some(stored) = stored {
            self.place = Some(Place { stored, position });
            if !deliveries.is_empty() {
                failpoint::reached("webhook-queued");
                self.hooks.parts.metrics.queued.increment(deliveries.len() as u64);
                self.hooks.news.notify_one();
            }
        }
        Ok(())
    }

    /// Goes on after changes that were forgotten before they were worked off: looks at every record instead.
    async fn catch_up(&mut self, mut stored: Stored<Feed>) -> Result<(), StoreError> {
        let (since, store) = (stored.value.at.minus(SLACK), &self.hooks.parts.store);
        tracing::warn!(%since, "changes of records were forgotten before webhooks were made of them; every record is looked at");
        // First, so that nothing falls between.
        let position = store.last_change().await?;
        let (mut cursor, old) = (None, stored.value.clone());
        loop {
            let page = store.list(&Filter::default(), cursor, PAGE).await?;
            let missed = page.items.iter().filter(|tx| tx.updated_at >= since);
            let deliveries = self.deliveries(missed).await?;
            cursor = page.next;
            if cursor.is_none() {
                return self.advance(stored, position, &deliveries).await;
            }
            if !deliveries.is_empty() {
                // The place stays, so that a crash looks at everything again.
                let Some(next) = self
                    .hooks
                    .books
                    .advance_feed(stored, old.clone(), &deliveries)
                    .await?
                else {
                    return Ok(());
                };
                stored = next;
                self.hooks.news.notify_one();
            }
        }
    }

    /// What has to be sent because of these records, and is not queued yet.
    async fn deliveries(
        &self,
        records: impl Iterator<Item = &Transaction>,
    ) -> Result<Vec<Delivery>, StoreError> {
        let mut endpoints: BTreeMap<TenantName, Vec<Endpoint>> = BTreeMap::new();
        let mut deliveries = Vec::new();
        for tx in records.filter(|tx| tx.is_settled()) {
            if !endpoints.contains_key(&tx.tenant) {
                // After the records were read: an endpoint that was there before one settled is seen.
                let found = self.hooks.books.endpoints(Some(&tx.tenant)).await?;
                let found = found.into_iter().map(|stored| stored.value);
                endpoints.insert(
                    tx.tenant.clone(),
                    found.filter(|endpoint| endpoint.id != CALLBACK).collect(),
                );
            }
            let own = endpoints
                .get(&tx.tenant)
                .into_iter()
                .flatten()
                .filter(|endpoint| wants(endpoint, tx));
            let targets = own.map(|endpoint| (endpoint.id.as_str(), endpoint.url.as_str()));
            let callback = tx.request.callback_url.as_deref().map(|url| (CALLBACK, url));
            for (endpoint, url) in targets.chain(callback) {
                let delivery = self.delivery(tx, endpoint, url);
                if self.hooks.books.delivery(&delivery.id()).await?.is_none() {
                    deliveries.push(delivery);
                }
            }
        }
        Ok(deliveries)
    }

    fn delivery(&self, tx: &Transaction, endpoint: &str, url: &str) -> Delivery {
        let now = self.hooks.parts.clock.now();
        Delivery {
            transaction: tx.id,
            endpoint: endpoint.to_owned(),
            tenant: tx.tenant.clone(),
            url: url.to_owned(),
            status: tx.status(),
            settled_at: tx.updated_at,
            created_at: now,
            progress: Progress::due(now, &self.hooks.patience),
            attempts: Vec::new(),
        }
    }

    /// Removes what ended long ago.
    async fn prune(&self, now: Timestamp) -> Result<(), StoreError> {
        let Some(keep) = self.hooks.parts.keep else {
            return Ok(());
        };
        while self.hooks.books.prune(now.minus(keep), PRUNE_AT_ONCE).await? == PRUNE_AT_ONCE {}
        Ok(())
    }
}

fn wants(endpoint: &Endpoint, tx: &Transaction) -> bool {
    endpoint.disabled.is_none()
        && endpoint.statuses.contains(&tx.status())
        && tx.updated_at.plus(SLACK) >= endpoint.created_at
}
