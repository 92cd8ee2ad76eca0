//! The console: how its files are served, and what it does in a real browser (`tests/console`).
//!
//! Needs Debian's chromium, and npm with, at the first run, its registry; without them it fails and says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::clock::{Clock, ManualClock, SystemClock};
use tokio::sync::OnceCell;

use crate::support::scripted::{Act, Scripted};
use crate::support::{TestApp, add, eventually, ledger, node, simulator};
use crate::worker::settings;

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
async fn a_person_settles_with_it_what_the_ledger_cannot_tell() {
    let scripts = scripts().await;
    let ledger = Scripted::new(&[Act::LoseAll], false);
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let app = TestApp::on(ledger, clock.clone(), settings()).await;
    let id = app.post(&add("hits", 1)).await.expect(202).id();
    eventually("it is parked", async || {
        clock.advance(Duration::from_secs(10));
        (app.record(&id).await["stage"] == "parked").then_some(())
    })
    .await;
    node::run(node::command(scripts).arg("settle.mjs").args([&app.url(""), &id])).await;
    let record = app.record(&id).await;
    assert_eq!(
        (&record["status"], &record["block"]),
        (&json!("done"), &json!(12))
    );
    assert_eq!(record["actions"][0]["note"], "seen in the explorer");
    app.finish().await;
}

#[tokio::test]
async fn it_asks_for_a_key_where_one_is_needed() {
    let scripts = scripts().await;
    let app = TestApp::start().await;
    node::run(node::command(scripts).arg("access.mjs").arg(app.url(""))).await;
    app.leave().await;
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
