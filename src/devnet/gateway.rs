//! The Gateway service of a peer: evaluate, endorse, submit, ask for the outcome, listen for events.
//!
//! Codes, texts and details are those of a real peer, however little sense some of them make: clients are tested
//! against this. As on a real peer, the identifiers and the channel beside a proposal are not looked at; those in its
//! headers count.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::BoxStream;
use prost::Message;
use tonic::{Code, Request, Response, Status};

use super::Devnet;
use super::calls::guarded;
use super::committer;
use super::endorser::{endorse, simulate};
use super::events;
use super::faults::{CrashPoint, Method};
use super::line::Knife;
use super::membership::Organisation;
use super::orderer;
use super::proposal::{Proposal, Refusal, no_policy, reader};
use crate::domain::LedgerTxId;
use crate::fabric::proto::gateway::gateway_server::Gateway;
use crate::fabric::proto::gateway::{
    ChaincodeEventsRequest, ChaincodeEventsResponse, CommitStatusRequest, CommitStatusResponse,
    EndorseRequest, EndorseResponse, ErrorDetail, EvaluateRequest, EvaluateResponse,
    SignedChaincodeEventsRequest, SignedCommitStatusRequest, SubmitRequest, SubmitResponse,
};
use crate::fabric::proto::protos::SignedProposal;
use crate::fabric::status::with_details;
use crate::ledger::simulator::contract_exists;

const FIRST_FAILED: &str = "failed to endorse transaction, see attached details for more info";
const NOT_ENOUGH: &str =
    "failed to collect enough transaction endorsements, see attached details for more info";
const NOT_EVALUATED: &str = "failed to evaluate transaction, see attached details for more info";

/// The service.
pub(super) struct GatewayService(pub(super) Arc<Devnet>);

fn detail(organisation: &Organisation, message: &str) -> ErrorDetail {
    ErrorDetail {
        address: organisation.address.clone(),
        msp_id: organisation.msp_id.clone(),
        message: message.to_owned(),
    }
}

impl GatewayService {
    /// The organisations of these names, each once; or the names that nobody has.
    fn named(&self, names: &[String]) -> Result<Vec<&Organisation>, Vec<String>> {
        let members = &self.0.members;
        let missing: Vec<String> = names
            .iter()
            .filter(|name| members.organisation(name).is_none())
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        let mut seen = HashSet::new();
        let found = names.iter().filter(|&name| seen.insert(name));
        Ok(found.filter_map(|name| members.organisation(name)).collect())
    }

    async fn endorse(&self, request: EndorseRequest) -> Result<EndorseResponse, Status> {
        let signed = request.proposed_transaction.unwrap_or_default();
        if signed.proposal_bytes.is_empty() {
            return Err(Status::invalid_argument(
                "the proposed transaction must contain a signed proposal",
            ));
        }
        let proposal = Proposal::read(signed).map_err(Status::invalid_argument)?;
        let channel = proposal.channel.channel_id.clone();
        let chaincode = proposal.planned.clone().unwrap_or_default();
        let known = channel == self.0.channel && contract_exists(&chaincode);
        let names = &request.endorsing_organizations;
        let by = if names.is_empty() {
            if channel.is_empty() {
                return Err(Status::failed_precondition(""));
            }
            if !known {
                return Err(Status::failed_precondition(format!(
                    "no combination of peers can be derived which satisfy the endorsement policy: No metadata was found for chaincode {chaincode} in channel {channel}"
                )));
            }
            let organisations = &self.0.members.organisations;
            let needed = self.0.policy.needs(organisations.len());
            organisations.iter().take(needed).collect()
        } else {
            let found = if known {
                self.named(names)
            } else {
                Err(names.clone())
            };
            found.map_err(|missing| {
                Status::unavailable(format!(
                    "failed to find any endorsing peers for org(s): {}",
                    missing.join(", ")
                ))
            })?
        };
        match simulate(&self.0, &proposal).await {
            Ok(simulated) => Ok(EndorseResponse {
                prepared_transaction: Some(endorse(&proposal, simulated, &by)),
            }),
            // Without a choice of the client's, the gateway asks its own peer first and then no other one.
            Err(refusal) if names.is_empty() => {
                let own = by.first().map(|own| detail(own, refusal.words()));
                Err(with_details(Code::Aborted, FIRST_FAILED, own.as_slice()))
            }
            Err(refusal) => {
                let details: Vec<ErrorDetail> = by.iter().map(|peer| detail(peer, refusal.words())).collect();
                Err(with_details(Code::Aborted, NOT_ENOUGH, &details))
            }
        }
    }

