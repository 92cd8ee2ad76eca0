//! The document of the API and the API itself: the same routes, the same methods, one list.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{TestApp, add};

const COMMITTED: &str = include_str!("../../docs/openapi.json");

/// A path with something in place of its parameters.
fn filled(path: &str) -> String {
    let id = "01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f";
    let parts = path.split('/').map(|part| match part {
        "{name}" => "main",
        parameter if parameter.starts_with('{') => id,
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

fn set(list: &str) -> BTreeSet<String> {
    list.split(',').map(|method| method.trim().to_owned()).collect()
}

/// What the document says of each path: its methods, and what comes with them.
fn offered(document: &Value) -> Vec<(String, BTreeSet<String>)> {
    let paths = document["paths"].as_object().expect("paths");
    let methods = |item: &Value| {
        let mut methods: BTreeSet<String> = item
            .as_object()
            .expect("an item")
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        methods.insert("OPTIONS".to_owned());
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        methods
    };
    paths
        .iter()
        .map(|(path, item)| (filled(path), methods(item)))
        .collect()
}

#[tokio::test]
async fn a_gateway_serves_the_committed_document() {
    let app = TestApp::start().await;
    let answer = app.get("/openapi.json").await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let committed: Value = serde_json::from_str(COMMITTED).expect("JSON");
    assert!(answer.json() == committed, "run `just openapi`");
    let etag = answer.header("etag").expect("an ETag");
    let again = app.request("GET", "/openapi.json").header("if-none-match", etag);
    assert_eq!(app.send(again).await.expect(304).text, "");
    app.finish().await;
}

#[tokio::test]
async fn every_path_knows_the_methods_of_the_document_and_no_other() {
    let app = TestApp::start().await;
    let document: Value = serde_json::from_str(COMMITTED).expect("JSON");
    let offered = offered(&document);
    assert!(offered.len() >= 8, "{offered:?}");
    for (path, methods) in offered {
        let answer = app.send(app.request("OPTIONS", &path)).await.expect(204);
        assert_eq!(set(answer.header("allow").expect("Allow")), methods, "{path}");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
            if methods.contains(method) {
                continue;
            }
            let answer = app.send(app.request(method, &path)).await;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.text);
            assert_eq!(
                set(answer.header("allow").expect("Allow")),
                methods,
                "{method} {path}"
            );
            if method != "HEAD" {
                answer.problem(405, "SG-0006");
            }
        }
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let app = TestApp::start().await;
    let id = app.settle(&add("hits", 1)).await.id();
    for path in [
        "/v1/transactions",
        "/v1/ledgers",
        "/v1/ledgers/main",
        "/openapi.json",
        "/readyz",
        "/docs/",
        &format!("/v1/transactions/{id}"),
        &format!("/v1/transactions/{id}/attempts"),
    ] {
        let get = app.get(path).await.expect(200);
        let head = app.send(app.request("HEAD", path)).await.expect(200);
        assert_eq!(head.text, "", "{path}");
        for name in ["content-type", "etag", "cache-control", "content-length"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn the_pages_of_the_document_load_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    let moved = app.send(app.request("GET", "/docs")).await.expect(200);
    let page = app.get("/docs/").await.expect(200);
    assert_eq!(moved.text, page.text, "/docs leads to /docs/");
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';"),
        "{policy}"
    );
    assert!(!policy.contains("http") && !policy.contains('*'), "{policy}");
    let names: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| page.text.split(attribute).skip(1))
        .filter_map(|after| after.split('"').next())
        .collect();
    assert!(names.len() >= 5, "{}", page.text);
    for name in names {
        let name = name.trim_start_matches("./");
        let file = app.get(&format!("/docs/{name}")).await.expect(200);
        assert!(file.header("content-security-policy").is_some(), "{name}");
    }
    let start = app.get("/docs/swagger-initializer.js").await.expect(200).text;
    assert!(start.contains("../openapi.json"), "{start}");
    assert!(!start.contains("://"), "{start}");
    for nothing in ["/docs/nothing.js", "/docs/..%2fCargo.toml", "/docs/%FF"] {
        app.get(nothing).await.problem(404, "SG-0005");
    }
    app.finish().await;
}
