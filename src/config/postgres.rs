//! `[store]` of kind `postgres`.

use std::num::NonZeroU32;
use std::time::Duration;

use super::reader::Section;
use super::server_url::{ServerUrl, server_url};

const EXAMPLE: &str = "postgres://sluicegate@127.0.0.1:5432/sluicegate";

/// `[store]` of kind `postgres`: a database that any number of gateways share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// Where it is and how to log in; TLS by the parameters that `libpq` knows (`sslmode`, `sslrootcert`, ...).
    pub url: ServerUrl,
    /// How many connections this process may hold; one more listens for news.
    pub max_connections: NonZeroU32,
    /// How long a request may wait for the database before it is answered with 503.
    pub timeout: Duration,
    /// Whether `serve` brings the tables up to date by itself.
    pub migrate: bool,
}

pub(super) fn read(section: &mut Section<'_>) -> PostgresSettings {
    PostgresSettings {
        url: server_url(section, &["postgres", "postgresql"], EXAMPLE),
        max_connections: NonZeroU32::new(section.u32_in("max_connections", 8, 2..=1_000))
            .unwrap_or(NonZeroU32::MIN),
        timeout: section.duration_ms("timeout_ms", Duration::from_secs(5), 100..=60_000),
        migrate: section.flag("migrate", true),
    }
}
