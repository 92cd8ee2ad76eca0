//! The real binary, told to read its configuration again (SIGHUP) and to go (SIGTERM) while it is at work.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

use crate::support::{Answer, DEADLINE, add, cli, eventually, spawn};

/// A `sluicegate serve` with a configuration file of its own.
struct Served {
    folder: TempDir,
    process: Child,
    url: String,
    client: reqwest::Client,
    log: Arc<Mutex<Vec<String>>>,
}

impl Served {
    async fn start(settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().expect("folder"), settings).await
    }

    async fn start_in(folder: TempDir, settings: &str) -> Self {
        configure(&folder, settings);
        let path = file(&folder).display().to_string();
        let words = ["serve", "--config", &path, "--listen", "127.0.0.1:0"];
        let mut process = cli::command(&words).spawn().expect("starts");
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (told, heard) = (process.stderr.take().expect("its log"), log.clone());
        spawn(async move {
            let mut lines = BufReader::new(told).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                heard.lock().expect("locks").push(line);
            }
        });
        let mut out = BufReader::new(process.stdout.take().expect("its output"));
        let mut greeting = String::new();
        tokio::time::timeout(DEADLINE, out.read_line(&mut greeting))
            .await
            .expect("greets")
            .expect("reads");
        Self {
            folder,
            url: greeting.trim().rsplit(' ').next().expect("an address").to_owned(),
            process,
            client: reqwest::Client::builder().no_proxy().build().expect("client"),
            log,
        }
    }

    /// Writes the configuration anew.
    fn configure(&self, settings: &str) {
        configure(&self.folder, settings);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.id().expect("runs")).expect("an id");
        kill_process(Pid::from_raw(id).expect("an id"), signal).expect("is told");
    }

    /// Waits for a line of the log that has all these words.
    async fn says(&self, words: &[&str]) {
        eventually(&format!("the log says {words:?}"), async || {
            let log = self.log.lock().expect("locks");
            log.iter()
                .any(|line| words.iter().all(|word| line.contains(word)))
                .then_some(())
        })
        .await;
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let method = method.parse().expect("a method");
        let request = self.client.request(method, format!("{}{path}", self.url));
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        Answer::read(request.send().await.expect("an answer")).await
    }

    async fn lane(&self) -> Value {
        self.send("GET", "/v1/ledgers/main", None)
            .await
            .expect(200)
            .json()
    }

    /// How it ends.
    async fn ended(mut self) -> (ExitStatus, TempDir) {
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        (ended.expect("ends in time").expect("ends"), self.folder)
    }

    async fn stop(self) -> TempDir {
        self.signal(Signal::TERM);
        let (status, folder) = self.ended().await;
        assert!(status.success(), "{status}");
        folder
    }
}

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("config.toml")
}

fn configure(folder: &TempDir, settings: &str) {
    let data = folder.path().join("data");
    let text = format!("[store]\npath = {data:?}\n{settings}");
    std::fs::write(file(folder), text).expect("writes");
}

/// A lane that sends one in a quarter of an hour, and a log that says little.
const SLOW: &str = "[log]\nlevel = \"warn\"\n[ledgers.main]\nkind = \"simulator\"\nbatch_timeout_ms = 20\n[ledgers.main.worker]\nrate_per_second = 0.001\n";

