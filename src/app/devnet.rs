//! A Fabric network for development as a process of its own.
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
use crate::devnet::{self, NetworkParts, NetworkSettings};
use crate::kv::{self, EngineKind};
use crate::store::embedded::{DataFolder, FolderError};

/// The file of the chain is `ledger-devnet.redb`.
const CHAIN: &str = "devnet";

/// What an operator decides about a devnet.
#[derive(Debug, Clone)]
pub struct DevnetSettings {
    /// Address and port to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Directory of the chain, and of certificates and keys.
    pub folder: PathBuf,
    /// The network.
    pub network: NetworkSettings,
    /// Where to serve the control API, if anywhere; port 0 lets the system choose.
    pub control: Option<SocketAddr>,
}

/// A network that is ready to be served.
pub struct Devnet {
    address: SocketAddr,
    listener: TcpListener,
    control: Option<TcpListener>,
    network: Arc<devnet::Devnet>,
    tasks: TaskTracker,
    stop: CancellationToken,
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
    let listener = bind(settings.listen, "--listen").await?;
    let control = match settings.control {
        Some(address) => Some(bind(address, "--control").await?),
        None => None,
    };
    let address = listener.local_addr().context("read the listening address")?;
    let folder = DataFolder::hold(&settings.folder, EngineKind::Redb).map_err(unusable)?;
    let chain = folder.chain(CHAIN);
    let engine = kv::open(folder.engine(), &chain, CHAIN_CACHE_BYTES)
        .with_context(|| format!("open the chain {}", chain.display()))?;
    let tasks = TaskTracker::new();
    let (stop, ledger_stop) = (CancellationToken::new(), CancellationToken::new());
    let parts = NetworkParts {
        settings: &settings.network,
        folder: &settings.folder,
        engine,
        address,
        clock: Arc::new(SystemClock),
        tasks: tasks.clone(),
        stop: stop.clone(),
        engine_stop: ledger_stop.clone(),
    };
    let network = devnet::Devnet::open(parts)
        .with_context(|| format!("open the network in {}", settings.folder.display()))?;
    Ok(Devnet {
        address,
        listener,
        control,
        network: Arc::new(network),
        tasks,
        stop,
        ledger_stop,
        _folder: folder,
    })
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; stop the program that does, or set another address with {flag}")
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

    /// The address of the control API, if it is served.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control.as_ref()?.local_addr().ok()
    }

    /// Number of the last durable block; 0 before the first.
    pub fn height(&self) -> u64 {
        self.network.height()
    }

    /// Serves until `until` ends, then stores what was taken.
    ///
    /// # Errors
    /// If it stopped by itself.
    pub async fn run(self, until: impl Future<Output = ()>) -> anyhow::Result<()> {
        let (network, listener) = (self.network, self.listener);
        let mut server = self.tasks.spawn(async move {
            let control = async {
                match self.control {
                    Some(control) => devnet::serve_control(Arc::clone(&network), control).await,
                    None => Ok(()),
                }
            };
            let (served, controlled) = tokio::join!(devnet::serve(Arc::clone(&network), listener), control);
            if let Err(error) = controlled {
                tracing::error!(%error, "the control API is not served any more");
            }
            if let Err(error) = served {
                tracing::error!(%error, "the network is not served any more");
            }
        });
        let early = tokio::select! {
            () = until => None,
            ended = &mut server => Some(ended),
        };
        self.stop.cancel();
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

#[cfg(test)]
#[path = "devnet_tests.rs"]
mod tests;
