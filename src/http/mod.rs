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
mod console;
mod deliveries;
mod docs;
mod dto;
mod error;
mod events;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod health;
mod hygiene;
mod lanes;
mod ledgers;
mod openapi;
mod params;
mod server;
mod settings;
mod switch;
mod tls;
mod trace;
mod transactions;
mod webhooks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tokio_util::task::TaskTracker;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use utoipa_axum::routes;

use self::body::BodyLimits;
use self::error::ApiError;
use self::events::Feed;
use self::openapi::{Document, Documented};
use self::trace::Trace;
use crate::auth::Authenticator;
use crate::config::HttpSettings;
use crate::gateway::Gateway;
use crate::share::Places;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{FutureExt, Tracer};
use crate::webhooks::Webhooks;

pub use dto::{show, show_archived};
pub use error::Code;
pub use server::serve;
pub use tls::{Tls, TlsError};

/// What every handler has. Each layer of a request takes a copy, so that is one count and no more.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

pub(crate) struct Shared {
    gateway: Arc<Gateway>,
    auth: Arc<Authenticator>,
    metrics: Metrics,
    tracer: Tracer,
    body_limits: BodyLimits,
    longest_wait: Duration,
    /// Where those who follow changes get them from.
    feed: Arc<Feed>,
    /// The right to have an event stream open.
    streams: Arc<Places>,
    heartbeat: Duration,
    /// Pages of these origins may use the API.
    cors_origins: Arc<[String]>,
    /// Owns what has to go on when its client has gone.
    tasks: TaskTracker,
    document: Document,
}

impl std::ops::Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Api {
    fn webhooks(&self) -> &Webhooks {
        self.gateway.webhooks()
    }

    fn new(
        gateway: Arc<Gateway>,
        auth: Arc<Authenticator>,
        (metrics, tracer): (Metrics, Tracer),
        settings: &HttpSettings,
        tasks: TaskTracker,
        document: Document,
    ) -> Self {
        Self(Arc::new(Shared {
            feed: Feed::new(gateway.clone(), tasks.clone()),
            streams: Places::new(settings.max_streams as usize),
            heartbeat: settings.stream_heartbeat,
            cors_origins: settings.cors_origins.as_slice().into(),
            tasks,
            gateway,
            auth,
            metrics,
            tracer,
            body_limits: BodyLimits {
                bytes: settings.max_body_bytes,
                time: settings.body_timeout,
            },
            longest_wait: settings.max_wait,
            document,
        }))
    }
}

/// All routes.
pub fn router(
    gateway: Arc<Gateway>,
    auth: Arc<Authenticator>,
    telemetry: (Metrics, Tracer),
    settings: &HttpSettings,
    tasks: TaskTracker,
) -> Router {
    let (routes, document) = api().split(settings);
    let document = Document::new(&document);
    let api = Api::new(gateway, auth, telemetry, settings, tasks, document);
    finish(routes.merge(console::pages()).merge(docs::pages()), api, settings)
}

/// Probes and metrics only: for a process that takes no requests.
pub fn probes(
    gateway: Arc<Gateway>,
    auth: Arc<Authenticator>,
    telemetry: (Metrics, Tracer),
    settings: &HttpSettings,
    tasks: TaskTracker,
) -> Router {
    let (routes, document) = operations().split(settings);
    let document = Document::new(&document);
    let api = Api::new(gateway, auth, telemetry, settings, tasks, document);
    finish(routes, api, settings)
}

/// What a gateway with the built-in settings serves as `/openapi.json`.
pub fn openapi() -> String {
    let (_, document) = api().split(&HttpSettings::default());
    format!("{document:#}")
}

/// What every process offers.
fn operations() -> Documented {
    Documented::new()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
}

/// The whole API.
fn api() -> Documented {
    operations()
        .routes(routes!(openapi::get))
        .routes(routes!(transactions::submit, transactions::list))
        .routes(routes!(transactions::get))
        .routes(routes!(batch::submit))
        .routes(routes!(transactions::attempts))
        .routes(routes!(actions::cancel))
        .routes(routes!(actions::retry))
        .routes(routes!(actions::settle))
        .routes(routes!(events::of_one))
        .routes(routes!(events::all))
        .routes(routes!(webhooks::create, webhooks::list))
        .routes(routes!(webhooks::read, webhooks::change, webhooks::remove))
        .routes(routes!(webhooks::rotate_secret))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::read))
        .routes(routes!(deliveries::redeliver))
        .routes(routes!(deliveries::of_transaction))
        .routes(routes!(access::create_key, access::list_keys))
        .routes(routes!(access::revoke_key))
        .routes(routes!(access::whoami))
        .routes(routes!(access::audit))
        .routes(routes!(ledgers::query))
        .routes(routes!(ledgers::list))
        .routes(routes!(ledgers::get, ledgers::steer))
        .routes(routes!(ledgers::clear))
        .routes(routes!(settings::get, settings::change))
}

/// Adds what no route stands for.
fn finish(routes: Router<Api>, api: Api, settings: &HttpSettings) -> Router {
    let router = routes
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::guard))
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
        .layer(hygiene::gzip());
    let router = match hygiene::cors(&settings.cors_origins) {
        Some(cors) => router.layer(cors),
        None => router,
    };
    router
        .layer(middleware::from_fn_with_state(api.clone(), around))
        .with_state(api)
}

/// What is done about every request: it is named, counted, and its answer completed.
async fn around(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("(none)", MatchedPath::as_str);
    let method = known_method(request.method().as_str());
    let mut trace = Trace::of(request.headers());
    trace.begin(&api.tracer, method, route);
    if let Some(context) = trace.context() {
        request.extensions_mut().insert(context);
    }
    let mut response = match unknown_query(&api, method, route, request.uri()) {
        Some(refusal) => refusal.into_response(),
        None => {
            let answer = next.run(request).instrument(trace.log_span());
            match trace.own() {
                Some(own) => answer.with_context(own.as_parent()).await,
                None => answer.await,
            }
        }
    };
    let status = response.status();
    trace.end(status);
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(request.id = trace.request_id(), method, route, "a request failed");
    }
    hygiene::complete(response.headers_mut());
    if api.gateway.is_leaving() {
        // Whoever shares out requests sends the next one elsewhere, over another connection.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    trace.tell(response.headers_mut());
    api.metrics
        .http_request(method, route, status.as_u16(), start.elapsed());
    response
}

/// Parameters of an operation that has none are a slip, and not passed over.
fn unknown_query(api: &Api, method: &str, route: &str, uri: &Uri) -> Option<ApiError> {
    let query = uri.query().filter(|query| !query.is_empty())?;
    let name = query.split(['=', '&']).next().unwrap_or_default();
    api.document.refuses_queries(method, route).then(|| {
        ApiError::field(
            Code::InvalidParameter,
            format!("#query/{name}"),
            "is not known here; there are no query parameters",
        )
    })
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

async fn no_route(uri: Uri) -> ApiError {
    nothing_at(&uri)
}

fn nothing_at(uri: &Uri) -> ApiError {
    ApiError::new(Code::NoRoute, format!("there is nothing at {}", uri.path()))
}

/// The router adds `Allow`, which is all that `OPTIONS` asks for.
async fn wrong_method(request: Request) -> Response {
    if request.method() == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let detail = format!(
        "{} is not for {}; see the Allow header",
        request.method(),
        request.uri().path()
    );
    ApiError::new(Code::WrongMethod, detail).into_response()
}
