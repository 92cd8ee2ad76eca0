//! Everything that a call to the network needs: settings, identity, connections, and a bound on calls.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prost::Message;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::transport::Channel;

use super::blocks::Waiting;
use super::failure::{Failure, Step, classify};
use super::peers::{Line, Peers, Purpose};
use super::proposal::Sender;
use super::wallet::{Keys, Wallet};
use crate::clock::Clock;
use crate::config::FabricSettings;
use crate::domain::Cause;
use crate::telemetry::root_cause;

/// Calls at the same time, by what they are for, so that look-ups and queries do not hold up submissions. A peer
/// allows 500 for all its clients together.
const SUBMITTING: usize = 200;
const LOOKING_UP: usize = 100;

/// So many times the limit of a look-up may it wait for its turn.
const TURNS: u32 = 2;
const QUERYING: usize = 100;

/// The peer is given this much longer, to say itself that it is late.
const GRACE: Duration = Duration::from_millis(100);

/// The largest message either way, in bytes: that of a peer.
pub(super) const LARGEST_MESSAGE: usize = 100 << 20;

/// What all calls share.
pub(super) struct Link {
    pub(super) settings: FabricSettings,
    pub(super) wallet: Arc<Wallet>,
    pub(super) peers: Peers,
    pub(super) waiting: Waiting,
    /// The highest block that was seen.
    pub(super) reached: AtomicU64,
    pub(super) tasks: TaskTracker,
    clock: Arc<dyn Clock>,
    submitting: Semaphore,
    looking_up: Semaphore,
    querying: Semaphore,
}

impl Link {
    pub(super) fn new(
        settings: FabricSettings,
        wallet: Arc<Wallet>,
        clock: Arc<dyn Clock>,
        tasks: TaskTracker,
    ) -> Self {
        let peers = Peers::new(&settings.peers, wallet.clone());
        Self {
            settings,
            wallet,
            peers,
            waiting: Waiting::default(),
            reached: AtomicU64::new(0),
            tasks,
            clock,
            submitting: Semaphore::new(SUBMITTING),
            looking_up: Semaphore::new(LOOKING_UP),
            querying: Semaphore::new(QUERYING),
        }
    }

    /// Who sends, with `keys`.
    pub(super) fn sender<'a>(&'a self, keys: &'a Keys) -> Sender<'a> {
        Sender {
            identity: &keys.identity,
            channel: &self.settings.channel,
            now: self.clock.now(),
            tls_cert_hash: &keys.tls_cert_hash,
        }
    }

    /// Makes a call, within the time that its step may take.
    pub(super) async fn call<M, T>(
        &self,
        step: Step,
        message: M,
        send: impl AsyncFnOnce(Channel, tonic::Request<M>) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Failed>
    where
        M: Message,
    {
        let (bound, limit) = match step {
            Step::Endorse => (&self.submitting, self.settings.endorse_timeout),
            Step::Submit => (&self.submitting, self.settings.submit_timeout),
            Step::Evaluate => (&self.querying, self.settings.evaluate_timeout),
            Step::CommitStatus => (&self.looking_up, self.settings.commit_status_timeout),
        };
        let purpose = match step {
            Step::Evaluate => Purpose::Querying,
            Step::CommitStatus => Purpose::LookingUp,
            Step::Endorse | Step::Submit => Purpose::Submitting,
        };
        // Never closed.
        let _permit = match step {
            Step::Endorse | Step::Submit | Step::Evaluate => bound.acquire().await,
            // The lane waits for an answer. That nobody could be asked is one: the same bytes are sent again.
            Step::CommitStatus => match tokio::time::timeout(limit * TURNS, bound.acquire()).await {
                Ok(permit) => permit,
                Err(_) => {
                    let cause = Cause::new("NOT_ASKED", "too many transactions are looked up at once");
                    return Err(Failed {
                        failure: Failure::Unknown(cause),
                        peer: None,
                    });
                }
            },
        };
        let unreachable = |cause| Failed {
            failure: Failure::Unavailable(cause),
            peer: None,
        };
        let line = self.peers.line(purpose).await.map_err(unreachable)?;
        let mut request = tonic::Request::new(message);
        // So that the peer, too, does not go on with what nobody waits for.
        request.set_timeout(limit);
        // Whoever gives up before that found the peer too slow as well.
        let hanging = Hanging(Some((&self.peers, purpose, line.peer)));
        let sent = tokio::time::timeout(limit + GRACE, send(line.channel.clone(), request)).await;
        hanging.over();
        let status = match sent {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded(format!("the peer did not answer within {limit:?}")),
        };
        let failure = classify(step, &status, self.settings.endorsing_organizations.len());
        let silent = matches!(
            status.code(),
            tonic::Code::DeadlineExceeded | tonic::Code::Cancelled
        );
        let works = match &failure {
            Failure::Rejected(_) | Failure::Conflict(_) | Failure::Known(_) => true,
            // Of a look-up, silence is an answer.
            Failure::Unknown(_) => step == Step::CommitStatus,
            Failure::Postponed(_) | Failure::Unavailable(_) => false,
        };
        if std::error::Error::source(&status).is_some() && !silent {
            self.peers.failed(line.peer);
        } else if !works {
            self.peers.pass_over(purpose, line.peer);
        }
        Err(Failed {
            failure,
            peer: Some(line.peer),
        })
    }

    /// Why a stream did not come about; its connection is given up.
    pub(super) fn lost(&self, line: &Line, status: &Status) -> Cause {
        let words = match std::error::Error::source(status) {
            Some(source) => root_cause(source),
            None => status.message().to_owned(),
        };
        self.peers.failed(line.peer);
        Cause::new("LOST", format!("{}: {words}", self.peers.name(line.peer)))
    }
}

/// A call that failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// What it means.
    pub(super) failure: Failure,
    /// The peer that was called, if one was.
    pub(super) peer: Option<usize>,
}

/// A call that nobody has answered yet. If it is dropped, another peer is asked first from then on.
struct Hanging<'p>(Option<(&'p Peers, Purpose, usize)>);

impl Hanging<'_> {
    fn over(mut self) {
        self.0.take();
    }
}

impl Drop for Hanging<'_> {
    fn drop(&mut self) {
        if let Some((peers, purpose, peer)) = self.0 {
            peers.pass_over(purpose, peer);
        }
    }
}
