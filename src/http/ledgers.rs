//! `/v1/ledgers` and `/v1/query`.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::Api;
use super::body::{QueryBody, read_json};
use super::dto::{LaneView, LanesView, ResultView};
use super::error::{ApiError, Code};
use super::transactions::json;
use crate::gateway::Query;

/// `GET /v1/ledgers`.
pub(crate) async fn list(State(api): State<Api>) -> Response {
    let items = api.gateway.lanes().into_iter().map(LaneView::from).collect();
    json(StatusCode::OK, &LanesView { items })
}

/// `GET /v1/ledgers/{name}`.
pub(crate) async fn get(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let lane = api
        .gateway
        .lanes()
        .into_iter()
        .find(|lane| lane.name.as_str() == name);
    let lane = lane.ok_or_else(|| missing(&api, &name))?;
    Ok(json(StatusCode::OK, &LaneView::from(lane)))
}

/// `POST /v1/query`: straight to the ledger, nothing is stored.
pub(crate) async fn query(
    State(api): State<Api>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body: QueryBody = read_json(&headers, body, api.body_limits).await?;
    let query = Query {
        contract: body.contract,
        function: body.function,
        args: body.args,
    };
    let answer = api.gateway.query(&body.ledger, &query).await;
    let result = answer.ok_or_else(|| missing(&api, &body.ledger))??;
    Ok(json(StatusCode::OK, &ResultView { result }))
}

fn missing(api: &Api, name: &str) -> ApiError {
    let known = api.gateway.ledger_names().join(", ");
    ApiError::new(
        Code::NoLedger,
        format!("there is no ledger \"{name}\"; configured: {known}"),
    )
}
