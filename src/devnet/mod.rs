//! A Fabric network for development: a peer's Gateway and Deliver services over the simulator's engine.
//!
//! To a client this is a peer of Fabric: proposals and envelopes are signed and verified, transaction ids derived,
//! blocks chained by their hashes, errors told in a real peer's codes and words. Behind that is one process with one
//! chain. [`gateway`] and [`deliver`] are the services; [`proposal`] and [`endorser`] are what an endorsing peer
//! does, [`orderer`] and [`committer`] what happens to an envelope on its way into a block; [`faults`] is what goes
//! wrong on demand.
//!
//! Invariants: only what an organisation's members signed gets into the chain; what a client was told about a block is
//! in a durable block. A crash loses what was submitted and is in no block yet, as that of an ordering node does, and
//! nothing else: the same blocks are served afterwards, byte for byte.

mod authority;
mod blocks;
mod calls;
mod committer;
mod control;
mod deliver;
mod endorser;
mod events;
mod faults;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod gateway;
mod line;
mod membership;
mod orderer;
mod policy;
mod proposal;
mod rwset;
mod server;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod testkit;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::clock::Clock;
use crate::config::SimulatorSettings;
use crate::kv::{KvEngine, KvError};
use crate::ledger::simulator::{Engine, EngineParts, OpenError};

pub use authority::AuthorityError;
pub use control::serve_control;
pub use faults::{Action, CrashPoint, Detail, Fault, Method};
pub use policy::Policy;
pub use server::{ServeError, serve};

use authority::Authority;
use calls::Limit;
use faults::Faults;
use membership::{Membership, Organisation};

/// Streams of blocks that may run at once, as on a real peer.
const DELIVER_LIMIT: usize = 2500;

/// What an operator decides about the network.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    /// How many organisations there are, from 1 to 3.
    pub organisations: u8,
    /// How many of them have to endorse.
    pub policy: Policy,
    /// The one channel.
    pub channel: String,
    /// Calls of the Gateway service that may run at once.
    pub gateway_limit: usize,
    /// Whether connections are TLS.
    pub tls: bool,
    /// Names and addresses in the TLS certificate beside `localhost`, `127.0.0.1` and `::1`.
    pub tls_names: Vec<String>,
    /// How blocks are cut.
    pub blocks: SimulatorSettings,
    /// What goes wrong from the start on.
    pub faults: Vec<Fault>,
    /// Where the process ends itself, if anywhere.
    pub crash_at: Option<CrashPoint>,
}

/// Why a network does not start.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// Its certificates and keys cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// Its chain cannot be opened.
    #[error(transparent)]
    Chain(#[from] OpenError),
    /// The chain is another channel's.
    #[error("the chain is that of {found}; use --channel as before, or another folder")]
    Channel {
        /// Whose it is.
        found: String,
    },
}

impl From<KvError> for NetworkError {
    fn from(error: KvError) -> Self {
        Self::Chain(error.into())
    }
}

/// What a network works with.
pub struct NetworkParts<'a> {
    /// What the operator decided.
    pub settings: &'a NetworkSettings,
    /// Where certificates and keys are.
    pub folder: &'a Path,
    /// Where the chain is.
    pub engine: Box<dyn KvEngine>,
    /// Where it will listen.
    pub address: SocketAddr,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where its tasks run.
    pub tasks: TaskTracker,
    /// Ends calls and streams.
    pub stop: CancellationToken,
    /// Ends the engine, once it has stored what it took.
    pub engine_stop: CancellationToken,
}

/// A running network.
pub struct Devnet {
    channel: String,
    policy: Policy,
    members: Membership,
    engine: Engine,
    genesis: Vec<u8>,
    faults: Arc<Faults>,
    gateway_limit: Limit,
    deliver_limit: Limit,
    tls: Option<authority::Pair>,
    clock: Arc<dyn Clock>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Devnet {
    /// Opens the network in its folder, or makes a new one. Blocks on the disk; has to be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn open(parts: NetworkParts<'_>) -> Result<Self, NetworkError> {
        let settings = parts.settings;
        let organisations = (1..=settings.organisations).map(|number| {
            let domain = format!("org{number}.devnet");
            let files = authority::organisation(&parts.folder.join(format!("org{number}")), &domain)?;
            let address = match number {
                1 => parts.address.to_string(),
                _ => format!("peer0.{domain}:{}", parts.address.port()),
            };
            Organisation::new(&format!("Org{number}MSP"), address, files)
        });
        let members = Membership::new(organisations.collect::<Result<_, _>>()?);
        let tls = Authority::keep(parts.folder, "tls-ca", "tlsca.devnet")?;
        let tls = settings.tls.then(|| {
            let fixed = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
            let mut names: Vec<String> = fixed.into();
            if !parts.address.ip().is_unspecified() {
                names.push(parts.address.ip().to_string());
            }
            names.extend(settings.tls_names.iter().cloned());
            names.sort();
            names.dedup();
            tls.server(&names)
        });
        let faults = Arc::new(Faults::default());
        for fault in &settings.faults {
            faults.add(fault.clone());
        }
        faults.crash_at(settings.crash_at);
        let engine = Engine::open(EngineParts {
            engine: parts.engine,
            genesis: blocks::genesis(&settings.channel),
            settings: settings.blocks,
            clock: Arc::clone(&parts.clock),
            interference: Arc::clone(&faults) as _,
            tasks: parts.tasks.clone(),
            shutdown: parts.engine_stop,
        })?;
        let genesis = engine.genesis()?;
        match blocks::channel_of(&genesis) {
            Some(channel) if channel == settings.channel => {}
            found => {
                let found = found.map(|channel| format!("the channel {channel:?}"));
                return Err(NetworkError::Channel {
                    found: found.unwrap_or_else(|| "a ledger without channels".to_owned()),
                });
            }
        }
        Ok(Self {
            channel: settings.channel.clone(),
            policy: settings.policy,
            members,
            engine,
            genesis,
            faults,
            gateway_limit: Limit::new("gateway.Gateway", settings.gateway_limit),
            deliver_limit: Limit::new("protos.Deliver", DELIVER_LIMIT),
            tls: tls.transpose()?,
            clock: parts.clock,
            tasks: parts.tasks,
            stop: parts.stop,
        })
    }

    /// Number of the last durable block; 0 before the first.
    pub fn height(&self) -> u64 {
        self.engine.height()
    }

    /// What to tell whoever waits when it ends.
    fn stopping(&self) -> Status {
        Status::unavailable("the devnet is shut down")
    }
}
