//! `sluicegate devnet`: a ledger that gateways share, and that may be killed under them.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sluicegate::config::{self, Settings};

use crate::support::fabric::FabricDevnet;
use crate::support::{DEADLINE, TestApp, add, cli, eventually, ledger};

/// The ledger is the one that the file in a devnet's folder names, asked soon and tried again soon.
fn of(folder: &Path) -> impl FnOnce(&mut Settings) {
    let file = folder.join("gateway.toml");
    let written = config::load(Some(&file))
        .expect("a configuration as it is")
        .settings;
    move |settings| {
        let main = ledger(settings);
        main.backend = written.ledgers["main"].backend.clone();
        main.worker.check_after = Duration::from_secs(1);
        main.retry.outage.max = Duration::from_millis(500);
    }
}

/// I2 and I3 over a socket: two gateways add to the same counters while their ledger is killed under them.
#[tokio::test(flavor = "multi_thread")]
async fn gateways_share_a_ledger_that_is_killed_under_them() {
    const COUNTERS: usize = 20;
    const EACH: usize = 8;
    let folder = tempfile::tempdir().expect("folder");
    let mut devnet = FabricDevnet::start(folder.path(), &[]).await;
    let gateways = [
        TestApp::with(of(folder.path())).await,
        TestApp::with(of(folder.path())).await,
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
            let address = devnet.address;
            devnet.kill().await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            devnet = FabricDevnet::start_again(folder.path(), address).await;
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
    let devnet = FabricDevnet::start(folder.path(), &[]).await;
    let address = devnet.address;
    devnet.kill().await;
    let gateway = TestApp::with(of(folder.path())).await;
    gateway.post(&add("hits", 1)).await.expect(202);
    let outage = eventually("the outage is shown", async || {
        let lane = gateway.get("/v1/ledgers/main").await.expect(200).json();
        (lane["state"] == "unavailable").then(|| lane["outage"].to_string())
    })
    .await;
    for words in [&address.to_string(), "cannot be reached", "Connection refused"] {
        assert!(outage.contains(words), "{outage}");
    }
    let query = json!({"ledger": "main", "contract": "counter", "function": "Get", "args": ["hits"]});
    let answer = gateway
        .send(gateway.request("POST", "/v1/query").json(&query))
        .await;
    answer.expect(503);

    let devnet = FabricDevnet::start_again(folder.path(), address).await;
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
    let devnet = FabricDevnet::start(folder.path(), &[]).await;
    let gateway = TestApp::with(|settings| {
        of(folder.path())(settings);
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
    let devnet = FabricDevnet::start(folder.path(), &[]).await;
    let (data, taken) = (folder.path().to_str().expect("UTF-8"), devnet.address.to_string());
    let start = async |listen: &str, data: &str| {
        cli::run(&["devnet", "--listen", listen, "--data", data])
            .await
            .expect(1)
            .err
    };
    let refusal = start("127.0.0.1:0", data).await;
    let holder = format!("is in use by process {}", devnet.process_id());
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
