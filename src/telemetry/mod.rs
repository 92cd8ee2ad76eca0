//! What the process says about itself: logs and metrics.

mod help;
pub mod history;
pub mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Sends logs at `level` (a level, or `tracing` filter directives) to standard error.
///
/// # Errors
/// If `level` cannot be parsed, or logging was set up already.
pub fn start_logging(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(level)?)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Pretty => logs.with_target(false).finish().with(discretion()).try_init(),
        LogFormat::Json => logs
            .json()
            .flatten_event(true)
            .finish()
            .with(discretion())
            .try_init(),
    }
    .map_err(|error| anyhow::anyhow!("start logging: {error}"))
}

/// The AMQP client is never heard, whatever the level: at `trace` it shows the frame with the password, and what
/// it has to say of errors, the queue says once and in context.
fn discretion<S: tracing::Subscriber>() -> impl Layer<S> {
    filter_fn(|event| !event.target().starts_with("lapin") && !event.target().starts_with("async_rs"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("locks").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_that_hold_a_password_are_not_logged_at_any_level() {
        let sink = Sink::default();
        let writer = sink.clone();
        let logs = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new("trace,lapin::io_loop=trace").expect("directives"))
            .with_writer(move || writer.clone())
            .finish()
            .with(discretion());
        tracing::subscriber::with_default(logs, || {
            tracing::trace!(target: "lapin::io_loop", "hunter2");
            tracing::error!(target: "lapin", "hunter2");
            tracing::trace!("heard");
        });
        let text = String::from_utf8(sink.0.lock().expect("locks").clone()).expect("text");
        assert!(text.contains("heard") && !text.contains("hunter2"), "{text}");
    }
}
