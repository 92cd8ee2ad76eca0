//! The control API: JSON over HTTP, for tests that make things go wrong and then ask what became of it.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /` | | height, counters, switches and faults |
//! | `GET /readyz` | | 200 if submissions would be taken now, else 503 |
//! | `GET /transactions?from=N` | | every transaction from block N on: block, position, id, code, arrival |
//! | `POST /faults` | a [`Fault`] | its number |
//! | `DELETE /faults`, `DELETE /faults/{id}` | | clears all, with switches and crash; or one |
//! | `PUT /cutting` | `true` or `false` | whether blocks are cut |
//! | `PUT /flowing` | `true` or `false` | whether streams of blocks and events flow |
//! | `PUT /crash` | a [`CrashPoint`] or `null` | where the process ends |
//!
//! What cannot be read is refused with 400 and a sentence. There is no access control: whoever reaches the address may
//! end the process.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use super::Devnet;
use super::faults::{CrashPoint, Fault};

/// Serves the control API of `devnet` on `listener` until its token is cancelled.
///
/// # Errors
/// The listener failed.
pub async fn serve_control(devnet: Arc<Devnet>, listener: TcpListener) -> io::Result<()> {
    let stop = devnet.stop.clone();
    let router = Router::new()
        .route("/", get(state))
        .route("/readyz", get(ready))
        .route("/transactions", get(transactions))
        .route("/faults", post(add_fault).delete(clear))
        .route("/faults/{id}", delete(clear_one))
        .route("/cutting", put(set_cutting))
        .route("/flowing", put(set_flowing))
        .route("/crash", put(set_crash))
        .with_state(devnet);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

type Network = State<Arc<Devnet>>;

async fn state(State(devnet): Network) -> Response {
    let faults = &devnet.faults;
    let (rows, crash) = faults.list();
    let (calls, struck) = faults.counters();
    let calls: Map<String, Value> = calls
        .into_iter()
        .map(|(method, count)| (method.as_str().to_owned(), count.into()))
        .collect();
    let state = json!({
        "height": devnet.engine.height(),
        "calls": calls,
        "gateway_calls_now": devnet.gateway_limit.busy(),
        "faults_struck": struck,
        "faults": rows,
        "crash": crash,
        "cutting": *faults.cutting().borrow(),
        "flowing": *faults.flowing().borrow(),
    });
    answer(&state)
}

async fn ready(State(devnet): Network) -> Response {
    match devnet.engine.probe() {
        Ok(()) => answer(&json!({"status": "ready"})),
        Err(cause) => (StatusCode::SERVICE_UNAVAILABLE, cause.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    #[serde(default)]
    from: u64,
}

#[derive(Serialize)]
struct Shown {
    block: u64,
    position: usize,
    id: String,
    code: &'static str,
    /// When it was submitted, in ms since 1970.
    arrived_at: u64,
}

async fn transactions(State(devnet): Network, Query(From { from }): Query<From>) -> Response {
    let mut shown = Vec::new();
    for number in from..=devnet.engine.height() {
        let block = match devnet.engine.block(number).await {
            Ok(block) => block,
            Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        };
        let entries = block.map(|block| block.entries).unwrap_or_default();
        shown.extend(entries.into_iter().enumerate().map(|(position, entry)| Shown {
            block: number,
            position,
            id: entry.tx_id.0,
            code: entry.code.as_str_name(),
            arrived_at: entry.arrived_at.as_millis(),
        }));
    }
    answer(&shown)
}

async fn add_fault(State(devnet): Network, body: Bytes) -> Response {
    with(&body, |fault: Fault| {
        fault.check()?;
        Ok(json!({"id": devnet.faults.add(fault)}))
    })
}

async fn clear(State(devnet): Network) -> Response {
    devnet.faults.clear(None);
    StatusCode::NO_CONTENT.into_response()
}

async fn clear_one(State(devnet): Network, Path(id): Path<u64>) -> Response {
    if devnet.faults.clear(Some(id)) {
        StatusCode::NO_CONTENT.into_response()
    } else {
        (StatusCode::NOT_FOUND, format!("there is no fault {id}")).into_response()
    }
}

async fn set_cutting(State(devnet): Network, body: Bytes) -> Response {
    with(&body, |on: bool| {
        devnet.faults.cutting().send_replace(on);
        Ok(json!(on))
    })
}

async fn set_flowing(State(devnet): Network, body: Bytes) -> Response {
    with(&body, |on: bool| {
        devnet.faults.flowing().send_replace(on);
        Ok(json!(on))
    })
}

async fn set_crash(State(devnet): Network, body: Bytes) -> Response {
    with(&body, |point: Option<CrashPoint>| {
        devnet.faults.crash_at(point);
        Ok(json!(point))
    })
}

/// Does something with what the body says.
fn with<T: DeserializeOwned>(body: &[u8], act: impl FnOnce(T) -> Result<Value, String>) -> Response {
    let read = serde_json::from_slice(body).map_err(|error| error.to_string());
    match read.and_then(act) {
        Ok(value) => answer(&value),
        Err(words) => (StatusCode::BAD_REQUEST, words).into_response(),
    }
}

fn answer(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
