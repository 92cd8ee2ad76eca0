//! `/v1/webhooks` and `/v1/deliveries`: where a tenant wants to be told, and what became of that.

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Api;
use super::body::read_json;
use super::caller::Who;
use super::dto::{rfc3339, rfc3339_or_null};
use super::error::{ApiError, Code};
use super::params::{self, Name, Pairs, bad};
use super::transactions::{json, missing, transaction_id};
use crate::domain::{Status, Timestamp, TransactionId};
use crate::gateway::{FieldError, Scope};
use crate::webhooks::{
    Attempt, CALLBACK, Delivery, DeliveryFilter, Disabled, Endpoint, EndpointChange, Progress, Secret,
    WebhookRefusal,
};

/// The routes of this module.
pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/transactions/{id}/deliveries", get(deliveries_of))
        .route("/v1/webhooks", post(create).get(list))
        .route("/v1/webhooks/{id}", get(read).patch(change).delete(remove))
        .route("/v1/webhooks/{id}/rotate-secret", post(rotate_secret))
        .route("/v1/deliveries", get(deliveries))
        .route("/v1/deliveries/{id}", get(delivery))
        .route("/v1/deliveries/{id}/redeliver", post(redeliver))
}

/// Who may change where others are told.
const WRITE: [Scope; 2] = [Scope::Submit, Scope::Operate];

/// How long an old secret signs beside the new one if nobody says: a day.
const OVERLAP_SECONDS: u64 = 24 * 3_600;

/// An endpoint as a client sends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct WebhookBody {
    url: Option<String>,
    description: Option<String>,
    statuses: Option<Vec<Status>>,
    disabled: Option<bool>,
}

impl From<WebhookBody> for EndpointChange {
    fn from(body: WebhookBody) -> Self {
        Self {
            url: body.url,
            statuses: body.statuses,
            description: body.description,
            disabled: body.disabled,
        }
    }
}

/// How a secret is to be rotated.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct RotateBody {
    overlap_seconds: Option<u64>,
}

/// An endpoint.
#[derive(Serialize)]
struct WebhookView<'a> {
    id: &'a str,
    tenant: &'a str,
    url: Option<&'a str>,
    statuses: &'a [Status],
    description: &'a str,
    disabled: bool,
    disabled_reason: Option<Disabled>,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    /// Told only to whoever made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl<'a> WebhookView<'a> {
    fn new(endpoint: &'a Endpoint, secret: Option<&Secret>) -> Self {
        Self {
            id: &endpoint.id,
            tenant: endpoint.tenant.as_str(),
            url: (endpoint.id != CALLBACK).then_some(&endpoint.url),
            statuses: &endpoint.statuses,
            description: &endpoint.description,
            disabled: endpoint.disabled.is_some(),
            disabled_reason: endpoint.disabled,
            created_at: endpoint.created_at,
            secret: secret.map(Secret::reveal),
        }
    }
}

/// All endpoints.
#[derive(Serialize)]
struct WebhooksView<'a> {
    items: Vec<WebhookView<'a>>,
}

/// A delivery.
#[derive(Serialize)]
struct DeliveryView<'a> {
    id: String,
    webhook: &'a str,
    tenant: &'a str,
    transaction_id: TransactionId,
    url: &'a str,
    r#type: &'static str,
    state: &'static str,
    /// Why it was given up.
    error: Option<&'a str>,
    attempts: Vec<AttemptView<'a>>,
    #[serde(serialize_with = "rfc3339_or_null")]
    next_attempt_at: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    #[serde(serialize_with = "rfc3339_or_null")]
    finished_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct AttemptView<'a> {
    #[serde(serialize_with = "rfc3339")]
    at: Timestamp,
    status: Option<u16>,
    error: Option<&'a str>,
    duration_ms: u64,
}

impl<'a> From<&'a Attempt> for AttemptView<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        Self {
            at: attempt.at,
            status: attempt.status,
            error: attempt.error.as_deref(),
            duration_ms: attempt.duration_ms,
        }
    }
}

