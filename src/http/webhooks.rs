//! `/v1/webhooks`: where a tenant wants to be told.

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::Api;
use super::auth::Detail;
use super::body::read_json;
use super::caller::Who;
use super::dto::rfc3339;
use super::error::{ApiError, Code};
use super::params::Name;
use super::transactions::json;
use crate::domain::{Status, Timestamp};
use crate::gateway::{FieldError, Scope};
use crate::webhooks::{CALLBACK, Disabled, Endpoint, EndpointChange, Secret, WebhookRefusal};

/// Who may change where others are told.
pub(super) const WRITE: [Scope; 2] = [Scope::Submit, Scope::Operate];

/// How long an old secret signs beside the new one if nobody says: a day.
const OVERLAP_SECONDS: u64 = 24 * 3_600;

/// What a webhook is told of.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "it is described, not made")]
enum Told {
    Done,
    Failed,
}

// What has to be there is optional here, so that all that is wrong can be told.

/// A webhook to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct WebhookBody {
    /// Where to: `https://` or `http://`, to a public address or to one that the operator allows.
    #[schema(required, value_type = String, format = "uri", pattern = "^https?://", max_length = 2_048)]
    url: Option<String>,
    /// The owner's words.
    #[schema(value_type = Option<String>, max_length = 512)]
    description: Option<String>,
    /// Of which ends it is told; of both, if absent.
    #[schema(value_type = Option<Vec<Told>>, min_items = 1, max_items = 2)]
    statuses: Option<Vec<Status>>,
    /// Whether nothing is sent there for now.
    #[schema(value_type = Option<bool>)]
    disabled: Option<bool>,
}

/// What to change of a webhook; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct WebhookChange {
    /// Where to.
    #[schema(value_type = Option<String>, format = "uri", pattern = "^https?://", max_length = 2_048)]
    url: Option<String>,
    /// The owner's words.
    #[schema(value_type = Option<String>, max_length = 512)]
    description: Option<String>,
    /// Of which ends it is told.
    #[schema(value_type = Option<Vec<Told>>, min_items = 1, max_items = 2)]
    statuses: Option<Vec<Status>>,
    /// Whether nothing is sent there.
    #[schema(value_type = Option<bool>)]
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

impl From<WebhookChange> for EndpointChange {
    fn from(body: WebhookChange) -> Self {
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
pub(super) struct RotateBody {
    /// How long the old secret signs beside the new one; a day, if absent. 0 ends it at once.
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
}

/// Who is told how transactions end.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(super) struct WebhookView<'a> {
    id: &'a str,
    tenant: &'a str,
    /// Where to; `null` for what stands for callbacks.
    #[schema(required)]
    url: Option<&'a str>,
    #[schema(value_type = Vec<Told>)]
    statuses: &'a [Status],
    description: &'a str,
    disabled: bool,
    /// `by_owner`, or `gone` if it answered 410.
    #[schema(required, value_type = Option<String>)]
    disabled_reason: Option<Disabled>,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    /// `whsec_` and base64. Told only to whoever made, or rotated, it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
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
pub(super) struct WebhooksView<'a> {
    items: Vec<WebhookView<'a>>,
}

/// What the examples are made of.
fn example_body() -> Value {
    json!({"url": "https://erp.example/hooks/ledger", "statuses": ["done", "failed"], "description": "the ERP"})
}

fn example(with_secret: bool) -> Value {
    let mut webhook = json!({
        "id": "wh_01956f3e000070008000000000000000",
        "tenant": "default",
        "url": "https://erp.example/hooks/ledger",
        "statuses": ["done", "failed"],
        "description": "the ERP",
        "disabled": false,
        "disabled_reason": null,
        "created_at": "2026-01-31T12:00:00.000Z",
    });
    if with_secret {
        webhook["secret"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=".into();
    }
    webhook
}

impl From<WebhookRefusal> for ApiError {
    fn from(refusal: WebhookRefusal) -> Self {
        match refusal {
            WebhookRefusal::Missing => Self::new(Code::NoWebhook, "there is none with this id"),
            WebhookRefusal::Invalid(faults) => {
                let field = |(pointer, detail)| FieldError { pointer, detail };
                Self::fields(Code::InvalidFields, faults.into_iter().map(field).collect())
            }
            WebhookRefusal::NotNow(words) => Self::new(Code::NotNow, words),
            WebhookRefusal::Store(error) => error.into(),
        }
    }
}

/// Make a webhook
///
/// From now on it is told how transactions of the tenant end, signed by Standard Webhooks. Its secret is told in this
/// answer, and never again.
#[utoipa::path(
    post,
    path = "/v1/webhooks",
    operation_id = "createWebhook",
    tag = "webhooks",
    request_body(content = WebhookBody, description = "What it is to be", example = json!(example_body())),
    responses(
        (status = 201, description = "It is there", body = WebhookView, headers(
            ("Location" = String, description = "Where it is"),
            ("Cache-Control" = String, description = "`no-store`"),
        ), example = json!(example(true))),
    )
)]
pub(super) async fn create(
    State(api): State<Api>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    let body: WebhookBody = read_json(&headers, body, api.body_limits).await?;
    let (endpoint, secret) = api.webhooks().create(caller.tenant.as_ref(), body.into()).await?;
    let mut response = json(StatusCode::CREATED, &WebhookView::new(&endpoint, Some(&secret)));
    response.extensions_mut().insert(audited(&endpoint));
    if let Ok(location) = HeaderValue::try_from(format!("/v1/webhooks/{}", endpoint.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(secret_answer(response))
}

/// List webhooks
///
/// All of them, without their secrets.
#[utoipa::path(
    get,
    path = "/v1/webhooks",
    operation_id = "listWebhooks",
    tag = "webhooks",
    responses((status = 200, description = "The webhooks", body = WebhooksView, example = json!({"items": [example(false)]})))
)]
pub(super) async fn list(State(api): State<Api>, who: Who) -> Result<Response, ApiError> {
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
/// `callback` is what stands for the `callback_url` of requests.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{id}",
    operation_id = "getWebhook",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The webhook", body = WebhookView, example = json!(example(false))),
        (status = 404, description = "SG-0024"),
    )
)]
pub(super) async fn read(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let endpoint = api.webhooks().endpoint(caller.tenant.as_ref(), &id).await?;
    Ok(json(StatusCode::OK, &WebhookView::new(&endpoint, None)))
}