    async fn evaluate(&self, request: EvaluateRequest) -> Result<EvaluateResponse, Status> {
        let signed = request.proposed_transaction.unwrap_or_default();
        let proposal = unpack(signed).map_err(|words| {
            Status::invalid_argument(format!("failed to unpack transaction proposal: {words}"))
        })?;
        let channel = &proposal.channel.channel_id;
        if *channel != self.0.channel {
            return Err(Status::unavailable(no_config(channel)));
        }
        let chaincode = proposal.planned.clone().unwrap_or_default();
        let names = &request.target_organizations;
        let mut targets: Vec<&Organisation> = self
            .0
            .members
            .organisations
            .iter()
            .filter(|known| names.is_empty() || names.contains(&known.msp_id))
            .collect();
        if !contract_exists(&chaincode) {
            targets.clear();
        }
        let Some(first) = targets.first() else {
            return Err(Status::failed_precondition(format!(
                "no peers available to evaluate chaincode {chaincode} in channel {channel}"
            )));
        };
        let refusal = match simulate(&self.0, &proposal).await {
            Ok(simulated) => {
                return Ok(EvaluateResponse {
                    result: Some(simulated.response),
                });
            }
            Err(refusal) => refusal,
        };
        let words = refusal.words();
        let refused = |code| {
            let message = format!("evaluate call to endorser returned error: {words}");
            Err(with_details(code, &message, &[detail(first, words)]))
        };
        // What no chaincode and no check said is tried on every peer.
        let everywhere = |code, prefix: &str| {
            let details = targets.iter().enumerate().map(|(number, peer)| {
                let prefix = if number == 0 { "" } else { prefix };
                detail(peer, &format!("{prefix}{words}"))
            });
            Err(with_details(code, NOT_EVALUATED, &details.collect::<Vec<_>>()))
        };
        match refusal {
            Refusal::Invalid(_) => refused(Code::FailedPrecondition),
            Refusal::Chaincode(_) => refused(Code::Unknown),
            Refusal::Filtered(_) => everywhere(Code::Unavailable, "rpc error: code = Unknown desc = "),
            Refusal::Failed(_) => everywhere(Code::Aborted, ""),
        }
    }

    fn submit(&self, request: SubmitRequest) -> Result<SubmitResponse, Status> {
        let Some(envelope) = request.prepared_transaction else {
            return Err(Status::invalid_argument("a prepared transaction is required"));
        };
        if envelope.signature.is_empty() {
            return Err(Status::invalid_argument("prepared transaction must be signed"));
        }
        if request.channel_id.is_empty() {
            return Err(Status::failed_precondition(""));
        }
        if request.channel_id != self.0.channel {
            return Err(Status::failed_precondition(no_config(&request.channel_id)));
        }
        let bytes = envelope.encode_to_vec();
        let tx_id = orderer::admit(&self.0, &envelope, bytes.len())?;
        let claim = committer::inspect(&envelope, &self.0.members, self.0.policy);
        self.0.faults.crash_if(CrashPoint::BeforeOrder);
        self.0
            .engine
            .submit(LedgerTxId(tx_id), bytes, claim)
            .map_err(|_| Status::unavailable("no orderers could successfully process transaction"))?;
        Ok(SubmitResponse {})
    }

    async fn commit_status(&self, signed: SignedCommitStatusRequest) -> Result<CommitStatusResponse, Status> {
        if signed.request.is_empty() {
            return Err(Status::invalid_argument("a commit status request is required"));
        }
        let request = CommitStatusRequest::decode(signed.request.as_slice()).map_err(|_| {
            Status::invalid_argument("invalid status request: proto: cannot parse invalid wire-format data")
        })?;
        for (missing, words) in [
            (request.identity.is_empty(), "no identity provided"),
            (request.channel_id.is_empty(), "no channel ID provided"),
            (
                request.transaction_id.is_empty(),
                "transaction ID should not be empty",
            ),
        ] {
            if missing {
                return Err(Status::invalid_argument(words));
            }
        }
        self.check_reader(
            &request.channel_id,
            &request.identity,
            &signed.request,
            &signed.signature,
        )?;
        let tx_id = LedgerTxId(request.transaction_id);
        let mut heights = self.0.engine.heights();
        loop {
            heights.mark_unchanged();
            match self.0.engine.settled(&tx_id) {
                Ok(Some(settled)) => {
                    return Ok(CommitStatusResponse {
                        result: settled.entry.code as i32,
                        block_number: settled.block,
                    });
                }
                Ok(None) => {}
                Err(error) => return Err(Status::aborted(error.to_string())),
            }
            tokio::select! {
                changed = heights.changed() => if changed.is_err() { return Err(self.0.stopping()) },
                () = self.0.stop.cancelled() => return Err(self.0.stopping()),
            }
        }
    }

