//! More than a gateway can pass on: the same scenarios, small for the tests and large for the benchmark.
//!
//! Each asserts what has to hold however fast the machine is: nothing is lost, all that was accepted settles, the
//! ledger's rate is never exceeded (I6), memory stays bounded (I7), a ledger that is down is not asked all the time.
//! What depends on the machine is measured and left to the reader.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::network::{Network, Ruin};
use super::{Load, Server, Until, answer, ask, body, load, paced, post_600};

/// More memory than this is a defect (DESIGN, I7).
pub const MOST_MIB: u64 = 256;

/// What a scenario measured.
pub struct Measured {
    /// Accepts before.
    pub idle: Load,
    /// Accepts meanwhile.
    pub loaded: Load,
    /// How much was accepted in all.
    pub accepted: u64,
    /// The most memory the gateway had, MiB.
    pub peak_mib: u64,
    /// Submissions per second while the backlog was worked off, and the rate that was allowed.
    pub drained: Option<(f64, f64)>,
    /// What else is worth knowing.
    pub note: String,
}

/// Looks at accepts while something else goes on: few enough to be no load themselves.
pub(super) async fn probe(server: &Server, during: Duration) -> Load {
    paced(&server.address, 8, 160, during, post_600).await
}

/// A gateway in front of a simulator that may be given `rate` transactions a second.
pub(super) fn simulator(folder: &Path, rate: f64, more: &str) -> Server {
    Server::gateway(folder, &simulated(rate, more))
}

fn simulated(rate: f64, more: &str) -> String {
    format!(
        "[http]\nlisten = '127.0.0.1:0'\n[log]\nlevel = 'warn'\n{more}\n\
         [ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 100\nmax_message_count = 1000\n\
         [ledgers.main.worker]\nrate_per_second = {rate}\nburst = {}\n",
        burst(rate)
    )
}

fn burst(rate: f64) -> u64 {
    (rate / 10.0).ceil() as u64
}

/// A submission is counted when it is sent, right after its permit was taken; on a busy machine a task may wait for its
/// turn between the two, and what was permitted in a row is then counted together.
const PERMIT_TO_COUNT: Duration = Duration::from_millis(250);

/// What a lane submits, held against its rate.
struct Watch {
    rate: f64,
    seen: Vec<(Instant, f64)>,
}

impl Watch {
    fn new(rate: f64) -> Self {
        Self {
            rate,
            seen: Vec::new(),
        }
    }

    /// How many submissions there were by now: in no window more than the rate allows (I6).
    fn look(&mut self, server: &Server) -> f64 {
        let before = Instant::now();
        let sent =
            server.metric("sluicegate_submissions_total{") + server.metric("sluicegate_resends_total{");
        for (since, earlier) in &self.seen {
            let window = since.elapsed() + PERMIT_TO_COUNT;
            let allowed = self.rate * window.as_secs_f64() + burst(self.rate) as f64;
            let submitted = sent - earlier;
            assert!(
                submitted <= allowed,
                "I6: {submitted} within {window:?}, {allowed} allowed"
            );
        }
        self.seen.push((before, sent));
        sent
    }

