//! The disk fails, the process stops, the file is opened again.

use std::time::Duration;

use futures_util::StreamExt;

use super::chain::Chain;
use super::testkit::{Disk, MemoryEngine, Running, until};
use super::*;
use crate::clock::SystemClock;
use crate::kv::{EngineKind, KvEngine, open};
use crate::ledger::conformance::{Calls, fresh, outcomes_of, run};

const SOON: Duration = Duration::from_millis(5);

fn start(engine: impl Into<Box<dyn KvEngine>>, count: usize) -> Running {
    Running::open(engine, count, SOON, Arc::new(SystemClock))
}

fn on_disk(kind: EngineKind, at: &tempfile::TempDir) -> Box<dyn KvEngine> {
    open(kind, &at.path().join("ledger"), 8 << 20).expect("opens")
}

#[tokio::test]
async fn conforms_on_every_engine() {
    run(&start(MemoryEngine::default(), 10).ledger, &Calls::COUNTER).await;
    for kind in EngineKind::ALL {
        let at = tempfile::tempdir().expect("directory");
        let running = start(on_disk(kind, &at), 10);
        run(&running.ledger, &Calls::COUNTER).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_reopened_ledger_is_the_same() {
    for kind in EngineKind::ALL {
        let at = tempfile::tempdir().expect("directory");
        let running = start(on_disk(kind, &at), 2);
        let one = running.prepare("counter", "Add", &["c", "1"]).await;
        let two = running.prepare("counter", "Add", &["c", "1"]).await;
        let told = running.settle(&[&one, &two]).await;
        running
            .invoke("token", "Mint", &["alice", "7"])
            .await
            .expect("minted");
        let before = (
            running.ledger.height(),
            running.state("counter"),
            running.state("token"),
        );
        running.stop().await;

        let running = start(on_disk(kind, &at), 2);
        let after = (
            running.ledger.height(),
            running.state("counter"),
            running.state("token"),
        );
        assert_eq!(before, after);
        for (sent, told) in [&one, &two].into_iter().zip(told) {
            let found = running.ledger.lookup(&sent.tx_id).await;
            assert_eq!(format!("{found:?}"), format!("{told:?}"));
        }
        // The chain goes on, and still knows what it holds: a resend tells the old verdict.
        let told = running.settle(&[&one]).await.remove(0);
        assert!(
            matches!(&told, Outcome::Committed(receipt) if receipt.block == 1),
            "{told:?}"
        );
        assert_eq!(running.query("counter", "Get", &["c"]).await, "1");
        running.stop().await;
    }
}

/// Far more blocks than memory keeps for a slow reader, a repeat among them.
#[tokio::test]
async fn a_reader_that_lags_misses_nothing() {
    let running = start(MemoryEngine::default(), 1);
    let first = running.ledger.outcomes(None);
    let one = running.prepare("counter", "Add", &["c", "1"]).await;
    running.settle(&[&one]).await;
    for _ in 0..600 {
        running
            .invoke("counter", "Add", &["d", "1"])
            .await
            .expect("added");
    }
    running.settle(&[&one]).await;
    let resumed = running.ledger.outcomes(Some(Checkpoint(1)));
    for stream in [first, resumed] {
        let groups: Vec<_> = stream.take(603).collect().await;
        let next: Vec<_> = groups.iter().filter_map(|group| group.checkpoint).collect();
        assert!((1..=603).map(Checkpoint).eq(next), "each block once, in order");
        for repeat in [&groups[1], &groups[602]] {
            let [(tx_id, Outcome::Committed(receipt))] = repeat.outcomes.as_slice() else {
                panic!("{repeat:?}");
            };
            assert_eq!((tx_id, receipt.block), (&one.tx_id, 1));
        }
    }
}

#[tokio::test]
async fn a_refused_block_is_kept_until_the_disk_takes_it() {
    for disk in [Disk::Full, Disk::Liar] {
        let engine = MemoryEngine::default();
        let running = start(engine.clone(), 10);
        let sent = running.prepare("counter", "Add", &["c", "1"]).await;
        let mut stream = running.ledger.outcomes(None).skip(1).boxed();
        engine.set_disk(disk);
        running.ledger.submit(&sent).await.expect("taken");
        until("two tries", || engine.failures() >= 2).await;

        // Nothing is told before it is durable, not even if the engine shows it already.
        assert_eq!(running.ledger.height(), 0);
        assert!(matches!(
            running.ledger.lookup(&sent.tx_id).await,
            Outcome::Absent(_)
        ));
        assert!(futures_util::poll!(stream.next()).is_pending());
        let cause = running.ledger.probe().await.expect_err("trouble");
        assert_eq!(cause.code, "STORAGE_ERROR");
        let request = (Calls::COUNTER.add)("c", 1);
        let refused = running
            .ledger
            .prepare(fresh(), &request)
            .await
            .expect_err("unavailable");
        assert!(matches!(refused, PrepareError::Unavailable(_)), "{refused}");

        engine.set_disk(Disk::Well);
        let told = outcomes_of(&mut stream, &[&sent.tx_id]).await;
        assert!(matches!(told[&sent.tx_id], Outcome::Committed(_)), "{told:?}");
        running.ledger.probe().await.expect("well again");
        assert_eq!(running.ledger.height(), 1);
        assert_eq!(running.query("counter", "Get", &["c"]).await, "1");
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_broken_disk() {
    let engine = MemoryEngine::default();
    let running = start(engine.clone(), 1);
    let sent = running.prepare("counter", "Add", &["c", "1"]).await;
    engine.set_disk(Disk::Full);
    running.ledger.submit(&sent).await.expect("taken");
    until("one try", || engine.failures() >= 1).await;
    running.stop().await;

    // Lost like in a crash: unknown, and the same bytes may be sent again.
    engine.set_disk(Disk::Well);
    let running = start(engine, 1);
    assert!(matches!(
        running.ledger.lookup(&sent.tx_id).await,
        Outcome::Absent(_)
    ));
    let told = running.settle(&[&sent]).await.remove(0);
    assert!(matches!(told, Outcome::Committed(_)), "{told:?}");
}

#[tokio::test]
async fn a_shutdown_stores_what_was_taken() {
    let engine = MemoryEngine::default();
    let never = Duration::from_secs(3600);
    let running = Running::open(engine.clone(), 4, never, Arc::new(SystemClock));
    let mut sent = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let prepared = running.prepare("counter", "Add", &[name, "1"]).await;
        running.ledger.submit(&prepared).await.expect("taken");
        sent.push(prepared);
    }
    running.begin_shutdown();
    until("stopped", || running.ledger.engine.inbox().is_closed()).await;
    let late = running.ledger.submit(&sent[0]).await.expect_err("stopped");
    assert!(matches!(late, SubmitError::Unavailable(_)), "{late}");
    running.ledger.probe().await.expect_err("stopped");
    running.stop().await;

    let running = start(engine, 4);
    assert_eq!(running.ledger.height(), 2);
    for sent in &sent {
        let found = running.ledger.lookup(&sent.tx_id).await;
        assert!(matches!(found, Outcome::Committed(_)), "{found:?}");
    }
}

#[tokio::test]
async fn another_format_is_left_alone() {
    for (format, words) in [(1_u64, "use the older program"), (9, "use the newer program")] {
        let engine = MemoryEngine::default();
        let mut batch = crate::kv::Batch::default();
        batch.put(b"mformat".to_vec(), format.to_be_bytes().to_vec());
        engine.commit(batch).expect("kept");
        let error = Chain::open(Box::new(engine), b"").err().expect("refused");
        assert!(
            matches!(error, OpenError::Format { found } if found == format),
            "{error}"
        );
        assert!(error.to_string().contains(words), "{error}");
    }
}
