//! From deliveries to receivers.
//!
//! Goes round the lanes that have something due, and takes from each as much as it has room for: one that is slow or
//! down is passed by and holds nobody up (I9). What is due stays on the disk until there is a place for it (I7).
//!
//! A delivery is claimed before it is sent: its due moment moves behind a lease, by compare-and-swap. If this process
//! dies, it is due again when the lease is over. If it dies between the receiver's answer and the note of it, the delivery is
//! sent once more, with the same id: at least once is the promise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Webhooks;
use super::books::{Due, Stored};
use super::delivery::{Delivery, Outcome, Progress, Verdict};
use super::endpoint::{CALLBACK, Disabled, Endpoint};
use super::lanes::{Lanes, Room};
use super::send::{Message, Sender};
use crate::domain::{Timestamp, Transaction};
use crate::failpoint;
use crate::store::StoreError;
use crate::telemetry::{KeyValue, Span, SpanKind, TraceContext};

/// Entries read at once.
const PAGE: usize = 64;

/// What another process made due is noticed after so long; longer if a look takes long: looking takes at most one part
/// in so many of the time.
const LONGEST_NAP: Duration = Duration::from_secs(1);
const LOOK_SHARE: u32 = 20;

/// After another process was quicker.
const SHORT_NAP: Duration = Duration::from_millis(50);

/// Sends what is due.
pub(super) struct Deliverer {
    hooks: Arc<Webhooks>,
    sender: Sender,
    lanes: Lanes,
    places: Arc<Semaphore>,
}

/// What is sent.
#[derive(Serialize)]
struct Payload<'a> {
    r#type: &'a str,
    timestamp: String,
    data: Box<RawValue>,
}

/// Why there is nothing to send.
type Pointless = &'static str;

impl Deliverer {
    pub(super) fn new(hooks: Arc<Webhooks>, sender: Sender) -> Self {
        let settings = &hooks.parts.settings;
        Self {
            lanes: Lanes::new(settings),
            places: Arc::new(Semaphore::new(settings.max_in_flight.get() as usize)),
            sender,
            hooks,
        }
    }

