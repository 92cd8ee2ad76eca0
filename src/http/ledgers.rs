//! `/v1/ledgers` and `/v1/query`.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::Api;
use super::body::{QueryBody, read_json};
use super::caller::Who;
use super::dto::{LaneView, LanesView, ResultView};
use super::error::{ApiError, Code};
use super::params::Name;
use super::transactions::json;
use crate::gateway::Scope;

/// `GET /v1/ledgers`.
pub(crate) async fn list(State(api): State<Api>, who: Who) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    let lanes = api.gateway.lanes().into_iter();
    let items = lanes
        .filter(|lane| api.gateway.may_use(&caller, lane.name.as_str()))
        .map(LaneView::from)
        .collect();
    Ok(json(StatusCode::OK, &LanesView { items }))
}

/// `GET /v1/ledgers/{name}`.
pub(crate) async fn get(State(api): State<Api>, who: Who, Name(name): Name) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Read])?;
    if !api.gateway.may_use(&caller, &name) {
        return Err(ApiError::new(
            Code::NoLedger,
            format!("there is no ledger {name:?} for this tenant"),
        ));
    }
    let lane = api.gateway.lane(&name);
    let lane = lane.ok_or_else(|| ApiError::new(Code::NoLedger, api.gateway.unknown_ledger(&name).detail))?;
    Ok(json(StatusCode::OK, &LaneView::from(lane)))
}

/// `POST /v1/query`: straight to the ledger, nothing is stored.
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
