//! `/v1/events` and `/v1/transactions/{id}/events`: changes as server-sent events.
//!
//! An event is a record as it stands; its id is the place of that change, so a client that comes back with the last id it
//! saw goes on right behind it, at any node and after any restart. Whoever does not read is cut off by the connection's
//! time-out for writing (`server.rs`): here nothing is kept for them. Whether whoever follows still may is asked before
//! everything that they are told, so a stream outlives its key or token by a heartbeat at most.

mod board;
mod feed;
mod follower;

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};

pub(super) use self::feed::Feed;
use self::follower::{Follower, Start};
use super::Api;
use super::auth::Pass;
use super::caller::Who;
use super::dto::TransactionView;
use super::error::{ApiError, Code};
use super::openapi::examples;
use super::openapi::schemas::StreamEvent;
use super::params::{self, LastEvent, Name, Pairs};
use super::transactions::{missing, transaction_id};
use crate::domain::{LedgerName, Stage, Status, TenantName, Timestamp, Transaction, TransactionId};
use crate::gateway::{Caller, Scope};
use crate::notify::Waiter;
use crate::share::Place;
use crate::store::{Position, StoreError};

/// Stages that other processes change are looked for so often, more or less; what they settle is told at once.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Follow all transactions
///
/// Server-sent events. The first is `ready`; then a `transaction` for each record that changes, as it stands; several
/// changes in quick succession may come as one, and the last state always comes. Its id is a position: whoever comes back
/// with it goes on right behind it. If that position is no longer known, the event `reset` says to list anew. Comments are
/// signs of life, and so is the event `position`, whose id is newer than the last one's: come back with that. Conditions
/// are those of a listing, `metadata.<label>=<value>` among them.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "followTransactions",
    tag = "events",
    params(
        ("status" = Option<Status>, Query, description = "Only with this status"),
        ("stage" = Option<Stage>, Query, description = "Only at this stage, which only pending ones have"),
        ("ledger" = Option<LedgerName>, Query, description = "Only for this ledger"),
        ("tenant" = Option<TenantName>, Query, description = "Only of this tenant; for callers of all tenants"),
        ("tx_id" = Option<String>, Query, description = "Only what the ledger calls so"),
        ("contract" = Option<String>, Query, description = "Only of this contract", example = "token"),
        ("function" = Option<String>, Query, description = "Only of this function", example = "Transfer"),
        ("created_from" = Option<Timestamp>, Query, description = "Only accepted then or later"),
        ("created_before" = Option<Timestamp>, Query, description = "Only accepted before"),
        ("last_event_id" = Option<String>, Query, description = "As `Last-Event-ID`, which wins, for clients that cannot set it"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that the client saw"),
    ),
    responses(
        (status = 200, description = "Events, without end", body = StreamEvent, content_type = "text/event-stream",
            example = json!(examples::event())),
        (status = 503, description = "SG-0026"),
    )
)]
pub(crate) async fn all(
    State(api): State<Api>,
    who: Who,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let (Pairs(pairs), last) = params::last_event(&headers, pairs)?;
    let mut filter = params::filter(pairs, &caller)?;
    if let Some(tenant) = &caller.tenant {
        filter.tenant = Some(tenant.clone());
    }
    let position = |last: LastEvent| {
        let bad = |error| params::bad(last.pointer, format!("{error}"));
        last.id.parse::<Position>().map_err(bad)
    };
    let after = last.map(position).transpose()?;
    let place = api.place(&caller)?;
    let start = Start {
        filter,
        after,
        heartbeat: api.heartbeat,
    };
    let follower = Follower::start(api.feed.clone(), start, place).await?;
    let events = stream::unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((event, follower))
    });
    Ok(response(events, Pass::of(&api, &headers)?))
}

