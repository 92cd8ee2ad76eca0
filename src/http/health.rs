//! Probes and metrics.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use super::transactions::json;
use crate::gateway::QueueHealth;

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    queue: QueueView,
}

/// Nothing that is wrong with the queue keeps a request from being accepted.
#[derive(Serialize)]
struct QueueView {
    kind: &'static str,
    trouble: Option<String>,
}

/// `GET /livez`: the process answers.
pub(crate) async fn live() -> Response {
    json(StatusCode::OK, &Health { status: "live" })
}

/// `GET /readyz`: a request would be accepted now. Ledgers and broker do not count: without them it still
/// accepts, and says what is wrong.
pub(crate) async fn ready(State(api): State<Api>) -> Result<Response, ApiError> {
    let QueueHealth { kind, trouble } = api.gateway.ready().await?;
    let readiness = Readiness {
        status: "ready",
        queue: QueueView { kind, trouble },
    };
    Ok(json(StatusCode::OK, &readiness))
}

/// `GET /metrics`: Prometheus text format.
pub(crate) async fn metrics(State(api): State<Api>) -> Response {
    let text = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, text)], api.gateway.metrics()).into_response()
}
