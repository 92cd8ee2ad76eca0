//! What is kept of webhooks: five kinds of documents, each under keys in the order in which they are asked for.
//!
//! ```text
//! webhook        tenant/endpoint                          an endpoint with its secrets
//! delivery       transaction/endpoint                     a delivery
//! delivery-due   lane/due-ms/delivery -> give-up-ms       one that is pending, by where it goes
//! delivery-end   end-ms/delivery                          one that is settled, by when
//! webhook-feed   -                                        how far the changes of records are worked off
//! ```
//!
//! A delivery and its one index entry change in the same commit. An entry is made and removed, never changed, so its
//! version is always 1. A lane is what has a fate of its own: an endpoint (`tenant/wh_…`), or one host and port of a
//! tenant's callbacks (`tenant/callback/host:port`).

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use super::delivery::{Delivery, DeliveryId, Progress};
use super::endpoint::{CALLBACK, Endpoint};
use crate::domain::{TenantName, Timestamp, TransactionId};
use crate::store::documents::{Document, DocumentChange, DocumentStore, Kind};
use crate::store::{Position, StoreError};

const ENDPOINT: Kind = "webhook";
const DELIVERY: Kind = "delivery";
const DUE: Kind = "delivery-due";
const END: Kind = "delivery-end";
const FEED: Kind = "webhook-feed";

/// There is one feed, and so one document about it.
const FEED_KEY: &str = "-";

/// Read at once where all have to be read.
const PAGE: usize = 200;

/// Something stored, and its version.
#[derive(Debug, Clone)]
pub(super) struct Stored<T> {
    pub(super) value: T,
    document: Document,
}

impl<T: DeserializeOwned> Stored<T> {
    fn read(document: Document) -> Result<Self, StoreError> {
        Ok(Self {
            value: document.read()?,
            document,
        })
    }
}

impl<T> Stored<T> {
    /// Where it stands in the order of its kind.
    pub(super) fn key(&self) -> &str {
        &self.document.key
    }

    /// The same after another value was stored in its place.
    fn replaced(mut self, value: T) -> Self {
        self.document.version += 1;
        self.value = value;
        self
    }
}

/// An entry of the index of what is due.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) lane: String,
    pub(super) due_at: Timestamp,
    pub(super) give_up_at: Timestamp,
    pub(super) id: DeliveryId,
}

/// How far the changes of records are worked off.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Feed {
    position: String,
    /// When that was noted: everything settled before was worked off, but for what was on its way.
    pub(super) at: Timestamp,
}

impl Feed {
    pub(super) fn new(position: Position, at: Timestamp) -> Self {
        Self {
            position: position.to_string(),
            at,
        }
    }

    pub(super) fn position(&self) -> Result<Position, StoreError> {
        let parsed = self.position.parse();
        parsed.map_err(|_| StoreError::Damaged(format!("{FEED} holds the position {:?}", self.position)))
    }
}

/// Reads and writes all of it.
#[derive(Clone)]
pub(super) struct Books(pub(super) Arc<dyn DocumentStore>);

