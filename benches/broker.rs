//! Durable accepts per second with RabbitMQ against without, on the same machine in the same run, and how fast
//! the announcements follow.
//!
//! `cargo bench --bench broker` (about two minutes). Broker, gateway and load generator share the machine. Each
//! round runs both in turn, so that a machine that drifts drifts for both; ratios are taken per round.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark may panic")]

#[path = "../tests/support/rabbitmq.rs"]
mod rabbitmq;
mod support;

use std::time::{Duration, Instant};

use rabbitmq::Broker;
use support::{Load, Server, Until, load, median, post_600};

const ROUNDS: usize = 5;
const RUN: Duration = Duration::from_secs(3);

/// What the gateway with the broker did beside accepting.
struct Relayed {
    /// Announced by the end of the run, of what was accepted.
    share: f64,
    /// Per second, from the end of the run until everything was announced.
    catching_up: f64,
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    println!(
        "| connections | queue | per second | p50 ms | p99 ms | of embedded: accepts, p99 | announced meanwhile | catching up per second |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for connections in [64, 256] {
        runtime.block_on(compare(connections));
    }
}

async fn compare(connections: u64) {
    let (mut without, mut with, mut relayed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let config = "[http]\nlisten = '127.0.0.1:0'\n[log]\nlevel = 'warn'\n";
        let (load, _) = run(connections, config, false).await;
        without.push(load);
        let url = Broker::shared().url();
        let config = format!(
            "{config}[queue]\nkind = 'rabbitmq'\nurl = '{url}'\nprefix = 'bench-{connections}-{round}'\n"
        );
        let (load, after) = run(connections, &config, true).await;
        with.push(load);
        relayed.extend(after);
    }
    let ratio = |what: fn(&Load) -> f64| {
        let pairs = with.iter().zip(&without);
        median(pairs.map(|(with, without)| what(with) / what(without)).collect())
    };
    let row = |name: &str, loads: &[Load], rest: String| {
        let of = |what: fn(&Load) -> f64| median(loads.iter().map(what).collect());
        println!(
            "| {connections} | {name} | {:.0} | {:.2} | {:.2} | {rest}",
            of(|l| l.per_second),
            of(|l| l.p50.as_secs_f64() * 1e3),
            of(|l| l.p99.as_secs_f64() * 1e3),
        );
    };
    row("embedded", &without, "– | – | – |".to_owned());
    row(
        "rabbitmq",
        &with,
        format!(
            "{:.2}, {:.2} | {:.2} | {:.0} |",
            ratio(|l| l.per_second),
            ratio(|l| l.p99.as_secs_f64()),
            median(relayed.iter().map(|r| r.share).collect()),
            median(relayed.iter().map(|r| r.catching_up).collect()),
        ),
    );
}

async fn run(connections: u64, config: &str, broker: bool) -> (Load, Option<Relayed>) {
    let folder = tempfile::tempdir().expect("folder");
    let server = Server::gateway(folder.path(), config);
    let warm_up = Until::Answers(connections * 20);
    load(&server.address, connections, warm_up, post_600).await;
    let load = load(&server.address, connections, Until::Elapsed(RUN), post_600).await;
    if !broker {
        return (load, None);
    }
    let ended = Instant::now();
    let announced = || server.metric("sluicegate_queue_announced_total");
    let all = (load.answers + connections * 20) as f64;
    let meanwhile = announced();
    while announced() < all {
        assert!(ended.elapsed() < Duration::from_secs(60), "it does not catch up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let relayed = Relayed {
        share: meanwhile / all,
        catching_up: (all - meanwhile) / ended.elapsed().as_secs_f64(),
    };
    (load, Some(relayed))
}
