//! The contract: an OpenAPI 3.1 document made from the routes themselves.
//!
//! A route cannot be added without its description ([`Documented`]). What all routes have in common, such as how they
//! refuse and which headers every answer carries, is filled in here. `docs/openapi.json` is the document of a gateway
//! with the built-in settings; a test compares the two. A gateway serves its own: bounds are those of its
//! configuration.

pub(super) mod examples;
mod problems;
pub(super) mod schemas;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::error::Problem;
use super::{Api, hygiene, params};
use crate::config::HttpSettings;

const ABOUT: &str = "\
An asynchronous transaction gateway for ledgers: accept at once, settle exactly once.

A `POST` is answered with `202` as soon as the transaction is durable; the record then goes from `pending` to `done` or \
`failed`. Repeat a `POST` with the same `Idempotency-Key` as often as you like: it takes effect once. Every refusal is \
a problem document (RFC 9457) with a stable `code`.";

#[derive(OpenApi)]
#[openapi(
    info(title = "Sluicegate", description = ABOUT, license(name = "Apache-2.0", identifier = "Apache-2.0")),
    servers((url = "/", description = "This gateway")),
    tags(
        (name = "transactions", description = "Submit, follow and find transactions"),
        (name = "events", description = "Follow what changes"),
        (name = "webhooks", description = "Be told of what has settled"),
        (name = "ledgers", description = "Ask ledgers, and see how their lanes do"),
        (name = "access", description = "Keys, who may do what, and who did"),
        (name = "operations", description = "Probes, metrics and this document"),
    ),
    components(schemas(Problem)),
)]
struct Base;

/// Routes together with their description.
pub(super) struct Documented(OpenApiRouter<Api>);

impl Documented {
    pub(super) fn new() -> Self {
        Self(OpenApiRouter::with_openapi(Base::openapi()))
    }

    /// Adds what `routes!` makes of the handlers of one path.
    pub(super) fn routes(self, routes: UtoipaMethodRouter<Api>) -> Self {
        Self(self.0.routes(hygiene::with_options(routes)))
    }

    /// The routes, and the document of a gateway with these settings.
    pub(super) fn split(self, settings: &HttpSettings) -> (Router<Api>, Value) {
        let (router, document) = self.0.split_for_parts();
        let document = serde_json::to_value(document).unwrap_or_default();
        (router, complete(document, settings))
    }
}

/// The document as it is served, and what requests are held to by it.
#[derive(Clone, Default)]
pub(super) struct Document {
    text: Arc<str>,
    /// The operations below `/v1` that take no query parameters, by path and method.
    unasked: Arc<BTreeMap<String, Vec<String>>>,
}

impl Document {
    pub(super) fn new(document: &Value) -> Self {
        let paths = document["paths"].as_object().into_iter().flatten();
        let unasked = paths
            .filter(|(path, _)| path.starts_with("/v1/"))
            .map(|(path, item)| {
                let operations = item.as_object().into_iter().flatten();
                let without = operations.filter(|(_, operation)| !takes_query(operation));
                (path.clone(), without.map(|(method, _)| method.clone()).collect())
            });
        Self {
            text: document.to_string().into(),
            unasked: Arc::new(unasked.collect()),
        }
    }

    /// Whether a request with a query makes no sense here: what it asks for would be passed over.
    pub(super) fn refuses_queries(&self, method: &str, route: &str) -> bool {
        let method = if method == "HEAD" { "GET" } else { method };
        let methods = self.unasked.get(route).into_iter().flatten();
        methods
            .into_iter()
            .any(|known| known.eq_ignore_ascii_case(method))
    }
}

fn takes_query(operation: &Value) -> bool {
    let mut parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters.any(|parameter| parameter["in"] == "query")
}