impl Books {
    async fn read<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &str,
    ) -> Result<Option<Stored<T>>, StoreError> {
        self.0.document(kind, key).await?.map(Stored::read).transpose()
    }

    /// All documents of a kind whose keys begin with `prefix`.
    async fn all<T: DeserializeOwned>(&self, kind: Kind, prefix: &str) -> Result<Vec<Stored<T>>, StoreError> {
        let (mut from, end) = (prefix.to_owned(), after(prefix));
        let mut found = Vec::new();
        loop {
            let page = self.0.documents(kind, &from..&end, false, PAGE).await?;
            let complete = page.len() < PAGE;
            if let Some(last) = page.last() {
                from = format!("{} ", last.key);
            }
            for document in page {
                found.push(Stored::read(document)?);
            }
            if complete {
                return Ok(found);
            }
        }
    }

    pub(super) async fn endpoint(
        &self,
        tenant: &TenantName,
        id: &str,
    ) -> Result<Option<Stored<Endpoint>>, StoreError> {
        self.read(ENDPOINT, &format!("{tenant}/{id}")).await
    }

    /// The endpoints of a tenant, or of all, [`CALLBACK`] included.
    pub(super) async fn endpoints(
        &self,
        tenant: Option<&TenantName>,
    ) -> Result<Vec<Stored<Endpoint>>, StoreError> {
        let prefix = tenant.map_or_else(String::new, |tenant| format!("{tenant}/"));
        self.all(ENDPOINT, &prefix).await
    }

    /// Whether there is no endpoint at all, and nothing that stands for callbacks.
    pub(super) async fn nobody_is_told(&self) -> Result<bool, StoreError> {
        Ok(self.0.documents(ENDPOINT, "".."", false, 1).await?.is_empty())
    }

    /// Stores a new endpoint; `false` if there is one with its id.
    pub(super) async fn add_endpoint(&self, new: &Endpoint) -> Result<bool, StoreError> {
        let change = DocumentChange::create(ENDPOINT, format!("{}/{}", new.tenant, new.id), new)?;
        self.0.change_documents(vec![change]).await
    }

    /// Stores another version of an endpoint, or removes it; `false` if it has changed since it was read.
    pub(super) async fn change_endpoint(
        &self,
        old: &Stored<Endpoint>,
        new: Option<&Endpoint>,
    ) -> Result<bool, StoreError> {
        let change = match new {
            Some(new) => DocumentChange::replace(ENDPOINT, &old.document, new)?,
            None => DocumentChange::remove(ENDPOINT, &old.document),
        };
        self.0.change_documents(vec![change]).await
    }

    pub(super) async fn delivery(&self, id: &DeliveryId) -> Result<Option<Stored<Delivery>>, StoreError> {
        self.read(DELIVERY, &key_of(id)).await
    }

    /// The deliveries of a transaction.
    pub(super) async fn deliveries_of(&self, id: TransactionId) -> Result<Vec<Stored<Delivery>>, StoreError> {
        self.all(DELIVERY, &format!("{id}/")).await
    }

    /// Up to `limit` deliveries below a key, those of the newest transactions first.
    pub(super) async fn deliveries_below(
        &self,
        below: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Stored<Delivery>>, StoreError> {
        let page = self
            .0
            .documents(DELIVERY, ""..below.unwrap_or_default(), true, limit)
            .await?;
        page.into_iter().map(Stored::read).collect()
    }

    /// Stores another version of a delivery; `None` if it has changed since it was read.
    pub(super) async fn change_delivery(
        &self,
        old: Stored<Delivery>,
        new: Delivery,
    ) -> Result<Option<Stored<Delivery>>, StoreError> {
        let mut changes = Vec::new();
        replace(&mut changes, &old, &new)?;
        let made = self.0.change_documents(changes).await?;
        Ok(made.then(|| old.replaced(new)))
    }

    /// As [`change_delivery`](Self::change_delivery), all of them or none.
    pub(super) async fn change_deliveries(
        &self,
        pairs: Vec<(Stored<Delivery>, Delivery)>,
    ) -> Result<Option<Vec<Stored<Delivery>>>, StoreError> {
        let mut changes = Vec::new();
        for (old, new) in &pairs {
            replace(&mut changes, old, new)?;
        }
        if changes.is_empty() || !self.0.change_documents(changes).await? {
            return Ok(None);
        }
        Ok(Some(
            pairs.into_iter().map(|(old, new)| old.replaced(new)).collect(),
        ))
    }

    /// Up to `limit` entries of what is due or will be, lane by lane, each earliest first; from the first lane after
    /// `lane` on.
    pub(super) async fn due(&self, after_lane: Option<&str>, limit: usize) -> Result<Vec<Due>, StoreError> {
        let from = after_lane
            .map(|lane| after(&format!("{lane}/")))
            .unwrap_or_default();
        let entries = self.0.documents(DUE, &*from.."", false, limit).await?;
        entries.iter().map(read_due).collect()
    }

    /// Removes an entry of what is due that points to nothing.
    pub(super) async fn forget_due(&self, due: &Due) -> Result<bool, StoreError> {
        let key = due_key(&due.lane, due.due_at, &due.id);
        self.0.change_documents(vec![remove(DUE, key)]).await
    }

    /// Removes up to `limit` deliveries that ended before `before`. Answers how many entries it looked at.
    pub(super) async fn prune(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let old = self.0.documents(END, ""..&moment(before), false, limit).await?;
        for entry in &old {
            let mut changes = vec![DocumentChange::remove(END, entry)];
            let id = entry.key.rsplit_once('/').and_then(|(_, id)| id.parse().ok());
            if let Some(id) = id
                && let Some(delivery) = self.delivery(&id).await?
                && index(&delivery.value).1 == entry.key
            {
                changes.push(DocumentChange::remove(DELIVERY, &delivery.document));
            }
            // If it changed just now, it is not old any more.
            self.0.change_documents(changes).await?;
        }
        Ok(old.len())
    }

    pub(super) async fn feed(&self) -> Result<Option<Stored<Feed>>, StoreError> {
        self.read(FEED, FEED_KEY).await
    }

    /// Notes where the feed begins; `false` if somebody did.
    pub(super) async fn begin_feed(&self, feed: &Feed) -> Result<bool, StoreError> {
        self.0
            .change_documents(vec![DocumentChange::create(FEED, FEED_KEY, feed)?])
            .await
    }

    /// Stores new deliveries and how far the feed is worked off, together; `None` if somebody else went on with the feed, or
    /// made one of the deliveries.
    pub(super) async fn advance_feed(
        &self,
        old: Stored<Feed>,
        new: Feed,
        deliveries: &[Delivery],
    ) -> Result<Option<Stored<Feed>>, StoreError> {
        let mut changes = vec![DocumentChange::replace(FEED, &old.document, &new)?];
        for delivery in deliveries {
            changes.push(DocumentChange::create(
                DELIVERY,
                key_of(&delivery.id()),
                delivery,
            )?);
            let (kind, key, body) = index(delivery);
            changes.push(DocumentChange::create(kind, key, &body)?);
        }
        let made = self.0.change_documents(changes).await?;
        Ok(made.then(|| old.replaced(new)))
    }
}

