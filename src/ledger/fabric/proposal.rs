//! What we send: proposals, signed envelopes, and requests for a status or for blocks.
//!
//! Invariant: the transaction id follows from the nonce and the creator, so it is known before anything is sent
//! and nobody can give it another meaning.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use prost_types::Timestamp as WireTime;

use crate::domain::{Argument, Timestamp};
use crate::fabric::identity::SigningIdentity;
use crate::fabric::proto::common::{ChannelHeader, Envelope, Header, HeaderType, Payload, SignatureHeader};
use crate::fabric::proto::gateway::{CommitStatusRequest, SignedCommitStatusRequest};
use crate::fabric::proto::orderer::seek_info::SeekBehavior;
use crate::fabric::proto::orderer::{SeekInfo, SeekPosition, SeekSpecified, seek_position};
use crate::fabric::proto::protos::{
    ChaincodeHeaderExtension, ChaincodeId, ChaincodeInput, ChaincodeInvocationSpec, ChaincodeProposalPayload,
    ChaincodeSpec, Proposal, SignedProposal, chaincode_spec,
};
use crate::fabric::{NONCE_BYTES, transaction_id};

/// A contract call as a chaincode sees it.
pub(super) struct Call<'a> {
    /// `chaincode`, or `chaincode:Contract` for chaincodes that hold several contracts.
    pub(super) contract: &'a str,
    /// The function.
    pub(super) function: &'a str,
    /// Its arguments.
    pub(super) args: &'a [Argument],
}

impl Call<'_> {
    /// The chaincode's name.
    pub(super) fn chaincode(&self) -> &str {
        chaincode(self.contract)
    }

    /// The function's name for the chaincode, then the arguments.
    fn input(&self) -> Vec<Vec<u8>> {
        let function = match self.contract.split_once(':') {
            Some((_, contract)) => format!("{contract}:{}", self.function),
            None => self.function.to_owned(),
        };
        let args = self
            .args
            .iter()
            .map(|arg| arg.ledger_text().into_owned().into_bytes());
        std::iter::once(function.into_bytes()).chain(args).collect()
    }
}

/// The chaincode in `chaincode:Contract`.
pub(super) fn chaincode(contract: &str) -> &str {
    contract
        .split_once(':')
        .map_or(contract, |(chaincode, _)| chaincode)
}

/// Who sends to which channel, and when.
pub(super) struct Sender<'a> {
    /// Signs.
    pub(super) identity: &'a SigningIdentity,
    /// The channel.
    pub(super) channel: &'a str,
    /// Our clock.
    pub(super) now: Timestamp,
    /// SHA-256 of our TLS certificate; empty without one.
    pub(super) tls_cert_hash: &'a [u8],
}

impl Sender<'_> {
    /// A proposal to call a chaincode, with the transaction id that `nonce` gives it. What is not base64 in `transient` was refused
    /// when it was accepted.
    pub(super) fn propose<'t>(
        &self,
        nonce: [u8; NONCE_BYTES],
        call: &Call<'_>,
        transient: impl Iterator<Item = (&'t String, &'t String)>,
    ) -> (String, SignedProposal) {
        let (header, tx_id) = self.transaction_header(nonce, call.chaincode());
        let spec = ChaincodeInvocationSpec {
            chaincode_spec: Some(ChaincodeSpec {
                r#type: chaincode_spec::Type::Golang as i32,
                chaincode_id: Some(named(call.chaincode())),
                input: Some(ChaincodeInput { args: call.input() }),
            }),
        };
        let transient: HashMap<_, _> = transient
            .filter_map(|(name, value)| Some((name.clone(), STANDARD.decode(value).ok()?)))
            .collect();
        let payload = ChaincodeProposalPayload {
            input: spec.encode_to_vec(),
            transient_map: transient,
        };
        let proposal_bytes = Proposal {
            header: header.encode_to_vec(),
            payload: payload.encode_to_vec(),
        }
        .encode_to_vec();
        let signature = self.identity.sign(&proposal_bytes);
        let signed = SignedProposal {
            proposal_bytes,
            signature,
        };
        (tx_id, signed)
    }

    /// The envelope around `payload`, which is an encoded [`Payload`].
    pub(super) fn seal(&self, payload: Vec<u8>) -> Envelope {
        let signature = self.identity.sign(&payload);
        Envelope { payload, signature }
    }

    /// Asks what became of a transaction.
    pub(super) fn ask_status(&self, tx_id: &str) -> SignedCommitStatusRequest {
        let request = CommitStatusRequest {
            transaction_id: tx_id.to_owned(),
            channel_id: self.channel.to_owned(),
            identity: self.identity.creator().to_vec(),
        }
        .encode_to_vec();
        let signature = self.identity.sign(&request);
        SignedCommitStatusRequest { request, signature }
    }

    /// Asks for the blocks from `start` to `stop`, and waits for those that do not exist yet.
    pub(super) fn ask_blocks(&self, start: seek_position::Type, stop: seek_position::Type) -> Envelope {
        let at = |position| {
            Some(SeekPosition {
                r#type: Some(position),
            })
        };
        let seek = SeekInfo {
            start: at(start),
            stop: at(stop),
            behavior: SeekBehavior::BlockUntilReady as i32,
        };
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let header = self.header(HeaderType::DeliverSeekInfo, String::new(), Vec::new(), &nonce);
        let payload = Payload {
            header: Some(header),
            data: seek.encode_to_vec(),
        };
        self.seal(payload.encode_to_vec())
    }

    /// The transaction id that `nonce` gives.
    pub(super) fn transaction_id(&self, nonce: [u8; NONCE_BYTES]) -> String {
        transaction_id(&nonce, self.identity.creator())
    }

    fn transaction_header(&self, nonce: [u8; NONCE_BYTES], chaincode: &str) -> (Header, String) {
        let tx_id = self.transaction_id(nonce);
        let extension = ChaincodeHeaderExtension {
            chaincode_id: Some(named(chaincode)),
        };
        let kind = HeaderType::EndorserTransaction;
        (
            self.header(kind, tx_id.clone(), extension.encode_to_vec(), &nonce),
            tx_id,
        )
    }

    fn header(&self, kind: HeaderType, tx_id: String, extension: Vec<u8>, nonce: &[u8]) -> Header {
        let channel_header = ChannelHeader {
            r#type: kind as i32,
            version: 0,
            timestamp: Some(wire_time(self.now)),
            channel_id: self.channel.to_owned(),
            tx_id,
            epoch: 0,
            extension,
            tls_cert_hash: self.tls_cert_hash.to_vec(),
        };
        let signature_header = SignatureHeader {
            creator: self.identity.creator().to_vec(),
            nonce: nonce.to_vec(),
        };
        Header {
            channel_header: channel_header.encode_to_vec(),
            signature_header: signature_header.encode_to_vec(),
        }
    }
}

/// The block with that number.
pub(super) fn block(number: u64) -> seek_position::Type {
    seek_position::Type::Specified(SeekSpecified { number })
}

fn named(chaincode: &str) -> ChaincodeId {
    ChaincodeId {
        name: chaincode.to_owned(),
        ..ChaincodeId::default()
    }
}

fn wire_time(time: Timestamp) -> WireTime {
    let millis = time.as_millis();
    WireTime {
        seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000,
    }
}
