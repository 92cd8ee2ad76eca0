//! Every shape of error that was seen on a network of Fabric 3.1.5, and what it means.

use super::*;
use crate::fabric::status::with_details;

use Step::{CommitStatus, Endorse, Evaluate, Submit};

const FIRST: &str = "failed to endorse transaction, see attached details for more info";
const COLLECT: &str = "failed to collect enough transaction endorsements, see attached details for more info";
const PLAN: &str = "no combination of peers can be derived which satisfy the endorsement policy: ";
const ORDERERS: &str = "no orderers could successfully process transaction";
const DIALING: &str = "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial tcp 127.0.0.1:7050: connect: connection refused\"";
const RESET: &str = "rpc error: code = Unavailable desc = error reading from server: read tcp 127.0.0.1:38858->127.0.0.1:7050: read: connection reset by peer";
const NO_CHAINCODE: &str = "error in simulation: failed to execute transaction 1036: could not launch chaincode counter:b1c4: connection to counter:b1c4 failed: error creating grpc connection to 127.0.0.1:9101";
const DENIED: &str = "error validating proposal: access denied: channel [mychannel] creator org [Org1MSP]";
const BUSY: &str = "too many requests for /gateway.Gateway, exceeding concurrency limit (500)";
const KNOWN: &str = "duplicate transaction found [5b8e1c]. Creator [0a074f7267314d5350]";
const NO: &str = "chaincode response 500, the asset none does not exist";

fn told(step: Step, code: Code, message: &str, details: &[&str], organizations: usize) -> (char, String) {
    let details: Vec<_> = (1..)
        .zip(details)
        .map(|(n, message)| ErrorDetail {
            address: format!("peer{n}:7051"),
            msp_id: format!("Org{n}MSP"),
            message: (*message).to_owned(),
        })
        .collect();
    let (class, cause) = match classify(step, &with_details(code, message, &details), organizations) {
        Failure::Rejected(cause) => ('R', cause),
        Failure::Conflict(cause) => ('C', cause),
        Failure::Known(cause) => ('K', cause),
        Failure::Postponed(cause) => ('P', cause),
        Failure::Unavailable(cause) => ('U', cause),
        Failure::Unknown(cause) => ('?', cause),
    };
    (class, cause.code)
}

/// A call, its error with what each peer or orderer said, how many organisations were asked; the class and the code.
type Row<'r> = (Step, Code, &'r str, &'r [&'r str], usize, char, &'r str);

