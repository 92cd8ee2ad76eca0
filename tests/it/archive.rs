//! Old records go from a real gateway to a real archive, a folder or a bucket behind a socket, and are found there again.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::basics::faketime;
use crate::support::cli::{self, Ended};
use crate::support::{DEADLINE, add, eventually, python};

const CONFIG: &str = "[http]\nlisten = '127.0.0.1:0'\n[retention]\ndone_days = 1\nfailed_days = 1\n\
                      [ledgers.main]\nbatch_timeout_ms = 10\n[archive]\ngather_minutes = 0\n";

/// The S3 server.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/s3");

/// A folder with the configuration of a gateway, which keeps records for a day and archives them at once.
struct Site {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Site {
    fn new(archive: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("config.toml"), format!("{CONFIG}{archive}")).expect("writes");
        Self {
            folder,
            variables: Vec::new(),
        }
    }

    /// Starts it, so many days from now.
    async fn start(&self, days: u32) -> Gateway {
        let library = faketime().expect("the package faketime");
        let log = self.folder.path().join("log");
        let errors = std::fs::File::create(&log).expect("a log");
        let mut command = cli::command(&["serve"]);
        command
            .current_dir(self.folder.path())
            .envs(self.variables.clone())
            .env("LD_PRELOAD", library)
            .env("FAKETIME", format!("+{days}d"))
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .stderr(Stdio::from(errors));
        let (process, address) = cli::serve(&mut command).await;
        Gateway {
            process,
            address,
            log,
        }
    }

