//! What every queue must do, run against each of them: the embedded one over both engines, RabbitMQ with both
//! kinds of queue.
//!
//! That a queue is empty is shown by a later message that comes first: a broker has no moment at which
//! nothing is on its way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::embedded::EmbeddedQueue;
use super::rabbit::broker::Broker;
use super::rabbit::testkit;
use super::{Consumer, Delivery, Traces, WorkQueue};
use crate::clock::{Clock, SystemClock};
use crate::config::QueueType;
use crate::domain::{Event, Lease, LedgerName, Transaction, TransactionId};
use crate::kv::EngineKind;
use crate::store::conformance::transaction;
use crate::store::embedded::EmbeddedStore;
use crate::store::{Change, TransactionStore};
use crate::telemetry::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    name: String,
    store: Arc<dyn TransactionStore>,
    queue: Arc<dyn WorkQueue>,
    _folder: tempfile::TempDir,
}

fn main_ledger() -> LedgerName {
    LedgerName::new("main").expect("valid name")
}

impl Bench {
    /// Every queue there is, each with a store of its own.
    fn all() -> impl Iterator<Item = Self> {
        Self::embedded().chain(Self::rabbit())
    }

    fn embedded() -> impl Iterator<Item = Self> {
        EngineKind::ALL.into_iter().map(|kind| {
            let (store, folder) = store(kind);
            Self {
                name: format!("embedded, {kind:?}"),
                queue: Arc::new(EmbeddedQueue::new(store.clone(), Arc::new(SystemClock))),
                store,
                _folder: folder,
            }
        })
    }

    fn rabbit() -> impl Iterator<Item = Self> {
        [QueueType::Quorum, QueueType::Classic].into_iter().map(|kind| {
            let (store, folder) = store(EngineKind::Redb);
            Self {
                name: format!("rabbitmq, {kind:?}"),
                queue: Arc::new(testkit::queue(&testkit::settings(Broker::shared().url(), kind))),
                store,
                _folder: folder,
            }
        })
    }

    async fn consumer(&self) -> Box<dyn Consumer> {
        self.queue.consume(&main_ledger()).await.expect("consumes")
    }

    /// Accepts as the gateway does: stored first, then announced.
    async fn accept(&self) -> Transaction {
        self.accept_many(1).await.remove(0)
    }

    async fn accept_many(&self, count: usize) -> Vec<Transaction> {
        let all: Vec<_> = (0..count).map(|_| transaction("main", None)).collect();
        for tx in &all {
            self.store.insert(tx).await.expect("inserts");
        }
        let ids: Vec<_> = all.iter().map(|tx| tx.id).collect();
        let published = self
            .queue
            .publish(&main_ledger(), &ids, SystemClock.now(), &Traces::default())
            .await
            .expect("publishes");
        assert_eq!(published, vec![true; count], "{}", self.name);
        all
    }

    /// What a worker stores before it acknowledges.
    async fn claim(&self, old: Transaction) {
        let now = SystemClock.now();
        let lease = Lease {
            owner: "w".into(),
            until: now.plus(Duration::from_secs(60)),
        };
        let new = old.apply(Event::Claimed { lease }, now).expect("legal");
        assert_eq!(
            self.store
                .compare_and_swap(vec![Change { old, new }])
                .await
                .expect("swaps"),
            [true]
        );
    }

    /// The next so many, in however many portions.
    async fn take(&self, consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        let taking = async {
            while taken.len() < count {
                taken.extend(consumer.next(count - taken.len()).await.expect("delivers"));
            }
        };
        let waited = tokio::time::timeout(PATIENCE, taking).await;
        assert!(waited.is_ok(), "{}: {} of {count} came", self.name, taken.len());
        taken
    }

    /// Nothing comes before what is accepted now.
    async fn assert_empty(&self, consumer: &mut dyn Consumer) {
        let tx = self.accept().await;
        let delivery = self.take(consumer, 1).await.remove(0);
        assert_eq!(delivery.id, tx.id, "{}", self.name);
        self.claim(tx).await;
        delivery.ack();
    }
}

