//! The document of the API and the API itself: the same routes, the same methods, one list.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{TestApp, add};

/// `docs/openapi.json`.
fn committed() -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json"));
    serde_json::from_str(&text.expect("the document")).expect("JSON")
}

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
    assert!(answer.json() == committed(), "run `just openapi`");
    let etag = answer.header("etag").expect("an ETag");
    let again = app.request("GET", "/openapi.json").header("if-none-match", etag);
    assert_eq!(app.send(again).await.expect(304).text, "");
    app.finish().await;
}

#[tokio::test]
async fn every_path_knows_the_methods_of_the_document_and_no_other() {
    let app = TestApp::start().await;
    for page in ["/", "/docs/"] {
        let answer = app.send(app.request("OPTIONS", page)).await.expect(204);
        assert_eq!(answer.header("allow").map(set), Some(set("GET,HEAD")), "{page}");
    }
    let offered = offered(&committed());
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

/// An operation of the document.
struct Operation {
    method: String,
    path: String,
    described: Value,
}

impl Operation {
    fn all() -> Vec<Self> {
        let document = committed();
        let paths = document["paths"].as_object().expect("paths").clone();
        let of_path = |(path, item): (String, Value)| {
            let operations = item.as_object().expect("an item").clone();
            operations.into_iter().map(move |(method, described)| Self {
                method: method.to_uppercase(),
                path: path.clone(),
                described,
            })
        };
        paths.into_iter().flat_map(of_path).collect()
    }

    /// A good body for it, if it takes one.
    fn body(&self) -> Option<&Value> {
        self.described
            .pointer("/requestBody/content/application~1json/example")
    }

    /// Sent to this address, with a good body.
    fn request(&self, app: &TestApp, path: &str) -> reqwest::RequestBuilder {
        let request = app.request(&self.method, path);
        match self.body() {
            Some(body) => request.json(body),
            None => request,
        }
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

#[tokio::test]
async fn i10_no_route_passes_over_a_parameter_that_it_does_not_know() {
    let app = TestApp::stalled().await;
    let id = app.post(&add("hits", 1)).await.expect(202).id();
    for operation in Operation::all() {
        if !operation.path.starts_with("/v1/") {
            continue;
        }
        let path = filled(&operation.path).replace("01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f", &id);
        let answer = app
            .send(operation.request(&app, &format!("{path}?nonsense=1")))
            .await;
        assert_eq!(answer.status, 400, "{}: {}", operation.name(), answer.text);
        answer.fault(400, "SG-0009", "#query/nonsense");
    }
    assert_eq!(app.list("").await.len(), 1);
    app.leave().await;
}

#[tokio::test]
async fn i10_every_route_with_a_body_wants_json_of_a_bounded_size() {
    const LIMIT: usize = 4_096;
    let app = TestApp::with(|settings| settings.http.max_body_bytes = LIMIT).await;
    let mut bodies = 0;
    for operation in Operation::all() {
        let Some(good) = operation.body() else { continue };
        bodies += 1;
        let long = format!("{good}{}", " ".repeat(LIMIT));
        for (declared, body, status, code) in [
            ("text/plain", good.to_string(), 415, "SG-0008"),
            ("application/json", String::new(), 400, "SG-0001"),
            ("application/json", "[".to_owned(), 400, "SG-0001"),
            ("application/json", "7".to_owned(), 422, "SG-0002"),
            ("application/json", long, 413, "SG-0007"),
        ] {
            let request = app.request(&operation.method, &filled(&operation.path));
            let shown = body[..body.len().min(40)].to_owned();
            let answer = app
                .send(request.header("content-type", declared).body(body))
                .await;
            assert_eq!(
                answer.status,
                status,
                "{} {declared} {shown}: {}",
                operation.name(),
                answer.text
            );
            answer.problem(status, code);
        }
    }
    assert!(bodies >= 4, "only {bodies} operations have bodies");
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_what_no_address_names_is_not_found() {
    let app = TestApp::start().await;
    for operation in Operation::all() {
        if !operation.path.contains('{') {
            continue;
        }
        let documented = operation
            .described
            .pointer("/responses/404/content/application~1problem+json/examples");
        let documented = documented.unwrap_or_else(|| panic!("{} documents no 404", operation.name()));
        for unknown in ["01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f", "nothing", "%FF", "..%2f"] {
            let path = operation
                .path
                .split('/')
                .map(|part| if part.starts_with('{') { unknown } else { part });
            let path: Vec<_> = path.collect();
            let answer = app.send(operation.request(&app, &path.join("/"))).await;
            assert_eq!(
                answer.status,
                404,
                "{} of {unknown}: {}",
                operation.name(),
                answer.text
            );
            let code = answer.json()["code"].as_str().expect("a code").to_owned();
            assert!(documented.get(&code).is_some(), "{}: {code}", operation.name());
            answer.problem(404, &code);
        }
    }
    app.finish_untouched().await;
}
