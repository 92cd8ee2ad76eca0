//! The Gateway service, as clients that do it right and wrong meet it.

use std::time::Duration;

use prost::Message;
use rcgen::{CertificateParams, DnType, date_time_ymd};
use tonic::Code;

use super::authority::Authority;
use super::membership::Role;
use super::testkit::{Draft, Running};
use super::*;
use crate::fabric::proto::common::{ChannelHeader, Envelope, HeaderType, Payload};
use crate::fabric::proto::protos::{ChaincodeActionPayload, Transaction};
use crate::fabric::status::details;
use crate::ledger::simulator::{Claim, ValidationCode};

const VALID: i32 = 0;
const BAD_PROPOSAL_TXID: i32 = 8;
const DUPLICATE_TXID: i32 = 9;
const ENDORSEMENT_POLICY_FAILURE: i32 = 10;
const MVCC_READ_CONFLICT: i32 = 11;
const INVALID_ENDORSER_TRANSACTION: i32 = 5;

#[tokio::test]
async fn a_transaction_goes_all_the_way() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    let (id, envelope) = client.add("hits", "2").await;
    assert_eq!(client.settle(&id, &envelope).await, (VALID, 1));
    assert_eq!(
        client.evaluate("counter", &["Get", "hits"]).await.expect("asked"),
        "2"
    );
    let (late, envelope) = client.add("hits", "1").await;
    let (first, rival) = client.add("hits", "5").await;
    assert_eq!(client.settle(&first, &rival).await.0, VALID);
    assert_eq!(client.settle(&late, &envelope).await.0, MVCC_READ_CONFLICT);
    running.stop().await;
}

#[tokio::test]
async fn the_same_transaction_takes_effect_once_and_keeps_its_first_verdict() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    let (id, envelope) = client.add("hits", "2").await;
    for _ in 0..3 {
        client.submit(&envelope).await.expect("taken");
    }
    assert_eq!(client.settle(&id, &envelope).await, (VALID, 1));
    let mut heights = running.devnet.engine.heights();
    let mut codes = Vec::new();
    while codes.len() < 4 {
        codes.clear();
        for number in 1..=running.devnet.engine.height() {
            let block = running
                .devnet
                .engine
                .block(number)
                .await
                .expect("readable")
                .expect("there");
            codes.extend(block.entries.iter().map(|entry| entry.code as i32));
        }
        let _soon = tokio::time::timeout(Duration::from_millis(100), heights.changed()).await;
    }
    assert_eq!(codes, [VALID, DUPLICATE_TXID, DUPLICATE_TXID, DUPLICATE_TXID]);
    assert_eq!(
        client.evaluate("counter", &["Get", "hits"]).await.expect("asked"),
        "2"
    );
    assert_eq!(client.status(&id).await.expect("known").block_number, 1);
    running.stop().await;
}

