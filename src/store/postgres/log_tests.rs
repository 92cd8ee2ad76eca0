//! The log of changes where several processes, other transactions and other databases are about.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};

use super::PostgresStore;
use super::server::{Server, shared};
use super::testing::{node, settings};
use crate::clock::{Clock, SystemClock};
use crate::domain::{Cause, Event, Lease, Status, TenantName, Transaction, TransactionId};
use crate::store::conformance::{step, transaction};
use crate::store::{Filter, Inserted, Position, TransactionStore};

async fn told(store: &PostgresStore, after: Position) -> (Vec<TransactionId>, Position) {
    let changes = store.changes(after, 99).await.expect("reads").expect("is known");
    assert!(!changes.more);
    (changes.items.iter().map(|(_, tx)| tx.id).collect(), changes.next)
}

async fn insert(store: &PostgresStore) -> Transaction {
    let tx = transaction("main", None);
    store.insert(&tx).await.expect("inserts");
    tx
}

/// A server of its own, where nothing but what the test does holds up the log.
#[tokio::test]
async fn what_commits_late_is_told_late_and_not_skipped() {
    let server = Server::start(&["autovacuum=off"]);
    let url = server.database();
    let settings = settings(&url);
    let (one, other) = (node(&settings).await, node(&settings).await);
    let slow = insert(&one).await;
    let start = one.last_change().await.expect("reads");
    assert_eq!(told(&one, start).await.0, []);

    // Another process is in the midst of a change.
    let mut late = PgConnection::connect(&url).await.expect("connects");
    let change = format!(
        "BEGIN; UPDATE work SET version = 2 WHERE transaction_id = '{id}'; \
         INSERT INTO changes (xid, n, entries, changed_at, ids, versions) \
         VALUES (pg_current_xact_id(), 1, 1, now(), ARRAY['{id}'::uuid], ARRAY[2])",
        id = slow.id
    );
    late.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(change)))
        .await
        .expect("changes");
    let fast = insert(&other).await;
    let (mut after, mut seen) = (start, Vec::new());
    for store in [&one, &other, &one] {
        let (ids, next) = told(store, after).await;
        seen.extend(ids);
        after = next;
        assert_eq!(store.last_change().await.expect("reads"), after);
    }
    assert_eq!(seen, [], "what was begun before it may still come");
    late.execute("COMMIT").await.expect("commits");
    let (ids, next) = told(&one, after).await;
    assert_eq!(ids, [slow.id, fast.id]);
    assert_eq!(told(&other, start).await.0, [slow.id, fast.id]);
    assert_eq!(told(&other, next).await.0, []);

    // One that is rolled back leaves nothing behind.
    late.execute("BEGIN; SELECT pg_current_xact_id()")
        .await
        .expect("begins");
    let third = insert(&one).await;
    assert_eq!(told(&one, next).await.0, []);
    late.execute("ROLLBACK").await.expect("rolls back");
    assert_eq!(told(&one, next).await.0, [third.id]);
}

