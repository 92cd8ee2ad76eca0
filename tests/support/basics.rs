//! What the test binaries have in common: waiting for something to become true, running beside the test, and saying
//! what is not shown on this machine.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Asks again and again until `holds` answers something, and fails if that takes longer than `limit`.
pub(crate) async fn within<T>(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = holds().await {
            return value;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Says that something is not tested here, and why, even of a test that passes: what is printed as usual is shown of those
/// that fail only.
pub(crate) fn skipped(what: &str) {
    let _shown = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// Runs beside the test.
#[expect(
    clippy::disallowed_methods,
    reason = "a test has no TaskTracker; what it spawns ends with it"
)]
pub(crate) fn spawn<F>(task: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(task)
}

/// The library that gives a process a clock of its own, if the package `faketime` is there.
pub(crate) fn faketime() -> Option<PathBuf> {
    let systems = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut libraries = systems.map(|system| system.path().join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.exists())
}
