//! `/v1/keys`, `/v1/whoami` and `/v1/audit`: who may do what, and who did.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Api;
use super::auth::Audited;
use super::body::read_json;
use super::caller::Who;
use super::dto::{rfc3339, rfc3339_or_null};
use super::error::{ApiError, Code};
use super::openapi::examples;
use super::openapi::schemas::{AnyJson, ScopeName};
use super::params::{self, Name, Pairs};
use super::transactions::json;
use crate::audit::Entry;
use crate::auth::{ApiKey, KeyError, NewKey};
use crate::domain::{TenantName, Timestamp};
use crate::gateway::{FieldError, Scope, Scopes};

const DAY: u64 = 24 * 60 * 60;
const MOST_DAYS: u32 = 3_650;

/// A key as a client asks for it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
#[schema(as = NewKey)]
pub(crate) struct KeyBody {
    /// What it is for, in the operator's words.
    #[schema(value_type = String, required = true, min_length = 1, max_length = 100, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$")]
    name: Option<String>,
    /// The tenant that it belongs to. Without one it sees the records of all.
    #[schema(value_type = TenantName, required = false)]
    tenant: Option<String>,
    /// What it may do.
    #[schema(value_type = Vec<ScopeName>, required = true, min_items = 1, max_items = 3)]
    scopes: Option<Vec<String>>,
    /// After so many days it is good for nothing; without it, never.
    #[schema(value_type = u32, required = false, minimum = 1, maximum = 3_650)]
    expires_in_days: Option<u32>,
}

impl KeyBody {
    /// What is asked for, or all that is wrong with it.
    fn into_key(self) -> Result<NewKey, ApiError> {
        let mut faults = Vec::new();
        let mut fault = |pointer: &str, detail: String| {
            faults.push(FieldError {
                pointer: pointer.to_owned(),
                detail,
            });
        };
        if self.name.is_none() {
            fault("/name", "is missing".to_owned());
        }
        let tenant = self.tenant.map(|name| {
            TenantName::new(&name)
                .ok_or("must be 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit")
        });
        let tenant = tenant.transpose().unwrap_or_else(|detail| {
            fault("/tenant", detail.to_owned());
            None
        });
        let scopes: Option<Scopes> = self.scopes.map(|names| {
            let read = names.iter().enumerate().filter_map(|(index, name)| {
                let scope = Scope::parse(name);
                if scope.is_none() {
                    fault(
                        &format!("/scopes/{index}"),
                        "must be submit, read or operate".to_owned(),
                    );
                }
                scope
            });
            read.collect()
        });
        if scopes.is_none() {
            fault("/scopes", "is missing".to_owned());
        }
        if self
            .expires_in_days
            .is_some_and(|days| !(1..=MOST_DAYS).contains(&days))
        {
            fault("/expires_in_days", format!("must be 1 to {MOST_DAYS}"));
        }
        match (self.name, scopes) {
            (Some(name), Some(scopes)) if faults.is_empty() => Ok(NewKey {
                name,
                tenant,
                scopes,
                lasts: self
                    .expires_in_days
                    .map(|days| Duration::from_secs(u64::from(days) * DAY)),
            }),
            _ => Err(ApiError::fields(Code::InvalidFields, faults)),
        }
    }
}

/// A key.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
pub(crate) struct KeyView<'a> {
    id: &'a str,
    name: &'a str,
    #[schema(required, value_type = Option<TenantName>)]
    tenant: Option<&'a str>,
    #[schema(value_type = Vec<ScopeName>)]
    scopes: Vec<&'static str>,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    expires_at: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    revoked_at: Option<Timestamp>,
    created_by: &'a str,
    /// The token: in the answer that makes it, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    key: Option<&'a str>,
}

impl<'a> KeyView<'a> {
    fn of(key: &'a ApiKey, token: Option<&'a str>) -> Self {
        Self {
            id: &key.id,
            name: &key.name,
            tenant: key.tenant.as_ref().map(TenantName::as_str),
            scopes: names(key.scopes),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            created_by: &key.created_by,
            key: token,
        }
    }
}

fn names(scopes: Scopes) -> Vec<&'static str> {
    scopes.iter().map(Scope::as_str).collect()
}

/// Keys, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = Keys)]
pub(crate) struct KeysView<'a> {
    items: Vec<KeyView<'a>>,
}

/// Who the gateway takes a caller for.
#[derive(Serialize, ToSchema)]
#[schema(as = Caller)]
pub(crate) struct WhoView<'a> {
    /// `key:…`, `jwt:…`, `cert:…` or `anonymous`.
    subject: &'a str,
    #[schema(required, value_type = Option<TenantName>)]
    tenant: Option<&'a str>,
    #[schema(value_type = Vec<ScopeName>)]
    scopes: Vec<&'static str>,
}

/// Something that was done.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub(crate) struct EntryView<'a> {
    #[serde(serialize_with = "rfc3339")]
    at: Timestamp,
    who: &'a str,
    #[schema(required, value_type = Option<TenantName>)]
    tenant: Option<&'a str>,
    #[schema(required)]
    from: Option<String>,
    /// A method and a route.
    action: &'a str,
    /// What it was done to.
    target: &'a str,
    #[schema(required, value_type = AnyJson)]
    detail: Option<&'a Value>,
}

/// A page of the audit log, newest first.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditPage)]
pub(crate) struct AuditView<'a> {
    items: Vec<EntryView<'a>>,
    #[schema(required)]
    next_cursor: Option<&'a str>,
}

