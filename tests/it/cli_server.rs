//! `serve` and `check-config`: a start that works, and those that cannot.

use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::support::cli;
use crate::support::{DEADLINE, TestApp, add};

/// A configuration file with its own folder to live in.
struct Config(tempfile::TempDir);

impl Config {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("config.toml"), text).expect("writes");
        Self(folder)
    }

    /// One that listens on `listen` and keeps its data in `data`.
    fn serving(listen: &str, data: &Path) -> Self {
        Self::new(&format!(
            "[http]\nlisten = {listen:?}\n[store]\npath = {data:?}\n"
        ))
    }

    fn path(&self) -> String {
        self.0.path().join("config.toml").display().to_string()
    }
}

#[tokio::test]
async fn every_mistake_is_a_line() {
    let config = Config::new(
        "[http]\nlisten = \"here\"\nmax_body_bytes = 1\n[store]\nengine = \"rocks\"\n\
         [ledgers.main]\nkind = \"simulator\"\nblock_time = 5\n[ledgers.main.worker]\nrate_per_second = 0\n",
    );
    let ended = cli::run(&["check-config", "--config", &config.path()])
        .await
        .expect(1);
    assert_eq!(ended.out, "");
    let (first, mistakes) = ended.err.split_once('\n').expect("lines");
    assert_eq!(first, "error: the configuration has 5 problems");
    let mistakes: Vec<&str> = mistakes.lines().collect();
    assert_eq!(mistakes.len(), 5, "{mistakes:#?}");
    for (line, (number, key)) in mistakes.iter().zip([
        (2, "http.listen"),
        (3, "http.max_body_bytes"),
        (5, "store.engine"),
        (8, "ledgers.main.block_time"),
        (10, "ledgers.main.worker.rate_per_second"),
    ]) {
        assert!(
            line.trim_start()
                .starts_with(&format!("{}:{number}: {key} ", config.path())),
            "{line}"
        );
    }
    let serve = cli::run(&["serve", "--config", &config.path()]).await.expect(1);
    assert_eq!(serve.err, ended.err, "serve says the same");
}

#[tokio::test]
async fn a_valid_configuration_is_shown_as_one() {
    let config = Config::new("[http]\nlisten = \"127.0.0.1:0\"\n");
    let shown = cli::run(&["check-config", "--config", &config.path()])
        .await
        .expect(0);
    assert!(shown.out.contains("http.listen = \"127.0.0.1:0\""), "{shown:#?}");
    let again = Config::new(&shown.out);
    let twice = cli::run(&["check-config", "--config", &again.path()])
        .await
        .expect(0);
    let keys = |text: &str| -> Vec<String> {
        let settings = text.lines().filter(|line| !line.starts_with('#'));
        settings
            .map(|line| line.split("  #").next().expect("a setting").trim().to_owned())
            .collect()
    };
    assert_eq!(keys(&twice.out), keys(&shown.out));
}

#[tokio::test]
async fn serve_says_what_keeps_it_from_starting() {
    let app = TestApp::start().await;
    let taken = app.address.to_string();
    let folder = tempfile::tempdir().expect("folder");
    let fresh = folder.path().join("data");

    let config = Config::serving(&taken, &fresh);
    let ended = cli::run(&["serve", "--config", &config.path()]).await.expect(1);
    assert!(
        ended.err.contains(&format!("cannot listen on {taken}")),
        "{ended:#?}"
    );
    assert!(
        ended.err.contains("http.listen"),
        "it says what to do: {ended:#?}"
    );
    assert!(!fresh.exists(), "and touched nothing");

    let config = Config::serving("127.0.0.1:0", Path::new("/proc/sluicegate"));
    let ended = cli::run(&["serve", "--config", &config.path()]).await.expect(1);
    assert!(
        ended
            .err
            .contains("cannot use /proc/sluicegate as the data folder"),
        "{ended:#?}"
    );
    assert!(ended.err.contains("store.path"), "it says what to do: {ended:#?}");

    let config = Config::serving("127.0.0.1:0", app.data());
    let ended = cli::run(&["serve", "--config", &config.path()]).await.expect(1);
    let holder = format!("is in use by process {};", std::process::id());
    assert!(ended.err.contains(&holder), "{ended:#?}");

    let missing = folder.path().join("none.toml");
    let ended = cli::run(&["serve", "--config", missing.to_str().expect("UTF-8")])
        .await
        .expect(1);
    assert!(ended.err.contains("none.toml"), "{ended:#?}");
    for ended in [ended.out, ended.err] {
        assert!(!ended.contains("panicked"), "{ended}");
    }
    app.settle(&add("hits", 1)).await;
    app.finish().await;
}

#[tokio::test]
async fn serve_greets_works_and_ends_when_told() {
    let folder = tempfile::tempdir().expect("folder");
    let config = Config::serving("127.0.0.1:0", &folder.path().join("data"));
    let mut served = cli::command(&["serve", "--config", &config.path()])
        .spawn()
        .expect("starts");
    let mut out = BufReader::new(served.stdout.take().expect("its output"));
    let mut greeting = String::new();
    tokio::time::timeout(DEADLINE, out.read_line(&mut greeting))
        .await
        .expect("greets")
        .expect("reads");
    let url = greeting.trim().rsplit(' ').next().expect("an address").to_owned();
    assert!(url.starts_with("http://127.0.0.1:"), "{greeting}");

    let words = [
        "submit",
        "--contract",
        "counter",
        "--function",
        "Add",
        "--arg",
        "hits",
        "--arg",
        "1",
        "--wait",
        "--url",
        &url,
    ];
    let done = cli::run(&words).await.expect(0);
    assert!(done.out.contains("\"done\""), "{done:#?}");

    let id = served.id().expect("runs").to_string();
    let told = tokio::process::Command::new("kill")
        .args(["-TERM", &id])
        .status()
        .await
        .expect("kill");
    assert!(told.success());
    let ended = tokio::time::timeout(DEADLINE, served.wait())
        .await
        .expect("ends in time")
        .expect("ends");
    assert_eq!(ended.code(), Some(0));
    let mut log = String::new();
    served
        .stderr
        .take()
        .expect("its log")
        .read_to_string(&mut log)
        .await
        .expect("reads");
    // What tests are built with warns of itself.
    let mut lines = log
        .lines()
        .filter(|line| !line.contains("a build with failpoints"));
    assert!(
        lines.all(|line| !line.contains("ERROR") && !line.contains("WARN")),
        "{log}"
    );
}