#[tokio::test]
async fn the_policy_counts_organisations_that_really_signed() {
    for (policy, by, expected) in [
        (Policy::Any, vec!["Org1MSP"], VALID),
        (Policy::Majority, vec!["Org2MSP"], ENDORSEMENT_POLICY_FAILURE),
        (Policy::All, vec!["Org1MSP", "Org2MSP"], VALID),
    ] {
        let running = Running::start(|settings| settings.policy = policy).await;
        let client = running.client(1).await;
        let (id, envelope) = client
            .endorse("counter", &["Add", "n", "1"], &by)
            .await
            .expect("endorsed");
        assert_eq!(client.settle(&id, &envelope).await.0, expected, "{policy}");
        running.stop().await;
    }
    // The same peer twice, and one whose signature is broken, are no majority.
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    for broken in [false, true] {
        let (id, envelope) = client.add("n", "1").await;
        let mut payload = Payload::decode(envelope.payload.as_slice()).expect("a payload");
        let mut transaction = Transaction::decode(payload.data.as_slice()).expect("a transaction");
        let bytes = transaction.actions[0].payload.as_slice();
        let mut action = ChaincodeActionPayload::decode(bytes).expect("an action");
        let endorsements = &mut action.action.as_mut().expect("endorsed").endorsements;
        assert_eq!(endorsements.len(), 2);
        if broken {
            endorsements[1].signature[10] ^= 1;
        } else {
            endorsements[1] = endorsements[0].clone();
        }
        transaction.actions[0].payload = action.encode_to_vec();
        payload.data = transaction.encode_to_vec();
        let mut changed = envelope.clone();
        changed.payload = payload.encode_to_vec();
        changed.signature = client.identity.sign(&changed.payload);
        assert_eq!(client.settle(&id, &changed).await.0, ENDORSEMENT_POLICY_FAILURE);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_proposal_is_refused_in_a_peers_words() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    let denied = "error validating proposal: access denied: channel [mychannel] creator org [Org1MSP]";
    type Change = fn(&mut Draft);
    let cases: [(Change, &str); 8] = [
        (
            |draft| draft.channel.tx_id = "AB".into(),
            "error validating proposal: incorrectly computed txid 'AB' -- expected '",
        ),
        (
            |draft| draft.channel.epoch = 1,
            "error validating proposal: epoch is non-zero",
        ),
        (
            |draft| draft.channel.r#type = 0,
            "error validating proposal: invalid header type MESSAGE",
        ),
        (
            |draft| draft.signature.nonce.clear(),
            "error validating proposal: nonce is empty",
        ),
        (
            |draft| draft.channel.extension.clear(),
            "ChaincodeHeaderExtension.ChaincodeId is nil",
        ),
        (
            |draft| draft.spec.input = None,
            "chaincode input did not contain any input",
        ),
        (
            |draft| draft.channel.timestamp = None,
            "request unauthorized due to incorrect timestamp 1970-01-01T00:00:00Z, peer time ",
        ),
        (
            |draft| draft.spec.input.as_mut().expect("input").args = vec![b"Nothing".to_vec()],
            "chaincode response 500, counter has no function \"Nothing\"",
        ),
    ];
    for (change, words) in cases {
        let mut draft = client.draft("counter", &["Get", "hits"]);
        change(&mut draft);
        let error = client
            .endorse_signed(client.sign(&draft), &[])
            .await
            .expect_err(words);
        assert_eq!(
            (error.code(), error.message()),
            (
                Code::Aborted,
                "failed to endorse transaction, see attached details for more info"
            )
        );
        let told = details(&error);
        assert_eq!((told.len(), told[0].msp_id.as_str()), (1, "Org1MSP"));
        assert!(told[0].message.starts_with(words), "{told:?}");
        let error = client
            .endorse_signed(client.sign(&draft), &["Org1MSP", "Org2MSP"])
            .await
            .expect_err(words);
        assert_eq!(
            error.message(),
            "failed to collect enough transaction endorsements, see attached details for more info"
        );
        assert_eq!(details(&error).len(), 2);
    }
    // Signed by somebody else, and altered after it was signed.
    let other = running.client(2).await;
    let signed = other.sign(&client.draft("counter", &["Get", "hits"]));
    let error = client.evaluate_signed(signed).await.expect_err("refused");
    assert_eq!(
        (error.code(), details(&error)[0].message.as_str()),
        (Code::FailedPrecondition, denied)
    );
    let mut signed = client.sign(&client.draft("counter", &["Get", "hits"]));
    signed.proposal_bytes = client
        .sign(&client.draft("counter", &["Get", "misses"]))
        .proposal_bytes;
    assert_eq!(
        client.evaluate_signed(signed).await.expect_err("refused").code(),
        Code::FailedPrecondition
    );
    let mut draft = client.draft("counter", &["Get", "hits"]);
    draft.channel.timestamp = None;
    let error = client
        .evaluate_signed(client.sign(&draft))
        .await
        .expect_err("refused");
    assert_eq!(error.code(), Code::Unavailable);
    assert!(
        details(&error)[1]
            .message
            .starts_with("rpc error: code = Unknown desc = request unauthorized")
    );
    running.stop().await;
}

#[tokio::test]
async fn only_certified_members_with_a_valid_certificate_are_served() {
    let running = Running::start(|_| {}).await;
    let (stranger, _) = Authority::new("ca.org1.devnet").expect("made");
    let stranger = stranger.member("user1@org1.devnet", "client").expect("certified");
    let client = running.client_with("Org1MSP", &stranger).await;
    let error = client
        .evaluate("counter", &["Get", "n"])
        .await
        .expect_err("refused");
    assert!(
        error
            .message()
            .ends_with("creator org unknown, creator is malformed"),
        "{error}"
    );

    // The authority is not kept by the network, so its files are used as `authority` itself would.
    let authority =
        Authority::keep(&running.folder.path().join("org1"), "ca", "ca.org1.devnet").expect("kept");
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "client");
    params.not_after = date_time_ymd(2021, 1, 1);
    let expired = authority.certify(params).expect("certified");
    let client = running.client_with("Org1MSP", &expired).await;
    let error = client
        .endorse("counter", &["Get", "n"], &[])
        .await
        .expect_err("refused");
    assert_eq!(details(&error)[0].message, "proposal client identity expired");

    let nobody = authority.member("somebody", "printer").expect("certified");
    let client = running.client_with("Org1MSP", &nobody).await;
    let error = client
        .evaluate("counter", &["Get", "n"])
        .await
        .expect_err("refused");
    assert!(
        error
            .message()
            .ends_with("channel [mychannel] creator org [Org1MSP]"),
        "{error}"
    );

    let peer = running.client_of(1, "peer").await;
    let error = peer
        .evaluate("counter", &["Get", "n"])
        .await
        .expect_err("refused");
    assert!(
        error.message().contains("policy [/Channel/Application/Writers]"),
        "{error}"
    );
    let member = running
        .devnet
        .members
        .identify(peer.identity.creator())
        .expect("known");
    assert_eq!(member.role, Role::Peer);
    running.stop().await;
}

