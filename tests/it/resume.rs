//! What was settled while nobody listened is told again to one who waits for it, and needs no look-up.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sluicegate::clock::{Clock, ManualClock, SystemClock};
use sluicegate::config::Settings;
use sluicegate::domain::{Checkpoint, LedgerName, Request, State, Transaction, TransactionId};
use sluicegate::kv::EngineKind;
use sluicegate::notify::StatusHub;
use sluicegate::queue::embedded::EmbeddedQueue;
use sluicegate::store::TransactionStore;
use sluicegate::store::embedded::EmbeddedStore;
use sluicegate::telemetry::Tracer;
use sluicegate::telemetry::metrics::Metrics;
use sluicegate::worker::{Lane, LaneParts};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::cut::{CutQueue, CutStore};
use crate::support::scripted::{Act, Scripted};
use crate::support::{eventually, spawn};

type Store = Arc<dyn TransactionStore>;

fn main_ledger() -> LedgerName {
    LedgerName::new("main").expect("valid")
}

fn open(folder: &Path) -> Store {
    let metrics = Metrics::new().expect("metrics").store();
    let path = folder.join("store.redb");
    Arc::new(EmbeddedStore::open(EngineKind::Redb, &path, 1 << 20, metrics).expect("opens"))
}

/// A lane, and what cuts it off.
struct Worker {
    store_cut: Arc<AtomicBool>,
    replaced: Arc<AtomicBool>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Worker {
    /// Checks fall due after a minute, far later than any of these tests ends.
    fn start(ledger: &Arc<Scripted>, inner: &Store, clock: Arc<dyn Clock>) -> Self {
        let (store_cut, replaced) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut main = Settings::default().ledgers.remove("main").expect("main");
        main.worker.check_after = Duration::from_secs(60);
        let lane = Arc::new(Lane::new(LaneParts {
            name: main_ledger(),
            ledger: ledger.clone(),
            store: Arc::new(CutStore {
                inner: inner.clone(),
                cut: store_cut.clone(),
            }),
            queue: Arc::new(CutQueue {
                inner: Arc::new(EmbeddedQueue::new(inner.clone(), clock.clone())),
                replaced: replaced.clone(),
            }),
            hub: Arc::new(StatusHub::default()),
            clock,
            settings: main.worker,
            retry: main.retry,
            metrics: Metrics::new().expect("metrics").lane(&main_ledger()),
            tracer: Tracer::default(),
            tasks: TaskTracker::new(),
        }));
        let stop = CancellationToken::new();
        let running = spawn(lane.run(stop.clone(), Duration::from_millis(100)));
        Self {
            store_cut,
            replaced,
            stop,
            running,
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("no panic");
    }
}

async fn accept(store: &Store, number: usize) -> Vec<TransactionId> {
    let mut ids = Vec::new();
    for _ in 0..number {
        let request = Request::call(main_ledger(), "any", "Pay", Vec::new());
        let tx = Transaction::accept(request, None, SystemClock.now());
        store.insert(&tx).await.expect("inserts");
        ids.push(tx.id);
    }
    ids
}

async fn all_done(store: &Store, ids: &[TransactionId]) {
    eventually("all are done", async || {
        let records = store.get_many(ids).await;
        let done = |tx: Transaction| matches!(tx.state, State::Done { .. });
        records
            .into_iter()
            .all(|record| record.expect("reads").is_some_and(done))
            .then_some(())
    })
    .await;
}

async fn sent(ledger: &Scripted, number: usize) {
    eventually("all are sent", async || {
        (ledger.sends().len() == number).then_some(())
    })
    .await;
}

async fn checkpoint(store: &Store) -> Option<Checkpoint> {
    store.checkpoint(&main_ledger()).await.expect("reads")
}

fn lookups(ledger: &Scripted) -> usize {
    ledger.lookups.load(Ordering::SeqCst)
}

#[tokio::test]
async fn what_was_told_while_the_gateway_was_down_is_settled_without_a_look_up() {
    for down in [Duration::ZERO, Duration::from_secs(3_600)] {
        let folder = tempfile::tempdir().expect("folder");
        let ledger = Scripted::resuming(&[&[Act::Commit][..], &[Act::Hold; 20]].concat());
        let store = open(folder.path());
        let worker = Worker::start(&ledger, &store, Arc::new(SystemClock));
        let ids = accept(&store, 21).await;
        sent(&ledger, 21).await;
        worker.stop().await;
        assert_eq!(
            checkpoint(&store).await,
            Some(Checkpoint(1)),
            "stored at the end of the drain"
        );
        drop(store);
        ledger.release();

        // Its checks are due after an hour, and no time passes then: nothing but the replay settles it.
        let store = open(folder.path());
        let clock = Arc::new(ManualClock::new(SystemClock.now().plus(down)));
        let worker = Worker::start(&ledger, &store, clock);
        all_done(&store, &ids).await;
        worker.stop().await;
        assert_eq!(
            (lookups(&ledger), ledger.effects(), ledger.sends().len()),
            (0, 21, 21)
        );
        assert_eq!(checkpoint(&store).await, Some(Checkpoint(21)));
    }
}

#[tokio::test]
async fn the_checkpoint_does_not_pass_what_could_not_be_stored() {
    let folder = tempfile::tempdir().expect("folder");
    let ledger = Scripted::resuming(&[Act::Commit, Act::Hold, Act::Hold, Act::Hold]);
    let store = open(folder.path());
    let worker = Worker::start(&ledger, &store, Arc::new(SystemClock));
    let mut ids = accept(&store, 3).await;
    sent(&ledger, 3).await;
    eventually("the first is noted", async || {
        (checkpoint(&store).await == Some(Checkpoint(1))).then_some(())
    })
    .await;
    worker.store_cut.store(true, Ordering::SeqCst);
    ledger.release();
    // Longer than the lane takes to note a checkpoint.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(checkpoint(&store).await, Some(Checkpoint(1)));

    worker.store_cut.store(false, Ordering::SeqCst);
    all_done(&store, &ids).await;
    ids.extend(accept(&store, 1).await);
    sent(&ledger, 4).await;
    // Cut off until the end of this worker: the next one is told again.
    worker.store_cut.store(true, Ordering::SeqCst);
    ledger.release();
    worker.stop().await;
    assert_eq!(checkpoint(&store).await, Some(Checkpoint(3)));
    let worker = Worker::start(&ledger, &store, Arc::new(SystemClock));
    all_done(&store, &ids).await;
    worker.stop().await;
    assert_eq!((lookups(&ledger), ledger.effects()), (0, 4));
    assert_eq!(checkpoint(&store).await, Some(Checkpoint(4)));
}

#[tokio::test]
async fn a_takeover_settles_what_the_other_sent_and_the_other_does_no_harm() {
    let folder = tempfile::tempdir().expect("folder");
    let ledger = Scripted::resuming(&[&[Act::Commit][..], &[Act::Hold; 11]].concat());
    let store = open(folder.path());
    let old = Worker::start(&ledger, &store, Arc::new(SystemClock));
    let mut ids = accept(&store, 11).await;
    sent(&ledger, 11).await;
    eventually("the first is noted", async || {
        (checkpoint(&store).await == Some(Checkpoint(1))).then_some(())
    })
    .await;
    // The old one hears everything, can store nothing, and is not the active consumer any more.
    old.replaced.store(true, Ordering::SeqCst);
    old.store_cut.store(true, Ordering::SeqCst);
    ledger.release();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(checkpoint(&store).await, Some(Checkpoint(1)));

    let new = Worker::start(&ledger, &store, Arc::new(SystemClock));
    all_done(&store, &ids).await;
    // It comes back to what is settled long since.
    old.store_cut.store(false, Ordering::SeqCst);

    // Nor may it say that what it does not wait for is stored.
    ids.extend(accept(&store, 1).await);
    sent(&ledger, 12).await;
    new.store_cut.store(true, Ordering::SeqCst);
    ledger.release();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(checkpoint(&store).await <= Some(Checkpoint(11)));
    new.store_cut.store(false, Ordering::SeqCst);
    all_done(&store, &ids).await;
    new.stop().await;
    old.stop().await;
    assert_eq!(
        (lookups(&ledger), ledger.effects(), ledger.sends().len()),
        (0, 12, 12)
    );
    assert_eq!(checkpoint(&store).await, Some(Checkpoint(12)));
}
