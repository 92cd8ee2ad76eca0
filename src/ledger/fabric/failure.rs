//! What an error of a peer means: the one place that decides.
//!
//! gRPC codes alone are ambiguous, so the details that peers attach decide, and where those say nothing, their
//! words. What nobody here knows is an outage while nothing can have been sent, and unknown once it can (I2).

use tonic::{Code, Status};

use crate::domain::Cause;
use crate::fabric::proto::gateway::ErrorDetail;
use crate::fabric::status::details;

/// The call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Asking for endorsements. Sends nothing that could take effect.
    Endorse,
    /// A query.
    Evaluate,
    /// Handing over to the orderers.
    Submit,
    /// Asking what became of a transaction.
    CommitStatus,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It will never work.
    Rejected(Cause),
    /// Endorsers see different states; a little later they agree.
    Conflict(Cause),
    /// A peer has a transaction with this id on its ledger, valid or not.
    Known(Cause),
    /// This one cannot be endorsed now; others may well be.
    Postponed(Cause),
    /// Nothing was sent; the network is out of reach, or does not work for us.
    Unavailable(Cause),
    /// It may have been sent.
    Unknown(Cause),
}

/// The code for a chaincode that the peer knows nothing of. It may be a slip of the caller, or the peer is not
/// ready; one answer does not tell.
pub(super) const CHAINCODE_NOT_FOUND: &str = "CHAINCODE_NOT_FOUND";

/// The code for a call that took too long.
pub(super) const TIMEOUT: &str = "TIMEOUT";

/// The code for orderers that take nothing.
pub(super) const NO_ORDERER: &str = "NO_ORDERER";

/// The code for a peer that has too much to do.
const TOO_MANY_REQUESTS: &str = "TOO_MANY_REQUESTS";

/// Decides. `organizations` is how many were told to endorse; 0 if the peer chose.
pub(super) fn classify(step: Step, status: &Status, organizations: usize) -> Failure {
    let said = Said {
        status,
        details: details(status),
    };
    // The peer's own words before it does anything; its gRPC code is UNKNOWN.
    if status
        .message()
        .starts_with("too many requests for /gateway.Gateway")
    {
        return Failure::Unavailable(said.cause(TOO_MANY_REQUESTS));
    }
    match step {
        Step::Endorse | Step::Evaluate => said.while_executing(organizations),
        Step::Submit => said.while_submitting(),
        Step::CommitStatus => match status.code() {
            // The peer waits for what it does not know.
            Code::DeadlineExceeded | Code::Cancelled => Failure::Unknown(Cause::new(
                "NOT_FOUND",
                "the peer does not know this transaction (yet)",
            )),
            Code::PermissionDenied => Failure::Unavailable(said.cause("ACCESS_DENIED")),
            _ => Failure::Unavailable(said.cause("UNAVAILABLE")),
        },
    }
}

/// An error with what each peer or orderer said.
struct Said<'s> {
    status: &'s Status,
    details: Vec<ErrorDetail>,
}

