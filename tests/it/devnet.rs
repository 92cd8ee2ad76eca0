//! `sluicegate devnet`: a ledger that gateways share, and that may be killed under them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sluicegate::config::{BackendSettings, Settings};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Child;

use crate::support::{DEADLINE, TestApp, add, cli, eventually, ledger};

/// A running devnet and where it listens.
struct Devnet {
    process: Child,
    address: SocketAddr,
}

impl Devnet {
    /// One on its folder, or nothing if it did not come up.
    async fn try_start(folder: &Path, listen: &str) -> Option<Self> {
        let folder = folder.to_str().expect("UTF-8");
        let words = [
            "devnet",
            "--listen",
            listen,
            "--data",
            folder,
            "--batch-timeout-ms",
            "20",
        ];
        let mut process = cli::command(&words).spawn().expect("starts");
        let mut out = BufReader::new(process.stdout.take().expect("its output"));
        let mut greeting = String::new();
        let read = tokio::time::timeout(DEADLINE, out.read_line(&mut greeting)).await;
        read.expect("greets in time").expect("reads");
        let address = greeting.trim().strip_prefix(concat!(
            "Sluicegate devnet ",
            env!("CARGO_PKG_VERSION"),
            " listens on http://"
        ));
        let address = address?.parse().expect("an address");
        Some(Self { process, address })
    }

    async fn start(folder: &Path) -> Self {
        Self::try_start(folder, "127.0.0.1:0").await.expect("comes up")
    }

    /// Where another one was. While that was away, a connection of some other test may have got its port.
    async fn start_again(folder: &Path, address: SocketAddr) -> Self {
        let listen = address.to_string();
        eventually("the devnet is back", async || {
            Self::try_start(folder, &listen).await
        })
        .await
    }

    /// SIGKILL.
    async fn kill(mut self) -> SocketAddr {
        self.process.kill().await.expect("kills");
        self.address
    }

    /// SIGTERM; answers its log.
    async fn stop(mut self) -> String {
        let id = self.process.id().expect("runs").to_string();
        let told = tokio::process::Command::new("kill").args(["-TERM", &id]).status();
        assert!(told.await.expect("kill").success());
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        assert_eq!(ended.expect("ends in time").expect("ends").code(), Some(0));
        let mut log = String::new();
        let mut from = self.process.stderr.take().expect("its log");
        from.read_to_string(&mut log).await.expect("reads");
        log
    }
}

/// The ledger is at `address`, asked soon and tried again soon.
fn at(address: SocketAddr) -> impl FnOnce(&mut Settings) {
    move |settings| {
        let main = ledger(settings);
        main.backend = BackendSettings::RemoteSimulator {
            url: format!("http://{address}"),
        };
        main.worker.check_after = Duration::from_millis(300);
        main.retry.outage.max = Duration::from_millis(500);
    }
}

/// I2 and I3 over a socket: two gateways add to the same counters while their ledger is killed under them.
#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_a_ledger_that_is_killed_under_them() {
    const COUNTERS: usize = 20;
    const EACH: usize = 15;
    let folder = tempfile::tempdir().expect("folder");
    let mut devnet = Devnet::start(folder.path()).await;
    let gateways = [
        TestApp::with(at(devnet.address)).await,
        TestApp::with(at(devnet.address)).await,
    ];
    let post = async |gateway: &TestApp| {
        for number in 0..COUNTERS * EACH {
            let counter = format!("c{}", number % COUNTERS);
            gateway.post(&add(&counter, 1)).await.expect(202);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let kill = async {
        for pause in [0, 100, 300] {
            tokio::time::sleep(Duration::from_millis(400)).await;
            let address = devnet.kill().await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            devnet = Devnet::start_again(folder.path(), address).await;
        }
        devnet
    };
    let ((), (), devnet) = tokio::join!(post(&gateways[0]), post(&gateways[1]), kill);
    for gateway in &gateways {
        gateway.drain().await;
    }
    for counter in 0..COUNTERS {
        for gateway in &gateways {
            assert_eq!(gateway.counter(&format!("c{counter}")).await, json!(2 * EACH));
        }
    }
    for gateway in gateways {
        let failed = gateway.list("status=failed").await;
        assert!(failed.is_empty(), "{failed:#?}");
        gateway.leave().await;
    }
    devnet.stop().await;
}

#[tokio::test]
async fn a_gateway_waits_for_its_ledger_and_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let gateway = TestApp::with(at(address)).await;
    gateway.post(&add("hits", 1)).await.expect(202);
    let outage = eventually("the outage is shown", async || {
        let lane = gateway.get("/v1/ledgers/main").await.expect(200).json();
        (lane["state"] == "unavailable").then(|| lane["outage"].to_string())
    })
    .await;
    for words in [
        &address.to_string(),
        "Connection refused",
        "is `sluicegate devnet` running there?",
    ] {
        assert!(outage.contains(words), "{outage}");
    }
    let query = json!({"ledger": "main", "contract": "counter", "function": "Get", "args": ["hits"]});
    let answer = gateway
        .send(gateway.request("POST", "/v1/query").json(&query))
        .await;
    answer.expect(503);

    let devnet = Devnet::start_again(folder.path(), address).await;
    gateway.drain().await;
    assert_eq!(gateway.counter("hits").await, json!(1));
    gateway.finish().await;
    let log = devnet.stop().await;
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

/// Told, not looked up: the connection is up before the first submission.
#[tokio::test]
async fn outcomes_are_told_from_the_first_one_on() {
    let folder = tempfile::tempdir().expect("folder");
    let devnet = Devnet::start(folder.path()).await;
    let gateway = TestApp::with(|settings| {
        at(devnet.address)(settings);
        ledger(settings).worker.check_after = DEADLINE * 10;
    })
    .await;
    let start = Instant::now();
    let done = gateway.settle(&add("hits", 1)).await.json();
    assert_eq!((&done["status"], &done["result"]), (&json!("done"), &json!(1)));
    assert!(start.elapsed() < DEADLINE / 3, "{:?}", start.elapsed());
    gateway.finish().await;
    devnet.stop().await;
}

#[tokio::test]
async fn devnet_says_what_keeps_it_from_starting() {
    let folder = tempfile::tempdir().expect("folder");
    let devnet = Devnet::start(folder.path()).await;
    let (data, taken) = (folder.path().to_str().expect("UTF-8"), devnet.address.to_string());
    let start = async |listen: &str, data: &str| {
        cli::run(&["devnet", "--listen", listen, "--data", data])
            .await
            .expect(1)
            .err
    };
    let refusal = start("127.0.0.1:0", data).await;
    let holder = format!("is in use by process {}", devnet.process.id().expect("runs"));
    assert!(
        refusal.contains(&holder) && refusal.contains("--data"),
        "{refusal}"
    );
    let refusal = start(&taken, data).await;
    assert!(
        refusal.contains(&format!("cannot listen on {taken}")),
        "{refusal}"
    );
    let refusal = start("127.0.0.1:0", "/proc/devnet").await;
    assert!(
        refusal.contains("cannot use /proc/devnet as the devnet folder"),
        "{refusal}"
    );
    cli::run(&["devnet", "--max-message-count", "0"]).await.expect(2);
    devnet.stop().await;
}
