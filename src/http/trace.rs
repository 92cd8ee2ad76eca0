//! Which request this is: its own id, and the trace that it belongs to.
//!
//! Every answer carries an `X-Request-Id`: the client's, if it is one that a log can hold, else one made here. A
//! client that takes part in a trace (W3C Trace Context) sends `traceparent`. Where traces are collected, the request is a
//! span below it, or begins a trace. Whoever handles the request has the place of that span, or else the client's own, as the
//! extension [`TraceContext`]; the answer has ours. A malformed one is passed over, as the standard wants it: a trace is no
//! reason to refuse anybody. What is accepted takes its place in the trace with it; nothing else outlives the request.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use crate::telemetry::{KeyValue, Span, SpanKind, TraceContext, Tracer};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request id that is taken over has so many visible ASCII characters at most.
const MAX_REQUEST_ID: usize = 128;
/// What is known of a request before anybody has looked at it.
pub(super) struct Trace {
    request_id: HeaderValue,
    /// Whether the client chose the id.
    given: bool,
    /// Where the client is.
    client: Option<TraceContext>,
    /// What the request takes, if that is collected; ends with this.
    span: Span,
}

impl Trace {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).filter(|value| is_sane(value));
        let context = headers
            .get(TRACEPARENT)
            .and_then(|value| TraceContext::parse(value.to_str().ok()?));
        Self {
            request_id: given.cloned().unwrap_or_else(new_id),
            given: given.is_some(),
            client: context,
            span: Span::default(),
        }
    }

    /// Begins the span of the request. Probes, scrapes and the console's files have none.
    pub(super) fn begin(&mut self, tracer: &Tracer, method: &'static str, route: &str) {
        if !tracer.is_on() || !route.starts_with("/v1/") {
            return;
        }
        self.span = tracer.start(format!("{method} {route}"), SpanKind::Server, self.client);
        self.span.set(KeyValue::new("http.request.method", method));
        self.span.set(KeyValue::new("http.route", route.to_owned()));
    }

    /// Says how it ended.
    pub(super) fn end(&mut self, status: StatusCode) {
        let code = i64::from(status.as_u16());
        self.span.set(KeyValue::new("http.response.status_code", code));
        if status.is_server_error() {
            self.span.fail(status.as_str().to_owned());
        }
    }

    /// The place that goes with what comes of the request.
    pub(super) fn context(&self) -> Option<TraceContext> {
        self.own().or(self.client)
    }

    /// Where we are, if that is collected.
    pub(super) fn own(&self) -> Option<TraceContext> {
        self.span.place()
    }

    /// What is logged meanwhile names the request. A span costs more than all else that is done about one, so a
    /// request whose client looks for nothing has none, unless the log shows details.
    pub(super) fn log_span(&self) -> tracing::Span {
        let id = self.request_id();
        match self.context() {
            Some(context) => {
                tracing::info_span!("request", request.id = id, trace.id = %context.trace_id())
            }
            None if self.given => tracing::info_span!("request", request.id = id),
            None => tracing::debug_span!("request", request.id = id),
        }
    }

    pub(super) fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// Tells the client.
    pub(super) fn tell(self, headers: &mut HeaderMap) {
        let ours = self.own().or_else(|| self.client.map(TraceContext::child));
        headers.insert(REQUEST_ID, self.request_id);
        let ours = ours.map(|place| place.to_string());
        if let Some(ours) = ours.and_then(|ours| HeaderValue::try_from(ours).ok()) {
            headers.insert(TRACEPARENT, ours);
        }
    }
}

fn is_sane(id: &HeaderValue) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

fn new_id() -> HeaderValue {
    let mut text = [0; uuid::fmt::Simple::LENGTH];
    let text = Uuid::now_v7().simple().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_taken_over_if_it_is_sane() {
        let of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value).expect("a header"));
            Trace::of(&headers)
        };
        for sane in ["x", "01956f3e-8c1b/7", &"i".repeat(128)] {
            let trace = of(sane.as_bytes());
            assert_eq!((trace.request_id(), trace.given), (sane, true));
        }
        for bad in [&b""[..], b"a b", b"\xff", "i".repeat(129).as_bytes()] {
            let trace = of(bad);
            assert_eq!((trace.request_id().len(), trace.given), (32, false));
        }
        let (one, other) = (Trace::of(&HeaderMap::new()), Trace::of(&HeaderMap::new()));
        assert_ne!(one.request_id(), other.request_id());
    }
}