/// This document
///
/// OpenAPI 3.1, with the bounds that this gateway is configured with.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "getOpenApi",
    tag = "operations",
    params(("If-None-Match" = Option<String>, Header, description = "ETags of what the client has")),
    responses(
        (status = 200, description = "The document", content_type = "application/json", body = schemas::AnyJson,
            headers(("ETag" = String, description = "Changes with the document")),
            example = json!({"openapi": "3.1.0", "info": {"title": "Sluicegate", "version": "0.1.0"}, "paths": {}})),
        (status = 304, description = "The client has it"),
    )
)]
pub(super) async fn get(State(api): State<Api>, headers: HeaderMap) -> Response {
    let text = &api.document.text;
    let etag = params::etag_of(text.as_bytes());
    if params::if_none_match(&headers, &etag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    ([(header::ETAG, etag)], json, text.to_string()).into_response()
}

/// Fills in what goes without saying.
fn complete(mut document: Value, settings: &HttpSettings) -> Value {
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    for (path, item) in paths.into_iter().flatten() {
        for operation in item.as_object_mut().into_iter().flat_map(Map::values_mut) {
            problems::describe(path, operation);
            if asks_who(path) {
                operation["security"] = json!([{"bearer": []}, {"apiKey": []}]);
            }
            complete_parameters(operation, settings);
            let body = operation.pointer_mut("/requestBody/content/application~1json/schema");
            if let Some(schema) = body {
                drop_null(schema);
            }
            let responses = operation.get_mut("responses").and_then(Value::as_object_mut);
            for (status, response) in responses.into_iter().flatten() {
                add_headers(status, response);
            }
        }
    }
    if let Some(components) = document.get_mut("components").and_then(Value::as_object_mut) {
        components.insert("examples".to_owned(), problems::examples().into());
        components.insert("headers".to_owned(), common_headers());
        components.insert("parameters".to_owned(), common_parameters());
        components.insert("securitySchemes".to_owned(), security_schemes());
    }
    document
}

/// Whether a route wants to know who calls.
fn asks_who(path: &str) -> bool {
    path.starts_with("/v1/") || path == "/metrics"
}

fn complete_parameters(operation: &mut Value, settings: &HttpSettings) {
    let own = operation.get_mut("parameters").map(Value::take);
    let mut all: Vec<Value> = own.and_then(|own| own.as_array().cloned()).unwrap_or_default();
    for parameter in &mut all {
        if let Some(schema) = parameter.get_mut("schema") {
            drop_null(schema);
        }
        // How long a request may be held is the operator's.
        if parameter["name"] == "wait" {
            parameter["schema"]["maximum"] = settings.max_wait.as_secs().into();
        }
    }
    let common = common_parameters();
    let common = common.as_object().into_iter().flat_map(Map::keys);
    all.extend(common.map(|name| json!({"$ref": format!("#/components/parameters/{name}")})));
    operation["parameters"] = all.into();
}

/// What a type calls optional may be null in JSON. A parameter, or a body, is left out instead.
fn drop_null(schema: &mut Value) {
    if let Some([Value::String(kind), null]) = schema["type"].as_array().map(Vec::as_slice)
        && null == "null"
    {
        schema["type"] = kind.clone().into();
    }
    let either = schema.get("oneOf").and_then(Value::as_array);
    if let Some(value) = either.and_then(|either| either.iter().find(|one| one["type"] != "null")) {
        *schema = value.clone();
    }
}

fn add_headers(status: &str, response: &mut Value) {
    let mut names = vec!["X-Request-Id", "traceparent"];
    if ["429", "503"].contains(&status) {
        names.push("Retry-After");
    }
    for name in names {
        response["headers"][name] = json!({"$ref": format!("#/components/headers/{name}")});
    }
}

/// How callers say who they are. As long as no key was made and no identity provider is configured, they need not.
fn security_schemes() -> Value {
    json!({
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key (`sg_...`, made by `sluicegate keys create`) or a token of the configured identity provider",
        },
        "apiKey": {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "An API key, for clients that cannot send `Authorization`",
        },
    })
}

/// Headers that requests may have whatever the route.
fn common_parameters() -> Value {
    json!({
        "X-Request-Id": {
            "name": "X-Request-Id",
            "in": "header",
            "description": "Names the request in the gateway's log and in its answer: 1 to 128 visible ASCII characters; anything else is replaced",
            "schema": {"type": "string"},
            "example": "erp-4711-1",
        },
        "traceparent": {
            "name": "traceparent",
            "in": "header",
            "description": "The client's place in a trace (W3C Trace Context); what is none is passed over",
            "schema": {"type": "string"},
            "example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        },
    })
}

/// Headers that answers have whatever the route.
fn common_headers() -> Value {
    json!({
        "X-Request-Id": {
            "description": "Names the request, also in the gateway's log: the client's own, if it sent one of 1 to 128 visible ASCII characters",
            "required": true,
            "schema": {"type": "string", "minLength": 1, "maxLength": 128},
            "example": "019c1234567890abcdef1234567890ab",
        },
        "traceparent": {
            "description": "The gateway's place in the client's trace (W3C Trace Context); only if the client sent its own",
            "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
            "example": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        },
        "Retry-After": {
            "description": "Seconds after which to ask again",
            "schema": {"type": "integer", "minimum": 0},
            "example": 2,
        },
    })
}

#[cfg(test)]
mod tests;
