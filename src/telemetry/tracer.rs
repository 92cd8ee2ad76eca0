//! Spans: what a transaction took, step by step, for those who collect traces.
//!
//! A gateway that pushes no traces has a [`Tracer`] that does nothing. Spans wait in memory until they are pushed: a crash
//! loses them, a full buffer drops them, and nothing waits for either. The trace itself goes on, as its place is in the record.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Span as _, SpanBuilder, Status, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SdkTracer;

use super::trace_context::TraceContext;
use crate::domain::{Timestamp, Transaction};

pub use opentelemetry::trace::SpanKind;

/// Begins spans.
#[derive(Clone, Default)]
pub struct Tracer(Option<SdkTracer>);

/// Something that takes time; ends when it is dropped.
#[derive(Default)]
pub struct Span(Option<opentelemetry_sdk::trace::Span>);

/// A span that is over.
pub struct PastSpan<'s> {
    /// Its name, of few.
    pub name: &'static str,
    /// Which side of what it is.
    pub kind: SpanKind,
    /// When it began.
    pub from: Timestamp,
    /// When it ended.
    pub to: Timestamp,
    /// Why it failed, if it did: a code, of few.
    pub error: Option<&'s str>,
}

impl Tracer {
    pub(super) fn new(tracer: SdkTracer) -> Self {
        Self(Some(tracer))
    }

    /// Whether spans are collected at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Where a transaction's steps belong to, if they are collected.
    pub fn place_of(&self, tx: &Transaction) -> Option<TraceContext> {
        self.0.as_ref()?;
        TraceContext::of(tx).filter(TraceContext::is_sampled)
    }

    /// Begins a span below `parent`; without one, with a new trace, which may be passed over: [`Span::place`] says so.
    pub fn start(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        parent: Option<TraceContext>,
    ) -> Span {
        let Some(tracer) = &self.0 else {
            return Span(None);
        };
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        let parent = parent.map_or_else(Context::new, TraceContext::as_parent);
        Span(Some(tracer.build_with_context(builder, &parent)))
    }

    /// Notes a step of `tx` that is over, below `parent`.
    pub fn note(&self, step: PastSpan<'_>, tx: &Transaction, parent: TraceContext) {
        let Some(tracer) = &self.0 else {
            return;
        };
        let attempt = tx.history.last();
        let tx_id = attempt.and_then(|attempt| attempt.tx_id.as_ref());
        let mut attributes = of(tx).to_vec();
        attributes.push(KeyValue::new("sluicegate.attempt", i64::from(tx.attempts)));
        attributes.extend(tx_id.map(|id| KeyValue::new("sluicegate.ledger.tx_id", id.to_string())));
        let builder = SpanBuilder::from_name(step.name)
            .with_kind(step.kind)
            .with_start_time(moment(step.from))
            .with_attributes(attributes);
        let mut span = tracer.build_with_context(builder, &parent.as_parent());
        if let Some(code) = step.error {
            span.set_status(Status::error(code.to_owned()));
        }
        span.end_with_timestamp(moment(step.to));
    }
}

impl Span {
    /// Where it is; `None` if it is not collected.
    pub fn place(&self) -> Option<TraceContext> {
        TraceContext::try_from(self.0.as_ref()?.span_context()).ok()
    }

    /// Says something about it.
    pub fn set(&mut self, attribute: KeyValue) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(attribute);
        }
    }

    /// Says whose step it is.
    pub fn is_of(&mut self, tx: &Transaction) {
        if let Some(span) = &mut self.0 {
            span.set_attributes(of(tx));
        }
    }

    /// It failed: a code or a sentence, without anything secret.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(why));
        }
    }
}

fn of(tx: &Transaction) -> [KeyValue; 2] {
    [
        KeyValue::new("sluicegate.transaction.id", tx.id.to_string()),
        KeyValue::new("sluicegate.ledger", tx.request.ledger.to_string()),
    ]
}

fn moment(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(at.as_millis())
}
