//! What earlier versions wrote can be read: stores kept as small fixtures open, hold what they held, and a gateway
//! goes on with them. tests/fixtures/README.md says how the fixtures of the next version are made.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sluicegate::clock::SystemClock;
use sluicegate::config::{self, PostgresSettings, SimulatorSettings, StoreSettings};
use sluicegate::domain::{
    Checkpoint, LedgerName, SubmissionId, TenantName, Timestamp, Transaction, TransactionId,
};
use sluicegate::kv::{self, EngineKind};
use sluicegate::ledger::LedgerBackend;
use sluicegate::ledger::simulator::SimulatorLedger;
use sluicegate::store::documents::{DocumentChange, DocumentStore};
use sluicegate::store::embedded::{self, DataFolder, EmbeddedStore, STORE_FORMAT};
use sluicegate::store::postgres::{PostgresStore, migrate};
use sluicegate::store::{Change, Filter, TransactionStore};
use sluicegate::telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::crash::{Api, end, start};
use crate::damage::copy;
use crate::postgres::shared;
use crate::support::{self, TestApp, add, simulator, states};

const CACHE: usize = 1 << 20;
/// How many migrations there are.
const SCHEMA: usize = 3;

/// What was pending in the fixtures has been due since.
fn then() -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000)
}

fn main_ledger() -> LedgerName {
    LedgerName::new("main").expect("a name")
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// Whether this run makes the fixtures of this version.
fn writes() -> bool {
    std::env::var_os("SLUICEGATE_WRITE_FIXTURES").is_some()
}

fn acme() -> TenantName {
    TenantName::new("acme").expect("a name")
}

fn stored_format(folder: &DataFolder) -> u64 {
    let engine = kv::open(folder.engine(), &folder.store(), CACHE).expect("opens");
    let format = engine.get(b"mformat").expect("reads").expect("is there");
    u64::from_be_bytes(format.as_slice().try_into().expect("a number"))
}

fn open(folder: &DataFolder) -> EmbeddedStore {
    let metrics = Metrics::new().expect("metrics").store();
    EmbeddedStore::open(folder.engine(), &folder.store(), CACHE, metrics).expect("opens")
}

/// Every record as JSON, exactly as it is stored, oldest first.
async fn texts(store: &dyn TransactionStore) -> Vec<String> {
    let page = store.list(&Filter::default(), None, 999).await.expect("lists");
    let text = |tx: &Transaction| serde_json::to_string(tx).expect("JSON");
    page.items.iter().rev().map(text).collect()
}

fn expected(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("expected.ndjson")).expect("is there");
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn embedded_stores_of_every_format_are_read_and_go_on() {
    for engine in EngineKind::ALL {
        if writes() {
            write_embedded(engine).await;
        }
        for format in 1..=STORE_FORMAT {
            goes_on(engine, format).await;
        }
    }
}

async fn goes_on(engine: EngineKind, format: u64) {
    let fixture = fixture(&format!("store-{format}-{engine}"));
    assert!(
        fixture.exists(),
        "a format without a fixture: see tests/fixtures/README.md"
    );
    let place = tempfile::tempdir().expect("folder");
    let data = place.path().join("data");
    fs::rename(copy(&fixture).keep(), &data).expect("moves");
    let expected = expected(&data);
    {
        let folder = DataFolder::hold(&data, engine).expect("holds");
        let report = embedded::check(&folder, CACHE).expect("opens");
        assert_eq!(report.findings, [], "{engine}");
        assert_eq!(
            stored_format(&folder),
            format,
            "{engine}: a check changes nothing"
        );
        let store = open(&folder);
        assert_eq!(
            texts(&store).await,
            expected,
            "{engine}: not a byte is read or written otherwise"
        );
        let checkpoint = store.checkpoint(&main_ledger()).await.expect("reads");
        assert!(checkpoint.is_some(), "{engine}");
        let document = store.document("fixture", "a key").await.expect("reads");
        let body = document.map(|document| document.body.get().to_owned());
        assert_eq!(
            body,
            (format > 1).then(|| "\"a body\"".to_owned()),
            "{engine} {format}"
        );
        let of_acme = Filter {
            tenant: Some(acme()),
            ..Filter::default()
        };
        let of_acme = store.list(&of_acme, None, 999).await.expect("lists").items;
        assert_eq!(of_acme.len(), if format > 1 { 3 } else { 0 }, "{engine} {format}");
        drop(store);
        assert_eq!(
            stored_format(&folder),
            STORE_FORMAT,
            "{engine}: an older version refuses it from here on"
        );
    }
    let config = format!(
        "[http]\nlisten = '127.0.0.1:0'\n[store]\npath = {data:?}\nengine = '{engine}'\n[retention]\ndone_days = 0\n\
         failed_days = 0\n[ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 20\n[log]\nlevel = 'error'\n"
    );
    fs::write(place.path().join("config.toml"), config).expect("writes");
    let gateway = start(place.path()).await;
    let api = Api::of(&gateway);
    let parked = support::eventually("all but the parked one are settled", async || {
        let pending = api.get("/v1/transactions?status=pending").await;
        let pending = pending["items"].as_array().expect("items").clone();
        (pending.len() == 1).then_some(pending)
    });
    assert_eq!(parked.await[0]["stage"], "parked", "{engine}");
    for text in &expected {
        let before: Value = serde_json::from_str(text).expect("JSON");
        let id = before["id"].as_str().expect("an id");
        let record = api.get(&format!("/v1/transactions/{id}")).await;
        let state = before["state"]
            .as_object()
            .expect("a state")
            .keys()
            .next()
            .expect("one");
        let end = match state.as_str() {
            "pending" | "preparing" | "submitted" => "done",
            "parked" => "pending",
            settled => settled,
        };
        assert_eq!(record["status"], end, "{engine}: {state}: {record}");
    }
    assert_eq!(api.counter("hits").await, 3, "{engine}: the chain is the old one");
    for unsettled in 0..4 {
        let counter = format!("f-{unsettled}");
        assert_eq!(api.counter(&counter).await, 1, "{engine}: I2: {counter}");
    }
    end(gateway, place.path()).await;
}

/// A real gateway's folder, with records in every other state beside what it settled.
async fn write_embedded(engine: EngineKind) {
    let app = TestApp::with(|settings| {
        if let StoreSettings::Embedded(embedded) = &mut settings.store {
            embedded.engine = engine;
        }
    })
    .await;
    for _ in 0..3 {
        app.settle(&add("hits", 1)).await;
    }
    // The checkpoint is kept once a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let stopped = app.leave().await;
    {
        let folder = DataFolder::hold(&stopped.data, engine).expect("holds");
        let store = open(&folder);
        let sent = prepared(&folder).await;
        let mut histories = states::in_every_state("f", &sent, then(), then());
        for settled in &mut histories[5..] {
            settled.iter_mut().for_each(|version| version.tenant = acme());
        }
        states::store(&store, &histories).await;
        let document = DocumentChange::create("fixture", "a key", &"a body").expect("JSON");
        assert!(store.change_documents(vec![document]).await.expect("writes"));
        let lines: Vec<String> = texts(&store).await.into_iter().map(|text| text + "\n").collect();
        fs::write(stopped.data.join("expected.ndjson"), lines.concat()).expect("writes");
    }
    fs::remove_file(stopped.data.join("lock")).expect("removes");
    let place = fixture(&format!("store-{STORE_FORMAT}-{engine}"));
    if place.exists() {
        fs::remove_dir_all(&place).expect("removes");
    }
    fs::create_dir_all(place.parent().expect("a folder")).expect("makes");
    fs::rename(copy(&stopped.data).keep(), &place).expect("moves");
}

/// Real bytes for the one that is submitted: the ledger has not seen them yet.
async fn prepared(folder: &DataFolder) -> sluicegate::domain::Prepared {
    let config::BackendSettings::Simulator(settings) = simulator(20, 10) else {
        panic!("is a simulator");
    };
    let settings: SimulatorSettings = settings;
    let engine = kv::open(folder.engine(), &folder.chain("main"), CACHE).expect("opens");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let ledger = SimulatorLedger::open(engine, settings, Arc::new(SystemClock), &tasks, stop.clone());
    let ledger = ledger.expect("opens");
    let submission = SubmissionId {
        record: TransactionId::new(),
        number: 0,
    };
    let sent = ledger.prepare(submission, &states::request("f-2")).await;
    let sent = sent.expect("prepares");
    stop.cancel();
    tasks.close();
    drop(ledger);
    tasks.wait().await;
    sent
}

fn postgres_settings(url: &str) -> PostgresSettings {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("config.toml");
    let text = format!(
        "[store]\nkind = 'postgres'\nurl = '{url}'\n[queue]\nkind = 'rabbitmq'\n\
         [ledgers.main]\nkind = 'fabric'\npeers = ['http://127.0.0.1:1']\nchannel = 'c'\nmsp_id = 'm'\n\
         certificate = 'c.pem'\nprivate_key = 'k.pem'\n"
    );
    fs::write(&path, text).expect("writes");
    match config::load(Some(&path)).expect("is valid").settings.store {
        StoreSettings::Postgres(settings) => settings,
        StoreSettings::Embedded(_) => panic!("is not embedded"),
    }
}

async fn connect(url: &str) -> PostgresStore {
    let metrics = Metrics::new().expect("metrics").store();
    PostgresStore::connect(&postgres_settings(url), metrics)
        .await
        .expect("connects")
}

async fn execute(url: &str, sql: String) {
    use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
    let mut connection = PgConnection::connect(url).await.expect("connects");
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(sql)))
        .await
        .expect("executes");
    connection.close().await.expect("closes");
}

