//! What a validation code means for a submission.

use crate::domain::{Cause, LedgerTxId, Outcome, Receipt};
use crate::fabric::proto::protos::TxValidationCode as Code;

/// What became of the transaction with this code in that block. `None` if the code says nothing final: a
/// duplicate, whose original decides, or a block that is not validated yet.
pub(super) fn verdict(code: i32, tx_id: &LedgerTxId, block: u64) -> Option<Outcome> {
    let Ok(code) = Code::try_from(code) else {
        let words = format!(
            "the ledger says {code}, a validation code that this program does not know (block {block})"
        );
        return Some(Outcome::Rejected(Cause::new(
            format!("VALIDATION_CODE_{code}"),
            words,
        )));
    };
    let cause = |words: &str| Cause::new(code.as_str_name(), format!("{words} (block {block})"));
    Some(match code {
        Code::Valid => Outcome::Committed(Receipt {
            tx_id: tx_id.clone(),
            block,
            code: Some(code.as_str_name().to_owned()),
            result: None,
        }),
        Code::DuplicateTxid | Code::NotValidated => return None,
        Code::MvccReadConflict => Outcome::Conflict(cause("a key that it read has changed since")),
        Code::PhantomReadConflict => Outcome::Conflict(cause("a range that it read has changed since")),
        // Endorsed by a chaincode that was replaced before the block; endorsed again, it may be valid.
        Code::ExpiredChaincode | Code::ChaincodeVersionConflict => {
            Outcome::Conflict(cause("the chaincode was replaced since it was endorsed"))
        }
        Code::EndorsementPolicyFailure => {
            Outcome::Rejected(cause("its endorsements do not satisfy the endorsement policy"))
        }
        Code::NilEnvelope
        | Code::BadPayload
        | Code::BadCommonHeader
        | Code::BadCreatorSignature
        | Code::InvalidEndorserTransaction
        | Code::InvalidConfigTransaction
        | Code::UnsupportedTxPayload
        | Code::BadProposalTxid
        | Code::UnknownTxType
        | Code::TargetChainNotFound
        | Code::MarshalTxError
        | Code::NilTxaction
        | Code::BadHeaderExtension
        | Code::BadChannelHeader
        | Code::BadResponsePayload
        | Code::BadRwset
        | Code::IllegalWriteset
        | Code::InvalidWriteset
        | Code::InvalidChaincode
        | Code::InvalidOtherReason => Outcome::Rejected(cause("the peers call it invalid")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: i32) -> Option<Outcome> {
        verdict(code, &LedgerTxId("ab".into()), 7)
    }

    #[test]
    fn every_code_has_its_meaning() {
        let Some(Outcome::Committed(receipt)) = told(0) else {
            panic!("VALID is committed")
        };
        assert_eq!((receipt.block, receipt.code.as_deref()), (7, Some("VALID")));
        for (code, name) in [
            (11, "MVCC_READ_CONFLICT"),
            (12, "PHANTOM_READ_CONFLICT"),
            (17, "EXPIRED_CHAINCODE"),
            (18, "CHAINCODE_VERSION_CONFLICT"),
        ] {
            assert!(
                matches!(told(code), Some(Outcome::Conflict(cause)) if cause.code == name),
                "{name}"
            );
        }
        for silent in [9, 254] {
            assert!(told(silent).is_none(), "{silent}");
        }
        for code in (1..=8)
            .chain([10])
            .chain(13..=16)
            .chain(19..=25)
            .chain([255, 77, -1])
        {
            let Some(Outcome::Rejected(cause)) = told(code) else {
                panic!("{code} is no rejection")
            };
            assert!(cause.message.contains("block 7"), "{cause}");
        }
    }
}