impl<'a> From<&'a Delivery> for DeliveryView<'a> {
    fn from(delivery: &'a Delivery) -> Self {
        let (next, finished, error) = match &delivery.progress {
            Progress::Pending { due_at, .. } => (Some(*due_at), None, None),
            Progress::Delivered { at } => (None, Some(*at), None),
            Progress::Failed { at, reason } => (None, Some(*at), Some(reason.as_str())),
        };
        Self {
            id: delivery.id().to_string(),
            webhook: &delivery.endpoint,
            tenant: delivery.tenant.as_str(),
            transaction_id: delivery.transaction,
            url: &delivery.url,
            r#type: delivery.event(),
            state: delivery.progress.name(),
            error,
            attempts: delivery.attempts.iter().map(AttemptView::from).collect(),
            next_attempt_at: next,
            created_at: delivery.created_at,
            finished_at: finished,
        }
    }
}

/// Deliveries.
#[derive(Serialize)]
struct DeliveriesView<'a> {
    items: Vec<DeliveryView<'a>>,
    next_cursor: Option<String>,
}

impl From<WebhookRefusal> for ApiError {
    fn from(refusal: WebhookRefusal) -> Self {
        match refusal {
            WebhookRefusal::Missing => Self::new(Code::NoWebhook, "there is none with this id"),
            WebhookRefusal::Invalid(faults) => {
                let field = |(pointer, detail)| FieldError { pointer, detail };
                Self::fields(Code::InvalidFields, faults.into_iter().map(field).collect())
            }
            WebhookRefusal::Store(error) => error.into(),
        }
    }
}

