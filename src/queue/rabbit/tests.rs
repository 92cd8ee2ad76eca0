//! What is particular to this queue, at a broker that is well.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};

use super::broker::Broker;
use super::testkit::{
    Raw, announce, consumer, ids, main_ledger, metric, metrics, now, queue, raw, settings, take, until,
};
use super::*;
use crate::config::QueueType;
use crate::queue::{Delivery, Settlement};
use crate::telemetry::TraceContext;

const KINDS: [QueueType; 2] = [QueueType::Quorum, QueueType::Classic];

fn shared(kind: QueueType) -> RabbitSettings {
    settings(Broker::shared().url(), kind)
}

fn with_metrics(settings: &RabbitSettings) -> (RabbitQueue, Metrics) {
    let metrics = metrics();
    let queue = RabbitQueue::new(settings.clone(), metrics.clone()).expect("settings that can be used");
    (queue, metrics)
}

fn name(settings: &RabbitSettings, suffix: &str) -> ShortString {
    format!("{}.main{suffix}", settings.prefix).into()
}

impl Raw {
    /// How many wait in a queue.
    async fn ready(&self, queue: ShortString) -> u32 {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = self
            .channel
            .queue_declare(queue, options, FieldTable::default())
            .await;
        found.expect("is there").message_count()
    }

