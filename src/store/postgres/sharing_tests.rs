//! Several gateways on one database. Each node here stands for a process.

use std::time::Duration;

use futures_util::StreamExt;

use super::News;
use super::PostgresStore;
use super::server::shared;
use super::testing::{node, settings};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Cause, Event, LedgerName, Status, Timestamp, Transaction, TransactionId};
use crate::store::conformance::transaction;
use crate::store::{Change, Inserted, Mark, TransactionStore};

fn now() -> Timestamp {
    SystemClock.now()
}

fn main_ledger() -> LedgerName {
    LedgerName::new("main").expect("valid name")
}

async fn two_nodes() -> (PostgresStore, PostgresStore) {
    let settings = settings(&shared().database());
    (node(&settings).await, node(&settings).await)
}

async fn due(store: &PostgresStore, limit: usize) -> Vec<TransactionId> {
    let due = store.due(&main_ledger(), now(), limit).await.expect("reads");
    due.marks.iter().map(|mark| mark.id).collect()
}

async fn swap(store: &PostgresStore, old: &Transaction, event: Event) -> Option<Transaction> {
    let new = old.apply(event, now()).expect("legal");
    let change = Change {
        old: old.clone(),
        new: new.clone(),
    };
    let made = store.compare_and_swap(vec![change]).await.expect("swaps");
    made[0].then_some(new)
}

fn claimed(until: Timestamp) -> Event {
    let owner = "w".to_owned();
    Event::Claimed {
        lease: crate::domain::Lease { owner, until },
    }
}

fn rejected() -> Event {
    Event::Rejected {
        cause: Cause::new("NO", "never"),
    }
}

async fn heard(news: &mut (impl futures_util::Stream<Item = News> + Unpin)) -> Option<News> {
    tokio::time::timeout(Duration::from_secs(20), news.next())
        .await
        .expect("something is heard")
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain: {what}");
}

#[tokio::test]
async fn what_one_was_given_is_kept_from_the_other_until_it_changes_or_time_is_up() {
    let (one, other) = two_nodes().await;
    let mut all: Vec<_> = (0..6).map(|_| transaction("main", None)).collect();
    for tx in &all {
        one.insert(tx).await.expect("inserts");
    }
    let ids: Vec<_> = all.iter().map(|tx| tx.id).collect();
    assert_eq!(due(&one, 2).await, ids[..2]);
    assert_eq!(due(&other, 3).await, ids[2..5]);
    // The same again for each, and what nobody was given.
    assert_eq!(due(&one, 9).await, [ids[0], ids[1], ids[5]]);
    assert_eq!(due(&other, 9).await, ids[2..5]);
    // A change makes it anybody's.
    let first = all.remove(0);
    let claim = swap(&one, &first, claimed(now())).await.expect("made");
    let found = other.due(&main_ledger(), now(), 1).await.expect("reads").marks;
    assert_eq!(found, [Mark::of(&claim).expect("due")]);
    // One that died holds nobody up for long.
    drop(other);
    let heir = node(&settings(
        &shared().url(one.sessions.options().get_database().expect("named")),
    ))
    .await;
    eventually("the holds run out", async || {
        due(&heir, 9).await.contains(&ids[2])
    })
    .await;
}

#[tokio::test]
async fn no_more_is_held_than_was_given() {
    let (one, other) = two_nodes().await;
    let all: Vec<_> = (0..8).map(|_| transaction("main", None)).collect();
    for (number, tx) in all.iter().enumerate() {
        one.insert(tx).await.expect("inserts");
        if number < 4 {
            swap(&one, tx, claimed(now())).await.expect("made");
        }
    }
    let ids: Vec<_> = all.iter().map(|tx| tx.id).collect();
    // Repeated ones and first tries in turn.
    assert_eq!(due(&one, 4).await, [ids[0], ids[4], ids[1], ids[5]]);
    assert_eq!(due(&other, 4).await, [ids[2], ids[6], ids[3], ids[7]]);
}

#[tokio::test]
async fn concurrent_takers_share_without_overlap() {
    let (one, other) = two_nodes().await;
    for _ in 0..300 {
        one.insert(&transaction("main", None)).await.expect("inserts");
    }
    let (mine, theirs) = tokio::join!(due(&one, 150), due(&other, 150));
    assert!(mine.iter().all(|id| !theirs.contains(id)));
    let (mine, theirs) = tokio::join!(due(&one, 300), due(&other, 300));
    assert!(mine.iter().all(|id| !theirs.contains(id)));
    assert_eq!(mine.len() + theirs.len(), 300);
}

