//! Headers and query parameters, read strictly: what is not understood is refused, not passed over.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::{ApiError, Code};
use crate::domain::{LedgerName, Stage, Status, TenantName, Timestamp, TransactionId};
use crate::gateway::Caller;
use crate::store::Filter;

pub(super) const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

/// The part of the path that names something, whatever bytes it holds.
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        // What is not even text names nothing that exists.
        let name = Path::from_request_parts(parts, state).await;
        Ok(Self(
            name.map_or_else(|_| "\u{fffd}".to_owned(), |Path(name)| name),
        ))
    }
}

/// The query parameters in order.
pub(crate) struct Pairs(pub(crate) Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(error) => Err(bad("#query", error.body_text())),
        }
    }
}

pub(super) fn bad(name: &str, detail: impl Into<String>) -> ApiError {
    ApiError::field(Code::InvalidParameter, name, detail)
}

/// The `Idempotency-Key`, if there is one. Its form is checked with the request.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    single(
        headers,
        HeaderName::from_static("idempotency-key"),
        "Idempotency-Key",
    )
}

/// The seconds of `Prefer: wait=N`, if that is asked for. Other preferences are passed over, as RFC 7240
/// wants it.
pub(crate) fn prefer_wait(headers: &HeaderMap, longest: Duration) -> Result<Option<Duration>, ApiError> {
    for value in headers.get_all("prefer") {
        let text = value
            .to_str()
            .map_err(|_| bad("#header/Prefer", "must be ASCII"))?;
        for preference in text.split([',', ';']) {
            let mut halves = preference.splitn(2, '=').map(str::trim);
            if halves
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case("wait"))
            {
                let seconds = halves.next().unwrap_or_default().trim_matches('"');
                // A preference, so it is met as far as it can be.
                let asked = wait("#header/Prefer", seconds)?;
                return Ok(Some(asked.min(longest)));
            }
        }
    }
    Ok(None)
}

