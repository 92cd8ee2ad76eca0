//! Which transaction has waited longest, asked of every store.

use super::conformance::{
    claimed, committed, main_ledger, now, on_every_store, prepared, soon, step, transaction,
};
use crate::domain::Event;

#[test]
fn the_oldest_that_is_not_settled_is_known() {
    on_every_store(|store| async move {
        let main = main_ledger();
        let oldest = async || store.oldest_pending(&main).await.expect("reads");
        assert_eq!(oldest().await, None);
        let before = now();
        let [first, second] = [(); 2].map(|()| transaction("main", None));
        let other = transaction("main2", None);
        // In another order than they were accepted in.
        for tx in [&second, &other, &first] {
            store.insert(tx).await.expect("inserts");
        }
        assert_eq!(oldest().await, Some(first.id));
        assert!(first.id.made_at() >= before && first.id.made_at() <= now());
        // However far it is on its way.
        let first = step(&*store, &first, claimed(soon())).await;
        let first = step(&*store, &first, prepared(soon())).await;
        assert_eq!(oldest().await, Some(first.id));
        step(&*store, &first, committed()).await;
        assert_eq!(oldest().await, Some(second.id));
        // Cancelled, for one.
        let by = "somebody".to_owned();
        step(&*store, &second, Event::Cancelled { by }).await;
        assert_eq!(oldest().await, None);
    });
}
