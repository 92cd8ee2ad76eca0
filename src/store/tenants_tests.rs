//! What every store must do for tenants, and for what must not begin yet.

use std::sync::Arc;
use std::time::Duration;

use super::conformance::{
    claimed, committed, main_ledger, now, on_every_store, prepared, runtime, soon, step, transaction,
};
use super::places::Place;
use super::{Filter, Inserted, Mark, TransactionStore};
use crate::domain::{
    LedgerName, LedgerTxId, Prepared, Receipt, Stage, Status, TenantName, Transaction, TransactionId,
};

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).expect("valid name")
}

fn of(name: &str, ledger: &str, key: Option<&str>) -> Transaction {
    Transaction {
        tenant: tenant(name),
        ..transaction(ledger, key)
    }
}

/// Settles a record that the ledger knows by its own id.
async fn settle(store: &dyn TransactionStore, tx: &Transaction) -> Transaction {
    let tx_id = LedgerTxId(tx.id.to_string());
    let tx = step(store, tx, claimed(soon())).await;
    let tx = step(store, &tx, sent(&tx)).await;
    let receipt = Receipt {
        tx_id,
        block: 1,
        code: None,
        result: None,
    };
    step(store, &tx, crate::domain::Event::Committed { receipt }).await
}

fn sent(tx: &Transaction) -> crate::domain::Event {
    let sent = Prepared {
        tx_id: LedgerTxId(tx.id.to_string()),
        envelope: String::new(),
        response: None,
        touched: None,
    };
    crate::domain::Event::Prepared {
        sent,
        check_at: soon(),
    }
}

async fn listed(store: &dyn TransactionStore, filter: &Filter, limit: usize) -> Vec<TransactionId> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list(filter, cursor, limit).await.expect("lists");
        assert!(page.items.len() <= limit);
        found.extend(page.items.iter().map(|tx| tx.id));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

#[test]
fn tenants_may_have_the_same_idempotency_key() {
    on_every_store(|store| async move {
        let names = ["default", "acme", "globex"];
        let all = names.map(|name| of(name, "main", Some("order-1")));
        for tx in &all {
            let inserted = store.insert(tx).await.expect("inserts");
            assert!(matches!(inserted, Inserted::Created));
        }
        for (name, tx) in names.iter().zip(&all) {
            let repeat = of(name, "main", Some("order-1"));
            let inserted = store.insert(&repeat).await.expect("inserts");
            assert_eq!(inserted, Inserted::Existing(tx.id));
            let key = tenant(name).scoped("order-1");
            let found = store.find_by_idempotency_key(&key).await.expect("reads");
            let found = found.expect("is there");
            assert_eq!((found.id, &found.tenant), (tx.id, &tx.tenant));
            assert_eq!(found.idempotency.map(|(key, _)| key).as_deref(), Some("order-1"));
        }
    });
}

#[test]
fn what_must_not_begin_yet_is_due_when_its_time_has_come() {
    on_every_store(|store| async move {
        let mut request = (*transaction("main", None).request).clone();
        let at = now().plus(Duration::from_secs(60));
        request.not_before = Some(at);
        let later = Transaction::accept(request, None, now());
        let at_once = transaction("main", None);
        store.insert(&later).await.expect("inserts");
        store.insert(&at_once).await.expect("inserts");
        let due = store.due(&main_ledger(), now(), 9).await.expect("reads");
        assert_eq!(due.marks, [Mark::of(&at_once).expect("due")]);
        assert_eq!(due.next, Some(at));
        let due = store.due(&main_ledger(), at, 9).await.expect("reads");
        assert_eq!(due.marks, [&later, &at_once].map(|tx| Mark::of(tx).expect("due")));
    });
}

