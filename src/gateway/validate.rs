//! What can be known to be wrong with a request before it is stored. All faults are told at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::domain::{Argument, LedgerName, Request, Timestamp};
use crate::ledger::Query;
use crate::worker::Lane;

const MAX_ARGS: usize = 1_000;
const MAX_NAME: usize = 128;
const MAX_TRANSIENT: usize = 64;
const MAX_CONFLICT_KEYS: usize = 64;
const MAX_CONFLICT_KEY: usize = 256;
const MAX_LABELS: usize = 32;
const MAX_LABEL_KEY: usize = 64;
const MAX_LABEL_VALUE: usize = 512;
const MAX_EXPIRY_SECONDS: u32 = 366 * 24 * 3_600;
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// A field at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// JSON Pointer into the body, or `#header/NAME`.
    pub pointer: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

struct Faults(Vec<FieldError>);

impl Faults {
    fn require(&mut self, holds: bool, pointer: impl Into<String>, detail: impl FnOnce() -> String) {
        if !holds {
            self.0.push(FieldError {
                pointer: pointer.into(),
                detail: detail(),
            });
        }
    }

    /// What submissions and queries have in common.
    fn check_call(&mut self, contract: &str, function: &str, args: &[Argument]) {
        for (pointer, name) in [("/contract", contract), ("/function", function)] {
            let printable = !name.chars().any(char::is_control);
            self.require((1..=MAX_NAME).contains(&name.len()) && printable, pointer, || {
                format!("must be 1 to {MAX_NAME} bytes without control characters")
            });
        }
        self.require(args.len() <= MAX_ARGS, "/args", || {
            format!("has {} arguments; at most {MAX_ARGS} are allowed", args.len())
        });
    }
}

/// Checks everything about a query.
pub(super) fn validate_query(query: &Query) -> Result<(), Vec<FieldError>> {
    let mut faults = Faults(Vec::new());
    faults.check_call(&query.contract, &query.function, &query.args);
    if faults.0.is_empty() {
        Ok(())
    } else {
        Err(faults.0)
    }
}

/// Checks everything about a request. Answers its lane. A name that no lane has is told with those that whoever asks `sees`.
pub(super) fn validate<'a>(
    request: &Request,
    key: Option<&str>,
    now: Timestamp,
    lanes: &'a BTreeMap<LedgerName, Arc<Lane>>,
    sees: impl Fn(&LedgerName) -> bool,
) -> Result<&'a Arc<Lane>, Vec<FieldError>> {
    let mut faults = Faults(Vec::new());
    faults.check_call(&request.contract, &request.function, &request.args);
    faults.require(request.transient.len() <= MAX_TRANSIENT, "/transient", || {
        format!(
            "has {} entries; at most {MAX_TRANSIENT} are allowed",
            request.transient.len()
        )
    });
    for (name, value) in &request.transient {
        faults.require(STANDARD.decode(value).is_ok(), pointer("transient", name), || {
            "must be base64 with padding (RFC 4648, section 4)".to_owned()
        });
    }
    faults.require(
        request.conflict_keys.len() <= MAX_CONFLICT_KEYS,
        "/conflict_keys",
        || {
            format!(
                "has {} keys; at most {MAX_CONFLICT_KEYS} are allowed",
                request.conflict_keys.len()
            )
        },
    );
    for (number, key) in request.conflict_keys.iter().enumerate() {
        let fits = (1..=MAX_CONFLICT_KEY).contains(&key.len());
        faults.require(fits, format!("/conflict_keys/{number}"), || {
            format!("must be 1 to {MAX_CONFLICT_KEY} bytes")
        });
    }
    let in_range = |seconds: u32| (1..=MAX_EXPIRY_SECONDS).contains(&seconds);
    faults.require(
        request.expires_in_seconds.is_none_or(in_range),
        "/expires_in_seconds",
        || format!("must be 1 to {MAX_EXPIRY_SECONDS} (366 days); leave it out for no deadline"),
    );
    // The earliest it could settle: past its deadline it would never be submitted.
    let in_time = match (request.not_before, request.expires_in_seconds) {
        (Some(not_before), Some(seconds)) => not_before.since(now) < Duration::from_secs(seconds.into()),
        _ => true,
    };
    faults.require(in_time, "/not_before", || {
        "is not before its deadline (expires_in_seconds), so it could never be submitted".to_owned()
    });
    let soon = |moment: Timestamp| moment.since(now) <= Duration::from_secs(MAX_EXPIRY_SECONDS.into());
    faults.require(request.not_before.is_none_or(soon), "/not_before", || {
        "may be 366 days from now at most".to_owned()
    });
    faults.require(request.metadata.len() <= MAX_LABELS, "/metadata", || {
        format!(
            "has {} labels; at most {MAX_LABELS} are allowed",
            request.metadata.len()
        )
    });
    for (label, value) in &request.metadata {
        // Characters, not bytes: that is what JSON Schema counts, which tells clients of these bounds.
        let (name, text) = (label.chars().count(), value.chars().count());
        let fits = (1..=MAX_LABEL_KEY).contains(&name) && text <= MAX_LABEL_VALUE;
        faults.require(fits, pointer("metadata", label), || {
            format!(
                "a label has a name of 1 to {MAX_LABEL_KEY} characters and a value of at most {MAX_LABEL_VALUE}"
            )
        });
    }
    if let Some(key) = key {
        let visible = key.bytes().all(|c| c.is_ascii_graphic());
        faults.require(
            visible && (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()),
            "#header/Idempotency-Key",
            || format!("must be 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters"),
        );
    }
    let lane = lanes.get(&request.ledger);
    if lane.is_none() {
        let seen = lanes.keys().filter(|name| sees(name));
        faults.0.push(unknown_ledger(request.ledger.as_str(), seen));
    }
    // What the ledger itself knows is only worth asking once the names have their form.
    if faults.0.is_empty()
        && let Some(Err(fault)) = lane.map(|lane| lane.ledger().check(request))
    {
        faults.require(false, fault.pointer, || fault.detail);
    }
    match lane {
        Some(lane) if faults.0.is_empty() => Ok(lane),
        _ => Err(faults.0),
    }
}

/// The fault of a ledger name that no lane has.
pub(super) fn unknown_ledger<'a>(name: &str, known: impl Iterator<Item = &'a LedgerName>) -> FieldError {
    let known: Vec<_> = known.map(LedgerName::as_str).collect();
    FieldError {
        pointer: "/ledger".to_owned(),
        detail: format!("there is no ledger \"{name}\"; configured: {}", known.join(", ")),
    }
}

/// `/field/name` with the escapes of RFC 6901.
fn pointer(field: &str, name: &str) -> String {
    format!("/{field}/{}", name.replace('~', "~0").replace('/', "~1"))
}
