//! What every store must do about the log of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::conformance::{
    claimed, committed, now, on_every_store, prepared, runtime, soon, step, transaction,
};
use super::places::Place;
use super::{Inserted, Position, TransactionStore};
use crate::domain::{Timestamp, Transaction, TransactionId};

type Told = Vec<(Position, Transaction)>;

/// All that changed after a position, `limit` at a time, and where to go on; the positions are in order.
async fn told(store: &dyn TransactionStore, mut after: Position, limit: usize) -> (Told, Position) {
    let mut all = Vec::new();
    loop {
        let changes = store
            .changes(after, limit)
            .await
            .expect("reads")
            .expect("is known");
        assert!(changes.items.len() <= limit && changes.next >= after);
        for (position, tx) in changes.items {
            assert!(position > after && position <= changes.next);
            after = position;
            all.push((position, tx));
        }
        after = changes.next;
        if !changes.more {
            return (all, after);
        }
    }
}

/// The same once it is what is expected: a change becomes visible only when all that were begun before it have ended,
/// and other tests have theirs on the same server.
async fn in_time(
    store: &dyn TransactionStore,
    after: Position,
    limit: usize,
    expected: &[(TransactionId, u64)],
) -> (Told, Position) {
    let mut seen = Vec::new();
    for _ in 0..3_000 {
        let (told, next) = told(store, after, limit).await;
        seen = versions(&told);
        if seen == expected {
            return (told, next);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{seen:?} were told instead of {expected:?}");
}

fn versions(told: &[(Position, Transaction)]) -> Vec<(TransactionId, u64)> {
    told.iter().map(|(_, tx)| (tx.id, tx.version)).collect()
}

#[test]
fn what_changed_is_told_in_order_and_from_where_one_was() {
    for place in Place::all() {
        runtime().block_on(async {
            let store = place.open().await;
            let start = store.last_change().await.expect("reads");
            assert_eq!(versions(&told(&*store, start, 9).await.0), []);
            let [a, b, c] = [(); 3].map(|()| transaction("main", None));
            for tx in [&a, &b, &c] {
                store.insert(tx).await.expect("inserts");
            }
            step(&*store, &a, claimed(soon())).await;
            let expected = [(b.id, 1), (c.id, 1), (a.id, 2)];
            let (all, end) = in_time(&*store, start, 9, &expected).await;
            for limit in [1, 2] {
                assert_eq!(versions(&told(&*store, start, limit).await.0), expected);
            }
            assert_eq!(versions(&told(&*store, all[0].0, 9).await.0), expected[1..]);
            assert!(store.last_change().await.expect("reads") >= all[2].0);
            assert_eq!(versions(&told(&*store, end, 9).await.0), []);

            // A position is a text to those who keep it, and is known after a restart.
            let kept: Position = all[0].0.to_string().parse().expect("is a position");
            drop(store);
            let store = place.open().await;
            in_time(&*store, kept, 9, &expected[1..]).await;
            let d = transaction("main", None);
            store.insert(&d).await.expect("inserts");
            in_time(&*store, end, 9, &[(d.id, 1)]).await;
            for elsewhere in [Position(end.0, end.1 + (1 << 40)), Position(end.0 ^ 1, end.1)] {
                assert!(store.changes(elsewhere, 9).await.expect("reads").is_none());
            }
        });
    }
}

#[test]
fn several_changes_of_one_commit_are_told_one_by_one() {
    on_every_store(|store| async move {
        let start = store.last_change().await.expect("reads");
        let all: Vec<_> = (0..40).map(|_| transaction("main", None)).collect();
        store.insert_many(&all, false).await.expect("inserts");
        in_time_any_order(&*store, start, &all).await;
        let first = versions(&told(&*store, start, 7).await.0);
        let piece = store.changes(start, 15).await.expect("reads").expect("is known");
        assert!(piece.more);
        let rest = versions(&told(&*store, piece.next, 100).await.0);
        assert_eq!([versions(&piece.items), rest].concat(), first);
    });
}

/// Waits until these new records are told, and nothing else.
async fn in_time_any_order(store: &dyn TransactionStore, after: Position, new: &[Transaction]) {
    let wanted: BTreeSet<_> = new.iter().map(|tx| (tx.id, 1)).collect();
    let mut seen = BTreeSet::new();
    for _ in 0..3_000 {
        let told = versions(&told(store, after, 100).await.0);
        assert!(told.len() <= wanted.len(), "{told:?}");
        seen = told.into_iter().collect();
        if seen == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{seen:?} were told instead of {wanted:?}");
}

#[test]
fn whoever_waits_is_notified_of_a_change() {
    on_every_store(|store| async move {
        let changed = store.changed();
        let tx = transaction("main", None);
        for change in 0..2 {
            let notified = changed.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if change == 0 {
                store.insert(&tx).await.expect("inserts");
            } else {
                step(&*store, &tx, claimed(soon())).await;
            }
            notified.await;
        }
    });
}

/// Writers on all that can use the place at once, and a follower who reads meanwhile.
#[test]
fn nothing_is_missed_or_told_twice_whoever_writes() {
    for place in Place::all() {
        let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        threads.expect("runtime").block_on(async {
            let stores: Vec<_> = place
                .open_several()
                .await
                .into_iter()
                .map(|both| both.0)
                .collect();
            let start = stores[0].last_change().await.expect("reads");
            let mut writers = tokio::task::JoinSet::new();
            for number in 0..24 {
                let store = stores[number % stores.len()].clone();
                writers.spawn(async move { write_on(store).await });
            }
            let mut after = start;
            let mut seen: BTreeMap<TransactionId, u64> = BTreeMap::new();
            let patience = std::time::Instant::now() + Duration::from_secs(60);
            // Each of the writers' records, half of them in their last version.
            while seen.len() < 24 * 6 || seen.values().filter(|version| **version == 4).count() < 24 * 3 {
                assert!(std::time::Instant::now() < patience, "{} are told", seen.len());
                let changes = stores[0]
                    .changes(after, 5)
                    .await
                    .expect("reads")
                    .expect("is known");
                for (position, tx) in changes.items {
                    assert!(position > after, "in order");
                    after = position;
                    let before = seen.insert(tx.id, tx.version);
                    assert!(before < Some(tx.version), "{before:?}, then {}", tx.version);
                }
                assert!(changes.next >= after);
                after = changes.next;
            }
            writers.join_all().await;
            assert_eq!(versions(&told(&*stores[0], after, 50).await.0), []);
            let again = versions(&told(&*stores[0], start, 50).await.0);
            assert_eq!(again.len(), 24 * 6);
            assert_eq!(seen, again.into_iter().collect());
        });
    }
}

/// Six records, three of them settled.
async fn write_on(store: Arc<dyn TransactionStore>) {
    for number in 0..6 {
        let tx = transaction("main", None);
        store.insert(&tx).await.expect("inserts");
        if number % 2 == 0 {
            let tx = step(&*store, &tx, claimed(soon())).await;
            let tx = step(&*store, &tx, prepared(soon())).await;
            step(&*store, &tx, committed()).await;
        }
    }
}

#[test]
fn what_is_old_is_forgotten_from_the_oldest_on_and_the_records_stay() {
    for place in Place::all() {
        runtime().block_on(async {
            let store = place.open().await;
            let start = store.last_change().await.expect("reads");
            let all: Vec<_> = (0..5).map(|_| transaction("main", None)).collect();
            for tx in &all {
                store.insert(tx).await.expect("inserts");
            }
            let expected: Vec<_> = all.iter().map(|tx| (tx.id, 1)).collect();
            let (before, end) = in_time(&*store, start, 9, &expected).await;
            let past = Timestamp::from_millis(now().as_millis() - 60_000);
            assert_eq!(store.forget_changes(past, 9).await.expect("forgets"), 0);
            assert_eq!(versions(&told(&*store, start, 9).await.0), expected);
            assert_eq!(store.forget_changes(soon(), 2).await.expect("forgets"), 2);

            let unknown = async |store: &dyn TransactionStore, position| {
                store.changes(position, 9).await.expect("reads").is_none()
            };
            assert!(unknown(&*store, start).await && unknown(&*store, before[0].0).await);
            assert_eq!(versions(&told(&*store, before[1].0, 9).await.0), expected[2..]);
            // A store may keep the newest.
            let forgotten = store.forget_changes(soon(), 100).await.expect("forgets");
            assert!((2..=3).contains(&forgotten), "{forgotten}");
            drop(store);
            let store = place.open().await;
            assert!(unknown(&*store, before[1].0).await);
            let newest = transaction("main", None);
            store.insert(&newest).await.expect("inserts");
            for known in [end, before[4].0] {
                in_time(&*store, known, 9, &[(newest.id, 1)]).await;
            }
            for tx in &all {
                assert!(store.get(tx.id).await.expect("reads").is_some());
            }
        });
    }
}

#[test]
fn many_are_stored_in_one_commit_and_each_is_answered_for() {
    on_every_store(|store| async move {
        let first = transaction("main", Some("there"));
        let start = store.last_change().await.expect("reads");
        store.insert(&first).await.expect("inserts");
        let (_, start) = in_time(&*store, start, 9, &[(first.id, 1)]).await;
        let all: Vec<_> = [None, Some("there"), Some("new"), None, Some("new")]
            .map(|key| transaction("main", key))
            .into();
        let fates = |inserted: Vec<Inserted>| -> Vec<Option<TransactionId>> {
            let fate = |inserted| match inserted {
                Inserted::Created => None,
                Inserted::Existing(existing) => Some(existing),
                Inserted::Withheld => panic!("none depends on another"),
            };
            inserted.into_iter().map(fate).collect()
        };
        let inserted = store.insert_many(&all, false).await.expect("inserts");
        assert_eq!(
            fates(inserted),
            [None, Some(first.id), None, None, Some(all[2].id)]
        );
        let new = [0, 2, 3].map(|number: usize| all[number].clone());
        in_time_any_order(&*store, start, &new).await;
        assert_eq!(store.backlog().values().sum::<u64>(), 4);
        assert!(store.insert_many(&[], true).await.expect("inserts").is_empty());
    });
}

#[test]
fn all_are_stored_or_none() {
    on_every_store(|store| async move {
        let there = transaction("main", Some("there"));
        let start = store.last_change().await.expect("reads");
        store.insert(&there).await.expect("inserts");
        let (_, start) = in_time(&*store, start, 9, &[(there.id, 1)]).await;
        let refused: Vec<_> = [Some("one"), Some("there"), None]
            .map(|key| transaction("main", key))
            .into();
        let inserted = store.insert_many(&refused, true).await.expect("answers");
        let expected = [
            Inserted::Withheld,
            Inserted::Existing(there.id),
            Inserted::Withheld,
        ];
        assert_eq!(inserted, expected);
        for tx in &refused {
            assert!(store.get(tx.id).await.expect("reads").is_none());
        }
        assert!(
            store
                .find_by_idempotency_key("one")
                .await
                .expect("reads")
                .is_none()
        );
        assert_eq!(store.backlog().values().sum::<u64>(), 1);

        let made: Vec<_> = [Some("one"), None].map(|key| transaction("main", key)).into();
        let inserted = store.insert_many(&made, true).await.expect("answers");
        assert!(matches!(
            inserted.as_slice(),
            [Inserted::Created, Inserted::Created]
        ));
        // Nothing is told of those that were not stored.
        in_time_any_order(&*store, start, &made).await;
        assert_eq!(store.backlog().values().sum::<u64>(), 3);
    });
}