/// Follow a transaction
///
/// Server-sent events: `ready`, then a `transaction` with the record as it stands, whenever it has changed. The stream
/// ends with the settled record. The id of an event is the record's version.
#[utoipa::path(
    get,
    path = "/v1/transactions/{id}/events",
    operation_id = "followTransaction",
    tag = "events",
    params(
        ("id" = TransactionId, Path, description = "Its id"),
        ("last_event_id" = Option<String>, Query, pattern = "^[0-9]{1,18}$", description = "As `Last-Event-ID`, which wins, for clients that cannot set it"),
        ("Last-Event-ID" = Option<String>, Header, pattern = "^[0-9]{1,18}$", description = "The id of the last event that the client saw"),
    ),
    responses(
        (status = 200, description = "Events, until it is settled", body = StreamEvent, content_type = "text/event-stream",
            example = json!(examples::event())),
        (status = 204, description = "It is settled, and the client has seen that: there is nothing to come back for"),
        (status = 404, description = "SG-0004"),
        (status = 503, description = "SG-0026"),
    )
)]
pub(crate) async fn of_one(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    pairs: Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let id = transaction_id(&id)?;
    let (Pairs(pairs), last) = params::last_event(&headers, pairs)?;
    params::none_known(&pairs)?;
    // A sign would be read, and is none of ours.
    let version = |last: LastEvent| {
        let is_number = last.id.bytes().all(|byte| byte.is_ascii_digit());
        let version = last.id.parse::<u64>().ok().filter(|_| is_number);
        version.ok_or_else(|| params::bad(last.pointer, "is not the id of an event"))
    };
    let seen = last.map(version).transpose()?.unwrap_or(0);
    // Listening before looking: no change is missed.
    let waiter = api.gateway.hub().listen(id);
    let first = api.gateway.get(&caller, id).await?.ok_or_else(|| missing(id))?;
    if first.is_settled() && first.version == seen {
        // That is how a browser is told not to come back (HTML, section 9.2).
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let pass = Pass::of(&api, &headers)?;
    let one = One {
        _place: api.place(&caller)?,
        api,
        caller,
        id,
        waiter,
        seen,
        ready: Some(first),
    };
    let events = stream::unfold(Some(one), async |one| {
        let mut one = one?;
        let (event, last) = one.next().await?;
        Some((event, (!last).then_some(one)))
    });
    Ok(response(events, pass))
}

/// Somebody who follows one transaction.
struct One {
    api: Api,
    caller: Caller,
    id: TransactionId,
    waiter: Waiter,
    /// The version that was told last.
    seen: u64,
    /// The record as it stood when this began, until that was told.
    ready: Option<Transaction>,
    _place: Place,
}

impl One {
    /// The next event, and whether it is the last one; `None` if there will be none.
    async fn next(&mut self) -> Option<(Event, bool)> {
        let beat = tokio::time::Instant::now() + self.api.heartbeat;
        if let Some(first) = self.ready.take() {
            // Of a store that went back in time since, or of something else: told from the start.
            if self.seen > first.version {
                self.seen = 0;
            }
            // `self.seen` stays: what is newer than that is told next.
            return Some((ready(&self.seen.to_string()), false));
        }
        loop {
            let released = self.api.gateway.hub().is_released();
            let changed = self.waiter.changed();
            match self.api.gateway.get(&self.caller, self.id).await {
                Ok(Some(tx)) if tx.version > self.seen => {
                    self.seen = tx.version;
                    return Some((transaction(&tx.version.to_string(), &shown(&tx)), tx.is_settled()));
                }
                // Retention took it.
                Ok(None) => return None,
                Ok(Some(_)) | Err(StoreError::Unavailable(_)) => {}
                Err(StoreError::Damaged(_)) => return None,
            }
            if released {
                return None;
            }
            tokio::select! {
                () = changed => {}
                () = self.api.gateway.hub().released() => {}
                // Those who were told together do not look together.
                () = tokio::time::sleep(LOOK_EVERY.mul_f64(0.5 + rand::random::<f64>())) => {}
                () = tokio::time::sleep_until(beat) => return Some((heartbeat(), false)),
            }
        }
    }
}

impl Api {
    /// The right to have a stream open.
    fn place(&self, caller: &Caller) -> Result<Place, ApiError> {
        let full = || {
            let detail = "as many event streams are open as the operator allows (http.max_streams); poll, or try again later";
            ApiError::new(Code::TooManyStreams, detail).later(Duration::from_secs(5))
        };
        self.streams.take(caller.tenant.as_ref()).ok_or_else(full)
    }
}

/// Tells events for as long as `pass` counts.
fn response(events: impl Stream<Item = Event> + Send + 'static, pass: Pass) -> Response {
    let events = stream::unfold((Box::pin(events), pass), async |(mut events, pass)| {
        let event = events.next().await?;
        let told = pass.counts().await.then_some(Ok::<_, Infallible>(event));
        Some((told?, (events, pass)))
    });
    let mut response = Sse::new(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Some proxies hold back what is streamed unless they are told.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What a client sees of a record.
fn shown(tx: &Transaction) -> Vec<u8> {
    serde_json::to_vec(&TransactionView::from(tx)).unwrap_or_default()
}

/// A record as it stands; the JSON has no line breaks.
fn transaction(id: &str, json: &[u8]) -> Event {
    Event::default()
        .event("transaction")
        .id(id)
        .data(String::from_utf8_lossy(json))
}

/// The first event: where the stream begins.
fn ready(id: &str) -> Event {
    Event::default().event("ready").id(id).data("{}")
}

/// Tells whoever reads, and everything between, that the connection lives.
fn heartbeat() -> Event {
    Event::default().comment("")
}
