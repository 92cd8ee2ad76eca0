//! A gateway of the test's own, which has to leave nothing unfinished behind.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use sluicegate::app;
use sluicegate::clock::{Clock, SystemClock};
use sluicegate::config::{Settings, StoreSettings};
use sluicegate::ledger::LedgerBackend;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::settings::{fast, ledger, simulator, stall};
use super::{Answer, DEADLINE, add, eventually, spawn};

/// A running gateway. A test ends it with [`finish`](Self::finish), or says with [`leave`](Self::leave) that
/// work remains.
pub(crate) struct TestApp {
    pub(crate) address: SocketAddr,
    client: Client,
    settings: Settings,
    folder: Option<TempDir>,
    stop: CancellationToken,
    running: Option<JoinHandle<anyhow::Result<()>>>,
}

impl TestApp {
    /// Short blocks and a rate that holds nothing up.
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// As [`start`](Self::start), but with settings changed.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut settings = Settings::default();
        settings.http.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        settings.store = StoreSettings::embedded_at(folder.path().join("data"));
        let main = ledger(&mut settings);
        main.backend = simulator(20, 100);
        main.retry.conflict.min = Duration::from_millis(5);
        main.retry.conflict.max = Duration::from_millis(50);
        main.retry.conflict.max_attempts = None;
        fast(&mut settings);
        change(&mut settings);
        Self::open(settings, folder, Arc::new(SystemClock), None).await
    }

    /// In front of this ledger, by this clock.
    pub(crate) async fn on(
        ledger: Arc<dyn LedgerBackend>,
        clock: Arc<dyn Clock>,
        mut settings: Settings,
    ) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        settings.store = StoreSettings::embedded_at(folder.path().join("data"));
        Self::open(settings, folder, clock, Some(ledger)).await
    }

    /// A gateway that accepts and submits nothing, for as long as any test runs.
    pub(crate) async fn stalled() -> Self {
        Self::with(stall).await
    }

    async fn open(
        settings: Settings,
        folder: TempDir,
        clock: Arc<dyn Clock>,
        ledger: Option<Arc<dyn LedgerBackend>>,
    ) -> Self {
        let app = app::build_with(settings.clone(), clock, &|_| ledger.clone())
            .await
            .expect("builds");
        let address = app.address();
        let stop = CancellationToken::new();
        let until = stop.clone();
        let running = spawn(async move { app.run(until.cancelled_owned()).await });
        let client = Client::builder()
            .no_proxy()
            .timeout(DEADLINE * 2)
            .build()
            .expect("client");
        Self {
            address,
            client,
            settings,
            folder: Some(folder),
            stop,
            running: Some(running),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> &Path {
        match &self.settings.store {
            StoreSettings::Embedded(store) => &store.path,
            StoreSettings::Postgres(_) => panic!("has no data folder"),
        }
    }

    /// `POST /v1/transactions`.
    pub(crate) async fn post(&self, body: &Value) -> Answer {
        self.send(self.request("POST", "/v1/transactions").json(body))
            .await
    }

    /// `POST /v1/transactions` with these bytes, said to be JSON.
    pub(crate) async fn post_bytes(&self, body: impl Into<Vec<u8>>) -> Answer {
        let request = self
            .request("POST", "/v1/transactions")
            .header("content-type", "application/json");
        self.send(request.body(body.into())).await
    }

    /// `POST /v1/transactions` with an idempotency key.
    pub(crate) async fn post_keyed(&self, key: &str, body: &Value) -> Answer {
        let request = self.request("POST", "/v1/transactions").json(body);
        self.send(request.header("idempotency-key", key)).await
    }

    /// Posts and waits for the end.
    pub(crate) async fn settle(&self, body: &Value) -> Answer {
        let request = self.request("POST", "/v1/transactions").json(body);
        self.send(request.header("prefer", "wait=30")).await.expect(200)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path)).await
    }

    /// The record with this id.
    pub(crate) async fn record(&self, id: &str) -> Value {
        self.get(&format!("/v1/transactions/{id}"))
            .await
            .expect(200)
            .json()
    }

    /// The records of one page that has room for all.
    pub(crate) async fn list(&self, query: &str) -> Vec<Value> {
        let page = self
            .get(&format!("/v1/transactions?limit=500&{query}"))
            .await
            .expect(200)
            .json();
        assert!(page["next_cursor"].is_null(), "more than one page");
        page["items"].as_array().expect("items").clone()
    }

    /// What a counter stands at, asked of the ledger.
    pub(crate) async fn counter(&self, key: &str) -> Value {
        let body =
            serde_json::json!({"ledger": "main", "contract": "counter", "function": "Get", "args": [key]});
        self.send(self.request("POST", "/v1/query").json(&body))
            .await
            .expect(200)
            .json()["result"]
            .clone()
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.client
            .request(method.parse().expect("method"), self.url(path))
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        Answer::read(request.send().await.expect("an answer")).await
    }

    /// Waits until nothing is pending.
    pub(crate) async fn drain(&self) {
        eventually("the backlog is empty", async || {
            let lanes = self.get("/v1/ledgers").await.expect(200).json();
            let lanes = lanes["items"].as_array().expect("lanes");
            lanes.iter().all(|lane| lane["backlog"] == 0).then_some(())
        })
        .await;
    }

    /// Ends it, having made sure that every record is settled.
    pub(crate) async fn finish(self) {
        let pending = self.list("status=pending").await;
        assert!(pending.is_empty(), "unfinished: {pending:#?}");
        self.leave().await;
    }

    /// Ends a test of refusals: whatever was sent, nothing was stored, and the gateway works on.
    pub(crate) async fn finish_untouched(self) {
        assert!(
            self.list("").await.is_empty(),
            "something that was refused was stored"
        );
        self.get("/livez").await.expect(200);
        self.settle(&add("hits", 1)).await;
        self.finish().await;
    }

    /// Stops it gracefully and starts it again on the same folder, with settings changed.
    pub(crate) async fn reopen(self, change: impl FnOnce(&mut Settings)) -> Self {
        self.leave().await.reopen(change).await
    }

    /// Ends it whatever is unfinished, and keeps its folder until the value is dropped.
    pub(crate) async fn leave(mut self) -> Stopped {
        self.stop.cancel();
        let running = self.running.take().expect("running");
        let ended = tokio::time::timeout(DEADLINE, running)
            .await
            .expect("stops in time");
        ended
            .expect("does not panic")
            .expect("stops because it was told to");
        Stopped {
            data: self.data().to_owned(),
            settings: self.settings.clone(),
            folder: self.folder.take().expect("folder"),
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        let ended = self.running.is_none() || std::thread::panicking();
        assert!(
            ended,
            "end the test with finish(), or with leave() if work remains"
        );
    }
}

/// What a stopped gateway leaves.
pub(crate) struct Stopped {
    /// Its data folder.
    pub(crate) data: PathBuf,
    settings: Settings,
    folder: TempDir,
}

impl Stopped {
    /// Starts it again, with settings changed.
    pub(crate) async fn reopen(mut self, change: impl FnOnce(&mut Settings)) -> TestApp {
        change(&mut self.settings);
        TestApp::open(self.settings, self.folder, Arc::new(SystemClock), None).await
    }
}
