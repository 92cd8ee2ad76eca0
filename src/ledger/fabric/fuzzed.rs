//! What has to hold of all that peers answer.

#![allow(clippy::expect_used, reason = "a broken property panics")]

use prost::Message;
use tonic::{Code, Status};

use super::blocks::{filtered, settled};
use super::endorsement::Endorsed;
use super::failure::{Failure, Step, classify};
use super::verdict::verdict;
use crate::config::KeysKept;
use crate::domain::{Checkpoint, LedgerTxId, Outcome, ReadWriteSet};
use crate::fabric::proto::common::{ChannelHeader, HeaderType, Payload};
use crate::fabric::proto::gateway::{CommitStatusResponse, EndorseResponse};
use crate::fabric::proto::google::rpc;
use crate::fabric::proto::protos::{DeliverResponse, FilteredBlock, TxValidationCode};
use crate::fabric::status::details;

/// The channel of all blocks here.
const CHANNEL: &str = "mychannel";

/// A call that failed: which step, how many organisations endorse, and the `google.rpc.Status` that came.
pub(crate) fn status(data: &[u8]) {
    let [step, organizations, trailer @ ..] = data else {
        return;
    };
    let Ok(said) = rpc::Status::decode(trailer) else {
        return;
    };
    let status = Status::with_details(Code::from(said.code), said.message, trailer.to_vec().into());
    let step = match step % 4 {
        0 => Step::Endorse,
        1 => Step::Evaluate,
        2 => Step::Submit,
        _ => Step::CommitStatus,
    };
    let failure = classify(step, &status, usize::from(*organizations));
    match (&failure, step) {
        // Nothing was sent, so nothing is in doubt; and only what says so can never work.
        (Failure::Unknown(_), Step::Endorse | Step::Evaluate) => panic!("{step:?}: {failure:?}"),
        (Failure::Rejected(_), Step::Endorse | Step::Evaluate) => assert!(
            status.code() == Code::InvalidArgument
                || said_by(&status, "chaincode response ")
                || said_by(&status, "to protect transient data"),
            "{failure:?}"
        ),
        (_, Step::Endorse | Step::Evaluate) | (Failure::Unknown(_), Step::Submit) => {}
        // It may have been sent unless the peer says that it was not (I2).
        (Failure::Unavailable(_), Step::Submit) => assert!(not_sent(&status), "{status:?}"),
        (Failure::Rejected(_), Step::Submit) => {
            assert!(said_by(&status, "exceeds maximum allowed"), "{status:?}");
        }
        (Failure::Unknown(_), Step::CommitStatus) => {
            assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&status.code()));
        }
        (Failure::Unavailable(_), Step::CommitStatus) => {}
        (
            Failure::Rejected(_) | Failure::Conflict(_) | Failure::Known(_) | Failure::Postponed(_),
            Step::Submit | Step::CommitStatus,
        ) => panic!("{step:?} ends nothing: {failure:?}"),
    }
}

fn said_by(status: &Status, words: &str) -> bool {
    status.message().contains(words)
        || details(status)
            .iter()
            .any(|detail| detail.message.contains(words))
}

/// All that makes it certain that a peer turned to no orderer, or that none took it.
fn not_sent(status: &Status) -> bool {
    let before_ordering = [Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound];
    let no_connection = || {
        details(status).iter().all(|detail| {
            let words = detail.message.to_ascii_lowercase();
            words.contains("error while dialing")
        })
    };
    before_ordering.contains(&status.code())
        || status
            .message()
            .starts_with("too many requests for /gateway.Gateway")
        || (status.code() == Code::Unavailable && said_by(status, "no orderer nodes available"))
        || (status.code() == Code::Unavailable
            && status.message() == "no orderers could successfully process transaction"
            && no_connection())
        || (status.code() == Code::Aborted && said_by(status, "received unsuccessful response from orderer"))
}

/// The answer to an endorsement.
pub(crate) fn endorsement(bytes: &[u8]) {
    let Ok(response) = EndorseResponse::decode(bytes) else {
        return;
    };
    let payload = response.prepared_transaction.unwrap_or_default().payload;
    for keys in [KeysKept::Plain, KeysKept::Hashed, KeysKept::Nothing] {
        taken_apart(&payload, keys);
    }
}

/// What a peer endorsed, an encoded payload, can be taken apart.
pub(crate) fn endorsed(payload: &[u8]) {
    assert!(taken_apart(payload, KeysKept::Plain));
}

