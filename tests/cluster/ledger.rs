//! The ledger of all these tests: a devnet, a process that can be killed, frozen and told to misbehave. Its chain keeps
//! every submission that got into a block, with its moment, repeats included, and outlives every process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::proxy::Proxy;
use crate::support::fabric::FabricDevnet;
use crate::support::{eventually, http};

/// One submission in the chain.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sent {
    pub(crate) block: u64,
    pub(crate) id: String,
    /// Fabric's validation code.
    pub(crate) code: String,
    /// In ms since 1970.
    pub(crate) arrived_at: u64,
}

impl Sent {
    /// Whether it took effect.
    pub(crate) fn is_valid(&self) -> bool {
        self.code == "VALID"
    }
}

/// What was read from the chain, which only grows.
pub(crate) struct Chain {
    http: reqwest::Client,
    control: Mutex<String>,
    sent: tokio::sync::Mutex<Vec<Sent>>,
}

impl Chain {
    /// Every submission that is in a block so far, in the order of the chain; while the devnet is away, what was
    /// known before.
    pub(crate) async fn sent(&self) -> tokio::sync::MutexGuard<'_, Vec<Sent>> {
        let mut sent = self.sent.lock().await;
        let next = sent.last().map_or(1, |last| last.block + 1);
        let control = self
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let answer = self
            .http
            .get(format!("{control}/transactions?from={next}"))
            .send();
        if let Ok(answer) = answer.await
            && let Ok(new) = answer.json::<Vec<Sent>>().await
        {
            sent.extend(new);
        }
        sent
    }
}

/// The devnet, behind a line that may break.
pub(crate) struct Ledger {
    /// `None` while it is down.
    devnet: Option<FabricDevnet>,
    tls: bool,
    pub(crate) line: Arc<Proxy>,
    pub(crate) chain: Arc<Chain>,
    folder: tempfile::TempDir,
}

impl Ledger {
    pub(crate) async fn start(tls: bool) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let devnet = launch(folder.path(), tls).await;
        let chain = Chain {
            http: http(),
            control: Mutex::new(devnet.control.clone()),
            sent: tokio::sync::Mutex::default(),
        };
        Self {
            line: Arc::new(Proxy::before(devnet.address.port()).await),
            devnet: Some(devnet),
            tls,
            chain: Arc::new(chain),
            folder,
        }
    }

    /// Where gateways connect.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.line.port))
    }

    /// Where its certificates and keys are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn devnet(&self) -> &FabricDevnet {
        self.devnet.as_ref().expect("it runs")
    }

    /// How many calls of a method there were since it started.
    pub(crate) async fn calls(&self, method: &str) -> u64 {
        let state = self.devnet().get("/").await;
        state["calls"][method].as_u64().expect("a number")
    }

    /// Sends `STOP` or `CONT`.
    pub(crate) async fn signal(&self, name: &str) {
        self.devnet().signal(name).await;
    }

    /// Tells the control API, which has to agree.
    pub(crate) async fn tell(&self, method: &str, path: &str, body: &Value) {
        self.devnet().tell(method, path, body).await;
    }

    /// SIGKILL: what is in no block yet is lost.
    pub(crate) async fn kill(&mut self) {
        self.devnet.take().expect("it runs").kill().await;
    }

    /// Waits until it has ended at the point where it was told to; kills it if it does not get there. Answers whether
    /// it did.
    pub(crate) async fn crashed(&mut self, patience: Duration) -> bool {
        let mut devnet = self.devnet.take().expect("it runs");
        let crashed = tokio::time::timeout(patience, devnet.wait()).await.is_ok();
        if !crashed {
            devnet.kill().await;
        }
        crashed
    }

    /// Whether it has ended at the point where it was told to.
    pub(crate) async fn has_crashed(&mut self) -> bool {
        let ended = self.devnet.as_mut().expect("it runs").wait();
        let ended = tokio::time::timeout(Duration::from_millis(1), ended)
            .await
            .is_ok();
        if ended {
            self.devnet = None;
        }
        ended
    }

    /// Starts it again on its chain, at another port.
    pub(crate) async fn start_again(&mut self) {
        let devnet = launch(self.folder.path(), self.tls).await;
        self.line.lead_to(devnet.address.port());
        *self.chain.control.lock().unwrap_or_else(PoisonError::into_inner) = devnet.control.clone();
        self.devnet = Some(devnet);
    }

    /// The whole chain, once nobody submits any more: an orderly stop puts what was taken into a block.
    pub(crate) async fn whole_chain(&mut self) -> Vec<Sent> {
        self.devnet.take().expect("it runs").stop().await;
        self.start_again().await;
        let height = self.devnet().get("/").await["height"].as_u64();
        eventually("the chain is read", async || {
            let sent = self.chain.sent().await;
            (height <= Some(sent.last().map_or(0, |last| last.block))).then(|| sent.clone())
        })
        .await
    }
}

/// Blocks are quick, and never the bottleneck.
async fn launch(folder: &Path, tls: bool) -> FabricDevnet {
    let mut words = vec!["--batch-timeout-ms", "20", "--max-message-count", "100"];
    if !tls {
        words.push("--no-tls");
    }
    FabricDevnet::start(folder, &words).await
}
