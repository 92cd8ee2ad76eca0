//! `/v1/webhooks` and `/v1/deliveries`: where a tenant wants to be told, and what became of that.

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::routes;

use super::Api;
use super::body::read_json;
use super::caller::Who;
use super::dto::{rfc3339, rfc3339_or_null};
use super::error::{ApiError, Code};
use super::openapi::schemas::{DeliveryState, SettledStatus};
use super::openapi::{Documented, examples};
use super::params::{self, Name, Pairs, bad};
use super::transactions::{json, missing, transaction_id};
use crate::domain::{Status, Timestamp, TransactionId};
use crate::gateway::{FieldError, Scope};
use crate::webhooks::{
    Attempt, CALLBACK, Delivery, DeliveryFilter, Disabled, Endpoint, EndpointChange, Progress, Secret,
    WebhookRefusal,
};

/// Adds the routes of this module.
pub(super) fn add_routes(routes: Documented) -> Documented {
    routes
        .routes(routes!(deliveries_of))
        .routes(routes!(create, list))
        .routes(routes!(read, change, remove))
        .routes(routes!(rotate_secret))
        .routes(routes!(deliveries))
        .routes(routes!(delivery))
        .routes(routes!(redeliver))
}

/// Who may change where others are told.
const WRITE: [Scope; 2] = [Scope::Submit, Scope::Operate];

/// How long an old secret signs beside the new one if nobody says: a day.
const OVERLAP_SECONDS: u64 = 24 * 3_600;

/// What a webhook is to be. What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
#[schema(as = WebhookChange)]
struct WebhookBody {
    /// Where to: https, and a public address unless the operator allows others.
    #[schema(format = "uri")]
    url: Option<String>,
    /// The owner's words; at most 512 bytes.
    #[schema(max_length = 512)]
    description: Option<String>,
    /// Of what it is told; of both unless you say so.
    #[schema(value_type = Option<Vec<SettledStatus>>, min_items = 1, max_items = 2)]
    statuses: Option<Vec<Status>>,
    /// Whether nothing is sent there.
    disabled: Option<bool>,
}

/// A webhook that is to be made: it has to have an address.
struct NewWebhook;

impl PartialSchema for NewWebhook {
    fn schema() -> RefOr<Schema> {
        let mut schema = WebhookBody::schema();
        if let RefOr::T(Schema::Object(webhook)) = &mut schema {
            let url = ObjectBuilder::new()
                .schema_type(Type::String)
                .format(Some(SchemaFormat::Custom("uri".to_owned())))
                .description(Some(
                    "Where to: https, and a public address unless the operator allows others",
                ));
            webhook.properties.insert("url".to_owned(), url.into());
            webhook.required.push("url".to_owned());
            webhook.description = Some("A webhook that is to be made".to_owned());
        }
        schema
    }
}

impl ToSchema for NewWebhook {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        WebhookBody::schemas(schemas);
    }
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
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
#[schema(as = Rotation)]
struct RotateBody {
    /// How long the old secret signs beside the new one, in seconds; a day unless you say so.
    #[schema(minimum = 0, maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
}

/// A webhook: where a tenant wants to be told.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
struct WebhookView<'a> {
    /// `wh_…`, or `callback` for what signs for every `callback_url`.
    id: &'a str,
    tenant: &'a str,
    /// Null for `callback`.
    #[schema(required)]
    url: Option<&'a str>,
    /// Of what it is told.
    #[schema(value_type = Vec<SettledStatus>)]
    statuses: &'a [Status],
    description: &'a str,
    disabled: bool,
    /// `by_owner`, or `gone` if it answered 410.
    #[schema(required, value_type = Option<String>)]
    disabled_reason: Option<Disabled>,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    /// What its deliveries are signed with (Standard Webhooks); told only when it is made or rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
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

/// All webhooks.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhooks)]
struct WebhooksView<'a> {
    items: Vec<WebhookView<'a>>,
}

/// A delivery: one transaction, told to one webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryView<'a> {
    /// The same over all attempts; it is the header `webhook-id`.
    id: String,
    webhook: &'a str,
    tenant: &'a str,
    transaction_id: TransactionId,
    url: &'a str,
    /// `transaction.done` or `transaction.failed`.
    r#type: &'static str,
    #[schema(value_type = DeliveryState)]
    state: &'static str,
    /// Why it was given up.
    #[schema(required)]
    error: Option<&'a str>,
    /// The last attempts, oldest first.
    attempts: Vec<AttemptView<'a>>,
    /// While it is pending.
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    next_attempt_at: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    finished_at: Option<Timestamp>,
}

/// One try to deliver.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
struct AttemptView<'a> {
    #[serde(serialize_with = "rfc3339")]
    at: Timestamp,
    /// What the receiver answered, if it did.
    #[schema(required)]
    status: Option<u16>,
    /// What went wrong.
    #[schema(required)]
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
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryPage)]
struct DeliveriesView<'a> {
    items: Vec<DeliveryView<'a>>,
    /// For the next page, with the same parameters; null on the last one.
    #[schema(required)]
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

