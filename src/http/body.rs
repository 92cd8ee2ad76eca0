//! Reading a JSON body: bounded in size, in time and in depth, with the field at fault named.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use utoipa::ToSchema;

use super::error::{ApiError, Code};
use super::openapi::schemas::{CallName, ConflictKey, Labels, Transient};
use crate::domain::{Argument, LedgerName, Request, Timestamp};
use crate::gateway::{FieldError, Gateway, Query};

/// How large a body may be, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

// Fields that have to be there are optional here, so that all that are missing can be told.

/// A contract call that shall take effect on a ledger, once.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
#[schema(as = Submission)]
pub(crate) struct SubmitBody {
    /// The ledger it is for.
    #[schema(value_type = LedgerName)]
    ledger: Option<String>,
    /// The contract (chaincode). May be left out if the ledger has a `default_contract`.
    #[schema(value_type = Option<CallName>)]
    contract: Option<String>,
    /// The function of that contract.
    #[schema(value_type = CallName)]
    function: Option<String>,
    /// The arguments in order.
    #[serde(default)]
    #[schema(max_items = 1_000)]
    args: Vec<Argument>,
    /// Private inputs that ledgers such as Fabric keep off the chain. Never shown, and forgotten once it is done.
    #[serde(default, deserialize_with = "unique_names")]
    #[schema(value_type = Transient)]
    transient: BTreeMap<String, String>,
    /// A hint: the keys it is expected to write.
    #[serde(default)]
    #[schema(value_type = Vec<ConflictKey>, max_items = 64)]
    conflict_keys: Vec<String>,
    /// It fails as `expired` if it was not submitted to the ledger after so many seconds.
    #[schema(minimum = 1, maximum = 31_622_400)]
    expires_in_seconds: Option<u32>,
    /// It is not submitted to the ledger before this moment.
    #[serde(default, deserialize_with = "moment")]
    not_before: Option<Timestamp>,
    /// Who is told when it has settled.
    callback_url: Option<String>,
    /// The caller's own labels, shown and searchable, never sent to the ledger.
    #[serde(default, deserialize_with = "unique_names")]
    #[schema(value_type = Labels)]
    metadata: BTreeMap<String, String>,
    /// Only in a batch, where one header cannot serve all.
    #[schema(ignore)]
    idempotency_key: Option<String>,
}

/// A contract call that only reads.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
#[schema(as = Query)]
pub(crate) struct QueryBody {
    /// The ledger to ask.
    #[schema(value_type = LedgerName)]
    ledger: Option<String>,
    /// The contract (chaincode). May be left out if the ledger has a `default_contract`.
    #[schema(value_type = Option<CallName>)]
    contract: Option<String>,
    /// The function of that contract.
    #[schema(value_type = CallName)]
    function: Option<String>,
    /// The arguments in order.
    #[serde(default)]
    #[schema(max_items = 1_000)]
    args: Vec<Argument>,
}

/// The three names that every call has, or which of them are missing. A contract that is left out is the
/// ledger's default: put in here, so that from here on it is the same request as one that names it (I5).
fn call(
    gateway: &Gateway,
    ledger: Option<String>,
    contract: Option<String>,
    function: Option<String>,
) -> Result<(String, String, String), ApiError> {
    let default = || Some(gateway.default_contract(ledger.as_deref()?)?.to_owned());
    let contract = contract.or_else(default);
    match (ledger, contract, function) {
        (Some(ledger), Some(contract), Some(function)) => Ok((ledger, contract, function)),
        (ledger, contract, function) => {
            let there = [
                ("/ledger", ledger.is_some()),
                ("/contract", contract.is_some()),
                ("/function", function.is_some()),
            ];
            let missing = there.into_iter().filter(|(_, there)| !there);
            let faults = missing.map(|(pointer, _)| FieldError {
                pointer: pointer.to_owned(),
                detail: match pointer {
                    "/contract" => "is missing, and the ledger has no default_contract".to_owned(),
                    _ => "is missing".to_owned(),
                },
            });
            Err(ApiError::fields(Code::InvalidFields, faults.collect()))
        }
    }
}