/// A tag for bytes that have no version: equal bytes, equal tags.
pub(crate) fn etag_of(bytes: &[u8]) -> HeaderValue {
    let digest = URL_SAFE_NO_PAD.encode(&Sha256::digest(bytes)[..16]);
    HeaderValue::try_from(format!("\"{digest}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Whether the client has this version already. Tags are compared weakly, as RFC 9110 wants it for
/// `If-None-Match`; ours hold no comma.
pub(crate) fn if_none_match(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn single(headers: &HeaderMap, name: HeaderName, shown: &str) -> Result<Option<String>, ApiError> {
    let pointer = format!("#header/{shown}");
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(bad(&pointer, "was sent more than once"));
    }
    first
        .map(|value| {
            value
                .to_str()
                .map(str::to_owned)
                .map_err(|_| bad(&pointer, "must be visible ASCII"))
        })
        .transpose()
}

fn wait(name: &str, seconds: &str) -> Result<Duration, ApiError> {
    match seconds.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(u64::from(seconds))),
        Err(_) => Err(bad(name, "must be a whole number of seconds, such as wait=10")),
    }
}

/// The only parameter of a read: `?wait=N`.
pub(crate) fn wait_only(pairs: Vec<(String, String)>, longest: Duration) -> Result<Duration, ApiError> {
    let mut result = Duration::ZERO;
    each_once(&pairs)?;
    for (name, value) in pairs {
        match name.as_str() {
            "wait" => {
                result = wait("#query/wait", &value)?;
                if result > longest {
                    let longest = longest.as_secs_f32();
                    let detail = format!(
                        "must be at most {longest} seconds (http.max_wait_seconds); ask again after that"
                    );
                    return Err(bad("#query/wait", detail));
                }
            }
            other => {
                return Err(bad(
                    &format!("#query/{other}"),
                    "is not known here; the only parameter is wait",
                ));
            }
        }
    }
    Ok(result)
}

/// The only parameter of a batch: `?atomic=true`.
pub(crate) fn atomic_only(pairs: Vec<(String, String)>) -> Result<bool, ApiError> {
    each_once(&pairs)?;
    let mut atomic = false;
    for (name, value) in pairs {
        let pointer = format!("#query/{name}");
        atomic = match (name.as_str(), value.as_str()) {
            ("atomic", "true") => true,
            ("atomic", "false") => false,
            ("atomic", _) => return Err(bad(&pointer, "must be true or false")),
            _ => return Err(bad(&pointer, "is not known here; the only parameter is atomic")),
        };
    }
    Ok(atomic)
}

/// Of two values, one would be passed over.
pub(super) fn each_once(pairs: &[(String, String)]) -> Result<(), ApiError> {
    let mut seen = BTreeSet::new();
    match pairs.iter().find(|(name, _)| !seen.insert(name)) {
        Some((name, _)) => Err(bad(&format!("#query/{name}"), "was given more than once")),
        None => Ok(()),
    }
}

/// What a listing asks for.
pub(crate) struct Listing {
    pub(crate) filter: Filter,
    /// Only the record that came with this idempotency key.
    pub(crate) key: Option<String>,
    pub(crate) cursor: Option<TransactionId>,
    pub(crate) limit: usize,
    /// Which listing it is, whatever the page.
    pub(crate) print: FilterPrint,
}

/// Stands for the filter of a listing in its cursors: with another filter, a cursor would pass over records unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilterPrint([u8; 8]);

impl FilterPrint {
    fn of(pairs: &[(String, String)], caller: &Caller) -> Self {
        let paging = |name: &str| ["cursor", "limit"].contains(&name);
        let filters: BTreeSet<_> = pairs.iter().filter(|(name, _)| !paging(name)).collect();
        let mut hash = Sha256::new();
        // Nor is the listing of one tenant that of another.
        hash.update(caller.tenant.as_ref().map_or("", TenantName::as_str));
        for (name, value) in filters {
            for text in [name, value] {
                hash.update(text.len().to_be_bytes());
                hash.update(text);
            }
        }
        Self::of_hash(hash)
    }

    /// What was hashed is all that tells one listing from another.
    pub(super) fn of_hash(hash: Sha256) -> Self {
        let mut print = [0; 8];
        print.copy_from_slice(&hash.finalize()[..8]);
        Self(print)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The parameters of a listing.
pub(crate) fn listing(pairs: Vec<(String, String)>, caller: &Caller) -> Result<Listing, ApiError> {
    let mut filter = Filter::default();
    let (mut key, mut cursor, mut limit) = (None, None, DEFAULT_LIMIT);
    each_once(&pairs)?;
    let print = FilterPrint::of(&pairs, caller);
    for (name, value) in pairs {
        let wrong = |detail: &str| bad(&format!("#query/{name}"), detail);
        match name.as_str() {
            "idempotency_key" => key = Some(value),
            "limit" => {
                limit = read_limit(&value).ok_or_else(|| wrong(LIMIT))?;
            }
            "cursor" => {
                let (id, of) = read_cursor(&value)
                    .ok_or_else(|| wrong("is not a cursor; take next_cursor of the page before as it is"))?;
                if of != print {
                    return Err(wrong(
                        "belongs to a listing with another filter; repeat the filter of the page before, or start without a cursor",
                    ));
                }
                cursor = Some(id);
            }
            _ if !narrow(&mut filter, &name, value, caller)? => {
                return Err(wrong(&format!(
                    "is not known; there are {CONDITIONS}, idempotency_key, limit and cursor"
                )));
            }
            _ => {}
        }
    }
    Ok(Listing {
        filter,
        key,
        cursor,
        limit,
        print,
    })
}

/// The parameters of the audit log: where to go on, and how many.
pub(crate) fn audit_page(pairs: Vec<(String, String)>) -> Result<(Option<Uuid>, usize), ApiError> {
    let (mut cursor, mut limit) = (None, DEFAULT_LIMIT);
    each_once(&pairs)?;
    for (name, value) in pairs {
        let wrong = |detail: &str| bad(&format!("#query/{name}"), detail);
        match name.as_str() {
            "limit" => {
                limit = read_limit(&value).ok_or_else(|| wrong(LIMIT))?;
            }
            "cursor" => {
                let key = Uuid::try_parse(&value);
                cursor =
                    Some(key.map_err(|_| {
                        wrong("is not a cursor; take next_cursor of the page before as it is")
                    })?);
            }
            _ => return Err(wrong("is not known; there are limit and cursor")),
        }
    }
    Ok((cursor, limit))
}

/// The parameters of a stream of events: conditions as in a listing.
pub(crate) fn filter(pairs: Vec<(String, String)>, caller: &Caller) -> Result<Filter, ApiError> {
    let mut filter = Filter::default();
    each_once(&pairs)?;
    for (name, value) in pairs {
        if !narrow(&mut filter, &name, value, caller)? {
            let detail = format!("is not known here; there are {CONDITIONS}, and last_event_id");
            return Err(bad(&format!("#query/{name}"), detail));
        }
    }
    Ok(filter)
}

/// No parameter is left.
pub(crate) fn none_known(pairs: &[(String, String)]) -> Result<(), ApiError> {
    match pairs.first() {
        Some((name, _)) => Err(bad(
            &format!("#query/{name}"),
            "is not known here; the only parameter is last_event_id",
        )),
        None => Ok(()),
    }
}

/// The last event that a client saw, and where it said so.
pub(crate) struct LastEvent {
    pub(crate) id: String,
    pub(crate) pointer: &'static str,
}

/// The last event that a client saw: in the header, as browsers send it when they come back, or in the parameter
/// `last_event_id`, which is taken out.
pub(crate) fn last_event(
    headers: &HeaderMap,
    Pairs(mut pairs): Pairs,
) -> Result<(Pairs, Option<LastEvent>), ApiError> {
    let header = single(headers, HeaderName::from_static("last-event-id"), "Last-Event-ID")?;
    each_once(&pairs)?;
    let place = pairs.iter().position(|(name, _)| name == "last_event_id");
    let parameter = place.map(|place| pairs.swap_remove(place).1);
    // The header is newer: a browser repeats the address that it began with.
    let by_header = header.map(|id| LastEvent {
        id,
        pointer: "#header/Last-Event-ID",
    });
    let by_parameter = parameter.map(|id| LastEvent {
        id,
        pointer: "#query/last_event_id",
    });
    Ok((Pairs(pairs), by_header.or(by_parameter)))
}

/// What records can be chosen by.
const CONDITIONS: &str = "status, stage, ledger, contract, function, tenant, tx_id, created_from, created_before, metadata.<label>";

/// Adds a condition, if `name` is one.
fn narrow(filter: &mut Filter, name: &str, value: String, caller: &Caller) -> Result<bool, ApiError> {
    let wrong = |detail: &str| bad(&format!("#query/{name}"), detail);
    match name {
        "status" => {
            let status = Status::ALL.into_iter().find(|status| status.as_str() == value);
            filter.status = Some(status.ok_or_else(|| wrong("must be pending, done or failed"))?);
        }
        "stage" => {
            let stage = Stage::ALL.into_iter().find(|stage| stage.as_str() == value);
            let stage =
                stage.ok_or_else(|| wrong("must be queued, preparing, submitted, backoff or parked"))?;
            filter.stage = Some(stage);
        }
        "ledger" => {
            let ledger = LedgerName::new(&value);
            filter.ledger = Some(ledger.ok_or_else(|| wrong("is not the name of a ledger"))?);
        }
        "tenant" => {
            let tenant = TenantName::new(&value).ok_or_else(|| wrong("is not the name of a tenant"))?;
            if caller.tenant.as_ref().is_some_and(|own| *own != tenant) {
                return Err(wrong(
                    "is not the tenant that these credentials belong to; leave it out",
                ));
            }
            filter.tenant = Some(tenant);
        }
        "tx_id" => filter.tx_id = Some(value),
        "contract" => filter.contract = Some(value),
        "function" => filter.function = Some(value),
        "created_from" => filter.created_from = Some(moment(&value).ok_or_else(|| wrong(MOMENT))?),
        "created_before" => filter.created_before = Some(moment(&value).ok_or_else(|| wrong(MOMENT))?),
        other => match other.strip_prefix("metadata.") {
            Some(label) => {
                filter.metadata.insert(label.to_owned(), value);
            }
            None => return Ok(false),
        },
    }
    Ok(true)
}

/// What a `limit` has to be.
pub(super) const LIMIT: &str = "must be 1 to 500";

pub(super) fn read_limit(text: &str) -> Option<usize> {
    text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit))
}

const MOMENT: &str = "must be a moment such as 2026-01-31T12:00:00Z";

/// A `+` in a query stands for a space, so an offset written with a bare `+` arrives with one.
fn moment(text: &str) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(&text.replace(' ', "+"))
}

/// The cursor for the page of this listing that starts below `id`.
pub(crate) fn write_cursor(id: TransactionId, print: FilterPrint) -> String {
    let mut bytes = [0; 24];
    let (below, of) = bytes.split_at_mut(16);
    below.copy_from_slice(id.as_bytes());
    of.copy_from_slice(&print.0);
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn read_cursor(text: &str) -> Option<(TransactionId, FilterPrint)> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (below, of) = bytes.split_first_chunk()?;
    Some((
        TransactionId::from_bytes(*below),
        FilterPrint(of.try_into().ok()?),
    ))
}
