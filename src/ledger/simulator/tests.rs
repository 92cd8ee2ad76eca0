//! Ordering and validation: what stands in which block, and with which verdict.

use std::time::Duration;

use futures_util::StreamExt;

use super::block::ValidationCode::{DuplicateTxid, MvccReadConflict, PhantomReadConflict, Valid};
use super::orderer::INBOX;
use super::testkit::{MemoryEngine, Running, is_conflict, until};
use super::*;
use crate::clock::ManualClock;
use crate::domain::Timestamp;
use crate::ledger::conformance::{Calls, fresh, outcomes_of, request};

#[tokio::test]
async fn a_read_of_a_key_written_earlier_in_the_block_is_a_conflict() {
    let running = Running::of(3);
    let one = running.prepare("counter", "Add", &["c", "1"]).await;
    let two = running.prepare("counter", "Add", &["c", "10"]).await;
    let blind = running.prepare("counter", "Set", &["c", "100"]).await;
    let told = running.settle(&[&one, &two, &blind]).await;
    assert_eq!(running.codes(1), [Valid, MvccReadConflict, Valid]);
    assert!(is_conflict(&told[1], "MVCC_READ_CONFLICT"), "{told:?}");
    // A blind write conflicts with nothing; the last one in the block wins.
    assert_eq!(running.query("counter", "Get", &["c"]).await, "100");
}

#[tokio::test]
async fn a_read_of_a_key_written_in_an_earlier_block_is_a_conflict() {
    let running = Running::of(1);
    let stale = running.prepare("counter", "Add", &["c", "10"]).await;
    running
        .invoke("counter", "Add", &["c", "1"])
        .await
        .expect("added");
    let told = running.settle(&[&stale]).await.remove(0);
    assert!(is_conflict(&told, "MVCC_READ_CONFLICT"), "{told:?}");
    let Outcome::Conflict(cause) = told else {
        unreachable!()
    };
    assert!(cause.message.contains("\"c\""), "names the key: {cause}");
    // A verdict is final: the same bytes get the same one.
    let again = running.settle(&[&stale]).await.remove(0);
    assert!(is_conflict(&again, "MVCC_READ_CONFLICT"), "{again:?}");
    assert_eq!(running.codes(3), [DuplicateTxid]);
    assert_eq!(running.query("counter", "Get", &["c"]).await, "1");
}

#[tokio::test]
async fn a_key_deleted_and_made_anew_is_another_version() {
    let running = Running::of(1);
    let create = ["a", "blue", "1", "T", "1"];
    running
        .invoke("basic", "CreateAsset", &create)
        .await
        .expect("created");
    let stale = running.prepare("basic", "TransferAsset", &["a", "Max"]).await;
    running
        .invoke("basic", "DeleteAsset", &["a"])
        .await
        .expect("deleted");
    running
        .invoke("basic", "CreateAsset", &create)
        .await
        .expect("created");
    let told = running.settle(&[&stale]).await.remove(0);
    assert!(is_conflict(&told, "MVCC_READ_CONFLICT"), "{told:?}");
}

#[tokio::test]
async fn a_range_that_holds_other_keys_by_now_is_a_phantom() {
    let running = Running::of(2);
    let create = async |id: &str| {
        running
            .prepare("basic", "CreateAsset", &[id, "b", "1", "T", "1"])
            .await
    };
    let list = async || running.prepare("basic", "GetAllAssets", &[]).await;

    // A key added earlier in the same block, and the other way round.
    let told = running.settle(&[&create("a").await, &list().await]).await;
    assert!(is_conflict(&told[1], "PHANTOM_READ_CONFLICT"), "{told:?}");
    running.settle(&[&list().await, &create("b").await]).await;
    assert_eq!(running.codes(1), [Valid, PhantomReadConflict]);
    assert_eq!(running.codes(2), [Valid, Valid]);

    // A key added, changed or removed in an earlier block.
    let (before_add, before_change) = (list().await, list().await);
    let other = running.prepare("counter", "Add", &["c", "1"]).await;
    running.settle(&[&create("c").await, &other]).await;
    let transfer = running.prepare("basic", "TransferAsset", &["a", "Max"]).await;
    running.settle(&[&before_add, &transfer]).await;
    let before_removal = list().await;
    let delete = running.prepare("basic", "DeleteAsset", &["c"]).await;
    running.settle(&[&before_change, &delete]).await;
    running.settle(&[&before_removal, &list().await]).await;
    assert_eq!(running.codes(4), [PhantomReadConflict, Valid]);
    assert_eq!(running.codes(5), [PhantomReadConflict, Valid]);
    assert_eq!(running.codes(6), [PhantomReadConflict, Valid]);

    // A removal earlier in the same block.
    let (delete, stale) = (
        running.prepare("basic", "DeleteAsset", &["b"]).await,
        list().await,
    );
    running.settle(&[&delete, &stale]).await;
    assert_eq!(running.codes(7), [Valid, PhantomReadConflict]);
}

#[tokio::test]
async fn i2_every_repeat_of_an_earlier_block_is_a_duplicate() {
    let running = Running::of(2);
    // It reads nothing, so nothing but its identifier keeps it from taking effect again.
    let sent = running.prepare("counter", "Set", &["c", "1"]).await;
    let other = running.prepare("counter", "Set", &["c", "2"]).await;
    running.settle(&[&sent, &other]).await;
    running.settle(&[&sent, &sent]).await;
    assert_eq!(running.codes(2), [DuplicateTxid, DuplicateTxid]);
}

