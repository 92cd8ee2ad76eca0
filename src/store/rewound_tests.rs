//! What a record has to remember so that nothing takes effect twice, on every store.

use std::sync::Arc;
use std::time::Duration;

use super::conformance::{claimed, now, on_every_store, soon, step, transaction};
use crate::domain::{Cause, Event, LedgerTxId, Transaction};

#[test]
fn i2_the_number_of_the_submission_is_kept_and_no_deadline_fails_what_was_found() {
    on_every_store(|store| async move {
        let mut all = Vec::new();
        for found in [true, false] {
            let mut tx = transaction("main", None);
            Arc::make_mut(&mut tx.request).expires_in_seconds = Some(1);
            store.insert(&tx).await.expect("inserts");
            let mut tx = step(&*store, &tx, claimed(soon())).await;
            let cause = Cause::new("CONFLICT", "too late");
            let retry_at = Some(now());
            if found {
                let tx_id = LedgerTxId("t".into());
                tx = step(&*store, &tx, Event::FoundOnLedger { tx_id }).await;
                tx = step(&*store, &tx, Event::Conflicted { cause, retry_at }).await;
            } else {
                tx = step(&*store, &tx, Event::Disagreed { cause, retry_at }).await;
            }
            all.push(tx);
        }
        let kept = |tx: &Transaction| (tx.submission(), tx.rewound);
        for tx in &all {
            let stored = store.get(tx.id).await.expect("reads").expect("is there");
            assert_eq!(kept(&stored), kept(tx));
        }
        assert_eq!((all[0].submissions_ended, all[1].submissions_ended), (1, 0));
        let much_later = now().plus(Duration::from_secs(60));
        let expired = store.expired(much_later, 10).await.expect("reads");
        let ids: Vec<_> = expired.iter().map(|tx| tx.id).collect();
        assert_eq!(ids, [all[1].id]);
    });
}