#[tokio::test]
async fn databases_of_every_schema_are_migrated_and_go_on() {
    if writes() {
        write_database().await;
    }
    for schema in 1..=SCHEMA {
        let dump = fs::read_to_string(fixture(&format!("postgres-{schema}.sql"))).expect("is there");
        let expected = expected(&fixture(&format!("postgres-{schema}")));
        let url = shared().database();
        execute(&url, dump).await;
        let made = migrate(&postgres_settings(&url)).await.expect("migrates");
        assert_eq!(made.len(), SCHEMA - schema, "{made:?}");
        let store = connect(&url).await;
        assert_eq!(texts(&store).await, expected, "schema {schema}");
        let checkpoint = store.checkpoint(&main_ledger()).await.expect("reads");
        assert_eq!(
            checkpoint,
            (schema > 1).then_some(Checkpoint(9)),
            "schema {schema}"
        );
        let document = store.document("fixture", "a key").await.expect("reads");
        let body = document.map(|document| document.body.get().to_owned());
        assert_eq!(
            body,
            (schema > 2).then(|| "\"a body\"".to_owned()),
            "schema {schema}"
        );

        // Every one that is not settled or parked is due, and can be moved on.
        let ever = Timestamp::from_millis(u64::MAX);
        let due = store.due(&main_ledger(), ever, 99).await.expect("reads");
        assert_eq!(due.marks.len(), 4, "schema {schema}");
        let by_id: BTreeMap<_, _> = due.marks.iter().map(|mark| (mark.id, mark.first_try)).collect();
        let (id, _) = by_id
            .iter()
            .find(|(_, first)| **first)
            .expect("one was never tried");
        let old = store.get(*id).await.expect("reads").expect("is there");
        let new = old
            .apply(sluicegate::domain::Event::Expired, then())
            .expect("legal");
        let moved = store.compare_and_swap(vec![Change { old, new }]).await;
        assert_eq!(moved.expect("swaps"), [true], "schema {schema}");
    }
}