fn now_and(seconds: u64) -> crate::domain::Timestamp {
    SystemClock.now().plus(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_copy_of_the_database_begins_a_log_of_its_own() {
    let server = Server::start(&["autovacuum=off"]);
    let settings_of = |name: &str| settings(&server.url(name));
    let url = server.database();
    let name = url.rsplit('/').next().expect("a name").to_owned();
    let store = node(&settings_of(&name)).await;
    let start = store.last_change().await.expect("reads");
    let tx = insert(&store).await;
    assert_eq!(told(&store, start).await.0, [tx.id]);
    store.close().await;
    drop(store);
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'");
    let patience = std::time::Instant::now() + Duration::from_secs(20);
    while server.sql("postgres", &left) != "0" {
        assert!(std::time::Instant::now() < patience, "a connection is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // As from a dump: the same rows elsewhere.
    server.sql("postgres", &format!("CREATE DATABASE copied TEMPLATE {name}"));
    let copy = node(&settings_of("copied")).await;
    assert!(copy.changes(start, 9).await.expect("reads").is_none());
    let begun = copy.last_change().await.expect("reads");
    let other = insert(&copy).await;
    assert_eq!(told(&copy, begun).await.0, [other.id]);
    assert_eq!(server.sql("copied", "SELECT sum(entries) FROM changes"), "1");
    assert!(copy.get(tx.id).await.expect("reads").is_some());
    // The original goes on with its own.
    let store = node(&settings_of(&name)).await;
    assert_eq!(told(&store, start).await.0, [tx.id]);
    assert!(store.changes(begun, 9).await.expect("reads").is_none());
}

#[tokio::test]
async fn an_unprivileged_role_can_read_the_log() {
    let url = shared().database();
    let settings_of_owner = settings(&url);
    node(&settings_of_owner).await.close().await;
    let name = url.rsplit('/').next().expect("a name");
    let role = format!("plain_{name}");
    shared().sql(
        name,
        &format!(
            "CREATE ROLE {role} LOGIN; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON transactions, work, settled, checkpoints, probe, changes, \
             change_log, documents TO {role}; GRANT SELECT ON _sqlx_migrations TO {role}"
        ),
    );
    let plain = node(&settings(&url.replace("sluicegate@", &format!("{role}@")))).await;
    let start = plain.last_change().await.expect("reads");
    insert(&plain).await;
    assert!(plain.changes(start, 9).await.expect("reads").is_some());
    assert_eq!(
        plain.forget_changes(start_of_time(), 9).await.expect("forgets"),
        0
    );
}

fn start_of_time() -> crate::domain::Timestamp {
    crate::domain::Timestamp::from_millis(0)
}

#[tokio::test]
async fn one_hears_at_once_that_another_settled_something() {
    let settings = settings(&shared().database());
    let (one, other) = (node(&settings).await, node(&settings).await);
    let tx = insert(&one).await;
    let lease = Lease {
        owner: "w".to_owned(),
        until: now_and(60),
    };
    let claim = step(&one, &tx, Event::Claimed { lease }).await;
    let changed = other.changed();
    // It may have been told that it listens now; only what comes after the change counts.
    for attempt in 0.. {
        let notified = changed.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if attempt == 0 {
            let cause = Cause::new("NO", "never");
            step(&one, &claim, Event::Rejected { cause }).await;
        }
        let heard = tokio::time::timeout(Duration::from_secs(20), notified).await;
        heard.expect("is notified");
        let read = other.get(tx.id).await.expect("reads").expect("is there");
        if read.is_settled() {
            break;
        }
    }
}

/// A rolling upgrade: an earlier version still writes, and knows nothing of tenants.
#[tokio::test]
async fn what_an_earlier_version_settles_is_listed_with_its_tenant() {
    let url = shared().database();
    let store = node(&settings(&url)).await;
    let name = url.rsplit('/').next().expect("a name");
    let acme = TenantName::new("acme").expect("valid name");
    let mut all = Vec::new();
    for whose in [Some(&acme), None, Some(&acme)] {
        let tx = Transaction {
            tenant: whose.cloned().unwrap_or_default(),
            ..transaction("main", None)
        };
        assert!(matches!(store.insert(&tx).await, Ok(Inserted::Created)));
        let lease = Lease {
            owner: "w".to_owned(),
            until: now_and(60),
        };
        let tx = step(&store, &tx, Event::Claimed { lease }).await;
        let cause = Cause::new("NO", "never");
        all.push(step(&store, &tx, Event::Rejected { cause }).await);
    }
    shared().sql(name, "UPDATE settled SET tenant = NULL");
    for (tenant, expected) in [
        (acme, vec![all[2].id, all[0].id]),
        (TenantName::default(), vec![all[1].id]),
    ] {
        let filter = Filter {
            tenant: Some(tenant),
            status: Some(Status::Failed),
            ..Filter::default()
        };
        let page = store.list(&filter, None, 9).await.expect("lists");
        let found: Vec<_> = page.items.iter().map(|tx| tx.id).collect();
        assert_eq!(found, expected);
    }
}
