//! What the tests of this queue share.

use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties};

use super::RabbitQueue;
use crate::config::{QueueType, RabbitSettings, ServerUrl};
use crate::domain::{LedgerName, Timestamp, TransactionId};
use crate::queue::{Consumer, Delivery, Traces, WorkQueue};
use crate::telemetry::metrics::Metrics;

/// For what a healthy broker does at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Settings with queue names that nobody else uses.
pub(crate) fn settings(url: &str, queue_type: QueueType) -> RabbitSettings {
    RabbitSettings {
        url: ServerUrl::parse(url, &["amqp", "amqps"]).expect("an address"),
        queue_type,
        prefix: format!("t{}", uuid::Uuid::now_v7().simple()),
        prefetch: 1_000.try_into().expect("not zero"),
        heartbeat: Duration::from_secs(10),
        tls_ca: None,
        tls_identity: None,
    }
}

pub(crate) fn queue(settings: &RabbitSettings) -> RabbitQueue {
    RabbitQueue::new(settings.clone(), metrics()).expect("settings that can be used")
}

pub(crate) fn metrics() -> Metrics {
    Metrics::new().expect("metrics")
}

pub(crate) fn main_ledger() -> LedgerName {
    LedgerName::new("main").expect("valid name")
}

pub(crate) fn ids(count: usize) -> Vec<TransactionId> {
    (0..count).map(|_| TransactionId::new()).collect()
}

pub(crate) fn now() -> Timestamp {
    use crate::clock::Clock;
    crate::clock::SystemClock.now()
}

/// Announces until the broker has them all.
pub(crate) async fn announce(queue: &RabbitQueue, ids: &[TransactionId]) {
    let confirmed = queue
        .publish(&main_ledger(), ids, now(), &Traces::default())
        .await
        .expect("publishes");
    assert!(confirmed.iter().all(|yes| *yes), "{confirmed:?}");
}

pub(crate) async fn consumer(queue: &RabbitQueue) -> Box<dyn Consumer> {
    queue.consume(&main_ledger()).await.expect("consumes")
}

/// The next so many, in however many portions.
pub(crate) async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    let taking = async {
        while taken.len() < count {
            taken.extend(consumer.next(count - taken.len()).await.expect("delivers"));
        }
    };
    if tokio::time::timeout(PATIENCE, taking).await.is_err() {
        panic!("only {} of {count} came", taken.len());
    }
    taken
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waited in vain: {what}");
}

/// A connection past the queue under test.
pub(crate) struct Raw {
    pub(crate) channel: Channel,
    /// Closed when dropped.
    _connection: Connection,
}

pub(crate) async fn raw(url: &str) -> Raw {
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .expect("connects");
    let channel = connection.create_channel().await.expect("opens a channel");
    Raw {
        channel,
        _connection: connection,
    }
}

/// A metric of the ledger, 0 if nothing was counted.
pub(crate) fn metric(metrics: &Metrics, name: &str) -> f64 {
    let text = metrics.render();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}
