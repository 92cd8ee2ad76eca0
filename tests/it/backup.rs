//! `sluicegate backup` and `restore` on real processes, with a ledger that outlives the gateway: what was acknowledged
//! before a backup is in it, and after an OLD backup is restored nothing that the ledger has is submitted again (I2).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::basics::skipped;
use crate::crash::{Api, Gateway, end, http, start};
use crate::support::cli::{self, Ended};
use crate::support::fabric::FabricDevnet;
use crate::support::{TestApp, add, eventually};

/// Nobody is asked twice within this test, so a repeat in the chain is one that should not be there.
const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[store]
path = "data"
engine = "ENGINE"
[log]
level = "info"
[ledgers.main.worker]
rate_per_second = 150
burst = 20
max_in_flight = 64
lease_seconds = 4
check_after_ms = 60000
[ledgers.main.retry]
min_ms = 5
max_ms = 60
"#;

const CLIENTS: usize = 4;
const COUNTERS: usize = 40;
/// Acknowledged before the backup; many more than may be in flight.
const EARLY: usize = 400;

/// What a client did: the id, the counter, and how long the answer took.
type Accepted = (String, String, Duration);

/// Clients that add to counters whose names begin so, until they are told to stop, or have done so many.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Vec<Accepted>>,
}

impl Load {
    fn on(gateway: &Gateway, prefix: &'static str, each: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (stop, url) = (stop.clone(), format!("{}/v1/transactions", gateway.address));
            clients.spawn(async move {
                let (http, mut accepted) = (http(), Vec::new());
                while !stop.load(Ordering::Relaxed) && accepted.len() < each {
                    let counter = format!("{prefix}{}", (client + CLIENTS * accepted.len()) % COUNTERS);
                    let begun = Instant::now();
                    let answer = http.post(&url).json(&add(&counter, 1)).send().await;
                    let answer = answer.expect("answers");
                    let took = begun.elapsed();
                    assert!(answer.status().is_success(), "{}", answer.status());
                    let record: Value = answer.json().await.expect("JSON");
                    accepted.push((record["id"].as_str().expect("an id").to_owned(), counter, took));
                    tokio::time::sleep(Duration::from_millis(8)).await;
                }
                accepted
            });
        }
        Self { stop, clients }
    }

    /// Once each has done its share.
    async fn done(self) -> Vec<Accepted> {
        self.clients.join_all().await.into_iter().flatten().collect()
    }

    async fn end(self) -> Vec<Accepted> {
        self.stop.store(true, Ordering::Relaxed);
        self.done().await
    }
}

fn p99(accepted: &[Accepted]) -> Duration {
    let mut all: Vec<_> = accepted.iter().map(|(_, _, took)| *took).collect();
    all.sort();
    all[all.len() * 99 / 100]
}

