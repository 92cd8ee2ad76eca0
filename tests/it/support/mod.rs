//! What the suites stand on: a gateway of their own, its answers, raw sockets and the command line.

mod answer;
mod app;
pub(crate) mod cli;
pub(crate) mod raw;
mod settings;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) use answer::Answer;
pub(crate) use app::TestApp;
pub(crate) use settings::{fast, ledger, simulator, stall};

/// Far longer than anything here takes; reaching it means that the condition never comes true.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Asks again and again until `holds` answers something, and fails if it never does.
pub(crate) async fn eventually<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs beside the test.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no TaskTracker; it joins what it spawns"
)]
pub(crate) fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(task)
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
