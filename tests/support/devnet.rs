//! A devnet of the test's own: the real binary, as a Fabric network.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::{DEADLINE, eventually};

/// A running devnet.
pub(crate) struct FabricDevnet {
    process: Child,
    /// Kept open: what is printed there must have a reader.
    _out: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    /// `http://address:port` of its control API.
    pub(crate) control: String,
    /// What it logs. A file, because nobody reads while it runs.
    log: File,
    /// What it says to paste into a configuration file.
    pub(crate) section: String,
    client: reqwest::Client,
}

impl FabricDevnet {
    /// One on its folder, with quick blocks, a control API and these words more.
    pub(crate) async fn start(folder: &Path, words: &[&str]) -> Self {
        Self::try_start(folder, words).await.expect("comes up")
    }

    /// Where another one was. While that was away, a connection of some other test may have got its port.
    pub(crate) async fn start_again(folder: &Path, address: SocketAddr) -> Self {
        let listen = address.to_string();
        eventually("the devnet is back", async || {
            Self::try_start(folder, &["--listen", &listen]).await
        })
        .await
    }

    /// One, or nothing if it does not come up.
    async fn try_start(folder: &Path, words: &[&str]) -> Option<Self> {
        let folder = folder.to_str().expect("UTF-8");
        let mut all = vec!["devnet", "--data", folder, "--control", "127.0.0.1:0"];
        if !words.contains(&"--listen") {
            all.extend(["--listen", "127.0.0.1:0"]);
        }
        if !words.contains(&"--batch-timeout-ms") {
            all.extend(["--batch-timeout-ms", "50"]);
        }
        all.extend(words);
        let log = tempfile::tempfile().expect("a file");
        let mut process = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
            .args(&all)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().expect("a second handle"))
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        let mut out = BufReader::new(process.stdout.take().expect("its output"));
        let mut greeting = String::new();
        let read = async {
            while !greeting.contains("default_contract") {
                let more = out.read_line(&mut greeting).await.expect("reads");
                if more == 0 {
                    return None;
                }
            }
            Some(())
        };
        let read = tokio::time::timeout(DEADLINE, read).await;
        read.expect("greets in time")?;
        let value = |before: &str| {
            let found = greeting.lines().find_map(|line| line.split_once(before));
            found.expect("greeted").1.trim().to_owned()
        };
        let address = value(" listens on http");
        let address = address.trim_start_matches('s').trim_start_matches("://");
        Some(Self {
            process,
            _out: out,
            address: address.parse().expect("an address"),
            control: value("  control  "),
            log,
            section: greeting[greeting.find("[ledgers.main]").expect("a section")..].to_owned(),
            client: reqwest::Client::builder()
                .no_proxy()
                .timeout(DEADLINE)
                .build()
                .expect("client"),
        })
    }

    /// Its process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.id().expect("runs")
    }

    /// Sends `STOP`, `CONT` or `TERM`.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.process_id().to_string();
        let told = Command::new("kill").args([&format!("-{name}"), &id]).status();
        assert!(told.await.expect("runs kill").success());
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.expect("kills");
    }

    /// Asks the control API.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.client.get(format!("{}{path}", self.control)).send().await;
        answer.expect("an answer").json().await.expect("JSON")
    }

    /// Tells the control API, which has to agree.
    pub(crate) async fn tell(&self, method: &str, path: &str, body: &Value) {
        let (status, text) = self.try_tell(method, path, &body.to_string()).await;
        assert!((200..300).contains(&status), "{status} {text}");
    }

    /// Tells the control API; its status and words.
    pub(crate) async fn try_tell(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let method = method.parse().expect("a method");
        let request = self.client.request(method, format!("{}{path}", self.control));
        let answer = request.body(body.to_owned()).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("its text"))
    }

    /// Waits for its end, whatever that is. Cancel safe.
    pub(crate) async fn wait(&mut self) {
        self.process.wait().await.expect("waits");
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(mut self) {
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        let status = ended.expect("ends in time").expect("ends");
        assert!(!status.success(), "it was to crash: {status}");
    }

    /// SIGTERM; answers its log.
    pub(crate) async fn stop(mut self) -> String {
        self.signal("TERM").await;
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        assert_eq!(ended.expect("ends in time").expect("ends").code(), Some(0));
        let mut log = String::new();
        self.log.rewind().expect("goes back");
        self.log.read_to_string(&mut log).expect("reads");
        log
    }
}
