//! Probes and metrics.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::caller::Who;
use super::error::{ApiError, Code};
use super::transactions::json;
use crate::gateway::{QueueHealth, Scope};

/// The process answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// `live`.
    status: &'static str,
}

/// A request would be accepted now.
#[derive(Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready`.
    status: &'static str,
    queue: QueueView,
}

/// The queue. Nothing that is wrong with it keeps a request from being accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = Queue)]
struct QueueView {
    /// The kind of queue.
    kind: &'static str,
    /// What is wrong with it.
    #[schema(required)]
    trouble: Option<String>,
}

/// Is it alive?
///
/// The process answers.
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "live",
    tag = "operations",
    responses((status = 200, description = "It is", body = Health, example = json!({"status": "live"})))
)]
pub(crate) async fn live() -> Response {
    json(StatusCode::OK, &Health { status: "live" })
}

/// Is it ready?
///
/// A request would be accepted now. Ledgers and broker do not count: without them it still accepts, and says what is
/// wrong. A process that was told to stop, and goes on to answer for a while, says that it is not ready.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "ready",
    tag = "operations",
    responses(
        (status = 200, description = "It is", body = Readiness,
            example = json!({"status": "ready", "queue": {"kind": "embedded", "trouble": null}})),
        (status = 500, description = "SG-0013"),
        (status = 503, description = "SG-0012 SG-0030"),
    )
)]
pub(crate) async fn ready(State(api): State<Api>) -> Result<Response, ApiError> {
    if api.gateway.is_leaving() {
        let detail = "this process was told to stop; what is sent to it is still accepted, and safe";
        return Err(ApiError::new(Code::Leaving, detail).later(Duration::from_secs(2)));
    }
    let QueueHealth { kind, trouble } = api.gateway.ready().await?;
    let readiness = Readiness {
        status: "ready",
        queue: QueueView { kind, trouble },
    };
    Ok(json(StatusCode::OK, &readiness))
}

/// Metrics
///
/// In Prometheus' text format. Takes the scope `read` or `operate`, and credentials of no tenant.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "operations",
    responses((status = 200, description = "All metrics", body = String, content_type = "text/plain",
        example = json!("# TYPE sluicegate_backlog gauge\nsluicegate_backlog{ledger=\"main\"} 17\n")))
)]
pub(crate) async fn metrics(State(api): State<Api>, who: Who) -> Result<Response, ApiError> {
    who.of_all_tenants(&[Scope::Read, Scope::Operate])?;
    api.metrics.event_streams(api.streams.taken());
    let text = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, text)], api.gateway.metrics()).into_response())
}
