//! What the tests of this store share.

use std::num::NonZeroU32;
use std::time::Duration;

use uuid::Uuid;

use super::PostgresStore;
use crate::config::{PostgresSettings, ServerUrl};
use crate::telemetry::metrics::{Metrics, StoreMetrics};

/// Settings for the database at `url`.
pub(crate) fn settings(url: &str) -> PostgresSettings {
    PostgresSettings {
        url: ServerUrl::parse(url, &["postgres"]).expect("an address"),
        max_connections: NonZeroU32::new(8).expect("not zero"),
        timeout: Duration::from_secs(20),
        migrate: true,
    }
}

pub(super) fn metrics() -> StoreMetrics {
    Metrics::new().expect("metrics").store()
}

/// A node of its own, as if it were another process.
pub(super) async fn node(settings: &PostgresSettings) -> PostgresStore {
    PostgresStore::connect_as(settings, metrics(), Uuid::now_v7())
        .await
        .expect("connects")
}
