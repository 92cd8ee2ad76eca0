//! Small things that every test here needs.

use std::time::{Duration, Instant};

/// Far longer than anything here takes; reaching it means that the condition never comes true.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until `holds` answers something, and fails if it never does.
pub(crate) async fn eventually<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn http() -> reqwest::Client {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(15));
    client.build().expect("client")
}

/// Runs beside the test.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no TaskTracker; what it spawns ends with its runtime"
)]
pub(crate) fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(task)
}
