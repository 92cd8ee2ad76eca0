//! The Fabric backend against a devnet, over a socket: what is promised of every ledger, and what is Fabric's own.

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::task::JoinHandle;

use super::*;
use crate::config::{FabricSettings, KeysKept, PrivateKey, SimulatorSettings};
use crate::devnet::Policy;
use crate::domain::{Checkpoint, Outcome, ReadWriteSet};
use crate::ledger::conformance::{self, Calls, fresh, outcomes_of, request};
use crate::ledger::fabric::FabricLedger;
use crate::ledger::{LedgerBackend, PrepareError, Query, QueryError, SubmitError};

fn network() -> NetworkSettings {
    NetworkSettings {
        organisations: 1,
        policy: Policy::Majority,
        channel: "mychannel".to_owned(),
        gateway_limit: 500,
        tls: true,
        tls_names: Vec::new(),
        faults: Vec::new(),
        crash_at: None,
        blocks: SimulatorSettings {
            batch_timeout: Duration::from_millis(20),
            max_message_count: NonZeroU32::new(10).expect("not zero"),
        },
    }
}

struct Running {
    ledger: FabricSettings,
    port: u16,
    stop: CancellationToken,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    async fn start(folder: &Path, port: u16, network: NetworkSettings) -> Self {
        let scheme = if network.tls { "https" } else { "http" };
        let tls_ca = network.tls.then(|| folder.join("tls-ca.pem"));
        let settings = DevnetSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            folder: folder.to_owned(),
            network,
            control: None,
        };
        let devnet = build(&settings).await.expect("a devnet");
        let port = devnet.address().port();
        let stop = CancellationToken::new();
        let serving = TaskTracker::new().spawn(devnet.run(stop.clone().cancelled_owned()));
        let second = Duration::from_secs(1);
        let ledger = FabricSettings {
            peers: vec![
                format!("{scheme}://127.0.0.1:{port}")
                    .parse()
                    .expect("an address"),
            ],
            channel: "mychannel".to_owned(),
            default_contract: None,
            msp_id: "Org1MSP".to_owned(),
            certificate: folder.join("org1/user.pem"),
            private_key: PrivateKey::File(folder.join("org1/user.key")),
            private_key_passphrase: None,
            tls_ca,
            tls_server_name: None,
            tls_identity: None,
            endorsing_organizations: Vec::new(),
            endorse_timeout: 5 * second,
            submit_timeout: 5 * second,
            evaluate_timeout: 5 * second,
            commit_status_timeout: second,
            stall_after: 5 * second,
            start_block: None,
            keys: KeysKept::Plain,
        };
        Self {
            ledger,
            port,
            stop,
            serving,
        }
    }

    fn backend(&self) -> FabricLedger {
        backend(self.ledger.clone())
    }

    async fn end(self) {
        self.stop.cancel();
        self.serving.await.expect("runs").expect("ends well");
    }
}

fn backend(settings: FabricSettings) -> FabricLedger {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    FabricLedger::open(settings, Arc::new(SystemClock), &tasks, stop).expect("an identity")
}

#[tokio::test(flavor = "multi_thread")]
async fn fabric_conforms_over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let devnet = Running::start(folder.path(), 0, network()).await;
    conformance::run(&devnet.backend(), &Calls::COUNTER).await;
    devnet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fabric_conforms_without_tls_with_three_organisations() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = NetworkSettings {
        organisations: 3,
        policy: Policy::All,
        tls: false,
        ..network()
    };
    let devnet = Running::start(folder.path(), 0, settings).await;
    conformance::run(&devnet.backend(), &Calls::COUNTER).await;
    devnet.end().await;
}

