//! Files that may change while the gateway runs: looked at every other second, by one rule for all of them.
//!
//! What a file held when it was last whole stays in use until it holds something else that is whole. Nothing is kept, so a
//! crash loses nothing.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How often files are looked at. Secrets of a Kubernetes volume are replaced at once, others in steps.
const LOOK: Duration = Duration::from_secs(2);

/// Calls `look`, which may block, again and again until `stop`. It answers whether it took something new; its errors are told
/// once each.
pub(crate) async fn look_after<E, L>(what: &'static str, look: L, stop: CancellationToken)
where
    E: Display + Send + 'static,
    L: Fn() -> Result<bool, E> + Send + Sync + 'static,
{
    let look = Arc::new(look);
    let mut told = String::new();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        let look = look.clone();
        match tokio::task::spawn_blocking(move || look()).await {
            Ok(Ok(new)) => {
                told.clear();
                if new {
                    tracing::info!("{what} changed and is in use");
                }
            }
            Ok(Err(error)) => {
                let words = error.to_string();
                if words != told {
                    tracing::error!(%error, "{what} changed and cannot be used; what was in use stays in use");
                    told = words;
                }
            }
            Err(_) => return,
        }
    }
}
