//! A disk that is full: requests are refused with their code, nothing acknowledged is lost, and when space
//! returns the gateway goes on by itself.
//!
//! The disk is a small tmpfs, which takes root to mount; without root this test is skipped, loudly.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::basics::skipped;
use crate::crash::{Gateway, http, start};
use crate::small_disk::SmallDisk;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers_on_redb() {
    fill_and_free("redb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_recovers_on_sled() {
    fill_and_free("sled").await;
}

struct Client {
    http: reqwest::Client,
    address: String,
}

impl Client {
    /// Posts a transaction of some 16 KiB; answers the status and the body.
    async fn post(&self, number: usize) -> (u16, Value) {
        let labels: serde_json::Map<_, _> = (0..32)
            .map(|n| (format!("label{n}"), json!("x".repeat(500))))
            .collect();
        let body = json!({"ledger": "main", "contract": "counter", "function": "Set",
            "args": [format!("c{number}"), 1], "metadata": labels});
        let url = format!("{}/v1/transactions", self.address);
        let answer = self.http.post(url).json(&body).send().await.expect("answers");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn status(&self, path: &str) -> u16 {
        self.http
            .get(format!("{}{path}", self.address))
            .send()
            .await
            .expect("answers")
            .status()
            .as_u16()
    }
}

async fn fill_and_free(engine: &str) {
    let Some(disk) = SmallDisk::mount(24 << 20) else {
        skipped(&format!("a full disk on {engine}: mounting a tmpfs takes root"));
        return;
    };
    let folder = tempfile::tempdir().expect("folder");
    let config = format!(
        "[http]\nlisten = '127.0.0.1:0'\n[store]\npath = '{}'\nengine = '{engine}'\n[log]\nlevel = 'error'\n\
         [ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 20\n\
         [ledgers.main.worker]\nrate_per_second = 1000\nburst = 20\ncheck_after_ms = 500\nlease_seconds = 1\n",
        disk.path().join("data").display()
    );
    std::fs::write(folder.path().join("config.toml"), config).expect("writes");
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 10 << 20]).expect("writes");

    let gateway = start(folder.path()).await;
    let client = Client {
        http: http(),
        address: gateway.address.clone(),
    };
    let mut accepted = Vec::new();
    let refusal = loop {
        let (status, body) = client.post(accepted.len()).await;
        match status {
            202 => accepted.push(body["id"].as_str().expect("an id").to_owned()),
            _ => break (status, body),
        }
        assert!(accepted.len() < 5_000, "the disk never filled up");
    };
    assert_eq!(
        (refusal.0, &refusal.1["code"]),
        (503, &json!("SG-0012")),
        "{engine}: {}",
        refusal.1
    );
    assert!(accepted.len() > 50, "{engine}: only {} fitted", accepted.len());
    assert_eq!(
        client.status("/livez").await,
        200,
        "{engine}: the process stays up"
    );

    std::fs::remove_file(&ballast).expect("frees space");
    let patience = Instant::now() + PATIENCE;
    loop {
        let (status, body) = client.post(accepted.len()).await;
        if status == 202 {
            accepted.push(body["id"].as_str().expect("an id").to_owned());
            break;
        }
        assert!(Instant::now() < patience, "{engine}: never recovered: {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.status("/readyz").await, 200, "{engine}");
    for id in &accepted {
        settled(&client, id, patience).await;
    }
    end(gateway, folder.path(), engine).await;
}

async fn settled(client: &Client, id: &str, patience: Instant) {
    loop {
        let url = format!("{}/v1/transactions/{id}?wait=2", client.address);
        let answer = client.http.get(url).send().await.expect("answers");
        let status = answer.status().as_u16();
        let record: Value = answer.json().await.expect("JSON");
        assert_ne!(status, 404, "I1: {id} is lost");
        if status == 200 && record["status"] == "done" {
            return;
        }
        assert!(Instant::now() < patience, "I3: {record}");
    }
}

async fn end(mut gateway: Gateway, folder: &Path, engine: &str) {
    gateway.process.kill().await.expect("kills");
    let check = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["store", "check"])
        .current_dir(folder)
        .output()
        .expect("runs");
    assert!(
        check.status.success(),
        "{engine}: {}",
        String::from_utf8_lossy(&check.stdout)
    );
}
