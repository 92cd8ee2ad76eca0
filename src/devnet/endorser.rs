//! Endorsing: running a proposal against committed state and signing what came of it, one peer per organisation.
//!
//! All peers of a devnet share one state, so they never disagree: a proposal is run once, and as many peers as are
//! asked sign the same bytes. Nothing is written.

use prost::Message;

use super::Devnet;
use super::membership::Organisation;
use super::proposal::{Checked, Proposal, Refusal};
use super::rwset;
use crate::domain::LedgerTxId;
use crate::fabric::proto::common::{Envelope, Payload};
use crate::fabric::proto::protos::{
    ChaincodeAction, ChaincodeActionPayload, ChaincodeEndorsedAction, ChaincodeEvent, ChaincodeId,
    Endorsement, ProposalResponsePayload, Response, Transaction, TransactionAction,
};
use crate::ledger::simulator::{Call, CallError, Executed, contract_exists};

/// The version that every chaincode of a devnet has.
const VERSION: &str = "1.0";

/// A proposal that was run.
pub(super) struct Simulated {
    /// What the chaincode answered.
    pub(super) response: Response,
    /// The bytes that endorsers sign.
    pub(super) payload: Vec<u8>,
}

/// Checks a proposal as an endorsing peer does, and runs it.
///
/// # Errors
/// [`Refusal`].
pub(super) async fn simulate(devnet: &Devnet, proposal: &Proposal) -> Result<Simulated, Refusal> {
    let checked = proposal.check(&devnet.members, devnet.clock.now())?;
    let tx_id = LedgerTxId(checked.tx_id.clone());
    match devnet.engine.settled(&tx_id) {
        Ok(None) => {}
        Ok(Some(_)) => {
            return Err(Refusal::Invalid(format!(
                "duplicate transaction found [{tx_id}]. Creator [{}]",
                proposal.creator_hex()
            )));
        }
        Err(error) => return Err(Refusal::Failed(error.to_string())),
    }
    proposal.check_writer(&devnet.members)?;
    if !contract_exists(&checked.chaincode) {
        return Err(Refusal::Failed(format!(
            "make sure the chaincode {0} has been successfully defined on channel {1} and try again: chaincode {0} not found",
            checked.chaincode, proposal.channel.channel_id
        )));
    }
    let call = call(&checked)?;
    match devnet.engine.execute(&call).await {
        Ok(executed) => Ok(respond(checked, executed)),
        Err(CallError::Rejected(cause)) => Err(business(&cause.message)),
        Err(CallError::Unavailable(cause)) => Err(Refusal::Failed(format!(
            "error in simulation: failed to execute transaction {tx_id}: {}",
            cause.message
        ))),
    }
}

/// A refusal in the chaincode's words.
fn business(words: &str) -> Refusal {
    Refusal::Chaincode(format!("chaincode response 500, {words}"))
}

/// The call in a proposal. A function may be named with its contract, as chaincodes of several contracts need it.
fn call(checked: &Checked) -> Result<Call, Refusal> {
    let mut args = Vec::with_capacity(checked.args.len());
    for (number, arg) in checked.args.iter().enumerate() {
        let text = std::str::from_utf8(arg);
        args.push(
            text.map_err(|_| business(&format!("argument {number} is not UTF-8")))?
                .to_owned(),
        );
    }
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    let function = name
        .rsplit_once(':')
        .map_or(name.as_str(), |(_, function)| function);
    Ok(Call {
        contract: checked.chaincode.clone(),
        function: function.to_owned(),
        args: args.collect(),
    })
}

fn respond(checked: Checked, executed: Executed) -> Simulated {
    let response = Response {
        status: 200,
        message: String::new(),
        payload: executed.returned.unwrap_or_default().into_bytes(),
    };
    let event = executed.event.map(|event| ChaincodeEvent {
        chaincode_id: checked.chaincode.clone(),
        tx_id: checked.tx_id,
        event_name: event.name,
        payload: event.payload,
    });
    let action = ChaincodeAction {
        results: rwset::encode(&checked.chaincode, &executed.effects),
        events: event.map(|event| event.encode_to_vec()).unwrap_or_default(),
        response: Some(response.clone()),
        chaincode_id: Some(ChaincodeId {
            name: checked.chaincode,
            version: VERSION.to_owned(),
            ..ChaincodeId::default()
        }),
    };
    let payload = ProposalResponsePayload {
        proposal_hash: checked.hash,
        extension: action.encode_to_vec(),
    };
    Simulated {
        response,
        payload: payload.encode_to_vec(),
    }
}

/// The transaction, endorsed by the peers of these organisations, for the client to sign.
pub(super) fn endorse(proposal: &Proposal, simulated: Simulated, by: &[&Organisation]) -> Envelope {
    let endorsements = by.iter().map(|organisation| {
        let peer = &organisation.peer;
        let message = [&simulated.payload[..], peer.creator()].concat();
        Endorsement {
            endorser: peer.creator().to_vec(),
            signature: peer.sign(&message),
        }
    });
    let action = ChaincodeEndorsedAction {
        endorsements: endorsements.collect(),
        proposal_response_payload: simulated.payload,
    };
    let payload = ChaincodeActionPayload {
        chaincode_proposal_payload: proposal.payload.clone(),
        action: Some(action),
    };
    let transaction = Transaction {
        actions: vec![TransactionAction {
            header: proposal.header.signature_header.clone(),
            payload: payload.encode_to_vec(),
        }],
    };
    let payload = Payload {
        header: Some(proposal.header.clone()),
        data: transaction.encode_to_vec(),
    };
    Envelope {
        payload: payload.encode_to_vec(),
        signature: Vec::new(),
    }
}