#[tokio::test]
async fn an_envelope_is_judged_by_orderer_and_committer() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    let (_, envelope) = client.add("n", "1").await;
    let mut forged = envelope.clone();
    forged.signature = running.client(2).await.identity.sign(&forged.payload);
    let error = client.submit(&forged).await.expect_err("refused");
    assert_eq!(error.code(), Code::Aborted);
    assert!(
        error
            .message()
            .starts_with("received unsuccessful response from orderer: status=FORBIDDEN, info=")
    );
    assert!(error.message().ends_with(": permission denied"), "{error}");

    // An identifier that is not the hash of nonce and creator is used up all the same.
    let change = |change: &dyn Fn(&mut ChannelHeader)| {
        let mut payload = Payload::decode(envelope.payload.as_slice()).expect("a payload");
        let header = payload.header.as_mut().expect("a header");
        let mut channel = Message::decode(header.channel_header.as_slice()).expect("a channel header");
        change(&mut channel);
        header.channel_header = channel.encode_to_vec();
        let mut changed = envelope.clone();
        changed.payload = payload.encode_to_vec();
        changed.signature = client.identity.sign(&changed.payload);
        changed
    };
    let burnt = change(&|channel| channel.tx_id = "burnt".into());
    assert_eq!(client.settle("burnt", &burnt).await.0, BAD_PROPOSAL_TXID);
    let later = change(&|channel| channel.timestamp = None);
    let own = Payload::decode(envelope.payload.as_slice()).expect("a payload");
    let own: ChannelHeader =
        Message::decode(own.header.expect("a header").channel_header.as_slice()).expect("a channel header");
    assert_eq!(
        client.settle(&own.tx_id, &later).await.0,
        INVALID_ENDORSER_TRANSACTION
    );
    let elsewhere = change(&|channel| channel.channel_id = "other".into());
    let error = client.submit(&elsewhere).await.expect_err("refused");
    assert!(
        error
            .message()
            .ends_with("status=BAD_REQUEST, info=channel does not exist"),
        "{error}"
    );
    assert_eq!(
        client.evaluate("counter", &["Get", "n"]).await.expect("asked"),
        "0"
    );
    running.stop().await;
}

#[tokio::test]
async fn waiting_calls_count_towards_the_limit() {
    let running = Running::start(|settings| settings.gateway_limit = 2).await;
    let client = Arc::new(running.client(1).await);
    let waiting: Vec<_> = ["a", "b"]
        .into_iter()
        .map(|id| {
            let client = Arc::clone(&client);
            running.tasks().spawn(async move { client.status(id).await })
        })
        .collect();
    while running.devnet.gateway_limit.busy() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let error = client
        .evaluate("counter", &["Get", "n"])
        .await
        .expect_err("too many");
    assert_eq!(
        (error.code(), error.message()),
        (
            Code::Unknown,
            "too many requests for /gateway.Gateway, exceeding concurrency limit (2)"
        )
    );
    for call in waiting {
        call.abort();
    }
    while client.evaluate("counter", &["Get", "n"]).await.is_err() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    running.stop().await;
}

/// What an orderer keeps out as a rule, and a committing peer has to find all the same.
#[tokio::test]
async fn a_malformed_envelope_is_named_for_what_is_wrong() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    let (_, good) = client.add("n", "1").await;
    let inspect =
        |envelope: &Envelope| committer::inspect(envelope, &running.devnet.members, Policy::Majority);
    assert!(matches!(inspect(&good), Claim::Endorsed { .. }));
    let mut forged = good.clone();
    forged.signature[10] ^= 1;
    let mut rubbish = good.clone();
    rubbish.payload = vec![0xff];
    let of_type = |kind: HeaderType| {
        let header = ChannelHeader {
            r#type: kind as i32,
            ..client.draft("counter", &[]).channel
        };
        client.envelope(&header, Vec::new())
    };
    for (envelope, expected) in [
        (forged, ValidationCode::BadCreatorSignature),
        (rubbish, ValidationCode::BadPayload),
        (Envelope::default(), ValidationCode::BadCommonHeader),
        (of_type(HeaderType::Message), ValidationCode::BadCommonHeader),
        (
            of_type(HeaderType::ConfigUpdate),
            ValidationCode::UnsupportedTxPayload,
        ),
    ] {
        assert_eq!(inspect(&envelope), Claim::Malformed(expected));
    }
    running.stop().await;
}
