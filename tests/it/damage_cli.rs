//! Damaged files, part two: what an operator meets. `serve` ends with a text that says what is wrong and what to do,
//! `store check` and `store repair` do what they say, and the gateway goes on with what is left. And what a
//! running gateway does when the disk under it turns bad.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use sluicegate::kv::EngineKind;
use tempfile::TempDir;

use crate::crash::{Gateway, http, start};
use crate::damage::{Damage, copy, files};
use crate::support::cli::{self, Ended};

const CONFIG: &str = "[http]\nlisten = '127.0.0.1:0'\n[log]\nlevel = 'off'\n\
    [ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 20\nmax_message_count = 100\n\
    [ledgers.main.worker]\nrate_per_second = 5000\nburst = 100\n";

/// A folder with a configuration and a stopped gateway's data: settled transactions, each of some 15 KiB.
struct Stopped {
    folder: TempDir,
    engine: EngineKind,
    ids: Vec<String>,
}

impl Stopped {
    async fn with(engine: EngineKind, count: usize) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("sets");
        let data = folder.path().join("data");
        let config = format!("{CONFIG}[store]\npath = {data:?}\nengine = '{engine}'\ncache_mb = 1\n");
        fs::write(folder.path().join("config.toml"), config).expect("writes");
        let gateway = run(folder.path()).await;
        let mut ids = Vec::new();
        for number in 0..count {
            let (status, body) = post(&gateway, number, "?").await;
            assert_eq!(status, 202, "{body}");
            ids.push(body["id"].as_str().expect("an id").to_owned());
        }
        for id in &ids {
            let (status, record) = get(&gateway, &format!("{id}?wait=20")).await;
            assert_eq!((status, &record["status"]), (200, &json!("done")), "{record}");
        }
        stop(gateway).await;
        Self { folder, engine, ids }
    }

    /// The same once more, to be damaged.
    fn copy(&self) -> Self {
        let folder = copy(self.folder.path());
        let text = fs::read_to_string(folder.path().join("config.toml")).expect("reads");
        let (from, to) = (self.folder.path(), folder.path());
        let text = text.replace(from.to_str().expect("UTF-8"), to.to_str().expect("UTF-8"));
        fs::write(folder.path().join("config.toml"), text).expect("writes");
        Self {
            folder,
            engine: self.engine,
            ids: self.ids.clone(),
        }
    }

    fn store(&self) -> PathBuf {
        self.folder
            .path()
            .join("data")
            .join(format!("store.{}", self.engine))
    }

    fn seal(&self) -> PathBuf {
        self.store().with_extension(format!("{}.seal", self.engine))
    }

    /// The file that holds the data.
    fn file(&self) -> PathBuf {
        let size = |file: &PathBuf| file.metadata().expect("there").len();
        files(&self.store()).into_iter().max_by_key(size).expect("one")
    }

    async fn run(&self, words: &[&str]) -> Ended {
        let config = self.folder.path().join("config.toml");
        let words = [words, &["--config", config.to_str().expect("UTF-8")]].concat();
        cli::run(&words).await
    }

    /// The gateway does not start, and says all this.
    async fn refuses(&self, texts: &[&str]) {
        let ended = self.run(&["serve"]).await.expect(1);
        for text in texts {
            assert!(ended.err.contains(text), "{text}: {ended:#?}");
        }
        assert!(!ended.err.contains("panicked"), "{ended:#?}");
    }
}

/// A running gateway, and who talks to it.
struct Running {
    gateway: Gateway,
    http: reqwest::Client,
}

async fn run(folder: &Path) -> Running {
    Running {
        gateway: start(folder).await,
        http: http(),
    }
}

