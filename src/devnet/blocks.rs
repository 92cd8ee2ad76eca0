//! Blocks as the Deliver service sends them: whole, or filtered down to identifiers, verdicts and names of events.
//!
//! Invariant: a block is made of what is in the chain and nothing else, so that it has the same bytes at every time and
//! after every restart, and the hash of its header is the one that the next block refers to.

use prost::Message;
use sha2::{Digest, Sha256};

use crate::fabric::hex;
use crate::fabric::proto::common::{
    Block, BlockData, BlockHeader, BlockMetadata, BlockMetadataIndex, ChannelHeader, Envelope, Header,
    HeaderType, Payload, SignatureHeader,
};
use crate::fabric::proto::protos::{
    ChaincodeAction, ChaincodeActionPayload, ChaincodeEvent, FilteredBlock, FilteredChaincodeAction,
    FilteredTransaction, FilteredTransactionActions, ProposalResponsePayload, Transaction,
    filtered_transaction::Data,
};
use crate::ledger::simulator::{StoredBlock, ValidationCode};

/// Entries that a block's metadata has.
const METADATA: usize = BlockMetadataIndex::CommitHash as usize + 1;

/// The envelope of block 0 of `channel`: a configuration that says no more than the channel's name.
pub(super) fn genesis(channel: &str) -> Vec<u8> {
    let header = ChannelHeader {
        r#type: HeaderType::Config as i32,
        channel_id: channel.to_owned(),
        tx_id: hex(&Sha256::digest(channel.as_bytes())),
        ..ChannelHeader::default()
    };
    let payload = Payload {
        header: Some(Header {
            channel_header: header.encode_to_vec(),
            signature_header: SignatureHeader::default().encode_to_vec(),
        }),
        data: Vec::new(),
    };
    Envelope {
        payload: payload.encode_to_vec(),
        signature: Vec::new(),
    }
    .encode_to_vec()
}

/// The channel that an envelope of block 0 is about; `None` if it is none.
pub(super) fn channel_of(genesis: &[u8]) -> Option<String> {
    let name = headers(genesis)?.1.channel_id;
    (!name.is_empty()).then_some(name)
}

/// The envelopes of a block, each with its verdict. Block 0 has the configuration.
fn transactions<'a>(block: &'a StoredBlock, genesis: &'a [u8]) -> Vec<(ValidationCode, &'a [u8])> {
    if block.number == 0 {
        return vec![(ValidationCode::Valid, genesis)];
    }
    let entries = block.entries.iter();
    entries.map(|entry| (entry.code, &entry.envelope[..])).collect()
}

/// The whole block.
pub(super) fn whole(block: &StoredBlock, genesis: &[u8]) -> Block {
    let transactions = transactions(block, genesis);
    let mut metadata = vec![Vec::new(); METADATA];
    metadata[BlockMetadataIndex::TransactionsFilter as usize] = transactions
        .iter()
        .map(|(code, _)| u8::try_from(*code as i32).unwrap_or(u8::MAX))
        .collect();
    Block {
        header: Some(BlockHeader {
            number: block.number,
            previous_hash: block.header.previous_hash.clone(),
            data_hash: block.header.data_hash.to_vec(),
        }),
        data: Some(BlockData {
            data: transactions
                .iter()
                .map(|(_, envelope)| envelope.to_vec())
                .collect(),
        }),
        metadata: Some(BlockMetadata { metadata }),
    }
}

/// The filtered block. Events come without their payloads, those of invalid transactions too.
pub(super) fn filtered(block: &StoredBlock, genesis: &[u8], channel: &str) -> FilteredBlock {
    let filter = |(code, envelope): (ValidationCode, &[u8])| {
        let (payload, header) = headers(envelope)?;
        let data = (header.r#type == HeaderType::EndorserTransaction as i32).then(|| {
            let event = event(&payload).map(|event| FilteredChaincodeAction {
                chaincode_event: Some(ChaincodeEvent {
                    payload: Vec::new(),
                    ..event
                }),
            });
            Data::TransactionActions(FilteredTransactionActions {
                chaincode_actions: event.into_iter().collect(),
            })
        });
        Some(FilteredTransaction {
            txid: header.tx_id,
            r#type: header.r#type,
            tx_validation_code: code as i32,
            data,
        })
    };
    FilteredBlock {
        channel_id: channel.to_owned(),
        number: block.number,
        filtered_transactions: transactions(block, genesis)
            .into_iter()
            .filter_map(filter)
            .collect(),
    }
}

/// The events of the valid transactions of a block, whole.
pub(super) fn events(block: &StoredBlock) -> Vec<ChaincodeEvent> {
    let valid = block
        .entries
        .iter()
        .filter(|entry| entry.code == ValidationCode::Valid);
    valid
        .filter_map(|entry| event(&headers(&entry.envelope)?.0))
        .collect()
}

fn headers(envelope: &[u8]) -> Option<(Payload, ChannelHeader)> {
    let envelope = Envelope::decode(envelope).ok()?;
    let payload = Payload::decode(envelope.payload.as_slice()).ok()?;
    let header = ChannelHeader::decode(payload.header.as_ref()?.channel_header.as_slice()).ok()?;
    Some((payload, header))
}

fn event(payload: &Payload) -> Option<ChaincodeEvent> {
    let transaction = Transaction::decode(payload.data.as_slice()).ok()?;
    let action = transaction.actions.first()?;
    let action = ChaincodeActionPayload::decode(action.payload.as_slice())
        .ok()?
        .action?;
    let response = ProposalResponsePayload::decode(action.proposal_response_payload.as_slice()).ok()?;
    let action = ChaincodeAction::decode(response.extension.as_slice()).ok()?;
    let event = ChaincodeEvent::decode(action.events.as_slice()).ok()?;
    (!event.chaincode_id.is_empty()).then_some(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_0_names_its_channel() {
        let genesis = genesis("mychannel");
        assert_eq!(channel_of(&genesis).as_deref(), Some("mychannel"));
        assert_eq!(channel_of(b""), None);
        assert_eq!(channel_of(b"nonsense"), None);
    }
}
