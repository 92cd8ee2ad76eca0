//! One gateway process, as an operator starts it, and what may befall it.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::clocks;
use crate::support::{DEADLINE, eventually, http};

/// The gateway of this version.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_sluicegate");

/// What all processes of a site say.
pub(crate) const LOG: &str = "log";

/// How a process is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The program.
    pub(crate) binary: PathBuf,
    /// Where its `config.toml` is.
    pub(crate) folder: PathBuf,
    pub(crate) role: &'static str,
    pub(crate) variables: Vec<(String, String)>,
}

/// A `sluicegate serve`; it is killed when this is dropped.
pub(crate) struct Node {
    /// For the next start.
    pub(crate) launch: Launch,
    process: Child,
    id: u32,
    http: reqwest::Client,
    /// `http://address:port`
    pub(crate) address: String,
}

impl Node {
    /// Starts a process and waits until it listens.
    pub(crate) async fn start(launch: Launch) -> Self {
        Self::try_start(launch).await.expect("it says where it listens")
    }

    /// The same; nothing if it ends before that.
    pub(crate) async fn try_start(launch: Launch) -> Option<Self> {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(launch.folder.join(LOG))
            .expect("a log");
        let mut process = Command::new(&launch.binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--role", launch.role])
            .envs(launch.variables.iter().map(|(key, value)| (key, value)))
            .current_dir(&launch.folder)
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let id = process.id().expect("runs");
        let output = process.stdout.take().expect("piped");
        let greeting = BufReader::new(output).lines().next_line().await.expect("reads");
        let mut node = Self {
            launch,
            process,
            id,
            http: http(),
            address: String::new(),
        };
        node.address = greeting?.rsplit(' ').next()?.to_owned();
        Some(node)
    }

    /// Whether it takes requests.
    pub(crate) fn is_api(&self) -> bool {
        self.launch.role != "worker"
    }

    /// Starts another one in the place of one that has ended.
    pub(crate) async fn start_again(&mut self) {
        *self = Self::start(self.launch.clone()).await;
    }

    /// Starts one in the place of one that has ended, again and again until it stays, as a supervisor does.
    pub(crate) async fn come_back(&mut self) {
        *self = eventually("the gateway comes back", async || {
            Self::try_start(self.launch.clone()).await
        })
        .await;
    }

    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.expect("kills");
    }

    /// How it has ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().expect("waits")
    }

    /// Waits until it ends.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        ended.expect("ends in time").expect("waits")
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
        let status = self.ended().await;
        assert!(status.success(), "a graceful stop ends well: {status}");
    }

    /// Waits until it says that it is about to go.
    pub(crate) async fn is_leaving(&self) {
        eventually("it says that it goes", async || {
            let answer = self.http.get(format!("{}/readyz", self.address)).send().await;
            (answer.expect("answers").status() == 503).then_some(())
        })
        .await;
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}{path}", self.address))
            .send()
            .await
            .expect("answers");
        let status = answer.status();
        let text = answer.text().await.expect("text");
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// The same; nothing if it cannot answer now.
    pub(crate) async fn try_get(&self, path: &str) -> Option<Value> {
        let answer = self.http.get(format!("{}{path}", self.address)).send().await;
        let answer = answer.ok()?.error_for_status().ok()?;
        answer.json().await.ok()
    }

    /// The value of the first sample of a metric; 0 if there is none yet.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let answer = self
            .http
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
        let request = self.http.post(format!("{}/v1/query", self.address));
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

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _gone = self.process.start_kill();
        clocks::clean_up(self.id);
    }
}