/// The first key after all that begin with `prefix`; empty if there is none.
fn after(prefix: &str) -> String {
    // Prefixes are empty, or end with a slash: the next letter is the zero.
    prefix
        .strip_suffix('/')
        .map_or_else(String::new, |start| format!("{start}0"))
}

fn key_of(id: &DeliveryId) -> String {
    format!("{}/{}", id.transaction, id.endpoint)
}

/// Milliseconds in the order of numbers, for some thousand years.
fn moment(at: Timestamp) -> String {
    format!("{:014}", at.as_millis())
}

fn due_key(lane: &str, due_at: Timestamp, id: &DeliveryId) -> String {
    format!("{lane}/{}/{id}", moment(due_at))
}

fn read_due(entry: &Document) -> Result<Due, StoreError> {
    let damaged = || StoreError::Damaged(format!("{DUE} holds the key {:?}", entry.key));
    let mut parts = entry.key.rsplitn(3, '/');
    let (Some(id), Some(due), Some(lane)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(damaged());
    };
    Ok(Due {
        lane: lane.to_owned(),
        due_at: Timestamp::from_millis(due.parse().map_err(|_| damaged())?),
        give_up_at: Timestamp::from_millis(entry.read::<Option<u64>>()?.ok_or_else(damaged)?),
        id: id.parse().map_err(|()| damaged())?,
    })
}

/// Where a delivery goes, as far as its fate is shared with others.
pub(super) fn lane(delivery: &Delivery) -> String {
    let Delivery {
        tenant,
        endpoint,
        url,
        ..
    } = delivery;
    if endpoint != CALLBACK {
        return format!("{tenant}/{endpoint}");
    }
    let url = Url::parse(url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    let port = url
        .as_ref()
        .and_then(Url::port_or_known_default)
        .unwrap_or_default();
    format!("{tenant}/{CALLBACK}/{host}:{port}")
}

/// The one index entry of a delivery.
fn index(delivery: &Delivery) -> (Kind, String, Option<u64>) {
    let id = delivery.id();
    match &delivery.progress {
        Progress::Pending {
            due_at, give_up_at, ..
        } => (
            DUE,
            due_key(&lane(delivery), *due_at, &id),
            Some(give_up_at.as_millis()),
        ),
        Progress::Delivered { at } | Progress::Failed { at, .. } => {
            (END, format!("{}/{id}", moment(*at)), None)
        }
    }
}

fn remove(kind: Kind, key: String) -> DocumentChange {
    DocumentChange {
        kind,
        key,
        expected: Some(1),
        body: None,
    }
}

/// Adds what it takes to change a delivery with its index entry.
fn replace(
    changes: &mut Vec<DocumentChange>,
    old: &Stored<Delivery>,
    new: &Delivery,
) -> Result<(), StoreError> {
    changes.push(DocumentChange::replace(DELIVERY, &old.document, new)?);
    let (before, after) = (index(&old.value), index(new));
    if (before.0, &before.1) != (after.0, &after.1) {
        changes.push(remove(before.0, before.1));
        changes.push(DocumentChange::create(after.0, after.1, &after.2)?);
    }
    Ok(())
}
