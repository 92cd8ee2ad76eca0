//! What every store must do for a lane that is taken up: checkpoints, and what is submitted.

use super::Mark;
use super::TransactionStore;
use super::conformance::{
    claimed, committed, main_ledger, now, on_every_store, prepared, runtime, soon, step, transaction,
};
use super::places::Place;
use crate::domain::{Checkpoint, LedgerName};

#[test]
fn a_checkpoint_is_kept_and_never_goes_back() {
    for place in Place::all() {
        runtime().block_on(async {
            let store = place.open().await;
            let noted = async |store: &dyn TransactionStore, ledger: &str| {
                let ledger = LedgerName::new(ledger).expect("valid name");
                store
                    .checkpoint(&ledger)
                    .await
                    .expect("reads")
                    .map(|noted| noted.0)
            };
            assert_eq!(noted(&*store, "main").await, None);
            let main = main_ledger();
            let advance = |to| store.advance_checkpoint(&main, Checkpoint(to));
            for (to, stands) in [(0, 0), (7, 7), (5, 7), (7, 7), (8, 8)] {
                advance(to).await.expect("notes");
                assert_eq!(noted(&*store, "main").await, Some(stands));
            }
            // Those that are stored in one commit, too.
            for done in futures_util::future::join_all([12, 9, 20, 3, 19].map(advance)).await {
                done.expect("notes");
            }
            assert_eq!(noted(&*store, "other").await, None);
            drop(store);
            let store = place.open().await;
            assert_eq!(noted(&*store, "main").await, Some(20));
        });
        place.check(0);
    }
}

#[test]
fn what_is_submitted_is_found_whether_or_not_it_was_announced() {
    on_every_store(|store| async move {
        let mut wanted = Vec::new();
        for n in 0..12 {
            let tx = transaction(if n == 11 { "other" } else { "main" }, None);
            store.insert(&tx).await.expect("inserts");
            if n < 4 {
                continue;
            }
            let tx = step(&*store, &tx, claimed(soon())).await;
            if n < 7 {
                continue;
            }
            let tx = step(&*store, &tx, prepared(if n < 9 { now() } else { soon() })).await;
            if n == 7 {
                let marks = [Mark::of(&tx).expect("due")];
                store
                    .announced(&main_ledger(), &marks, now())
                    .await
                    .expect("notes");
            }
            match n {
                10 => drop(step(&*store, &tx, committed()).await),
                11 => {}
                _ => wanted.push(tx.id),
            }
        }
        let found = store.submitted(&main_ledger(), 100).await.expect("reads");
        let mut found: Vec<_> = found.iter().map(|tx| tx.id).collect();
        found.sort();
        assert_eq!(found, wanted);
        assert_eq!(store.submitted(&main_ledger(), 2).await.expect("reads").len(), 2);
    });
}