async fn post(running: &Running, number: usize, key: &str) -> (u16, Value) {
    let labels: serde_json::Map<_, _> = (0..30)
        .map(|n| (format!("label{n}"), json!("x".repeat(500))))
        .collect();
    let body = json!({"ledger": "main", "contract": "counter", "function": "Set",
        "args": [format!("c{number}"), number], "metadata": labels});
    let url = format!("{}/v1/transactions", running.gateway.address);
    let request = running
        .http
        .post(url)
        .header("Idempotency-Key", format!("{key}{number}"));
    let answer = request.json(&body).send().await.expect("answers");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn get(running: &Running, path: &str) -> (u16, Value) {
    let url = format!("{}/v1/transactions/{path}", running.gateway.address);
    let answer = running
        .http
        .get(url)
        .timeout(crate::support::DEADLINE)
        .send()
        .await
        .expect("answers");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn stop(running: Running) {
    let mut gateway = running.gateway;
    let id = gateway.process.id().expect("runs").to_string();
    let told = tokio::process::Command::new("kill").args(["-TERM", &id]).status();
    assert!(told.await.expect("runs").success());
    assert!(gateway.process.wait().await.expect("ends").success());
}

#[tokio::test]
async fn what_an_operator_meets_on_redb() {
    what_an_operator_meets(EngineKind::Redb).await;
}

#[tokio::test]
async fn what_an_operator_meets_on_sled() {
    what_an_operator_meets(EngineKind::Sled).await;
}

async fn what_an_operator_meets(engine: EngineKind) {
    let whole = Stopped::with(engine, 12).await;
    let mut random = StdRng::seed_from_u64(31);
    let remedies = [
        "copy the data folder",
        "`sluicegate store check`",
        "`sluicegate store repair`",
    ];

    for damage in [Damage::FlippedBit, Damage::ZeroedBlock, Damage::CutTail] {
        let case = whole.copy();
        while !damage.strike(&case.file(), &mut random) {}
        case.refuses(&["the store is damaged: it has changed since it was closed"])
            .await;
        case.refuses(&remedies).await;
    }
    let case = whole.copy();
    fs::write(case.file(), "").expect("empties");
    case.refuses(&["has gone, or was emptied; restore it from a backup"])
        .await;
    let case = whole.copy();
    fs::rename(case.store(), case.folder.path().join("elsewhere")).expect("moves");
    case.refuses(&["has gone, or was emptied; restore it from a backup"])
        .await;
    let ended = case.run(&["store", "repair"]).await.expect(1);
    assert!(ended.err.contains("there is no store at"), "{ended:#?}");
    let case = whole.copy();
    fs::write(case.seal(), "nonsense").expect("writes");
    case.refuses(&["its seal ", " cannot be read"]).await;
    case.refuses(&remedies).await;

    // As after a crash: nothing was sealed, and the engine is asked.
    let case = whole.copy();
    fs::write(case.seal(), "open   \n").expect("writes");
    while !Damage::Garbage.strike(&case.file(), &mut random) {}
    case.refuses(&["the store is damaged"]).await;
    let ended = case.run(&["store", "repair"]).await.expect(1);
    assert!(ended.err.contains("no record can be found in"), "{ended:#?}");
    assert!(case.store().exists());

    unreadable(&whole).await;

    let case = whole.copy();
    while !Damage::FlippedBit.strike(&case.file(), &mut random) {}
    let ended = case.run(&["store", "check"]).await.expect(1);
    assert!(ended.err.contains("run `sluicegate store repair`"), "{ended:#?}");
    let ended = case.run(&["store", "repair"]).await;
    assert!(
        ended.out.contains("the damaged database is kept as"),
        "{ended:#?}"
    );
    let ended = case.run(&["store", "check"]).await.expect(0);
    assert!(ended.out.contains("all is well"), "{ended:#?}");
    let gateway = run(case.folder.path()).await;
    for (number, id) in case.ids.iter().enumerate() {
        let (status, body) = get(&gateway, id).await;
        match status {
            200 => assert!(body["status"] == "done" || body["stage"] == "parked", "{body}"),
            500 => assert_eq!(body["code"], "SG-0013", "{body}"),
            _ => panic!("{status}: {body}"),
        }
        let (_, again) = post(&gateway, number, "?").await;
        assert!(
            again["id"] == json!(id) || again["code"] == "SG-0013",
            "I5: {again}"
        );
    }
    assert_eq!(post(&gateway, 99, "new").await.0, 202);
    stop(gateway).await;
}

/// As another user, who may look into the folder and not into the files.
async fn unreadable(whole: &Stopped) {
    let case = whole.copy();
    fs::set_permissions(case.folder.path(), fs::Permissions::from_mode(0o755)).expect("sets");
    for file in files(&case.folder.path().join("data")) {
        fs::set_permissions(file, fs::Permissions::from_mode(0o000)).expect("sets");
    }
    let config = case.folder.path().join("config.toml");
    let mut command = cli::command(&["serve", "--config", config.to_str().expect("UTF-8")]);
    if rustix::process::geteuid().is_root() {
        command.uid(65_534);
    }
    let ended = tokio::time::timeout(crate::support::DEADLINE, command.output());
    let ended = ended.await.expect("ends in time").expect("starts");
    let error = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(
        error.contains("ermission denied") && error.contains("make it writable"),
        "{error}"
    );
}

/// Overwrites what the JSON of these records says about itself, wherever it stands.
fn spoil(store: &Path, ids: &[&String]) {
    const BEGINNING: &[u8] = br#"{"id":""#;
    let mut found = BTreeSet::new();
    for file in files(store) {
        let bytes = fs::read(&file).expect("reads");
        let disk = fs::File::options().write(true).open(&file).expect("opens");
        for (at, _) in bytes
            .windows(BEGINNING.len())
            .enumerate()
            .filter(|(_, window)| *window == BEGINNING)
        {
            let at = at + BEGINNING.len();
            if let Some(id) = ids.iter().find(|id| bytes[at..].starts_with(id.as_bytes())) {
                disk.write_all_at(b"#", at as u64 + 10).expect("writes");
                found.insert(*id);
            }
        }
    }
    assert_eq!(found.len(), ids.len(), "some are not in the files");
}

#[tokio::test]
async fn i9_damage_under_a_running_gateway_spoils_what_it_hits_on_redb() {
    damage_while_it_runs(EngineKind::Redb).await;
}

#[tokio::test]
async fn i9_damage_under_a_running_gateway_spoils_what_it_hits_on_sled() {
    damage_while_it_runs(EngineKind::Sled).await;
}

async fn damage_while_it_runs(engine: EngineKind) {
    let case = Stopped::with(engine, 100).await;
    let gateway = run(case.folder.path()).await;
    let mut before = Vec::new();
    for id in &case.ids {
        before.push(get(&gateway, id).await);
    }
    stop(gateway).await;
    let gateway = run(case.folder.path()).await;
    // Not the newest: what is accepted from now on is written elsewhere.
    let spoilt: Vec<&String> = case.ids.iter().skip(5).take(80).step_by(5).collect();
    spoil(&case.store(), &spoilt);
    let (mut right, mut damaged) = (0, 0);
    for (id, before) in case.ids.iter().zip(before) {
        let (status, body) = get(&gateway, id).await;
        if status == 200 {
            assert_eq!((status, body), before, "{engine}: another than it was");
            right += 1;
        } else {
            assert_eq!(
                (status, &body["code"]),
                (500, &json!("SG-0013")),
                "{engine}: {body}"
            );
            damaged += 1;
        }
    }
    eprintln!(
        "{engine}: {} spoilt; {damaged} refused, {right} right",
        spoilt.len()
    );
    // Some may stand in a cache and be right for a while. sled keeps many records in a page, which is whole or not.
    assert!(damaged > 0 && right > 0, "{engine}: {damaged} {right}");
    let (status, body) = post(&gateway, 1_000, "after").await;
    match engine {
        EngineKind::Redb => assert_eq!(status, 202, "others go on: {body}"),
        // It ends with the first write that meets a damaged page.
        EngineKind::Sled => assert!([202, 500, 503].contains(&status), "{status}: {body}"),
    }
    if engine == EngineKind::Redb {
        let path = format!("{}?wait=20", body["id"].as_str().expect("an id"));
        assert_eq!(get(&gateway, &path).await.1["status"], "done", "{engine}");
    }
    stop(gateway).await;
    let ended = case.run(&["store", "check"]).await.expect(1);
    let told = format!("{}{}", ended.out, ended.err);
    assert!(told.contains("run `sluicegate store repair`"), "{told}");
}
