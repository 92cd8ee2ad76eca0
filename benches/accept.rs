//! Durable accepts per second against a no-op axum route, on the same machine in the same run.
//!
//! `cargo bench --bench accept` (about two minutes). Each round runs the no-op route and the gateway with
//! each engine in turn, so that a machine that drifts drifts for all; the ratio is taken per round and the
//! median printed.
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
    println!("| connections | | per second | ratio to no-op | p50 ms | p99 ms | p99 ratio |");
    println!("|---|---|---|---|---|---|---|");
    for connections in [64, 256] {
        runtime.block_on(compare(connections));
    }
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
fn gateway(folder: &Path, engine: &str, logs: bool) -> Server {
    let level = if logs { "info" } else { "warn" };
    let config =
        format!("[http]\nlisten = '127.0.0.1:0'\n[store]\nengine = '{engine}'\n[log]\nlevel = '{level}'\n");
    std::fs::write(folder.join("config.toml"), config).expect("writes the configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command.arg("serve").current_dir(folder);
    if logs {
        command.stderr(std::fs::File::create(folder.join("log")).expect("creates"));
    }
    Server::start(command)
}

async fn compare(connections: u64) {
    let mut results: Vec<(&str, Vec<Load>)> = [
        "no-op axum",
        "redb",
        "redb, with key",
        "redb, with log",
        "sled",
        "sled, with key",
    ]
    .map(|name| (name, Vec::new()))
    .into();
    for _ in 0..ROUNDS {
        for (name, loads) in &mut results {
            let folder = tempfile::tempdir().expect("folder");
            let server = match name.split(',').next().expect("a name") {
                "no-op axum" => {
                    let mut command = Command::new(std::env::current_exe().expect("own path"));
                    command.arg("--noop-server");
                    Server::start(command)
                }
                engine => gateway(folder.path(), engine, name.ends_with("log")),
            };
            let request = if name.ends_with("key") {
                post_600_with_key
            } else {
                post_600
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
    for (name, loads) in &results {
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