/// `POST /v1/webhooks`.
async fn create(
    State(api): State<Api>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    let body: WebhookBody = read_json(&headers, body, api.body_limits).await?;
    let (endpoint, secret) = api.webhooks().create(caller.tenant.as_ref(), body.into()).await?;
    let mut response = json(StatusCode::CREATED, &WebhookView::new(&endpoint, Some(&secret)));
    if let Ok(location) = HeaderValue::try_from(format!("/v1/webhooks/{}", endpoint.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(secret_answer(response))
}

/// `GET /v1/webhooks`.
async fn list(State(api): State<Api>, who: Who) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let endpoints = api.webhooks().endpoints(caller.tenant.as_ref()).await?;
    let items = endpoints
        .iter()
        .map(|endpoint| WebhookView::new(endpoint, None))
        .collect();
    Ok(json(StatusCode::OK, &WebhooksView { items }))
}

/// `GET /v1/webhooks/{id}`.
async fn read(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let endpoint = api.webhooks().endpoint(caller.tenant.as_ref(), &id).await?;
    Ok(json(StatusCode::OK, &WebhookView::new(&endpoint, None)))
}

/// `PATCH /v1/webhooks/{id}`.
async fn change(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    let body: WebhookBody = read_json(&headers, body, api.body_limits).await?;
    let endpoint = api
        .webhooks()
        .change(caller.tenant.as_ref(), &id, body.into())
        .await?;
    Ok(json(StatusCode::OK, &WebhookView::new(&endpoint, None)))
}

/// `DELETE /v1/webhooks/{id}`.
async fn remove(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    api.webhooks().remove(caller.tenant.as_ref(), &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /v1/webhooks/{id}/rotate-secret`; without a body, with the usual overlap.
async fn rotate_secret(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    let asked = match body.is_end_stream() {
        true => None,
        false => {
            read_json::<RotateBody>(&headers, body, api.body_limits)
                .await?
                .overlap_seconds
        }
    };
    let overlap = asked.unwrap_or(OVERLAP_SECONDS);
    let (endpoint, secret) = api
        .webhooks()
        .rotate(caller.tenant.as_ref(), &id, overlap)
        .await?;
    Ok(secret_answer(json(
        StatusCode::OK,
        &WebhookView::new(&endpoint, Some(&secret)),
    )))
}

/// What holds a secret is not for caches.
fn secret_answer(mut response: Response) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

/// `GET /v1/deliveries`.
async fn deliveries(State(api): State<Api>, who: Who, Pairs(pairs): Pairs) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let (filter, cursor, limit) = listing(pairs)?;
    let bound = print(&filter);
    let below = cursor.map(|cursor| read_cursor(&cursor, bound)).transpose()?;
    let page = api
        .webhooks()
        .deliveries(caller.tenant.as_ref(), &filter, below, limit)
        .await?;
    let view = DeliveriesView {
        items: page.items.iter().map(DeliveryView::from).collect(),
        next_cursor: page
            .next
            .map(|key| URL_SAFE_NO_PAD.encode([&bound, key.as_bytes()].concat())),
    };
    Ok(json(StatusCode::OK, &view))
}

/// `GET /v1/deliveries/{id}`.
async fn delivery(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let delivery = api.webhooks().delivery(caller.tenant.as_ref(), &id).await?;
    Ok(json(StatusCode::OK, &DeliveryView::from(&delivery)))
}

/// `GET /v1/transactions/{id}/deliveries`.
async fn deliveries_of(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let id = transaction_id(&id)?;
    api.gateway.get(&caller, id).await?.ok_or_else(|| missing(id))?;
    let deliveries = api.webhooks().deliveries_of(caller.tenant.as_ref(), id).await?;
    let view = DeliveriesView {
        items: deliveries.iter().map(DeliveryView::from).collect(),
        next_cursor: None,
    };
    Ok(json(StatusCode::OK, &view))
}

/// `POST /v1/deliveries/{id}/redeliver`.
async fn redeliver(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    let delivery = api.webhooks().redeliver(caller.tenant.as_ref(), &id).await?;
    Ok(json(StatusCode::ACCEPTED, &DeliveryView::from(&delivery)))
}

fn listing(pairs: Vec<(String, String)>) -> Result<(DeliveryFilter, Option<String>, usize), ApiError> {
    let mut filter = DeliveryFilter::default();
    let (mut cursor, mut limit) = (None, params::DEFAULT_LIMIT);
    params::each_once(&pairs)?;
    for (name, value) in pairs {
        let wrong = |detail: &str| bad(&format!("#query/{name}"), detail);
        match name.as_str() {
            "webhook" => filter.webhook = Some(value),
            "transaction" => {
                let id = value
                    .parse()
                    .map_err(|_| wrong("must be the id of a transaction"))?;
                filter.transaction = Some(id);
            }
            "state" => {
                let states = ["pending", "delivered", "failed"];
                let state = states.into_iter().find(|state| *state == value);
                filter.state = Some(state.ok_or_else(|| wrong("must be pending, delivered or failed"))?);
            }
            "limit" => limit = params::read_limit(&value).ok_or_else(|| wrong(params::LIMIT))?,
            "cursor" => cursor = Some(value),
            _ => {
                return Err(wrong(
                    "is not known; there are webhook, transaction, state, limit and cursor",
                ));
            }
        }
    }
    Ok((filter, cursor, limit))
}

/// What stands for a filter in a cursor.
fn print(filter: &DeliveryFilter) -> [u8; 8] {
    let words = format!("{:?} {:?} {:?}", filter.webhook, filter.transaction, filter.state);
    let mut print = [0; 8];
    print.copy_from_slice(&Sha256::digest(words)[..8]);
    print
}

fn read_cursor(text: &str, bound: [u8; 8]) -> Result<String, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let key = bytes.as_deref().and_then(|bytes| bytes.strip_prefix(&bound));
    let key = key.and_then(|key| String::from_utf8(key.to_vec()).ok());
    // A store takes such keys only.
    key.filter(|key| !key.is_empty() && key.len() <= 512 && !key.contains('\0')).ok_or_else(|| {
        let words = "is not a cursor of this search; take next_cursor of the page before as it is, with the same parameters";
        bad("#query/cursor", words)
    })
}
