//! Confirmed announcements per second against a raw lapin publisher, on the same broker in the same run.
//!
//! `cargo bench --bench publish` (about three minutes; starts a broker of its own, or uses
//! `SLUICEGATE_TEST_AMQP_URL`). Each round runs all in turn, on queues that are emptied before; the ratio is
//! taken per round and the median printed. The raw publisher sends bare ids, and, for what our own code costs,
//! the same messages as the queue. `… -- KIND` takes one kind of queue only.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark may panic")]

#[path = "../tests/support/rabbitmq.rs"]
mod rabbitmq;
mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use sluicegate::clock::{Clock, SystemClock};
use sluicegate::config::{QueueType, RabbitSettings, ServerUrl};
use sluicegate::domain::{LedgerName, TransactionId};
use sluicegate::queue::rabbit::RabbitQueue;
use sluicegate::queue::{Traces, WorkQueue};
use sluicegate::telemetry::metrics::Metrics;
use support::median;

const ROUNDS: usize = 7;
const RUN: Duration = Duration::from_secs(3);
const IN_FLIGHT: usize = 512;
const BATCH: usize = 2_048;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    println!("| queue | | per second | ratio to bare | lowest, highest |");
    println!("|---|---|---|---|---|");
    for kind in [QueueType::Quorum, QueueType::Classic] {
        if words.is_empty() || words.contains(&kind.as_str().to_owned()) {
            runtime.block_on(compare(kind));
        }
    }
}

async fn compare(kind: QueueType) {
    let url = rabbitmq::Broker::shared().url();
    let ledger = LedgerName::new("main").expect("valid name");
    let prefix = format!("bench-{}", std::process::id());
    let queue =
        RabbitQueue::new(settings(url, kind, &prefix), Metrics::new().expect("metrics")).expect("settings");
    let connection = Connection::connect(url, ConnectionProperties::default())
        .await
        .expect("connects");
    let channel = connection.create_channel().await.expect("opens");
    let (ours, raws) = (format!("{prefix}.main"), format!("{prefix}.raw"));
    declare(&channel, &raws, kind).await;
    announce(&queue, &ledger, Duration::from_millis(500)).await;
    publish_raw(&connection, &raws, bare, Duration::from_millis(500)).await;
    let mut rates = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        // Who comes first changes, and each finds an empty queue.
        for turn in 0..3 {
            for name in [&ours, &raws] {
                let purged = channel.queue_purge(name.as_str().into(), QueuePurgeOptions::default());
                purged.await.expect("purges");
            }
            let who = (round + turn) % 3;
            rates[who].push(match who {
                0 => publish_raw(&connection, &raws, bare, RUN).await,
                1 => publish_raw(&connection, &raws, full, RUN).await,
                _ => announce(&queue, &ledger, RUN).await,
            });
        }
    }
    let names = ["raw, bare ids", "raw, the same messages", "in batches of 2,048"];
    for (name, own) in names.iter().zip(&rates) {
        let ratios: Vec<f64> = rates[0].iter().zip(own).map(|(raw, own)| own / raw).collect();
        println!(
            "| {} | {name} | {:.0} | {:.2} | {:.2}, {:.2} |",
            kind.as_str(),
            median(own.clone()),
            median(ratios.clone()),
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        );
    }
    queue.close().await;
    for name in [ours.clone(), format!("{ours}.dead"), raws] {
        let deleted = channel.queue_delete(name.into(), QueueDeleteOptions::default());
        deleted.await.expect("deletes");
    }
}

fn settings(url: &str, queue_type: QueueType, prefix: &str) -> RabbitSettings {
    RabbitSettings {
        url: ServerUrl::parse(url, &["amqp", "amqps"]).expect("an address"),
        queue_type,
        prefix: prefix.to_owned(),
        prefetch: 256.try_into().expect("not zero"),
        heartbeat: Duration::from_secs(10),
        tls_ca: None,
        tls_identity: None,
    }
}

async fn declare(channel: &Channel, name: &str, kind: QueueType) {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.as_str().into()));
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declared = channel.queue_declare(name.into(), options, arguments);
    declared.await.expect("declares");
}

/// The least that a persistent message needs.
fn bare(_: &str) -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// What the queue puts into its messages.
fn full(id: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    let millis = SystemClock.now().as_millis();
    headers.insert(
        "announced-at".into(),
        AMQPValue::LongLongInt(millis.try_into().expect("fits")),
    );
    let trace = format!("00-{}-{:016x}-01", id.replace('-', ""), millis);
    headers.insert("traceparent".into(), AMQPValue::LongString(trace.into()));
    bare(id)
        .with_content_type("text/plain".into())
        .with_message_id(id.into())
        .with_headers(headers)
}

/// 512 in flight, each confirmed: the least that such a publisher does.
async fn publish_raw(
    connection: &Connection,
    queue: &str,
    properties: fn(&str) -> BasicProperties,
    run: Duration,
) -> f64 {
    let channel = connection.create_channel().await.expect("opens");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("selects");
    let begun = Instant::now();
    let ids = std::iter::from_fn(|| (begun.elapsed() < run).then(TransactionId::new));
    let confirmed = futures_util::stream::iter(ids)
        .map(|id| {
            let channel = &channel;
            async move {
                let body = id.to_string();
                let published = channel.basic_publish(
                    "".into(),
                    queue.into(),
                    BasicPublishOptions::default(),
                    body.as_bytes(),
                    properties(&body),
                );
                published.await.expect("publishes").await.expect("is answered")
            }
        })
        .buffer_unordered(IN_FLIGHT)
        .fold(0_u64, async |count, confirmation| {
            assert_eq!(confirmation, Confirmation::Ack(None));
            count + 1
        })
        .await;
    confirmed as f64 / begun.elapsed().as_secs_f64()
}

async fn announce(queue: &RabbitQueue, ledger: &LedgerName, run: Duration) -> f64 {
    let begun = Instant::now();
    let mut count = 0;
    while begun.elapsed() < run {
        let ids: Vec<TransactionId> = (0..BATCH).map(|_| TransactionId::new()).collect();
        let confirmed = queue
            .publish(ledger, &ids, SystemClock.now(), &Traces::default())
            .await
            .expect("publishes");
        assert!(confirmed.iter().all(|yes| *yes));
        count += confirmed.len();
    }
    count as f64 / begun.elapsed().as_secs_f64()
}
