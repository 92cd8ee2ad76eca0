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
use super::openapi::examples;
use super::params::Name;
use super::transactions::{json, tagged};
use crate::domain::LedgerName;
use crate::gateway::Scope;

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
    who.with(&[Scope::Read])?;
    let items = api.gateway.lanes().into_iter().map(LaneView::from).collect();
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
    who.with(&[Scope::Read])?;
    let lane = api.gateway.lane(&name);
    let lane = lane.ok_or_else(|| ApiError::new(Code::NoLedger, api.gateway.unknown_ledger(&name).detail))?;
    Ok(tagged(&headers, &LaneView::from(lane)))
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
    who.with(&[Scope::Read])?;
    let body: QueryBody = read_json(&headers, body, api.body_limits).await?;
    let (ledger, query) = body.into_query(&api.gateway)?;
    let result = api.gateway.query(&ledger, &query).await?;
    Ok(json(StatusCode::OK, &ResultView { result }))
}
