//! Hyperledger Fabric: one channel of a network, through the Gateway service of its peers (Fabric 2.4 and later).
//!
//! ```text
//! prepare  proposal.rs -> Endorse -> endorsement.rs -> signed envelope and transaction id, to be stored
//! submit   the stored envelope -> Submit
//! outcome  blocks.rs (one stream of filtered blocks) or lookup (CommitStatus) -> verdict.rs
//! ```
//!
//! Invariants (I2):
//! - The transaction id is the hash of a nonce and our identity, known before anything is sent, and the endorsed
//!   transaction is checked to have that very id. The nonce names the submission, so preparing it again, from a store
//!   that went back in time even, makes the same id; peers refuse to endorse one that is on the ledger.
//! - A peer lets a transaction id take effect once: a second envelope with it becomes `DUPLICATE_TXID`. So a stored
//!   envelope can be sent again as often as need be, and a duplicate is never a failure.
//! - Only a validation code ends a submission. Whatever a call to `Submit` says, it may have been sent, unless the
//!   peer says that it turned to no orderer; [`failure`] decides, in one place.
//!
//! A crash loses nothing: the worker has the envelope, and the block stream resumes at its checkpoint.

mod absent;
mod blocks;
mod endorsement;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod link;
mod peers;
mod proposal;
#[cfg(test)]
mod tests;
mod verdict;
mod wallet;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::absent::Absent;
use self::endorsement::Endorsed;
use self::failure::{CHAINCODE_NOT_FOUND, Failure, NO_ORDERER, Step, TIMEOUT};
use self::link::{Failed, LARGEST_MESSAGE, Link};
use self::peers::Purpose;
use self::proposal::{Call, Sender, chaincode};
use self::verdict::verdict;
use self::wallet::Wallet;
use super::{LedgerBackend, Outcomes, PrepareError, Query, QueryError, SubmitError, Unacceptable};
use crate::clock::Clock;
use crate::config::{FabricSettings, is_chaincode_name};
use crate::domain::{Cause, Checkpoint, LedgerTxId, Outcome, Prepared, Request, SubmissionId, Timestamp};
use crate::fabric::proto::common::Envelope;
use crate::fabric::proto::gateway::gateway_client::GatewayClient;
use crate::fabric::proto::gateway::{EndorseRequest, EndorseResponse, EvaluateRequest, SubmitRequest};
use crate::fabric::transaction_id;

pub use wallet::WalletError;

/// How long the orderers are left alone after none of them took a transaction.
const ORDERER_PAUSE: Duration = Duration::from_secs(1);

/// How long a peer may take to tell its newest block, when that is to show whether it works at all.
const AT_ONCE: Duration = Duration::from_millis(500);

/// A channel of a Fabric network.
pub struct FabricLedger {
    link: Arc<Link>,
    absent: Absent,
    /// Why no orderer takes anything, and until when that is believed: nobody can ask them but by submitting.
    no_orderer: Mutex<Option<(Instant, Cause)>>,
}