#[tokio::test]
async fn i5_one_key_makes_one_record_whoever_is_asked() {
    let (one, other) = two_nodes().await;
    let inserts = (0..200).map(|number| {
        let store = if number % 2 == 0 { &one } else { &other };
        // In opposite orders, so that groups with the same keys meet from both ends.
        let key = if number % 2 == 0 {
            number / 2
        } else {
            99 - number / 2
        };
        async move {
            let tx = transaction("main", Some(&format!("key {key}")));
            match store.insert(&tx).await.expect("inserts") {
                Inserted::Created => (key, tx.id),
                Inserted::Existing(existing) => (key, existing),
                Inserted::Withheld => panic!("nothing else was inserted"),
            }
        }
    });
    let mut results = futures_util::future::join_all(inserts).await;
    results.sort();
    results.dedup();
    assert_eq!(results.len(), 100, "two ids for one key");
    eventually("both count them all", async || {
        [&one, &other]
            .iter()
            .all(|store| store.backlog().get(&main_ledger()) == Some(&100))
    })
    .await;
}

#[tokio::test]
async fn i8_of_swaps_by_several_nodes_one_wins() {
    let (one, other) = two_nodes().await;
    let mut all = Vec::new();
    for _ in 0..50 {
        let tx = transaction("main", None);
        one.insert(&tx).await.expect("inserts");
        all.push(tx);
    }
    let through = |store| {
        let changes = all.iter().map(|tx: &Transaction| Change {
            old: tx.clone(),
            new: tx.apply(claimed(now()), now()).expect("legal"),
        });
        let changes: Vec<_> = changes.collect();
        async move {
            PostgresStore::compare_and_swap(store, changes)
                .await
                .expect("swaps")
        }
    };
    let results = futures_util::future::join_all([&one, &other, &one, &other].map(through)).await;
    for number in 0..all.len() {
        assert_eq!(results.iter().filter(|made| made[number]).count(), 1);
    }
}

#[tokio::test]
async fn several_changes_of_one_record_in_one_call_follow_one_another() {
    let (one, _) = two_nodes().await;
    let tx = transaction("main", None);
    one.insert(&tx).await.expect("inserts");
    let claim = tx.apply(claimed(now()), now()).expect("legal");
    let end = claim.apply(rejected(), now()).expect("legal");
    let change = |old: &Transaction, new: &Transaction| Change {
        old: old.clone(),
        new: new.clone(),
    };
    let changes = vec![change(&tx, &claim), change(&tx, &claim), change(&claim, &end)];
    assert_eq!(
        one.compare_and_swap(changes).await.expect("swaps"),
        [true, false, true]
    );
    let read = one.get(tx.id).await.expect("reads").expect("is there");
    assert_eq!((read.version, read.status()), (3, Status::Failed));
    assert_eq!(one.backlog().get(&main_ledger()), None);
}

#[tokio::test]
async fn what_one_settles_the_other_hears_and_not_itself() {
    let (one, other) = two_nodes().await;
    let database = one.sessions.options().get_database().expect("named").to_owned();
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND state = 'idle' AND query LIKE 'LISTEN%'";
    eventually("both listen", async || shared().sql(&database, listening) == "2").await;
    // They tell so a moment later; that is not what is waited for.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (mut at_one, mut at_other) = (one.settled_elsewhere(), other.settled_elsewhere());
    let tx = transaction("main", None);
    one.insert(&tx).await.expect("inserts");
    let claim = swap(&one, &tx, claimed(now())).await.expect("made");
    swap(&one, &claim, rejected()).await.expect("made");
    assert_eq!(heard(&mut at_other).await, Some(News::Settled(vec![tx.id])));
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
               AND query LIKE 'LISTEN%'";
    shared().sql(&database, cut);
    assert_eq!(heard(&mut at_other).await, Some(News::Missed));
    assert_eq!(heard(&mut at_one).await, Some(News::Missed));
    one.close().await;
    other.close().await;
    drop((one, other));
    assert_eq!(heard(&mut at_other).await, None);
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name = 'sluicegate'";
    eventually("no connection is left", async || {
        shared().sql(&database, left) == "0"
    })
    .await;
}

#[tokio::test]
async fn prunes_by_several_nodes_remove_each_record_once() {
    let (one, other) = two_nodes().await;
    for _ in 0..40 {
        let tx = transaction("main", None);
        one.insert(&tx).await.expect("inserts");
        let claim = swap(&one, &tx, claimed(now())).await.expect("made");
        swap(&one, &claim, rejected()).await.expect("made");
    }
    let later = now().plus(Duration::from_secs(1));
    let prunes = [&one, &other, &one, &other].map(|store| store.prune(Status::Failed, later, 25));
    let removed = futures_util::future::join_all(prunes).await;
    let removed: usize = removed.into_iter().map(|removed| removed.expect("prunes")).sum();
    let rest = one.prune(Status::Failed, later, 100).await.expect("prunes");
    assert_eq!(removed + rest, 40);
}
