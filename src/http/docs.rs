//! `/docs`: the API's document for people, in Swagger UI. Its files are part of this program; it loads nothing from
//! elsewhere, and its Content-Security-Policy sees to that.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa_swagger_ui::Config;

use super::error::{ApiError, Code};
use super::params::Name;
use super::{Api, nothing_at};

/// The styles are set by scripts, element by element; the pictures are in the style sheet.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The address of the document is relative: the gateway may be behind a proxy, below a path of its own.
static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| {
    let config = Config::new(["../openapi.json"]);
    // A public validator would be sent the address of the document.
    Arc::new(config.validator_url("none").try_it_out_enabled(true))
});

/// The pages.
pub(super) fn pages() -> Router<Api> {
    Router::new()
        .route("/docs", get(async || Redirect::permanent("docs/")))
        .route("/docs/", get(async |uri: Uri| file("index.html", &uri)))
        .route(
            "/docs/{file}",
            get(async |Name(name): Name, uri: Uri| file(&name, &uri)),
        )
}

fn file(name: &str, uri: &Uri) -> Response {
    match utoipa_swagger_ui::serve(name, CONFIG.clone()) {
        Ok(Some(file)) => {
            let headers = [
                (header::CONTENT_TYPE, file.content_type.as_str()),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::REFERRER_POLICY, "no-referrer"),
                (header::CACHE_CONTROL, "no-cache"),
            ];
            (headers, file.bytes.into_owned()).into_response()
        }
        Ok(None) => nothing_at(uri).into_response(),
        Err(error) => ApiError::new(Code::Internal, error.to_string()).into_response(),
    }
}