impl FabricLedger {
    /// The channel that `settings` name. Reads the identity's files, which blocks, and connects to nobody yet. The
    /// files are looked after on `tasks` until `stop` is cancelled. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`WalletError`] if the identity cannot be used.
    pub fn open(
        settings: FabricSettings,
        clock: Arc<dyn Clock>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, WalletError> {
        let wallet = Arc::new(Wallet::open(&settings, &*clock)?);
        let link = Arc::new(Link::new(settings, wallet.clone(), clock.clone(), tasks.clone()));
        let looking = wallet.clone().look_after(clock);
        let renewing = renew(link.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = looking => {}
                () = renewing => {}
            }
        });
        Ok(Self {
            link,
            absent: Absent::default(),
            no_orderer: Mutex::default(),
        })
    }

    /// Signs what was endorsed, once it is sure to be what was proposed.
    fn seal(
        &self,
        sender: &Sender<'_>,
        tx_id: String,
        chaincode: &str,
        answer: EndorseResponse,
    ) -> Result<Prepared, PrepareError> {
        let strange = |words: String| PrepareError::Unavailable(Cause::new("STRANGE_ENDORSEMENT", words));
        self.absent.found(chaincode);
        let payload = answer.prepared_transaction.unwrap_or_default().payload;
        let endorsed = Endorsed::read(&payload, self.link.settings.keys).map_err(strange)?;
        // What is stored as the id has to be the id that lands.
        if endorsed.tx_id != tx_id {
            return Err(strange(format!(
                "the peer endorsed {} instead of {tx_id}",
                endorsed.tx_id
            )));
        }
        Ok(Prepared {
            tx_id: LedgerTxId(tx_id),
            envelope: STANDARD.encode(sender.seal(payload).encode_to_vec()),
            response: endorsed.response,
            touched: endorsed.touched,
        })
    }

    fn no_orderer(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Cause)>> {
        self.no_orderer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a chaincode that a peer knows nothing of does not exist: it has been so for long, and that peer has all
    /// the blocks that were ever seen.
    async fn is_absent(&self, chaincode: &str, peer: Option<usize>) -> bool {
        self.absent.for_long(chaincode, Instant::now()) && self.has_all_blocks(peer, AT_ONCE).await
    }

    /// Whether a peer has all blocks that were ever seen, and tells so in time.
    async fn has_all_blocks(&self, peer: Option<usize>, limit: Duration) -> bool {
        let seen = self.link.reached.load(Ordering::Relaxed);
        self.newest_block_of(peer, limit)
            .await
            .is_some_and(|newest| newest >= seen)
    }

    /// The newest block of one peer, if it tells it in time.
    async fn newest_block_of(&self, peer: Option<usize>, limit: Duration) -> Option<u64> {
        let asked = async {
            let line = self.link.peers.line_from(peer?).await.ok()?;
            let same = Some(line.peer) == peer;
            if same {
                blocks::newest(&self.link, &line).await.ok()
            } else {
                None
            }
        };
        tokio::time::timeout(limit, asked).await.ok().flatten()
    }

    /// What a peer tells of a transaction; and which peer, if it was asked and said nothing.
    async fn ask(&self, tx_id: &LedgerTxId) -> (Outcome, Option<usize>) {
        let keys = self.link.wallet.keys();
        let message = self.link.sender(&keys).ask_status(&tx_id.0);
        let asked = self
            .link
            .call(Step::CommitStatus, message, async |channel, request| {
                GatewayClient::new(channel).commit_status(request).await
            });
        let Failed { failure, peer } = match asked.await {
            Ok(answer) => {
                let told = verdict(answer.result, tx_id, answer.block_number).unwrap_or_else(|| {
                    Outcome::Unknown(Cause::new("NOT_VALIDATED", "the peer has no final word yet"))
                });
                return (told, None);
            }
            Err(failed) => failed,
        };
        match failure {
            Failure::Unknown(cause) => {
                // Another one may know more.
                if let Some(peer) = peer {
                    self.link.peers.pass_over(Purpose::LookingUp, peer);
                }
                (Outcome::Unknown(cause), peer)
            }
            Failure::Rejected(cause) | Failure::Conflict(cause) | Failure::Known(cause) => {
                (Outcome::Unknown(cause), None)
            }
            Failure::Postponed(cause) | Failure::Unavailable(cause) => (Outcome::Unavailable(cause), None),
        }
    }

    async fn newest_block(&self) -> Result<u64, Cause> {
        let line = self.link.peers.line(Purpose::Submitting).await?;
        blocks::newest(&self.link, &line).await
    }
}

/// The identifier of a submission by the identity that `settings` name now. Reads its files, which blocks.
///
/// # Errors
/// [`WalletError`].
pub fn identify(
    settings: &FabricSettings,
    clock: &dyn Clock,
    submission: SubmissionId,
) -> Result<LedgerTxId, WalletError> {
    let keys = Wallet::open(settings, clock)?.keys();
    let creator = keys.identity.creator();
    Ok(LedgerTxId(transaction_id(&submission.to_bytes(), creator)))
}

/// Makes new connections whenever the certificates were replaced.
async fn renew(link: Arc<Link>) {
    let mut changes = link.wallet.changes();
    while changes.changed().await.is_ok() {
        link.peers.renew();
    }
}

