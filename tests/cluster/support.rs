//! Small things that every test here needs.

use std::time::Duration;

pub(crate) use crate::basics::{spawn, within};

#[path = "../support/devnet.rs"]
pub(crate) mod fabric;

/// Far longer than anything here takes; reaching it means that the condition never comes true.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Asks again and again until `holds` answers something, and fails if it never does.
pub(crate) async fn eventually<T>(what: &str, holds: impl AsyncFnMut() -> Option<T>) -> T {
    within(DEADLINE, what, holds).await
}

pub(crate) fn http() -> reqwest::Client {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(15));
    client.build().expect("client")
}
