//! The only error that becomes a response: an RFC 9457 problem with a stable code (I10).
//!
//! Every code has a page, `docs/errors/<code>.md`, with cause and remedy; a test holds the two together.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::TransactionId;
use crate::gateway::{
    ActionRefusal, FieldError, QueryError, QueryRefusal, Refusal, SteerRefusal, TenantRefusal,
};
use crate::store::StoreError;

/// A kind of problem. Its number never changes and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The body is not JSON.
    MalformedJson,
    /// Fields are missing, unknown, of the wrong type or out of range.
    InvalidFields,
    /// The idempotency key came with another request before.
    KeyReused,
    /// There is no such transaction.
    NoTransaction,
    /// There is no such route.
    NoRoute,
    /// The route does not know this method.
    WrongMethod,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The body is not declared as JSON.
    NotJson,
    /// A header or a query parameter is wrong.
    InvalidParameter,
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The backlog limit is reached.
    BacklogFull,
    /// The store cannot be written or read now.
    StoreUnavailable,
    /// What is stored is damaged.
    StoreDamaged,
    /// The contract or the ledger refused a query.
    QueryRejected,
    /// The ledger cannot be asked now.
    LedgerUnavailable,
    /// There is no such ledger.
    NoLedger,
    /// A defect of the gateway.
    Internal,
    /// There are no credentials, or they do not count.
    Unauthorized,
    /// The tenant is faster than it may be.
    TenantTooFast,
    /// The tenant has as many unsettled transactions as it may.
    TenantFull,
    /// Too many wrong credentials came from this address.
    TooManyTries,
    /// There is no such key.
    NoKey,
    /// The tenant may not use this ledger or contract.
    NotForTenant,
    /// The credentials lack a scope.
    Forbidden,
    /// The transaction is not in a state in which this can be done.
    NotNow,
    /// As many event streams are open as may be.
    TooManyStreams,
    /// There is no such webhook or delivery.
    NoWebhook,
    /// The process is about to stop.
    Leaving,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 28] = [
        Self::MalformedJson,
        Self::InvalidFields,
        Self::KeyReused,
        Self::NoTransaction,
        Self::NoRoute,
        Self::WrongMethod,
        Self::BodyTooLarge,
        Self::NotJson,
        Self::InvalidParameter,
        Self::BodyTooSlow,
        Self::BacklogFull,
        Self::StoreUnavailable,
        Self::StoreDamaged,
        Self::QueryRejected,
        Self::LedgerUnavailable,
        Self::NoLedger,
        Self::Internal,
        Self::Unauthorized,
        Self::TenantTooFast,
        Self::TenantFull,
        Self::TooManyTries,
        Self::NoKey,
        Self::NotForTenant,
        Self::Forbidden,
        Self::NotNow,
        Self::TooManyStreams,
        Self::NoWebhook,
        Self::Leaving,
    ];

    /// The code as clients see it, its HTTP status and its title.
    pub fn parts(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::MalformedJson => ("SG-0001", S::BAD_REQUEST, "The body is not valid JSON"),
            Self::InvalidFields => ("SG-0002", S::UNPROCESSABLE_ENTITY, "Fields are not acceptable"),
            Self::KeyReused => (
                "SG-0003",
                S::UNPROCESSABLE_ENTITY,
                "The idempotency key belongs to another request",
            ),
            Self::NoTransaction => ("SG-0004", S::NOT_FOUND, "There is no such transaction"),
            Self::NoRoute => ("SG-0005", S::NOT_FOUND, "There is nothing at this address"),
            Self::WrongMethod => (
                "SG-0006",
                S::METHOD_NOT_ALLOWED,
                "This address does not know the method",
            ),
            Self::BodyTooLarge => ("SG-0007", S::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::NotJson => ("SG-0008", S::UNSUPPORTED_MEDIA_TYPE, "The body must be JSON"),
            Self::InvalidParameter => (
                "SG-0009",
                S::BAD_REQUEST,
                "A header or query parameter is not acceptable",
            ),
            Self::BodyTooSlow => ("SG-0010", S::REQUEST_TIMEOUT, "The body did not arrive in time"),
            Self::BacklogFull => ("SG-0011", S::SERVICE_UNAVAILABLE, "The backlog is full"),
            Self::StoreUnavailable => ("SG-0012", S::SERVICE_UNAVAILABLE, "The store is unavailable"),
            Self::StoreDamaged => ("SG-0013", S::INTERNAL_SERVER_ERROR, "The store is damaged"),
            Self::QueryRejected => ("SG-0014", S::UNPROCESSABLE_ENTITY, "The ledger refused the query"),
            Self::LedgerUnavailable => ("SG-0015", S::SERVICE_UNAVAILABLE, "The ledger is unavailable"),
            Self::NoLedger => ("SG-0016", S::NOT_FOUND, "There is no such ledger"),
            Self::Internal => ("SG-0017", S::INTERNAL_SERVER_ERROR, "A defect of the gateway"),
            Self::Unauthorized => ("SG-0018", S::UNAUTHORIZED, "Credentials are needed"),
            Self::TenantTooFast => ("SG-0020", S::TOO_MANY_REQUESTS, "Too many requests"),
            Self::TenantFull => ("SG-0021", S::TOO_MANY_REQUESTS, "The tenant's backlog is full"),
            Self::TooManyTries => ("SG-0022", S::TOO_MANY_REQUESTS, "Too many failed tries"),
            Self::NoKey => ("SG-0025", S::NOT_FOUND, "There is no such key"),
            Self::NotForTenant => (
                "SG-0029",
                S::FORBIDDEN,
                "The tenant may not use this ledger or contract",
            ),
            Self::Forbidden => ("SG-0019", S::FORBIDDEN, "The credentials do not allow it"),
            Self::NotNow => ("SG-0023", S::CONFLICT, "The state does not allow it"),
            Self::TooManyStreams => ("SG-0026", S::SERVICE_UNAVAILABLE, "Too many event streams"),
            Self::Leaving => ("SG-0030", S::SERVICE_UNAVAILABLE, "The process is about to stop"),
            Self::NoWebhook => ("SG-0024", S::NOT_FOUND, "There is no such webhook or delivery"),
        }
    }
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: Code,
    detail: String,
    fields: Vec<FieldError>,
    retry_after: Option<Duration>,
    /// Another item of its batch is at fault.
    withheld: bool,
}

