//! Which request this is: its own id, and the trace that it belongs to.
//!
//! Every answer carries an `X-Request-Id`: the client's, if it is one that a log can hold, else one made here. A
//! client that takes part in a trace (W3C Trace Context) sends `traceparent`; it is kept for whoever handles the
//! request as the extension [`TraceContext`], and answered with our own place in the trace. A malformed one is passed
//! over, as the standard wants it: a trace is no reason to refuse anybody. Nothing of this outlives the request.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tracing::Span;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request id that is taken over has so many visible ASCII characters at most.
const MAX_REQUEST_ID: usize = 128;
/// The length of `00-<32 digits>-<16 digits>-<2 digits>`.
const TRACEPARENT_LENGTH: usize = 55;

/// The place in a trace from which a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    parent: u64,
    sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let known = text.get(..TRACEPARENT_LENGTH)?;
        let (version, rest) = known.split_once('-')?;
        let (trace, rest) = rest.split_once('-')?;
        let (parent, flags) = rest.split_once('-')?;
        let lengths = [version, trace, parent, flags].map(str::len);
        let version = digits(version)?;
        // A later version may say more, after another dash.
        let rest = &text[TRACEPARENT_LENGTH..];
        let whole = rest.is_empty() || (version > 0 && rest.starts_with('-'));
        if lengths != [2, 32, 16, 2] || version == 0xff || !whole {
            return None;
        }
        let context = Self {
            trace: digits(trace)?,
            parent: u64::try_from(digits(parent)?).ok()?,
            sampled: digits(flags)? & 1 == 1,
        };
        (context.trace != 0 && context.parent != 0).then_some(context)
    }

    /// The next place in the same trace.
    fn child(self) -> Self {
        Self {
            parent: rand::random_range(1..=u64::MAX),
            ..self
        }
    }

    /// The id of the trace, as 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// As a `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace, self.parent)
    }
}

/// Lower-case hexadecimal digits, and nothing else.
fn digits(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    digits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// What is known of a request before anybody has looked at it.
pub(super) struct Trace {
    request_id: HeaderValue,
    /// Whether the client chose the id.
    given: bool,
    context: Option<TraceContext>,
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
            context,
        }
    }

    pub(super) fn context(&self) -> Option<TraceContext> {
        self.context
    }

    /// What is logged meanwhile names the request. A span costs more than all else that is done about one, so a
    /// request whose client looks for nothing has none, unless the log shows details.
    pub(super) fn span(&self) -> Span {
        let id = self.request_id();
        match self.context {
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
        headers.insert(REQUEST_ID, self.request_id);
        let ours = self.context.map(|context| context.child().to_string());
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

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_continued() {
        let context = TraceContext::parse(GOOD).expect("good");
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        let child = context.child();
        assert_eq!((child.trace, child.sampled), (context.trace, true));
        assert_ne!(child.parent, context.parent);
        assert_eq!(TraceContext::parse(&child.to_string()), Some(child));
        // Flags that this version does not know are not passed on; what a later version adds is passed over.
        let later = GOOD.replacen("00-", "cc-", 1).replace("-01", "-fe-more");
        let later = TraceContext::parse(&later).expect("of a later version");
        assert_eq!(later.to_string(), GOOD.replace("-01", "-00"));
    }

    #[test]
    fn what_is_no_traceparent_is_passed_over() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &format!("{GOOD}-"),
            &format!("{GOOD}0"),
            &GOOD.replacen("00-", "cc-", 1).replace("-01", "-01more"),
            &GOOD.replacen("00-", "ff-", 1),
            &GOOD.replacen("00-", "0g-", 1),
            &GOOD.replace('-', "_"),
            &GOOD.replacen("00-0", "000-", 1),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b71692033+1-01",
            "00-0af7651916cd43dd8448eb211c8031é-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

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