#[tokio::test]
async fn a_repeat_in_the_same_block_takes_effect_once() {
    let running = Running::of(3);
    let sent = running.prepare("counter", "Add", &["c", "1"]).await;
    let other = running.prepare("counter", "Add", &["d", "1"]).await;
    let mut stream = running.ledger.outcomes(None).skip(1);
    running.settle(&[&sent, &sent, &other]).await;
    assert_eq!(running.codes(1), [Valid, DuplicateTxid, Valid]);
    let group = stream.next().await.expect("a block").outcomes;
    assert_eq!(group.len(), 2, "told once: {group:?}");
    assert!(matches!(
        running.ledger.lookup(&sent.tx_id).await,
        Outcome::Committed(_)
    ));
    assert_eq!(running.query("counter", "Get", &["c"]).await, "1");
}

#[tokio::test]
async fn a_full_block_is_cut_at_once() {
    let running = Running::of(2);
    let mut sent = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        sent.push(running.prepare("counter", "Add", &[name, "1"]).await);
    }
    running.settle(&[&sent[0], &sent[1], &sent[2], &sent[3]]).await;
    running.ledger.submit(&sent[4]).await.expect("taken");
    assert_eq!((running.codes(1).len(), running.codes(2).len()), (2, 2));
    assert_eq!(running.ledger.height(), 2, "the odd one waits");
    assert!(matches!(
        running.ledger.lookup(&sent[4].tx_id).await,
        Outcome::Absent(_)
    ));
}

#[tokio::test]
async fn the_timeout_counts_from_the_first_transaction() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
    let timeout = Duration::from_millis(100);
    let running = Running::open(MemoryEngine::default(), 10, timeout, Arc::clone(&clock) as _);
    let one = running.prepare("counter", "Add", &["a", "1"]).await;
    let two = running.prepare("counter", "Add", &["b", "1"]).await;
    let mut stream = running.ledger.outcomes(None).skip(1).boxed();
    // Idle time does not count.
    clock.advance(Duration::from_millis(500));
    running.ledger.submit(&one).await.expect("taken");
    clock.advance(Duration::from_millis(60));
    running.ledger.submit(&two).await.expect("taken");
    until("both taken", || running.ledger.engine.inbox().capacity() == INBOX).await;
    clock.advance(Duration::from_millis(39));
    tokio::task::yield_now().await;
    assert!(futures_util::poll!(stream.next()).is_pending());
    clock.advance(Duration::from_millis(1));
    outcomes_of(&mut stream, &[&one.tx_id, &two.tx_id]).await;
    assert_eq!(running.codes(1).len(), 2);
}

#[tokio::test]
async fn a_full_orderer_takes_no_more() {
    let running = Running::of(INBOX * 2);
    let sent = running.prepare("counter", "Add", &["c", "1"]).await;
    // Without a pause for the orderer, which shares this thread, everything stays in the inbox.
    let mut refused = None;
    for _ in 0..=INBOX {
        refused = running.ledger.submit(&sent).await.err();
    }
    let Some(SubmitError::Unavailable(cause)) = refused else {
        panic!("taken or worse: {refused:?}");
    };
    assert_eq!(cause.code, "ORDERER_FULL");
}

#[tokio::test]
async fn another_transactions_envelope_is_refused() {
    let running = Running::of(1);
    let one = running.prepare("counter", "Add", &["c", "1"]).await;
    let mut two = running.prepare("counter", "Add", &["c", "1"]).await;
    two.envelope = one.envelope;
    let error = running.ledger.submit(&two).await.expect_err("refused");
    assert!(matches!(error, SubmitError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn wrong_names_are_told_with_the_right_ones() {
    let running = Running::of(1);
    let unknown = running
        .ledger
        .check(&request("bsic", "f", &[]))
        .expect_err("unknown");
    assert_eq!(unknown.pointer, "/contract");
    assert!(unknown.detail.contains("basic, token, counter"), "{unknown}");
    let unknown = running
        .ledger
        .check(&request("counter", "get", &[]))
        .expect_err("unknown");
    assert_eq!(unknown.pointer, "/function");
    assert!(unknown.detail.contains("Set, Add, Get"), "{unknown}");
    let error = running
        .ledger
        .prepare(fresh(), &request("counter", "get", &[]))
        .await
        .expect_err("unknown");
    assert!(matches!(error, PrepareError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn a_query_leaves_no_trace() {
    let running = Running::of(1);
    assert_eq!(running.query("counter", "Add", &["c", "5"]).await, "5");
    assert_eq!(running.query("counter", "Set", &["c", "5"]).await, "null");
    assert_eq!(running.query("counter", "Get", &["c"]).await, "0");
    assert_eq!(running.ledger.height(), 0);
}

#[tokio::test]
async fn numbers_may_come_as_json_numbers() {
    let running = Running::of(1);
    let mut request = (Calls::COUNTER.add)("c", 0);
    request.args[1] = serde_json::from_str("123456789012345678901234567890").expect("argument");
    let prepared = running.ledger.prepare(fresh(), &request).await.expect("prepared");
    let response = prepared.response.expect("a response");
    assert_eq!(response.get(), "123456789012345678901234567890");
}