/// A refusal (RFC 9457). Decide by `code`, which keeps its meaning for ever.
#[derive(Serialize, ToSchema)]
pub(crate) struct Problem<'a> {
    /// `urn:sluicegate:error:` and the code.
    r#type: String,
    /// What kind of problem it is; always the same for a code.
    title: &'a str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub(super) status: u16,
    /// The code.
    #[schema(pattern = "^SG-[0-9]{4}$")]
    code: &'a str,
    /// What is wrong this time, for a person; its wording may change.
    detail: &'a str,
    /// The fields at fault, if it is about fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemField<'a>>,
}

/// A field at fault.
#[derive(Serialize, ToSchema)]
struct ProblemField<'a> {
    /// JSON Pointer (RFC 6901) into the body, `#query/NAME` or `#header/NAME`.
    pointer: &'a str,
    /// What is wrong with it, and what would be right.
    detail: &'a str,
}

impl ApiError {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            fields: Vec::new(),
            retry_after: None,
            withheld: false,
        }
    }

    pub(crate) fn field(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(
            code,
            vec![FieldError {
                pointer: pointer.into(),
                detail: detail.into(),
            }],
        )
    }

    pub(crate) fn fields(code: Code, fields: Vec<FieldError>) -> Self {
        let detail = match fields.as_slice() {
            [one] if one.pointer.is_empty() => format!("the body: {}", one.detail),
            [one] => format!("{}: {}", one.pointer, one.detail),
            many => format!("{} fields are wrong; see errors", many.len()),
        };
        Self {
            code,
            detail,
            fields,
            retry_after: None,
            withheld: false,
        }
    }

    /// Whether the request is at fault, and would be as well tomorrow.
    pub(super) fn blames_the_client(&self) -> bool {
        let (_, status, _) = self.code.parts();
        status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
    }

    /// Whether it is good, but for others of its batch.
    pub(super) fn is_withheld(&self) -> bool {
        self.withheld
    }

    /// The fields at fault, below `prefix`.
    pub(super) fn into_fields(self, prefix: &str) -> Vec<FieldError> {
        if self.fields.is_empty() {
            let (pointer, detail) = (prefix.to_owned(), self.detail);
            return vec![FieldError { pointer, detail }];
        }
        let below = |field: FieldError| FieldError {
            pointer: match field.pointer.starts_with('#') {
                // An item's key may come from the batch's header.
                true => format!("{prefix}/idempotency_key"),
                false => format!("{prefix}{}", field.pointer),
            },
            detail: field.detail,
        };
        self.fields.into_iter().map(below).collect()
    }

    /// What the client is shown.
    pub(super) fn problem(&self) -> Problem<'_> {
        let (code, status, title) = self.code.parts();
        Problem {
            r#type: format!("urn:sluicegate:error:{code}"),
            title,
            status: status.as_u16(),
            code,
            detail: &self.detail,
            errors: self
                .fields
                .iter()
                .map(|field| ProblemField {
                    pointer: &field.pointer,
                    detail: &field.detail,
                })
                .collect(),
        }
    }

    /// Says more, if it is this problem.
    pub(super) fn advise(mut self, about: Code, words: &str) -> Self {
        if self.code == about {
            self.detail.push_str(words);
        }
        self
    }

    pub(crate) fn later(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        // The engine's own words go to the log, not to the client, and trouble with the disk is reported
        // where it begins and ends, not with every request.
        tracing::debug!(%error, "a request failed");
        match error {
            StoreError::Unavailable(_) => Self::new(
                Code::StoreUnavailable,
                "the gateway cannot write to, or read from, its store now; repeat the request later, with the same Idempotency-Key",
            )
            .later(Duration::from_secs(2)),
            StoreError::Damaged(_) => {
                tracing::error!(%error, "run `sluicegate store check`");
                let detail = "a stored record cannot be read; the operator has to run `sluicegate store check`";
                Self::new(Code::StoreDamaged, detail)
            }
        }
    }
}

