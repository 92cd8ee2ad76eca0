//! What the devnet's tests share: a running network on a socket, and a client that can also do it wrong.

use std::num::NonZeroU32;
use std::time::Duration;

use prost::Message;
use tonic::transport::Channel;

use super::*;
use crate::clock::SystemClock;
use crate::fabric::identity::{SigningIdentity, parse_private_key};
use crate::fabric::proto::common::{ChannelHeader, Envelope, Header, HeaderType, Payload, SignatureHeader};
use crate::fabric::proto::gateway::gateway_client::GatewayClient;
use crate::fabric::proto::gateway::{
    CommitStatusRequest, CommitStatusResponse, EndorseRequest, EvaluateRequest, SignedCommitStatusRequest,
    SubmitRequest,
};
use crate::fabric::proto::protos::deliver_client::DeliverClient;
use crate::fabric::proto::protos::{
    ChaincodeHeaderExtension, ChaincodeId, ChaincodeInput, ChaincodeInvocationSpec, ChaincodeProposalPayload,
    ChaincodeSpec, Proposal, SignedProposal,
};
use crate::fabric::transaction_id;
use crate::kv::{self, EngineKind};

/// A network without TLS on a port of its own.
pub(super) struct Running {
    pub(super) devnet: Arc<Devnet>,
    pub(super) address: SocketAddr,
    pub(super) folder: Arc<tempfile::TempDir>,
    tasks: TaskTracker,
    stop: CancellationToken,
    engine_stop: CancellationToken,
}

/// Two organisations, quick blocks.
pub(super) fn settings() -> NetworkSettings {
    NetworkSettings {
        organisations: 2,
        policy: Policy::Majority,
        channel: "mychannel".into(),
        gateway_limit: 500,
        tls: false,
        tls_names: Vec::new(),
        blocks: SimulatorSettings {
            batch_timeout: Duration::from_millis(20),
            max_message_count: NonZeroU32::MAX,
        },
        faults: Vec::new(),
        crash_at: None,
    }
}

impl Running {
    pub(super) async fn start(change: impl FnOnce(&mut NetworkSettings)) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().expect("folder")), change).await
    }

    /// On a folder that may hold one already.
    pub(super) async fn start_in(
        folder: Arc<tempfile::TempDir>,
        change: impl FnOnce(&mut NetworkSettings),
    ) -> Self {
        let mut settings = settings();
        change(&mut settings);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let tasks = TaskTracker::new();
        let (stop, engine_stop) = (CancellationToken::new(), CancellationToken::new());
        let engine = kv::open(EngineKind::Redb, &folder.path().join("chain"), 1 << 20).expect("opens");
        let devnet = Devnet::open(NetworkParts {
            settings: &settings,
            folder: folder.path(),
            engine,
            address,
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
            stop: stop.clone(),
            engine_stop: engine_stop.clone(),
        });
        let devnet = Arc::new(devnet.expect("starts"));
        tasks.spawn(serve(Arc::clone(&devnet), listener));
        Self {
            devnet,
            address,
            folder,
            tasks,
            stop,
            engine_stop,
        }
    }

    /// Where calls beside the test can run.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Stops it in an orderly way; its folder stays.
    pub(super) async fn stop(self) -> Arc<tempfile::TempDir> {
        self.stop.cancel();
        self.engine_stop.cancel();
        drop(self.devnet);
        self.tasks.close();
        self.tasks.wait().await;
        self.folder
    }

    /// The client user of an organisation.
    pub(super) async fn client(&self, organisation: u8) -> Client {
        self.client_of(organisation, "user").await
    }

    /// A client that signs with the certificate `stem` of an organisation.
    pub(super) async fn client_of(&self, organisation: u8, stem: &str) -> Client {
        let folder = self.folder.path().join(format!("org{organisation}"));
        let read = |name: String| std::fs::read_to_string(folder.join(name)).expect("a file");
        let pair = authority::Pair {
            certificate: read(format!("{stem}.pem")),
            key: read(format!("{stem}.key")),
        };
        self.client_with(&format!("Org{organisation}MSP"), &pair).await
    }

    pub(super) async fn client_with(&self, msp_id: &str, pair: &authority::Pair) -> Client {
        let key = parse_private_key(&pair.key, None).expect("a key");
        let address = format!("http://{}", self.address);
        let endpoint = Channel::from_shared(address).expect("an address");
        let line = endpoint.connect().await.expect("connects");
        Client {
            identity: SigningIdentity::new(msp_id, &pair.certificate, key).expect("an identity"),
            gateway: GatewayClient::new(line.clone()),
            deliver: DeliverClient::new(line),
        }
    }
}

/// What is to be proposed, with room for mistakes.
pub(super) struct Draft {
    pub(super) channel: ChannelHeader,
    pub(super) signature: SignatureHeader,
    pub(super) spec: ChaincodeSpec,
}

/// A client of the network.
pub(super) struct Client {
    pub(super) identity: SigningIdentity,
    pub(super) gateway: GatewayClient<Channel>,
    pub(super) deliver: DeliverClient<Channel>,
}

pub(super) fn now() -> prost_types::Timestamp {
    let millis = SystemClock.now().as_millis();
    prost_types::Timestamp {
        seconds: i64::try_from(millis / 1000).expect("soon"),
        nanos: 0,
    }
}

