//! What happens when the broker does not do well: killed, frozen, short of memory, cut off, distrusted.
//!
//! All on one broker of their own, one test at a time.
#![allow(clippy::await_holding_lock, reason = "the broker is for one test at a time")]

use std::collections::HashSet;
use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::broker::Broker;
use super::testkit::{
    announce, consumer, ids, main_ledger, metric, metrics, now, queue, settings, take, until,
};
use super::*;
use crate::config::{QueueType, TlsIdentity};

/// What every call keeps to, whatever the broker does.
const AT_MOST: Duration = Duration::from_secs(10);

fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// Announces portion after portion until told to stop. Answers what was confirmed, and the longest call.
async fn keep_announcing(
    queue: Arc<RabbitQueue>,
    stop: CancellationToken,
) -> (HashSet<TransactionId>, Duration) {
    let (mut confirmed, mut longest) = (HashSet::new(), Duration::ZERO);
    while !stop.is_cancelled() {
        let portion = ids(200);
        let begun = Instant::now();
        let result = queue
            .publish(&main_ledger(), &portion, now(), &Traces::default())
            .await;
        longest = longest.max(begun.elapsed());
        match result {
            Ok(known) => confirmed.extend(
                portion
                    .iter()
                    .zip(known)
                    .filter(|(_, yes)| *yes)
                    .map(|(id, _)| *id),
            ),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    (confirmed, longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_loses_nothing_that_it_confirmed() {
    let broker = Broker::to_break();
    let queues =
        [QueueType::Quorum, QueueType::Classic].map(|kind| Arc::new(queue(&settings(broker.url(), kind))));
    let stop = CancellationToken::new();
    let announcing = queues.each_ref().map(|queue| {
        queue
            .tasks
            .spawn(keep_announcing(Arc::clone(queue), stop.clone()))
    });
    let mut consuming = consumer(&queues[0]).await;
    let held = take(&mut *consuming, 20).await;
    // RabbitMQ 3.10 forgets a quorum queue, with all that it has confirmed, that was made less than about half
    // a second before: see docs/adr/0011-rabbitmq.md.
    tokio::time::sleep(Duration::from_secs(2)).await;
    blocking(|| broker.kill9());
    let dead = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        while consuming.next(100).await.is_ok() {}
    });
    ended.await.expect("the consumer ends");
    assert!(!consuming.tenure().holds());
    until("trouble is known", async || {
        queue_trouble(&queues).iter().all(Option::is_some)
    })
    .await;
    eprintln!("killed: trouble known after {:?}", dead.elapsed());
    // Settling what nobody waits for does nothing.
    held.into_iter().for_each(crate::queue::Delivery::ack);
    blocking(|| broker.restart());
    let ready = Instant::now();
    until("a confirmation", async || {
        let mut all = true;
        for queue in &queues {
            all &= queue
                .publish(&main_ledger(), &ids(1), now(), &Traces::default())
                .await
                .is_ok();
        }
        all
    })
    .await;
    let resumed = ready.elapsed();
    eprintln!("killed: announcing again {resumed:?} after the broker was ready");
    assert!(resumed < Duration::from_secs(5), "{resumed:?}");
    stop.cancel();
    for (queue, announcing) in queues.iter().zip(announcing) {
        let (confirmed, longest) = announcing.await.expect("announces");
        assert!(longest < AT_MOST, "{longest:?}");
        assert_eq!(queue.health().trouble, None);
        let mut missing = confirmed.clone();
        let mut consumer = consumer(queue).await;
        let finding = tokio::time::timeout(Duration::from_secs(30), async {
            while !missing.is_empty() {
                for delivery in consumer.next(500).await.expect("delivers") {
                    missing.remove(&delivery.id);
                    delivery.ack();
                }
            }
        });
        let found = finding.await;
        eprintln!("killed: {} confirmed, longest call {longest:?}", confirmed.len());
        assert!(found.is_ok(), "{} of {} are lost", missing.len(), confirmed.len());
        assert!(confirmed.len() > 400, "{}", confirmed.len());
    }
}

fn queue_trouble(queues: &[Arc<RabbitQueue>]) -> Vec<Option<String>> {
    queues.iter().map(|queue| queue.health().trouble).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_holds_up_nobody() {
    let broker = Broker::to_break();
    let mut settings = settings(broker.url(), QueueType::Quorum);
    settings.heartbeat = Duration::from_secs(2);
    let queue = queue(&settings);
    announce(&queue, &ids(10)).await;
    let mut first = consumer(&queue).await;
    let _held = take(&mut *first, 5).await;
    let tenure = first.tenure();
    until("proof", async || tenure.holds()).await;
    broker.stop_signal();
    let frozen = Instant::now();
    // The proof is at most half a heartbeat old.
    until("the end of the tenure", async || !tenure.holds()).await;
    assert!(
        frozen.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        frozen.elapsed()
    );
    while first.next(1).await.is_ok() {}
    assert!(
        frozen.elapsed() < Duration::from_secs(3),
        "{:?}",
        frozen.elapsed()
    );
    let portion = ids(3_000);
    let published = async {
        let begun = Instant::now();
        let result = queue
            .publish(&main_ledger(), &portion, now(), &Traces::default())
            .await;
        (result.err().map(|error| error.to_string()), begun.elapsed())
    };
    let consumed = async {
        let begun = Instant::now();
        (
            queue
                .consume(&main_ledger())
                .await
                .err()
                .map(|error| error.to_string()),
            begun.elapsed(),
        )
    };
    let looked = async {
        let begun = Instant::now();
        let result = queue.lost_before(&main_ledger(), now()).await;
        (result.err().map(|error| error.to_string()), begun.elapsed())
    };
    let (published, consumed, looked) = tokio::join!(published, consumed, looked);
    for (error, took) in [published, consumed, looked] {
        eprintln!("frozen: {error:?} after {took:?}");
        assert!(error.is_some() && took < AT_MOST, "{error:?} after {took:?}");
    }
    assert!(queue.health().trouble.is_some());
    assert!(!tenure.holds());
    broker.cont();
    let thawed = Instant::now();
    until("a confirmation", async || {
        queue
            .publish(&main_ledger(), &ids(1), now(), &Traces::default())
            .await
            .is_ok()
    })
    .await;
    eprintln!("frozen: announcing again {:?} after it went on", thawed.elapsed());
    assert!(
        thawed.elapsed() < Duration::from_secs(7),
        "{:?}",
        thawed.elapsed()
    );
    assert!(!tenure.holds(), "a tenure that was lost does not come back");
    let mut second = None;
    until("a consumer", async || {
        second = queue.consume(&main_ledger()).await.ok();
        second.is_some()
    })
    .await;
    take(&mut *second.expect("is there"), 10).await;
}

/// The broker is well, but one quorum queue is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_without_a_leader_holds_up_no_other() {
    let broker = Broker::to_break();
    let mut settings = settings(broker.url(), QueueType::Quorum);
    settings.heartbeat = Duration::from_secs(4);
    let queue = queue(&settings);
    let (sick, well) = (main_ledger(), LedgerName::new("well").expect("valid name"));
    announce(&queue, &ids(10)).await;
    queue
        .publish(&well, &ids(10), now(), &Traces::default())
        .await
        .expect("publishes");
    let mut fails = consumer(&queue).await;
    let mut stays = queue.consume(&well).await.expect("consumes");
    let _held = take(&mut *fails, 10).await;
    take(&mut *stays, 10).await;
    let server = format!("{{'%2F_{}.main', node()}}", settings.prefix);
    let order =
        |what: &str| blocking(|| broker.ctl(&["eval", &format!("ra:{what}(quorum_queues, {server}).")]));
    order("stop_server");
    let ended = tokio::time::timeout(Duration::from_secs(6), async {
        loop {
            if let Err(error) = fails.next(10).await {
                break error.to_string();
            }
        }
    });
    eprintln!("no leader: {}", ended.await.expect("ends"));
    assert!(!fails.tenure().holds());
    let troubled = async {
        let begun = Instant::now();
        let published = queue.publish(&sick, &ids(300), now(), &Traces::default()).await;
        let consumed = queue.consume(&sick).await;
        eprintln!(
            "no leader: {:?}, {:?} after {:?}",
            published.as_ref().err(),
            consumed.as_ref().err(),
            begun.elapsed()
        );
        assert!(published.is_err());
        begun.elapsed()
    };
    let untroubled = async {
        let mut longest = Duration::ZERO;
        for _ in 0..40 {
            let begun = Instant::now();
            queue
                .publish(&well, &ids(100), now(), &Traces::default())
                .await
                .expect("publishes");
            longest = longest.max(begun.elapsed());
            take(&mut *stays, 100)
                .await
                .into_iter()
                .for_each(crate::queue::Delivery::ack);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        longest
    };
    let (troubled, longest) = tokio::join!(troubled, untroubled);
    eprintln!("no leader: the other queue was never slower than {longest:?}");
    assert!(troubled < AT_MOST * 2, "{troubled:?}");
    assert!(stays.tenure().holds());
    assert_eq!(queue.health().trouble, None);
    order("restart_server");
    until("a confirmation", async || {
        queue
            .publish(&sick, &ids(1), now(), &Traces::default())
            .await
            .is_ok()
    })
    .await;
    let mut again = None;
    until("a consumer", async || {
        again = queue.consume(&sick).await.ok();
        again.is_some()
    })
    .await;
    take(&mut *again.expect("is there"), 11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_short_of_memory_refuses_messages_and_goes_on_delivering() {
    let broker = Broker::to_break();
    let measured = metrics();
    let settings = settings(broker.url(), QueueType::Quorum);
    let queue = RabbitQueue::new(settings, measured.clone()).expect("settings that can be used");
    let before = ids(300);
    announce(&queue, &before).await;
    let mut consumer = consumer(&queue).await;
    blocking(|| broker.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]));
    let mut longest = Duration::ZERO;
    let mut last = String::new();
    until("a refusal", async || {
        let begun = Instant::now();
        let result = queue
            .publish(&main_ledger(), &ids(1_000), now(), &Traces::default())
            .await;
        longest = longest.max(begun.elapsed());
        last = result.err().map(|error| error.to_string()).unwrap_or_default();
        last.contains("the broker refuses messages: low on memory")
    })
    .await;
    eprintln!("no memory: refused at the latest after {longest:?}: {last}");
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    let trouble = queue.health().trouble.expect("trouble");
    assert!(trouble.contains("low on memory"), "{trouble}");
    let begun = Instant::now();
    for _ in 0..20 {
        assert!(
            queue
                .publish(&main_ledger(), &ids(100), now(), &Traces::default())
                .await
                .is_err()
        );
    }
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    until("the gauge", async || {
        metric(&measured, "sluicegate_queue_available") as u32 == 0
    })
    .await;
    // Deliveries, acknowledgements and the proof of contact do not stand still.
    for delivery in take(&mut *consumer, 300).await {
        assert!(before.contains(&delivery.id));
        delivery.ack();
    }
    assert!(consumer.tenure().holds());
    queue
        .lost_before(&main_ledger(), now())
        .await
        .expect("is answered");
    // Longer than both sides wait for a sign of life.
    blocking(|| broker.ctl(&["set_vm_memory_high_watermark", "absolute", "4GB"]));
    let released = Instant::now();
    until("no trouble", async || queue.health().trouble.is_none()).await;
    announce(&queue, &ids(100)).await;
    eprintln!(
        "no memory: announcing again {:?} after the release",
        released.elapsed()
    );
    assert!(
        released.elapsed() < Duration::from_secs(5),
        "{:?}",
        released.elapsed()
    );
    until("the gauge", async || {
        metric(&measured, "sluicegate_queue_available") as u32 == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_takes_over_within_seconds() {
    let broker = Broker::to_break();
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let settings = settings(broker.url(), kind);
        let (one, other) = (queue(&settings), queue(&settings));
        let all = ids(500);
        announce(&one, &all).await;
        let mut first = consumer(&one).await;
        let mut held = take(&mut *first, 100).await;
        held.drain(..50).for_each(crate::queue::Delivery::ack);
        until("50 acknowledged", async || {
            one.lost_before(&main_ledger(), now()).await.is_ok()
        })
        .await;
        let theirs = blocking(|| broker.ctl(&["list_connections", "pid"]));
        let mut second = consumer(&other).await;
        let takeover = async {
            let found = take(&mut *second, 450).await;
            (found, Instant::now())
        };
        let cutting = async {
            tokio::task::block_in_place(|| {
                for pid in theirs.lines().filter(|line| line.starts_with('<')) {
                    broker.ctl(&["close_connection", pid, "a test"]);
                }
                Instant::now()
            })
        };
        let end = async {
            while first.next(1).await.is_ok() {}
            Instant::now()
        };
        let cut_begun = Instant::now();
        let ((found, taken), cut, ended) = tokio::join!(takeover, cutting, end);
        let took = taken.saturating_duration_since(cut_begun);
        eprintln!(
            "takeover, {kind:?}: {took:?} from the first cut, closed by {:?}",
            cut - cut_begun
        );
        assert!(taken.saturating_duration_since(cut) < Duration::from_secs(5));
        assert!(ended.saturating_duration_since(cut) < Duration::from_secs(5));
        assert!(!first.tenure().holds());
        let found: HashSet<_> = found.iter().map(|found| found.id).collect();
        assert!(all[100..].iter().all(|id| found.contains(id)));
        assert!(held.iter().all(|held| found.contains(&held.id)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_show_who_they_are() {
    let broker = Broker::to_break();
    let known = broker.certificates();
    let mut settings = settings(&broker.tls_url(), QueueType::Quorum);
    settings.tls_ca = Some(known.ca.clone());
    settings.tls_identity = Some(TlsIdentity {
        cert: known.client.0.clone(),
        key: known.client.1.clone(),
    });
    let good = queue(&settings);
    let all = ids(300);
    announce(&good, &all).await;
    let found = take(&mut *consumer(&good).await, 200).await;
    assert!(found.iter().all(|found| all.contains(&found.id)));
    good.close().await;
    let refused = async |settings: &RabbitSettings| {
        let queue = queue(settings);
        let begun = Instant::now();
        let error = queue
            .publish(&main_ledger(), &ids(1), now(), &Traces::default())
            .await
            .err();
        assert!(begun.elapsed() < AT_MOST);
        error.expect("refused").to_string()
    };
    // We have nothing to show.
    let mut anonymous = settings.clone();
    anonymous.tls_identity = None;
    eprintln!("no certificate: {}", refused(&anonymous).await);
    // Nobody vouches for the broker: not those that come with the program, nor another authority.
    let mut distrustful = settings.clone();
    distrustful.tls_ca = None;
    let text = refused(&distrustful).await;
    assert!(text.contains("certificate"), "{text}");
    distrustful.tls_ca = Some(known.client.0.clone());
    let text = refused(&distrustful).await;
    assert!(text.contains("certificate"), "{text}");
    // Files that cannot be used are told at the start.
    settings.tls_ca = Some("/nowhere/ca.pem".into());
    let told = RabbitQueue::new(settings.clone(), metrics())
        .err()
        .expect("refused");
    assert!(
        told.to_string().contains("queue.tls_ca, /nowhere/ca.pem"),
        "{told}"
    );
    settings.tls_ca = Some(known.client.1.clone());
    let told = RabbitQueue::new(settings, metrics()).err().expect("refused");
    assert!(told.to_string().contains("holds no certificate"), "{told}");
}

/// Something that listens and never says a word: sockets and threads must not pile up.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_leads_nowhere_is_cut() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = silent.local_addr().expect("an address").port();
    let url = format!("amqp://127.0.0.1:{port}/%2f");
    let queue = queue(&settings(&url, QueueType::Quorum));
    let (mut stream, _) = blocking(|| silent.accept()).expect("accepts");
    let begun = Instant::now();
    stream.set_read_timeout(Some(AT_MOST)).expect("sets");
    let mut said = Vec::new();
    blocking(|| stream.read_to_end(&mut said)).expect("is cut");
    assert_eq!(said, b"AMQP\0\0\x09\x01");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    let error = queue
        .publish(&main_ledger(), &ids(1), now(), &Traces::default())
        .await
        .err();
    assert!(error.expect("refused").to_string().contains("no answer"));
    // The one under way is cut when the queue is dropped.
    let (mut stream, _) = blocking(|| silent.accept()).expect("accepts");
    drop(queue);
    let begun = Instant::now();
    stream.set_read_timeout(Some(AT_MOST)).expect("sets");
    blocking(|| stream.read_to_end(&mut said)).expect("is cut");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}