    async fn put(&self, queue: ShortString, body: &[u8]) {
        let confirm = self
            .channel
            .basic_publish(
                ShortString::default(),
                queue,
                BasicPublishOptions::default(),
                body,
                BasicProperties::default(),
            )
            .await;
        let confirmed = confirm.expect("publishes").await.expect("is answered");
        assert_eq!(confirmed, Confirmation::NotRequested);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_says_what_it_is_about() {
    for kind in KINDS {
        let settings = shared(kind);
        let queue = queue(&settings);
        let (id, at) = (TransactionId::new(), now());
        let place = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let traces = Traces::from([(id, TraceContext::parse(place).expect("good"))]);
        let published = queue.publish(&main_ledger(), &[id], at, &traces).await;
        published.expect("publishes");
        let raw = raw(settings.url.expose().as_str()).await;
        let consumed = raw.channel.basic_consume(
            name(&settings, ""),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let got = consumed.await.expect("consumes").next().await;
        let message = got.expect("a delivery").expect("is there");
        assert_eq!(message.data, id.to_string().as_bytes());
        let properties = &message.properties;
        let text = |text: &Option<ShortString>| text.as_ref().map(ToString::to_string);
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(text(properties.message_id()), Some(id.to_string()));
        assert_eq!(text(properties.content_type()), Some("text/plain".to_owned()));
        assert_eq!(message::announced_at(properties), Some(at));
        let headers = properties.headers().as_ref().expect("headers").inner();
        let Some(AMQPValue::LongString(trace)) = headers.get("traceparent") else {
            panic!("{headers:?}")
        };
        assert_eq!(trace.to_string(), place);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_goes_to_the_dead_letters_and_not_to_the_lane() {
    for kind in KINDS {
        let settings = shared(kind);
        let (queue, metrics) = with_metrics(&settings);
        let mut consumer = consumer(&queue).await;
        let raw = raw(settings.url.expose().as_str()).await;
        for garbage in [&b"hello"[..], b"", b"\xff\xfe", &[b'x'; 100_000]] {
            raw.put(name(&settings, ""), garbage).await;
        }
        let id = ids(1);
        announce(&queue, &id).await;
        let mut delivered = take(&mut *consumer, 1).await;
        assert_eq!(delivered[0].id, id[0]);
        delivered.remove(0).reject();
        until("five dead letters", async || {
            raw.ready(name(&settings, ".dead")).await == 5
        })
        .await;
        assert_eq!(metric(&metrics, "sluicegate_queue_poison_total") as u32, 4);
        assert_eq!(raw.ready(name(&settings, "")).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_of_the_same_one_is_given_out() {
    for kind in KINDS {
        let settings = shared(kind);
        let (queue, metrics) = with_metrics(&settings);
        let same = vec![TransactionId::new(); 1_000];
        let mut consumer = consumer(&queue).await;
        announce(&queue, &same).await;
        let first = take(&mut *consumer, 1).await.remove(0);
        let last = ids(1);
        announce(&queue, &last).await;
        let next = take(&mut *consumer, 1).await.remove(0);
        assert_eq!((first.id, next.id), (same[0], last[0]));
        let count = |name| metric(&metrics, name) as u32;
        assert_eq!(count("sluicegate_queue_duplicates_total"), 999);
        assert_eq!(count("sluicegate_queue_announced_total"), 1_001);
        // The one in hand decides: given back, it comes again although its duplicates are gone.
        drop(first);
        let again = take(&mut *consumer, 1).await.remove(0);
        assert_eq!(again.id, same[0]);
        assert_eq!(count("sluicegate_queue_redelivered_total"), 1);
        again.ack();
        next.ack();
        drop(consumer);
        until("an empty queue", async || {
            let raw = raw(settings.url.expose().as_str()).await;
            raw.ready(name(&settings, "")).await == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stays_in_hand_does_not_use_up_the_prefetch() {
    for kind in KINDS {
        let mut settings = shared(kind);
        settings.prefetch = 4.try_into().expect("not zero");
        let queue = queue(&settings);
        let all = ids(60);
        announce(&queue, &all).await;
        let mut consumer = consumer(&queue).await;
        let held = take(&mut *consumer, 1).await;
        for _ in 1..all.len() {
            take(&mut *consumer, 1).await.remove(0).ack();
        }
        assert_eq!(held[0].id, all[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_by_hand_is_made_again() {
    for kind in KINDS {
        let settings = shared(kind);
        let queue = queue(&settings);
        let mut first = consumer(&queue).await;
        announce(&queue, &ids(1)).await;
        let held = take(&mut *first, 1).await;
        let raw = raw(settings.url.expose().as_str()).await;
        let deleted = raw
            .channel
            .queue_delete(name(&settings, ""), QueueDeleteOptions::default());
        deleted.await.expect("deletes");
        let end = tokio::time::timeout(Duration::from_secs(5), first.next(1)).await;
        let error = end.expect("in time").err().expect("an end");
        assert!(error.to_string().contains("deleted"), "{error}");
        assert!(!first.tenure().holds());
        // Nobody consumes, so nobody has declared it again: announcing does.
        let more = ids(200);
        announce(&queue, &more).await;
        let mut second = consumer(&queue).await;
        let found: Vec<_> = take(&mut *second, 200)
            .await
            .iter()
            .map(|found| found.id)
            .collect();
        assert_eq!(found, more);
        held.into_iter().for_each(Delivery::ack);
        assert!(first.next(1).await.is_err(), "it stays at its end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_made_again_at_once_has_no_consumer_that_gets_nothing() {
    for kind in KINDS {
        let settings = shared(kind);
        let (queue, other) = (queue(&settings), queue(&settings));
        let raw = raw(settings.url.expose().as_str()).await;
        announce(&other, &ids(1)).await;
        for round in 0..10 {
            let mut first = consumer(&queue).await;
            let mut second = consumer(&queue).await;
            let deleted = raw
                .channel
                .queue_delete(name(&settings, ""), QueueDeleteOptions::default());
            deleted.await.expect("deletes");
            announce(&other, &ids(10)).await;
            for consumer in [&mut first, &mut second] {
                let end = async { while consumer.next(10).await.is_ok() {} };
                let ended = tokio::time::timeout(Duration::from_secs(5), end).await;
                assert!(
                    ended.is_ok(),
                    "round {round}: it was not told that its queue is gone"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_broker_closes_ends_the_consumer_alone() {
    for kind in KINDS {
        let settings = shared(kind);
        let queue = queue(&settings);
        let mut first = consumer(&queue).await;
        let all = ids(5);
        announce(&queue, &all).await;
        let held = take(&mut *first, 5).await;
        until("proof", async || first.tenure().holds()).await;
        // The broker knows no such delivery, and closes the channel for it.
        let known = queue
            .ledger(&main_ledger())
            .consumer
            .lock()
            .expect("locks")
            .upgrade();
        known.expect("is there").settle_unknown(4_711, Settlement::Ack);
        let end = tokio::time::timeout(Duration::from_secs(5), first.next(1)).await;
        let error = end.expect("in time").err().expect("an end");
        assert!(error.to_string().contains("delivery tag"), "{error}");
        assert!(!first.tenure().holds());
        let mut second = consumer(&queue).await;
        held.into_iter().for_each(Delivery::ack);
        let found = take(&mut *second, 5).await;
        assert!(found.iter().all(|found| all.contains(&found.id)));
        assert_eq!(queue.health().trouble, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_properties_is_told_with_the_remedy() {
    let settings = shared(QueueType::Quorum);
    let raw = raw(settings.url.expose().as_str()).await;
    let declared = raw.channel.queue_declare(
        name(&settings, ""),
        QueueDeclareOptions::default(),
        FieldTable::default(),
    );
    declared.await.expect("declares");
    let queue = queue(&settings);
    let refused = queue
        .publish(&main_ledger(), &ids(1), now(), &Traces::default())
        .await;
    let consumed = queue.consume(&main_ledger()).await;
    let Err(consumed) = consumed else {
        panic!("it is not refused")
    };
    for error in [refused.expect_err("refused"), consumed] {
        let text = error.to_string();
        let remedy = format!("rabbitmqctl delete_queue {}.main", settings.prefix);
        assert!(text.contains(&remedy) && text.contains("inequivalent"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_queue_any_more_is_known_to_be_lost() {
    for kind in KINDS {
        let settings = shared(kind);
        let (queue, metrics) = with_metrics(&settings);
        let ledger = main_ledger();
        let lost = async |now| queue.lost_before(&ledger, now).await.expect("is answered");
        let second = Duration::from_secs(1);
        let start = now();
        // There is no such queue at all.
        assert_eq!(lost(start).await, Some(start.minus(10 * second)));
        queue
            .publish(&ledger, &ids(2), start.minus(500 * second), &Traces::default())
            .await
            .expect("publishes");
        until("two that wait", async || {
            lost(start).await.is_none() && metric(&metrics, "sluicegate_queue_depth") as u32 == 2
        })
        .await;
        assert_eq!(metric(&metrics, "sluicegate_queue_consumers") as u32, 0);
        let without_worker = metrics;
        let mut narrow = settings.clone();
        narrow.prefetch = 1.try_into().expect("not zero");
        let announcing = queue;
        let (queue, metrics) = with_metrics(&narrow);
        let mut consumer = consumer(&queue).await;
        let held = take(&mut *consumer, 1).await;
        let lost = async |now| queue.lost_before(&ledger, now).await.expect("is answered");
        until("one that consumes, as all are told", async || {
            lost(start).await;
            announcing.lost_before(&ledger, start).await.expect("is answered");
            let told = |metrics| metric(metrics, "sluicegate_queue_consumers") as u32;
            told(&metrics) == 1 && told(&without_worker) == 1
        })
        .await;
        // One waits, and the queue has come to what was announced 500 s ago.
        assert_eq!(lost(start).await, Some(start.minus(530 * second)));
        held.into_iter().for_each(Delivery::ack);
        let held = take(&mut *consumer, 1).await;
        // Nothing waits, and what is in hand is not lost.
        until("an empty queue", async || {
            lost(start).await == Some(start.minus(500 * second))
        })
        .await;
        held.into_iter().for_each(Delivery::ack);
        until("nothing in hand", async || {
            lost(start).await == Some(start.minus(10 * second))
        })
        .await;
        until("its depth", async || {
            metric(&metrics, "sluicegate_queue_depth") as u32 == 0
        })
        .await;
    }
}

/// Neither who announces nor who consumes finds the queue, and both make it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_while_the_queue_is_made_is_not_lost() {
    for kind in KINDS {
        let queue = queue(&shared(kind));
        let (ledger, three, at) = (main_ledger(), ids(3), now());
        let traces = Traces::default();
        let publishing = queue.publish(&ledger, &three, at, &traces);
        let (published, consumer) = tokio::join!(publishing, queue.consume(&ledger));
        assert_eq!(published.expect("publishes"), [true; 3]);
        let mut consumer = consumer.expect("consumes");
        let _held = take(&mut *consumer, 3).await;
        let lost = queue.lost_before(&ledger, now()).await.expect("is answered");
        assert!(lost <= Some(at), "{lost:?}, and announced at {at:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_hand_is_not_lost_although_later_ones_were_delivered() {
    for kind in KINDS {
        let mut settings = shared(kind);
        settings.prefetch = 2.try_into().expect("not zero");
        let (queue, metrics) = with_metrics(&settings);
        let (ledger, start) = (main_ledger(), now());
        let ago = |seconds| start.minus(Duration::from_secs(seconds));
        for at in [ago(500), start, start] {
            queue
                .publish(&ledger, &ids(1), at, &Traces::default())
                .await
                .expect("publishes");
        }
        let mut consumer = consumer(&queue).await;
        let mut held = take(&mut *consumer, 2).await;
        let lost = async || queue.lost_before(&ledger, start).await.expect("is answered");
        until("one that waits", async || {
            let lost = lost().await;
            metric(&metrics, "sluicegate_queue_depth") as u32 == 1 && lost == Some(ago(500))
        })
        .await;
        // Settled, and the queue has come to what was announced just now.
        held.remove(0).ack();
        announce(&queue, &ids(2)).await;
        until("nothing old in hand", async || lost().await == Some(ago(30))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_consumer_waits_until_the_first_is_gone() {
    for kind in KINDS {
        let settings = shared(kind);
        let (one, other) = (queue(&settings), queue(&settings));
        let mut first = consumer(&one).await;
        let mut second = consumer(&other).await;
        let all = ids(40);
        announce(&other, &all).await;
        let held = take(&mut *first, 10).await;
        assert!(futures_util::poll!(std::pin::pin!(second.next(1))).is_pending());
        let gone = std::time::Instant::now();
        drop(first);
        let found: Vec<_> = take(&mut *second, 40)
            .await
            .iter()
            .map(|found| found.id)
            .collect();
        assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
        assert!(all.iter().all(|id| found.contains(id)));
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_time_do_not_get_each_others_answers() {
    let settings = shared(QueueType::Quorum);
    let queue = queue(&settings);
    let ledgers: Vec<LedgerName> = (0..4)
        .map(|number| LedgerName::new(&format!("l{number}")).expect("valid name"))
        .collect();
    let raw = raw(settings.url.expose().as_str()).await;
    let calls = (0..40).map(|call| {
        let (queue, ledgers, raw, settings) = (&queue, &ledgers, &raw, &settings);
        async move {
            let ledger = &ledgers[call % 4];
            // The queue of one of them disappears again and again.
            if call % 4 == 3 {
                let name = format!("{}.{ledger}", settings.prefix);
                let deleted = raw
                    .channel
                    .queue_delete(name.into(), QueueDeleteOptions::default());
                deleted.await.expect("deletes");
                return drop(queue.publish(ledger, &ids(100), now(), &Traces::default()).await);
            }
            let known = queue
                .publish(ledger, &ids(100), now(), &Traces::default())
                .await
                .expect("publishes");
            assert!(known.iter().all(|yes| *yes), "{known:?}");
        }
    });
    futures_util::future::join_all(calls).await;
    let known = queue
        .publish(&ledgers[3], &ids(100), now(), &Traces::default())
        .await
        .expect("publishes");
    assert_eq!(known, [true; 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_stops_nothing_but_announcements() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = nobody.local_addr().expect("an address").port();
    drop(nobody);
    let url = format!("amqp://me:hunter2@127.0.0.1:{port}/%2f");
    let (queue, metrics) = with_metrics(&settings(&url, QueueType::Quorum));
    let begun = std::time::Instant::now();
    let error = queue
        .publish(&main_ledger(), &ids(1), now(), &Traces::default())
        .await
        .err();
    let texts = [
        error.expect("refused").to_string(),
        queue
            .consume(&main_ledger())
            .await
            .err()
            .expect("refused")
            .to_string(),
        queue
            .lost_before(&main_ledger(), now())
            .await
            .expect_err("refused")
            .to_string(),
        queue.health().trouble.expect("trouble"),
    ];
    for text in texts {
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
        assert!(text.contains("refused") && !text.contains("hunter2"), "{text}");
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(metric(&metrics, "sluicegate_queue_unconfirmed_total") as u32, 1);
    // A task of its own keeps the gauge in step.
    until("the gauge", async || {
        metric(&metrics, "sluicegate_queue_available") as u32 == 0
    })
    .await;
    let tasks = queue.tasks.clone();
    drop(queue);
    tasks.close();
    tokio::time::timeout(Duration::from_secs(5), tasks.wait())
        .await
        .expect("no task outlives the queue");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_shown_nowhere() {
    let url = Broker::shared().url().replace("guest:guest", "guest:hunter2");
    let queue = queue(&settings(&url, QueueType::Quorum));
    let error = queue
        .publish(&main_ledger(), &ids(1), now(), &Traces::default())
        .await;
    let text = error.expect_err("refused").to_string();
    assert!(
        text.contains("ACCESS_REFUSED") && !text.contains("hunter2"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_closed_leaves_nothing_running() {
    let settings = shared(QueueType::Quorum);
    let queue = queue(&settings);
    let mut consumer = consumer(&queue).await;
    announce(&queue, &ids(1)).await;
    let begun = std::time::Instant::now();
    queue.close().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(queue.tasks.is_empty());
    let ended = tokio::time::timeout(Duration::from_secs(2), async {
        while consumer.next(9).await.is_ok() {}
    });
    ended.await.expect("ends");
    assert!(!consumer.tenure().holds());
}
