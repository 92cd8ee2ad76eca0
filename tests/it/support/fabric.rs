//! A devnet of the test's own: the real binary, as a Fabric network.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout};

use super::{DEADLINE, cli, eventually};

/// A running devnet.
pub(crate) struct FabricDevnet {
    process: Child,
    /// Kept open: what is printed there must have a reader.
    _out: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    control: String,
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
        let mut process = cli::command(&all).spawn().expect("starts");
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

    /// Waits for it to end by itself.
    pub(crate) async fn ended(mut self) {
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        let status = ended.expect("ends in time").expect("ends");
        assert!(!status.success(), "it was to crash: {status}");
    }

    /// SIGTERM; answers its log.
    pub(crate) async fn stop(mut self) -> String {
        let id = self.process_id().to_string();
        let told = tokio::process::Command::new("kill").args(["-TERM", &id]).status();
        assert!(told.await.expect("kill").success());
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        assert_eq!(ended.expect("ends in time").expect("ends").code(), Some(0));
        let mut log = String::new();
        let mut from = self.process.stderr.take().expect("its log");
        from.read_to_string(&mut log).await.expect("reads");
        log
    }
}
