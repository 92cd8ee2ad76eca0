//! Reading a JSON body: bounded in size, in time and in depth, with the field at fault named.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::error::{ApiError, Code};
use crate::domain::{Argument, LedgerName, Request};
use crate::gateway::Gateway;

/// How large a body may be, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

/// A transaction as a client sends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SubmitBody {
    ledger: String,
    contract: String,
    function: String,
    #[serde(default)]
    args: Vec<Argument>,
    #[serde(default)]
    transient: BTreeMap<String, String>,
    #[serde(default)]
    conflict_keys: Vec<String>,
    expires_in_seconds: Option<u32>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// A query as a client sends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueryBody {
    pub(crate) ledger: String,
    pub(crate) contract: String,
    pub(crate) function: String,
    #[serde(default)]
    pub(crate) args: Vec<Argument>,
}

impl SubmitBody {
    pub(crate) fn into_request(self, gateway: &Gateway) -> Result<Request, ApiError> {
        let Some(ledger) = LedgerName::new(&self.ledger) else {
            return Err(ApiError::fields(
                Code::InvalidFields,
                vec![gateway.unknown_ledger(&self.ledger)],
            ));
        };
        Ok(Request {
            ledger,
            contract: self.contract,
            function: self.function,
            args: self.args,
            transient: self.transient,
            conflict_keys: self.conflict_keys,
            expires_in_seconds: self.expires_in_seconds,
            metadata: self.metadata,
        })
    }
}

/// Reads and parses a body.
pub(crate) async fn read_json<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Body,
    limits: BodyLimits,
) -> Result<T, ApiError> {
    if !is_json(headers) {
        return Err(ApiError::new(
            Code::NotJson,
            "send the body with `Content-Type: application/json`",
        ));
    }
    let bytes = read(body, limits).await?;
    // A derived parser would take a list of values in the order of the fields, too.
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => Err(ApiError::new(Code::MalformedJson, "the body is empty")),
        Some(b'[') => Err(ApiError::field(
            Code::InvalidFields,
            "",
            "must be a JSON object, not a list",
        )),
        Some(_) => parse(&bytes),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let declared = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = declared.map(|text| {
        text.split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase()
    });
    essence.is_some_and(|essence| {
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, ApiError> {
    let collected = tokio::time::timeout(limits.time, Limited::new(body, limits.bytes).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::new(
            Code::BodyTooLarge,
            format!(
                "the body may have {} bytes at most (http.max_body_bytes)",
                limits.bytes
            ),
        )),
        Ok(Err(error)) => Err(ApiError::new(
            Code::MalformedJson,
            format!("the body broke off: {error}"),
        )),
        Err(_) => Err(ApiError::new(
            Code::BodyTooSlow,
            format!(
                "the body did not arrive within {} s (http.body_timeout_ms)",
                limits.time.as_secs_f32()
            ),
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => field_error::<T>(bytes, &error),
        Category::Syntax | Category::Eof | Category::Io => {
            ApiError::new(Code::MalformedJson, error.to_string())
        }
    })
}

/// Parses once more, slower, to learn which field is at fault.
fn field_error<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> ApiError {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let path = match serde_path_to_error::deserialize::<_, T>(&mut json) {
        Ok(_) => String::new(),
        Err(error) => pointer(error.path()),
    };
    let detail = match path.as_str() {
        "/callback_url" => {
            "this version sends no webhooks; leave it out and poll the Location, or wait with Prefer: wait=N"
                .to_owned()
        }
        _ => error.to_string(),
    };
    ApiError::field(Code::InvalidFields, path, detail)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Map { key } => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => pointer.push_str(variant),
            Segment::Unknown => pointer.push('?'),
        }
    }
    pointer
}