fn store(kind: EngineKind) -> (Arc<dyn TransactionStore>, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("folder");
    let metrics = Metrics::new().expect("metrics").store();
    let path = folder.path().join("store");
    let store = EmbeddedStore::open(kind, &path, 1 << 20, metrics).expect("opens");
    (Arc::new(store), folder)
}

fn ids(deliveries: &[Delivery]) -> Vec<TransactionId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_delivered_oldest_first_and_not_while_on_loan() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        let mut accepted = Vec::new();
        for _ in 0..5 {
            accepted.push(bench.accept().await.id);
        }
        let first = bench.take(&mut *consumer, 3).await;
        let rest = bench.take(&mut *consumer, 2).await;
        assert_eq!([ids(&first), ids(&rest)].concat(), accepted, "{}", bench.name);
        bench.assert_empty(&mut *consumer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_announced_at_once_and_never_more_given_than_asked_for() {
    for bench in Bench::all() {
        let accepted: Vec<_> = bench.accept_many(700).await.iter().map(|tx| tx.id).collect();
        let mut consumer = bench.consumer().await;
        let mut seen = Vec::new();
        while seen.len() < accepted.len() {
            let portion = tokio::time::timeout(PATIENCE, consumer.next(50)).await;
            let portion = portion.expect("in time").expect("delivers");
            assert!((1..=50).contains(&portion.len()), "{}", bench.name);
            for delivery in portion {
                seen.push(delivery.id);
                let tx = bench
                    .store
                    .get(delivery.id)
                    .await
                    .expect("reads")
                    .expect("is there");
                bench.claim(tx).await;
                delivery.ack();
            }
        }
        assert_eq!(seen, accepted, "{}", bench.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_comes_again() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        let id = bench.accept().await.id;
        for _ in 0..3 {
            assert_eq!(bench.take(&mut *consumer, 1).await[0].id, id, "{}", bench.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_after_its_claim_does_not_come_again() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        let tx = bench.accept().await;
        let delivery = bench.take(&mut *consumer, 1).await.remove(0);
        bench.claim(tx).await;
        delivery.ack();
        bench.assert_empty(&mut *consumer).await;
        drop(consumer);
        bench.assert_empty(&mut *bench.consumer().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rejected_does_not_come_again_and_holds_nobody_up() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        bench.accept().await;
        bench.take(&mut *consumer, 1).await.remove(0).reject();
        bench.assert_empty(&mut *consumer).await;
        drop(consumer);
        bench.assert_empty(&mut *bench.consumer().await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_consumer_is_woken_and_a_dropped_wait_loses_nothing() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        assert!(futures_util::poll!(std::pin::pin!(consumer.next(1))).is_pending());
        let (delivered, tx) = tokio::join!(bench.take(&mut *consumer, 1), bench.accept());
        assert_eq!(delivered[0].id, tx.id, "{}", bench.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_consumer_finds_all_that_was_not_acknowledged() {
    for bench in Bench::all() {
        let accepted: BTreeSet<_> = bench.accept_many(20).await.iter().map(|tx| tx.id).collect();
        let mut crashed = bench.consumer().await;
        let held = bench.take(&mut *crashed, 7).await;
        // Only one consumer at a time is given anything.
        drop(crashed);
        let mut consumer = bench.consumer().await;
        let found = bench.take(&mut *consumer, 20).await;
        assert_eq!(BTreeSet::from_iter(ids(&found)), accepted, "{}", bench.name);
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_knows_that_it_is_the_only_one() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        let tenure = consumer.tenure();
        bench.assert_empty(&mut *consumer).await;
        let proven = async {
            while !tenure.holds() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, proven).await;
        assert!(waited.is_ok(), "{}", bench.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_works_is_in_no_trouble() {
    for bench in Bench::all() {
        bench.accept().await;
        assert_eq!(bench.queue.health().trouble, None, "{}", bench.name);
    }
}
