//! A proposal: what a client asks a peer to endorse, taken apart and checked as a peer does it.
//!
//! There are two kinds of refusal. What the gateway cannot read is an invalid argument; what an endorsing peer
//! refuses comes back in the words of that peer. The order of the checks is that of a real peer, because a client sees
//! only the first one that fails.

use std::sync::Arc;

use prost::Message;
use sha2::{Digest, Sha256};

use super::membership::{Member, Membership, Role};
use crate::domain::Timestamp;
use crate::fabric::proto::common::{ChannelHeader, Header, HeaderType, SignatureHeader};
use crate::fabric::proto::protos::{
    ChaincodeHeaderExtension, ChaincodeInvocationSpec, ChaincodeProposalPayload, Proposal as WireProposal,
    SignedProposal,
};
use crate::fabric::transaction_id;

/// How far a client's clock may be off.
const TIME_WINDOW_MILLIS: u64 = 15 * 60 * 1000;

/// A proposal that can be read.
pub(super) struct Proposal {
    signed: SignedProposal,
    /// Both headers as they came.
    pub(super) header: Header,
    /// The readable form of the channel header.
    pub(super) channel: ChannelHeader,
    /// The chaincode to plan for; the one to run is in the header's extension.
    pub(super) planned: Option<String>,
    /// The payload without its transient map: the part that enters the transaction.
    pub(super) payload: Vec<u8>,
    spec: ChaincodeInvocationSpec,
}

/// A proposal that an endorsing peer would run.
pub(super) struct Checked {
    /// The identifier of the transaction.
    pub(super) tx_id: String,
    /// The chaincode to run.
    pub(super) chaincode: String,
    /// The function and its arguments.
    pub(super) args: Vec<Vec<u8>>,
    /// What an endorsement refers to.
    pub(super) hash: Vec<u8>,
}

/// Why an endorsing peer does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its connection filter refuses it; a gateway takes the peer for one that is away and asks the next.
    Filtered(String),
    /// It is wrong or not allowed.
    Invalid(String),
    /// The chaincode itself says no.
    Chaincode(String),
    /// It cannot be run.
    Failed(String),
}

impl Refusal {
    /// The peer's words.
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Filtered(words) | Self::Invalid(words) | Self::Chaincode(words) | Self::Failed(words) => {
                words
            }
        }
    }
}

/// Decodes a message; says so in a peer's words if it is none.
pub(super) fn decode<M: Message + Default>(name: &str, bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes)
        .map_err(|_| format!("error unmarshalling {name}: proto: cannot parse invalid wire-format data"))
}

impl Proposal {
    /// Takes a proposal apart.
    ///
    /// # Errors
    /// What cannot be read.
    pub(super) fn read(signed: SignedProposal) -> Result<Self, String> {
        let proposal: WireProposal = decode("Proposal", &signed.proposal_bytes)?;
        let header: Header = decode("Header", &proposal.header)?;
        let channel: ChannelHeader = decode("ChannelHeader", &header.channel_header)?;
        let payload: ChaincodeProposalPayload = decode("ChaincodeProposalPayload", &proposal.payload)?;
        let spec: ChaincodeInvocationSpec = decode("ChaincodeInvocationSpec", &payload.input)?;
        let without_transient = ChaincodeProposalPayload {
            input: payload.input,
            ..ChaincodeProposalPayload::default()
        };
        let chaincode = spec.chaincode_spec.as_ref();
        Ok(Self {
            planned: chaincode
                .and_then(|spec| spec.chaincode_id.as_ref())
                .map(|id| id.name.clone()),
            signed,
            header,
            channel,
            payload: without_transient.encode_to_vec(),
            spec,
        })
    }

    /// Whether there is a chaincode specification at all.
    pub(super) fn has_spec(&self) -> bool {
        self.spec.chaincode_spec.is_some()
    }

