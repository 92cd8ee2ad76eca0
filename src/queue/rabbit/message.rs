//! What is in a message.
//!
//! The body is the id as text, so that a person can read it in the broker's console; all else is for tools:
//! nothing but the id and `announced-at` is ever read back, and a message without the latter is as good.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::domain::{Timestamp, TransactionId};
use crate::telemetry::TraceContext;

/// When it was announced, in milliseconds since 1970: what [`lost_before`](crate::queue::WorkQueue::lost_before)
/// goes by.
const ANNOUNCED_AT: &str = "announced-at";

const PERSISTENT: u8 = 2;

/// What goes with the body.
pub(super) fn properties(id: &str, at: Timestamp, trace: Option<&TraceContext>) -> BasicProperties {
    let mut headers = FieldTable::default();
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    headers.insert(ANNOUNCED_AT.into(), AMQPValue::LongLongInt(millis));
    if let Some(trace) = trace {
        let trace = AMQPValue::LongString(trace.to_string().into());
        headers.insert("traceparent".into(), trace);
    }
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("text/plain".into())
        .with_message_id(ShortString::from(id))
        .with_headers(headers)
}

/// The transaction in a body, if it is one.
pub(super) fn transaction(body: &[u8]) -> Option<TransactionId> {
    std::str::from_utf8(body).ok()?.trim().parse().ok()
}

/// When the message was announced.
pub(super) fn announced_at(properties: &BasicProperties) -> Option<Timestamp> {
    let headers = properties.headers().as_ref()?;
    match headers.inner().get(ANNOUNCED_AT)? {
        AMQPValue::LongLongInt(millis) => u64::try_from(*millis).ok().map(Timestamp::from_millis),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_can_be_read_back() {
        let id = TransactionId::new();
        let at = Timestamp::from_millis(1_767_225_600_007);
        let sent = properties(&id.to_string(), at, None);
        assert_eq!(announced_at(&sent), Some(at));
        assert_eq!(
            sent.message_id().as_ref().map(ShortString::as_str),
            Some(&*id.to_string())
        );
        assert_eq!(transaction(id.to_string().as_bytes()), Some(id));
        for garbage in ["", "hello", "0195", "\u{fffd}"] {
            assert_eq!(transaction(garbage.as_bytes()), None);
        }
        assert_eq!(announced_at(&BasicProperties::default()), None);
    }
}
