//! What every store must do for whoever keeps records elsewhere before they are removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::conformance::{claimed, committed, now, on_every_store, prepared, soon, step, transaction};
use super::{Filter, TransactionStore};
use crate::domain::{Argument, Cause, Event, Status, Transaction, TransactionId};

async fn done(store: &dyn TransactionStore, tx: &Transaction) -> Transaction {
    store.insert(tx).await.expect("inserts");
    let tx = step(store, tx, claimed(soon())).await;
    let tx = step(store, &tx, prepared(soon())).await;
    step(store, &tx, committed()).await
}

async fn failed(store: &dyn TransactionStore, tx: &Transaction) -> Transaction {
    store.insert(tx).await.expect("inserts");
    let tx = step(store, tx, claimed(soon())).await;
    let cause = Cause::new("NO", "no");
    step(store, &tx, Event::Rejected { cause }).await
}

fn ids(records: &[Transaction]) -> Vec<TransactionId> {
    records.iter().map(|tx| tx.id).collect()
}

#[test]
fn what_is_settled_is_read_and_removed_as_it_was_read() {
    on_every_store(|store| async move {
        let early = now();
        let mut all = Vec::new();
        for key in ["a", "b", "c"] {
            all.push(done(&*store, &transaction("main", Some(key))).await);
        }
        let other = failed(&*store, &transaction("side", None)).await;
        let pending = transaction("main", None);
        store.insert(&pending).await.expect("inserts");
        let read = |status, before, limit| {
            let store = store.clone();
            async move { store.settled_before(status, before, limit).await.expect("reads") }
        };
        assert!(read(Status::Done, early, 9).await.is_empty());
        assert!(read(Status::Pending, soon(), 9).await.is_empty());
        assert_eq!(ids(&read(Status::Failed, soon(), 9).await), [other.id]);
        let two = read(Status::Done, soon(), 2).await;
        assert_eq!(ids(&two), ids(&all[..2]));
        let read_all = read(Status::Done, soon(), 9).await;
        assert_eq!(ids(&read_all), ids(&all), "it begins with the same ones");
        let json = |tx: &Transaction| serde_json::to_string(tx).expect("JSON");
        assert_eq!(json(&read_all[2]), json(&all[2]));

        let mut stale = all[0].clone();
        stale.version -= 1;
        let refused = [stale, pending.clone(), transaction("main", None)];
        assert_eq!(store.remove_settled(&refused).await.expect("removes"), 0);
        assert_eq!(store.remove_settled(&[]).await.expect("removes"), 0);
        assert_eq!(read(Status::Done, soon(), 9).await.len(), 3);

        let gone = [all[1].clone(), other.clone(), refused[0].clone()];
        assert_eq!(store.remove_settled(&gone).await.expect("removes"), 2);
        assert_eq!(store.remove_settled(&gone).await.expect("removes"), 0);
        let left = store.list(&Filter::default(), None, 9).await.expect("lists");
        let left: BTreeSet<_> = ids(&left.items).into_iter().collect();
        assert_eq!(left, BTreeSet::from([all[0].id, all[2].id, pending.id]));
        let key = store.find_by_idempotency_key("b").await.expect("reads");
        assert!(key.is_none(), "its idempotency key goes with it");
    });
}

#[test]
fn large_ones_are_read_a_few_at_a_time_and_none_is_left_out() {
    on_every_store(|store| async move {
        for n in 0..20 {
            let mut tx = transaction("main", None);
            let text = match n % 2 {
                0 => "x".repeat(1 << 20),
                _ => (0..(1 << 19))
                    .map(|_| char::from(rand::random_range(b'a'..=b'z')))
                    .collect(),
            };
            Arc::make_mut(&mut tx.request).args = vec![Argument::text(&text)];
            failed(&*store, &tx).await;
        }
        let (mut removed, mut reads) = (0, 0);
        loop {
            let read = store
                .settled_before(Status::Failed, soon(), 500)
                .await
                .expect("reads");
            if read.is_empty() {
                break;
            }
            assert!(read.len() <= 12, "{} at once", read.len());
            removed += store.remove_settled(&read).await.expect("removes");
            reads += 1;
        }
        assert_eq!(removed, 20);
        assert!(reads > 1);
    });
}