impl Said<'_> {
    fn says(&self, words: &str) -> bool {
        self.status.message().contains(words)
            || self.details.iter().any(|detail| detail.message.contains(words))
    }

    /// A cause in the peer's words, followed by those of each peer or orderer that it asked.
    fn cause(&self, code: &str) -> Cause {
        let mut words = format!("{:?}: {}", self.status.code(), self.status.message());
        for (n, detail) in self.details.iter().enumerate() {
            words += if n == 0 { " (" } else { "; " };
            words += &format!("{} of {}: {}", detail.address, detail.msp_id, detail.message);
        }
        if !self.details.is_empty() {
            words.push(')');
        }
        Cause::new(code, words)
    }

    /// Nothing can have been sent: the question is only whether it can ever work, and whether others can.
    fn while_executing(&self, organizations: usize) -> Failure {
        // Not in what a chaincode says, which is anybody's text.
        let told_by_peers = self
            .details
            .iter()
            .filter(|detail| refusal(&detail.message).is_none());
        let mut told_by_peers = told_by_peers
            .map(|detail| detail.message.as_str())
            .chain(self.details.is_empty().then(|| self.status.message()));
        // It comes before everything else: that copy may be why others refuse.
        if told_by_peers
            .clone()
            .any(|words| words.contains("duplicate transaction found ["))
        {
            return Failure::Known(self.cause("ALREADY_ON_LEDGER"));
        }
        if told_by_peers.any(|words| words.contains("ProposalResponsePayloads do not match")) {
            return Failure::Conflict(self.cause("ENDORSEMENTS_DIFFER"));
        }
        if let Some(failure) = self.refused_by_chaincode(organizations) {
            return failure;
        }
        if self.says("incorrect timestamp") {
            return Failure::Unavailable(self.cause("CLOCK_OFF"));
        }
        if ["access denied", "identity expired", "Failed evaluating policy"]
            .iter()
            .any(|words| self.says(words))
        {
            return Failure::Unavailable(self.cause("ACCESS_DENIED"));
        }
        if self.says("No metadata was found for chaincode")
            || self.says("no peers available to evaluate chaincode")
        {
            return Failure::Postponed(self.cause(CHAINCODE_NOT_FOUND));
        }
        if self.says("to protect transient data") {
            return Failure::Rejected(self.cause("ENDORSING_ORGANIZATIONS_NEEDED"));
        }
        match self.status.code() {
            Code::InvalidArgument => Failure::Rejected(self.cause("INVALID_ARGUMENT")),
            // Its endorsers, or its chaincode, do not work.
            Code::Aborted => Failure::Postponed(self.cause("ENDORSEMENT_FAILED")),
            Code::FailedPrecondition => Failure::Postponed(self.cause("NO_ENDORSERS")),
            Code::Unavailable if self.says("failed to find any endorsing peers") => {
                Failure::Postponed(self.cause("NO_ENDORSERS"))
            }
            Code::DeadlineExceeded | Code::Cancelled => Failure::Unavailable(self.cause(TIMEOUT)),
            Code::PermissionDenied | Code::Unauthenticated => {
                Failure::Unavailable(self.cause("ACCESS_DENIED"))
            }
            _ => Failure::Unavailable(self.cause("UNAVAILABLE")),
        }
    }

    /// What it means that the chaincode refused, if it did.
    fn refused_by_chaincode(&self, organizations: usize) -> Option<Failure> {
        let mut refusals = Vec::new();
        for detail in &self.details {
            refusals.extend(refusal(&detail.message).map(|words| (detail, words)));
        }
        let Some(((first, words), others)) = refusals.split_first() else {
            let words = refusal(self.status.message())?;
            return Some(Failure::Rejected(Cause::new("CHAINCODE_ERROR", words)));
        };
        let mut sentence = format!("{words} ({} of {}", first.address, first.msp_id);
        for (other, words) in others {
            sentence += &format!("; {} of {}: {words}", other.address, other.msp_id);
        }
        sentence.push(')');
        if refusals.len() < self.details.len() {
            // One endorser's word, while another could not be asked.
            return Some(Failure::Postponed(self.cause("ENDORSEMENT_FAILED")));
        }
        // In this stage, and with a choice of its own, the peer had the agreement of a first endorser.
        let collecting = self.status.message().starts_with("failed to collect enough");
        let somebody_agreed = collecting && (organizations == 0 || refusals.len() < organizations);
        Some(match somebody_agreed {
            true => Failure::Conflict(Cause::new("ENDORSEMENTS_DIFFER", sentence)),
            false => Failure::Rejected(Cause::new("CHAINCODE_ERROR", sentence)),
        })
    }

    /// The envelope may be on its way: only what is known to have stopped before an orderer took it is certain.
    fn while_submitting(&self) -> Failure {
        // The same bytes are always too large, so no earlier sending can have been taken either.
        if self.says("exceeds maximum allowed") {
            return Failure::Rejected(self.cause("TOO_LARGE"));
        }
        match self.status.code() {
            // Told by the peer before it turned to an orderer.
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound => {
                Failure::Unavailable(self.cause("NOT_SENT"))
            }
            Code::Unavailable if self.says("no orderer nodes available") => {
                Failure::Unavailable(self.cause(NO_ORDERER))
            }
            // Of orderers that refuse (no Raft leader) there are no details; of others there is what happened.
            Code::Unavailable
                if self.status.message() == "no orderers could successfully process transaction"
                    && self.details.iter().all(|detail| never_connected(&detail.message)) =>
            {
                Failure::Unavailable(self.cause(NO_ORDERER))
            }
            // An orderer refused it: our rights, a certificate that ran out. That can be mended, and these bytes sent.
            Code::Aborted if self.says("received unsuccessful response from orderer") => {
                Failure::Unavailable(self.cause("ORDERER_REFUSED"))
            }
            _ => Failure::Unknown(self.cause("UNKNOWN")),
        }
    }
}

/// The chaincode's own words in `chaincode response 500, its words`.
fn refusal(message: &str) -> Option<String> {
    let (_, words) = message.split_once("chaincode response ")?;
    let (number, words) = words.split_once(", ")?;
    number.parse::<i32>().ok().map(|_| words.to_owned())
}

/// Whether the connection to an orderer did not come about.
fn never_connected(message: &str) -> bool {
    message
        .to_ascii_lowercase()
        .contains("transport: error while dialing")
}

#[cfg(test)]
#[path = "failure_tests.rs"]
mod tests;
