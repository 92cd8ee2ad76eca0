//! What fuzzers feed: one function for each kind of input that comes from outside, or from a disk.
//!
//! Each asserts what has to hold of its input, whatever it is; the properties stand in the modules `fuzzed` beside
//! the code that they are about. `fuzz/` runs them under libFuzzer; the test below feeds them what was found worth
//! keeping, `fuzz/corpus/`. Where a target takes several kinds of input, the first byte says which.
//!
//! Compiled for tests and fuzzers only.

#![allow(clippy::expect_used, reason = "a fuzzer that cannot start says why")]

use std::path::PathBuf;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

use crate::app::{self, App};
use crate::config::{Settings, StoreSettings};
use crate::domain::Transaction;
use crate::ledger::{fabric, simulator};
use crate::queue::rabbit;
use crate::store::{embedded, postgres};
use crate::telemetry::metrics::Metrics;
use crate::{config, devnet, http};

/// Takes an input; panics if a property does not hold.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 7] = [
    ("http", http),
    ("config", config),
    ("stored", stored),
    ("amqp", amqp),
    ("fabric_status", fabric_status),
    ("fabric_answers", fabric_answers),
    ("devnet", devnet),
];

/// A request to the API: a submission, or the parameters of a read.
pub fn http(data: &[u8]) {
    static GATEWAY: OnceLock<(Runtime, App, http::fuzzed::Fuzzed)> = OnceLock::new();
    let (runtime, _app, http) = GATEWAY.get_or_init(|| {
        let runtime = runtime();
        let mut settings = Settings::default();
        settings.http.listen.set_port(0);
        settings.store = StoreSettings::embedded_at(folder("gateway"));
        let limits = settings.http.clone();
        let app = runtime.block_on(app::build(settings)).expect("a gateway");
        let metrics = Metrics::new().expect("metrics");
        let http = http::fuzzed::Fuzzed::new(app.gateway().clone(), app.auth().clone(), metrics, &limits);
        (runtime, app, http)
    });
    if let Some(transaction) = runtime.block_on(http.request(data)) {
        comes_back(&transaction);
    }
}

/// A configuration file and the environment.
pub fn config(data: &[u8]) {
    config::fuzzed::configuration(data);
}

/// What stands on a disk or in a database: records, and the chain of a simulator.
pub fn stored(data: &[u8]) {
    let [kind, bytes @ ..] = data else { return };
    let record = match kind {
        b'v' => embedded::fuzzed::value(bytes),
        // The JSON of a record; its format is the next byte.
        b'j' => bytes
            .split_first()
            .and_then(|(format, json)| embedded::fuzzed::value(&embedded::fuzzed::sealed(*format, json))),
        b'p' => postgres::fuzzed::texts(bytes),
        b'c' => return simulator::fuzzed::entry(bytes),
        b'h' => return simulator::fuzzed::header(bytes),
        b'e' => return simulator::fuzzed::envelope(bytes),
        _ => None,
    };
    if let Some(transaction) = record {
        comes_back(&transaction);
    }
}

/// A record is read as it was written, wherever it is stored.
fn comes_back(transaction: &Transaction) {
    embedded::fuzzed::comes_back(transaction);
    postgres::fuzzed::comes_back(transaction);
}

/// Deliveries of a broker: one of them, or the order in which many are settled.
pub fn amqp(data: &[u8]) {
    match data {
        [b'd', bytes @ ..] => rabbit::fuzzed::delivery(bytes),
        [b's', steps @ ..] => rabbit::fuzzed::bookkeeping(steps),
        _ => {}
    }
}

/// A gRPC error of a Fabric peer.
pub fn fabric_status(data: &[u8]) {
    fabric::fuzzed::status(data);
}

/// What a Fabric peer answers: endorsements, blocks, what became of a transaction.
pub fn fabric_answers(data: &[u8]) {
    match data {
        [b'e', bytes @ ..] => fabric::fuzzed::endorsement(bytes),
        [b'b', bytes @ ..] => fabric::fuzzed::block(bytes),
        [b'c', bytes @ ..] => fabric::fuzzed::commit_status(bytes),
        _ => {}
    }
}

/// What clients send to the devnet. What it endorses, our own Fabric backend has to understand.
pub fn devnet(data: &[u8]) {
    static NETWORK: OnceLock<(Runtime, devnet::fuzzed::Fuzzed)> = OnceLock::new();
    let (runtime, network) = NETWORK.get_or_init(|| {
        let runtime = runtime();
        let folder = folder("devnet");
        std::fs::create_dir_all(&folder).expect("a folder");
        let network = runtime.block_on(devnet::fuzzed::Fuzzed::new(&folder));
        (runtime, network)
    });
    match data {
        [b'p', bytes @ ..] => {
            if let Some(payload) = runtime.block_on(network.proposal(bytes)) {
                fabric::fuzzed::endorsed(&payload);
            }
        }
        [b'e', bytes @ ..] => network.envelope(bytes),
        [b'r', bytes @ ..] => devnet::fuzzed::read_write_set(bytes),
        [b's', bytes @ ..] => devnet::fuzzed::seek(bytes),
        [b'f', json @ ..] => devnet::fuzzed::fault(json),
        _ => {}
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A folder of this process's own.
fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("sluicegate-fuzz-{}-{name}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fuzzers_found_worth_keeping_still_holds() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let mut inputs = 0;
            for entry in std::fs::read_dir(corpus.join(name)).expect("a corpus") {
                let path = entry.expect("an entry").path();
                let input = std::fs::read(&path).expect("an input");
                // A panic does not tell which input it was.
                println!("{}", path.display());
                target(&input);
                inputs += 1;
            }
            assert!(inputs > 20, "the corpus of {name} has {inputs} inputs only");
        }
        for name in ["gateway", "devnet"] {
            std::fs::remove_dir_all(folder(name)).expect("was there");
        }
    }
}
