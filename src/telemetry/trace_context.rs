//! A place in a trace, as `traceparent` writes it (W3C Trace Context, level 1).
//!
//! It goes with a transaction: from the header of its request to its record, from there to the broker's message, to the
//! spans of whichever worker takes it up, and to the receivers of its webhooks. So it outlives a crash.

use std::fmt;

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, ContextGuard};

use crate::domain::Transaction;

/// The length of `00-<32 digits>-<16 digits>-<2 digits>`.
const LENGTH: usize = 55;

/// A place in a trace: what a span begun there has as its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    parent: u64,
    sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let known = text.get(..LENGTH)?;
        let (version, rest) = known.split_once('-')?;
        let (trace, rest) = rest.split_once('-')?;
        let (parent, flags) = rest.split_once('-')?;
        let lengths = [version, trace, parent, flags].map(str::len);
        let version = digits(version)?;
        // A later version may say more, after another dash.
        let rest = &text[LENGTH..];
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

    /// The place that a transaction came with, if any.
    pub fn of(tx: &Transaction) -> Option<Self> {
        Self::parse(tx.origin.trace.as_deref()?)
    }

    /// Another place in the same trace, of nobody's span.
    pub fn child(self) -> Self {
        Self {
            parent: rand::random_range(1..=u64::MAX),
            ..self
        }
    }

    /// The id of the trace, as 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// Whether whoever began the trace wants it to be collected.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// What is logged on this thread belongs to the trace, until the guard is dropped.
    pub fn enter(self) -> ContextGuard {
        self.as_parent().attach()
    }

    /// For what is begun, or logged, below this place.
    pub(crate) fn as_parent(self) -> Context {
        let flags = TraceFlags::default().with_sampled(self.sampled);
        Context::new().with_remote_span_context(SpanContext::new(
            TraceId::from_bytes(self.trace.to_be_bytes()),
            SpanId::from_bytes(self.parent.to_be_bytes()),
            flags,
            true,
            TraceState::NONE,
        ))
    }
}

/// A span's own place; what is never collected has none.
impl TryFrom<&SpanContext> for TraceContext {
    type Error = ();

    fn try_from(span: &SpanContext) -> Result<Self, ()> {
        let collected = span.is_valid() && span.is_sampled();
        collected.then_some(()).ok_or(())?;
        Ok(Self {
            trace: u128::from_be_bytes(span.trace_id().to_bytes()),
            parent: u64::from_be_bytes(span.span_id().to_bytes()),
            sampled: true,
        })
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
    fn it_is_the_same_to_those_who_collect() {
        let context = TraceContext::parse(GOOD).expect("good");
        let parent = context.as_parent();
        assert_eq!(TraceContext::try_from(parent.span().span_context()), Ok(context));
        let unwanted = TraceContext::parse(&GOOD.replace("-01", "-00")).expect("good");
        let parent = unwanted.as_parent();
        assert_eq!(TraceContext::try_from(parent.span().span_context()), Err(()));
    }
}
