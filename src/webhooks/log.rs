//! The log of deliveries, as their owners see it, and sending one once more.
//!
//! What a tenant may not see is passed over, and a search looks at a bounded number. Nothing is kept here; a redelivery is
//! noted before it is answered.

use super::books::Stored;
use super::delivery::{Delivery, DeliveryId};
use super::endpoint::CALLBACK;
use super::{TRIES, WebhookRefusal, Webhooks, contended};
use crate::domain::{TenantName, TransactionId};
use crate::store::StoreError;

/// How many deliveries a search looks at before it answers a page, however short.
const MOST_LOOKED_AT: usize = 2_000;
/// So many are read at once.
const PORTION: usize = 100;

/// Which deliveries to list.
#[derive(Debug, Default, Clone)]
pub struct DeliveryFilter {
    /// Only to this endpoint.
    pub webhook: Option<String>,
    /// Only of this transaction.
    pub transaction: Option<TransactionId>,
    /// Only `pending`, `delivered` or `failed` ones.
    pub state: Option<&'static str>,
}

/// A page of deliveries.
#[derive(Debug, Default)]
pub struct DeliveryPage {
    /// Those of the newest transactions first.
    pub items: Vec<Delivery>,
    /// Below which key the next page begins; `None` if this was the last one. A page may be short, or empty, and still
    /// have a next one.
    pub next: Option<String>,
}

impl Webhooks {
    /// A delivery.
    ///
    /// # Errors
    /// [`WebhookRefusal`].
    pub async fn delivery(&self, tenant: Option<&TenantName>, id: &str) -> Result<Delivery, WebhookRefusal> {
        Ok(self.find_delivery(tenant, id).await?.value)
    }

    async fn find_delivery(
        &self,
        tenant: Option<&TenantName>,
        id: &str,
    ) -> Result<Stored<Delivery>, WebhookRefusal> {
        let id: DeliveryId = id.parse().map_err(|()| WebhookRefusal::Missing)?;
        let found = self.books.delivery(&id).await?;
        let seen = found.filter(|stored| tenant.is_none_or(|tenant| stored.value.tenant == *tenant));
        seen.ok_or(WebhookRefusal::Missing)
    }

    /// The deliveries of a transaction, if it is the tenant's.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deliveries_of(
        &self,
        tenant: Option<&TenantName>,
        transaction: TransactionId,
    ) -> Result<Vec<Delivery>, StoreError> {
        let all = self
            .books
            .deliveries_of(transaction)
            .await?
            .into_iter()
            .map(|stored| stored.value);
        Ok(all
            .filter(|delivery| tenant.is_none_or(|tenant| delivery.tenant == *tenant))
            .collect())
    }

    /// A page of deliveries.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deliveries(
        &self,
        tenant: Option<&TenantName>,
        filter: &DeliveryFilter,
        below: Option<String>,
        limit: usize,
    ) -> Result<DeliveryPage, StoreError> {
        let matches = |delivery: &Delivery| {
            tenant.is_none_or(|tenant| delivery.tenant == *tenant)
                && filter
                    .webhook
                    .as_ref()
                    .is_none_or(|webhook| delivery.endpoint == *webhook)
                && filter.state.is_none_or(|state| delivery.progress.name() == state)
        };
        if let Some(transaction) = filter.transaction {
            let all = self.deliveries_of(tenant, transaction).await?;
            return Ok(DeliveryPage {
                items: all.into_iter().filter(matches).collect(),
                next: None,
            });
        }
        let (mut page, mut looked_at) = (DeliveryPage::default(), 0);
        page.next = below;
        while looked_at < MOST_LOOKED_AT {
            // Most may be of others: they are read in portions, however few are wanted.
            let read = self.books.deliveries_below(page.next.as_deref(), PORTION).await?;
            looked_at += read.len();
            let is_last = read.len() < PORTION;
            let mut read = read.into_iter().peekable();
            while let Some(stored) = read.next() {
                page.next = Some(stored.key().to_owned()).filter(|_| !is_last || read.peek().is_some());
                page.items.extend(Some(stored.value).filter(matches));
                if page.items.len() >= limit {
                    return Ok(page);
                }
            }
            if is_last {
                page.next = None;
                break;
            }
        }
        Ok(page)
    }

    /// Whether there still is something to send, and somebody to send it to.
    async fn can_be_sent(&self, delivery: &Delivery) -> Result<(), WebhookRefusal> {
        let not_now = |why: &str| Err(WebhookRefusal::NotNow(why.to_owned()));
        if delivery.endpoint != CALLBACK {
            match self.books.endpoint(&delivery.tenant, &delivery.endpoint).await? {
                None => return not_now("its webhook was removed"),
                Some(endpoint) if endpoint.value.disabled.is_some() => {
                    return not_now(
                        "its webhook is disabled; enable it first (PATCH with \"disabled\": false)",
                    );
                }
                Some(_) => {}
            }
        }
        match self.parts.store.get(delivery.transaction).await? {
            Some(_) => Ok(()),
            None => not_now("its transaction's record was removed (retention), so there is nothing to send"),
        }
    }

    /// Sends a delivery once more, with the same id. One that is being sent is left alone.
    ///
    /// # Errors
    /// [`WebhookRefusal`].
    pub async fn redeliver(&self, tenant: Option<&TenantName>, id: &str) -> Result<Delivery, WebhookRefusal> {
        for _ in 0..TRIES {
            let old = self.find_delivery(tenant, id).await?;
            self.can_be_sent(&old.value).await?;
            let new = old
                .value
                .clone()
                .asked_for_again(self.parts.clock.now(), &self.patience);
            // It is being sent: whoever does so would lose what came of it.
            if new == old.value {
                return Ok(new);
            }
            if let Some(changed) = self.books.change_delivery(old, new).await? {
                self.news.notify_one();
                return Ok(changed.value);
            }
        }
        Err(contended().into())
    }
}
