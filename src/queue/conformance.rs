//! What every queue must do, run against each of them: for now the embedded one, over both engines.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::embedded::EmbeddedQueue;
use super::{Consumer, WorkQueue};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Event, Lease, LedgerName, Transaction, TransactionId};
use crate::kv::EngineKind;
use crate::store::conformance::transaction;
use crate::store::embedded::EmbeddedStore;
use crate::store::{Change, TransactionStore};
use crate::telemetry::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(10);

struct Bench {
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
        EngineKind::ALL.into_iter().map(|kind| {
            let folder = tempfile::tempdir().expect("folder");
            let metrics = Metrics::new().expect("metrics").store();
            let path = folder.path().join("store");
            let store: Arc<dyn TransactionStore> =
                Arc::new(EmbeddedStore::open(kind, &path, 1 << 20, metrics).expect("opens"));
            let queue = Arc::new(EmbeddedQueue::new(store.clone(), Arc::new(SystemClock)));
            Self {
                store,
                queue,
                _folder: folder,
            }
        })
    }

    async fn consumer(&self) -> Box<dyn Consumer> {
        self.queue.consume(&main_ledger()).await.expect("consumes")
    }

    /// Accepts as the gateway does: stored first, then announced.
    async fn accept(&self) -> Transaction {
        let tx = transaction("main", None);
        self.store.insert(&tx).await.expect("inserts");
        self.queue
            .publish(&main_ledger(), &[tx.id], SystemClock.now())
            .await
            .expect("publishes");
        tx
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
}

async fn next(consumer: &mut dyn Consumer, max: usize) -> Vec<super::Delivery> {
    tokio::time::timeout(PATIENCE, consumer.next(max))
        .await
        .expect("in time")
        .expect("delivers")
}

async fn is_empty(consumer: &mut dyn Consumer) -> bool {
    futures_util::poll!(std::pin::pin!(consumer.next(1))).is_pending()
}

#[tokio::test]
async fn each_is_delivered_oldest_first_and_not_while_on_loan() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(bench.accept().await.id);
        }
        let first = next(&mut *consumer, 3).await;
        let rest = next(&mut *consumer, 9).await;
        let delivered: Vec<TransactionId> = first.iter().chain(&rest).map(|delivery| delivery.id).collect();
        assert_eq!(delivered, ids);
        assert!(is_empty(&mut *consumer).await);
    }
}

#[tokio::test]
async fn what_is_given_back_or_dropped_comes_again() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        let id = bench.accept().await.id;
        for give_back in [true, false] {
            let delivery = next(&mut *consumer, 1).await.remove(0);
            assert_eq!(delivery.id, id);
            if give_back {
                delivery.nack();
            }
        }
        assert_eq!(next(&mut *consumer, 1).await[0].id, id);
    }
}

#[tokio::test]
async fn what_is_acknowledged_after_its_claim_does_not_come_again() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        let tx = bench.accept().await;
        let delivery = next(&mut *consumer, 1).await.remove(0);
        bench.claim(tx).await;
        delivery.ack();
        assert!(is_empty(&mut *consumer).await);
    }
}

#[tokio::test]
async fn a_waiting_consumer_is_woken_and_a_dropped_wait_loses_nothing() {
    for bench in Bench::all() {
        let mut consumer = bench.consumer().await;
        assert!(is_empty(&mut *consumer).await);
        let (delivered, tx) = tokio::join!(next(&mut *consumer, 1), bench.accept());
        assert_eq!(delivered[0].id, tx.id);
    }
}

#[tokio::test]
async fn a_new_consumer_finds_all_that_was_not_acknowledged() {
    for bench in Bench::all() {
        let mut ids = BTreeSet::new();
        for _ in 0..20 {
            ids.insert(bench.accept().await.id);
        }
        let mut crashed = bench.consumer().await;
        let held = next(&mut *crashed, 7).await;
        let mut consumer = bench.consumer().await;
        let found: BTreeSet<_> = next(&mut *consumer, 99)
            .await
            .iter()
            .map(|delivery| delivery.id)
            .collect();
        assert_eq!(found, ids);
        drop(held);
    }
}