impl QueryBody {
    /// The ledger's name, and what to ask it.
    pub(crate) fn into_query(self, gateway: &Gateway) -> Result<(String, Query), ApiError> {
        let (ledger, contract, function) = call(gateway, self.ledger, self.contract, self.function)?;
        let query = Query {
            contract,
            function,
            args: self.args,
        };
        Ok((ledger, query))
    }
}

/// Reads an object of strings and refuses a name that comes twice: one of its values would be lost unseen.
fn unique_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((name, value)) = access.next_entry()? {
                if let Some(_lost) = map.insert(name, value) {
                    return Err(A::Error::custom("has a duplicate name"));
                }
            }
            Ok(map)
        }
    }

    deserializer.deserialize_map(Names)
}

/// Reads an RFC 3339 moment.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let wrong = || D::Error::custom("must be a moment such as 2026-01-31T12:00:00Z");
    Timestamp::parse_rfc3339(&text).map(Some).ok_or_else(wrong)
}

impl SubmitBody {
    /// The idempotency key of an item of a batch.
    pub(crate) fn take_key(&mut self) -> Option<String> {
        self.idempotency_key.take()
    }

    pub(crate) fn into_request(self, gateway: &Gateway) -> Result<Request, ApiError> {
        let (ledger, contract, function) = call(gateway, self.ledger, self.contract, self.function)?;
        let Some(ledger) = LedgerName::new(&ledger) else {
            let detail = format!("there is no ledger {ledger:?}; GET /v1/ledgers lists those there are");
            return Err(ApiError::field(Code::InvalidFields, "/ledger", detail));
        };
        Ok(Request {
            ledger,
            contract,
            function,
            args: self.args,
            transient: self.transient,
            conflict_keys: self.conflict_keys,
            expires_in_seconds: self.expires_in_seconds,
            not_before: self.not_before,
            callback_url: self.callback_url,
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
    is_plain(headers)?;
    if !is_json(headers) {
        return Err(ApiError::new(
            Code::NotJson,
            "send the body with `Content-Type: application/json`",
        ));
    }
    parse(&read(body, limits).await?)
}

/// Refuses what is compressed: it would have to be unpacked within bounds of its own.
pub(super) fn is_plain(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(coding) if coding != "identity" => Err(ApiError::new(
            Code::NotJson,
            "the body is compressed (Content-Encoding), which is not understood here; send it as it is",
        )),
        _ => Ok(()),
    }
}

/// Refuses a body where there is nothing to say; an empty one, or an empty object, is none.
pub(super) async fn read_nothing(body: Body, limits: BodyLimits) -> Result<(), ApiError> {
    let bytes = read(body, limits).await?;
    match bytes.trim_ascii() {
        b"" | b"{}" => Ok(()),
        _ => Err(ApiError::field(
            Code::InvalidFields,
            "",
            "has to be left out: there is nothing to say here",
        )),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|essence| {
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

/// What the body is declared as, parameters aside, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let declared = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(declared.split(';').next()?.trim().to_ascii_lowercase())
}

pub(super) async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            Code::BodyTooLarge,
            format!(
                "the body may have {} bytes at most (http.max_body_bytes)",
                limits.bytes
            ),
        )
    };
    // A declared length needs no reading to be refused.
    if body.size_hint().lower() > limits.bytes as u64 {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(limits.time, Limited::new(body, limits.bytes).collect());
    match collected.await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
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

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::new(Code::MalformedJson, "the body is empty"));
    }
    // Derived code would take an array too, as the fields in the order in which they happen to be declared.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => ApiError::field(
                Code::InvalidFields,
                "",
                "is an array, but has to be a JSON object",
            ),
            Err(error) => ApiError::new(Code::MalformedJson, error.to_string()),
        });
    }
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
    ApiError::field(Code::InvalidFields, path, plain_words(&error.to_string()))
}

/// Numbers are called what they are called outside this program.
fn plain_words(words: &str) -> String {
    let mut words = words.to_owned();
    for (name, plain) in [
        ("u64", "a whole number, 0 or more"),
        ("u32", "a whole number, 0 or more"),
        ("f64", "a number"),
    ] {
        words = words.replace(&format!("expected {name}"), &format!("expected {plain}"));
    }
    words
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