    /// Watches until the backlog is gone, or for so long; submissions per second.
    async fn drain(&mut self, server: &Server, at_most: Duration) -> f64 {
        let (start, first) = (Instant::now(), self.look(server));
        loop {
            let sent = self.look(server);
            if server.metric("sluicegate_backlog{") == 0.0 || start.elapsed() > at_most {
                return (sent - first) / start.elapsed().as_secs_f64();
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

/// Waits until nothing is pending: everything that was accepted is there, and took effect.
pub(super) async fn everything_took_effect(server: &Server, accepted: u64) {
    while server.metric("sluicegate_backlog{") > 0.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for status in ["pending", "failed"] {
        let page = server.json(&format!("/v1/transactions?status={status}&limit=5"));
        assert_eq!(page["items"], json!([]), "{status}");
    }
    let (mut done, mut cursor) = (0, String::new());
    loop {
        let page = server.json(&format!("/v1/transactions?status=done&limit=500{cursor}"));
        done += page["items"].as_array().expect("items").len() as u64;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(done, accepted, "I1");
}

pub(super) fn bounded(server: &Server) -> u64 {
    let peak = server.peak_mib();
    assert!(peak < MOST_MIB, "I7: {peak} MiB");
    peak
}

/// Ten times as much comes in as may go out. What is left is then worked off for a while, or to its end.
pub async fn ten_times(rate: u32, quiet: Duration, during: Duration, to_its_end: bool) -> Measured {
    let folder = tempfile::tempdir().expect("folder");
    let server = simulator(folder.path(), rate.into(), "");
    let idle = probe(&server, quiet).await;
    let mut watch = Watch::new(rate.into());
    watch.look(&server);
    let flood = paced(&server.address, 64, 10 * rate, during, post_600);
    let (flood, loaded) = tokio::join!(flood, probe(&server, during));
    let drained = watch.drain(&server, at_most(during, to_its_end)).await;
    let accepted = idle.answers + loaded.answers + flood.answers;
    if to_its_end {
        everything_took_effect(&server, accepted).await;
    }
    Measured {
        note: format!("{:.0} a second came in", flood.per_second + loaded.per_second),
        peak_mib: bounded(&server),
        drained: Some((drained, rate.into())),
        idle,
        loaded,
        accepted,
    }
}

fn at_most(during: Duration, to_its_end: bool) -> Duration {
    if to_its_end { Duration::MAX } else { during }
}

/// A backlog of `count`, which is then worked off for a while, or to its end.
pub async fn backlog(count: u64, rate: u32, during: Duration, to_its_end: bool) -> Measured {
    let folder = tempfile::tempdir().expect("folder");
    // A lane that hardly moves keeps the backlog where it is.
    let server = simulator(folder.path(), 0.001, "");
    let idle = probe(&server, during).await;
    let filled = load(&server.address, 64, Until::Answers(count), post_600).await;
    let loaded = probe(&server, during).await;
    let full = bounded(&server);
    let mut accepted = idle.answers + filled.answers + loaded.answers;
    assert_eq!(server.metric("sluicegate_backlog{") as u64, accepted);
    server.kill();
    let server = simulator(folder.path(), rate.into(), "");
    let mut watch = Watch::new(rate.into());
    let drain = watch.drain(&server, at_most(during, to_its_end));
    let (drained, draining) = tokio::join!(drain, probe(&server, during));
    accepted += draining.answers;
    if to_its_end {
        everything_took_effect(&server, accepted).await;
    }
    Measured {
        note: format!(
            "p99 while it is worked off: {:.2} ms",
            draining.p99.as_secs_f64() * 1e3
        ),
        peak_mib: bounded(&server).max(full),
        drained: Some((drained, rate.into())),
        idle,
        loaded,
        accepted,
    }
}

/// A gateway in front of a devnet.
fn fabric(folder: &Path, network: &Network, rate: u32, more: &str) -> Server {
    let config = format!(
        "[http]\nlisten = '127.0.0.1:0'\n[log]\nlevel = 'error'\n{}{more}\n[ledgers.main.retry]\noutage_max_attempts = 0\n\
         [ledgers.main.worker]\nrate_per_second = {rate}\nburst = {}\n",
        network.section,
        burst(rate.into())
    );
    Server::gateway(folder, &config)
}

/// The ledger is down all the while, and comes back in the end.
pub async fn down(rate: u32, quiet: Duration, during: Duration) -> Measured {
    let folder = tempfile::tempdir().expect("folder");
    let chain = folder.path().join("devnet");
    let network = Network::start(&chain, None);
    let address = network.address().to_owned();
    let server = fabric(folder.path(), &network, rate, "");
    let idle = probe(&server, quiet).await;
    network.kill();
    let ruin = Ruin::at(&address);
    let more = paced(&server.address, 16, rate, during, post_600);
    let (more, loaded) = tokio::join!(more, probe(&server, during));
    let tried = ruin.end();
    // By the pauses between probes, and between attempts to follow blocks; never by how much waits.
    let most = 40 + 4 * during.as_secs();
    assert!(
        tried <= most,
        "{tried} connections to a ledger that is down, {most} at most"
    );
    let network = Network::start(&chain, Some(&address));
    let mut watch = Watch::new(rate.into());
    let drained = watch.drain(&server, Duration::MAX).await;
    let accepted = idle.answers + loaded.answers + more.answers;
    everything_took_effect(&server, accepted).await;
    assert_eq!(network.valid(), accepted, "I2: each took effect once");
    Measured {
        note: format!("{tried} connections were tried"),
        peak_mib: bounded(&server),
        drained: Some((drained, rate.into())),
        idle,
        loaded,
        accepted,
    }
}

/// The ledger takes `delay` for each submission, far longer than the gateway waits.
pub async fn slow(delay: Duration, quiet: Duration, during: Duration) -> Measured {
    let folder = tempfile::tempdir().expect("folder");
    let network = Network::start(&folder.path().join("devnet"), None);
    let server = fabric(folder.path(), &network, 1_000, "submit_timeout_ms = 1000\n");
    let idle = probe(&server, quiet).await;
    everything_took_effect(&server, idle.answers).await;
    let late = json!({"method": "submit", "action": "delay", "ms": delay.as_millis() as u64});
    network.fault(&late);
    let loaded = probe(&server, during).await;
    let waiting = server.metric("sluicegate_backlog{");
    network.heal();
    let accepted = idle.answers + loaded.answers;
    everything_took_effect(&server, accepted).await;
    assert_eq!(network.valid(), accepted, "I2: each took effect once");
    Measured {
        note: format!(
            "{waiting} waited; the same bytes were sent again {} times",
            server.metric("sluicegate_resends_total{")
        ),
        peak_mib: bounded(&server),
        drained: None,
        idle,
        loaded,
        accepted,
    }
}

/// `count` transactions want to change one key, which changes once per block.
pub async fn hot_key(count: u64, quiet: Duration) -> Measured {
    fn add(_: u64, _: u64) -> Vec<u8> {
        let body = r#"{"ledger":"main","contract":"counter","function":"Add","args":["hot",1]}"#;
        format!(
            "POST /v1/transactions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
    let call =
        |function, args| json!({"ledger": "main", "contract": "counter", "function": function, "args": args});
    let folder = tempfile::tempdir().expect("folder");
    // With as many tries as it takes; 20 are built in.
    let server = simulator(folder.path(), 400.0, "[ledgers.main.retry]\nmax_attempts = 0\n");
    let hot = || {
        let query = call("Get", json!(["hot"])).to_string();
        let answer = body(&ask(&server.address, "POST", "/v1/query", &query));
        answer["result"].as_u64().expect("a number")
    };
    let idle = probe(&server, quiet).await;
    let start = Instant::now();
    let wanted = load(&server.address, 64, Until::Answers(count), add).await;
    let other = body(&ask(
        &server.address,
        "POST",
        "/v1/transactions",
        &call("Set", json!(["other", 1])).to_string(),
    ));
    let other = format!(
        "/v1/transactions/{}?wait=60",
        other["id"].as_str().expect("an id")
    );
    assert_eq!(server.json(&other)["status"], "done");
    assert!(
        hot() < count,
        "I9: who came last and wants another key waited for all others"
    );
    let loaded = probe(&server, quiet).await;
    let accepted = idle.answers + wanted.answers + 1 + loaded.answers;
    everything_took_effect(&server, accepted).await;
    let took = start.elapsed();
    assert_eq!(hot(), count, "I2: each took effect once");
    let conflicts = server.metric("sluicegate_conflicts_total{");
    Measured {
        note: format!(
            "all in {:.0} s; {:.0} % of the submissions for the key were wasted",
            took.as_secs_f64(),
            100.0 * conflicts / (conflicts + count as f64)
        ),
        peak_mib: bounded(&server),
        drained: None,
        idle,
        loaded,
        accepted,
    }
}

/// As many as the system lets us have.
pub(super) fn allow_many_connections() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("as many connections as are allowed");
}

/// The section of a ledger `slow`, which cuts a block so long after a transaction came in.
pub(super) fn slow_ledger(block_after: Duration) -> String {
    format!(
        "[ledgers.slow]\nkind = 'simulator'\nmax_message_count = 10\nbatch_timeout_ms = {}\n",
        block_after.as_millis()
    )
}

/// `count` clients wait for one transaction, all on connections of their own, and are told.
pub async fn waiters(count: usize, quiet: Duration, block_after: Duration) -> Measured {
    let folder = tempfile::tempdir().expect("folder");
    let slow = slow_ledger(block_after);
    // As many shells and service managers start it.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 256 && exec \"$0\" serve"]);
    command
        .arg(env!("CARGO_BIN_EXE_sluicegate"))
        .current_dir(folder.path());
    std::fs::write(folder.path().join("config.toml"), simulated(1_000.0, &slow)).expect("writes");
    let server = Server::start(command);
    let idle = probe(&server, quiet).await;
    allow_many_connections();
    let request = json!({"ledger": "slow", "contract": "counter", "function": "Add", "args": ["c", 1]});
    let posted = Instant::now();
    let record = body(&ask(
        &server.address,
        "POST",
        "/v1/transactions",
        &request.to_string(),
    ));
    let id = record["id"].as_str().expect("an id").to_owned();
    let mut waiting = JoinSet::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(&server.address).await.expect("connects");
        let get = format!("GET /v1/transactions/{id}?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(get.as_bytes()).await.expect("sends");
        waiting.spawn(async move {
            let mut buffer = Vec::with_capacity(2_048);
            assert_eq!(answer(&mut stream, &mut buffer).await, 200);
            let (_, json) = std::str::from_utf8(&buffer)
                .expect("text")
                .split_once("\r\n\r\n")
                .expect("a head");
            let record: Value = serde_json::from_str(json).expect("JSON");
            assert_eq!(record["status"], "done", "all are told");
            posted.elapsed()
        });
    }
    let connected = posted.elapsed();
    assert!(
        connected < block_after,
        "connecting took {connected:?}; make the blocks slower"
    );
    let loaded = probe(&server, quiet).await;
    let told = waiting.join_all().await;
    let (first, last) = (told.iter().min().expect("some"), told.iter().max().expect("some"));
    let accepted = idle.answers + loaded.answers + 1;
    everything_took_effect(&server, accepted).await;
    Measured {
        note: format!(
            "told within {:.0} ms of one another",
            (*last - *first).as_secs_f64() * 1e3
        ),
        peak_mib: bounded(&server),
        drained: None,
        idle,
        loaded,
        accepted,
    }
}
