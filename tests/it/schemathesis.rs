//! The API against its own document, as schemathesis reads it: made-up requests, good and bad, in sequences too.
//!
//! All its checks are on. What the document cannot say of values is in `tests/schemathesis/hooks.py`. The seed is fixed,
//! so a failure comes again. Needs Python, and at the first run its package registry; without them it fails and
//! says so.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::app;
use sluicegate::clock::SystemClock;
use sluicegate::config::StoreSettings;
use sluicegate::ledger::LedgerBackend;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::support::python::{self, run, said};
use crate::support::scripted::Scripted;
use crate::support::spawn;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis");

#[tokio::test]
async fn the_api_is_what_its_document_says() {
    let programs = python::install("schemathesis").await;
    let folder = tempfile::tempdir().expect("folder");
    let mut settings = super::worker::settings();
    settings.store = StoreSettings::embedded_at(folder.path().join("data"));
    // It asks for every wait that is allowed.
    settings.http.max_wait = Duration::from_secs(1);
    // It tries without a key again and again.
    settings.auth.max_failed_tries_per_minute = NonZeroU32::MAX;
    // Takes every contract and every function; what a contract takes is its own.
    let ledger: Arc<dyn LedgerBackend> = Scripted::with_default_contract("any");
    let built = app::build_with(settings, Arc::new(SystemClock), &|_| Some(ledger.clone())).await;
    let app = built.expect("builds");
    let (address, stop) = (app.address(), CancellationToken::new());
    let running = spawn(app.run(stop.clone().cancelled_owned()));

    // From the first key on, everybody needs one.
    let body = json!({"name": "schemathesis", "scopes": ["submit", "read", "operate"]});
    let made = reqwest::Client::new()
        .post(format!("http://{address}/v1/keys"))
        .json(&body)
        .send()
        .await;
    let key: Value = made.expect("an answer").json().await.expect("a key");
    let (id, token) = (
        key["id"].as_str().expect("an id"),
        key["key"].as_str().expect("a token"),
    );

    let output = run(Command::new(programs.join("schemathesis"))
        .arg("--config-file")
        .arg(Path::new(FOLDER).join("schemathesis.toml"))
        .arg("run")
        .arg(format!("http://{address}/openapi.json"))
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .env("OWN_KEY", id)
        .env("SCHEMATHESIS_HOOKS", Path::new(FOLDER).join("hooks.py"))
        // What it leaves behind, it leaves here.
        .current_dir(folder.path()))
    .await;
    assert!(output.status.success(), "{}", said(&output));

    stop.cancel();
    running.await.expect("no panic").expect("ends well");
}
