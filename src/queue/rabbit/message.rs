//! What is in a message.
//!
//! The body is the id as text, so that a person can read it in the broker's console; all else is for tools:
//! nothing but the id and `announced-at` is ever read back, and a message without the latter is as good.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::domain::{Timestamp, TransactionId};

/// When it was announced, in milliseconds since 1970: what [`lost_before`](crate::queue::WorkQueue::lost_before)
/// goes by.
const ANNOUNCED_AT: &str = "announced-at";

const PERSISTENT: u8 = 2;

/// What goes with the body.
pub(super) fn properties(id: &str, transaction: &TransactionId, at: Timestamp) -> BasicProperties {
    let mut headers = FieldTable::default();
    let millis = i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
    headers.insert(ANNOUNCED_AT.into(), AMQPValue::LongLongInt(millis));
    headers.insert(
        "traceparent".into(),
        AMQPValue::LongString(trace_parent(transaction).into()),
    );
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

/// W3C trace context: all that happens to a transaction is one trace, whose id is the transaction's.
fn trace_parent(transaction: &TransactionId) -> String {
    let mut text = String::with_capacity(55);
    text.push_str("00-");
    push_hex(&mut text, transaction.as_bytes());
    text.push('-');
    // Zero would be invalid.
    push_hex(&mut text, &rand::random::<u64>().max(1).to_be_bytes());
    text.push_str("-01");
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_can_be_read_back() {
        let id = TransactionId::new();
        let at = Timestamp::from_millis(1_767_225_600_007);
        let sent = properties(&id.to_string(), &id, at);
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

    #[test]
    fn the_trace_is_the_transactions() {
        let id = TransactionId::new();
        let text = trace_parent(&id);
        let parts: Vec<&str> = text.split('-').collect();
        assert_eq!(parts[0], "00");
        assert_eq!(parts[1], id.to_string().replace('-', ""));
        assert_eq!(parts[2].len(), 16);
        assert_ne!(parts[2], "0000000000000000");
        assert_eq!(text.len(), 55);
    }
}