#[test]
fn i2_every_error_of_a_peer_has_its_class() {
    let plan = |words: &str| format!("{PLAN}{words}");
    let orderer = |words: &str| format!("received unsuccessful response from orderer: status={words}");
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        // The chaincode's own decision.
        (Endorse, Code::Aborted, FIRST, &[NO], 0, 'R', "CHAINCODE_ERROR"),
        (Endorse, Code::Aborted, COLLECT, &[NO], 1, 'R', "CHAINCODE_ERROR"),
        (Endorse, Code::Aborted, COLLECT, &[NO, NO], 2, 'R', "CHAINCODE_ERROR"),
        (Evaluate, Code::Unknown, &format!("evaluate call to endorser returned error: {NO}"), &[NO], 0, 'R', "CHAINCODE_ERROR"),
        (Evaluate, Code::Unknown, &format!("evaluate call to endorser returned error: {NO}"), &[], 0, 'R', "CHAINCODE_ERROR"),
        (Endorse, Code::Aborted, FIRST, &["chaincode response -1, no"], 0, 'R', "CHAINCODE_ERROR"),
        (Endorse, Code::Aborted, FIRST, &["chaincode response 500, ProposalResponsePayloads do not match, access denied"], 0, 'R', "CHAINCODE_ERROR"),
        // An id that is on the ledger, valid or not, known to all who were asked or to one.
        (Endorse, Code::Aborted, FIRST, &[KNOWN], 0, 'K', "ALREADY_ON_LEDGER"),
        (Endorse, Code::Aborted, COLLECT, &[KNOWN], 0, 'K', "ALREADY_ON_LEDGER"),
        (Endorse, Code::Aborted, COLLECT, &[KNOWN, KNOWN], 2, 'K', "ALREADY_ON_LEDGER"),
        (Endorse, Code::Aborted, COLLECT, &[NO, KNOWN], 2, 'K', "ALREADY_ON_LEDGER"),
        (Endorse, Code::Aborted, FIRST, &["chaincode response 500, duplicate transaction found [ab]"], 0, 'R', "CHAINCODE_ERROR"),
        // Endorsers that do not agree.
        (Endorse, Code::Aborted, COLLECT, &[NO], 0, 'C', "ENDORSEMENTS_DIFFER"),
        (Endorse, Code::Aborted, COLLECT, &[NO], 2, 'C', "ENDORSEMENTS_DIFFER"),
        (Endorse, Code::Aborted, "failed to assemble transaction: ProposalResponsePayloads do not match", &[], 0, 'C', "ENDORSEMENTS_DIFFER"),
        (Endorse, Code::Aborted, COLLECT, &["ProposalResponsePayloads do not match"], 0, 'C', "ENDORSEMENTS_DIFFER"),
        // A chaincode or an organisation that is down concerns nobody else.
        (Endorse, Code::Aborted, FIRST, &[NO_CHAINCODE], 0, 'P', "ENDORSEMENT_FAILED"),
        (Endorse, Code::Aborted, FIRST, &[NO, NO_CHAINCODE], 0, 'P', "ENDORSEMENT_FAILED"),
        (Evaluate, Code::Aborted, "failed to evaluate transaction, see attached details for more info", &[NO_CHAINCODE], 0, 'P', "ENDORSEMENT_FAILED"),
        (Endorse, Code::FailedPrecondition, &plan("no peer combination can satisfy the endorsement policy"), &[], 0, 'P', "NO_ENDORSERS"),
        (Endorse, Code::Unavailable, "failed to find any endorsing peers for org(s): Org2MSP", &[], 2, 'P', "NO_ENDORSERS"),
        // A name that nobody knows, or a peer that is not ready: only time can tell.
        (Endorse, Code::FailedPrecondition, &plan("No metadata was found for chaincode nosuch in channel mychannel"), &[], 0, 'P', CHAINCODE_NOT_FOUND),
        (Evaluate, Code::FailedPrecondition, "no peers available to evaluate chaincode nosuch in channel mychannel", &[], 0, 'P', CHAINCODE_NOT_FOUND),
        // The network, or our place in it.
        (Evaluate, Code::Unavailable, "failed to get config for channel [nochannel]: could not get last config for channel nochannel", &[], 0, 'U', "UNAVAILABLE"),
        (Endorse, Code::Aborted, FIRST, &[DENIED], 0, 'U', "ACCESS_DENIED"),
        (Endorse, Code::Aborted, FIRST, &["proposal client identity expired"], 0, 'U', "ACCESS_DENIED"),
        (Evaluate, Code::Unavailable, "failed to evaluate transaction, see attached details for more info", &["proposal client identity expired"], 0, 'U', "ACCESS_DENIED"),
        (Endorse, Code::Aborted, FIRST, &["request unauthorized due to incorrect timestamp 2026-11-21T13:10:20Z, peer time 2026-11-21T13:25:26Z"], 0, 'U', "CLOCK_OFF"),
        (Endorse, Code::Aborted, FIRST, &["Failed evaluating policy on signed data during check policy on channel [mychannel]"], 0, 'U', "ACCESS_DENIED"),
        (Endorse, Code::DeadlineExceeded, "endorsement timeout expired while collecting endorsements", &[], 0, 'U', "TIMEOUT"),
        (Endorse, Code::Unavailable, "Connection dropped", &[], 0, 'U', "UNAVAILABLE"),
        (Endorse, Code::InvalidArgument, "the proposed transaction must contain a signed proposal", &[], 0, 'R', "INVALID_ARGUMENT"),
        (Endorse, Code::FailedPrecondition, "no endorsers found in the gateway's organization; retry specifying endorsing organization(s) to protect transient data", &[], 0, 'R', "ENDORSING_ORGANIZATIONS_NEEDED"),
        // Refused before anything was done, whatever the call.
        (Endorse, Code::Unknown, BUSY, &[], 0, 'U', TOO_MANY_REQUESTS),
        (Submit, Code::Unknown, BUSY, &[], 0, 'U', TOO_MANY_REQUESTS),
        (CommitStatus, Code::Unknown, BUSY, &[], 0, 'U', TOO_MANY_REQUESTS),
        // Certainly no orderer took it.
        (Submit, Code::Unavailable, "no orderer nodes available", &[], 0, 'U', "NO_ORDERER"),
        (Submit, Code::Unavailable, ORDERERS, &[DIALING], 0, 'U', "NO_ORDERER"),
        (Submit, Code::Unavailable, ORDERERS, &[], 0, 'U', "NO_ORDERER"),
        (Submit, Code::FailedPrecondition, "failed to get config for channel [mychannel]", &[], 0, 'U', "NOT_SENT"),
        (Submit, Code::Aborted, &orderer("FORBIDDEN, info=permission denied"), &[], 0, 'U', "ORDERER_REFUSED"),
        (Submit, Code::Aborted, &orderer("BAD_REQUEST, info=message payload is 18878274 bytes and exceeds maximum allowed 10485760 bytes"),
            &[],
            0,
            'R',
            "TOO_LARGE",
        ),
        // Perhaps one did.
        (Submit, Code::Unavailable, ORDERERS, &[DIALING, RESET], 0, '?', "UNKNOWN"),
        (Submit, Code::Unavailable, "insufficient number of orderers could successfully process transaction to satisfy quorum requirement", &[DIALING], 0, '?', "UNKNOWN"),
        (Submit, Code::DeadlineExceeded, "submit timeout expired while broadcasting to ordering service", &[], 0, '?', "UNKNOWN"),
        (Submit, Code::Unavailable, "Connection dropped", &[], 0, '?', "UNKNOWN"),
        (Submit, Code::ResourceExhausted, "Bandwidth exhausted or memory limit exceeded", &[], 0, '?', "UNKNOWN"),
        (Submit, Code::Cancelled, "Timeout expired", &[], 0, '?', "UNKNOWN"),
        (Submit, Code::Internal, "h2 protocol error", &[], 0, '?', "UNKNOWN"),
        // Silence is the answer for an id that the peer does not know.
        (CommitStatus, Code::DeadlineExceeded, "Deadline exceeded", &[], 0, '?', "NOT_FOUND"),
        (CommitStatus, Code::Cancelled, "Timeout expired", &[], 0, '?', "NOT_FOUND"),
        (CommitStatus, Code::PermissionDenied, "Failed to get policy manager for channel [mychannel]", &[], 0, 'U', "ACCESS_DENIED"),
        (CommitStatus, Code::Unavailable, "Connection dropped", &[], 0, 'U', "UNAVAILABLE"),
    ];
    for &(step, code, message, details, organizations, class, name) in rows {
        assert_eq!(
            told(step, code, message, details, organizations),
            (class, name.to_owned()),
            "{step:?} {code:?} {message:?} {details:?} of {organizations}"
        );
    }
}

#[test]
fn i2_no_error_of_endorsing_is_unknown_and_what_nobody_knows_of_submitting_is() {
    for number in 1..=16 {
        let code = Code::from(number);
        assert_ne!(told(Endorse, code, "never heard of", &[], 0).0, '?', "{code:?}");
        let (class, _) = told(Submit, code, "never heard of", &["nor this"], 0);
        let before_orderers = matches!(
            code,
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound
        );
        assert_eq!(class, if before_orderers { 'U' } else { '?' }, "{code:?}");
    }
}

#[test]
fn a_refusal_is_told_in_the_chaincodes_own_words() {
    let detail = |n: usize| ErrorDetail {
        address: format!("peer{n}:7051"),
        msp_id: format!("Org{n}MSP"),
        message: NO.to_owned(),
    };
    let status = with_details(Code::Aborted, COLLECT, &[detail(1), detail(2)]);
    let Failure::Rejected(cause) = classify(Endorse, &status, 2) else {
        panic!("no refusal")
    };
    assert_eq!(
        cause.message,
        "the asset none does not exist (peer1:7051 of Org1MSP; peer2:7051 of Org2MSP: the asset none does not exist)"
    );
}
