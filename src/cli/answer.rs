//! What a gateway answers, as far as the commands look into it.

use std::fmt;

use serde::Deserialize;
use thiserror::Error;

/// Why there is no answer to use.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// The gateway said no.
    #[error("{0}")]
    Refused(Refusal),
    /// No answer came, however often it was tried.
    #[error("no answer from {url} in {tries} tries: {reason}")]
    Unreachable {
        /// The gateway's address.
        url: String,
        /// How often it was tried.
        tries: u32,
        /// What happened the last time.
        reason: String,
    },
    /// The answer is not one that a gateway gives.
    #[error("{url} gave an answer that is not a gateway's: {reason}")]
    Strange {
        /// The gateway's address.
        url: String,
        /// What is odd about it.
        reason: String,
    },
}

/// An RFC 9457 problem, as far as it could be read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    /// HTTP status.
    pub(super) status: u16,
    /// What kind of problem it is.
    pub(super) title: Option<String>,
    /// Stable code, `SG-` and four digits.
    pub(super) code: Option<String>,
    /// What is wrong this time.
    pub(super) detail: Option<String>,
    /// Which fields are at fault.
    pub(super) errors: Vec<FieldError>,
}

/// A field at fault.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FieldError {
    pointer: String,
    detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused ({}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        let reason = self
            .detail
            .as_deref()
            .or(self.title.as_deref())
            .unwrap_or("no reason given");
        write!(f, "): {reason}")?;
        self.errors
            .iter()
            .try_for_each(|error| write!(f, "\n  {}: {}", error.pointer, error.detail))
    }
}

/// What the commands read of a record.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    /// UUIDv7.
    pub(super) id: String,
    /// `pending`, `done` or `failed`.
    pub(super) status: String,
    /// How far a pending one is.
    #[serde(default)]
    pub(super) stage: Option<String>,
    /// Why a failed one failed.
    #[serde(default)]
    pub(super) error: Option<RecordError>,
}

/// Why a transaction failed.
#[derive(Debug, Deserialize)]
pub(super) struct RecordError {
    /// Stable code.
    pub(super) code: String,
}

impl Record {
    /// Whether it will change no more by itself.
    pub(super) fn is_at_rest(&self) -> bool {
        self.status != "pending" || self.stage.as_deref() == Some("parked")
    }
}

/// A record, and the JSON it was sent as.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) record: Record,
    pub(super) json: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_well() {
        let problem = r#"{"type":"t","title":"Unprocessable","status":422,"code":"SG-0007","detail":"two fields are wrong",
            "errors":[{"pointer":"/args/0","detail":"is too long"},{"pointer":"/ledger","detail":"is unknown"}]}"#;
        let refusal: Refusal = serde_json::from_str(problem).expect("valid");
        assert_eq!(
            refusal.to_string(),
            "refused (422 SG-0007): two fields are wrong\n  /args/0: is too long\n  /ledger: is unknown"
        );
        let bare: Refusal = serde_json::from_str(r#"{"status":404}"#).expect("valid");
        assert_eq!(bare.to_string(), "refused (404): no reason given");
    }
}
