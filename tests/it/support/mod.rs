//! What the suites stand on: a gateway of their own, its answers, raw sockets and the command line.

mod answer;
mod app;
pub(crate) mod cli;
pub(crate) mod cut;
pub(crate) mod events;
#[path = "../../support/devnet.rs"]
pub(crate) mod fabric;
pub(crate) mod node;
pub(crate) mod python;
pub(crate) mod raw;
#[path = "../../support/receiver.rs"]
pub(crate) mod receiver;
pub(crate) mod scripted;
mod settings;
pub(crate) mod states;

use std::time::Duration;

use serde_json::{Value, json};

use crate::basics;
pub(crate) use crate::basics::spawn;
pub(crate) use answer::Answer;
pub(crate) use app::TestApp;
pub(crate) use settings::{fast, ledger, simulator, stall};

/// Far longer than anything here takes; reaching it means that the condition never comes true.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Asks again and again until `holds` answers something, and fails if it never does.
pub(crate) async fn eventually<T>(what: &str, holds: impl AsyncFnMut() -> Option<T>) -> T {
    basics::within(DEADLINE, what, holds).await
}

/// `counter Add`: reads and writes `key`, so two of them in one block conflict.
pub(crate) fn add(key: &str, delta: i64) -> Value {
    json!({"ledger": "main", "contract": "counter", "function": "Add", "args": [key, delta]})
}

/// `body` with `field` set to `value`.
pub(crate) fn with(mut body: Value, field: &str, value: impl Into<Value>) -> Value {
    body[field] = value.into();
    body
}