    fn chaincode_events(
        &self,
        signed: &SignedChaincodeEventsRequest,
    ) -> Result<BoxStream<'static, Result<ChaincodeEventsResponse, Status>>, Status> {
        if signed.request.is_empty() {
            return Err(Status::invalid_argument("a chaincode events request is required"));
        }
        let request = ChaincodeEventsRequest::decode(signed.request.as_slice()).map_err(|_| {
            Status::invalid_argument(
                "invalid chaincode events request: proto: cannot parse invalid wire-format data",
            )
        })?;
        self.check_reader(
            &request.channel_id,
            &request.identity,
            &signed.request,
            &signed.signature,
        )?;
        events::stream(&self.0, request)
    }

    fn check_reader(
        &self,
        channel: &str,
        identity: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Status> {
        if channel != self.0.channel {
            return Err(Status::permission_denied(format!(
                "Failed to get policy manager for channel [{channel}]"
            )));
        }
        match reader(&self.0.members, identity, message, signature, self.0.clock.now()) {
            Some(_) => Ok(()),
            None => Err(Status::permission_denied(no_policy("Readers", channel))),
        }
    }
}

/// What Evaluate needs to find in a proposal.
fn unpack(signed: SignedProposal) -> Result<Proposal, String> {
    if signed.proposal_bytes.is_empty() {
        return Err("a signed proposal is required".into());
    }
    let proposal = Proposal::read(signed)?;
    let channel = &proposal.channel.channel_id;
    if channel.is_empty() {
        return Err("no channel id provided".into());
    }
    let missing = match &proposal.planned {
        _ if !proposal.has_spec() => "spec",
        None => "id",
        Some(name) if name.is_empty() => "name",
        Some(_) => return Ok(proposal),
    };
    Err(format!(
        "no chaincode {missing} is provided, channel id [{channel}]"
    ))
}

fn no_config(channel: &str) -> String {
    format!("failed to get config for channel [{channel}]: could not get last config for channel {channel}")
}

impl GatewayService {
    /// Makes a call that is over with its reply: within the limit, and with the fault that it is due.
    async fn answer<Q, A>(
        &self,
        method: Method,
        request: Request<Q>,
        call: impl AsyncFnOnce(Q) -> Result<A, Status>,
    ) -> Result<Response<A>, Status> {
        let _place = self.0.gateway_limit.enter()?;
        let knife = Knife::of(request.extensions());
        let call = async { call(request.into_inner()).await.map(Response::new) };
        guarded(&self.0.faults, method, knife, call).await
    }
}

#[tonic::async_trait]
impl Gateway for GatewayService {
    async fn endorse(&self, request: Request<EndorseRequest>) -> Result<Response<EndorseResponse>, Status> {
        let call = async |request| {
            let reply = self.endorse(request).await?;
            self.0.faults.crash_if(CrashPoint::BeforeEndorseReply);
            Ok(reply)
        };
        self.answer(Method::Endorse, request, call).await
    }

    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        let call = async |request| {
            let reply = self.submit(request)?;
            self.0.faults.crash_if(CrashPoint::BeforeSubmitReply);
            Ok(reply)
        };
        self.answer(Method::Submit, request, call).await
    }

    async fn commit_status(
        &self,
        request: Request<SignedCommitStatusRequest>,
    ) -> Result<Response<CommitStatusResponse>, Status> {
        let call = async |request| self.commit_status(request).await;
        self.answer(Method::CommitStatus, request, call).await
    }

    async fn evaluate(
        &self,
        request: Request<EvaluateRequest>,
    ) -> Result<Response<EvaluateResponse>, Status> {
        let call = async |request| self.evaluate(request).await;
        self.answer(Method::Evaluate, request, call).await
    }

    type ChaincodeEventsStream = BoxStream<'static, Result<ChaincodeEventsResponse, Status>>;

    async fn chaincode_events(
        &self,
        request: Request<SignedChaincodeEventsRequest>,
    ) -> Result<Response<Self::ChaincodeEventsStream>, Status> {
        let place = self.0.gateway_limit.enter()?;
        let knife = Knife::of(request.extensions());
        let call = async {
            let stream = self.chaincode_events(request.get_ref())?;
            Ok(Response::new(events::holding(place, stream)))
        };
        guarded(&self.0.faults, Method::ChaincodeEvents, knife, call).await
    }
}