async fn write_database() {
    let url = shared().database();
    let store = connect(&url).await;
    let sent = sluicegate::domain::Prepared {
        tx_id: sluicegate::domain::LedgerTxId("4711".to_owned()),
        envelope: "{\"signed\":true}".to_owned(),
        response: None,
        touched: None,
    };
    states::store(&store, &states::in_every_state("p", &sent, then(), then())).await;
    store
        .advance_checkpoint(&main_ledger(), Checkpoint(9))
        .await
        .expect("notes");
    let document = DocumentChange::create("fixture", "a key", &"a body").expect("JSON");
    assert!(store.change_documents(vec![document]).await.expect("writes"));
    let lines: Vec<String> = texts(&store).await.into_iter().map(|text| text + "\n").collect();
    store.close().await;
    let dumped = tokio::process::Command::new("pg_dump")
        .args(["--inserts", "--no-owner", "--no-privileges", "--dbname", &url])
        .output();
    let dumped = dumped.await.expect("runs");
    assert!(
        dumped.status.success(),
        "{}",
        String::from_utf8_lossy(&dumped.stderr)
    );
    let text = String::from_utf8(dumped.stdout).expect("UTF-8");
    // Commands of psql are none of the server's.
    let sql: Vec<&str> = text.lines().filter(|line| !line.starts_with('\\')).collect();
    fs::write(fixture(&format!("postgres-{SCHEMA}.sql")), sql.join("\n")).expect("writes");
    let folder = fixture(&format!("postgres-{SCHEMA}"));
    fs::create_dir_all(&folder).expect("makes");
    fs::write(folder.join("expected.ndjson"), lines.concat()).expect("writes");
}