#[tokio::test]
async fn what_can_change_while_it_runs_does_and_no_request_is_dropped() {
    let served = Served::start(SLOW).await;
    let (client, url) = (served.client.clone(), served.url.clone());
    let under_way = spawn(async move {
        let request = client
            .post(format!("{url}/v1/transactions"))
            .json(&add("hits", 1));
        Answer::read(
            request
                .header("prefer", "wait=30")
                .send()
                .await
                .expect("an answer"),
        )
        .await
    });
    eventually("it is accepted", async || {
        (served.lane().await["backlog"] == 1).then_some(())
    })
    .await;
    served.configure(
        "[http]\nmax_body_bytes = 2048\n[backpressure]\nmode = \"drop\"\nmax_pending = 1\n[log]\nlevel = \"info\"\n\
         [tenants.acme]\nrate_per_second = 1\n\
         [ledgers.main]\nkind = \"simulator\"\nbatch_timeout_ms = 20\n[ledgers.other]\nkind = \"simulator\"\n\
         [ledgers.main.worker]\nrate_per_second = 1000\nmax_in_flight = 7\nlease_seconds = 20\n[ledgers.main.retry]\nmax_ms = 700\n",
    );
    served.signal(Signal::HUP);
    // It waited for its turn at the old rate; now it has it.
    let settled = under_way.await.expect("ends").expect(200).json();
    assert_eq!(settled["status"], "done");
    let lane = served.lane().await;
    assert_eq!(
        (
            &lane["rate_per_second"],
            &lane["max_in_flight"],
            &lane["retry"]["max_ms"]
        ),
        (&json!(1000.0), &json!(7), &json!(700))
    );
    let rate = &lane["settings"]["rate_per_second"];
    assert_eq!(
        (&rate["configured"], &rate["source"]),
        (&json!(1000.0), &json!("configuration"))
    );
    // At the level `warn` nobody would have heard of these.
    served
        .says(&[
            "INFO",
            "the configuration changed",
            "ledgers.main.worker.rate_per_second",
            "0.001",
            "1000",
        ])
        .await;
    served.says(&["INFO", "log.level", "warn", "info"]).await;
    served.says(&["INFO", "tenants.acme.rate_per_second"]).await;
    for key in [
        "http.max_body_bytes",
        "ledgers.main.worker.lease_seconds",
        "ledgers.other",
    ] {
        served.says(&["WARN", "takes a restart", key]).await;
    }
    served
        .send("PATCH", "/v1/ledgers/main", Some(&json!({"paused": true})))
        .await
        .expect(200);
    let post = async || {
        served
            .send("POST", "/v1/transactions", Some(&add("hits", 1)))
            .await
    };
    post().await.expect(202);
    post().await.problem(503, "SG-0011");
    let audit = eventually("it is in the audit log", async || {
        let page = served.send("GET", "/v1/audit", None).await.expect(200).json();
        let entries = page["items"].as_array().expect("entries").clone();
        entries.into_iter().find(|entry| entry["who"] == "SIGHUP")
    })
    .await;
    let keys = |list: &Value| -> Vec<Value> {
        let list = list.as_array().expect("a list").iter();
        list.map(|change| change["key"].clone()).collect()
    };
    assert!(
        keys(&audit["detail"]["changed"]).contains(&json!("backpressure.mode")),
        "{audit:#}"
    );
    assert!(
        keys(&audit["detail"]["takes_a_restart"]).contains(&json!("http.max_body_bytes")),
        "{audit:#}"
    );
    served.stop().await;
}

#[tokio::test]
async fn a_configuration_with_mistakes_changes_nothing() {
    let served = Served::start(SLOW).await;
    served.configure("[log]\nlevel = \"ifno\"\n[ledgers.main.worker]\nrate_per_second = 500\nburst = 0\n");
    served.signal(Signal::HUP);
    served
        .says(&["ERROR", "2", "mistakes", "nothing was taken over"])
        .await;
    served
        .says(&["ERROR", "config.toml:4: log.level has \"ifno\""])
        .await;
    served
        .says(&["ERROR", "config.toml:7: ledgers.main.worker.burst is 0"])
        .await;
    assert_eq!(served.lane().await["rate_per_second"], 0.001);
    served.configure("[log]\nlevel = \"info\"\n[ledgers.main.worker]\nrate_per_second = 500\n");
    served.signal(Signal::HUP);
    eventually("what is right is taken over", async || {
        (served.lane().await["rate_per_second"] == 500.0).then_some(())
    })
    .await;
    served.stop().await;
}

