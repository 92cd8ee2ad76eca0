//! What every store must do for documents.

use std::future::Future;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::conformance::runtime;
use super::documents::{Document, DocumentChange, DocumentStore};
use super::places::Place;

/// Runs a test against the documents of every store.
fn on_every_store<F: Future<Output = ()>>(test: impl Fn(Arc<dyn DocumentStore>) -> F) {
    for place in Place::all() {
        runtime().block_on(async { test(place.open_both().await.1).await });
    }
}

fn create(kind: &'static str, key: &str, body: u64) -> DocumentChange {
    DocumentChange::create(kind, key, &body).expect("JSON")
}

fn replace(kind: &'static str, old: &Document, body: u64) -> DocumentChange {
    DocumentChange::replace(kind, old, &body).expect("JSON")
}

async fn change(store: &dyn DocumentStore, changes: Vec<DocumentChange>) -> bool {
    store.change_documents(changes).await.expect("writes")
}

async fn read(store: &dyn DocumentStore, kind: &'static str, key: &str) -> Option<Document> {
    store.document(kind, key).await.expect("reads")
}

fn seen(document: Option<&Document>) -> Option<(u64, u64)> {
    document.map(|document| (document.version, document.read().expect("reads")))
}

#[test]
fn a_document_changes_only_from_the_version_that_was_read() {
    on_every_store(|store| async move {
        let store = &*store;
        assert!(read(store, "key", "a").await.is_none());
        assert!(change(store, vec![]).await);
        assert!(change(store, vec![create("key", "a", 1)]).await);
        assert!(!change(store, vec![create("key", "a", 2)]).await);
        // Another kind has other keys.
        assert!(change(store, vec![create("keys", "a", 9)]).await);
        let first = read(store, "key", "a").await.expect("is there");
        assert_eq!(seen(Some(&first)), Some((1, 1)));
        assert!(change(store, vec![replace("key", &first, 2)]).await);
        assert!(!change(store, vec![replace("key", &first, 3)]).await);
        assert!(!change(store, vec![DocumentChange::remove("key", &first)]).await);
        let second = read(store, "key", "a").await.expect("is there");
        assert_eq!(seen(Some(&second)), Some((2, 2)));
        // That there is none can be asked for as well.
        let none = |key: &str| DocumentChange {
            kind: "key",
            key: key.to_owned(),
            expected: None,
            body: None,
        };
        assert!(!change(store, vec![none("a")]).await);
        assert!(change(store, vec![none("b"), replace("key", &second, 3)]).await);
        let third = read(store, "key", "a").await.expect("is there");
        assert!(change(store, vec![DocumentChange::remove("key", &third)]).await);
        assert!(!change(store, vec![replace("key", &third, 4)]).await);
        assert!(read(store, "key", "a").await.is_none());
        assert_eq!(seen(read(store, "keys", "a").await.as_ref()), Some((1, 9)));
    });
}

#[test]
fn several_documents_change_together_or_not_at_all() {
    on_every_store(|store| async move {
        let store = &*store;
        assert!(change(store, vec![create("a", "1", 1), create("b", "2", 2)]).await);
        let one = read(store, "a", "1").await.expect("is there");
        let two = read(store, "b", "2").await.expect("is there");
        let stale = Document {
            version: 7,
            ..two.clone()
        };
        for bad in [
            create("b", "2", 0),
            replace("b", &stale, 0),
            DocumentChange::remove("b", &stale),
        ] {
            let changes = vec![create("c", "3", 3), bad, replace("a", &one, 10)];
            assert!(!change(store, changes).await);
            assert_eq!(seen(read(store, "a", "1").await.as_ref()), Some((1, 1)));
            assert_eq!(seen(read(store, "b", "2").await.as_ref()), Some((1, 2)));
            assert!(read(store, "c", "3").await.is_none());
        }
        let changes = vec![
            create("c", "3", 3),
            DocumentChange::remove("b", &two),
            replace("a", &one, 10),
        ];
        assert!(change(store, changes).await);
        assert_eq!(seen(read(store, "a", "1").await.as_ref()), Some((2, 10)));
        assert!(read(store, "b", "2").await.is_none());
        assert_eq!(seen(read(store, "c", "3").await.as_ref()), Some((1, 3)));
    });
}

