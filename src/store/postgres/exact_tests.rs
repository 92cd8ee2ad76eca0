//! Records come back exactly as they went in, whatever they hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::server::shared;
use super::testing::{node, settings};
use crate::domain::{
    Argument, Cause, Event, Lease, LedgerName, LedgerTxId, Prepared, Receipt, Timestamp, Transaction,
};
use crate::store::conformance::transaction;
use crate::store::{Change, Filter, Inserted, StoreError, TransactionStore};

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("JSON")
}

/// With everything that a database is tempted to change.
fn awkward() -> Transaction {
    let mut tx = transaction("main", Some("a key"));
    let request = Arc::make_mut(&mut tx.request);
    request.contract = "con\0tract".to_owned();
    request.args = [
        "1.0",
        "1e400",
        "-0",
        r#"{"b":1,"a":2,"b":3}"#,
        r#""\u0000 \ud83d\ude00 \u00e9""#,
        "123456789012345678901234567890",
    ]
    .into_iter()
    .map(|json| Argument::from_raw(&raw(json)).expect("an argument"))
    .collect();
    request.transient = BTreeMap::from([("price".to_owned(), "MTAw".to_owned())]);
    request.metadata = BTreeMap::from([("no\0te".to_owned(), "\0 and \u{10ffff}".to_owned())]);
    request.expires_in_seconds = Some(u32::MAX);
    tx
}

fn json(tx: &Transaction) -> String {
    serde_json::to_string(tx).expect("JSON")
}

async fn step(store: &dyn TransactionStore, old: &Transaction, event: Event) -> Transaction {
    let new = old.apply(event, old.updated_at).expect("legal");
    let (old, made) = (old.clone(), new.clone());
    let change = Change { old, new };
    assert_eq!(store.compare_and_swap(vec![change]).await.expect("swaps"), [true]);
    let read = store.get(made.id).await.expect("reads").expect("is there");
    assert_eq!(json(&read), json(&made));
    made
}

fn claimed(until: u64) -> Event {
    let (owner, until) = ("w\0".to_owned(), Timestamp::from_millis(until));
    Event::Claimed {
        lease: Lease { owner, until },
    }
}