fn taken_apart(payload: &[u8], keys: KeysKept) -> bool {
    let endorsed = match Endorsed::read(payload, keys) {
        Ok(endorsed) => endorsed,
        Err(words) => {
            assert!(!words.is_empty());
            return false;
        }
    };
    let header = Payload::decode(payload).ok().and_then(|payload| payload.header);
    let channel = ChannelHeader::decode(&header.expect("a header").channel_header[..]).expect("a header");
    assert_eq!(endorsed.tx_id, channel.tx_id);
    if let Some(response) = endorsed.response {
        serde_json::from_str::<serde::de::IgnoredAny>(response.get()).expect("JSON");
    }
    assert_eq!(endorsed.touched.is_none(), keys == KeysKept::Nothing);
    let touched = endorsed.touched.unwrap_or_default();
    let all = || touched.reads.iter().chain(&touched.writes);
    assert!(all().count() <= ReadWriteSet::MAX_KEYS);
    assert!(all().map(String::len).sum::<usize>() <= ReadWriteSet::MAX_BYTES);
    for keys in [&touched.reads, &touched.writes] {
        assert!(keys.is_sorted_by(|one, next| one < next), "{keys:?}");
    }
    assert!(keys != KeysKept::Hashed || all().all(|key| key.contains("/sha256:")));
    true
}

/// An answer of the block stream where the block `next` is to come.
pub(crate) fn block(data: &[u8]) {
    let Some((next, bytes)) = data.split_first_chunk() else {
        return;
    };
    let next = Some(u64::from_be_bytes(*next)).filter(|next| *next != u64::MAX);
    let Ok(answer) = DeliverResponse::decode(bytes) else {
        return;
    };
    let block = match filtered(answer) {
        Ok(block) => block,
        Err(cause) => return assert!(!cause.code.is_empty() && !cause.message.is_empty()),
    };
    let Ok(told) = settled(block.clone(), CHANNEL, next) else {
        return;
    };
    assert_eq!(block.channel_id, CHANNEL);
    let Some(Checkpoint(checkpoint)) = told.checkpoint else {
        panic!("every block moves the checkpoint")
    };
    assert_eq!(checkpoint, block.number + 1);
    assert!(next.is_none_or(|next| checkpoint >= next), "it never goes back");
    let mut expected = if next == Some(checkpoint) {
        Vec::new()
    } else {
        verdicts(&block)
    };
    let mut given: Vec<_> = told.outcomes.iter().map(|(id, _)| id.0.clone()).collect();
    let is_committed = |(_, outcome): &(LedgerTxId, Outcome)| matches!(outcome, Outcome::Committed(_));
    assert!(
        told.outcomes.is_sorted_by_key(|told| !is_committed(told)),
        "valid ones first"
    );
    given.sort();
    expected.sort();
    assert_eq!(given, expected);
    for (id, outcome) in &told.outcomes {
        let committed = |transaction: &&crate::fabric::proto::protos::FilteredTransaction| {
            transaction.txid == id.0 && transaction.tx_validation_code == TxValidationCode::Valid as i32
        };
        if matches!(outcome, Outcome::Committed(_)) {
            assert!(block.filtered_transactions.iter().any(|tx| committed(&tx)));
        }
    }
}

/// Of which transactions a block says what became.
fn verdicts(block: &FilteredBlock) -> Vec<String> {
    let silent = [
        TxValidationCode::DuplicateTxid as i32,
        TxValidationCode::NotValidated as i32,
    ];
    let transactions = block.filtered_transactions.iter().filter(|transaction| {
        transaction.r#type == HeaderType::EndorserTransaction as i32
            && !silent.contains(&transaction.tx_validation_code)
    });
    transactions.map(|transaction| transaction.txid.clone()).collect()
}

/// The answer to a question about one transaction.
pub(crate) fn commit_status(bytes: &[u8]) {
    let Ok(answer) = CommitStatusResponse::decode(bytes) else {
        return;
    };
    let id = LedgerTxId("ab".into());
    let valid = answer.result == TxValidationCode::Valid as i32;
    match verdict(answer.result, &id, answer.block_number) {
        Some(Outcome::Committed(receipt)) => {
            assert!(valid);
            assert_eq!((receipt.tx_id, receipt.block), (id, answer.block_number));
        }
        Some(Outcome::Conflict(cause)) => {
            assert!(
                !valid && TxValidationCode::from_str_name(&cause.code).is_some(),
                "{cause}"
            );
        }
        Some(Outcome::Rejected(cause)) => assert!(!valid && !cause.code.is_empty()),
        Some(outcome @ (Outcome::Unavailable(_) | Outcome::Absent(_) | Outcome::Unknown(_))) => {
            panic!("no verdict: {outcome:?}")
        }
        None => assert!([9, 254].contains(&answer.result)),
    }
}