    /// Works until `stop`, then lets what is under way end within `drain`.
    pub(super) async fn run(self, stop: CancellationToken, drain: Duration) {
        let (this, mut waits) = (Arc::new(self), false);
        while !stop.is_cancelled() {
            let mut news = std::pin::pin!(this.hooks.news.notified());
            news.as_mut().enable();
            let begun = Instant::now();
            let nap = match stop.run_until_cancelled(this.cycle()).await {
                None => break,
                Some(Ok(next)) => {
                    waits = false;
                    let longest = LONGEST_NAP.max(begun.elapsed() * LOOK_SHARE);
                    next.map_or(longest, |next| next.since(this.hooks.parts.clock.now()))
                        .min(longest)
                }
                Some(Err(error)) => {
                    if !std::mem::replace(&mut waits, true) {
                        tracing::warn!(%error, "deliveries wait for the store");
                    }
                    LONGEST_NAP
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = news => {}
                () = tokio::time::sleep(nap) => {}
            }
        }
        let places = this.hooks.parts.settings.max_in_flight.get();
        let all = this.places.acquire_many(places);
        if tokio::time::timeout(drain, all).await.is_err() {
            tracing::warn!("webhooks are under way that get no more time; they are sent again");
        }
    }

    /// Goes round all lanes once. Answers when the next delivery falls due that was not due now.
    async fn cycle(self: &Arc<Self>) -> Result<Option<Timestamp>, StoreError> {
        let (mut lane, mut next) = (None::<String>, None);
        let (parts, mut earliest) = (&self.hooks.parts, None);
        loop {
            let (page, more) = self.hooks.books.due(lane.as_deref(), PAGE).await?;
            for own in page.chunk_by(|one, other| one.lane == other.lane) {
                earliest = earliest
                    .into_iter()
                    .chain(own.first().map(|entry| entry.due_at))
                    .min();
                let later = self.serve(own).await?;
                next = next.into_iter().chain(later).min();
            }
            match page.last() {
                Some(last) if more => lane = Some(last.lane.clone()),
                _ => {
                    let overdue = earliest.map(|due| parts.clock.now().since(due));
                    parts
                        .metrics
                        .overdue
                        .set(overdue.unwrap_or_default().as_secs_f64());
                    return Ok(next);
                }
            }
        }
    }

    /// Begins what may begin of one lane's entries. Answers when to look at it again, if nobody tells before.
    async fn serve(self: &Arc<Self>, entries: &[Due]) -> Result<Option<Timestamp>, StoreError> {
        let (clock, books) = (&self.hooks.parts.clock, &self.hooks.books);
        let (due, later) = entries.split_at(entries.partition_point(|entry| entry.due_at <= clock.now()));
        let later = later.first().map(|entry| entry.due_at);
        let Some(Due { lane, .. }) = due.first() else {
            return Ok(later);
        };
        // Whoever holds a place gives it back in time, so every lane has its turn.
        let Ok(first) = self.places.clone().acquire_owned().await else {
            return Ok(later);
        };
        let now = clock.now();
        let room = match self.lanes.room(lane, now, self.places.available_permits() + 1) {
            Room::For(room) => room,
            Room::Full => return Ok(later),
            Room::Until(moment) => {
                self.give_up(due, now).await?;
                return Ok(Some(moment));
            }
        };
        let mut claims = Vec::new();
        for entry in &due[..due.len().min(room)] {
            match books.delivery(&entry.id).await {
                Ok(Some(stored)) => {
                    let claimed = stored.value.claimed(now, &self.hooks.patience);
                    claims.extend(claimed.map(|claimed| (stored, claimed)));
                }
                Ok(None) => {
                    books.forget_due(entry).await?;
                }
                // It must not hold up the others.
                Err(error @ StoreError::Damaged(_)) => tracing::error!(%error, "a delivery is passed over"),
                Err(error) => return Err(error),
            }
        }
        let Some(claimed) = books.change_deliveries(claims).await? else {
            return Ok(Some(now.plus(SHORT_NAP)));
        };
        let mut place = Some(first);
        for delivery in claimed {
            // There are at least as many as there is room for.
            let Some(place) = place
                .take()
                .or_else(|| self.places.clone().try_acquire_owned().ok())
            else {
                break;
            };
            self.lanes.begin(lane, now);
            self.hooks
                .parts
                .tasks
                .spawn(self.clone().deliver(lane.clone(), delivery, place));
        }
        Ok(later)
    }

    /// Ends what has had its time and whose endpoint is down.
    async fn give_up(&self, due: &[Due], now: Timestamp) -> Result<(), StoreError> {
        for entry in due.iter().filter(|entry| entry.give_up_at <= now) {
            if let Some(stored) = self.hooks.books.delivery(&entry.id).await?
                && stored.value.due_at() == Some(entry.due_at)
            {
                let failed = stored
                    .value
                    .clone()
                    .given_up(now, "given up: the endpoint kept failing");
                self.hooks.books.change_delivery(stored, failed).await?;
                self.hooks.parts.metrics.given_up.increment(1);
            }
        }
        Ok(())
    }

    /// Makes one attempt and notes what came of it.
    async fn deliver(self: Arc<Self>, lane: String, claimed: Stored<Delivery>, place: OwnedSemaphorePermit) {
        let clock = &self.hooks.parts.clock;
        let (result, now) = match self.attempt(&lane, &claimed.value).await {
            Ok(after) => {
                let now = clock.now();
                failpoint::reached("webhook-sent");
                (
                    self.hooks.books.change_delivery(claimed, after).await.map(|_| ()),
                    now,
                )
            }
            Err(error) => {
                self.lanes.end(&lane, None, clock.now(), Duration::ZERO);
                (Err(error), clock.now())
            }
        };
        if let Err(error) = result {
            tracing::warn!(%error, %now, "what came of a webhook could not be noted; it is sent again");
        }
        drop(place);
        self.hooks.news.notify_one();
    }

    /// Makes one attempt, and answers the delivery as it is after it.
    async fn attempt(&self, lane: &str, delivery: &Delivery) -> Result<Delivery, StoreError> {
        let hooks = &self.hooks;
        let now = hooks.parts.clock.now();
        let (endpoint, body, record) = match self.message(delivery).await? {
            Ok(message) => message,
            Err(pointless) => {
                self.lanes.end(lane, None, now, Duration::ZERO);
                hooks.parts.metrics.given_up.increment(1);
                return Ok(delivery.clone().given_up(now, pointless));
            }
        };
        let mut delivery = delivery.clone();
        if endpoint.value.id != CALLBACK {
            delivery.url.clone_from(&endpoint.value.url);
        }
        let span = self.begin(&record);
        let message = Message {
            id: delivery.id().to_string(),
            url: &delivery.url,
            secrets: endpoint.value.secrets(now).collect(),
            body,
            trace: span.place().or_else(|| TraceContext::of(&record)),
        };
        let outcome = self.sender.attempt(message, now).await;
        self.tell(&delivery, &outcome, span);
        let now = hooks.parts.clock.now();
        let rest = match outcome.verdict {
            Verdict::Again(rest) => rest,
            Verdict::Received | Verdict::Gone => Duration::ZERO,
        };
        // Who says that it is gone is there.
        self.lanes.end(
            lane,
            Some(!matches!(outcome.verdict, Verdict::Again(_))),
            now,
            rest,
        );
        if outcome.verdict == Verdict::Gone && endpoint.value.id != CALLBACK {
            let mut gone = endpoint.value.clone();
            gone.disabled = Some(Disabled::Gone);
            // If that fails, or its owner changed it meanwhile, the next delivery finds out.
            if let Err(error) = hooks.books.change_endpoint(&endpoint, Some(&gone)).await {
                tracing::warn!(%error, endpoint = gone.id, "could not disable an endpoint that is gone");
            }
        }
        let metrics = &hooks.parts.metrics;
        match outcome.verdict {
            Verdict::Received => metrics.received.increment(1),
            Verdict::Again(_) | Verdict::Gone => metrics.failed.increment(1),
        }
        let after = delivery.after(outcome, now, &hooks.patience, rand::random());
        if matches!(after.progress, Progress::Failed { .. }) {
            metrics.given_up.increment(1);
        }
        Ok(after)
    }

    /// Begins the span of an attempt, if its transaction is traced.
    fn begin(&self, record: &Transaction) -> Span {
        let tracer = &self.hooks.parts.tracer;
        let above = tracer.place_of(record);
        let mut span = above.map_or_else(Span::default, |above| {
            tracer.start("POST", SpanKind::Client, Some(above))
        });
        span.is_of(record);
        span
    }

    /// One line for each attempt. Not the URL, which may hold a token.
    fn tell(&self, delivery: &Delivery, outcome: &Outcome, mut span: Span) {
        let _entered = span.place().map(TraceContext::enter);
        let (id, tx, attempt) = (delivery.id(), delivery.transaction, &outcome.attempt);
        let (endpoint, took_ms) = (&delivery.endpoint, attempt.duration_ms);
        if let Some(status) = attempt.status {
            span.set(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        span.set(KeyValue::new("sluicegate.webhook.id", endpoint.clone()));
        match &attempt.error {
            None => {
                tracing::info!(tx.id = %tx, delivery.id = %id, endpoint, status = attempt.status, took_ms, "a webhook was received");
            }
            Some(error) => {
                span.fail(error.clone());
                tracing::info!(tx.id = %tx, delivery.id = %id, endpoint, status = attempt.status, took_ms, error, "a webhook was not received");
            }
        }
    }

    /// Where to send it, what, and whose it is.
    async fn message(
        &self,
        delivery: &Delivery,
    ) -> Result<Result<(Stored<Endpoint>, Vec<u8>, Transaction), Pointless>, StoreError> {
        let endpoint = match delivery.endpoint.as_str() {
            CALLBACK => self.hooks.callback(&delivery.tenant).await?,
            id => match self.hooks.books.endpoint(&delivery.tenant, id).await? {
                Some(endpoint) if endpoint.value.disabled.is_some() => {
                    return Ok(Err("the webhook is disabled"));
                }
                Some(endpoint) => endpoint,
                None => return Ok(Err("the webhook was removed")),
            },
        };
        let Some(record) = self.hooks.parts.store.get(delivery.transaction).await? else {
            return Ok(Err("the transaction's record was removed (retention)"));
        };
        let shown = (self.hooks.parts.show)(&record);
        let body = shown.and_then(|data| {
            serde_json::to_vec(&Payload {
                r#type: delivery.event(),
                timestamp: delivery.settled_at.to_string(),
                data,
            })
        });
        let body =
            body.map_err(|error| StoreError::Damaged(format!("{} cannot be written: {error}", record.id)))?;
        Ok(Ok((endpoint, body, record)))
    }
}
