//! Several peers of one network: when one cannot be reached, hangs, or sends no blocks, the next one is used.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use sluicegate::clock::SystemClock;
use sluicegate::config::{self, BackendSettings, FabricSettings};
use sluicegate::domain::{
    Argument, LedgerName, LedgerTxId, Outcome, Prepared, Request, SubmissionId, TransactionId,
};
use sluicegate::ledger::fabric::FabricLedger;
use sluicegate::ledger::{LedgerBackend, Outcomes, PrepareError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::proxy::{Fault, Proxy};
use crate::support::DEADLINE;
use crate::support::fabric::FabricDevnet;

/// A network whose one peer looks like two, each behind a line that may break.
struct Network {
    lines: Vec<Proxy>,
    ledger: FabricLedger,
    devnet: FabricDevnet,
    _folder: tempfile::TempDir,
}

impl Network {
    async fn start() -> Self {
        Self::asked_for(Duration::from_millis(500)).await
    }

    /// One whose peers may take so long for a look-up.
    async fn asked_for(limit: Duration) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let devnet = FabricDevnet::start(&folder.path().join("devnet"), &["--no-tls"]).await;
        let port = devnet.address.port();
        let lines = vec![Proxy::before(port).await, Proxy::before(port).await];
        let file = folder.path().join("config.toml");
        std::fs::write(&file, &devnet.section).expect("writes");
        let mut settings = fabric(&file);
        settings.peers = lines
            .iter()
            .map(|line| {
                format!("http://127.0.0.1:{}", line.port)
                    .parse()
                    .expect("an address")
            })
            .collect();
        settings.endorse_timeout = Duration::from_millis(500);
        settings.submit_timeout = Duration::from_millis(500);
        settings.commit_status_timeout = limit;
        settings.stall_after = Duration::from_secs(1);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let ledger = FabricLedger::open(settings, Arc::new(SystemClock), &tasks, stop).expect("opens");
        Self {
            lines,
            ledger,
            devnet,
            _folder: folder,
        }
    }

    async fn prepare(&self) -> Result<Prepared, PrepareError> {
        let args = vec![Argument::text("c"), Argument::text("1")];
        let request = Request::call(LedgerName::new("main").expect("valid"), "counter", "Set", args);
        let submission = SubmissionId {
            record: TransactionId::new(),
            number: 0,
        };
        self.ledger.prepare(submission, &request).await
    }

    /// Sends until it is taken, as a lane does: the same bytes are sent again.
    async fn submit(&self) -> LedgerTxId {
        let send = async {
            let prepared = loop {
                if let Ok(prepared) = self.prepare().await {
                    break prepared;
                }
            };
            while self.ledger.submit(&prepared).await.is_err() {}
            prepared.tx_id
        };
        tokio::time::timeout(DEADLINE, send)
            .await
            .expect("is taken in time")
    }
}

fn fabric(file: &std::path::Path) -> FabricSettings {
    let settings = config::load(Some(file)).expect("the section is valid").settings;
    match settings.ledgers.into_values().next().map(|ledger| ledger.backend) {
        Some(BackendSettings::Fabric(fabric)) => *fabric,
        other => panic!("no Fabric ledger: {other:?}"),
    }
}