#[test]
fn i9_a_listing_of_one_tenant_is_what_the_filter_says() {
    on_every_store(|store| async move {
        let mut all = Vec::new();
        for n in 0..36 {
            let name = ["default", "acme", "globex"][n % 3];
            let ledger = ["main", "other"][n / 3 % 2];
            let tx = of(name, ledger, None);
            store.insert(&tx).await.expect("inserts");
            let tx = match n / 6 % 3 {
                0 => tx,
                1 => {
                    let tx = step(&*store, &tx, claimed(soon())).await;
                    step(&*store, &tx, sent(&tx)).await
                }
                _ => settle(&*store, &tx).await,
            };
            all.push(tx);
        }
        all.reverse();
        let mut filters = Vec::new();
        for whose in [None, Some("default"), Some("acme"), Some("nobody")] {
            for status in [
                None,
                Some(Status::Pending),
                Some(Status::Done),
                Some(Status::Failed),
            ] {
                for stage in [None, Some(Stage::Queued), Some(Stage::Submitted)] {
                    for ledger in [None, Some(main_ledger()), LedgerName::new("no")] {
                        filters.push(Filter {
                            tenant: whose.map(tenant),
                            status,
                            stage,
                            ledger,
                            ..Filter::default()
                        });
                    }
                }
            }
        }
        for n in [0, 10, 20, 30] {
            for whose in [None, Some("acme")] {
                filters.push(Filter {
                    tenant: whose.map(tenant),
                    tx_id: Some(all[n].id.to_string()),
                    ..Filter::default()
                });
            }
        }
        filters.push(Filter {
            tx_id: Some("%\"'".to_owned()),
            ..Filter::default()
        });
        for filter in filters {
            let matching = all.iter().filter(|tx| filter.matches(tx)).map(|tx| tx.id);
            assert_eq!(
                listed(&*store, &filter, 4).await,
                matching.collect::<Vec<_>>(),
                "{filter:?}"
            );
        }
    });
}

#[test]
fn i9_the_records_of_others_are_not_in_the_way() {
    on_every_store(|store| async move {
        let mine: Vec<_> = (0..3).map(|_| of("acme", "main", None)).collect();
        for tx in &mine {
            store.insert(tx).await.expect("inserts");
        }
        settle(&*store, &mine[0]).await;
        for _ in 0..6 {
            let others: Vec<_> = (0..1_000).map(|_| of("globex", "main", None)).collect();
            store.insert_many(&others, false).await.expect("inserts");
        }
        let filter = |status| Filter {
            tenant: Some(tenant("acme")),
            status,
            ..Filter::default()
        };
        // More than are looked at for one page lie before them.
        let page = store.list(&filter(None), None, 2).await.expect("lists");
        let ids: Vec<_> = page.items.iter().map(|tx| tx.id).collect();
        assert_eq!(ids, [mine[2].id, mine[1].id]);
        let page = store
            .list(&filter(Some(Status::Done)), None, 2)
            .await
            .expect("lists");
        assert_eq!(
            (page.items.len(), page.items[0].id, page.next),
            (1, mine[0].id, None)
        );
        let page = store
            .list(&filter(Some(Status::Pending)), None, 2)
            .await
            .expect("lists");
        assert_eq!((page.items.len(), page.next), (2, None));
        assert_eq!(store.pending_of(&tenant("acme")), 2);
        assert_eq!(store.pending_of(&tenant("globex")), 6_000);
    });
}

#[test]
fn how_many_of_a_tenant_are_pending_is_known_at_once_and_after_a_restart() {
    for place in Place::all() {
        runtime().block_on(async {
            let store = place.open().await;
            let pending = |store: &Arc<dyn TransactionStore>| {
                ["default", "acme", "nobody"].map(|name| store.pending_of(&tenant(name)))
            };
            let mut all = Vec::new();
            for n in 0..9 {
                let tx = of(
                    ["default", "acme"][usize::from(n % 3 > 0)],
                    "main",
                    Some(&n.to_string()),
                );
                store.insert(&tx).await.expect("inserts");
                all.push(tx);
            }
            assert_eq!(pending(&store), [3, 6, 0]);
            let repeat = of("acme", "main", Some("1"));
            store.insert(&repeat).await.expect("inserts");
            let more = [of("acme", "other", None), of("default", "other", None)];
            store.insert_many(&more, true).await.expect("inserts");
            assert_eq!(pending(&store), [4, 7, 0]);
            for tx in &all[..3] {
                let tx = step(&*store, tx, claimed(soon())).await;
                let tx = step(&*store, &tx, prepared(soon())).await;
                assert_eq!(pending(&store)[2], 0);
                step(&*store, &tx, committed()).await;
            }
            assert_eq!(pending(&store), [3, 5, 0]);
            assert_eq!(store.prune(Status::Done, soon(), 9).await.expect("prunes"), 3);
            assert_eq!(pending(&store), [3, 5, 0]);
            drop(store);
            let store = place.open().await;
            assert_eq!(pending(&store), [3, 5, 0]);
            let filter = Filter {
                tenant: Some(tenant("acme")),
                ..Filter::default()
            };
            assert_eq!(listed(&*store, &filter, 2).await.len(), 5);
        });
        place.check(8);
    }
}
