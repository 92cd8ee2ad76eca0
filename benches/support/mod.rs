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
pub mod network;
pub mod overload;
pub mod retention;
pub mod streams;

use std::io::{BufRead, BufReader, Read, Write};
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
    pub fn start(command: Command) -> Self {
        Self::start_with(command, "").0
    }

    /// The same, with what it says up to the line that holds `last`.
    pub fn start_with(mut command: Command, last: &str) -> (Self, String) {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("starts");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let mut greeting = String::new();
        while greeting.is_empty() || !greeting.contains(last) {
            let read = output.read_line(&mut greeting).expect("greets");
            assert!(read > 0, "it ended: {greeting}");
        }
        let first = greeting.lines().next().unwrap_or_default();
        let address = first.rsplit(['/', ' ']).next().expect("an address").to_owned();
        (Self { process, address }, greeting)
    }

    /// Resident memory, MiB.
    pub fn rss_mib(&self) -> u64 {
        self.memory_mib("VmRSS:")
    }

    /// The most resident memory it ever had, MiB.
    pub fn peak_mib(&self) -> u64 {
        self.memory_mib("VmHWM:")
    }

    fn memory_mib(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("reads");
        let line = status.lines().find(|line| line.starts_with(what)).expect(what);
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
        ask(&self.address, "GET", path, "")
    }

    /// The body of an answer.
    pub fn json(&self, path: &str) -> serde_json::Value {
        body(&self.get(path))
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

/// One request on a connection of its own; the whole answer, which has to be a success.
pub fn ask(address: &str, method: &str, path: &str, body: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    assert!(answer.starts_with("HTTP/1.1 2"), "{path}: {answer}");
    answer
}

/// The JSON in an answer.
pub fn body(answer: &str) -> serde_json::Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    serde_json::from_str(body).expect("JSON")
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
                accepted(&mut stream, &mut buffer).await;
                record(&mut latencies, sent);
            }
            latencies
        });
    }
    summed(workers, start).await
}

/// Posts `per_second` requests a second from `connections` kept-alive connections, however long the answers take: what
/// is sent late for that reason counts from the moment at which it was due. Every answer has to be 202.
pub async fn paced(
    address: &str,
    connections: u32,
    per_second: u32,
    during: Duration,
    request: fn(u64, u64) -> Vec<u8>,
) -> Load {
    let mut workers = JoinSet::new();
    let start = Instant::now();
    let step = Duration::from_secs(1) * connections / per_second;
    for number in 0..connections {
        let address = address.to_owned();
        workers.spawn(async move {
            let mut stream = TcpStream::connect(&address).await.expect("connects");
            stream.set_nodelay(true).expect("no delay");
            let mut latencies = Histogram::<u64>::new(3).expect("histogram");
            let mut buffer = Vec::with_capacity(4_096);
            let mut due = start + step * number / connections;
            for sequence in 0.. {
                if due >= start + during {
                    break;
                }
                let mut sent = due;
                if due > Instant::now() {
                    tokio::time::sleep_until(due.into()).await;
                    // The timer ticks in milliseconds; that is not the server's doing.
                    sent = Instant::now();
                }
                stream
                    .write_all(&request(number.into(), sequence))
                    .await
                    .expect("sends");
                accepted(&mut stream, &mut buffer).await;
                record(&mut latencies, sent);
                due += step;
            }
            latencies
        });
    }
    summed(workers, start).await
}

fn record(latencies: &mut Histogram<u64>, since: Instant) {
    let micros = u64::try_from(since.elapsed().as_micros()).expect("short");
    latencies.record(micros).expect("records");
}

async fn summed(workers: JoinSet<Histogram<u64>>, start: Instant) -> Load {
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

async fn accepted(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    let status = answer(stream, buffer).await;
    assert_eq!(status, 202, "{}", String::from_utf8_lossy(buffer));
}

/// Reads one whole answer into `buffer`; its status.
pub async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> u16 {
    buffer.clear();
    loop {
        let read = stream.read_buf(buffer).await.expect("answers");
        assert!(read > 0, "the server closed the connection");
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end]).expect("ASCII");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse::<usize>().expect("a number"));
        if buffer.len() >= end + 4 + length {
            return head[9..12].parse().expect("a status");
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
        "POST /v1/transactions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{header}Content-Length: 600\r\n\r\n{body}"
    )
    .into_bytes()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
