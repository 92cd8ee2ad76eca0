//! Programs of Node.js with their packages, which npm installs as their lock files say.

use std::path::{Path, PathBuf};
use std::process::Output;

use tokio::process::Command;
use tokio::sync::Mutex;

/// Runs a command to its end, which has to be a good one.
pub(crate) async fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let output = command.kill_on_drop(true).output().await;
    let output =
        output.unwrap_or_else(|error| panic!("{shown}: {error}; this test needs npm (.ci/run installs it)"));
    assert!(
        output.status.success(),
        "{shown}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A copy of the program in `folder`, with its packages, below `target`. They are installed anew only if what is
/// locked has changed.
pub(crate) async fn install(folder: &str) -> PathBuf {
    // Tests run side by side, and two installations in one folder destroy each other.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join(sources.file_name().expect("a name"));
    std::fs::create_dir_all(&copy).expect("a folder");
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let lock = read(sources.join("package-lock.json"));
    for entry in std::fs::read_dir(&sources).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_file() {
            std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("copied");
        }
    }
    let installed = copy.join("installed");
    if read(installed.clone()) != lock {
        // Packages are data here: none of their scripts is run.
        let words = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
        run(Command::new("npm").args(words).current_dir(&copy)).await;
        std::fs::write(installed, lock).expect("noted");
    }
    copy
}

/// Node.js of the version that the program needs, which comes with its packages: distributions have older ones.
pub(crate) fn command(program: &Path) -> Command {
    let kind = match cfg!(target_arch = "aarch64") {
        true => "arm64",
        false => "x64",
    };
    let mut command = Command::new(program.join(format!("node_modules/node-linux-{kind}/bin/node")));
    command.current_dir(program);
    command
}
