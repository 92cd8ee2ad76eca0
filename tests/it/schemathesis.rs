//! The API against its own document, as schemathesis reads it: made-up requests, good and bad, in sequences too.
//!
//! All its checks are on. What the document cannot say of values is in `tests/schemathesis/hooks.py`. The seed is fixed,
//! so a failure comes again. Needs Python, and at the first run its package registry; without them it fails and
//! says so.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::app;
use sluicegate::clock::SystemClock;
use sluicegate::config::StoreSettings;
use sluicegate::ledger::LedgerBackend;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::support::scripted::Scripted;
use crate::support::spawn;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis");

async fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let output = command.kill_on_drop(true).output().await;
    output.unwrap_or_else(|error| {
        panic!("{shown}: {error}; this test needs python3 with venv (.ci/run installs it)")
    })
}

/// Everything that a command has said.
fn said(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    texts.concat()
}

/// The program, in a folder below `target`. Installed anew only if its version has changed.
async fn install() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
    let wanted = Path::new(FOLDER).join("requirements.txt");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let installed = folder.join("installed");
    if read(&installed) != read(&wanted) {
        let make = run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder))
        .await;
        assert!(make.status.success(), "{}", said(&make));
        let words = [
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ];
        let fetch = run(Command::new(folder.join("bin/pip")).args(words).arg(&wanted)).await;
        assert!(fetch.status.success(), "{}", said(&fetch));
        std::fs::copy(&wanted, installed).expect("noted");
    }
    folder.join("bin/schemathesis")
}

#[tokio::test]
async fn the_api_is_what_its_document_says() {
    let schemathesis = install().await;
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

    let output = run(Command::new(schemathesis)
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
