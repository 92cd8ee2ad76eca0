//! What has to hold of a network, whatever its clients send.

#![allow(clippy::expect_used, reason = "a broken property panics")]

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::faults::Fault;
use super::proposal::Proposal;
use super::{Devnet, NetworkParts, NetworkSettings, Policy, committer, deliver, endorser, orderer, rwset};
use crate::clock::SystemClock;
use crate::config::SimulatorSettings;
use crate::fabric::identity::{SigningIdentity, parse_private_key};
use crate::fabric::proto::common::{ChannelHeader, Envelope, Header, Payload, SignatureHeader};
use crate::fabric::proto::orderer::SeekInfo;
use crate::fabric::proto::protos::{Proposal as WireProposal, SignedProposal};
use crate::fabric::transaction_id;
use crate::kv::{self, EngineKind};
use crate::ledger::simulator::Claim;

/// A network without a socket, and a client of it.
pub(crate) struct Fuzzed {
    devnet: Devnet,
    client: SigningIdentity,
}

impl Fuzzed {
    /// A new network in `folder`.
    pub(crate) async fn new(folder: &Path) -> Self {
        let settings = NetworkSettings {
            organisations: 2,
            policy: Policy::Majority,
            channel: "mychannel".into(),
            gateway_limit: 1,
            tls: false,
            tls_names: Vec::new(),
            blocks: SimulatorSettings {
                batch_timeout: Duration::from_secs(1),
                max_message_count: NonZeroU32::MIN,
            },
            faults: Vec::new(),
            crash_at: None,
        };
        let devnet = Devnet::open(NetworkParts {
            settings: &settings,
            folder,
            engine: kv::open(EngineKind::Redb, &folder.join("chain"), 1 << 20).expect("opens"),
            address: SocketAddr::from(([127, 0, 0, 1], 7051)),
            clock: Arc::new(SystemClock),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            engine_stop: CancellationToken::new(),
        });
        let read = |name| std::fs::read_to_string(folder.join("org1").join(name)).expect("a file");
        let key = parse_private_key(&read("user.key"), None).expect("a key");
        Self {
            devnet: devnet.expect("starts"),
            client: SigningIdentity::new("Org1MSP", &read("user.pem"), key).expect("an identity"),
        }
    }

    /// The bytes of a proposal: as they are, which nobody endorses, and signed as their client should have done it.
    /// Answers what was endorsed, an encoded payload.
    pub(crate) async fn proposal(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let unsigned = SignedProposal {
            proposal_bytes: bytes.to_vec(),
            signature: Vec::new(),
        };
        let now = self.devnet.clock.now();
        if let Ok(proposal) = Proposal::read(unsigned) {
            assert!(
                proposal.check(&self.devnet.members, now).is_err(),
                "nobody signed it"
            );
        }
        let mut proposal = WireProposal::decode(bytes).ok()?;
        let header = Header::decode(&proposal.header[..]).ok()?;
        proposal.header = self.own(&header)?.encode_to_vec();
        let proposal_bytes = proposal.encode_to_vec();
        let signed = SignedProposal {
            signature: self.client.sign(&proposal_bytes),
            proposal_bytes,
        };
        let proposal = Proposal::read(signed).ok()?;
        let simulated = endorser::simulate(&self.devnet, &proposal).await.ok()?;
        let organisations: Vec<_> = self.devnet.members.organisations.iter().collect();
        let mut envelope = endorser::endorse(&proposal, simulated, &organisations);
        envelope.signature = self.client.sign(&envelope.payload);
        let claim = committer::inspect(&envelope, &self.devnet.members, self.devnet.policy);
        assert!(
            matches!(claim, Claim::Endorsed { .. }),
            "its own endorsement does not hold"
        );
        Some(envelope.payload)
    }

    /// The payload of an envelope that nobody endorsed.
    pub(crate) fn envelope(&self, bytes: &[u8]) {
        let forged = |envelope: &Envelope| {
            let claim = committer::inspect(envelope, &self.devnet.members, self.devnet.policy);
            assert!(!matches!(claim, Claim::Endorsed { .. }), "nobody endorsed it");
        };
        let mut envelope = Envelope {
            payload: bytes.to_vec(),
            signature: Vec::new(),
        };
        assert!(
            orderer::admit(&self.devnet, &envelope, bytes.len()).is_err(),
            "nobody signed it"
        );
        forged(&envelope);
        let Ok(mut payload) = Payload::decode(bytes) else {
            return;
        };
        payload.header = payload.header.and_then(|header| self.own(&header));
        envelope.payload = payload.encode_to_vec();
        envelope.signature = self.client.sign(&envelope.payload);
        forged(&envelope);
    }

    /// The header with what only this client, now, can put into it.
    fn own(&self, header: &Header) -> Option<Header> {
        let mut channel = ChannelHeader::decode(&header.channel_header[..]).ok()?;
        let mut signature = SignatureHeader::decode(&header.signature_header[..]).ok()?;
        signature.creator = self.client.creator().to_vec();
        channel.tx_id = transaction_id(&signature.nonce, &signature.creator);
        channel.timestamp = Some(prost_types::Timestamp {
            seconds: i64::try_from(self.devnet.clock.now().as_millis() / 1_000).ok()?,
            nanos: 0,
        });
        Some(Header {
            channel_header: channel.encode_to_vec(),
            signature_header: signature.encode_to_vec(),
        })
    }
}

/// What a transaction read and wrote, as it travels.
pub(crate) fn read_write_set(bytes: &[u8]) {
    if let Ok(effects) = rwset::decode("basic", bytes) {
        assert_eq!(
            rwset::decode("basic", &rwset::encode("basic", &effects)),
            Ok(effects)
        );
    }
}

/// Which blocks are asked for.
pub(crate) fn seek(bytes: &[u8]) {
    if let Ok(seek) = SeekInfo::decode(bytes)
        && let Some(start) = deliver::first_of(&seek, 7)
    {
        assert!(start <= 8, "a block that is neither there nor next");
    }
}

/// A fault on demand, as JSON.
pub(crate) fn fault(json: &[u8]) {
    let Ok(json) = std::str::from_utf8(json) else {
        return;
    };
    match Fault::parse(json) {
        Ok(fault) => {
            let again = serde_json::to_string(&fault).expect("JSON");
            assert_eq!(Fault::parse(&again), Ok(fault));
        }
        Err(words) => assert!(!words.is_empty()),
    }
}
