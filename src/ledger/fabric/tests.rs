//! What goes out and comes back, without a network.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;

use super::endorsement::{Endorsed, answer};
use super::proposal::{Call, Sender};
use super::wallet::Wallet;
use crate::clock::SystemClock;
use crate::config::{FabricSettings, KeysKept, PrivateKey, Secret, TlsIdentity};
use crate::domain::{Argument, Timestamp};
use crate::fabric::identity::{SigningIdentity, parse_certificate, parse_private_key, public_key, verify};
use crate::fabric::proto::common::{ChannelHeader, Header, Payload, SignatureHeader};
use crate::fabric::proto::kvrwset::range_query_info::ReadsInfo;
use crate::fabric::proto::kvrwset::{KvRead, KvWrite, KvrwSet, QueryReads, RangeQueryInfo};
use crate::fabric::proto::protos::{
    ChaincodeAction, ChaincodeActionPayload, ChaincodeEndorsedAction, ChaincodeHeaderExtension,
    ChaincodeInvocationSpec, ChaincodeProposalPayload, Proposal, ProposalResponsePayload, Response,
    Transaction, TransactionAction,
};
use crate::fabric::proto::rwset::{NsReadWriteSet, TxReadWriteSet};
use crate::fabric::transaction_id;

/// A certificate and its key.
fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    (
        params.self_signed(&key).expect("a certificate").pem(),
        key.serialize_pem(),
    )
}

fn identity() -> (SigningIdentity, String) {
    let (certificate, key) = pair();
    let key = parse_private_key(&key, None).expect("a key");
    (
        SigningIdentity::new("Org1MSP", &certificate, key).expect("an identity"),
        certificate,
    )
}