#[tokio::test]
async fn what_was_set_through_the_api_lies_over_what_is_read_again() {
    let served = Served::start(SLOW).await;
    let patch = async |body| served.send("PATCH", "/v1/ledgers/main", Some(&body)).await;
    patch(json!({"rate_per_second": 20_000, "burst": 50}))
        .await
        .expect(200);
    let with = |rate: u32, burst: u32| {
        format!("[log]\nlevel = \"info\"\n[ledgers.main.worker]\nrate_per_second = {rate}\nburst = {burst}\n")
    };
    served.configure(&with(300, 30));
    served.signal(Signal::HUP);
    served
        .says(&[
            "WARN",
            "set through the API",
            "ledgers.main.worker.rate_per_second",
        ])
        .await;
    let lane = served.lane().await;
    assert_eq!(
        (&lane["rate_per_second"], &lane["burst"]),
        (&json!(20_000.0), &json!(50))
    );
    assert_eq!(lane["settings"]["burst"]["configured"], 30);

    // 20000 a second cannot be reached with a burst of 10, which would be what is left.
    patch(json!({"burst": null})).await.problem(422, "SG-0002");
    patch(json!({"rate_per_second": 15_000, "burst": null}))
        .await
        .expect(200);
    served.configure(&with(400, 10));
    served.signal(Signal::HUP);
    served.says(&["ERROR", "does not fit the configuration"]).await;
    served.says(&["ERROR", "/burst"]).await;
    let lane = served.lane().await;
    assert_eq!((&lane["burst"], &lane["state"]), (&json!(30), &json!("running")));

    let cleared = served.send("DELETE", "/v1/ledgers/main/overrides", None).await;
    assert_eq!(cleared.expect(200).json()["rate_per_second"], 300.0);
    served.signal(Signal::HUP);
    eventually("what is configured holds", async || {
        let lane = served.lane().await;
        (lane["rate_per_second"] == 400.0 && lane["burst"] == 10).then_some(())
    })
    .await;
    served.stop().await;
}

#[tokio::test]
async fn the_log_level_is_set_while_it_runs_and_for_the_next_start() {
    let served = Served::start(SLOW).await;
    let set = async |served: &Served, level: Value| {
        let body = json!({"log": {"level": level}});
        served
            .send("PATCH", "/v1/settings", Some(&body))
            .await
            .expect(200)
    };
    let pause = async |served: &Served, paused: bool| {
        let body = json!({"paused": paused});
        served
            .send("PATCH", "/v1/ledgers/main", Some(&body))
            .await
            .expect(200)
    };
    let told = |served: &Served| {
        let log = served.log.lock().expect("locks");
        log.iter()
            .filter(|line| line.contains("the lane was steered"))
            .count()
    };
    pause(&served, true).await;
    set(&served, json!("warn,sluicegate::gateway=info")).await;
    pause(&served, false).await;
    served.says(&["INFO", "the lane was steered"]).await;
    assert_eq!(told(&served), 1, "only what was done at the level of info");
    served.signal(Signal::TERM);
    let (_, folder) = served.ended().await;

    let served = Served::start_in(folder, SLOW).await;
    pause(&served, true).await;
    served.says(&["INFO", "the lane was steered"]).await;
    set(&served, Value::Null).await;
    let settings = served.send("GET", "/v1/settings", None).await.expect(200).json();
    assert_eq!(settings["settings"]["log.level"]["value"], "warn");
    served.stop().await;
}

#[tokio::test]
async fn a_lame_duck_says_so_serves_on_and_hands_over() {
    const SETTINGS: &str =
        "[shutdown]\nlame_duck_seconds = 4\n[ledgers.main]\nkind = \"simulator\"\nbatch_timeout_ms = 20\n";
    let served = Served::start(SETTINGS).await;
    served.send("GET", "/readyz", None).await.expect(200);
    served.signal(Signal::TERM);
    eventually("it says that it goes", async || {
        let answer = served.send("GET", "/readyz", None).await;
        (answer.status == 503).then(|| answer.problem(503, "SG-0030"))
    })
    .await;
    let accepted = served
        .send("POST", "/v1/transactions", Some(&add("hits", 1)))
        .await
        .expect(202);
    assert_eq!(accepted.header("connection"), Some("close"));
    // Its own lane has stopped: that is for another worker, or for the next start.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let id = accepted.id();
    let record = served
        .send("GET", &format!("/v1/transactions/{id}"), None)
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&record["status"], &record["attempts"]),
        (&json!("pending"), &json!(0))
    );
    let (status, folder) = served.ended().await;
    assert!(status.success(), "{status}");

    let served = Served::start_in(
        folder,
        SETTINGS.trim_start_matches("[shutdown]\nlame_duck_seconds = 4\n"),
    )
    .await;
    let record = served
        .send("GET", &format!("/v1/transactions/{id}?wait=30"), None)
        .await
        .expect(200)
        .json();
    assert_eq!(record["status"], "done");
    served.stop().await;
}
