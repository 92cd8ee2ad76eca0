//! What comes back from an endorsement: the unsigned transaction, with what it would read and write.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::super::as_json;
use crate::config::KeysKept;
use crate::domain::ReadWriteSet;
use crate::fabric::hex;
use crate::fabric::proto::common::{ChannelHeader, Payload};
use crate::fabric::proto::kvrwset::KvrwSet;
use crate::fabric::proto::kvrwset::range_query_info::ReadsInfo;
use crate::fabric::proto::protos::{
    ChaincodeAction, ChaincodeActionPayload, ProposalResponsePayload, Transaction,
};
use crate::fabric::proto::rwset::TxReadWriteSet;

/// The chaincode lifecycle's own keys: everybody reads them, so they tell nothing about conflicts.
const LIFECYCLE: &str = "_lifecycle";

/// Hex digits of a hashed key: enough that two keys never look alike.
const HASH_DIGITS: usize = 32;

/// An endorsed transaction, taken apart.
#[derive(Debug)]
pub(super) struct Endorsed {
    /// The id that the transaction would have on the ledger.
    pub(super) tx_id: String,
    /// What the chaincode answered.
    pub(super) response: Option<Box<RawValue>>,
    /// What it would read and write; `None` if nothing is to be kept.
    pub(super) touched: Option<ReadWriteSet>,
}

impl Endorsed {
    /// Takes apart an encoded [`Payload`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(payload: &[u8], keys: KeysKept) -> Result<Self, String> {
        let payload: Payload = decode(payload, "payload")?;
        let header = payload.header.ok_or("the payload has no header")?;
        let channel: ChannelHeader = decode(&header.channel_header, "channel header")?;
        let transaction: Transaction = decode(&payload.data, "transaction")?;
        let [action] = transaction.actions.as_slice() else {
            return Err(format!(
                "the transaction has {} actions instead of one",
                transaction.actions.len()
            ));
        };
        let action: ChaincodeActionPayload = decode(&action.payload, "action")?;
        let endorsed = action.action.ok_or("the action is not endorsed")?;
        let response: ProposalResponsePayload = decode(&endorsed.proposal_response_payload, "response")?;
        let result: ChaincodeAction = decode(&response.extension, "chaincode's action")?;
        Ok(Self {
            tx_id: channel.tx_id,
            response: result.response.and_then(|response| answer(&response.payload)),
            touched: match keys {
                KeysKept::Nothing => None,
                KeysKept::Plain => Some(touched(&result.results, str::to_owned)?),
                KeysKept::Hashed => Some(touched(&result.results, hashed)?),
            },
        })
    }
}

/// What a chaincode answered, as JSON: nothing for nothing, JSON as it is, other text as a string, and bytes that
/// are no text as `{"base64": "…"}`.
pub(super) fn answer(payload: &[u8]) -> Option<Box<RawValue>> {
    if payload.is_empty() {
        return None;
    }
    let Ok(text) = std::str::from_utf8(payload) else {
        let bytes = serde_json::json!({ "base64": STANDARD.encode(payload) });
        return serde_json::value::to_raw_value(&bytes).ok();
    };
    as_json(text)
}

fn touched(results: &[u8], shown: fn(&str) -> String) -> Result<ReadWriteSet, String> {
    let sets: TxReadWriteSet = decode(results, "read/write set")?;
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for set in sets.ns_rwset.iter().filter(|set| set.namespace != LIFECYCLE) {
        let keys: KvrwSet = decode(&set.rwset, "chaincode's read/write set")?;
        let named = |key: &str| format!("{}/{}", set.namespace, shown(key));
        reads.extend(keys.reads.iter().map(|read| named(&read.key)));
        for range in &keys.range_queries_info {
            // Of large ranges there are only hashes; the keys at both ends are not read by themselves.
            if let Some(ReadsInfo::RawReads(seen)) = &range.reads_info {
                reads.extend(seen.kv_reads.iter().map(|read| named(&read.key)));
            }
        }
        writes.extend(keys.writes.iter().map(|write| named(&write.key)));
    }
    Ok(ReadWriteSet::new(reads, writes))
}

fn hashed(key: &str) -> String {
    let digest = hex(&Sha256::digest(key.as_bytes()));
    format!("sha256:{}", &digest[..HASH_DIGITS])
}

fn decode<M: Message + Default>(bytes: &[u8], what: &str) -> Result<M, String> {
    M::decode(bytes).map_err(|error| format!("the {what} cannot be read: {error}"))
}
