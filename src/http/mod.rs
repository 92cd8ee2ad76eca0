//! The HTTP API: translates between requests and the [`Gateway`], and knows nothing of stores and ledgers.
//!
//! Handlers keep no state. A dropped connection drops its handler; what was handed to the store is stored
//! all the same, and a repeat with the same idempotency key finds it.

mod access;
mod actions;
mod auth;
mod batch;
mod body;
mod caller;
mod dto;
mod error;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod health;
mod ledgers;
mod params;
mod server;
mod tls;
mod transactions;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;

use self::body::BodyLimits;
use self::error::ApiError;
use self::events::Feed;
use crate::auth::Authenticator;
use crate::config::HttpSettings;
use crate::gateway::Gateway;
use crate::telemetry::metrics::Metrics;

pub use error::Code;
pub use server::serve;
pub use tls::{Tls, TlsError};

/// What every handler has.
#[derive(Clone)]
pub(crate) struct Api {
    gateway: Arc<Gateway>,
    auth: Arc<Authenticator>,
    metrics: Metrics,
    body_limits: BodyLimits,
    longest_wait: Duration,
    /// Where those who follow changes get them from.
    feed: Arc<Feed>,
    /// The right to have an event stream open.
    streams: Arc<Semaphore>,
    heartbeat: Duration,
}

impl Api {
    fn new(
        gateway: Arc<Gateway>,
        auth: Arc<Authenticator>,
        metrics: Metrics,
        settings: &HttpSettings,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            feed: Feed::new(gateway.clone(), tasks),
            streams: Arc::new(Semaphore::new(settings.max_streams as usize)),
            heartbeat: settings.stream_heartbeat,
            gateway,
            auth,
            metrics,
            body_limits: BodyLimits {
                bytes: settings.max_body_bytes,
                time: settings.body_timeout,
            },
            longest_wait: settings.max_wait,
        }
    }
}

/// All routes.
pub fn router(
    gateway: Arc<Gateway>,
    auth: Arc<Authenticator>,
    metrics: Metrics,
    settings: &HttpSettings,
    tasks: TaskTracker,
) -> Router {
    let routes = Router::new()
        .route(
            "/v1/transactions",
            post(transactions::submit).get(transactions::list),
        )
        .route("/v1/transactions/{id}", get(transactions::get))
        .route("/v1/transactions/batch", post(batch::submit))
        .route("/v1/transactions/{id}/attempts", get(transactions::attempts))
        .route("/v1/transactions/{id}/cancel", post(actions::cancel))
        .route("/v1/transactions/{id}/retry", post(actions::retry))
        .route("/v1/transactions/{id}/settle", post(actions::settle))
        .route("/v1/transactions/{id}/events", get(events::of_one))
        .route("/v1/events", get(events::all))
        .route("/v1/query", post(ledgers::query))
        .route("/v1/ledgers", get(ledgers::list))
        .route("/v1/ledgers/{name}", get(ledgers::get))
        .route("/v1/keys", post(access::create_key).get(access::list_keys))
        .route("/v1/keys/{id}", delete(access::revoke_key))
        .route("/v1/whoami", get(access::whoami))
        .route("/v1/audit", get(access::audit));
    finish(routes, Api::new(gateway, auth, metrics, settings, tasks))
}

/// Probes and metrics only: for a process that takes no requests.
pub fn probes(
    gateway: Arc<Gateway>,
    auth: Arc<Authenticator>,
    metrics: Metrics,
    settings: &HttpSettings,
    tasks: TaskTracker,
) -> Router {
    finish(Router::new(), Api::new(gateway, auth, metrics, settings, tasks))
}

/// Adds what every process offers.
fn finish(routes: Router<Api>, api: Api) -> Router {
    let metrics = get(health::metrics).route_layer(middleware::from_fn(auth::may_watch));
    routes
        .route("/metrics", metrics)
        // What comes after it is for everybody.
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::guard))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_route)
        .layer(CatchPanicLayer::custom(|_| {
            // The panic itself was reported where it happened.
            ApiError::new(
                Code::Internal,
                "the gateway could not answer; what was accepted is safe",
            )
            .into_response()
        }))
        .layer(middleware::from_fn_with_state(api.clone(), count))
        .with_state(api)
}

async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = known_method(request.method().as_str());
    let response = next.run(request).await;
    let route = route.as_ref().map_or("(none)", MatchedPath::as_str);
    api.metrics
        .http_request(method, route, response.status().as_u16(), start.elapsed());
    response
}

/// Clients may invent methods; label sets stay bounded.
fn known_method(method: &str) -> &'static str {
    match method {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "(other)",
    }
}

async fn no_route(request: Request) -> ApiError {
    ApiError::new(
        Code::NoRoute,
        format!("there is nothing at {}", request.uri().path()),
    )
}

async fn wrong_method(request: Request) -> ApiError {
    let detail = format!(
        "{} is not for {}; see the Allow header",
        request.method(),
        request.uri().path()
    );
    ApiError::new(Code::WrongMethod, detail)
}
