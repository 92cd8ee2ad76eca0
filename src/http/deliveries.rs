//! `/v1/deliveries`: what became of webhooks.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::Api;
use super::body::read_nothing;
use super::caller::Who;
use super::dto::{rfc3339, rfc3339_or_null};
use super::error::ApiError;
use super::params::{self, FilterPrint, Name, Pairs, bad};
use super::transactions::{json, missing, transaction_id};
use super::webhooks::WRITE;
use crate::domain::{Timestamp, TransactionId};
use crate::gateway::Scope;
use crate::webhooks::{Attempt, Delivery, DeliveryFilter, Progress};

/// What became of telling somebody the end of a transaction.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryView<'a> {
    /// The `webhook-id` of every attempt.
    id: String,
    /// The webhook's id; `callback` for the `callback_url` of the request.
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
    /// The latest, oldest first.
    attempts: Vec<AttemptView<'a>>,
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    next_attempt_at: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    finished_at: Option<Timestamp>,
}

/// One attempt to deliver a webhook.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
struct AttemptView<'a> {
    #[serde(serialize_with = "rfc3339")]
    at: Timestamp,
    /// What the receiver answered, if it did.
    #[schema(required)]
    status: Option<u16>,
    /// What was wrong, if anything.
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

/// Where a delivery stands.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "it is described, not made")]
pub(super) enum DeliveryState {
    Pending,
    Delivered,
    Failed,
}

/// Deliveries.
#[derive(Serialize, ToSchema)]
#[schema(as = Deliveries)]
pub(super) struct DeliveriesView<'a> {
    items: Vec<DeliveryView<'a>>,
    /// Where the next page begins, if there is one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// What the examples are made of.
fn example(state: &str) -> Value {
    let delivered = state == "delivered";
    json!({
        "id": "dlv_01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f_wh_01956f3e000070008000000000000000",
        "webhook": "wh_01956f3e000070008000000000000000",
        "tenant": "default",
        "transaction_id": "01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f",
        "url": "https://erp.example/hooks/ledger",
        "type": "transaction.done",
        "state": state,
        "error": null,
        "attempts": if delivered { json!([
            {"at": "2026-01-31T12:00:00.900Z", "status": 503, "error": "answered 503", "duration_ms": 12},
            {"at": "2026-01-31T12:00:06.100Z", "status": 200, "error": null, "duration_ms": 9},
        ]) } else { json!([]) },
        "next_attempt_at": if delivered { Value::Null } else { "2026-01-31T12:00:00.900Z".into() },
        "created_at": "2026-01-31T12:00:00.880Z",
        "finished_at": if delivered { "2026-01-31T12:00:06.109Z".into() } else { Value::Null },
    })
}

/// List deliveries of webhooks
///
/// Those of the newest transactions first. A page may be short, or empty, and still have a next one.
#[utoipa::path(
    get,
    path = "/v1/deliveries",
    operation_id = "listDeliveries",
    tag = "webhooks",
    params(
        ("webhook" = Option<String>, Query, description = "Only to this webhook; `callback` is the `callback_url` of requests", example = "callback"),
        ("transaction" = Option<TransactionId>, Query, description = "Only of this transaction"),
        ("state" = Option<DeliveryState>, Query, description = "Only in this state"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 500, description = "How many at most; 50 if absent", example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, as it is, with the same filter"),
    ),
    responses(
        (status = 200, description = "A page", body = DeliveriesView,
            example = json!({"items": [example("delivered"), example("pending")], "next_cursor": null})),
    )
)]
pub(super) async fn list(
    State(api): State<Api>,
    who: Who,
    Pairs(pairs): Pairs,
) -> Result<Response, ApiError> {
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
            .map(|key| URL_SAFE_NO_PAD.encode([bound.as_bytes(), key.as_bytes()].concat())),
    };
    Ok(json(StatusCode::OK, &view))
}

/// Read a delivery of a webhook
///
/// With its latest attempts. It is removed some days after its end.
#[utoipa::path(
    get,
    path = "/v1/deliveries/{id}",
    operation_id = "getDelivery",
    tag = "webhooks",
    params(("id" = String, Path, description = "Its id, which is the `webhook-id` that the receiver sees")),
    responses(
        (status = 200, description = "The delivery", body = DeliveryView, example = json!(example("delivered"))),
        (status = 404, description = "SG-0024"),
    )
)]
pub(super) async fn read(State(api): State<Api>, who: Who, Name(id): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let delivery = api.webhooks().delivery(caller.tenant.as_ref(), &id).await?;
    Ok(json(StatusCode::OK, &DeliveryView::from(&delivery)))
}

/// List the deliveries of a transaction
///
/// One for its `callback_url`, and one for every webhook that was told of it. There are none before it is settled.
#[utoipa::path(
    get,
    path = "/v1/transactions/{id}/deliveries",
    operation_id = "getTransactionDeliveries",
    tag = "webhooks",
    params(("id" = TransactionId, Path, description = "The transaction's id")),
    responses(
        (status = 200, description = "All of them", body = DeliveriesView,
            example = json!({"items": [example("delivered")], "next_cursor": null})),
        (status = 404, description = "SG-0004"),
    )
)]
pub(super) async fn of_transaction(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
) -> Result<Response, ApiError> {
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

/// Send a webhook once more
///
/// At once, and with the same `webhook-id`: a receiver that has worked it off knows it. One that is being sent is left
/// alone.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{id}/redeliver",
    operation_id = "redeliver",
    tag = "webhooks",
    params(("id" = String, Path, description = "The delivery's id")),
    responses(
        (status = 202, description = "It is about to be sent", body = DeliveryView, example = json!(example("pending"))),
        (status = 404, description = "SG-0024"),
        (status = 409, description = "SG-0023"),
    )
)]
pub(super) async fn redeliver(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&WRITE)?;
    read_nothing(body, api.body_limits).await?;
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
fn print(filter: &DeliveryFilter) -> FilterPrint {
    let words = format!("{:?} {:?} {:?}", filter.webhook, filter.transaction, filter.state);
    FilterPrint::of_hash(Sha256::new().chain_update(words))
}

fn read_cursor(text: &str, bound: FilterPrint) -> Result<String, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let key = bytes
        .as_deref()
        .and_then(|bytes| bytes.strip_prefix(bound.as_bytes()));
    let key = key.and_then(|key| String::from_utf8(key.to_vec()).ok());
    // A store takes such keys only.
    key.filter(|key| !key.is_empty() && key.len() <= 512 && !key.contains('\0')).ok_or_else(|| {
        let words = "is not a cursor of this search; take next_cursor of the page before as it is, with the same parameters";
        bad("#query/cursor", words)
    })
}
