//! What the process says about itself: logs, metrics and traces.

mod help;
pub mod history;
pub mod metrics;
pub mod otlp;
mod trace_context;
mod tracer;

use std::error::Error;
use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use self::otlp::LogPush;
use crate::config::LogFormat;

pub use opentelemetry::KeyValue;
pub use opentelemetry::trace::FutureExt;
pub use trace_context::TraceContext;
pub use tracer::{PastSpan, Span, SpanKind, Tracer};

/// Sets the filter of the one log that a process has. There is none while nobody listens, as in tests.
static FILTER: OnceLock<Box<dyn Fn(EnvFilter) -> anyhow::Result<()> + Send + Sync>> = OnceLock::new();

/// Sends logs at `level` (a level, or `tracing` filter directives) to standard error, and the same to `push`.
///
/// # Errors
/// If `level` cannot be parsed, or logging was set up already.
pub fn start_logging(level: &str, format: LogFormat, push: &LogPush) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(level)?);
    FILTER.get_or_init(|| Box::new(move |new| Ok(handle.reload(new)?)));
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Pretty => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(pushed(push))
        .with(discretion())
        .try_init()
        .map_err(|error| anyhow::anyhow!("start logging: {error}"))
}

/// What pushing lines makes the HTTP client say must not be pushed in its turn.
fn pushed<S>(push: &LogPush) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'s> LookupSpan<'s>,
{
    const OWN: [&str; 4] = ["hyper", "reqwest", "rustls", "opentelemetry"];
    let others = filter_fn(|event| !OWN.iter().any(|own| event.target().starts_with(own)));
    push.layer().map(|layer| layer.with_filter(others))
}

/// Logs at another `level` from now on. Does nothing in a process that does not log.
///
/// # Errors
/// If it cannot be parsed; nothing has changed.
pub fn set_log_level(level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level)?;
    FILTER.get().map_or(Ok(()), |set| set(filter))
}

/// The cause at the bottom of an error, in its words. Of an HTTP client it names no URL: that may hold a token.
pub fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
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
