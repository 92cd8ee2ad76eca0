//! One gateway process, as an operator starts it, and what may befall it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{DEADLINE, http};

/// What all processes of a site say.
pub(crate) const LOG: &str = "log";

/// A running `sluicegate serve`; it is killed when this is dropped.
pub(crate) struct Node {
    process: Child,
    /// `http://address:port`
    pub(crate) address: String,
}

impl Node {
    /// Starts a process with the `config.toml` in `folder` and waits until it listens.
    pub(crate) async fn start(folder: &Path, role: &'static str) -> Self {
        Self::start_with::<&str>(folder, role, &[]).await
    }

    /// The same with variables.
    pub(crate) async fn start_with<V: AsRef<OsStr>>(
        folder: &Path,
        role: &'static str,
        variables: &[(V, V)],
    ) -> Self {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join(LOG))
            .expect("a log");
        let mut process = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--role", role])
            .envs(variables.iter().map(|(key, value)| (key, value)))
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let output = process.stdout.take().expect("piped");
        let greeting = BufReader::new(output).lines().next_line().await.expect("reads");
        let greeting = greeting.expect("it says where it listens");
        let address = greeting.rsplit(' ').next().expect("an address").to_owned();
        Self { process, address }
    }

    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.expect("kills");
    }

    /// Sends `STOP`, `CONT` or `TERM`.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.process.id().expect("runs").to_string();
        let told = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status()
            .await;
        assert!(told.expect("runs kill").success());
    }

    /// Stops as an operator would.
    pub(crate) async fn stop(&mut self) {
        self.signal("TERM").await;
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        let status = ended.expect("ends in time").expect("waits");
        assert!(status.success(), "a graceful stop ends well: {status}");
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = http()
            .get(format!("{}{path}", self.address))
            .send()
            .await
            .expect("answers");
        let status = answer.status();
        let text = answer.text().await.expect("text");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// The value of the first sample of a metric; 0 if there is none yet.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let answer = http()
            .get(format!("{}/metrics", self.address))
            .send()
            .await
            .expect("answers");
        let text = answer.text().await.expect("text");
        let sample = text.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        sample
            .and_then(|line| line.rsplit(' ').next())
            .map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// What the counter `key` stands at, asked of the ledger.
    pub(crate) async fn counter(&self, key: &str) -> u64 {
        let body = json!({"ledger": "main", "contract": "counter", "function": "Get", "args": [key]});
        let request = http().post(format!("{}/v1/query", self.address));
        let answer = request.json(&body).send().await.expect("answers");
        let status = answer.status();
        let answer: Value = answer.json().await.expect("JSON");
        assert!(status.is_success(), "{status} {answer}");
        answer["result"].as_u64().expect("a number")
    }

    /// Whether it submits: of several workers, one does.
    pub(crate) async fn submissions(&self) -> f64 {
        self.metric("sluicegate_submissions_total").await
    }
}