#[test]
fn a_proposal_says_what_was_asked_for_and_is_signed() {
    let (identity, certificate) = identity();
    let sender = Sender {
        identity: &identity,
        channel: "mychannel",
        now: Timestamp::from_millis(1_500),
        tls_cert_hash: b"hash",
    };
    let number: Argument = serde_json::from_str("{ \"n\": 0.10 }").expect("JSON");
    let call = Call {
        contract: "basic:Assets",
        function: "Create",
        args: &[Argument::text("a \"text\""), number],
    };
    let transient = [("price".to_owned(), STANDARD.encode("100"))];
    let (tx_id, signed) = sender.propose(
        [7; 24],
        &call,
        transient.iter().map(|(name, value)| (name, value)),
    );

    let key = public_key(&parse_certificate(&certificate).expect("a certificate")).expect("P-256");
    assert!(verify(&key, &signed.proposal_bytes, &signed.signature));
    let proposal = Proposal::decode(signed.proposal_bytes.as_slice()).expect("a proposal");
    let header = Header::decode(proposal.header.as_slice()).expect("a header");
    let channel = ChannelHeader::decode(header.channel_header.as_slice()).expect("a channel header");
    let signer = SignatureHeader::decode(header.signature_header.as_slice()).expect("a signature header");
    assert_eq!(channel.tx_id, tx_id);
    assert_eq!(tx_id, transaction_id(&signer.nonce, &signer.creator));
    assert_eq!((channel.r#type, channel.channel_id.as_str()), (3, "mychannel"));
    assert_eq!(
        channel.timestamp.map(|time| (time.seconds, time.nanos)),
        Some((1, 500_000_000))
    );
    assert_eq!(channel.tls_cert_hash, b"hash");
    let extension = ChaincodeHeaderExtension::decode(channel.extension.as_slice()).expect("an extension");
    assert_eq!(extension.chaincode_id.expect("a chaincode").name, "basic");
    let payload = ChaincodeProposalPayload::decode(proposal.payload.as_slice()).expect("a payload");
    assert_eq!(payload.transient_map["price"], b"100");
    let input = ChaincodeInvocationSpec::decode(payload.input.as_slice()).expect("an input");
    let args = input
        .chaincode_spec
        .and_then(|spec| spec.input)
        .expect("arguments")
        .args;
    assert_eq!(args, [&b"Assets:Create"[..], b"a \"text\"", b"{\"n\":0.10}"]);

    assert_eq!(signer.nonce, [7; 24], "the submission names the transaction");
    let (other, _) = sender.propose([8; 24], &call, std::iter::empty());
    assert_ne!(other, tx_id);
}

/// An endorsed transaction as a peer sends it.
fn endorsed(tx_id: &str, payload: &[u8]) -> Vec<u8> {
    let read = |key: &str| KvRead {
        key: key.to_owned(),
        version: None,
    };
    let keys = KvrwSet {
        reads: vec![read("b"), read("a")],
        range_queries_info: vec![RangeQueryInfo {
            reads_info: Some(ReadsInfo::RawReads(QueryReads {
                kv_reads: vec![read("r")],
            })),
            ..RangeQueryInfo::default()
        }],
        writes: vec![KvWrite {
            key: "a".to_owned(),
            ..KvWrite::default()
        }],
    };
    let set = |namespace: &str| NsReadWriteSet {
        namespace: namespace.to_owned(),
        rwset: keys.encode_to_vec(),
    };
    let action = ChaincodeAction {
        results: TxReadWriteSet {
            data_model: 0,
            ns_rwset: vec![set("_lifecycle"), set("basic")],
        }
        .encode_to_vec(),
        response: Some(Response {
            status: 200,
            payload: payload.to_vec(),
            ..Response::default()
        }),
        ..ChaincodeAction::default()
    };
    let response = ProposalResponsePayload {
        extension: action.encode_to_vec(),
        ..ProposalResponsePayload::default()
    };
    let action = ChaincodeActionPayload {
        action: Some(ChaincodeEndorsedAction {
            proposal_response_payload: response.encode_to_vec(),
            endorsements: Vec::new(),
        }),
        ..ChaincodeActionPayload::default()
    };
    let transaction = Transaction {
        actions: vec![TransactionAction {
            payload: action.encode_to_vec(),
            ..TransactionAction::default()
        }],
    };
    let channel = ChannelHeader {
        tx_id: tx_id.to_owned(),
        ..ChannelHeader::default()
    };
    Payload {
        header: Some(Header {
            channel_header: channel.encode_to_vec(),
            ..Header::default()
        }),
        data: transaction.encode_to_vec(),
    }
    .encode_to_vec()
}

#[test]
fn an_endorsement_tells_its_id_its_answer_and_its_keys() {
    let read = |keys| Endorsed::read(&endorsed("ab12", b"{\"n\":0.10}"), keys).expect("readable");
    let plain = read(KeysKept::Plain);
    assert_eq!(plain.tx_id, "ab12");
    assert_eq!(plain.response.expect("an answer").get(), "{\"n\":0.10}");
    let touched = plain.touched.expect("keys");
    assert_eq!(touched.reads, ["basic/a", "basic/b", "basic/r"]);
    assert_eq!(touched.writes, ["basic/a"]);
    let hashed = read(KeysKept::Hashed).touched.expect("hashes");
    // SHA-256 of "a".
    assert_eq!(hashed.writes, ["basic/sha256:ca978112ca1bbdcafac231b39a23dc4d"]);
    assert!(read(KeysKept::Nothing).touched.is_none());
}

#[test]
fn what_is_no_endorsement_is_told_and_never_panics() {
    let whole = endorsed("ab12", b"x");
    for cut in 0..whole.len() {
        // A shorter message may be a valid one of another meaning; it must only not panic.
        let _read = Endorsed::read(&whole[..cut], KeysKept::Plain);
    }
    assert!(Endorsed::read(b"", KeysKept::Plain).is_err());
    assert!(Endorsed::read(&[0xff; 40], KeysKept::Plain).is_err());
}

#[test]
fn answers_become_json() {
    let json = |bytes: &[u8]| answer(bytes).map(|json| json.get().to_owned());
    assert_eq!(json(b""), None);
    assert_eq!(json(b"{\"a\": 1.10}").as_deref(), Some("{\"a\": 1.10}"));
    assert_eq!(json(b"007").as_deref(), Some("\"007\""));
    assert_eq!(
        json("plain \u{e9}".as_bytes()).as_deref(),
        Some("\"plain \u{e9}\"")
    );
    assert_eq!(json(&[0xff, 0]).as_deref(), Some("{\"base64\":\"/wA=\"}"));
}

fn settings(folder: &std::path::Path) -> FabricSettings {
    FabricSettings {
        peers: vec!["http://127.0.0.1:1".parse().expect("an address")],
        channel: "mychannel".to_owned(),
        default_contract: None,
        msp_id: "Org1MSP".to_owned(),
        certificate: folder.join("user.pem"),
        private_key: PrivateKey::File(folder.join("user.key")),
        private_key_passphrase: None,
        tls_ca: None,
        tls_server_name: None,
        tls_identity: None,
        endorsing_organizations: Vec::new(),
        endorse_timeout: Duration::from_secs(1),
        submit_timeout: Duration::from_secs(1),
        evaluate_timeout: Duration::from_secs(1),
        commit_status_timeout: Duration::from_secs(1),
        stall_after: Duration::from_secs(1),
        start_block: None,
        keys: KeysKept::Plain,
    }
}

#[test]
fn an_identity_is_replaced_when_its_files_fit_together_again_and_not_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    let ((first, first_key), (second, second_key)) = (pair(), pair());
    write("user.pem", &first);
    write("user.key", &first_key);
    let wallet = Wallet::open(&settings(folder.path()), &SystemClock).expect("an identity");
    let creator = wallet.keys().identity.creator().to_vec();
    assert!(!wallet.look(&SystemClock).expect("unchanged"));

    write("user.pem", &second);
    let error = wallet
        .look(&SystemClock)
        .expect_err("half of a change")
        .to_string();
    assert!(error.contains("not the one of the certificate"), "{error}");
    assert_eq!(
        wallet.keys().identity.creator(),
        creator,
        "the old identity stays in use"
    );

    write("user.key", &second_key);
    assert!(wallet.look(&SystemClock).expect("a whole change"));
    assert_ne!(wallet.keys().identity.creator(), creator);
    assert!(!wallet.look(&SystemClock).expect("unchanged"));
}

#[test]
fn it_is_known_when_our_certificates_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = pair();
    std::fs::write(folder.path().join("user.pem"), certificate).expect("written");
    std::fs::write(folder.path().join("user.key"), key).expect("written");
    let mut settings = settings(folder.path());
    settings.tls_identity = Some(TlsIdentity {
        cert: folder.path().join("user.pem"),
        key: folder.path().join("user.key"),
    });
    let wallet = Wallet::open(&settings, &SystemClock).expect("an identity");
    // As certificates end that are made without saying when.
    let end = Timestamp::parse_rfc3339("4096-01-01T00:00:00Z").expect("a moment");
    assert_eq!(wallet.keys().ends, [("certificate", end), ("tls_cert", end)]);
}

