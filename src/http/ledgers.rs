//! `/v1/ledgers` and `/v1/query`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Deserializer};

use super::Api;
use super::body::{QueryBody, read_json};
use super::caller::Who;
use super::dto::{LaneView, LanesView, ResultView};
use super::error::{ApiError, Code};
use super::params::Name;
use super::transactions::json;
use crate::gateway::{Scope, Steer, SteerRefusal};

/// `GET /v1/ledgers`.
pub(crate) async fn list(State(api): State<Api>, who: Who) -> Result<Response, ApiError> {
    who.with(&[Scope::Read])?;
    let items = api.gateway.lanes().into_iter().map(LaneView::from).collect();
    Ok(json(StatusCode::OK, &LanesView { items }))
}

/// `GET /v1/ledgers/{name}`.
pub(crate) async fn get(State(api): State<Api>, who: Who, Name(name): Name) -> Result<Response, ApiError> {
    who.with(&[Scope::Read])?;
    let lane = api.gateway.lane(&name);
    let lane = lane.ok_or_else(|| unknown(&api, &name))?;
    Ok(json(StatusCode::OK, &LaneView::from(lane)))
}

/// What to change of a lane. A field that is left out stays; `null` goes back to the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct SteerBody {
    paused: Option<bool>,
    #[serde(default, deserialize_with = "or_null")]
    rate_per_second: Option<Option<f64>>,
    #[serde(default, deserialize_with = "or_null")]
    burst: Option<Option<u32>>,
    #[serde(default, deserialize_with = "or_null")]
    batch_size: Option<Option<u32>>,
    #[serde(default, deserialize_with = "or_null")]
    batch_timeout_ms: Option<Option<u64>>,
}

/// Tells a field that is `null` from one that is not there.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// `PATCH /v1/ledgers/{name}`.
pub(crate) async fn steer(
    State(api): State<Api>,
    who: Who,
    Name(name): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.of_all_tenants(Scope::Operate)?;
    let body: SteerBody = read_json(&headers, body, api.body_limits).await?;
    let steer = Steer {
        paused: body.paused,
        rate_per_second: body.rate_per_second,
        burst: body.burst,
        batch_size: body.batch_size,
        batch_timeout_ms: body.batch_timeout_ms,
    };
    match api.gateway.steer(&caller, &name, steer).await {
        Ok(lane) => Ok(json(StatusCode::OK, &LaneView::from(lane))),
        Err(SteerRefusal::Missing) => Err(unknown(&api, &name)),
        Err(SteerRefusal::Invalid(fields)) => Err(ApiError::fields(Code::InvalidFields, fields)),
        Err(SteerRefusal::Store(error)) => Err(error.into()),
    }
}

fn unknown(api: &Api, name: &str) -> ApiError {
    ApiError::new(Code::NoLedger, api.gateway.unknown_ledger(name).detail)
}

/// `POST /v1/query`: straight to the ledger, nothing is stored.
pub(crate) async fn query(
    State(api): State<Api>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    who.with(&[Scope::Read])?;
    let body: QueryBody = read_json(&headers, body, api.body_limits).await?;
    let (ledger, query) = body.into_query(&api.gateway)?;
    let result = api.gateway.query(&ledger, &query).await?;
    Ok(json(StatusCode::OK, &ResultView { result }))
}
