//! What the process says about itself: logs and metrics.

pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What these say of a lost connection is said again, with what it means, by those who use it. A level that is
/// configured for them comes later and wins.
const QUIET: &str = "lapin=off,async_rs=off";

/// Sends logs at `level` (a level, or `tracing` filter directives) to standard error.
///
/// # Errors
/// If `level` cannot be parsed, or logging was set up already.
pub fn start_logging(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(format!("{QUIET},{level}"))?)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Pretty => logs.with_target(false).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("start logging: {error}"))
}