#[test]
fn files_that_are_no_identity_are_told_by_their_setting() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = |settings: &FabricSettings| match Wallet::open(settings, &SystemClock) {
        Ok(_) => panic!("this is no identity"),
        Err(error) => error.to_string(),
    };
    let mut settings = settings(folder.path());
    assert!(
        told(&settings).contains("private_key: cannot read"),
        "{}",
        told(&settings)
    );
    let (certificate, key) = pair();
    std::fs::write(&settings.certificate, "nonsense").expect("written");
    settings.private_key = PrivateKey::Here(Secret::new("-----BEGIN PRIVATE KEY-----\nAAAA"));
    assert!(
        told(&settings).starts_with("private_key_pem: the private key cannot be read"),
        "{}",
        told(&settings)
    );
    assert!(!told(&settings).contains("AAAA"));
    settings.private_key = PrivateKey::Here(Secret::new(&*key));
    assert!(
        told(&settings).starts_with("certificate: the certificate is not a PEM"),
        "{}",
        told(&settings)
    );
    std::fs::write(&settings.certificate, certificate).expect("written");
    assert!(Wallet::open(&settings, &SystemClock).is_ok());
    settings.peers = vec!["https://localhost:1".parse().expect("an address")];
    settings.tls_ca = Some(folder.path().join("user.key"));
    std::fs::write(folder.path().join("user.key"), key).expect("written");
    assert!(
        told(&settings).starts_with("tls_ca: the file holds no certificate"),
        "{}",
        told(&settings)
    );
}