fn prepared() -> Event {
    let sent = Prepared {
        tx_id: LedgerTxId("t\0".to_owned()),
        envelope: "e".repeat(100_000),
        response: Some(raw(r#"{"half":"\ud800","n":1.0}"#)),
        touched: None,
    };
    let check_at = Timestamp::from_millis(u64::MAX);
    Event::Prepared { sent, check_at }
}

#[tokio::test]
async fn every_state_comes_back_to_the_letter() {
    let store = node(&settings(&shared().database())).await;
    let tx = awkward();
    store.insert(&tx).await.expect("inserts");
    let read = store.get(tx.id).await.expect("reads").expect("is there");
    assert_eq!(json(&read), json(&tx));
    let found = store.find_by_idempotency_key("a key").await.expect("reads");
    assert_eq!(found.map(|found| json(&found)), Some(json(&tx)));

    let tx = step(&store, &tx, claimed(u64::MAX)).await;
    let cause = Cause::new("CO\0DE", "a \0 in it");
    let retry_at = Some(tx.updated_at);
    let tx = step(&store, &tx, Event::Unavailable { cause, retry_at }).await;
    let tx = step(&store, &tx, claimed(0)).await;
    let tx = step(&store, &tx, prepared()).await;
    let deep = "[".repeat(5_000) + &"]".repeat(5_000);
    let receipt = Receipt {
        tx_id: LedgerTxId("t\0".to_owned()),
        block: u64::MAX,
        code: None,
        result: Some(raw(&deep)),
    };
    let tx = step(&store, &tx, Event::Committed { receipt }).await;
    assert!(tx.request.transient.is_empty());
    let secret = shared().sql(
        &name(&store),
        "SELECT count(*) FROM settled WHERE progress LIKE '%MTAw%'",
    );
    assert_eq!(secret, "0");
}

#[tokio::test]
async fn failures_with_any_text_are_stored_and_shown_to_readers() {
    let store = node(&settings(&shared().database())).await;
    let tx = awkward();
    store.insert(&tx).await.expect("inserts");
    let tx = step(&store, &tx, claimed(0)).await;
    let cause = Cause::new("CO\0DE", "a \0 in it");
    step(&store, &tx, Event::Rejected { cause }).await;
    let shown = shared().sql(
        &name(&store),
        "SELECT status, stage, error_code, error_message, ledger_code, contract FROM transactions_v1",
    );
    assert_eq!(
        shown,
        "failed||rejected|a \u{fffd} in it|CO\u{fffd}DE|con\u{fffd}tract"
    );
}

#[tokio::test]
async fn a_nul_in_a_filter_finds_what_has_it_and_nothing_else() {
    let store = node(&settings(&shared().database())).await;
    let tx = awkward();
    store.insert(&tx).await.expect("inserts");
    let mut like_it = awkward();
    Arc::make_mut(&mut like_it.request).contract = "con\u{fffd}tract".to_owned();
    like_it.idempotency = None;
    store.insert(&like_it).await.expect("inserts");
    for filter in [
        Filter {
            contract: Some("con\0tract".to_owned()),
            ..Filter::default()
        },
        Filter {
            contract: Some("con\0tract".to_owned()),
            metadata: tx.request.metadata.clone(),
            ledger: LedgerName::new("main"),
            ..Filter::default()
        },
    ] {
        let page = store.list(&filter, None, 10).await.expect("lists");
        let found: Vec<_> = page.items.iter().map(|tx| tx.id).collect();
        assert_eq!((found, page.next), (vec![tx.id], None));
    }
}

#[tokio::test]
async fn one_row_at_fault_does_not_fail_its_group() {
    let store = node(&settings(&shared().database())).await;
    // Longer than an index takes.
    let random: String = (0..2_000)
        .map(|_| crate::domain::TransactionId::new().to_string())
        .collect();
    let bad = transaction("main", Some(&random));
    let good: Vec<_> = (0..20)
        .map(|n| transaction("main", Some(&n.to_string())))
        .collect();
    let (refused, stored) = tokio::join!(
        store.insert(&bad),
        futures_util::future::join_all(good.iter().map(|tx| store.insert(tx)))
    );
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    for stored in stored {
        assert!(matches!(stored, Ok(Inserted::Created)), "{stored:?}");
    }
    assert_eq!(store.backlog()[&bad.request.ledger], 20);
}

#[tokio::test]
async fn a_damaged_record_is_told_and_hides_no_other() {
    let store = node(&settings(&shared().database())).await;
    let (bad, good) = (transaction("main", Some("bad")), transaction("main", None));
    for tx in [&bad, &good] {
        store.insert(tx).await.expect("inserts");
    }
    let spoil = format!(
        "UPDATE work SET progress = '{{}}' WHERE transaction_id = '{}'",
        bad.id
    );
    shared().sql(&name(&store), &spoil);
    let read = store.get(bad.id).await;
    assert!(matches!(read, Err(StoreError::Damaged(_))), "{read:?}");
    let (repeat, other) = (transaction("main", Some("bad")), transaction("main", None));
    let (repeat, other) = tokio::join!(store.insert(&repeat), store.insert(&other));
    assert!(
        matches!(repeat, Ok(Inserted::Existing(id)) if id == bad.id),
        "{repeat:?}"
    );
    assert!(matches!(other, Ok(Inserted::Created)), "{other:?}");
    let page = store.list(&Filter::default(), None, 10).await.expect("lists");
    assert_eq!(page.items.len(), 2);
    assert_eq!(page.items[1].id, good.id);
}

#[tokio::test]
async fn a_row_that_the_database_cannot_read_hides_no_other() {
    let store = node(&settings(&shared().database())).await;
    let [before, mut bad, after] = std::array::from_fn(|_| transaction("main", None));
    // Too long for its row, and nothing that could be compressed.
    let long: String = (0..2_000).map(|_| rand::random::<u64>().to_string()).collect();
    Arc::make_mut(&mut bad.request).args = vec![Argument::text(&long)];
    for tx in [&before, &bad, &after] {
        store.insert(tx).await.expect("inserts");
    }
    let database = name(&store);
    let aside = shared().sql(
        &database,
        "SELECT reltoastrelid::regclass FROM pg_class WHERE oid = 'transactions'::regclass",
    );
    // What was stored beside the row is gone. A table of that kind is not changed by hand unless it passes for another.
    let kind = |kind| format!("UPDATE pg_class SET relkind = '{kind}' WHERE oid = '{aside}'::regclass;");
    shared().sql(
        &database,
        &format!(
            "SET allow_system_table_mods = on; {} DELETE FROM {aside}; {}",
            kind('r'),
            kind('t')
        ),
    );
    // What is deleted there is still found until it is cleared away, which a reader may hold up.
    let patience = Instant::now() + Duration::from_secs(20);
    while store.get(bad.id).await.is_ok() {
        assert!(Instant::now() < patience, "it can still be read");
        shared().sql(&database, "VACUUM transactions");
    }
    let read = store.get_many(&[before.id, bad.id, after.id]).await;
    assert!(
        matches!(&read[0], Ok(Some(tx)) if tx.id == before.id),
        "{:?}",
        read[0]
    );
    assert!(matches!(&read[1], Err(StoreError::Damaged(_))), "{:?}", read[1]);
    assert!(
        matches!(&read[2], Ok(Some(tx)) if tx.id == after.id),
        "{:?}",
        read[2]
    );
}

/// The name of the store's database.
fn name(store: &super::PostgresStore) -> String {
    store
        .sessions
        .options()
        .get_database()
        .expect("has a name")
        .to_owned()
}