#[test]
fn ranges_go_in_the_order_of_bytes_both_ways() {
    on_every_store(|store| async move {
        let keys = ["A", "a", "a b", "a-b", "a_b", "ab", "b", "z", "Ä", "ä", "😀"];
        let changes = keys.iter().rev().map(|key| create("k", key, 0)).collect();
        assert!(change(&*store, changes).await);
        assert!(change(&*store, vec![create("j", "x", 0), create("l", "a", 0)]).await);
        for (start, end) in [
            ("", ""),
            ("a", "b"),
            ("a", "a"),
            ("b", "a"),
            ("a b", ""),
            ("", "a_"),
            ("aa", "ä"),
            // What follows a key is often written so.
            ("a\0", "ab\0"),
        ] {
            for limit in [0, 1, 3, 99] {
                let inside = |key: &&&str| ***key >= *start && (end.is_empty() || ***key < *end);
                let mut wanted: Vec<_> = keys.iter().filter(inside).copied().collect();
                for newest_first in [false, true] {
                    let found = store.documents("k", start..end, newest_first, limit).await;
                    let found = found.expect("reads");
                    let found: Vec<_> = found.iter().map(|document| document.key.as_str()).collect();
                    assert_eq!(
                        found,
                        wanted[..limit.min(wanted.len())],
                        "{start:?} to {end:?}, {limit}"
                    );
                    wanted.reverse();
                }
            }
        }
        assert!(read(&*store, "k", "a\0").await.is_none());
    });
}

#[test]
fn what_was_written_is_there_after_a_restart_to_the_byte() {
    for place in Place::all() {
        runtime().block_on(async {
            let body = r#"{"b":1.10,  "a":"\u0000é\ud83d\ude00","b":18446744073709551616}"#;
            let (records, store) = place.open_both().await;
            let made = DocumentChange {
                kind: "k",
                key: "ä/1".to_owned(),
                expected: None,
                body: Some(RawValue::from_string(body.to_owned()).expect("JSON")),
            };
            assert!(change(&*store, vec![made, create("k", "b", 1)]).await);
            let old = read(&*store, "k", "b").await.expect("is there");
            assert!(change(&*store, vec![DocumentChange::remove("k", &old)]).await);
            drop((records, store));
            let store = place.open_both().await.1;
            let kept = read(&*store, "k", "ä/1").await.expect("is there");
            assert_eq!((kept.version, kept.body.get()), (1, body));
            assert!(read(&*store, "k", "b").await.is_none());
        });
        place.check(0);
    }
}

/// All that can use the place at once change the same documents, named in any order.
#[test]
fn of_those_who_change_the_same_one_wins() {
    for place in Place::all() {
        let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        threads.expect("runtime").block_on(async {
            let stores = place.open_several().await;
            let mut tasks = tokio::task::JoinSet::new();
            for task in 0..12 {
                let store = stores[task % stores.len()].1.clone();
                tasks.spawn(async move {
                    let mut won = 0;
                    for round in 0..20 {
                        won += u64::from(count_up(&*store, (task + round) % 3).await);
                        // Whoever comes first makes it.
                        let key = format!("round {round}");
                        let mut both = vec![create("made", &key, 1), create("also", &key, 1)];
                        if task % 2 == 0 {
                            both.reverse();
                        }
                        won += 1_000 * u64::from(change(&*store, both).await);
                    }
                    won
                });
            }
            let won: u64 = tasks.join_all().await.into_iter().sum();
            assert_eq!(won / 1_000, 20, "each was made once");
            let mut counted = Vec::new();
            for key in ["a", "b", "c"] {
                let document = read(&*stores[0].1, "count", key).await.expect("is there");
                let (version, number) = seen(Some(&document)).expect("is there");
                assert_eq!(version, number);
                counted.push(number);
            }
            // Each that won counted two of the three up.
            assert_eq!(counted.iter().sum::<u64>(), 2 * (won % 1_000));
        });
    }
}

/// Adds one to two of three documents, or to none.
async fn count_up(store: &dyn DocumentStore, left_out: usize) -> bool {
    let mut changes = Vec::new();
    for (number, key) in ["c", "a", "b"].into_iter().enumerate() {
        if number == left_out {
            continue;
        }
        changes.push(match read(store, "count", key).await {
            Some(old) => replace("count", &old, old.read::<u64>().expect("reads") + 1),
            None => create("count", key, 1),
        });
    }
    change(store, changes).await
}
