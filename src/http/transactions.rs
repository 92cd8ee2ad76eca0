//! `/v1/transactions`: accept, read, wait, list.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use super::body::{SubmitBody, read_json};
use super::caller::Who;
use super::dto::{AttemptsView, PageView, TransactionView};
use super::error::{ApiError, Code};
use super::params::{self, Name, Pairs};
use crate::config::BackpressureMode;
use crate::domain::{Request, Transaction, TransactionId};
use crate::failpoint;
use crate::gateway::{Accepted, Scope};
use crate::store::Page;

/// What a client asks for when it submits.
pub(super) struct Submission {
    pub(super) request: Request,
    /// Its idempotency key.
    pub(super) key: Option<String>,
    /// How long the answer may be held.
    pub(super) wait: Option<Duration>,
}

impl Submission {
    pub(super) async fn read(api: &Api, headers: &HeaderMap, body: Body) -> Result<Self, ApiError> {
        let key = params::idempotency_key(headers)?;
        let wait = params::prefer_wait(headers, api.longest_wait)?;
        let mut body: SubmitBody = read_json(headers, body, api.body_limits).await?;
        if body.take_key().is_some() {
            let detail =
                "belongs into the header Idempotency-Key; only items of a batch have one in the body";
            return Err(ApiError::field(Code::InvalidFields, "/idempotency_key", detail));
        }
        let request = body.into_request(&api.gateway)?;
        Ok(Self { request, key, wait })
    }
}

/// `POST /v1/transactions`.
pub(crate) async fn submit(
    State(api): State<Api>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Submit])?;
    let Submission { request, key, wait } = Submission::read(&api, &headers, body).await?;
    let mut answer = api.gateway.accept(&caller, request, key, None).await?;
    failpoint::reached("accept-before-reply");
    if let Some(wait) = wait {
        // It is stored whatever comes of the wait, so a failed read still answers what is known.
        match api.gateway.wait(&caller, answer.transaction.id, wait).await {
            Ok(Some(newer)) => answer.transaction = newer,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "could not wait"),
        }
    }
    let status = if answer.transaction.is_settled() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let mut response = accepted(status, &answer);
    let headers = response.headers_mut();
    if wait.is_some() {
        headers.insert("preference-applied", HeaderValue::from_static("wait"));
    }
    api.tell_producers(headers, answer.transaction.request.ledger.as_str());
    Ok(response)
}

impl Api {
    /// In the mode `control`, says how fast the lane drains and how much room is left before the backlog
    /// exceeds `max_pending` (draft-ietf-httpapi-ratelimit-headers).
    fn tell_producers(&self, headers: &mut HeaderMap, ledger: &str) {
        let backpressure = self.gateway.backpressure();
        if backpressure.mode != BackpressureMode::Control {
            return;
        }
        let Some(lane) = self.gateway.lane(ledger) else {
            return;
        };
        let rate = lane.settings.rate_per_second;
        let room = backpressure.max_pending.get().saturating_sub(lane.backlog);
        let drained_in = (lane.backlog as f64 / rate).ceil();
        let policy = format!("\"{ledger}\";q={};w=1", rate.ceil());
        let limit = format!("\"{ledger}\";r={room};t={drained_in}");
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", limit)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}

/// `GET /v1/transactions/{id}`.
pub(crate) async fn get(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    Pairs(pairs): Pairs,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let wait = params::wait_only(pairs, api.longest_wait)?;
    let id = transaction_id(&id)?;
    let tx = api
        .gateway
        .wait(&caller, id, wait)
        .await?
        .ok_or_else(|| missing(id))?;
    let mut response = if params::if_none_match(&headers, &etag(&tx)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut view = TransactionView::from(&tx);
        view.retried_by = api.gateway.retried_by(&tx).await?;
        json(StatusCode::OK, &view)
    };
    describe(response.headers_mut(), &tx);
    Ok(response)
}

/// `GET /v1/transactions/{id}/attempts`.
pub(crate) async fn attempts(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let id = transaction_id(&id)?;
    let tx = api.gateway.get(&caller, id).await?.ok_or_else(|| missing(id))?;
    Ok(json(StatusCode::OK, &AttemptsView::from(&tx)))
}

/// `GET /v1/transactions`.
pub(crate) async fn list(
    State(api): State<Api>,
    who: Who,
    Pairs(pairs): Pairs,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let asked = params::listing(pairs, &caller)?;
    let page = match &asked.key {
        // A key belongs to one record at most.
        Some(key) => Page {
            items: api
                .gateway
                .find(&caller, key)
                .await?
                .into_iter()
                .filter(|tx| asked.filter.matches(tx))
                .collect(),
            next: None,
        },
        None => {
            api.gateway
                .list(&caller, asked.filter, asked.cursor, asked.limit)
                .await?
        }
    };
    let view = PageView {
        items: page.items.iter().map(TransactionView::from).collect(),
        next_cursor: page.next.map(params::write_cursor),
    };
    Ok(json(StatusCode::OK, &view))
}

/// The id in an address.
pub(super) fn transaction_id(text: &str) -> Result<TransactionId, ApiError> {
    text.parse().map_err(|_| {
        ApiError::new(
            Code::NoTransaction,
            "the id in the address is not a UUID, so it belongs to no transaction",
        )
    })
}

pub(super) fn missing(id: TransactionId) -> ApiError {
    ApiError::new(Code::NoTransaction, format!("there is no transaction {id}"))
}

/// The answer to whoever made, or changed, a record.
pub(super) fn accepted(
    status: StatusCode,
    Accepted {
        transaction,
        repeated,
    }: &Accepted,
) -> Response {
    let mut response = json(status, &TransactionView::from(transaction));
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::try_from(format!("/v1/transactions/{}", transaction.id)) {
        headers.insert(header::LOCATION, location);
    }
    describe(headers, transaction);
    if *repeated {
        headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

/// What the headers tell of a record: its version, and when to ask again.
pub(super) fn describe(headers: &mut HeaderMap, tx: &Transaction) {
    headers.insert(header::ETAG, etag(tx));
    if !tx.is_settled() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
}

fn etag(tx: &Transaction) -> HeaderValue {
    HeaderValue::try_from(format!("\"{}\"", tx.version)).unwrap_or(HeaderValue::from_static("\"0\""))
}

/// A JSON answer, serialised once into its final buffer.
pub(crate) fn json(status: StatusCode, view: &impl Serialize) -> Response {
    let mut body = Vec::with_capacity(1_024);
    match serde_json::to_writer(&mut body, view) {
        Ok(()) => {
            let json = HeaderValue::from_static("application/json");
            (status, [(header::CONTENT_TYPE, json)], body).into_response()
        }
        Err(error) => ApiError::new(Code::Internal, error.to_string()).into_response(),
    }
}
