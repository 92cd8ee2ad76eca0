//! `/v1/transactions`: accept, read, wait, list.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use super::body::{SubmitBody, read_json};
use super::caller::Who;
use super::dto::{AttemptsView, PageView, TransactionView};
use super::error::{ApiError, Code};
use super::openapi::examples;
use super::params::{self, Name, Pairs};
use crate::config::BackpressureMode;
use crate::domain::{LedgerName, Request, Stage, Status, TenantName, Timestamp, Transaction, TransactionId};
use crate::failpoint;
use crate::gateway::{Accepted, Scope};
use crate::store::Page;
use crate::telemetry::TraceContext;

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

/// Submit a transaction
///
/// Answered as soon as it is durable, with its record. Repeat it with the same `Idempotency-Key`, as often as
/// you like, if no answer comes: it takes effect once, and the answer is the same record, as it stands.
#[utoipa::path(
    post,
    path = "/v1/transactions",
    operation_id = "submitTransaction",
    tag = "transactions",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
            description = "Makes the request safe to repeat: a value of the client's own for each transaction. Visible ASCII", example = "order-4711"),
        ("Prefer" = Option<String>, Header,
            description = "`wait=N` holds the answer until the transaction is settled, or for N seconds; more than the gateway allows is shortened to that. Other preferences are passed over (RFC 7240)", example = "wait=10"),
    ),
    request_body(content = SubmitBody, description = "The call", example = json!(examples::submission())),
    responses(
        (status = 202, description = "It is durable", body = TransactionView, headers(
            ("Location" = String, description = "Where its record is"),
            ("ETag" = String, description = "The record's version"),
            ("Retry-After" = u32, description = "Seconds after which to ask again"),
            ("Idempotent-Replayed" = bool, description = "The record is that of an earlier request with the same key"),
            ("Preference-Applied" = String, description = "`wait`, if that was asked for"),
            ("RateLimit-Policy" = String, description = "The lane's rate, in the mode `control`"),
            ("RateLimit" = String, description = "Room left in the backlog, in the mode `control`"),
        ), example = json!(examples::pending())),
        (status = 200, description = "It is durable, and settled already", body = TransactionView, headers(
            ("Location" = String, description = "Where its record is"),
            ("ETag" = String, description = "The record's version"),
            ("Idempotent-Replayed" = bool, description = "The record is that of an earlier request with the same key"),
            ("Preference-Applied" = String, description = "`wait`, if that was asked for"),
            ("RateLimit-Policy" = String, description = "The lane's rate, in the mode `control`"),
            ("RateLimit" = String, description = "Room left in the backlog, in the mode `control`"),
        ), example = json!(examples::done())),
        (status = 403, description = "SG-0029"),
        (status = 429, description = "SG-0020 SG-0021"),
        (status = 422, description = "SG-0003"),
        (status = 503, description = "SG-0011"),
    )
)]
pub(crate) async fn submit(
    State(api): State<Api>,
    who: Who,
    trace: Option<Extension<TraceContext>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Submit])?;
    let trace = trace.map(|Extension(context)| context.to_string());
    let Submission { request, key, wait } = Submission::read(&api, &headers, body).await?;
    let mut answer = api.gateway.accept(&caller, request, key, trace).await?;
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
        let Some((rate, backlog)) = self.gateway.pace(ledger) else {
            return;
        };
        let room = backpressure.max_pending.get().saturating_sub(backlog);
        let drained_in = (backlog as f64 / rate).ceil();
        let policy = format!("\"{ledger}\";q={};w=1", rate.ceil());
        let limit = format!("\"{ledger}\";r={room};t={drained_in}");
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", limit)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}

/// Read a transaction
///
/// With `wait`, the answer is held until it is settled or the time is over.
#[utoipa::path(
    get,
    path = "/v1/transactions/{id}",
    operation_id = "getTransaction",
    tag = "transactions",
    params(
        ("id" = TransactionId, Path, description = "Its id"),
        ("wait" = Option<u32>, Query, maximum = 60, description = "Seconds to wait for the end", example = 10),
        ("If-None-Match" = Option<String>, Header, description = "ETags of what the client has"),
    ),
    responses(
        (status = 200, description = "The record", body = TransactionView, headers(
            ("ETag" = String, description = "The record's version"),
            ("Retry-After" = u32, description = "Seconds after which to ask again, while it is pending"),
        ), examples(
            ("done" = (value = json!(examples::done()))),
            ("failed" = (value = json!(examples::failed()))),
            ("pending" = (value = json!(examples::pending()))),
        )),
        (status = 304, description = "The client has this version", headers(
            ("ETag" = String, description = "The record's version"),
            ("Retry-After" = u32, description = "Seconds after which to ask again, while it is pending"),
        )),
        (status = 404, description = "SG-0004"),
    )
)]
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

