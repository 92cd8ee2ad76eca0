//! Before a request reaches its handler: who sends it. After it: what operators did is written down.
//!
//! Everything below `/v1` and `/metrics` is behind this. An action is answered once its entry in the audit log is on the disk;
//! if that cannot be written, the answer is 503 although the action took effect, and a repeat will say so.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::Api;
use super::error::{ApiError, Code};
use super::server::Peer;
use crate::auth::{Authenticator, Denied};
use crate::gateway::Caller;

/// What bringing and asking is; the audit log of operators has no part in it.
const NO_ACTIONS: [&str; 3] = ["/v1/transactions", "/v1/transactions/batch", "/v1/query"];

/// Put into an answer, it says more about what was done.
#[derive(Clone)]
pub(super) struct Detail(pub(super) Value);

/// Put into an answer, it says that the audit log has it already.
#[derive(Clone)]
pub(super) struct Audited;

/// What somebody was let in by, to be looked at again while they stay.
pub(super) struct Pass {
    auth: Arc<Authenticator>,
    credential: Option<Box<str>>,
}

impl Pass {
    pub(super) fn of(api: &Api, headers: &HeaderMap) -> Result<Self, ApiError> {
        Ok(Self {
            auth: api.auth.clone(),
            credential: credential(headers)?.map(Box::from),
        })
    }

    /// Whether it would still let them in.
    pub(super) async fn counts(&self) -> bool {
        // A pass that has run out is no failed try of whoever has to find that out.
        self.auth.caller(self.credential.as_deref(), None).await.is_ok()
    }
}

/// Finds out who calls, lets them through, and writes down what they did.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    if !asks_who(&request) {
        return next.run(request).await;
    }
    // Apart from its body, which is not for two threads to look at.
    let (mut parts, body) = request.into_parts();
    let caller = match identify(&api, &parts).await {
        Ok(caller) => caller,
        Err(refusal) => return refusal.into_response(),
    };
    let Some((action, target)) = action(&parts) else {
        parts.extensions.insert(caller);
        return next.run(Request::from_parts(parts, body)).await;
    };
    parts.extensions.insert(caller.clone());
    // In a task of its own: a client that hangs up drops the waiting, not what is to be written down.
    let tasks = api.tasks.clone();
    let done = tasks.spawn(async move {
        let response = next.run(Request::from_parts(parts, body)).await;
        audited(&api, &caller, &action, &target, response).await
    });
    done.await.unwrap_or_else(|error| {
        tracing::error!(%error, "an action ended badly");
        let detail = "the gateway could not answer; read what became of it, and repeat it if need be";
        ApiError::new(Code::Internal, detail).into_response()
    })
}

/// Where nobody needs a key, this machine is the only guard, and a browser on it is everybody's. So a page from
/// elsewhere must not pass for the operator: neither by a name that it lets lead here, nor by a request that a browser
/// sends for any page.
fn comes_from_here(api: &Api, headers: &HeaderMap, method: &Method) -> Result<(), ApiError> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let refused = |detail: &str| Err(ApiError::new(Code::Forbidden, detail));
    let host = text(header::HOST).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| match port.parse::<u16>() {
            Ok(_) => name,
            Err(_) => host,
        });
    let literal = name.trim_start_matches('[').trim_end_matches(']');
    if !name.eq_ignore_ascii_case("localhost") && literal.parse::<IpAddr>().is_err() {
        return refused(
            "without keys, the gateway answers to an address or to localhost, not to other names; make a key with `sluicegate keys create`",
        );
    }
    if let Some(origin) = text(header::ORIGIN) {
        let own = origin
            .split_once("://")
            .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(host));
        let allowed = api.cors_origins.iter().any(|one| one == "*" || one == origin);
        if !own && !allowed {
            return refused("without keys, pages from elsewhere are not let in (http.cors_origins)");
        }
    } else if !method.is_safe()
        && headers
            .get("sec-fetch-site")
            .is_some_and(|site| site == "cross-site")
    {
        return refused("without keys, pages from elsewhere are not let in");
    }
    Ok(())
}

/// Probes, pages, the API's document and the question what a route can do are for everybody.
fn asks_who(request: &Request) -> bool {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str);
    request.method() != Method::OPTIONS && (route.starts_with("/v1/") || route == "/metrics")
}

/// What the audit log calls a request, and what it is about, if it is an operator's.
fn action(request: &Parts) -> Option<(String, String)> {
    let route = request.extensions.get::<MatchedPath>()?.as_str();
    let acts = !request.method.is_safe() && !NO_ACTIONS.contains(&route);
    acts.then(|| {
        (
            format!("{} {route}", request.method),
            request.uri.path().to_owned(),
        )
    })
}

async fn audited(api: &Api, caller: &Caller, action: &str, target: &str, response: Response) -> Response {
    if !response.status().is_success() || response.extensions().get::<Audited>().is_some() {
        return response;
    }
    let detail = response
        .extensions()
        .get::<Detail>()
        .map(|detail| detail.0.clone());
    match api.gateway.audit().record(caller, action, target, detail).await {
        Ok(()) => response,
        Err(error) => ApiError::from(error).into_response(),
    }
}

async fn identify(api: &Api, request: &Parts) -> Result<Caller, ApiError> {
    let peer = request.extensions.get::<Peer>();
    let credential = credential(&request.headers)?;
    let from = peer.map(|peer| peer.address);
    let mut caller = api.auth.caller(credential, from).await?;
    if credential.is_none() {
        comes_from_here(api, &request.headers, &request.method)?;
    }
    if credential.is_none()
        && let Some(name) = peer.and_then(|peer| peer.certificate.as_deref())
    {
        caller.subject = format!("cert:{name}");
    }
    Ok(caller)
}

/// The key or token in a request.
fn credential(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let wrong = |detail: &str| ApiError::new(Code::Unauthorized, detail);
    let mut keys = headers.get_all("x-api-key").iter();
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let (key, authorization) = (keys.next(), authorizations.next());
    if keys.next().is_some() || authorizations.next().is_some() || (key.is_some() && authorization.is_some())
    {
        return Err(wrong(
            "there is more than one credential; send one, as `Authorization: Bearer ...`",
        ));
    }
    if let Some(key) = key {
        return key
            .to_str()
            .map(Some)
            .map_err(|_| wrong("X-API-Key must be ASCII"));
    }
    let Some(authorization) = authorization else {
        return Ok(None);
    };
    let form = || wrong("Authorization must be `Bearer ` and an API key or a token");
    let (scheme, credential) = authorization
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(form)?;
    match (scheme.eq_ignore_ascii_case("bearer"), credential.trim()) {
        (true, credential) if !credential.is_empty() => Ok(Some(credential)),
        _ => Err(form()),
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let detail = denied.to_string();
        match denied {
            Denied::Store(error) => error.into(),
            Denied::TooManyTries(wait) => Self::new(Code::TooManyTries, detail).later(wait),
            Denied::Missing
            | Denied::UnknownKey
            | Denied::ExpiredKey { .. }
            | Denied::RevokedKey { .. }
            | Denied::Token(_) => Self::new(Code::Unauthorized, detail),
        }
    }
}
