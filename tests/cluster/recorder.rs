//! The ledger of all these tests: a devnet in the test's own process, whose chain keeps every submission and its
//! moment, repeats included. It outlives every gateway, so it can tell what came twice.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use sluicegate::app::devnet::{DevnetSettings, build};
use sluicegate::config::SimulatorSettings;
use sluicegate::devnet::{NetworkSettings, Policy};
use tokio::sync::{Mutex, MutexGuard};

use crate::support::{eventually, http, spawn};

/// One arrival at the ledger.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sent {
    block: u64,
    id: String,
    /// In ms since 1970.
    pub(crate) arrived_at: u64,
}

/// The devnet; it ends with the runtime of its test.
pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    control: String,
    http: reqwest::Client,
    /// What was read from the chain so far.
    sent: Mutex<Vec<Sent>>,
    folder: tempfile::TempDir,
}

impl Recorder {
    pub(crate) async fn start(tls: bool) -> Arc<Self> {
        let folder = tempfile::tempdir().expect("folder");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let settings = DevnetSettings {
            listen: any_port,
            folder: folder.path().to_owned(),
            network: NetworkSettings {
                organisations: 1,
                policy: Policy::Majority,
                channel: "mychannel".to_owned(),
                gateway_limit: 500,
                tls,
                tls_names: Vec::new(),
                blocks: SimulatorSettings {
                    batch_timeout: Duration::from_millis(20),
                    max_message_count: 100.try_into().expect("not zero"),
                },
                faults: Vec::new(),
                crash_at: None,
            },
            control: Some(any_port),
        };
        let devnet = build(&settings).await.expect("a devnet");
        let recorder = Arc::new(Self {
            address: devnet.address(),
            control: format!("http://{}", devnet.control_address().expect("is served")),
            http: http(),
            sent: Mutex::default(),
            folder,
        });
        spawn(devnet.run(std::future::pending()));
        recorder
    }

    /// Where its certificates and keys are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Every submission that is in a block so far, as they arrived.
    pub(crate) async fn sent(&self) -> MutexGuard<'_, Vec<Sent>> {
        let mut sent = self.sent.lock().await;
        let next = sent.iter().map(|one| one.block + 1).max().unwrap_or(1);
        let new = self.get(&format!("/transactions?from={next}")).await;
        let new: Vec<Sent> = serde_json::from_value(new).expect("transactions");
        sent.extend(new);
        sent.sort_by_key(|one| one.arrived_at);
        sent
    }

    /// Every submission there was: the chain holds as many as there were calls.
    pub(crate) async fn all_sent(&self) -> Vec<Sent> {
        eventually("every submission is in a block", async || {
            let calls = self.get("/").await["calls"]["submit"].as_u64();
            let sent = self.sent().await;
            (Some(sent.len() as u64) == calls).then(|| sent.clone())
        })
        .await
    }

    /// Submissions that came more than once, with how often.
    pub(crate) async fn repeated(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        for one in self.all_sent().await {
            *times.entry(one.id).or_default() += 1;
        }
        times.retain(|_, times| *times > 1);
        times
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.control)).send().await;
        answer.expect("answers").json().await.expect("JSON")
    }
}
