//! What a committing peer finds in an envelope before it compares it with the state.
//!
//! Nothing here depends on the state, so an envelope is judged when it is submitted; the engine decides when it is
//! validated whether the verdict counts. The order of the checks is that of a real peer.

use std::collections::HashSet;

use prost::Message;
use sha2::{Digest, Sha256};

use super::membership::{Membership, Role};
use super::policy::Policy;
use super::rwset::{self, Unreadable};
use crate::fabric::proto::common::{ChannelHeader, Envelope, Header, HeaderType, Payload, SignatureHeader};
use crate::fabric::proto::protos::{
    ChaincodeAction, ChaincodeActionPayload, ChaincodeHeaderExtension, Endorsement, ProposalResponsePayload,
    Transaction,
};
use crate::fabric::transaction_id;
use crate::ledger::simulator::{Claim, ValidationCode, contract_exists};

/// The endorsed part of a transaction.
struct Endorsed {
    /// The bytes that were signed.
    payload: Vec<u8>,
    endorsements: Vec<Endorsement>,
    /// What the signed bytes say.
    response: ProposalResponsePayload,
}

/// What `envelope` claims to be.
pub(super) fn inspect(envelope: &Envelope, members: &Membership, policy: Policy) -> Claim {
    let (channel, endorsed) = match well_formed(envelope, members) {
        Ok(found) => found,
        Err(code) => return Claim::Malformed(code),
    };
    match well_endorsed(&channel, &endorsed, members, policy) {
        Ok(claim) => claim,
        Err(code) => Claim::Unendorsed(code),
    }
}

fn well_formed(
    envelope: &Envelope,
    members: &Membership,
) -> Result<(ChannelHeader, Endorsed), ValidationCode> {
    let payload = Payload::decode(envelope.payload.as_slice()).map_err(|_| ValidationCode::BadPayload)?;
    let bad_header = ValidationCode::BadCommonHeader;
    let header = payload.header.ok_or(bad_header)?;
    let channel = ChannelHeader::decode(header.channel_header.as_slice()).map_err(|_| bad_header)?;
    let creator = SignatureHeader::decode(header.signature_header.as_slice()).map_err(|_| bad_header)?;
    let known = [
        HeaderType::EndorserTransaction,
        HeaderType::Config,
        HeaderType::ConfigUpdate,
    ];
    let kind = known.into_iter().find(|kind| *kind as i32 == channel.r#type);
    let kind = kind.ok_or(bad_header)?;
    if channel.epoch != 0 || creator.nonce.is_empty() || creator.creator.is_empty() {
        return Err(bad_header);
    }
    let signed = members.identify(&creator.creator).is_some_and(|member| {
        member.role != Role::Unknown && member.signed(&envelope.payload, &envelope.signature)
    });
    if !signed {
        return Err(ValidationCode::BadCreatorSignature);
    }
    if kind != HeaderType::EndorserTransaction {
        return Err(ValidationCode::UnsupportedTxPayload);
    }
    if channel.tx_id != transaction_id(&creator.nonce, &creator.creator) {
        return Err(ValidationCode::BadProposalTxid);
    }
    let endorsed = endorsed(&header, &payload.data).ok_or(ValidationCode::InvalidEndorserTransaction)?;
    Ok((channel, endorsed))
}

/// The endorsed part, if it belongs to the proposal of this header.
fn endorsed(header: &Header, data: &[u8]) -> Option<Endorsed> {
    let mut transaction = Transaction::decode(data).ok()?;
    let action = transaction
        .actions
        .pop()
        .filter(|_| transaction.actions.is_empty())?;
    let creator = SignatureHeader::decode(action.header.as_slice()).ok()?;
    if creator.nonce.is_empty() || creator.creator.is_empty() {
        return None;
    }
    let payload = ChaincodeActionPayload::decode(action.payload.as_slice()).ok()?;
    let endorsed = payload.action?;
    let response = ProposalResponsePayload::decode(endorsed.proposal_response_payload.as_slice()).ok()?;
    let hash = Sha256::new()
        .chain_update(&header.channel_header)
        .chain_update(&action.header)
        .chain_update(&payload.chaincode_proposal_payload)
        .finalize();
    (response.proposal_hash == hash[..]).then_some(Endorsed {
        payload: endorsed.proposal_response_payload,
        endorsements: endorsed.endorsements,
        response,
    })
}

fn well_endorsed(
    channel: &ChannelHeader,
    endorsed: &Endorsed,
    members: &Membership,
    policy: Policy,
) -> Result<Claim, ValidationCode> {
    let extension = ChaincodeHeaderExtension::decode(channel.extension.as_slice())
        .map_err(|_| ValidationCode::BadHeaderExtension)?;
    let invalid = ValidationCode::InvalidChaincode;
    let chaincode = extension.chaincode_id.ok_or(invalid)?.name;
    let action = ChaincodeAction::decode(endorsed.response.extension.as_slice())
        .map_err(|_| ValidationCode::BadResponsePayload)?;
    let executed = action.chaincode_id.ok_or(invalid)?.name;
    if executed != chaincode || !contract_exists(&chaincode) {
        return Err(invalid);
    }
    let effects = rwset::decode(&chaincode, &action.results).map_err(|unreadable| match unreadable {
        Unreadable::Malformed => ValidationCode::BadRwset,
        Unreadable::Illegal => ValidationCode::IllegalWriteset,
    })?;
    let endorsers: HashSet<String> = endorsed
        .endorsements
        .iter()
        .filter_map(|endorsement| {
            let peer = members.identify(&endorsement.endorser)?;
            let message = [&endorsed.payload[..], &endorsement.endorser].concat();
            let counts = peer.role == Role::Peer && peer.signed(&message, &endorsement.signature);
            counts.then(|| peer.msp_id.clone())
        })
        .collect();
    if endorsers.len() < policy.needs(members.organisations.len()) {
        return Err(ValidationCode::EndorsementPolicyFailure);
    }
    Ok(Claim::Endorsed {
        contract: chaincode,
        effects,
    })
}