impl From<SteerRefusal> for ApiError {
    fn from(refusal: SteerRefusal) -> Self {
        match refusal {
            SteerRefusal::Missing => Self::new(Code::NoLedger, "there is no such ledger"),
            SteerRefusal::Invalid(fields) => Self::fields(Code::InvalidFields, fields),
            SteerRefusal::Store(error) => error.into(),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(fields) => Self::fields(Code::InvalidFields, fields),
            Refusal::KeyReused(id) => Self::field(
                Code::KeyReused,
                "#header/Idempotency-Key",
                format!("was sent before with a different request, which is transaction {id}; use a new key for a new request"),
            ),
            Refusal::BacklogFull { max_pending, retry_after } => Self::new(
                Code::BacklogFull,
                format!("{max_pending} transactions wait, which is all that the operator allows (backpressure.max_pending); nothing was stored, repeat the request later"),
            )
            .later(retry_after),
            Refusal::Tenant(refusal) => refusal.into(),
            Refusal::Withheld => Self {
                withheld: true,
                ..Self::new(Code::InvalidFields, "another item of the batch is not acceptable")
            },
            Refusal::Store(error) => error.into(),
        }
    }
}

impl From<(TransactionId, ActionRefusal)> for ApiError {
    fn from((id, refusal): (TransactionId, ActionRefusal)) -> Self {
        match refusal {
            ActionRefusal::Missing => super::transactions::missing(id),
            ActionRefusal::NotNow(why) => Self::new(Code::NotNow, why),
            ActionRefusal::Refused(refusal) => refusal.into(),
            ActionRefusal::Store(error) => error.into(),
        }
    }
}

impl From<TenantRefusal> for ApiError {
    fn from(refusal: TenantRefusal) -> Self {
        match refusal {
            TenantRefusal::NotAllowed(why) => Self::new(Code::NotForTenant, why),
            TenantRefusal::TooFast(wait) => Self::new(
                Code::TenantTooFast,
                "the tenant has more requests per second than it may (tenants.NAME.rate_per_second); nothing was done, repeat the request later",
            )
            .later(wait),
            TenantRefusal::Full { max_pending, retry_after } => Self::new(
                Code::TenantFull,
                format!("{max_pending} transactions of the tenant wait, which is all that it may have (tenants.NAME.max_pending); nothing was stored, repeat the request later"),
            )
            .later(retry_after),
        }
    }
}

impl From<QueryRefusal> for ApiError {
    fn from(refusal: QueryRefusal) -> Self {
        match refusal {
            QueryRefusal::Invalid(fields) => Self::fields(Code::InvalidFields, fields),
            QueryRefusal::Tenant(refusal) => refusal.into(),
            QueryRefusal::Ledger(QueryError::Rejected(cause)) => {
                Self::new(Code::QueryRejected, cause.to_string())
            }
            QueryRefusal::Ledger(QueryError::Unavailable(cause)) => {
                Self::new(Code::LedgerUnavailable, cause.to_string()).later(Duration::from_secs(2))
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (_, status, _) = self.code.parts();
        let body = serde_json::to_vec(&self.problem()).unwrap_or_default();
        let json = HeaderValue::from_static("application/problem+json");
        let mut response = (status, [(header::CONTENT_TYPE, json)], body).into_response();
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs_f64().ceil() as u64;
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::NotJson {
            let plain = HeaderValue::from_static("identity");
            response.headers_mut().insert(header::ACCEPT_ENCODING, plain);
        }
        if self.code == Code::Unauthorized {
            let challenge = HeaderValue::from_static("Bearer realm=\"sluicegate\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_every_code_is_unique_and_has_its_page() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors");
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            let (name, status, title) = code.parts();
            assert!(seen.insert(name), "{name} is used twice");
            let page = std::fs::read_to_string(format!("{folder}/{name}.md")).unwrap_or_default();
            assert!(
                page.contains(title),
                "docs/errors/{name}.md must hold the title {title:?}"
            );
            assert!(
                page.contains(status.as_str()),
                "docs/errors/{name}.md must hold the status {status}"
            );
            assert!(
                page.contains("## What to do"),
                "docs/errors/{name}.md must say what to do"
            );
        }
    }
}