/// Make a key
///
/// The answer holds the token, once: what is stored is its hash. Takes the scope `operate`, and credentials of no tenant.
/// With the first key, everybody needs one; so that one has the scope `operate` and no tenant.
#[utoipa::path(
    post,
    path = "/v1/keys",
    operation_id = "createKey",
    tag = "access",
    request_body(content = KeyBody, description = "The key", example = json!({"name": "erp", "tenant": "acme", "scopes": ["submit", "read"], "expires_in_days": 90})),
    responses((status = 201, description = "The key, with its token", body = KeyView, example = json!(examples::key(true))))
)]
pub(crate) async fn create_key(
    State(api): State<Api>,
    who: Who,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.of_all_tenants(&[Scope::Operate])?;
    let body: KeyBody = read_json(&headers, body, api.body_limits).await?;
    let new = body.into_key()?;
    if api.auth.is_open() && (new.tenant.is_some() || !new.scopes.has(Scope::Operate)) {
        let detail = "the first key takes the scope operate and no tenant: from then on nobody gets in without a key, and with this one the others are made";
        return Err(ApiError::field(Code::InvalidFields, "/scopes", detail));
    }
    let (key, token) = api.auth.keys().create(&caller, new).await?;
    let mut response = json(StatusCode::CREATED, &KeyView::of(&key, Some(&token)));
    // It holds a secret.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(Audited);
    Ok(response)
}

/// List keys
///
/// Also those that have expired or were revoked. Takes the scope `operate`, and credentials of no tenant.
#[utoipa::path(
    get,
    path = "/v1/keys",
    operation_id = "listKeys",
    tag = "access",
    responses((status = 200, description = "All keys, without their tokens", body = KeysView, example = json!({"items": [examples::key(false)]})))
)]
pub(crate) async fn list_keys(State(api): State<Api>, who: Who) -> Result<Response, ApiError> {
    who.of_all_tenants(&[Scope::Operate])?;
    let keys = api.auth.keys().list().await?;
    let items = keys.iter().map(|key| KeyView::of(key, None)).collect();
    Ok(json(StatusCode::OK, &KeysView { items }))
}

/// Revoke a key
///
/// From now on it is refused: here at once, on other nodes within two seconds. It stays listed.
#[utoipa::path(
    delete,
    path = "/v1/keys/{id}",
    operation_id = "revokeKey",
    tag = "access",
    params(("id" = String, Path, description = "Its id: the eight characters after `sg_`", example = "ab12cd34")),
    responses(
        (status = 200, description = "The key, revoked", body = KeyView, example = json!(examples::key(false))),
        (status = 404, description = "SG-0025"),
    )
)]
pub(crate) async fn revoke_key(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
) -> Result<Response, ApiError> {
    let caller = who.of_all_tenants(&[Scope::Operate])?;
    let key = api.auth.keys().revoke(&caller, &id).await?;
    let mut response = json(StatusCode::OK, &KeyView::of(&key, None));
    response.extensions_mut().insert(Audited);
    Ok(response)
}

/// Who am I
///
/// Whom the gateway takes these credentials for, and what they may do.
#[utoipa::path(
    get,
    path = "/v1/whoami",
    operation_id = "whoAmI",
    tag = "access",
    responses((status = 200, description = "The caller", body = WhoView, example = json!({"subject": "key:ab12cd34", "tenant": "acme", "scopes": ["submit", "read"]})))
)]
pub(crate) async fn whoami(Who(caller): Who) -> Response {
    let view = WhoView {
        subject: &caller.subject,
        tenant: caller.tenant.as_ref().map(TenantName::as_str),
        scopes: names(caller.scopes),
    };
    json(StatusCode::OK, &view)
}

/// Read the audit log
///
/// What operators did, newest first. Takes the scope `operate`, and credentials of no tenant. Who brought a transaction
/// stands in its record.
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "listAudit",
    tag = "access",
    params(
        ("limit" = Option<u32>, Query, description = "How many at most; 50 unless you say so", minimum = 1, maximum = 500),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = AuditView, example = json!(examples::audit())))
)]
pub(crate) async fn audit(
    State(api): State<Api>,
    who: Who,
    Pairs(pairs): Pairs,
) -> Result<Response, ApiError> {
    who.of_all_tenants(&[Scope::Operate])?;
    let (cursor, limit) = params::audit_page(pairs)?;
    // One more, to know whether there is more.
    let mut found = api.gateway.audit().list(cursor, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let view = AuditView {
        items: found.iter().map(|(_, entry)| entry_view(entry)).collect(),
        next_cursor: found.last().filter(|_| more).map(|(key, _)| key.as_str()),
    };
    Ok(json(StatusCode::OK, &view))
}

fn entry_view(entry: &Entry) -> EntryView<'_> {
    EntryView {
        at: entry.at,
        who: &entry.who,
        tenant: entry.tenant.as_ref().map(TenantName::as_str),
        from: entry.from.map(|from| from.to_string()),
        action: &entry.action,
        target: &entry.target,
        detail: entry.detail.as_ref(),
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        let detail = error.to_string();
        match error {
            KeyError::Name => Self::field(Code::InvalidFields, "/name", detail),
            KeyError::Scopes => Self::field(Code::InvalidFields, "/scopes", detail),
            KeyError::Missing => Self::new(Code::NoKey, detail),
            KeyError::Random(_) => Self::new(Code::Internal, detail),
            KeyError::Store(error) => error.into(),
        }
    }
}
