//! A million pending records: memory, and the time from a SIGKILL to readiness.
//!
//! `cargo bench --bench backlog` (redb and sled; some minutes), or `… -- COUNT ENGINE`.
#![allow(missing_docs, clippy::expect_used, reason = "a benchmark may panic")]

mod support;

use std::time::Instant;

use support::{Server, Until, load, post_600};

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let count = words
        .first()
        .map_or(1_000_000, |word| word.parse().expect("a count"));
    let engines = words
        .get(1)
        .map_or(vec!["redb", "sled"], |word| vec![word.as_str()]);
    println!(
        "| engine | pending | accepted per second | RSS MiB | on disk MiB | ready after SIGKILL s | RSS then MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    for engine in engines {
        measure(engine, count);
    }
}

fn measure(engine: &str, count: u64) {
    let folder = tempfile::tempdir().expect("folder");
    // A lane that hardly moves keeps the backlog where it is.
    let config = format!(
        "[http]\nlisten = '127.0.0.1:0'\n[store]\nengine = '{engine}'\n[log]\nlevel = 'warn'\n\
         [ledgers.main]\nkind = 'simulator'\n[ledgers.main.worker]\nrate_per_second = 0.001\nburst = 1\n"
    );
    let server = Server::gateway(folder.path(), &config);
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let filled = runtime.block_on(load(&server.address, 256, Until::Answers(count), post_600));
    assert_eq!(server.metric("sluicegate_backlog{") as u64, count);
    let full = server.rss_mib();
    server.kill();
    let disk = du(&folder.path().join("data")) >> 20;
    let start = Instant::now();
    let server = Server::gateway(folder.path(), &config);
    server.get("/readyz");
    let ready = start.elapsed();
    assert_eq!(server.metric("sluicegate_backlog{") as u64, count, "I1");
    println!(
        "| {engine} | {count} | {:.0} | {full} | {disk} | {:.2} | {} |",
        filled.per_second,
        ready.as_secs_f64(),
        server.rss_mib()
    );
}

fn du(path: &std::path::Path) -> u64 {
    let entries = path.read_dir().expect("reads");
    let size = |entry: std::fs::DirEntry| match entry.metadata().expect("reads") {
        data if data.is_dir() => du(&entry.path()),
        data => data.len(),
    };
    entries.map(|entry| size(entry.expect("reads"))).sum()
}
