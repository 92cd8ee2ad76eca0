//! A devnet in a process of its own, and an address at which nothing works.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use super::{Server, ask, body};

/// A running devnet.
pub struct Network {
    server: Server,
    control: String,
    /// What a gateway's configuration says of it.
    pub section: String,
}

impl Network {
    /// One in `folder`, at a free port or where another one was.
    pub fn start(folder: &Path, listen: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
        command
            .args([
                "devnet",
                "--no-tls",
                "--control",
                "127.0.0.1:0",
                "--batch-timeout-ms",
                "50",
            ])
            .args(["--listen", listen.unwrap_or("127.0.0.1:0"), "--data"])
            .arg(folder);
        let (server, greeting) = Server::start_with(command, "  control  ");
        let control = greeting
            .trim_end()
            .rsplit('/')
            .next()
            .expect("an address")
            .to_owned();
        Self {
            server,
            control,
            section: std::fs::read_to_string(folder.join("gateway.toml")).expect("a section"),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.server.address
    }

    /// SIGKILL.
    pub fn kill(self) {
        self.server.kill();
    }

    /// Makes something go wrong from now on.
    pub fn fault(&self, fault: &Value) {
        ask(&self.control, "POST", "/faults", &fault.to_string());
    }

    /// From now on nothing goes wrong.
    pub fn heal(&self) {
        ask(&self.control, "DELETE", "/faults", "");
    }

    /// How many transactions took effect.
    pub fn valid(&self) -> u64 {
        let all = body(&ask(&self.control, "GET", "/transactions", ""));
        let all = all.as_array().expect("a list");
        all.iter()
            .filter(|transaction| transaction["code"] == "VALID")
            .count() as u64
    }
}

/// A port at which every connection is closed at once.
pub struct Ruin {
    address: String,
    tried: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Ruin {
    pub fn at(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("the port is free again");
        let (tried, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end) = (tried.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            for _connection in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            address: address.to_owned(),
            tried,
            over,
            thread,
        }
    }

    /// Gives the port back; answers how often somebody connected.
    pub fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(&self.address).expect("the last one"));
        self.thread.join().expect("ends");
        self.tried.load(Ordering::Relaxed)
    }
}
