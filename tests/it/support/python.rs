//! Programs of Python with their packages, which pip installs as their lists say.

use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;

pub(crate) async fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let output = command.kill_on_drop(true).output().await;
    output.unwrap_or_else(|error| {
        panic!("{shown}: {error}; this test needs python3 with venv (.ci/run installs it)")
    })
}

/// Everything that a command has said.
pub(crate) fn said(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    texts.concat()
}

/// Where the programs are that `requirements.txt` in this folder of `tests` lists: below `target`. Installed anew only if
/// that list has changed.
pub(crate) async fn install(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let wanted = tests.join(name).join("requirements.txt");
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
    folder.join("bin")
}