/// Read a transaction's attempts
///
/// What became of each try to get it onto its ledger, oldest first. The last 32 are kept.
#[utoipa::path(
    get,
    path = "/v1/transactions/{id}/attempts",
    operation_id = "getAttempts",
    tag = "transactions",
    params(("id" = TransactionId, Path, description = "Its id")),
    responses(
        (status = 200, description = "The attempts", body = AttemptsView, example = json!(examples::attempts())),
        (status = 404, description = "SG-0004"),
    )
)]
pub(crate) async fn attempts(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let id = transaction_id(&id)?;
    let tx = api.gateway.get(&caller, id).await?.ok_or_else(|| missing(id))?;
    Ok(json(StatusCode::OK, &AttemptsView::from(&tx)))
}

/// List transactions
///
/// Newest first. All conditions have to hold; beside those below, `metadata.<label>=<value>` finds records by a label.
/// A page of large records ends after about 8 MiB. What arrives meanwhile moves no page.
#[utoipa::path(
    get,
    path = "/v1/transactions",
    operation_id = "listTransactions",
    tag = "transactions",
    params(
        ("status" = Option<Status>, Query, description = "Only with this status"),
        ("stage" = Option<Stage>, Query, description = "Only at this stage, which only pending ones have"),
        ("ledger" = Option<LedgerName>, Query, description = "Only for this ledger"),
        ("tenant" = Option<TenantName>, Query, description = "Only of this tenant; for callers of all tenants"),
        ("tx_id" = Option<String>, Query, description = "Only what the ledger calls so"),
        ("idempotency_key" = Option<String>, Query, description = "Only what came with this key", example = "order-4711"),
        ("contract" = Option<String>, Query, description = "Only of this contract", example = "token"),
        ("function" = Option<String>, Query, description = "Only of this function", example = "Transfer"),
        ("created_from" = Option<Timestamp>, Query, description = "Only accepted then or later"),
        ("created_before" = Option<Timestamp>, Query, description = "Only accepted before"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "How many at most; 50 if absent", example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, as it is, with the same filter"),
        ("If-None-Match" = Option<String>, Header, description = "ETags of what the client has"),
    ),
    responses(
        (status = 200, description = "A page", body = PageView,
            headers(("ETag" = String, description = "Changes with the page")), example = json!(examples::page())),
        (status = 304, description = "The client has this page", headers(("ETag" = String, description = "Changes with the page"))),
    )
)]
pub(crate) async fn list(
    State(api): State<Api>,
    who: Who,
    Pairs(pairs): Pairs,
    headers: HeaderMap,
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
        next_cursor: page.next.map(|id| params::write_cursor(id, asked.print)),
    };
    Ok(tagged(&headers, &view))
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

const JSON: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));

/// A JSON answer, serialised once into its final buffer.
pub(crate) fn json(status: StatusCode, view: &impl Serialize) -> Response {
    match written(view) {
        Ok(body) => (status, [JSON], body).into_response(),
        Err(error) => error.into_response(),
    }
}

/// A JSON answer whose bytes are its version: who has them is not sent them again.
pub(crate) fn tagged(headers: &HeaderMap, view: &impl Serialize) -> Response {
    let body = match written(view) {
        Ok(body) => body,
        Err(error) => return error.into_response(),
    };
    let etag = params::etag_of(&body);
    if params::if_none_match(headers, &etag) {
        (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response()
    } else {
        ([JSON, (header::ETAG, etag)], body).into_response()
    }
}

fn written(view: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::with_capacity(1_024);
    match serde_json::to_writer(&mut body, view) {
        Ok(()) => Ok(body),
        Err(error) => Err(ApiError::new(Code::Internal, error.to_string())),
    }
}
