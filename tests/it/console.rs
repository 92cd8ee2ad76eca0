//! The console: how its files are served, and what it does in a real browser (`tests/console`).
//!
//! Needs Debian's chromium, and npm with, at the first run, its registry; without them it fails and says so.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::support::{TestApp, ledger, node, simulator};

/// The scripts with their packages.
async fn scripts() -> &'static Path {
    static SCRIPTS: OnceCell<PathBuf> = OnceCell::const_new();
    SCRIPTS.get_or_init(|| node::install("tests/console")).await
}

#[tokio::test]
async fn its_files_are_never_stale_and_can_load_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/console/main.js", "text/javascript; charset=utf-8"),
        ("/console/base.css", "text/css; charset=utf-8"),
        ("/console/favicon.svg", "image/svg+xml"),
    ] {
        let answer = app.get(path).await.expect(200);
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-cache"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        let policy = answer.header("content-security-policy").expect("a policy");
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.split("; ").any(|part| part == rule), "{rule}: {policy}");
        }
        let tag = answer.header("etag").expect("a tag").to_owned();
        let again = app.request("GET", path).header("if-none-match", &tag);
        let again = app.send(again).await.expect(304);
        assert_eq!((again.text.as_str(), again.header("etag")), ("", Some(&*tag)));
        let head = app.send(app.request("HEAD", path)).await.expect(200);
        assert_eq!(head.text, "");
        assert_eq!(
            head.header("content-length"),
            Some(&*answer.text.len().to_string())
        );
    }
    for path in [
        "/console/nothing.js",
        "/console/main",
        "/console/../console.rs",
        "/console/..%2fconsole.rs",
        "/console/%ff.js",
    ] {
        app.get(path).await.problem(404, "SG-0005");
    }
    app.send(app.request("POST", "/")).await.problem(405, "SG-0006");
    app.finish().await;
}

/// With SLUICEGATE_SCREENSHOTS it takes the pictures of the documentation, too, and puts them there.
#[tokio::test]
async fn an_operator_can_do_everything_with_it_in_a_real_browser() {
    let scripts = scripts().await;
    let app = TestApp::with(|settings| ledger(settings).backend = simulator(100, 12)).await;
    let mut command = node::command(scripts);
    command.arg("main.mjs").arg(app.url(""));
    if let Some(folder) = std::env::var_os("SLUICEGATE_SCREENSHOTS") {
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    }
    node::run(&mut command).await;
    app.finish().await;
}

#[tokio::test]
async fn a_list_of_a_hundred_thousand_stays_smooth() {
    let scripts = scripts().await;
    let app = TestApp::stalled().await;
    for batch in 0..100 {
        let record = |number: u32| {
            let order = (batch * 1_000 + number).to_string();
            json!({"ledger": "main", "contract": "counter", "function": "Add", "args": ["hits", 1],
                "metadata": {"order": order}})
        };
        let records: Vec<Value> = (0..1_000).map(record).collect();
        let request = app.request("POST", "/v1/transactions/batch").json(&records);
        app.send(request).await.expect(200);
    }
    node::run(node::command(scripts).arg("long.mjs").arg(app.url(""))).await;
    app.leave().await;
}
