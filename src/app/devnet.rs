//! A simulated ledger as a process of its own, for gateways that share one.
//!
//! Its chain is durable in its folder, so a crash loses what no block holds yet and nothing else; gateways look
//! that up and send it again. A shutdown stores what was taken before it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::UNWIND;
use super::parts::CHAIN_CACHE_BYTES;
use crate::clock::SystemClock;
use crate::config::SimulatorSettings;
use crate::kv::{self, EngineKind};
use crate::ledger::simulator::{self, SimulatorLedger};
use crate::store::embedded::{DataFolder, FolderError};

/// The file of the chain is `ledger-devnet.redb`.
const CHAIN: &str = "devnet";

/// What an operator decides about a devnet.
#[derive(Debug, Clone)]
pub struct DevnetSettings {
    /// Address and port to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Directory of the chain.
    pub folder: PathBuf,
    /// How blocks are cut.
    pub blocks: SimulatorSettings,
}

/// A ledger that is ready to be served.
pub struct Devnet {
    address: SocketAddr,
    listener: TcpListener,
    ledger: Arc<SimulatorLedger>,
    tasks: TaskTracker,
    ledger_stop: CancellationToken,
    /// Kept to the very end: whoever holds it owns the chain.
    _folder: DataFolder,
}

/// Opens the chain, bound to its address, with nothing served yet.
///
/// # Errors
/// If the address is taken, or the folder or the chain in it cannot be used.
pub async fn build(settings: &DevnetSettings) -> anyhow::Result<Devnet> {
    // First, so that a second start by mistake touches nothing.
    let listen = settings.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}; stop the program that does, or set another address with --listen")
    })?;
    let address = listener.local_addr().context("read the listening address")?;
    let folder = DataFolder::hold(&settings.folder, EngineKind::Redb).map_err(unusable)?;
    let chain = folder.chain(CHAIN);
    let engine = kv::open(folder.engine(), &chain, CHAIN_CACHE_BYTES)
        .with_context(|| format!("open the chain {}", chain.display()))?;
    let (tasks, ledger_stop) = (TaskTracker::new(), CancellationToken::new());
    let clock = Arc::new(SystemClock);
    let ledger = SimulatorLedger::open(engine, settings.blocks, clock, &tasks, ledger_stop.clone())
        .with_context(|| format!("open the ledger in {}", chain.display()))?;
    Ok(Devnet {
        address,
        listener,
        ledger: Arc::new(ledger),
        tasks,
        ledger_stop,
        _folder: folder,
    })
}

/// In the words of the command line: a devnet has no `store.path`.
fn unusable(error: FolderError) -> anyhow::Error {
    match error {
        FolderError::InUse { path, holder } => anyhow::anyhow!(
            "the devnet folder {} is in use by process {holder}; stop that one first, or give another folder with --data",
            path.display()
        ),
        FolderError::Unusable { path, source } => anyhow::anyhow!(
            "cannot use {} as the devnet folder: {source}; make it writable for this user, or give another folder with --data",
            path.display()
        ),
        FolderError::OtherEngine { path, .. } => anyhow::anyhow!(
            "{} is the data folder of a gateway; give the devnet a folder of its own with --data",
            path.display()
        ),
    }
}

impl Devnet {
    /// The address it listens on; the port is the real one where the settings say 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of the last durable block; 0 before the first.
    pub fn height(&self) -> u64 {
        self.ledger.height()
    }

    /// Serves until `until` ends, then stores what was taken.
    ///
    /// # Errors
    /// If it stopped by itself.
    pub async fn run(self, until: impl Future<Output = ()>) -> anyhow::Result<()> {
        let stop = CancellationToken::new();
        let server = simulator::serve(self.listener, self.ledger, stop.clone());
        let mut server = self.tasks.spawn(server);
        let early = tokio::select! {
            () = until => None,
            ended = &mut server => Some(ended),
        };
        stop.cancel();
        let ended = match early {
            Some(ended) => ended
                .context("the server failed")
                .and_then(|()| anyhow::bail!("the server stopped without being told to")),
            None => server.await.context("the server failed"),
        };
        self.ledger_stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(UNWIND, self.tasks.wait()).await.is_err() {
            tracing::warn!("the last block was not stored; gateways will send again what it held");
        }
        ended
    }
}
