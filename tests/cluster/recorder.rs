//! The ledger of all these tests: the simulator, served over a socket from the test's own process, with every
//! submission and its moment written down. It outlives every gateway, so it can tell what came twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::value::RawValue;
use sluicegate::clock::SystemClock;
use sluicegate::config::SimulatorSettings;
use sluicegate::domain::{Argument, Cause, LedgerTxId, Outcome, Prepared, Request};
use sluicegate::kv::{self, EngineKind};
use sluicegate::ledger::simulator::{SimulatorLedger, serve};
use sluicegate::ledger::{
    LedgerBackend, Outcomes, PrepareError, Query, QueryError, SubmitError, Unacceptable,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::spawn;

pub(crate) struct Recorder {
    ledger: SimulatorLedger,
    sent: Mutex<Vec<(LedgerTxId, Instant)>>,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Recorder {
    pub(crate) async fn start() -> Arc<Self> {
        let folder = tempfile::tempdir().expect("folder");
        let engine = kv::open(EngineKind::Redb, &folder.path().join("chain"), 1 << 20).expect("opens");
        let blocks = SimulatorSettings {
            batch_timeout: Duration::from_millis(20),
            max_message_count: 100.try_into().expect("not zero"),
        };
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let ledger = SimulatorLedger::open(engine, blocks, Arc::new(SystemClock), &tasks, stop.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
        let recorder = Arc::new(Self {
            ledger: ledger.expect("opens"),
            sent: Mutex::default(),
            port: listener.local_addr().expect("is bound").port(),
            _folder: folder,
        });
        spawn(serve(listener, recorder.clone(), stop));
        recorder
    }

    /// Every submission so far, in order.
    pub(crate) fn sent(&self) -> Vec<(LedgerTxId, Instant)> {
        self.sent.lock().expect("lock").clone()
    }

    /// Submissions that came more than once, with how often.
    pub(crate) fn repeated(&self) -> BTreeMap<String, usize> {
        let mut times = BTreeMap::new();
        for (tx_id, _) in self.sent() {
            *times.entry(tx_id.to_string()).or_default() += 1;
        }
        times.retain(|_, times| *times > 1);
        times
    }

    /// What the counter `key` stands at.
    pub(crate) async fn counter(&self, key: &str) -> u64 {
        let key: Argument = serde_json::from_value(key.into()).expect("an argument");
        let query = Query {
            contract: "counter".to_owned(),
            function: "Get".to_owned(),
            args: vec![key],
        };
        let answer = self.query(&query).await.expect("answers");
        answer.get().parse().expect("a number")
    }
}

#[async_trait]
impl LedgerBackend for Recorder {
    fn kind(&self) -> &'static str {
        self.ledger.kind()
    }

    fn check(&self, request: &Request) -> Result<(), Unacceptable> {
        self.ledger.check(request)
    }

    fn deduplicates(&self) -> bool {
        self.ledger.deduplicates()
    }

    async fn prepare(&self, request: &Request) -> Result<Prepared, PrepareError> {
        self.ledger.prepare(request).await
    }

    async fn submit(&self, prepared: &Prepared) -> Result<(), SubmitError> {
        self.sent
            .lock()
            .expect("lock")
            .push((prepared.tx_id.clone(), Instant::now()));
        self.ledger.submit(prepared).await
    }

    fn outcomes(&self) -> Outcomes {
        self.ledger.outcomes()
    }

    async fn lookup(&self, tx_id: &LedgerTxId) -> Outcome {
        self.ledger.lookup(tx_id).await
    }

    async fn query(&self, query: &Query) -> Result<Box<RawValue>, QueryError> {
        self.ledger.query(query).await
    }

    async fn probe(&self) -> Result<(), Cause> {
        self.ledger.probe().await
    }
}
