//! Probes and metrics.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use super::transactions::json;

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// `GET /livez`: the process answers.
pub(crate) async fn live() -> Response {
    json(StatusCode::OK, &Health { status: "live" })
}

/// `GET /readyz`: a request would be accepted now. Ledgers do not count: without them it still accepts.
pub(crate) async fn ready(State(api): State<Api>) -> Result<Response, ApiError> {
    api.gateway.ready().await?;
    Ok(json(StatusCode::OK, &Health { status: "ready" }))
}

/// `GET /metrics`: Prometheus text format.
pub(crate) async fn metrics(State(api): State<Api>) -> Response {
    let text = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, text)], api.gateway.metrics()).into_response()
}
