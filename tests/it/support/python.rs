//! Programs of Python with their packages, which pip installs from their `requirements.txt`.

use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;
use tokio::sync::Mutex;

/// Runs a command to its end, whatever that is.
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

/// The programs that `sources` requires: the folder with their commands, below `target`. Installed anew only if what is
/// required has changed.
pub(crate) async fn install(sources: &Path) -> PathBuf {
    // Tests run side by side, and two installations in one folder destroy each other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(sources.file_name().expect("a name"));
    let wanted = sources.join("requirements.txt");
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
