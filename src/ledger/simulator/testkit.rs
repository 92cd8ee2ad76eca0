//! What the simulator's tests share: a disk in memory that can fail, and a running ledger.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::*;
use crate::clock::SystemClock;
use crate::kv::{Batch, KvError, Order, Visit};
use crate::ledger::conformance::{fresh, outcomes_of, request};

/// What the disk does with the next commits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Disk {
    /// It keeps them.
    #[default]
    Well,
    /// It refuses them.
    Full,
    /// It keeps them and says that it did not.
    Liar,
}

#[derive(Default)]
struct Inner {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    disk: Disk,
    failures: usize,
}

/// An engine in memory. Clones share what they hold, so a "reopened" one finds it again.
#[derive(Clone, Default)]
pub(super) struct MemoryEngine(Arc<Mutex<Inner>>);

impl MemoryEngine {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("not poisoned")
    }

    pub(super) fn set_disk(&self, disk: Disk) {
        self.inner().disk = disk;
    }

    /// How many commits failed so far.
    pub(super) fn failures(&self) -> usize {
        self.inner().failures
    }
}

impl KvEngine for MemoryEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.inner().pairs.get(key).cloned())
    }

    fn scan(&self, range: Range<&[u8]>, order: Order, visit: Visit<'_>) -> Result<(), KvError> {
        assert_eq!(order, Order::Ascending, "the simulator scans forward only");
        let inner = self.inner();
        for (key, value) in inner.pairs.range(range.start.to_vec()..range.end.to_vec()) {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let mut inner = self.inner();
        if inner.disk != Disk::Full {
            for (key, value) in batch.into_writes() {
                match value {
                    Some(value) => drop(inner.pairs.insert(key, value)),
                    None => drop(inner.pairs.remove(&key)),
                }
            }
        }
        if inner.disk == Disk::Well {
            return Ok(());
        }
        inner.failures += 1;
        Err(KvError::Disk("no space left".into()))
    }
}

/// A ledger with the task and the token it runs under.
pub(super) struct Running {
    pub(super) ledger: SimulatorLedger,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Running {
    /// Blocks of `count`, or whatever came within `timeout`.
    pub(super) fn open(
        engine: impl Into<Box<dyn KvEngine>>,
        count: usize,
        timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let settings = SimulatorSettings {
            batch_timeout: timeout,
            max_message_count: NonZeroU32::new(u32::try_from(count).expect("small")).expect("not zero"),
        };
        let ledger =
            SimulatorLedger::open(engine.into(), settings, clock, &tasks, shutdown.clone()).expect("opens");
        Self {
            ledger,
            tasks,
            shutdown,
        }
    }

    /// A new ledger in memory with blocks of exactly `count`.
    pub(super) fn of(count: usize) -> Self {
        let never = Duration::from_secs(3600);
        Self::open(MemoryEngine::default(), count, never, Arc::new(SystemClock))
    }

    pub(super) fn begin_shutdown(&self) {
        self.shutdown.cancel();
    }

    /// Shuts down and waits for the end.
    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        drop(self.ledger);
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) async fn prepare(&self, contract: &str, function: &str, args: &[&str]) -> Prepared {
        let request = request(contract, function, args);
        self.ledger.prepare(fresh(), &request).await.expect("prepared")
    }

    /// Submits in this order and gives the outcomes in the same order, as the stream tells them.
    pub(super) async fn settle(&self, sent: &[&Prepared]) -> Vec<Outcome> {
        let mut stream = self.ledger.outcomes(None);
        for sent in sent {
            self.ledger.submit(sent).await.expect("taken");
        }
        let ids: Vec<&LedgerTxId> = sent.iter().map(|sent| &sent.tx_id).collect();
        let told = outcomes_of(&mut stream, &ids).await;
        ids.into_iter().map(|id| told[id].clone()).collect()
    }

    /// Prepares, submits and waits, on a ledger with blocks of one. The result as text, or the contract's
    /// words.
    pub(super) async fn invoke(
        &self,
        contract: &str,
        function: &str,
        args: &[&str],
    ) -> Result<String, String> {
        let request = request(contract, function, args);
        let sent = match self.ledger.prepare(fresh(), &request).await {
            Ok(sent) => sent,
            Err(PrepareError::Rejected(cause)) => return Err(cause.message),
            Err(error) => panic!("{error}"),
        };
        match self.settle(&[&sent]).await.remove(0) {
            Outcome::Committed(receipt) => Ok(receipt
                .result
                .map(|json| json.get().to_owned())
                .unwrap_or_default()),
            other => panic!("not committed: {other:?}"),
        }
    }

    pub(super) async fn query(&self, contract: &str, function: &str, args: &[&str]) -> String {
        let query = Query {
            contract: contract.into(),
            function: function.into(),
            args: args.iter().map(|arg| Argument::text(arg)).collect(),
        };
        let json = self.ledger.query(&query).await.expect("answered");
        json.get().to_owned()
    }

    /// The codes of a block's entries, in order.
    pub(super) fn codes(&self, block: u64) -> Vec<block::ValidationCode> {
        let entries = self.ledger.engine.peer().chain().entries(block).expect("entries");
        entries.into_iter().map(|entry| entry.code).collect()
    }

    /// Keys and values of a contract's state.
    pub(super) fn state(&self, contract: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        self.ledger
            .engine
            .peer()
            .chain()
            .scan(contract, "", "", &mut |key, _, value| {
                pairs.push((key.to_owned(), value.to_owned()));
                ControlFlow::Continue(())
            })
            .expect("scan");
        pairs
    }
}

impl From<MemoryEngine> for Box<dyn KvEngine> {
    fn from(engine: MemoryEngine) -> Self {
        Box::new(engine)
    }
}

/// Waits until `condition` holds.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect(what);
}

/// Whether this is a conflict of that code.
pub(super) fn is_conflict(outcome: &Outcome, code: &str) -> bool {
    matches!(outcome, Outcome::Conflict(cause) if cause.code == code)
}