#[async_trait]
impl LedgerBackend for FabricLedger {
    fn kind(&self) -> &'static str {
        "fabric"
    }

    fn certificates(&self) -> Vec<(&'static str, Timestamp)> {
        self.link.wallet.keys().ends.clone()
    }

    fn default_contract(&self) -> Option<&str> {
        self.link.settings.default_contract.as_deref()
    }

    fn check(&self, request: &Request) -> Result<(), Unacceptable> {
        let unacceptable = |pointer, detail: &str| {
            Err(Unacceptable {
                pointer,
                detail: detail.to_owned(),
            })
        };
        if !is_chaincode_name(chaincode(&request.contract)) {
            return unacceptable(
                "/contract",
                "is no chaincode: write letters, digits, _ and -, such as \"basic\", or \"basic:Contract\" for a chaincode that holds several contracts",
            );
        }
        if request.contract.ends_with(':') {
            return unacceptable(
                "/contract",
                "names no contract after the colon; leave the colon out",
            );
        }
        Ok(())
    }

    fn deduplicates(&self) -> bool {
        true
    }

    fn identify(&self, submission: SubmissionId) -> LedgerTxId {
        let keys = self.link.wallet.keys();
        LedgerTxId(self.link.sender(&keys).transaction_id(submission.to_bytes()))
    }

    async fn prepare(&self, submission: SubmissionId, request: &Request) -> Result<Prepared, PrepareError> {
        let keys = self.link.wallet.keys();
        let sender = self.link.sender(&keys);
        let call = Call {
            contract: &request.contract,
            function: &request.function,
            args: &request.args,
        };
        let (tx_id, proposal) = sender.propose(submission.to_bytes(), &call, request.transient.iter());
        let message = EndorseRequest {
            transaction_id: tx_id.clone(),
            channel_id: sender.channel.to_owned(),
            proposed_transaction: Some(proposal),
            endorsing_organizations: self.link.settings.endorsing_organizations.clone(),
        };
        let endorsed = self.link.call(Step::Endorse, message, async |channel, request| {
            GatewayClient::new(channel)
                .max_decoding_message_size(LARGEST_MESSAGE)
                .endorse(request)
                .await
        });
        let Failed { failure, peer } = match endorsed.await {
            Ok(answer) => return self.seal(&sender, tx_id, call.chaincode(), answer),
            Err(failed) => failed,
        };
        Err(match failure {
            Failure::Known(_) => PrepareError::AlreadyOnLedger(LedgerTxId(tx_id)),
            Failure::Rejected(cause) => PrepareError::Rejected(cause),
            Failure::Conflict(cause) => PrepareError::Conflict(cause),
            Failure::Postponed(cause) => {
                match cause.code == CHAINCODE_NOT_FOUND && self.is_absent(call.chaincode(), peer).await {
                    true => PrepareError::Rejected(cause),
                    false => PrepareError::Postponed(cause),
                }
            }
            // A function that takes too long is no outage, if its peer answers otherwise.
            Failure::Unavailable(cause)
                if cause.code == TIMEOUT && self.newest_block_of(peer, AT_ONCE).await.is_some() =>
            {
                PrepareError::Postponed(cause)
            }
            Failure::Unavailable(cause) | Failure::Unknown(cause) => PrepareError::Unavailable(cause),
        })
    }

    async fn ready(&self) -> Result<(), Cause> {
        self.link.peers.line(Purpose::Submitting).await.map(drop)
    }

    async fn submit(&self, prepared: &Prepared) -> Result<(), SubmitError> {
        let damaged = |words: String| SubmitError::Rejected(Cause::new("BAD_ENVELOPE", words));
        let bytes = STANDARD
            .decode(&prepared.envelope)
            .map_err(|error| damaged(format!("the stored envelope is not base64: {error}")))?;
        let envelope = Envelope::decode(bytes.as_slice())
            .map_err(|error| damaged(format!("the stored envelope cannot be read: {error}")))?;
        let message = SubmitRequest {
            transaction_id: prepared.tx_id.0.clone(),
            channel_id: self.link.settings.channel.clone(),
            prepared_transaction: Some(envelope),
        };
        let submitted = self.link.call(Step::Submit, message, async |channel, request| {
            GatewayClient::new(channel)
                .max_encoding_message_size(LARGEST_MESSAGE)
                .submit(request)
                .await
        });
        // Before it is sent: its block may be here before the answer.
        let begun = self.link.waiting.begin();
        let submitted = submitted.await.map_err(|failed| failed.failure);
        if let Err(Failure::Rejected(_) | Failure::Postponed(_) | Failure::Unavailable(_)) = submitted {
            self.link.waiting.cancel(begun);
        }
        match submitted {
            Ok(_) => Ok(()),
            Err(Failure::Rejected(cause)) => Err(SubmitError::Rejected(cause)),
            Err(Failure::Postponed(cause) | Failure::Unavailable(cause)) => {
                if cause.code == NO_ORDERER {
                    let until = Instant::now() + ORDERER_PAUSE;
                    *self.no_orderer() = Some((until, cause.clone()));
                }
                Err(SubmitError::Unavailable(cause))
            }
            Err(Failure::Conflict(cause) | Failure::Known(cause) | Failure::Unknown(cause)) => {
                Err(SubmitError::Unknown(cause))
            }
        }
    }

    /// Must be called within a tokio runtime.
    fn outcomes(&self, from: Option<Checkpoint>) -> Outcomes {
        blocks::follow(self.link.clone(), from)
    }

    async fn lookup(&self, tx_id: &LedgerTxId) -> Outcome {
        self.ask(tx_id).await.0
    }

    async fn search(&self, tx_id: &LedgerTxId) -> Outcome {
        let limit = self.link.settings.commit_status_timeout;
        match self.ask(tx_id).await {
            // A peer says nothing of what it does not know, so its silence counts if it answers otherwise.
            (Outcome::Unknown(cause), silent) if self.has_all_blocks(silent, limit).await => {
                Outcome::Absent(cause)
            }
            (outcome, _) => outcome,
        }
    }

    async fn query(&self, query: &Query) -> Result<Box<RawValue>, QueryError> {
        let keys = self.link.wallet.keys();
        let sender = self.link.sender(&keys);
        let call = Call {
            contract: &query.contract,
            function: &query.function,
            args: &query.args,
        };
        // Nothing of a query reaches the ledger.
        let (tx_id, proposal) = sender.propose(rand::random(), &call, std::iter::empty());
        let message = EvaluateRequest {
            transaction_id: tx_id,
            channel_id: sender.channel.to_owned(),
            proposed_transaction: Some(proposal),
            target_organizations: Vec::new(),
        };
        let evaluated = self.link.call(Step::Evaluate, message, async |channel, request| {
            GatewayClient::new(channel)
                .max_decoding_message_size(LARGEST_MESSAGE)
                .evaluate(request)
                .await
        });
        match evaluated.await.map_err(|failed| failed.failure) {
            Ok(answer) => {
                let payload = answer.result.unwrap_or_default().payload;
                Ok(endorsement::answer(&payload).unwrap_or_else(|| RawValue::NULL.to_owned()))
            }
            Err(Failure::Rejected(cause)) => Err(QueryError::Rejected(cause)),
            // Somebody waits for it, so there is no time to find out whether the name is a slip.
            Err(Failure::Postponed(cause)) if cause.code == CHAINCODE_NOT_FOUND => {
                Err(QueryError::Rejected(cause))
            }
            Err(
                Failure::Conflict(cause)
                | Failure::Known(cause)
                | Failure::Postponed(cause)
                | Failure::Unavailable(cause)
                | Failure::Unknown(cause),
            ) => Err(QueryError::Unavailable(cause)),
        }
    }

    async fn probe(&self) -> Result<(), Cause> {
        let pause = self.no_orderer().clone();
        match pause.filter(|(until, _)| Instant::now() < *until) {
            Some((_, cause)) => Err(cause),
            None => self.newest_block().await.map(drop),
        }
    }
}