    /// `sluicegate archive`, in an environment with nothing but the secrets.
    async fn archive(&self, words: &[&str]) -> Ended {
        let mut command = cli::command(&[&["archive"], words].concat());
        let command = command
            .current_dir(self.folder.path())
            .envs(self.variables.clone());
        let output = command.output().await.expect("runs");
        Ended {
            code: output.status.code().expect("was not killed"),
            out: String::from_utf8(output.stdout).expect("UTF-8"),
            err: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// The ids of what a search finds.
    async fn found(&self, words: &[&str]) -> Vec<String> {
        let ended = self.archive(&[&["search"], words].concat()).await.expect(0);
        let record = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
        let id = |line: &str| record(line)["id"].as_str().expect("an id").to_owned();
        ended.out.lines().map(id).collect()
    }
}

struct Gateway {
    process: Child,
    address: String,
    log: PathBuf,
}

impl Gateway {
    async fn request(&self, method: &str, path: &str, key: &str, body: &Value) -> (StatusCode, String) {
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build();
        let method = method.parse().expect("a method");
        let url = format!("{}{path}", self.address);
        let mut request = http.expect("client").request(method, url);
        if !body.is_null() {
            request = request.header("idempotency-key", key).json(body);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("text"))
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.request("GET", path, "", &Value::Null).await
    }

    /// Six transactions that are settled: the last one failed.
    async fn six(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for number in 0..6 {
            let mut body = match number {
                5 => {
                    json!({"ledger": "main", "contract": "basic", "function": "ReadAsset", "args": ["none"]})
                }
                _ => add("hits", 1),
            };
            body["metadata"] = json!({"order": number.to_string()});
            let (_, text) = self
                .request("POST", "/v1/transactions", &format!("key-{number}"), &body)
                .await;
            let accepted: Value = serde_json::from_str(&text).expect("JSON");
            let path = format!(
                "/v1/transactions/{}?wait=30",
                accepted["id"].as_str().expect("an id")
            );
            let record: Value = serde_json::from_str(&self.get(&path).await.1).expect("JSON");
            assert_ne!(record["status"], "pending", "{record}");
            all.push(record);
        }
        all
    }

    async fn metric(&self, line: &str) {
        let what = format!("the metric {line}");
        eventually(&what, async || {
            let (_, metrics) = self.get("/metrics").await;
            metrics.lines().any(|found| found == line).then_some(())
        })
        .await;
    }

    async fn is_kept(&self, record: &Value) -> bool {
        let path = format!("/v1/transactions/{}", record["id"].as_str().expect("an id"));
        self.get(&path).await.0 == StatusCode::OK
    }

    async fn stop(mut self) -> String {
        let id = rustix::process::Pid::from_raw(self.process.id().expect("runs").cast_signed());
        let sent = rustix::process::kill_process(id.expect("an id"), rustix::process::Signal::TERM);
        sent.expect("signals");
        assert!(self.process.wait().await.expect("ends").success());
        std::fs::read_to_string(self.log).expect("a log")
    }
}

fn id(record: &Value) -> String {
    record["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_folder_keeps_what_retention_removes() {
    let site = Site::new("");
    let folder = site.folder.path().join("archive");
    let mut site = site;
    site.variables
        .push(("SLUICEGATE__ARCHIVE__URL", format!("file://{}", folder.display())));
    let gateway = site.start(0).await;
    let all = gateway.six().await;
    gateway.metric("sluicegate_archive_available 0").await;
    gateway.stop().await;

    // Everything is old, and the folder is not there.
    let gateway = site.start(2).await;
    gateway.metric("sluicegate_archive_available 0").await;
    for record in &all {
        assert!(gateway.is_kept(record).await, "{record}");
    }
    let (accepted, _) = gateway
        .request("POST", "/v1/transactions", "new", &add("hits", 1))
        .await;
    assert_eq!(accepted, StatusCode::ACCEPTED);
    std::fs::create_dir(&folder).expect("a folder");
    gateway.metric("sluicegate_archive_available 1").await;
    gateway.metric("sluicegate_archived_records_total 6").await;
    for record in &all {
        assert!(!gateway.is_kept(record).await, "{record}");
    }
    let log = gateway.stop().await;
    assert_eq!(log.matches("records cannot be archived").count(), 1, "{log}");
    assert!(log.contains("make it, or mount its disk"), "{log}");

    let ids: Vec<_> = all.iter().map(id).collect();
    assert_eq!(site.found(&[]).await, ids);
    let tx_id = all[3]["tx_id"].as_str().expect("an identifier");
    for words in [
        &["--id", &ids[3]][..],
        &["--tx-id", tx_id],
        &["--idempotency-key", "key-3"],
        &["--metadata", "order=3", "--ledger", "main", "--tenant", "default"],
    ] {
        assert_eq!(site.found(words).await, [ids[3].clone()], "{words:?}");
    }
    assert_eq!(site.found(&["--status", "failed"]).await, [ids[5].clone()]);
    assert_eq!(site.found(&["--limit", "2"]).await, ids[..2]);
    let created = all[2]["created_at"].as_str().expect("a moment");
    assert_eq!(site.found(&["--created-from", created]).await, ids[2..]);
    assert_eq!(site.found(&["--created-before", created]).await, ids[..2]);
    let line = site.archive(&["search", "--id", &ids[0]]).await.expect(0).out;
    let archived: Value = serde_json::from_str(&line).expect("JSON");
    for (field, value) in all[0].as_object().expect("a record") {
        assert_eq!(archived[field], *value, "{field}");
    }
    assert_eq!(archived["history"][0]["outcome"], "committed");
    a_changed_object_is_noticed(&site, &folder).await;
}

async fn a_changed_object_is_noticed(site: &Site, folder: &Path) {
    let said = site.archive(&["verify"]).await.expect(0).out;
    assert_eq!(said, "2 objects with 6 records are right, 0 objects are not\n");
    let day = {
        let mut path = folder.join("transactions");
        for _ in 0..3 {
            let mut below = std::fs::read_dir(&path).expect("a folder");
            path = below.next().expect("one").expect("an entry").path();
        }
        path
    };
    let of_failed = std::fs::read_dir(day).expect("a folder").find_map(|entry| {
        let path = entry.expect("an entry").path();
        path.to_str().expect("UTF-8").contains("_failed_").then_some(path)
    });
    let of_failed = of_failed.expect("an object");
    let mut bytes = std::fs::read(&of_failed).expect("reads");
    bytes[20] ^= 1;
    std::fs::write(&of_failed, bytes).expect("writes");
    let said = site.archive(&["verify"]).await.expect(1).out;
    assert!(
        said.contains("1 objects with 5 records are right, 1 objects are not"),
        "{said}"
    );
    let ended = site.archive(&["search"]).await.expect(1);
    assert_eq!(ended.out.lines().count(), 5, "the others are found: {ended:#?}");
    assert!(
        ended.err.contains("its SHA-256 is not the one in its name"),
        "{ended:#?}"
    );
}

#[tokio::test]
async fn a_bucket_keeps_what_retention_removes() {
    let python = python::install(Path::new(FOLDER)).await;
    let server = Path::new(FOLDER).join("server.py");
    let mut server = tokio::process::Command::new(python.join("python"))
        .arg(server)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let output = server.stdout.take().expect("piped");
    let said = BufReader::new(output).lines().next_line().await.expect("reads");
    let said: Value = serde_json::from_str(&said.expect("a line")).expect("JSON");
    let (port, key) = (&said["port"], said["id"].as_str().expect("an id"));
    let mut site = Site::new(&format!(
        "url = 's3://records/one/gateway'\nendpoint = 'http://127.0.0.1:{port}'\nallow_http = true\n\
         access_key_id = '{key}'\n"
    ));
    site.variables = vec![("SLUICEGATE__ARCHIVE__SECRET_ACCESS_KEY", "hunter2".to_owned())];
    let gateway = site.start(0).await;
    let all = gateway.six().await;
    gateway.stop().await;

    // Everything is old, and the secret is not the right one.
    let gateway = site.start(2).await;
    gateway.metric("sluicegate_archive_available 0").await;
    for record in &all {
        assert!(gateway.is_kept(record).await, "{record}");
    }
    let log = gateway.stop().await;
    assert!(
        log.contains("records cannot be archived") && log.contains("SignatureDoesNotMatch"),
        "{log}"
    );
    assert!(!log.contains("hunter2"), "{log}");

    let secret = said["secret"].as_str().expect("a secret");
    site.variables[0].1 = secret.to_owned();
    let gateway = site.start(2).await;
    gateway.metric("sluicegate_archived_records_total 6").await;
    for record in &all {
        assert!(!gateway.is_kept(record).await, "{record}");
    }
    let log = gateway.stop().await;
    assert!(!log.contains(secret), "{log}");

    let ids: Vec<_> = all.iter().map(id).collect();
    assert_eq!(site.found(&[]).await, ids);
    assert_eq!(
        site.found(&["--idempotency-key", "key-4"]).await,
        [ids[4].clone()]
    );
    let said = site.archive(&["verify"]).await.expect(0).out;
    assert_eq!(said, "2 objects with 6 records are right, 0 objects are not\n");

    drop(server.stdin.take());
    server.wait().await.expect("ends");
    let ended = site.archive(&["search"]).await.expect(1);
    assert!(ended.err.contains("read the archive"), "{ended:#?}");
}
