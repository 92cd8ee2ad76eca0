//! Durable accepts per second against a no-op axum route, on the same machine in the same run.
//!
//! `cargo bench --bench accept` (about two minutes). Each round runs the no-op route and the gateway with
//! each engine in turn, so that a machine that drifts drifts for all; the ratio is taken per round and the
//! median printed. `cargo bench --bench accept -- --against PATH` runs another build of the gateway in the same rounds, to see
//! what a change does.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark may panic")]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::{Load, Server, Until, load, median, post_600, post_600_with_key};

const ROUNDS: usize = 5;
const RUN: Duration = Duration::from_secs(3);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    if std::env::args().any(|argument| argument == "--noop-server") {
        runtime.block_on(noop());
        return;
    }
    let other = std::env::args()
        .skip_while(|argument| argument != "--against")
        .nth(1);
    println!("| connections | | per second | ratio to no-op | p50 ms | p99 ms | p99 ratio |");
    println!("|---|---|---|---|---|---|---|");
    for connections in [64, 256] {
        runtime.block_on(compare(connections, cases(other.as_deref())));
    }
}

/// What is measured in each round.
struct Case {
    name: &'static str,
    /// The gateway and its engine; `None` is the no-op route.
    gateway: Option<(String, &'static str)>,
    with_key: bool,
    with_log: bool,
}

fn cases(other: Option<&str>) -> Vec<Case> {
    let own = env!("CARGO_BIN_EXE_sluicegate");
    let case = |name: &'static str, binary: &str, engine: &'static str| Case {
        name,
        gateway: Some((binary.to_owned(), engine)),
        with_key: name.ends_with("with key"),
        with_log: name.ends_with("with log"),
    };
    let mut cases = vec![Case {
        gateway: None,
        ..case("no-op axum", own, "")
    }];
    match other {
        Some(other) => cases.extend([
            case("redb", own, "redb"),
            case("the other, redb", other, "redb"),
            case("redb, with key", own, "redb"),
            case("the other, redb, with key", other, "redb"),
        ]),
        None => cases.extend([
            case("redb", own, "redb"),
            case("redb, with key", own, "redb"),
            case("redb, with log", own, "redb"),
            case("sled", own, "sled"),
            case("sled, with key", own, "sled"),
        ]),
    }
    cases
}

/// Reads the body and answers 202 with nothing.
async fn noop() {
    use axum::{Router, body::Bytes, http::StatusCode, routing::post};
    let route = post(|body: Bytes| async move {
        std::hint::black_box(body);
        StatusCode::ACCEPTED
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    println!("listens on {}", listener.local_addr().expect("address"));
    axum::serve(listener, Router::new().route("/v1/transactions", route))
        .await
        .expect("serves");
}

/// A gateway that logs what goes wrong, or, into a file, who brings what.
fn gateway(binary: &str, folder: &Path, engine: &str, logs: bool) -> Server {
    let level = if logs { "info" } else { "warn" };
    let config =
        format!("[http]\nlisten = '127.0.0.1:0'\n[store]\nengine = '{engine}'\n[log]\nlevel = '{level}'\n");
    std::fs::write(folder.join("config.toml"), config).expect("writes the configuration");
    let mut command = Command::new(binary);
    command.arg("serve").current_dir(folder);
    if logs {
        command.stderr(std::fs::File::create(folder.join("log")).expect("creates"));
    }
    Server::start(command)
}

async fn compare(connections: u64, cases: Vec<Case>) {
    let mut results: Vec<(Case, Vec<Load>)> = cases.into_iter().map(|case| (case, Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (case, loads) in &mut results {
            let folder = tempfile::tempdir().expect("folder");
            let server = match &case.gateway {
                None => {
                    let mut command = Command::new(std::env::current_exe().expect("own path"));
                    command.arg("--noop-server");
                    Server::start(command)
                }
                Some((binary, engine)) => gateway(binary, folder.path(), engine, case.with_log),
            };
            let request = match case.with_key {
                true => post_600_with_key,
                false => post_600,
            };
            load(
                &server.address,
                connections,
                Until::Answers(connections * 20),
                post_600,
            )
            .await;
            loads.push(load(&server.address, connections, Until::Elapsed(RUN), request).await);
        }
    }
    let noop: Vec<(f64, f64)> = results[0]
        .1
        .iter()
        .map(|l| (l.per_second, l.p99.as_secs_f64()))
        .collect();
    for (case, loads) in &results {
        let name = case.name;
        let of = |what: fn(&Load) -> f64| median(loads.iter().map(what).collect());
        let against = |what: fn(&Load, &(f64, f64)) -> f64| {
            median(
                loads
                    .iter()
                    .zip(&noop)
                    .map(|(load, noop)| what(load, noop))
                    .collect(),
            )
        };
        println!(
            "| {connections} | {name} | {:.0} | {:.2} | {:.2} | {:.2} | {:.1} |",
            of(|l| l.per_second),
            against(|l, noop| l.per_second / noop.0),
            of(|l| l.p50.as_secs_f64() * 1e3),
            of(|l| l.p99.as_secs_f64() * 1e3),
            against(|l, noop| l.p99.as_secs_f64() / noop.1),
        );
    }
}
