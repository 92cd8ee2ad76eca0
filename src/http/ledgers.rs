//! `/v1/ledgers` and `/v1/query`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::Api;
use super::auth::Detail;
use super::body::{QueryBody, read_json};
use super::caller::Who;
use super::dto::ResultView;
use super::error::{ApiError, Code};
use super::lanes::{LaneView, LanesView};
use super::openapi::examples;
use super::openapi::schemas::StrategyName;
use super::params::Name;
use super::transactions::{json, tagged};
use crate::domain::LedgerName;
use crate::gateway::{Caller, Scope, Steer, SteerRefusal, SteerRetry};

/// List ledgers
///
/// Every ledger that is configured, with its lane.
#[utoipa::path(
    get,
    path = "/v1/ledgers",
    operation_id = "listLedgers",
    tag = "ledgers",
    params(("If-None-Match" = Option<String>, Header, description = "ETags of what the client has")),
    responses(
        (status = 200, description = "All lanes", body = LanesView,
            headers(("ETag" = String, description = "Changes with the answer")), example = json!({"items": [examples::lane()]})),
        (status = 304, description = "Nothing has changed", headers(("ETag" = String, description = "Changes with the answer"))),
    )
)]
pub(crate) async fn list(State(api): State<Api>, who: Who, headers: HeaderMap) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let lanes = api.gateway.lanes().into_iter();
    let items = lanes
        .filter(|lane| api.gateway.may_use(&caller, lane.name.as_str()))
        .map(|lane| LaneView::of(lane, &caller))
        .collect();
    Ok(tagged(&headers, &LanesView { items }))
}

/// Read a ledger
///
/// Its lane: how it is set, how much waits, and whether the ledger answers.
#[utoipa::path(
    get,
    path = "/v1/ledgers/{name}",
    operation_id = "getLedger",
    tag = "ledgers",
    params(
        ("name" = LedgerName, Path, description = "Its name"),
        ("If-None-Match" = Option<String>, Header, description = "ETags of what the client has"),
    ),
    responses(
        (status = 200, description = "The lane", body = LaneView,
            headers(("ETag" = String, description = "Changes with the answer")), example = json!(examples::lane())),
        (status = 304, description = "Nothing has changed", headers(("ETag" = String, description = "Changes with the answer"))),
        (status = 404, description = "SG-0016"),
    )
)]
pub(crate) async fn get(
    State(api): State<Api>,
    who: Who,
    Name(name): Name,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let lane = api
        .gateway
        .lane(&name)
        .filter(|_| api.gateway.may_use(&caller, &name));
    let lane = lane.ok_or_else(|| unknown(&api, &caller, &name))?;
    Ok(tagged(&headers, &LaneView::of(lane, &caller)))
}

/// What to change of a lane. A field that is left out stays; `null` goes back to the configuration.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct SteerBody {
    /// Whether it submits nothing for now.
    paused: Option<bool>,
    /// Submissions per second.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<f64>, minimum = 0.001, maximum = 1_000_000)]
    rate_per_second: Option<Option<f64>>,
    /// How many may go out at once after a quiet moment; at least `rate_per_second / 500`.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1_000_000)]
    burst: Option<Option<u32>>,
    /// How many may await their outcome at the same time. Fewer hold as outcomes come; nothing under way is given up.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100_000)]
    max_in_flight: Option<Option<u32>>,
    /// A batch is taken on when it holds so many transactions.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000)]
    batch_size: Option<Option<u32>>,
    /// Or so long after its first one came in.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>, minimum = 0, maximum = 60_000)]
    batch_timeout_ms: Option<Option<u64>>,
    /// So long after it was sent the ledger is asked for an outcome that did not come; then at growing distances.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>, minimum = 100, maximum = 3_600_000)]
    check_after_ms: Option<Option<u64>>,
    /// When it tries again.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<RetryBody>)]
    retry: Option<Option<RetryBody>>,
}

/// What to change of retries: after a conflict, and, in an outage, while the ledger cannot be reached. A field that is left out stays; `null` goes back to the configuration.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct RetryBody {
    /// How the delay after a conflict is chosen.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<StrategyName>)]
    strategy: Option<Option<String>>,
    /// Shortest delay after a conflict.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    min_ms: Option<Option<u64>>,
    /// Longest delay after a conflict; not below `min_ms`.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    max_ms: Option<Option<u64>>,
    /// After so many tries that ended in a conflict a transaction fails; 0 never gives up.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1_000_000)]
    max_attempts: Option<Option<u32>>,
    /// Shortest delay in an outage. The delay grows exponentially.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    outage_min_ms: Option<Option<u64>>,
    /// Longest delay in an outage; not below `outage_min_ms`.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    outage_max_ms: Option<Option<u64>>,
    /// After so many tries that did not reach the ledger a transaction fails; 0 never gives up.
    #[serde(default, deserialize_with = "or_null")]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1_000_000)]
    outage_max_attempts: Option<Option<u32>>,
}