/// Change a webhook
///
/// What is left out stays. One that was disabled because it answered 410 is enabled again by `"disabled": false`.
#[utoipa::path(
    patch,
    path = "/v1/webhooks/{id}",
    operation_id = "changeWebhook",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id")),
    request_body(content = WebhookChange, description = "What to change", example = json!({"disabled": false})),
    responses(
        (status = 200, description = "The webhook as it is now", body = WebhookView, example = json!(example(false))),
        (status = 404, description = "SG-0024"),
    )
)]
pub(super) async fn change(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    let body: WebhookChange = read_json(&headers, body, api.body_limits).await?;
    let endpoint = api
        .webhooks()
        .change(caller.tenant.as_ref(), &id, body.into())
        .await?;
    let mut response = json(StatusCode::OK, &WebhookView::new(&endpoint, None));
    response.extensions_mut().insert(audited(&endpoint));
    Ok(response)
}

/// Remove a webhook
///
/// What waits for it fails when it is its turn. One that the operator configured cannot be removed here.
#[utoipa::path(
    delete,
    path = "/v1/webhooks/{id}",
    operation_id = "removeWebhook",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "SG-0024"),
        (status = 409, description = "SG-0023"),
    )
)]
pub(super) async fn remove(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    api.webhooks().remove(caller.tenant.as_ref(), &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Rotate a webhook's secret
///
/// Answers the new one, which is never told again. Until the overlap has passed the old one signs as well, so that the
/// receiver may change over at any moment. Without a body, the overlap is a day.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{id}/rotate-secret",
    operation_id = "rotateWebhookSecret",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id, or `callback` for the secret of `callback_url`s")),
    request_body(content = RotateBody, description = "How long the old one signs", example = json!({"overlap_seconds": 86_400})),
    responses(
        (status = 200, description = "The webhook with its new secret", body = WebhookView,
            headers(("Cache-Control" = String, description = "`no-store`")), example = json!(example(true))),
        (status = 404, description = "SG-0024"),
        (status = 409, description = "SG-0023"),
    )
)]
pub(super) async fn rotate_secret(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    let is_absent = body.is_end_stream() && !headers.contains_key(header::CONTENT_TYPE);
    let asked = match is_absent {
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

/// What the audit log keeps of one that was made or changed: where it leads.
fn audited(endpoint: &Endpoint) -> Detail {
    Detail(json!({
        "id": endpoint.id,
        "tenant": endpoint.tenant,
        "url": endpoint.url,
        "statuses": endpoint.statuses,
        "disabled": endpoint.disabled.is_some(),
    }))
}

/// What holds a secret is not for caches.
fn secret_answer(mut response: Response) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}