impl Client {
    /// A proposal as it should be.
    pub(super) fn draft(&self, chaincode: &str, words: &[&str]) -> Draft {
        let nonce: [u8; 24] = rand::random();
        let id = ChaincodeId {
            name: chaincode.into(),
            ..ChaincodeId::default()
        };
        let extension = ChaincodeHeaderExtension {
            chaincode_id: Some(id.clone()),
        };
        let creator = self.identity.creator().to_vec();
        Draft {
            channel: ChannelHeader {
                r#type: HeaderType::EndorserTransaction as i32,
                timestamp: Some(now()),
                channel_id: "mychannel".into(),
                tx_id: transaction_id(&nonce, &creator),
                extension: extension.encode_to_vec(),
                ..ChannelHeader::default()
            },
            signature: SignatureHeader {
                creator,
                nonce: nonce.into(),
            },
            spec: ChaincodeSpec {
                r#type: 0,
                chaincode_id: Some(id),
                input: Some(ChaincodeInput {
                    args: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
                }),
            },
        }
    }

    pub(super) fn sign(&self, draft: &Draft) -> SignedProposal {
        let header = Header {
            channel_header: draft.channel.encode_to_vec(),
            signature_header: draft.signature.encode_to_vec(),
        };
        let input = ChaincodeInvocationSpec {
            chaincode_spec: Some(draft.spec.clone()),
        };
        let payload = ChaincodeProposalPayload {
            input: input.encode_to_vec(),
            ..ChaincodeProposalPayload::default()
        };
        let proposal = Proposal {
            header: header.encode_to_vec(),
            payload: payload.encode_to_vec(),
        };
        let proposal_bytes = proposal.encode_to_vec();
        SignedProposal {
            signature: self.identity.sign(&proposal_bytes),
            proposal_bytes,
        }
    }

    pub(super) async fn evaluate_signed(&self, signed: SignedProposal) -> Result<String, Status> {
        let request = EvaluateRequest {
            proposed_transaction: Some(signed),
            ..EvaluateRequest::default()
        };
        let reply = self.gateway.clone().evaluate(request).await?.into_inner();
        Ok(String::from_utf8(reply.result.expect("a result").payload).expect("text"))
    }

    pub(super) async fn evaluate(&self, chaincode: &str, words: &[&str]) -> Result<String, Status> {
        self.evaluate_signed(self.sign(&self.draft(chaincode, words)))
            .await
    }

    pub(super) async fn endorse_signed(
        &self,
        signed: SignedProposal,
        by: &[&str],
    ) -> Result<Envelope, Status> {
        let request = EndorseRequest {
            proposed_transaction: Some(signed),
            endorsing_organizations: by.iter().map(|&name| name.to_owned()).collect(),
            ..EndorseRequest::default()
        };
        let reply = self.gateway.clone().endorse(request).await?.into_inner();
        let mut envelope = reply.prepared_transaction.expect("a transaction");
        envelope.signature = self.identity.sign(&envelope.payload);
        Ok(envelope)
    }

    /// An endorsed and signed transaction with its identifier.
    pub(super) async fn endorse(
        &self,
        chaincode: &str,
        words: &[&str],
        by: &[&str],
    ) -> Result<(String, Envelope), Status> {
        let draft = self.draft(chaincode, words);
        let envelope = self.endorse_signed(self.sign(&draft), by).await?;
        Ok((draft.channel.tx_id, envelope))
    }

    /// An endorsed `Add` to a counter.
    pub(super) async fn add(&self, counter: &str, amount: &str) -> (String, Envelope) {
        let endorsed = self.endorse("counter", &["Add", counter, amount], &[]).await;
        endorsed.expect("endorsed")
    }

    pub(super) async fn submit(&self, envelope: &Envelope) -> Result<(), Status> {
        let request = SubmitRequest {
            channel_id: "mychannel".into(),
            prepared_transaction: Some(envelope.clone()),
            ..SubmitRequest::default()
        };
        self.gateway.clone().submit(request).await.map(drop)
    }

    pub(super) async fn status(&self, tx_id: &str) -> Result<CommitStatusResponse, Status> {
        let request = CommitStatusRequest {
            transaction_id: tx_id.into(),
            channel_id: "mychannel".into(),
            identity: self.identity.creator().to_vec(),
        };
        let request = request.encode_to_vec();
        let signed = SignedCommitStatusRequest {
            signature: self.identity.sign(&request),
            request,
        };
        Ok(self.gateway.clone().commit_status(signed).await?.into_inner())
    }

    /// Submits and waits; the code and the block.
    pub(super) async fn settle(&self, tx_id: &str, envelope: &Envelope) -> (i32, u64) {
        self.submit(envelope).await.expect("taken");
        let status = self.status(tx_id).await.expect("settled");
        (status.result, status.block_number)
    }

    /// Signs a payload of this kind and header.
    pub(super) fn envelope(&self, channel: &ChannelHeader, data: Vec<u8>) -> Envelope {
        let signature = SignatureHeader {
            creator: self.identity.creator().to_vec(),
            nonce: vec![7; 24],
        };
        let payload = Payload {
            header: Some(Header {
                channel_header: channel.encode_to_vec(),
                signature_header: signature.encode_to_vec(),
            }),
            data,
        };
        let payload = payload.encode_to_vec();
        Envelope {
            signature: self.identity.sign(&payload),
            payload,
        }
    }
}
