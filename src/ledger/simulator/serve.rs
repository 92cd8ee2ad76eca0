//! A ledger for other processes: every call of [`LedgerBackend`] as a route.
//!
//! Takes any backend, so that a test can put its own in between. Invariant: what the backend says is passed on
//! as it is; a request that cannot be read is refused as `unavailable`, because nothing was done. It keeps no
//! state: after a crash callers look up what they sent, and subscribe again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures_util::{StreamExt, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::wire::{Group, HEARTBEAT, Refusal};
use crate::domain::{Cause, LedgerTxId, Prepared, Request};
use crate::ledger::{LedgerBackend, Query};

/// How long requests under way may take to finish once it has to stop.
const DRAIN: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Served {
    ledger: Arc<dyn LedgerBackend>,
    stop: CancellationToken,
}

/// Serves `ledger` on `listener` until `stop` is cancelled. Then streams of outcomes end, and requests under
/// way may finish within two seconds.
pub async fn serve(listener: TcpListener, ledger: Arc<dyn LedgerBackend>, stop: CancellationToken) {
    let listener = listener.tap_io(|socket| {
        // An answer is one small write: waiting to fill a packet would only delay it.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
    });
    let server = axum::serve(listener, router(ledger, stop.clone()))
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server => if let Err(error) = ended {
            tracing::error!(%error, "the ledger is not served any more");
        },
        () = overdue => tracing::info!("some requests were cut off"),
    }
}

/// The routes, for a server of the caller's own. Streams of outcomes end when `stop` is cancelled.
pub fn router(ledger: Arc<dyn LedgerBackend>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/prepare", post(prepare))
        .route("/submit", post(submit))
        .route("/lookup/{tx_id}", get(lookup))
        .route("/query", post(query))
        .route("/probe", get(probe))
        .route("/outcomes", get(outcomes))
        // What a gateway has accepted has to get through; it is the gateway that bounds requests.
        .layer(DefaultBodyLimit::disable())
        .with_state(Served { ledger, stop })
}

async fn prepare(State(served): State<Served>, body: Bytes) -> Response {
    match read::<Request>(&body) {
        Ok(request) => answer(served.ledger.prepare(&request).await),
        Err(refusal) => refuse(&refusal),
    }
}

async fn submit(State(served): State<Served>, body: Bytes) -> Response {
    match read::<Prepared>(&body) {
        Ok(prepared) => answer(served.ledger.submit(&prepared).await),
        Err(refusal) => refuse(&refusal),
    }
}

async fn query(State(served): State<Served>, body: Bytes) -> Response {
    match read::<Query>(&body) {
        Ok(query) => answer(served.ledger.query(&query).await),
        Err(refusal) => refuse(&refusal),
    }
}

async fn lookup(State(served): State<Served>, Path(tx_id): Path<String>) -> Response {
    json(StatusCode::OK, &served.ledger.lookup(&LedgerTxId(tx_id)).await)
}

async fn probe(State(served): State<Served>) -> Response {
    answer(served.ledger.probe().await.map_err(Refusal::Unavailable))
}

async fn outcomes(State(served): State<Served>) -> Response {
    let groups = served.ledger.outcomes();
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let lines = stream::unfold((groups, heartbeat), async |(mut groups, mut heartbeat)| {
        let group = tokio::select! {
            // In this order: with the first line, a heartbeat, the backend's stream was asked once and listens.
            biased;
            group = groups.next() => group?,
            _ = heartbeat.tick() => Group::new(),
        };
        let line = serde_json::to_vec(&group).inspect_err(|error| tracing::error!(%error, "outcomes"));
        let mut line = line.ok()?;
        line.push(b'\n');
        Some((Ok::<_, Infallible>(Bytes::from(line)), (groups, heartbeat)))
    });
    let lines = lines.take_until(served.stop.cancelled_owned());
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::from_stream(lines)).into_response()
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let words = format!("the ledger cannot read the request: {error}");
        Refusal::Unavailable(Cause::new("BAD_REQUEST", words))
    })
}

fn answer<T: Serialize>(result: Result<T, impl Into<Refusal>>) -> Response {
    match result {
        Ok(value) => json(StatusCode::OK, &value),
        Err(error) => refuse(&error.into()),
    }
}

fn refuse(refusal: &Refusal) -> Response {
    json(refusal.status(), refusal)
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => (status, [(header::CONTENT_TYPE, "application/json")], json).into_response(),
        // Nobody can tell from this whether anything was done, which is the truth.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
