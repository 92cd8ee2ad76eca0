//! What every store must do, run against each of them, and a model to compare it with.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::places::Place;
use super::{Change, Due, Filter, Inserted, Mark, TransactionStore};
use crate::domain::{
    Cause, Event, Lease, LedgerName, LedgerTxId, Prepared, Receipt, Request, Stage, Status, Timestamp,
    Transaction, TransactionId,
};

pub(crate) fn transaction(ledger: &str, key: Option<&str>) -> Transaction {
    let ledger = LedgerName::new(ledger).expect("valid name");
    let request = Request {
        metadata: BTreeMap::from([("order".to_owned(), "4711".to_owned())]),
        ..Request::call(ledger, "counter", "Add", Vec::new())
    };
    Transaction::accept(request, key.map(str::to_owned), now())
}

pub(super) fn now() -> Timestamp {
    use crate::clock::Clock;
    crate::clock::SystemClock.now()
}

pub(super) fn soon() -> Timestamp {
    now().plus(Duration::from_secs(3_600))
}

pub(super) fn main_ledger() -> LedgerName {
    LedgerName::new("main").expect("valid name")
}

/// Runs a test against every store, each in a place of its own.
pub(super) fn on_every_store<F: Future<Output = ()>>(test: impl Fn(Arc<dyn TransactionStore>) -> F) {
    for place in Place::all() {
        runtime().block_on(async { test(place.open().await).await });
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
}

fn ids(due: &Due) -> Vec<TransactionId> {
    due.marks.iter().map(|mark| mark.id).collect()
}

pub(super) async fn step(store: &dyn TransactionStore, old: &Transaction, event: Event) -> Transaction {
    let new = old.apply(event, now()).expect("legal");
    let change = Change {
        old: old.clone(),
        new: new.clone(),
    };
    assert_eq!(store.compare_and_swap(vec![change]).await.expect("swaps"), [true]);
    new
}

pub(super) fn claimed(until: Timestamp) -> Event {
    Event::Claimed {
        lease: Lease {
            owner: "w".into(),
            until,
        },
    }
}

pub(super) fn prepared(check_at: Timestamp) -> Event {
    let sent = Prepared {
        tx_id: LedgerTxId("t".into()),
        envelope: String::new(),
        response: None,
        touched: None,
    };
    Event::Prepared { sent, check_at }
}

pub(super) fn committed() -> Event {
    Event::Committed {
        receipt: Receipt {
            tx_id: LedgerTxId("t".into()),
            block: 1,
            code: None,
            result: None,
        },
    }
}

async fn settle(store: &dyn TransactionStore, tx: &Transaction) -> Transaction {
    let tx = step(store, tx, claimed(soon())).await;
    let tx = step(store, &tx, prepared(soon())).await;
    step(store, &tx, committed()).await
}

#[test]
fn i5_concurrent_repeats_of_a_key_make_one_record() {
    on_every_store(|store| async move {
        let inserts = (0..50).map(|_| {
            let store = store.clone();
            async move {
                let tx = transaction("main", Some("key"));
                match store.insert(&tx).await.expect("inserts") {
                    Inserted::Created => (true, tx.id),
                    Inserted::Existing(existing) => (false, existing),
                    Inserted::Withheld => panic!("nothing else was inserted"),
                }
            }
        });
        let results = futures_util::future::join_all(inserts).await;
        assert_eq!(results.iter().filter(|(created, _)| *created).count(), 1);
        assert!(results.iter().all(|(_, id)| *id == results[0].1));
        assert_eq!(store.backlog()[&main_ledger()], 1);
        let found = store.find_by_idempotency_key("key").await.expect("reads");
        assert_eq!(found.map(|tx| tx.id), Some(results[0].1));
    });
}

#[test]
fn i8_of_many_swaps_of_one_version_one_wins() {
    on_every_store(|store| async move {
        let tx = transaction("main", None);
        store.insert(&tx).await.expect("inserts");
        let swaps = (0..20).map(|_| {
            let new = tx.apply(claimed(soon()), now()).expect("legal");
            store.compare_and_swap(vec![Change { old: tx.clone(), new }])
        });
        let won = futures_util::future::join_all(swaps).await;
        assert_eq!(
            won.into_iter()
                .flat_map(|made| made.expect("swaps"))
                .filter(|made| *made)
                .count(),
            1
        );
        assert_eq!(
            store.get(tx.id).await.expect("reads").map(|tx| tx.version),
            Some(2)
        );
    });
}

#[test]
fn due_marks_follow_the_state_and_neither_kind_starves() {
    on_every_store(|store| async move {
        let fresh: Vec<_> = (0..4).map(|_| transaction("main", None)).collect();
        let retried: Vec<_> = (0..2).map(|_| transaction("main", None)).collect();
        for tx in fresh.iter().chain(&retried) {
            store.insert(tx).await.expect("inserts");
        }
        for tx in &retried {
            let tx = step(&*store, tx, claimed(soon())).await;
            let cause = Cause::new("DOWN", "not there");
            step(
                &*store,
                &tx,
                Event::Unavailable {
                    cause,
                    retry_at: Some(now()),
                },
            )
            .await;
        }
        let later = transaction("main", None);
        store.insert(&later).await.expect("inserts");
        let check_at = soon();
        step(&*store, &later, claimed(check_at)).await;

        let due = store.due(&main_ledger(), now(), 4).await.expect("reads");
        assert_eq!(
            ids(&due),
            [retried[0].id, fresh[0].id, retried[1].id, fresh[1].id]
        );
        let due = store.due(&main_ledger(), now(), 100).await.expect("reads");
        assert_eq!(due.marks.len(), 6);
        assert_eq!(due.next, Some(check_at));
        let other = LedgerName::new("other").expect("valid name");
        assert!(
            store
                .due(&other, now(), 100)
                .await
                .expect("reads")
                .marks
                .is_empty()
        );
    });
}

#[test]
fn what_was_announced_is_due_again_only_after_a_change_or_when_it_is_lost() {
    on_every_store(|store| async move {
        let (moved, stuck) = (transaction("main", None), transaction("main", None));
        for tx in [&moved, &stuck] {
            store.insert(tx).await.expect("inserts");
        }
        let announced_at = now();
        let marks = store.due(&main_ledger(), now(), 9).await.expect("reads").marks;
        assert_eq!(marks, [&moved, &stuck].map(|tx| Mark::of(tx).expect("due")));
        store
            .announced(&main_ledger(), &marks, announced_at)
            .await
            .expect("notes");
        assert_eq!(
            ids(&store.due(&main_ledger(), now(), 9).await.expect("reads")),
            []
        );

        // A worker took the first: what was announced is its first try, and says nothing of the next.
        let claim = step(&*store, &moved, claimed(now())).await;
        store
            .announced(&main_ledger(), &marks, announced_at)
            .await
            .expect("notes");
        let due = store.due(&main_ledger(), soon(), 9).await.expect("reads");
        assert_eq!(due.marks, [Mark::of(&claim).expect("due")]);
        store
            .announced(&main_ledger(), &due.marks, soon())
            .await
            .expect("notes");

        // The message of the second is lost, that of the first is not.
        let main = main_ledger();
        let lost = |before| store.unannounce(&main, before, 9);
        assert_eq!(lost(announced_at).await.expect("looks"), 0);
        assert_eq!(
            lost(announced_at.plus(Duration::from_millis(1)))
                .await
                .expect("looks"),
            1
        );
        assert_eq!(
            ids(&store.due(&main_ledger(), now(), 9).await.expect("reads")),
            [stuck.id]
        );

        // Settled while announced: nothing is left to look at.
        let claim = step(&*store, &claim, prepared(soon())).await;
        step(&*store, &claim, committed()).await;
        let settled = settle(&*store, &stuck).await;
        assert_eq!(Mark::of(&settled), None);
        assert_eq!(lost(soon().plus(Duration::from_secs(1))).await.expect("looks"), 0);
        let due = store.due(&main_ledger(), soon(), 9).await.expect("reads");
        assert_eq!((ids(&due), due.next), (Vec::new(), None));
    });
}

#[test]
fn commits_that_make_something_due_wake_the_ledgers_worker() {
    on_every_store(|store| async move {
        let signal = store.due_signal(&main_ledger());
        store.insert(&transaction("other", None)).await.expect("inserts");
        assert!(futures_util::poll!(std::pin::pin!(signal.notified())).is_pending());
        store.insert(&transaction("main", None)).await.expect("inserts");
        signal.notified().await;
    });
}

#[test]
fn listing_pages_newest_first_through_every_filter() {
    on_every_store(|store| async move {
        let mut all = Vec::new();
        for n in 0..30 {
            let tx = transaction(if n % 3 == 0 { "other" } else { "main" }, None);
            store.insert(&tx).await.expect("inserts");
            all.push(if n % 2 == 0 {
                settle(&*store, &tx).await
            } else {
                tx
            });
        }
        all.reverse();
        let ids = |wanted: &dyn Fn(&Transaction) -> bool| -> Vec<TransactionId> {
            all.iter().filter(|tx| wanted(tx)).map(|tx| tx.id).collect()
        };
        let pages = |filter: Filter| {
            let store = store.clone();
            async move {
                let (mut found, mut cursor) = (Vec::new(), None);
                loop {
                    let page = store.list(&filter, cursor, 4).await.expect("lists");
                    assert!(page.items.len() <= 4);
                    found.extend(page.items.iter().map(|tx| tx.id));
                    match page.next {
                        Some(next) => cursor = Some(next),
                        None => return found,
                    }
                }
            }
        };
        let filter = Filter::default;
        assert_eq!(pages(filter()).await, ids(&|_| true));
        assert_eq!(
            pages(Filter {
                status: Some(Status::Done),
                ..filter()
            })
            .await,
            ids(&|tx| tx.status() == Status::Done)
        );
        assert_eq!(
            pages(Filter {
                ledger: Some(main_ledger()),
                ..filter()
            })
            .await,
            ids(&|tx| tx.request.ledger == main_ledger())
        );
        assert_eq!(
            pages(Filter {
                stage: Some(Stage::Queued),
                ledger: Some(main_ledger()),
                ..filter()
            })
            .await,
            ids(&|tx| tx.stage() == Some(Stage::Queued) && tx.request.ledger == main_ledger())
        );
        assert_eq!(
            pages(Filter {
                created_from: Some(soon()),
                ..filter()
            })
            .await,
            []
        );
        assert_eq!(
            pages(Filter {
                created_before: Some(soon()),
                ..filter()
            })
            .await,
            ids(&|_| true)
        );
        assert_eq!(
            pages(Filter {
                contract: Some("no".into()),
                ..filter()
            })
            .await,
            []
        );
        let label = BTreeMap::from([("order".to_owned(), "4711".to_owned())]);
        assert_eq!(
            pages(Filter {
                metadata: label,
                ..filter()
            })
            .await,
            ids(&|_| true)
        );
    });
}

#[test]
fn retention_removes_the_settled_and_all_that_points_to_them() {
    on_every_store(|store| async move {
        let kept = transaction("main", Some("kept"));
        let gone = transaction("main", Some("gone"));
        for tx in [&kept, &gone] {
            store.insert(tx).await.expect("inserts");
        }
        settle(&*store, &gone).await;
        assert_eq!(
            store
                .prune(Status::Done, now().minus(Duration::from_secs(9)), 10)
                .await
                .expect("prunes"),
            0
        );
        assert_eq!(store.prune(Status::Done, soon(), 10).await.expect("prunes"), 1);
        assert!(store.get(gone.id).await.expect("reads").is_none());
        assert!(
            store
                .find_by_idempotency_key("gone")
                .await
                .expect("reads")
                .is_none()
        );
        let left = store.list(&Filter::default(), None, 10).await.expect("lists");
        assert_eq!(left.items.iter().map(|tx| tx.id).collect::<Vec<_>>(), [kept.id]);
    });
}

#[test]
fn many_are_read_in_the_order_asked_for_whatever_is_missing() {
    on_every_store(|store| async move {
        let all = [transaction("main", None), transaction("main", None)];
        for tx in &all {
            store.insert(tx).await.expect("inserts");
        }
        let nobody = TransactionId::new();
        let asked = [all[1].id, nobody, all[0].id, all[1].id];
        let read = store.get_many(&asked).await;
        let found: Vec<_> = read
            .into_iter()
            .map(|record| record.expect("reads").map(|tx| tx.id))
            .collect();
        assert_eq!(found, [Some(all[1].id), None, Some(all[0].id), Some(all[1].id)]);
    });
}

#[test]
fn deadlines_are_found_while_a_transaction_waits_and_only_then() {
    on_every_store(|store| async move {
        let mut tx = transaction("main", None);
        Arc::make_mut(&mut tx.request).expires_in_seconds = Some(1);
        store.insert(&tx).await.expect("inserts");
        assert!(store.expired(tx.created_at, 10).await.expect("reads").is_empty());
        let past = tx.created_at.plus(Duration::from_secs(1));
        assert_eq!(store.expired(past, 10).await.expect("reads").len(), 1);
        step(&*store, &tx, claimed(soon())).await;
        assert!(store.expired(past, 10).await.expect("reads").is_empty());
    });
}

/// One thing that may happen to a store.
#[derive(Debug, Clone)]
enum Action {
    Insert { key: Option<u8> },
    Claim(prop::sample::Index),
    Stale(prop::sample::Index),
    Settle(prop::sample::Index),
    Announce,
    Forget,
    Prune,
    Reopen,
}

fn action() -> impl proptest::strategy::Strategy<Value = Action> {
    prop_oneof![
        4 => prop::option::of(0_u8..6).prop_map(|key| Action::Insert { key }),
        2 => any::<prop::sample::Index>().prop_map(Action::Claim),
        1 => any::<prop::sample::Index>().prop_map(Action::Stale),
        2 => any::<prop::sample::Index>().prop_map(Action::Settle),
        2 => Just(Action::Announce),
        1 => Just(Action::Forget),
        1 => Just(Action::Prune),
        1 => Just(Action::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Random actions, with the store closed and opened between any two, always equal a map in memory.
    #[test]
    fn behaves_like_its_model(actions in prop::collection::vec(action(), 1..40)) {
        for place in Place::all() {
            runtime().block_on(run_model(&place, &actions));
        }
    }
}

async fn run_model(place: &Place, actions: &[Action]) {
    let mut store = place.open().await;
    let mut model: BTreeMap<TransactionId, Transaction> = BTreeMap::new();
    let mut announced: BTreeSet<TransactionId> = BTreeSet::new();
    for action in actions {
        let pick = |index: &prop::sample::Index, wanted: &str| {
            let all: Vec<_> = model.values().filter(|tx| tx.state.name() == wanted).collect();
            (!all.is_empty()).then(|| all[index.index(all.len())].clone())
        };
        match action {
            Action::Insert { key } => {
                let key = key.map(|key| key.to_string());
                let tx = transaction("main", key.as_deref());
                let holder = model.values().find(|held| {
                    key.is_some() && held.idempotency.as_ref().map(|(key, _)| key) == key.as_ref()
                });
                match store.insert(&tx).await.expect("inserts") {
                    Inserted::Existing(existing) => {
                        assert_eq!(Some(existing), holder.map(|tx| tx.id))
                    }
                    Inserted::Created => {
                        assert!(holder.is_none());
                        model.insert(tx.id, tx);
                    }
                    Inserted::Withheld => panic!("nothing else was inserted"),
                }
            }
            Action::Claim(index) => {
                if let Some(tx) = pick(index, "pending") {
                    model.insert(tx.id, step(&*store, &tx, claimed(soon())).await);
                }
            }
            Action::Stale(index) => {
                if let Some(tx) = pick(index, "preparing") {
                    let mut old = tx.clone();
                    old.version -= 1;
                    let new = tx
                        .apply(Event::LeaseLost { due_at: now() }, now())
                        .expect("legal");
                    let made = store
                        .compare_and_swap(vec![Change { old, new }])
                        .await
                        .expect("answers");
                    assert_eq!(made, [false]);
                }
            }
            Action::Settle(index) => {
                if let Some(tx) = pick(index, "preparing") {
                    let tx = step(&*store, &tx, prepared(soon())).await;
                    model.insert(tx.id, step(&*store, &tx, committed()).await);
                }
            }
            Action::Announce => {
                let due = store.due(&main_ledger(), now(), 3).await.expect("reads");
                store
                    .announced(&main_ledger(), &due.marks, now())
                    .await
                    .expect("notes");
                announced.extend(ids(&due));
            }
            Action::Forget => {
                let lost = store
                    .unannounce(&main_ledger(), soon(), 1_000)
                    .await
                    .expect("looks");
                announced.retain(|id| model.get(id).is_some_and(|tx| tx.state.name() == "pending"));
                assert_eq!(lost, announced.len());
                announced.clear();
            }
            Action::Prune => {
                let removed = store.prune(Status::Done, soon(), 100).await.expect("prunes");
                let before = model.len();
                model.retain(|_, tx| tx.status() != Status::Done);
                assert_eq!(removed, before - model.len());
            }
            Action::Reopen => {
                drop(store);
                store = place.open().await;
            }
        }
        compare(&*store, &model, &announced).await;
    }
    drop(store);
    place.check(model.len());
}

async fn compare(
    store: &dyn TransactionStore,
    model: &BTreeMap<TransactionId, Transaction>,
    announced: &BTreeSet<TransactionId>,
) {
    let listed = store.list(&Filter::default(), None, 1_000).await.expect("lists");
    let seen: Vec<_> = listed
        .items
        .iter()
        .map(|tx| (tx.id, tx.version, tx.state.name()))
        .collect();
    let wanted: Vec<_> = model
        .values()
        .rev()
        .map(|tx| (tx.id, tx.version, tx.state.name()))
        .collect();
    assert_eq!(seen, wanted);
    let due = store.due(&main_ledger(), now(), 1_000).await.expect("reads");
    let waiting: Vec<_> = model
        .values()
        .filter(|tx| tx.state.name() == "pending" && !announced.contains(&tx.id))
        .map(|tx| tx.id)
        .collect();
    assert_eq!(ids(&due), waiting);
    let backlog = store.backlog().get(&main_ledger()).copied().unwrap_or_default();
    let unsettled = model.values().filter(|tx| !tx.is_settled()).count();
    assert_eq!(backlog, unsettled as u64);
}