/// Tells a field that is `null` from one that is not there.
pub(super) fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Steer a ledger's lane
///
/// Pauses or resumes it, or changes its pace. What is set here lies over the configuration, holds on every node within
/// seconds and over restarts, until it is set to `null`. Takes the scope `operate`, and credentials of no tenant.
#[utoipa::path(
    patch,
    path = "/v1/ledgers/{name}",
    operation_id = "steerLedger",
    tag = "ledgers",
    params(("name" = LedgerName, Path, description = "Its name")),
    request_body(content = SteerBody, description = "What to change", example = json!({"rate_per_second": 50, "paused": false})),
    responses(
        (status = 200, description = "The lane as it is now", body = LaneView, example = json!(examples::lane())),
        (status = 404, description = "SG-0016"),
    )
)]
pub(crate) async fn steer(
    State(api): State<Api>,
    who: Who,
    Name(name): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.of_all_tenants(&[Scope::Operate])?;
    let body: SteerBody = read_json(&headers, body, api.body_limits).await?;
    let steer = Steer {
        paused: body.paused,
        rate_per_second: body.rate_per_second,
        burst: body.burst,
        max_in_flight: body.max_in_flight,
        batch_size: body.batch_size,
        batch_timeout_ms: body.batch_timeout_ms,
        check_after_ms: body.check_after_ms,
        retry: match body.retry {
            None => SteerRetry::default(),
            Some(None) => SteerRetry::clear(),
            Some(Some(retry)) => SteerRetry {
                strategy: retry.strategy,
                min_ms: retry.min_ms,
                max_ms: retry.max_ms,
                max_attempts: retry.max_attempts,
                outage_min_ms: retry.outage_min_ms,
                outage_max_ms: retry.outage_max_ms,
                outage_max_attempts: retry.outage_max_attempts,
            },
        },
    };
    steered(&api, &caller, &name, steer).await
}

/// Clear what was set for a ledger
///
/// Everything that was set for its lane goes back to the configuration, on every node within seconds. A lane that is paused
/// stays paused. Takes the scope `operate`, and credentials of no tenant.
#[utoipa::path(
    delete,
    path = "/v1/ledgers/{name}/overrides",
    operation_id = "clearLedgerOverrides",
    tag = "ledgers",
    params(("name" = LedgerName, Path, description = "Its name")),
    responses(
        (status = 200, description = "The lane as it is now", body = LaneView, example = json!(examples::lane())),
        (status = 404, description = "SG-0016"),
    )
)]
pub(crate) async fn clear(State(api): State<Api>, who: Who, Name(name): Name) -> Result<Response, ApiError> {
    let caller = who.of_all_tenants(&[Scope::Operate])?;
    steered(&api, &caller, &name, Steer::clear()).await
}

async fn steered(api: &Api, caller: &Caller, name: &str, steer: Steer) -> Result<Response, ApiError> {
    match api.gateway.steer(caller, name, steer).await {
        Ok(lane) => {
            let view = LaneView::of(lane, caller);
            let mut response = json(StatusCode::OK, &view);
            let now = serde_json::to_value(&view).unwrap_or_default();
            let detail = serde_json::json!({"paused": now["paused"], "overrides": now["overrides"]});
            response.extensions_mut().insert(Detail(detail));
            Ok(response)
        }
        Err(SteerRefusal::Missing) => Err(unknown(api, caller, name)),
        Err(refusal) => Err(refusal.into()),
    }
}

fn unknown(api: &Api, caller: &Caller, name: &str) -> ApiError {
    ApiError::new(Code::NoLedger, api.gateway.unknown_ledger(caller, name).detail)
}

/// Ask a ledger
///
/// Calls a contract to read, straight on the ledger: nothing is queued, and nothing is stored.
#[utoipa::path(
    post,
    path = "/v1/query",
    operation_id = "queryLedger",
    tag = "ledgers",
    request_body(content = QueryBody, description = "The call", example = json!(examples::query())),
    responses(
        (status = 200, description = "What the contract answered", body = ResultView, example = json!({"result": "87.50"})),
        (status = 403, description = "SG-0029"),
        (status = 422, description = "SG-0014"),
        (status = 503, description = "SG-0015"),
    )
)]
pub(crate) async fn query(
    State(api): State<Api>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let body: QueryBody = read_json(&headers, body, api.body_limits).await?;
    let (ledger, query) = body.into_query(&api.gateway)?;
    let result = api.gateway.query(&caller, &ledger, &query).await?;
    Ok(json(StatusCode::OK, &ResultView { result }))
}
