//! Shared by the benchmarks: a gateway in a process of its own, and a load generator that costs little.
#![allow(dead_code, reason = "each benchmark uses a part of it")]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark may panic"
)]

pub mod ledger;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A server process, killed when dropped.
pub struct Server {
    process: Child,
    pub address: String,
}

impl Server {
    /// Starts `sluicegate serve` in `folder` with this configuration.
    pub fn gateway(folder: &Path, config: &str) -> Self {
        std::fs::write(folder.join("config.toml"), config).expect("writes the configuration");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
        command.arg("serve").current_dir(folder);
        Self::start(command)
    }

    /// Starts a program whose first line of output ends in its address.
    pub fn start(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("starts");
        let mut greeting = String::new();
        let output = process.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut greeting).expect("greets");
        let address = greeting
            .trim()
            .rsplit(['/', ' '])
            .next()
            .expect("an address")
            .to_owned();
        Self { process, address }
    }

    /// Resident memory, MiB.
    pub fn rss_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("reads");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .expect("VmRSS");
        line.split_whitespace()
            .nth(1)
            .expect("a number")
            .parse::<u64>()
            .expect("a number")
            / 1024
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.process.kill().expect("kills");
        self.process.wait().expect("waits");
    }

    pub fn get(&self, path: &str) -> String {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&self.address).expect("connects");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .expect("sends");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        answer
    }

    /// A gauge or counter of the default ledger.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics");
        let line = text
            .lines()
            .find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or(0.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            self.process.kill().expect("kills");
            self.process.wait().expect("waits");
        }
    }
}

/// What a load run measured.
pub struct Load {
    pub answers: u64,
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
}

/// When a run ends.
#[derive(Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    /// So many answers in all.
    Answers(u64),
}

/// Posts from `connections` kept-alive connections, each with one request at a time. Every answer has to
/// be 202.
pub async fn load(address: &str, connections: u64, until: Until, request: fn(u64, u64) -> Vec<u8>) -> Load {
    let mut workers = JoinSet::new();
    let start = Instant::now();
    for number in 0..connections {
        let address = address.to_owned();
        workers.spawn(async move {
            let mut stream = TcpStream::connect(&address).await.expect("connects");
            stream.set_nodelay(true).expect("no delay");
            let mut latencies = Histogram::<u64>::new(3).expect("histogram");
            let mut buffer = Vec::with_capacity(4_096);
            let share = match until {
                Until::Answers(all) => all / connections + u64::from(number < all % connections),
                Until::Elapsed(_) => u64::MAX,
            };
            for sequence in 0..share {
                if let Until::Elapsed(limit) = until
                    && start.elapsed() >= limit
                {
                    break;
                }
                let bytes = request(number, sequence);
                let sent = Instant::now();
                stream.write_all(&bytes).await.expect("sends");
                answer(&mut stream, &mut buffer).await;
                latencies
                    .record(u64::try_from(sent.elapsed().as_micros()).expect("short"))
                    .expect("records");
            }
            latencies
        });
    }
    let mut all = Histogram::<u64>::new(3).expect("histogram");
    for latencies in workers.join_all().await {
        all.add(latencies).expect("adds");
    }
    Load {
        answers: all.len(),
        per_second: all.len() as f64 / start.elapsed().as_secs_f64(),
        p50: Duration::from_micros(all.value_at_quantile(0.5)),
        p99: Duration::from_micros(all.value_at_quantile(0.99)),
    }
}

/// Reads one whole answer.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await.expect("answers");
        assert!(read > 0, "the server closed the connection");
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end]).expect("ASCII");
        assert!(
            head.starts_with("HTTP/1.1 202"),
            "{}",
            String::from_utf8_lossy(buffer)
        );
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse::<usize>().expect("a number"));
        if buffer.len() >= end + 4 + length {
            return;
        }
    }
}

/// A POST of a 600-byte body.
pub fn post_600(connection: u64, sequence: u64) -> Vec<u8> {
    post(connection, sequence, "")
}

/// The same with an idempotency key of its own.
pub fn post_600_with_key(connection: u64, sequence: u64) -> Vec<u8> {
    // The process id tells runs against one store apart.
    let key = format!(
        "Idempotency-Key: {}-{connection}-{sequence}\r\n",
        std::process::id()
    );
    post(connection, sequence, &key)
}

fn post(connection: u64, sequence: u64, header: &str) -> Vec<u8> {
    let head = format!(
        r#"{{"ledger":"main","contract":"counter","function":"Set","args":["c{connection}-{sequence}",1],"metadata":{{"order":"4711-{sequence}","note":"{}","more":""#,
        "x".repeat(200)
    );
    // A label may have 512 bytes; the rest of the 600 goes into the last one.
    let body = format!("{head}{}\"}}}}", "x".repeat(600 - head.len() - 3));
    assert_eq!(body.len(), 600);
    format!(
        "POST /v1/transactions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{header}Content-Length: 600\r\n\r\n{body}"
    )
    .into_bytes()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