/// Seen on a network: a badly endorsed envelope does not use up its identifier for the rest of its block.
#[tokio::test(flavor = "multi_thread")]
async fn i2_of_two_envelopes_with_one_identifier_the_valid_one_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = NetworkSettings {
        organisations: 2,
        policy: Policy::All,
        blocks: SimulatorSettings {
            batch_timeout: Duration::from_secs(3600),
            max_message_count: NonZeroU32::new(2).expect("not zero"),
        },
        ..network()
    };
    let devnet = Running::start(folder.path(), 0, settings).await;
    let ledger = devnet.backend();
    let hasty = backend(FabricSettings {
        endorsing_organizations: vec!["Org1MSP".to_owned()],
        ..devnet.ledger.clone()
    });
    let (submission, request) = (fresh(), request("counter", "Add", &["a", "1"]));
    let bad = hasty.prepare(submission, &request).await.expect("prepared");
    let good = ledger.prepare(submission, &request).await.expect("prepared");
    assert_eq!(bad.tx_id, good.tx_id);
    let mut stream = ledger.outcomes(None);
    stream.next().await.expect("is up");
    ledger.submit(&bad).await.expect("taken");
    ledger.submit(&good).await.expect("taken");
    let told = loop {
        let group = stream.next().await.expect("goes on").outcomes;
        if !group.is_empty() {
            break group;
        }
    };
    assert!(matches!(told[0].1, Outcome::Committed(_)), "{told:?}");
    assert!(matches!(told[1].1, Outcome::Rejected(_)), "{told:?}");
    devnet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_while_nobody_listened_is_told_from_the_checkpoint_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let devnet = Running::start(folder.path(), 0, network()).await;
    let ledger = devnet.backend();
    let mut stream = ledger.outcomes(None);
    let one = ledger
        .prepare(fresh(), &request("counter", "Add", &["a", "1"]))
        .await
        .expect("prepared");
    ledger.submit(&one).await.expect("taken");
    let checkpoint = loop {
        let settled = stream.next().await.expect("goes on");
        if settled.outcomes.iter().any(|(id, _)| *id == one.tx_id) {
            break settled.checkpoint.expect("a checkpoint");
        }
    };
    drop(stream);
    let two = ledger
        .prepare(fresh(), &request("counter", "Add", &["b", "1"]))
        .await
        .expect("prepared");
    ledger.submit(&two).await.expect("taken");
    assert!(matches!(found(&ledger, &two).await, Outcome::Committed(_)));
    let port = devnet.port;
    devnet.end().await;
    // The stream is asked for while nobody is there, and finds its way once somebody is.
    let mut stream = ledger.outcomes(Some(checkpoint));
    let devnet = Running::start(folder.path(), port, network()).await;
    let told = outcomes_of(&mut stream, &[&two.tx_id]).await;
    assert!(
        matches!(&told[&two.tx_id], Outcome::Committed(receipt) if receipt.code.as_deref() == Some("VALID"))
    );
    devnet.end().await;
}

