//! The database dies, stalls, refuses. Each test has a server of its own to torment.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::PostgresStore;
use super::server::Server;
use super::testing::{metrics, settings};
use crate::config::PostgresSettings;
use crate::domain::{Status, Transaction};
use crate::store::conformance::transaction;
use crate::store::{Filter, StoreError, TransactionStore};

const TIMEOUT: Duration = Duration::from_secs(1);
/// What a call may take beyond its time on a busy machine.
const GRACE: Duration = Duration::from_millis(700);

fn impatient(server: &Server) -> PostgresSettings {
    PostgresSettings {
        timeout: TIMEOUT,
        ..settings(&server.database())
    }
}

async fn open(settings: &PostgresSettings) -> Arc<PostgresStore> {
    Arc::new(
        PostgresStore::connect(settings, metrics())
            .await
            .expect("connects"),
    )
}

/// Every call that reaches the database; each has to end in time, and refuse.
async fn all_refuse(store: &PostgresStore, known: &Transaction) {
    let tx = transaction("main", None);
    let later = known.created_at.plus(Duration::from_secs(1));
    let ledger = &known.request.ledger;
    let start = Instant::now();
    let filter = Filter::default();
    let refusals = tokio::join!(
        async { store.insert(&tx).await.err() },
        async { store.get(known.id).await.err() },
        async { store.find_by_idempotency_key("k").await.err() },
        async { store.due(ledger, later, 10).await.err() },
        async { store.unannounce(ledger, later, 10).await.err() },
        async { store.expired(later, 10).await.err() },
        async { store.list(&filter, None, 10).await.err() },
        async { store.prune(Status::Done, later, 10).await.err() },
        async { store.probe().await.err() },
    );
    assert!(start.elapsed() < TIMEOUT + GRACE, "{:?}", start.elapsed());
    let (a, b, c, d, e, f, g, h, i) = refusals;
    for refusal in [a, b, c, d, e, f, g, h, i] {
        assert!(matches!(refusal, Some(StoreError::Unavailable(_))), "{refusal:?}");
    }
}

