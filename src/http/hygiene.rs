//! What browsers, proxies and other careful clients expect of any HTTP server, beside what a route answers.
//!
//! None of it touches a request that does not ask for it: gzip only for those who take it, CORS only where origins
//! are configured. It never changes what became of a request.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::IntoResponse;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::cors::{Any, CorsLayer};
use utoipa::openapi::PathItem;
use utoipa_axum::router::UtoipaMethodRouter;

use super::switch::Only;

/// A shorter answer fits into a packet or two as it is.
const WORTH_COMPRESSING: u64 = 1_024;
/// How long a browser need not ask again what another origin may do.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// Headers of requests, beside those that every origin may send.
const ASKED: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::IF_NONE_MATCH,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("prefer"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-request-id"),
];

/// Headers of answers that a page of another origin may read.
const TOLD: [HeaderName; 10] = [
    header::ALLOW,
    header::ETAG,
    header::LOCATION,
    header::RETRY_AFTER,
    HeaderName::from_static("idempotent-replayed"),
    HeaderName::from_static("preference-applied"),
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-request-id"),
];

/// Compresses long answers for clients that take gzip. A stream of events is never held back for it.
pub(super) fn gzip() -> Only<CompressionLayer<impl Predicate + Send + Sync + 'static>> {
    let worth_it = SizeAbove::new(WORTH_COMPRESSING)
        .and(NotForContentType::SSE)
        .and(NotForContentType::IMAGES);
    Only {
        // The layer would turn an answer into a refusal if the client took no encoding at all, but only after the
        // request was carried out. Who takes gzip takes one.
        when: |request| takes_gzip(request.headers()),
        layer: CompressionLayer::new().compress_when(worth_it),
    }
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','));
    codings.any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let quality = quality.trim().strip_prefix("q=").map(str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && matches!(quality, Some(Ok(quality)) if quality > 0.0)
    })
}

/// Lets pages of these origins (or of any, `*`) use the API. `None` if there are none.
pub(super) fn cors(origins: &[String]) -> Option<Only<CorsLayer>> {
    if origins.is_empty() {
        return None;
    }
    let layer = CorsLayer::new()
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(ASKED)
        .expose_headers(TOLD)
        .max_age(PREFLIGHT_AGE);
    let exact: Vec<_> = origins
        .iter()
        .filter_map(|origin| HeaderValue::try_from(origin).ok())
        .collect();
    let layer = match origins.iter().any(|origin| origin == "*") {
        true => layer.allow_origin(Any),
        false => layer.allow_origin(exact),
    };
    Some(Only {
        // The layer takes every OPTIONS for a preflight.
        when: |request| {
            let asks = header::ACCESS_CONTROL_REQUEST_METHOD;
            request.method() != Method::OPTIONS || request.headers().contains_key(asks)
        },
        layer,
    })
}

/// Answers OPTIONS with what else there is.
pub(super) fn with_options<S>((schemas, paths, router): UtoipaMethodRouter<S>) -> UtoipaMethodRouter<S>
where
    S: Clone + Send + Sync + 'static,
{
    let mut methods: Vec<&str> = paths.paths.values().flat_map(methods).collect();
    methods.push("OPTIONS");
    let allow = HeaderValue::try_from(methods.join(",")).unwrap_or(HeaderValue::from_static("OPTIONS"));
    let options = async move || (StatusCode::NO_CONTENT, [(header::ALLOW, allow.clone())]).into_response();
    (schemas, paths, router.options(options))
}

/// The methods that a path knows.
pub(super) fn methods(item: &PathItem) -> Vec<&'static str> {
    let known = [
        ("GET", item.get.is_some()),
        ("HEAD", item.get.is_some()),
        ("POST", item.post.is_some()),
        ("PUT", item.put.is_some()),
        ("PATCH", item.patch.is_some()),
        ("DELETE", item.delete.is_some()),
    ];
    let there = known.into_iter().filter(|(_, there)| *there);
    there.map(|(name, _)| name).collect()
}

/// What every answer says beside what its route says. Records are nobody's but the client's: nothing between it and
/// us may keep one.
pub(super) fn complete(headers: &mut HeaderMap) {
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if !headers.contains_key(header::CACHE_CONTROL) {
        let caching = match headers.contains_key(header::ETAG) {
            true => "private, no-cache",
            false => "no-store",
        };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    }
    // The same version in another coding is not the same bytes.
    if headers.contains_key(header::CONTENT_ENCODING)
        && let Some(tag) = headers.get(header::ETAG)
        && tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(header::ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (accepted, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("identity;q=0, gzip", true),
            ("", false),
            ("br", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip; q=0.000", false),
            ("gzip;q=high", false),
            ("*;q=0", false),
        ] {
            let headers =
                HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted))]);
            assert_eq!(takes_gzip(&headers), takes, "{accepted}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
