//! More than the gateway can pass on: accept latency, memory, and how the backlog is worked off.
//!
//! `cargo bench --bench overload` (about twenty minutes), or `… -- NAME` for one scenario. "Idle" and "loaded" are the
//! same trickle of requests on the same machine in the same run, without and with the load.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark may panic")]

mod support;

use std::time::Duration;

use support::overload::{Measured, backlog, down, hot_key, slow, ten_times, waiters};
use support::retention::{removal, serve_if_told};
use support::streams::streams;

/// As the gateway has it: one scenario is served by this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(serve_if_told());
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    println!(
        "| scenario | accepted | idle p50, p99 ms | loaded p50, p99 ms | p99 ratio | peak MiB | drained per second, of the rate | |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let seconds = Duration::from_secs;
    for name in [
        "ten times",
        "ten times 300",
        "backlog",
        "down",
        "slow",
        "hot key",
        "waiters",
        "streams",
        "pruning",
        "archiving",
    ] {
        if wanted.as_deref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        let measured = runtime.block_on(async {
            match name {
                // 100 a second is built in.
                "ten times" => ten_times(100, seconds(20), seconds(120), false).await,
                "ten times 300" => ten_times(300, seconds(20), seconds(120), false).await,
                "backlog" => backlog(1_000_000, 1_000, seconds(20), false).await,
                "down" => down(200, seconds(20), seconds(60)).await,
                "slow" => slow(seconds(30), seconds(20), seconds(60)).await,
                "hot key" => hot_key(1_000, seconds(20)).await,
                "waiters" => waiters(5_000, seconds(20), seconds(50)).await,
                "streams" => streams(5_000, seconds(20), seconds(50)).await,
                "pruning" => removal(400_000, seconds(10), seconds(10), false).await,
                _ => removal(200_000, seconds(10), seconds(10), true).await,
            }
        });
        show(name, &measured);
    }
}

fn show(name: &str, measured: &Measured) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (idle, loaded) = (&measured.idle, &measured.loaded);
    let drained = measured.drained.map_or_else(String::new, |(rate, allowed)| {
        format!("{rate:.0}, {:.2}", rate / allowed)
    });
    println!(
        "| {name} | {} | {:.2}, {:.2} | {:.2}, {:.2} | {:.2} | {} | {drained} | {} |",
        measured.accepted,
        ms(idle.p50),
        ms(idle.p99),
        ms(loaded.p50),
        ms(loaded.p99),
        loaded.p99.as_secs_f64() / idle.p99.as_secs_f64(),
        measured.peak_mib,
        measured.note,
    );
}