    /// Checks it as an endorsing peer of `channel` does.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) fn check(&self, members: &Membership, now: Timestamp) -> Result<Checked, Refusal> {
        let creator = decode::<SignatureHeader>("SignatureHeader", &self.header.signature_header)
            .map_err(Refusal::Invalid)?;
        let member = members.identify(&creator.creator);
        if member.as_ref().is_some_and(|member| member.expired(now)) {
            return Err(Refusal::Filtered("proposal client identity expired".into()));
        }
        check_time(&self.channel, now)?;
        let (chaincode, args) = self.called()?;
        self.validate(&creator, member.as_deref())
            .map_err(|words| Refusal::Invalid(format!("error validating proposal: {words}")))?;
        let hash = Sha256::new()
            .chain_update(&self.header.channel_header)
            .chain_update(&self.header.signature_header)
            .chain_update(&self.payload);
        Ok(Checked {
            tx_id: self.channel.tx_id.clone(),
            chaincode,
            args,
            hash: hash.finalize().to_vec(),
        })
    }

    /// Whether its creator may write to the channel. Comes after the question whether the identifier is new.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub(super) fn check_writer(&self, members: &Membership) -> Result<(), Refusal> {
        let creator = decode::<SignatureHeader>("SignatureHeader", &self.header.signature_header)
            .map_err(Refusal::Invalid)?;
        match members.identify(&creator.creator) {
            Some(member) if member.role == Role::Client => Ok(()),
            _ => Err(Refusal::Invalid(no_policy("Writers", &self.channel.channel_id))),
        }
    }

    /// The creator as it stands in the header, in hex.
    pub(super) fn creator_hex(&self) -> String {
        SignatureHeader::decode(self.header.signature_header.as_slice())
            .map(|header| crate::fabric::hex(&header.creator))
            .unwrap_or_default()
    }

    fn called(&self) -> Result<(String, Vec<Vec<u8>>), Refusal> {
        let invalid = |words: &str| Refusal::Invalid(words.to_owned());
        let extension: ChaincodeHeaderExtension =
            decode("ChaincodeHeaderExtension", &self.channel.extension).map_err(Refusal::Invalid)?;
        let chaincode = extension
            .chaincode_id
            .ok_or_else(|| invalid("ChaincodeHeaderExtension.ChaincodeId is nil"))?
            .name;
        if chaincode.is_empty() {
            return Err(invalid("ChaincodeHeaderExtension.ChaincodeId.Name is empty"));
        }
        let spec = self.spec.chaincode_spec.as_ref();
        let spec = spec.ok_or_else(|| invalid("chaincode invocation spec did not contain chaincode spec"))?;
        let input = spec.input.as_ref();
        let input = input.ok_or_else(|| invalid("chaincode input did not contain any input"))?;
        Ok((chaincode, input.args.clone()))
    }

    fn validate(&self, creator: &SignatureHeader, member: Option<&Member>) -> Result<(), String> {
        let header = &self.channel;
        if ![HeaderType::EndorserTransaction as i32, HeaderType::Config as i32].contains(&header.r#type) {
            let name = HeaderType::try_from(header.r#type).map_or_else(
                |_| header.r#type.to_string(),
                |known| known.as_str_name().to_owned(),
            );
            return Err(format!("invalid header type {name}"));
        }
        for (wrong, words) in [
            (header.epoch != 0, "epoch is non-zero"),
            (creator.nonce.is_empty(), "nonce is empty"),
            (creator.creator.is_empty(), "creator is empty"),
        ] {
            if wrong {
                return Err(words.into());
            }
        }
        let expected = transaction_id(&creator.nonce, &creator.creator);
        if header.tx_id != expected {
            return Err(format!(
                "incorrectly computed txid '{}' -- expected '{expected}'",
                header.tx_id
            ));
        }
        if self.signed.signature.is_empty() {
            return Err("empty signature bytes".into());
        }
        let channel = &header.channel_id;
        let Some(member) = member else {
            return Err(format!(
                "access denied: channel [{channel}] creator org unknown, creator is malformed"
            ));
        };
        let signed = member.signed(&self.signed.proposal_bytes, &self.signed.signature);
        if member.role == Role::Unknown || !signed {
            return Err(format!(
                "access denied: channel [{channel}] creator org [{}]",
                member.msp_id
            ));
        }
        Ok(())
    }
}

/// What a peer says if somebody is no Writer or Reader of a channel.
pub(super) fn no_policy(policy: &str, channel: &str) -> String {
    format!(
        "Failed evaluating policy on signed data during check policy on channel [{channel}] with policy [/Channel/Application/{policy}]: [{}]",
        unsatisfied(policy)
    )
}

/// What a policy says that nobody satisfied.
pub(super) fn unsatisfied(policy: &str) -> String {
    format!(
        "implicit policy evaluation failed - 0 sub-policies were satisfied, but this policy requires 1 of the '{policy}' sub-policies to be satisfied"
    )
}

/// Whether the moment in a header is near enough to now.
pub(super) fn is_timely(header: &ChannelHeader, now: Timestamp) -> bool {
    sent_at(header).abs_diff(i128::from(now.as_millis())) <= u128::from(TIME_WINDOW_MILLIS)
}

fn sent_at(header: &ChannelHeader) -> i128 {
    let sent = header.timestamp.unwrap_or_default();
    i128::from(sent.seconds) * 1000 + i128::from(sent.nanos) / 1_000_000
}

fn check_time(header: &ChannelHeader, now: Timestamp) -> Result<(), Refusal> {
    if is_timely(header, now) {
        return Ok(());
    }
    let shown = |millis: i128| {
        let seconds = u64::try_from(millis / 1000).unwrap_or(0);
        let text = Timestamp::from_millis(seconds.saturating_mul(1000)).to_string();
        text.replace(".000Z", "Z")
    };
    Err(Refusal::Filtered(format!(
        "request unauthorized due to incorrect timestamp {}, peer time {}, peer.authentication.timewindow 15m0s",
        shown(sent_at(header)),
        shown(i128::from(now.as_millis())),
    )))
}

/// Who made a signed request that names its maker, if that one may read the channel.
pub(super) fn reader(
    members: &Membership,
    identity: &[u8],
    message: &[u8],
    signature: &[u8],
    now: Timestamp,
) -> Option<Arc<Member>> {
    let member = members.identify(identity)?;
    let may = member.role != Role::Unknown && !member.expired(now) && member.signed(message, signature);
    may.then_some(member)
}
