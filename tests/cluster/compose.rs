//! The values in `docker-compose.yml` are used as they stand, save for where the servers are.

use std::collections::BTreeMap;

use serde_json::json;

use crate::ledger::Ledger;
use crate::node::{BINARY, Launch, Node};
use crate::postgres::Server;
use crate::rabbitmq::Broker;
use crate::support::http;

const FILE: &str = include_str!("../../docker-compose.yml");

/// The gateway's variables in the first block of `environment` after `section`.
fn variables(section: &str) -> BTreeMap<String, String> {
    let (_, rest) = FILE.split_once(section).expect("the section is there");
    let (_, rest) = rest.split_once("environment:\n").expect("it has variables");
    let pair = |line: &str| {
        let (key, value) = line.trim().split_once(": ")?;
        key.starts_with("SLUICEGATE__")
            .then(|| (key.to_owned(), value.to_owned()))
    };
    rest.lines().map_while(pair).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::await_holding_lock, reason = "the broker is for one test at a time")]
async fn the_gateways_of_the_compose_file_work() {
    let (broker, server) = tokio::task::block_in_place(|| (Broker::to_break(), Server::start(&[])));
    let ledger = Ledger::start(true).await;
    server.sql("postgres", "CREATE ROLE gate LOGIN PASSWORD 'sluice'");
    server.sql("postgres", "CREATE DATABASE gate OWNER gate");
    broker.ctl(&["add_user", "gate", "sluice"]);
    broker.ctl(&["set_permissions", "gate", ".*", ".*", ".*"]);
    let place = |url: &str| {
        url.rsplit_once('@')
            .expect("a user")
            .1
            .split('/')
            .next()
            .expect("a place")
            .to_owned()
    };
    let here = |variables: BTreeMap<String, String>| -> Vec<(String, String)> {
        let moved = |(key, value): (String, String)| {
            let value = value
                .replace("rabbitmq:5672", &place(broker.url()))
                .replace("postgres:5432", &place(&server.url("gate")))
                .replace("devnet:7051", &ledger.address().to_string())
                .replace("/devnet", ledger.folder().to_str().expect("UTF-8"));
            (key, value)
        };
        variables.into_iter().map(moved).collect()
    };
    let cluster = here(variables("x-cluster-gateway:"));
    assert!(cluster.len() > 6, "{cluster:?}");
    let alone = here(variables("\n  gateway:\n"));
    assert!(alone.len() > 2, "{alone:?}");

    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("folder")).collect();
    let starts = [&cluster, &cluster, &alone];
    let mut nodes = Vec::new();
    for (folder, variables) in folders.iter().zip(starts) {
        let launch = Launch {
            binary: BINARY.into(),
            folder: folder.path().to_owned(),
            role: "all",
            variables: variables.clone(),
        };
        nodes.push(Node::start(launch).await);
    }
    for node in &nodes {
        let body = json!({"ledger": "main", "contract": "counter", "function": "Add", "args": ["visits", 1]});
        let request = http().post(format!("{}/v1/transactions", node.address));
        let answer = request
            .header("Prefer", "wait=30")
            .json(&body)
            .send()
            .await
            .expect("answers");
        assert_eq!(answer.status(), 200, "{}", answer.text().await.expect("text"));
    }
    assert_eq!(
        nodes[0].counter("visits").await,
        2,
        "the two of the cluster share a ledger"
    );
    let listed = nodes[0].get("/v1/transactions").await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2), "and a store");
    let probe = tokio::process::Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["ready", "--url", &nodes[0].address])
        .output()
        .await
        .expect("runs");
    assert!(probe.status.success(), "the image's health check: {probe:?}");
}