/// How long until an insert and a read succeed again.
async fn recovery(store: &PostgresStore) -> Duration {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        let tx = transaction("main", None);
        if store.insert(&tx).await.is_ok() && store.get(tx.id).await.is_ok() {
            return start.elapsed();
        }
    }
    panic!("no recovery");
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no TaskTracker; it joins what it spawns"
)]
fn spawn<F: Future<Output: Send> + Send + 'static>(task: F) -> tokio::task::JoinHandle<F::Output> {
    tokio::spawn(task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i1_no_acknowledged_insert_is_lost_when_the_server_is_killed() {
    let server = Server::start(&[]);
    let store = open(&impatient(&server)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (store, stop) = (store.clone(), stop.clone());
            spawn(async move {
                let (mut stored, mut refused) = (Vec::new(), 0);
                while !stop.load(Ordering::Relaxed) {
                    let tx = transaction("main", None);
                    let start = Instant::now();
                    match store.insert(&tx).await {
                        Ok(_) => stored.push(tx.id),
                        Err(StoreError::Unavailable(_)) => refused += 1,
                        Err(other) => panic!("{other}"),
                    }
                    assert!(start.elapsed() < TIMEOUT + GRACE, "{:?}", start.elapsed());
                }
                (stored, refused)
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        tokio::task::block_in_place(|| {
            server.kill();
            server.restart();
        });
        let took = recovery(&store).await;
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    stop.store(true, Ordering::Relaxed);
    let (mut stored, mut refused) = (Vec::new(), 0);
    for caller in callers {
        let (some, others) = caller.await.expect("ends");
        stored.extend(some);
        refused += others;
    }
    assert!(
        stored.len() > 100 && refused > 0,
        "{} stored, {refused} refused",
        stored.len()
    );
    for id in &stored {
        assert!(
            store.get(*id).await.expect("reads").is_some(),
            "{id} was acknowledged and is gone"
        );
    }
    // What this process could not know comes in with the next count.
    let database = store.sessions.options().get_database().expect("named");
    let there: u64 = server
        .sql(database, "SELECT count(*) FROM work")
        .parse()
        .expect("a number");
    let start = Instant::now();
    while store.backlog().values().sum::<u64>() != there {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?} and not {there}",
            store.backlog()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_server_that_stalls_holds_nobody_longer_than_the_timeout() {
    let server = Server::start(&[]);
    let store = open(&impatient(&server)).await;
    let tx = transaction("main", None);
    store.insert(&tx).await.expect("inserts");
    server.pause();
    all_refuse(&store, &tx).await;
    // Those that come later find no idle connection, and wait no longer either.
    all_refuse(&store, &tx).await;
    server.resume();
    let took = recovery(&store).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_server_that_is_away_is_told_and_found_again() {
    let server = Server::start(&[]);
    let settings = impatient(&server);
    let store = open(&settings).await;
    let tx = transaction("main", None);
    store.insert(&tx).await.expect("inserts");
    server.stop();
    all_refuse(&store, &tx).await;
    let refused = store.get(tx.id).await.expect_err("away").to_string();
    assert!(
        refused.contains("refused") && refused.contains("127.0.0.1"),
        "{refused}"
    );
    let start = Instant::now();
    let another = PostgresStore::connect(&settings, metrics()).await;
    assert!(matches!(another, Err(StoreError::Unavailable(_))));
    assert!(start.elapsed() < TIMEOUT + GRACE);
    server.restart();
    let took = recovery(&store).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn cut_sessions_are_replaced() {
    let server = Server::start(&[]);
    let store = open(&impatient(&server)).await;
    let database = store.sessions.options().get_database().expect("named").to_owned();
    for pause in [0, 1_200] {
        let warm: Vec<_> = (0..20).map(|_| transaction("main", None)).collect();
        for stored in futures_util::future::join_all(warm.iter().map(|tx| store.insert(tx))).await {
            stored.expect("inserts");
        }
        server.sql(
            &database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE application_name = 'sluicegate'",
        );
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let start = Instant::now();
        let first = store.insert(&transaction("main", None)).await;
        // Those that rested are asked first, so nobody notices.
        assert!(pause == 0 || first.is_ok(), "{first:?}");
        recovery(&store).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_server_without_free_connections_is_told_and_waited_for() {
    let server = Server::start(&["max_connections=12", "superuser_reserved_connections=0"]);
    let settings = PostgresSettings {
        max_connections: NonZeroU32::new(4).expect("not zero"),
        ..impatient(&server)
    };
    let store = open(&settings).await;
    server.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluicegate'",
    );
    let mut taken = Vec::new();
    let options = store.sessions.options().clone();
    use sqlx::ConnectOptions;
    while let Ok(connection) = options.connect().await {
        taken.push(connection);
    }
    // Whatever the store still had is gone with the next failure.
    let mut refusals = 0;
    for _ in 0..6 {
        if let Err(error) = store.insert(&transaction("main", None)).await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
            refusals += 1;
        }
    }
    assert!(refusals > 0 || taken.len() < 12, "{}", taken.len());
    drop(taken);
    let took = recovery(&store).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_server_that_became_read_only_refuses_writes_until_it_is_not() {
    let server = Server::start(&[]);
    let store = open(&impatient(&server)).await;
    let tx = transaction("main", None);
    store.insert(&tx).await.expect("inserts");
    let set = |value: &str| {
        server.sql(
            "postgres",
            &format!("ALTER SYSTEM SET default_transaction_read_only = {value}"),
        );
        server.sql("postgres", "SELECT pg_reload_conf()");
    };
    set("on");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = store
        .insert(&transaction("main", None))
        .await
        .expect_err("refused");
    assert!(
        error.to_string().contains("25006") || error.to_string().contains("read-only"),
        "{error}"
    );
    let error = store.probe().await.expect_err("refused");
    assert!(error.to_string().contains("read-only"), "{error}");
    all_refuse(&store, &tx).await;
    set("off");
    let took = recovery(&store).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}