/// Make a webhook
///
/// From now on, every transaction of the tenant that settles is told there, signed by Standard Webhooks. The secret is in
/// this answer and in no other.
#[utoipa::path(
    post,
    path = "/v1/webhooks",
    operation_id = "createWebhook",
    tag = "webhooks",
    request_body(content = NewWebhook, description = "The webhook", example = json!({"url": "https://erp.example.com/hooks/ledger", "statuses": ["done", "failed"]})),
    responses(
        (status = 201, description = "The webhook, with its secret", body = WebhookView,
            headers(("Location" = String, description = "Where it is")), example = json!(examples::webhook(true))),
    )
)]
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

/// List webhooks
///
/// All of the tenant, or of all tenants for a caller without one.
#[utoipa::path(
    get,
    path = "/v1/webhooks",
    operation_id = "listWebhooks",
    tag = "webhooks",
    responses(
        (status = 200, description = "All of them", body = WebhooksView, example = json!({"items": [examples::webhook(false)]})),
    )
)]
async fn list(State(api): State<Api>, who: Who) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let endpoints = api.webhooks().endpoints(caller.tenant.as_ref()).await?;
    let items = endpoints
        .iter()
        .map(|endpoint| WebhookView::new(endpoint, None))
        .collect();
    Ok(json(StatusCode::OK, &WebhooksView { items }))
}

/// Read a webhook
///
/// `callback` is what signs for every `callback_url`.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{id}",
    operation_id = "getWebhook",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id", example = "wh_019c1234567890abcdef1234567890ab")),
    responses(
        (status = 200, description = "The webhook", body = WebhookView, example = json!(examples::webhook(false))),
        (status = 404, description = "SG-0024"),
    )
)]
async fn read(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let endpoint = api.webhooks().endpoint(caller.tenant.as_ref(), &id).await?;
    Ok(json(StatusCode::OK, &WebhookView::new(&endpoint, None)))
}

/// Change a webhook
///
/// What is left out stays as it is. What is pending goes to the new address.
#[utoipa::path(
    patch,
    path = "/v1/webhooks/{id}",
    operation_id = "changeWebhook",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id", example = "wh_019c1234567890abcdef1234567890ab")),
    request_body(content = WebhookBody, description = "What to change", example = json!({"disabled": true})),
    responses(
        (status = 200, description = "The webhook as it is now", body = WebhookView, example = json!(examples::webhook(false))),
        (status = 404, description = "SG-0024"),
    )
)]
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

/// Remove a webhook
///
/// Nothing is sent there any more.
#[utoipa::path(
    delete,
    path = "/v1/webhooks/{id}",
    operation_id = "deleteWebhook",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id", example = "wh_019c1234567890abcdef1234567890ab")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "SG-0024"),
    )
)]
async fn remove(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    api.webhooks().remove(caller.tenant.as_ref(), &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Rotate a webhook's secret
///
/// Makes a new secret. The old one signs beside it for a while, so that the receiver can change over in peace. A body need
/// not be sent.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{id}/rotate-secret",
    operation_id = "rotateSecret",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id", example = "wh_019c1234567890abcdef1234567890ab")),
    request_body(content = Option<RotateBody>, description = "For how long both sign", example = json!({"overlap_seconds": 3600})),
    responses(
        (status = 200, description = "The webhook, with its new secret", body = WebhookView, example = json!(examples::webhook(true))),
        (status = 404, description = "SG-0024"),
    )
)]
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

/// List deliveries
///
/// Those of the newest transactions first. A page may be short, or empty, and still have a next one.
#[utoipa::path(
    get,
    path = "/v1/deliveries",
    operation_id = "listDeliveries",
    tag = "webhooks",
    params(
        ("webhook" = Option<String>, Query, description = "Only to this webhook"),
        ("transaction" = Option<TransactionId>, Query, description = "Only of this transaction"),
        ("state" = Option<DeliveryState>, Query, description = "Only in this state"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "How many at most; 50 if absent", example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, as it is, with the same parameters"),
    ),
    responses(
        (status = 200, description = "A page", body = DeliveriesView, example = json!(examples::deliveries())),
    )
)]
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

/// Read a delivery
///
/// With its last attempts.
#[utoipa::path(
    get,
    path = "/v1/deliveries/{id}",
    operation_id = "getDelivery",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id", example = "dlv_01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f_wh_019c1234567890abcdef1234567890ab")),
    responses(
        (status = 200, description = "The delivery", body = DeliveryView, example = json!(examples::delivery())),
        (status = 404, description = "SG-0024"),
    )
)]
async fn delivery(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let delivery = api.webhooks().delivery(caller.tenant.as_ref(), &id).await?;
    Ok(json(StatusCode::OK, &DeliveryView::from(&delivery)))
}

/// Read a transaction's deliveries
///
/// One for each webhook that wants it, and one for its `callback_url`.
#[utoipa::path(
    get,
    path = "/v1/transactions/{id}/deliveries",
    operation_id = "getDeliveries",
    tag = "webhooks",
    params(("id" = TransactionId, Path, description = "Its id")),
    responses(
        (status = 200, description = "All of them", body = DeliveriesView, example = json!(examples::deliveries())),
        (status = 404, description = "SG-0004"),
    )
)]
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

/// Deliver again
///
/// Sends it once more, soon, whatever became of it before.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{id}/redeliver",
    operation_id = "redeliver",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id", example = "dlv_01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f_wh_019c1234567890abcdef1234567890ab")),
    responses(
        (status = 202, description = "The delivery, which is pending", body = DeliveryView, example = json!(examples::delivery())),
        (status = 404, description = "SG-0024"),
    )
)]
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