/// What became of it, once the peer knows.
async fn found(ledger: &FabricLedger, prepared: &crate::domain::Prepared) -> Outcome {
    loop {
        match ledger.lookup(&prepared.tx_id).await {
            Outcome::Absent(_) | Outcome::Unknown(_) => {}
            outcome => return outcome,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_a_longer_chain_does_not_stop_the_stream() {
    let folder = tempfile::tempdir().expect("a folder");
    let devnet = Running::start(folder.path(), 0, network()).await;
    let ledger = devnet.backend();
    let mut stream = ledger.outcomes(Some(Checkpoint(1_000)));
    let one = ledger
        .prepare(fresh(), &request("counter", "Add", &["a", "1"]))
        .await
        .expect("prepared");
    ledger.submit(&one).await.expect("taken");
    let told = outcomes_of(&mut stream, &[&one.tx_id]).await;
    assert!(matches!(told[&one.tx_id], Outcome::Committed(_)));
    devnet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_results_and_refusals_are_those_of_the_chaincode() {
    let folder = tempfile::tempdir().expect("a folder");
    let devnet = Running::start(folder.path(), 0, network()).await;
    let ledger = devnet.backend();
    let added = ledger
        .prepare(fresh(), &request("counter", "Add", &["a", "5"]))
        .await
        .expect("prepared");
    assert_eq!(added.response.expect("a response").get(), "5");
    let keys = || vec!["counter/a".to_owned()];
    assert_eq!(added.touched, Some(ReadWriteSet::new(keys(), keys())));

    let refused = ledger
        .prepare(fresh(), &request("counter", "Add", &["a", "much"]))
        .await;
    let Err(PrepareError::Rejected(cause)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(cause.code, "CHAINCODE_ERROR");
    assert!(
        cause.message.contains("much") && cause.message.contains("Org1MSP"),
        "{cause}"
    );

    let unknown = ledger.prepare(fresh(), &request("nosuch", "Add", &[])).await;
    assert!(
        matches!(&unknown, Err(PrepareError::Postponed(cause)) if cause.code == "CHAINCODE_NOT_FOUND"),
        "{unknown:?}"
    );
    let query = Query {
        contract: "nosuch".to_owned(),
        function: "Get".to_owned(),
        args: Vec::new(),
    };
    assert!(matches!(ledger.query(&query).await, Err(QueryError::Rejected(_))));
    devnet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_and_strangers_are_outages() {
    let folder = tempfile::tempdir().expect("a folder");
    let devnet = Running::start(folder.path(), 0, network()).await;
    let prepared = devnet
        .backend()
        .prepare(fresh(), &request("counter", "Add", &["a", "1"]))
        .await
        .expect("prepared");
    // A member of no organisation of this network.
    let others = tempfile::tempdir().expect("a folder");
    let other = Running::start(others.path(), 0, network()).await;
    let stranger = backend(FabricSettings {
        certificate: other.ledger.certificate.clone(),
        private_key: other.ledger.private_key.clone(),
        ..devnet.ledger.clone()
    });
    let told = stranger
        .prepare(fresh(), &request("counter", "Add", &["a", "1"]))
        .await;
    assert!(
        matches!(&told, Err(PrepareError::Unavailable(cause)) if cause.code == "ACCESS_DENIED"),
        "{told:?}"
    );
    let cause = stranger.probe().await.expect_err("not a reader");
    assert_eq!(cause.code, "FORBIDDEN", "{cause}");
    other.end().await;

    let ledger = devnet.backend();
    devnet.end().await;
    let told = ledger
        .prepare(fresh(), &request("counter", "Add", &["a", "1"]))
        .await;
    assert!(
        matches!(&told, Err(PrepareError::Unavailable(cause)) if cause.code == "UNREACHABLE"),
        "{told:?}"
    );
    let told = ledger.submit(&prepared).await;
    assert!(
        matches!(&told, Err(SubmitError::Unavailable(cause)) if cause.code == "UNREACHABLE"),
        "{told:?}"
    );
    assert!(matches!(
        ledger.lookup(&prepared.tx_id).await,
        Outcome::Unavailable(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_replaced_while_it_is_in_use() {
    let (folder, others) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let devnet = Running::start(folder.path(), 0, network()).await;
    let stranger = Running::start(others.path(), 0, network()).await;
    let own = tempfile::tempdir().expect("a folder");
    let take = |from: &Path| {
        for name in ["user.pem", "user.key"] {
            std::fs::copy(from.join("org1").join(name), own.path().join(name)).expect("copied");
        }
    };
    take(folder.path());
    let ledger = backend(FabricSettings {
        certificate: own.path().join("user.pem"),
        private_key: PrivateKey::File(own.path().join("user.key")),
        ..devnet.ledger.clone()
    });
    for (from, accepted) in [
        (folder.path(), true),
        (others.path(), false),
        (folder.path(), true),
    ] {
        take(from);
        let seen = async {
            while ledger
                .prepare(fresh(), &request("counter", "Add", &["a", "1"]))
                .await
                .is_ok()
                != accepted
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
        assert!(seen.is_ok(), "the files were not taken");
    }
    stranger.end().await;
    devnet.end().await;
}

/// 1,000 at once, with a peer that allows 500 calls for all its clients together.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_in_flight_stay_below_the_limit_of_a_peer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut settings = network();
    settings.blocks.max_message_count = NonZeroU32::new(500).expect("not zero");
    settings.blocks.batch_timeout = Duration::from_millis(500);
    let devnet = Running::start(folder.path(), 0, settings).await;
    let ledger = devnet.backend();
    let mut stream = ledger.outcomes(None);
    let sent = futures_util::future::join_all((0..1_000).map(|n| {
        let ledger = &ledger;
        async move {
            let request = request("counter", "Add", &[&format!("c{n}"), "1"]);
            let prepared = ledger.prepare(fresh(), &request).await.expect("not too many");
            ledger.submit(&prepared).await.expect("not too many");
            prepared.tx_id
        }
    }))
    .await;
    let looked_up = futures_util::future::join_all(sent.iter().map(|id| ledger.lookup(id))).await;
    assert!(
        !looked_up
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Unavailable(_))),
        "look-ups have a bound of their own"
    );
    let ids: Vec<_> = sent.iter().collect();
    let told = outcomes_of(&mut stream, &ids).await;
    assert!(
        told.values()
            .all(|outcome| matches!(outcome, Outcome::Committed(_)))
    );
    devnet.end().await;
}