async fn run(folder: &Path, words: &[&str]) -> Ended {
    let output = cli::command(words)
        .current_dir(folder)
        .output()
        .await
        .expect("runs");
    Ended {
        code: output.status.code().expect("was not killed"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Ids and codes of all that the ledger was ever sent.
async fn chain(ledger: &FabricDevnet) -> Vec<(String, String)> {
    let chain = ledger.get("/transactions?from=0").await;
    let entries = chain.as_array().expect("transactions").iter();
    let text = |entry: &Value, key: &str| entry[key].as_str().expect("text").to_owned();
    entries
        .map(|entry| (text(entry, "id"), text(entry, "code")))
        .collect()
}

fn count(chain: &[(String, String)], wanted: &str) -> usize {
    chain.iter().filter(|(_, code)| code == wanted).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_an_old_backup_of_redb_in_sled_submits_nothing_that_the_ledger_has() {
    an_old_backup("redb", "sled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_an_old_backup_of_sled_in_redb_submits_nothing_that_the_ledger_has() {
    an_old_backup("sled", "redb").await;
}

async fn an_old_backup(engine: &str, other: &str) {
    let (folder, network) = (
        tempfile::tempdir().expect("folder"),
        tempfile::tempdir().expect("folder"),
    );
    let words = ["--batch-timeout-ms", "100", "--max-message-count", "20"];
    let ledger = FabricDevnet::start(network.path(), &words).await;
    let config = |engine: &str| format!("{}{}", ledger.section, CONFIG.replace("ENGINE", engine));
    let write = |engine| std::fs::write(folder.path().join("config.toml"), config(engine)).expect("writes");
    write(engine);
    let mut gateway = start(folder.path()).await;

    // All of this is acknowledged before the backup, while the ledger makes no blocks; the rest partly during it, and
    // partly lost with the disk.
    ledger.tell("PUT", "/cutting", &json!(false)).await;
    let early = Load::on(&gateway, "early", EARLY / CLIENTS).done().await;
    let late = Load::on(&gateway, "late", usize::MAX);
    let begun = Instant::now();
    run(folder.path(), &["backup", "old.backup"]).await.expect(0);
    let took = begun.elapsed();
    assert_eq!(chain(&ledger).await.len(), 0);
    ledger.tell("PUT", "/cutting", &json!(true)).await;
    eventually("the ledger is far ahead of the backup", async || {
        (count(&chain(&ledger).await, "VALID") > EARLY / 2).then_some(())
    })
    .await;
    let late = late.end().await;
    gateway.process.kill().await.expect("kills");
    let mut last = 0;
    eventually("what was ordered is in blocks", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = chain(&ledger).await.len();
        (now == std::mem::replace(&mut last, now)).then_some(())
    })
    .await;
    let before = chain(&ledger).await;
    assert!(count(&before, "MVCC_READ_CONFLICT") > 0, "there were conflicts");

    std::fs::remove_dir_all(folder.path().join("data")).expect("removes");
    write(other);
    run(folder.path(), &["restore", "old.backup", "--check"])
        .await
        .expect(0);
    let restored = run(folder.path(), &["restore", "old.backup"]).await.expect(0);
    assert!(restored.out.contains("pending on main"), "{restored:?}");
    let gateway = start(folder.path()).await;
    let api = Api::of(&gateway);
    eventually("the backlog is empty", async || {
        (api.get("/v1/ledgers").await["items"][0]["backlog"] == 0).then_some(())
    })
    .await;

    let after = chain(&ledger).await;
    let valid: BTreeSet<_> = after
        .iter()
        .filter(|(_, code)| code == "VALID")
        .map(|(id, _)| id)
        .collect();
    let ids: BTreeSet<_> = after.iter().map(|(id, _)| id).collect();
    assert_eq!(
        ids.len(),
        after.len(),
        "nothing that the ledger has was submitted again"
    );
    let (known, mut found) = (before.iter().map(|(id, _)| id).collect::<BTreeSet<_>>(), 0);
    let mut named = BTreeSet::new();
    let mut expected = BTreeMap::new();
    for (id, counter, _) in &early {
        let record = api.get(&format!("/v1/transactions/{id}")).await;
        assert_eq!(record["status"], "done", "I1, I3: {record}");
        let tx_id = record["tx_id"].as_str().expect("an id").to_owned();
        assert!(valid.contains(&tx_id), "{record}");
        found += usize::from(known.contains(&tx_id));
        assert!(named.insert(tx_id), "one transaction for each record");
        *expected.entry(counter.clone()).or_insert(0) += 1;
    }
    // One effect for each: the counters are exact, conflicts and all.
    for (counter, times) in expected {
        assert_eq!(api.counter(&counter).await, times, "I2: counter {counter}");
    }
    assert!(
        found > early.len() / 4,
        "only {found} were on the ledger and not known to the backup"
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
    eprintln!(
        "{engine} to {other}: {} accepted before the backup, {} during and after it (p99 {:?} before, {:?} then); \
         {found} found on the ledger; {} conflicts, {} duplicates in the chain; backup took {took:?}",
        early.len(),
        late.len(),
        p99(&early),
        p99(&late),
        count(&after, "MVCC_READ_CONFLICT"),
        count(&after, "DUPLICATE_TXID"),
    );
    end(gateway, folder.path()).await;
    ledger.stop().await;
}

async fn told(app: &TestApp, words: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("config.toml");
    std::fs::write(&config, format!("[store]\npath = {:?}\n", app.data())).expect("writes");
    let config = config.to_str().expect("UTF-8");
    cli::run(&[words, &["--config", config]].concat()).await
}

#[tokio::test]
async fn a_backup_has_a_name_once_it_is_whole_and_only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let app = TestApp::start().await;
    for _ in 0..3 {
        app.settle(&add("hits", 1)).await;
    }
    let place = tempfile::tempdir().expect("folder");
    let path = place.path().join("a.backup");
    let file = path.to_str().expect("UTF-8");
    let made = told(&app, &["backup", file]).await.expect(0);
    assert!(made.out.starts_with("3 records, "), "{made:?}");
    let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(
        (mode(&path), mode(&app.data().join("control.sock"))),
        (0o600, 0o600)
    );
    let again = told(&app, &["backup", file]).await.expect(1);
    assert!(
        again.err.contains("remove it or choose another name"),
        "{again:?}"
    );
    let nowhere = place.path().join("none/a.backup");
    let refused = told(&app, &["backup", nowhere.to_str().expect("UTF-8")])
        .await
        .expect(1);
    assert!(refused.err.contains("No such file or directory"), "{refused:?}");
    let checked = cli::run(&["restore", file, "--check"]).await.expect(0);
    assert!(checked.out.contains("3 done on main"), "{checked:?}");
    let in_use = told(&app, &["restore", file]).await.expect(1);
    assert!(in_use.err.contains("is in use by process"), "{in_use:?}");

    // A stopped one, and one that was killed: its socket is left.
    let stopped = app.leave().await;
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("config.toml");
    std::fs::write(&config, format!("[store]\npath = {:?}\n", stopped.data)).expect("writes");
    let config = config.to_str().expect("UTF-8");
    let second = place.path().join("b.backup");
    let words = ["backup", second.to_str().expect("UTF-8"), "--config", config];
    let made = cli::run(&words).await.expect(0);
    assert!(made.out.starts_with("3 records, "), "{made:?}");
    let occupied = cli::run(&["restore", file, "--config", config]).await.expect(1);
    assert!(occupied.err.contains("move the data folder away"), "{occupied:?}");
    assert_eq!(
        place.path().read_dir().expect("lists").count(),
        2,
        "nothing else is left"
    );
    let app = stopped.reopen(|_| {}).await;
    app.finish().await;
}

#[tokio::test]
async fn what_is_no_backup_is_refused_and_makes_no_store() {
    let place = tempfile::tempdir().expect("folder");
    let app = TestApp::start().await;
    app.settle(&add("hits", 1)).await;
    let path = place.path().join("a.backup");
    let file = path.to_str().expect("UTF-8");
    told(&app, &["backup", file]).await.expect(0);
    app.finish().await;

    let config = place.path().join("config.toml");
    let data = place.path().join("data");
    std::fs::write(&config, format!("[store]\npath = {data:?}\n")).expect("writes");
    let config = config.to_str().expect("UTF-8");
    let whole = std::fs::read(&path).expect("reads");
    let mut flipped = whole.clone();
    flipped[whole.len() - 40] ^= 1;
    for (bytes, words) in [
        (
            &b"[store]\npath = 'data'\n"[..],
            "is no backup of a sluicegate store",
        ),
        (&whole[..whole.len() - 10], "cut short"),
        (&flipped[..], "cannot be used; take another one"),
    ] {
        std::fs::write(&path, bytes).expect("writes");
        for words_of_command in [
            &["restore", file, "--config", config][..],
            &["restore", file, "--check"],
        ] {
            let refused = cli::run(words_of_command).await.expect(1);
            assert!(refused.err.contains(words), "{refused:?}");
        }
        assert!(!data.join("store.redb").exists() && !data.join("store.redb.new").exists());
    }
    std::fs::write(&path, &whole).expect("writes");
    let restored = cli::run(&["restore", file, "--config", config]).await.expect(0);
    assert!(restored.out.contains("1 done on main"), "{restored:?}");
    let checked = cli::run(&["store", "check", "--config", config]).await.expect(0);
    assert!(checked.out.contains("all is well"), "{checked:?}");
}

/// The target's disk fills up; the gateway's does not.
#[tokio::test]
async fn a_backup_that_finds_no_room_leaves_nothing_and_harms_nobody() {
    let Some(disk) = crate::small_disk::SmallDisk::mount(64 << 10) else {
        skipped("a full disk under a backup: mounting a tmpfs takes root");
        return;
    };
    let app = TestApp::start().await;
    for number in 0..200 {
        let mut body = add(&format!("c{number}"), 1);
        body["metadata"] = json!({"note": "x".repeat(400)});
        app.post(&body).await.expect(202);
    }
    let file = disk.path().join("a.backup");
    let refused = told(&app, &["backup", file.to_str().expect("UTF-8")])
        .await
        .expect(1);
    assert!(refused.err.contains("No space left on device"), "{refused:?}");
    assert_eq!(disk.path().read_dir().expect("lists").count(), 0);
    app.drain().await;
    app.finish().await;
}
