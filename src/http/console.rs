//! The console: a page at `/` and the files it loads, all of them part of the program.
//!
//! The page is plain modules without a build step (`src/http/console/`). It knows only the API, and the policy below
//! holds it to that: nothing is loaded from, or sent to, anywhere else, and no text from a record can become markup
//! or script. Every file is asked for again at every use, so a gateway that was upgraded never meets an old
//! module; an unchanged file is answered with 304. A build for development reads the files anew each time.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rust_embed::{EmbeddedFile, RustEmbed};

use super::Api;
use super::error::{ApiError, Code};
use super::params::{self, Name};

#[derive(RustEmbed)]
#[folder = "src/http/console"]
struct Files;

/// Trusted types have the browser refuse what our modules never do: to make markup or script of a string.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The pages.
pub(super) fn pages() -> Router<Api> {
    Router::new()
        .route("/", get(index))
        .route("/console/{*file}", get(file))
}

async fn index(headers: HeaderMap) -> Result<Response, ApiError> {
    answer("index.html", &headers)
}

async fn file(Name(file): Name, headers: HeaderMap) -> Result<Response, ApiError> {
    answer(&file, &headers)
}

fn answer(name: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let missing = || ApiError::new(Code::NoRoute, format!("the console has no file {name}"));
    let kind = media_type(name).ok_or_else(missing)?;
    let file = Files::get(name).ok_or_else(missing)?;
    let tag = etag(&file);
    let known = params::if_none_match(headers, &tag);
    let described = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            HeaderValue::from_static("same-origin"),
        ),
    ];
    if known {
        return Ok((StatusCode::NOT_MODIFIED, described).into_response());
    }
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok((described, [kind], file.data).into_response())
}

/// The kinds of files there are; a file of another kind is not served.
fn media_type(name: &str) -> Option<&'static str> {
    match name.rsplit_once('.')?.1 {
        "html" => Some("text/html; charset=utf-8"),
        "js" => Some("text/javascript; charset=utf-8"),
        "css" => Some("text/css; charset=utf-8"),
        "svg" => Some("image/svg+xml"),
        _ => None,
    }
}

/// The first half of the hash of what is in the file.
fn etag(file: &EmbeddedFile) -> HeaderValue {
    let hash = u128::from_be_bytes(std::array::from_fn(|at| file.metadata.sha256_hash()[at]));
    HeaderValue::try_from(format!("\"{hash:032x}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}