/// Waits until all of them are told; one block may tell several.
async fn are_told(stream: &mut Outcomes, ids: &[&LedgerTxId]) {
    let told = async {
        let mut left = ids.to_vec();
        while !left.is_empty() {
            let group = stream.next().await.expect("goes on");
            for (id, outcome) in &group.outcomes {
                assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
                left.retain(|waiting| *waiting != id);
            }
        }
    };
    tokio::time::timeout(DEADLINE, told)
        .await
        .expect("are told in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_gone_is_replaced_at_once_and_the_stream_has_no_gap() {
    let network = Network::start().await;
    let mut stream = network.ledger.outcomes(None);
    let first = network.submit().await;
    are_told(&mut stream, &[&first]).await;
    for (gone, back) in [(0, 1), (1, 0)] {
        network.lines[back].set(Fault::None);
        network.lines[gone].set(Fault::Cut);
        let one = network.submit().await;
        let two = network.submit().await;
        are_told(&mut stream, &[&one, &two]).await;
    }
    network.devnet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_hangs_costs_one_timeout() {
    let network = Network::start().await;
    network.prepare().await.expect("both are well");
    network.lines[0].set(Fault::Stall);
    let hung = network.prepare().await;
    assert!(
        matches!(&hung, Err(PrepareError::Unavailable(cause)) if cause.code == "TIMEOUT"),
        "{hung:?}"
    );
    network.prepare().await.expect("the other one answers");
    network.devnet.stop().await;
}

/// What a peer does not tell may be on the ledger all the same; that it tells nothing at all is no reason to send again.
#[tokio::test(flavor = "multi_thread")]
async fn i2_silence_of_a_peer_is_not_taken_for_absence() {
    let network = Network::start().await;
    let mut stream = network.ledger.outcomes(None);
    let known = network.submit().await;
    are_told(&mut stream, &[&known]).await;
    let never = network.prepare().await.expect("endorsed").tx_id;
    let search = async |id| network.ledger.search(id).await;
    assert!(matches!(search(&never).await, Outcome::Absent(_)));
    network.lines[0].set(Fault::Stall);
    for id in [&known, &never] {
        network.lines[1].set(Fault::Stall);
        assert!(matches!(search(id).await, Outcome::Unknown(_)), "nobody answered");
        network.lines[1].set(Fault::None);
    }
    // The other one is asked in its turn.
    let asked = async {
        while !matches!(search(&known).await, Outcome::Committed(_)) {}
        while !matches!(search(&never).await, Outcome::Absent(_)) {}
    };
    tokio::time::timeout(DEADLINE, asked).await.expect("in time");
    network.devnet.stop().await;
}

/// After a restore, many may be searched for at once, and each has to be told for certain. A look-up asks for no more than
/// the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn many_are_told_to_be_absent_at_once_if_they_are_searched_for() {
    let network = Network::asked_for(Duration::from_secs(2)).await;
    let mut stream = network.ledger.outcomes(None);
    let known = network.submit().await;
    are_told(&mut stream, &[&known]).await;
    let ids: Vec<_> = (0..200).map(|n| LedgerTxId(format!("{n:064x}"))).collect();
    let streams = async || network.devnet.get("/").await["calls"]["deliver_filtered"].clone();
    let before = streams().await;
    let found = join_all(ids.iter().take(50).map(|id| network.ledger.lookup(id))).await;
    assert!(
        found.iter().all(|one| matches!(one, Outcome::Unknown(_))),
        "{found:?}"
    );
    assert_eq!(streams().await, before, "a look-up opened a stream");
    let found = join_all(ids.iter().map(|id| network.ledger.search(id))).await;
    assert!(
        found.iter().all(|one| matches!(one, Outcome::Absent(_))),
        "{found:?}"
    );
    network.devnet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stalls_is_taken_from_the_next_peer() {
    let network = Network::start().await;
    let mut stream = network.ledger.outcomes(None);
    let first = network.submit().await;
    are_told(&mut stream, &[&first]).await;
    // Nothing closes this line: only the missing block shows that it is dead.
    network.lines[0].set(Fault::HalfOpen);
    let unheard = network.submit().await;
    are_told(&mut stream, &[&unheard]).await;
    network.devnet.stop().await;
}

/// The connection of such a peer comes about; what never ends is the handshake of TLS.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_connections_and_says_nothing_is_passed_over() {
    let folder = tempfile::tempdir().expect("folder");
    let devnet = FabricDevnet::start(&folder.path().join("devnet"), &[]).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let file = folder.path().join("config.toml");
    std::fs::write(&file, &devnet.section).expect("writes");
    let mut settings = fabric(&file);
    let port = silent.local_addr().expect("is bound").port();
    settings.peers.insert(
        0,
        format!("https://127.0.0.1:{port}").parse().expect("an address"),
    );
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let ledger = FabricLedger::open(settings, Arc::new(SystemClock), &tasks, stop).expect("opens");
    let network = Network {
        lines: Vec::new(),
        ledger,
        devnet,
        _folder: folder,
    };
    let mut stream = network.ledger.outcomes(None);
    // The lane gives a call up after five seconds.
    let prepared = tokio::time::timeout(Duration::from_secs(5), network.prepare()).await;
    prepared.expect("in time").expect("the other one answers");
    let id = network.submit().await;
    are_told(&mut stream, &[&id]).await;
    network.devnet.stop().await;
}
