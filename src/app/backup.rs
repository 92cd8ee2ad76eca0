//! Backups: the socket at which a running gateway gives them, and what its identities have to do with them.
//!
//! The socket is in the data folder, and only its owner may use it: the rights to the files are the permission. One line
//! asks, the backup is the answer. Nothing is kept, so a crash leaves a socket that nobody answers at, which the next
//! start replaces.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, SystemClock};
use crate::config::{BackendSettings, LedgerSettings, Settings, StoreSettings};
use crate::domain::{LedgerName, LedgerTxId, SubmissionId};
use crate::ledger::{fabric, simulator};
use crate::store::embedded::{BackupSource, DataFolder, EmbeddedStore, refuse_backup};
use crate::worker::Lane;

/// What asks for a backup.
const ORDER: &[u8] = b"backup\n";

/// How long whoever connected may take to say what he wants.
const HEAR: Duration = Duration::from_secs(5);

/// How long either side waits for the other one, which has a disk to wait for.
const PATIENCE: Duration = Duration::from_secs(60);

const BUFFER: usize = 256 << 10;

/// What gives backups of a running gateway.
pub(super) struct Backups {
    listener: Option<UnixListener>,
    socket: PathBuf,
    source: BackupSource,
    lanes: Vec<Arc<Lane>>,
    clock: Arc<dyn Clock>,
}

impl Backups {
    /// Begins to listen in the data folder, which this process holds.
    pub(super) fn of(
        store: &EmbeddedStore,
        path: &Path,
        lanes: Vec<Arc<Lane>>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let socket = DataFolder::control_socket(path);
        let listener = listen(&socket);
        let listener = listener.inspect_err(|error| {
            tracing::warn!(
                %error,
                folder = %path.display(),
                "backups can only be taken while the gateway is stopped; a shorter path for store.path, on a file system that knows sockets, helps"
            );
        });
        Self {
            listener: listener.ok(),
            socket,
            source: store.source(),
            lanes,
            clock,
        }
    }

    /// Gives backups, one at a time, until `stop`.
    pub(super) async fn give(self, tasks: TaskTracker, stop: CancellationToken) {
        let Some(listener) = &self.listener else {
            return stop.cancelled().await;
        };
        let one = Arc::new(Semaphore::new(1));
        while let Some(connected) = stop.run_until_cancelled(listener.accept()).await {
            let stream = match connected.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "nobody to give a backup to");
                    tokio::time::sleep(HEAR / 50).await;
                    continue;
                }
            };
            let (source, made_at) = (self.source.clone(), self.clock.now());
            let identity =
                |lane: &Arc<Lane>| (lane.name().clone(), lane.ledger().identify(SubmissionId::NONE));
            let identities = self.lanes.iter().map(identity).collect();
            let (permit, stop) = (one.clone().try_acquire_owned().ok(), stop.clone());
            tasks.spawn_blocking(move || {
                let given = hear(&stream).and_then(|()| {
                    let mut to = BufWriter::with_capacity(BUFFER, UntilStopped { stream, stop });
                    match permit {
                        Some(_) => source.write(made_at, identities, &mut to),
                        None => refuse_backup(&mut to, "another backup is being taken; try again later")
                            .and(Err(io::Error::other("another one is being taken"))),
                    }
                });
                match given {
                    Ok(()) => tracing::info!("a backup was taken"),
                    Err(error) => tracing::warn!(%error, "a backup was not taken to its end"),
                }
            });
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the socket for backups is left");
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Waits for the order.
fn hear(mut stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(HEAR))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut order = [0; ORDER.len()];
    stream.read_exact(&mut order)?;
    if order != ORDER {
        return Err(io::Error::other("something else than a backup was asked for"));
    }
    Ok(())
}

/// Whoever reads does not hold up the end of the gateway.
struct UntilStopped {
    stream: UnixStream,
    stop: CancellationToken,
}

impl Write for UntilStopped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("the gateway is stopping"));
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A stream to read a backup from: of the gateway that uses the data folder, or if there is none, of the folder. Blocks.
///
/// # Errors
/// If there is no embedded store, or it is in use by one who gives no backups.
pub fn read_backup(settings: &Settings) -> anyhow::Result<UnixStream> {
    let StoreSettings::Embedded(store) = &settings.store else {
        anyhow::bail!(
            "store.kind is not \"embedded\": take backups of PostgreSQL with pg_basebackup or pg_dump; what the ledger has is not submitted again after they are restored either"
        );
    };
    anyhow::ensure!(
        store.path.exists(),
        "there is no data folder {}; is store.path right?",
        store.path.display()
    );
    if let Ok(mut running) = UnixStream::connect(DataFolder::control_socket(&store.path)) {
        running.set_read_timeout(Some(PATIENCE))?;
        running.write_all(ORDER).context("ask the running gateway")?;
        return Ok(running);
    }
    let folder = DataFolder::hold(&store.path, store.engine)?;
    let source = BackupSource::open(&folder, store.cache_bytes)?;
    let identities = settings
        .ledgers
        .iter()
        .map(identity)
        .collect::<anyhow::Result<_>>()?;
    let (reader, writer) = UnixStream::pair()?;
    std::thread::Builder::new()
        .name("backup".to_owned())
        .spawn(move || {
            let mut to = BufWriter::with_capacity(BUFFER, writer);
            if let Err(error) = source.write(SystemClock.now(), identities, &mut to) {
                tracing::debug!(%error, "nobody reads the backup any more");
            }
            drop(source);
            drop(folder);
        })?;
    Ok(reader)
}

fn identity((name, ledger): (&LedgerName, &LedgerSettings)) -> anyhow::Result<(LedgerName, LedgerTxId)> {
    let identity = match &ledger.backend {
        BackendSettings::Simulator(_) => simulator::identify(SubmissionId::NONE),
        BackendSettings::Fabric(settings) => fabric::identify(settings, &SystemClock, SubmissionId::NONE)
            .with_context(|| format!("read the identity for ledger {name}, which a backup remembers"))?,
    };
    Ok((name.clone(), identity))
}

/// Refuses to go on with a restored store as somebody else: what the ledger has would not be found under new
/// identifiers, and be submitted again (I2).
///
/// # Errors
/// If so, with the remedy.
pub(super) fn check_identities(
    store: &EmbeddedStore,
    lanes: &BTreeMap<LedgerName, Arc<Lane>>,
) -> anyhow::Result<()> {
    let identities = store
        .restored()?
        .map_or_else(BTreeMap::new, |restored| restored.identities);
    for (name, lane) in lanes {
        let was: Option<&LedgerTxId> = identities.get(name);
        if was.is_some_and(|was| *was != lane.ledger().identify(SubmissionId::NONE))
            && store.has_rewound(name)?
        {
            anyhow::bail!(
                "ledger {name}: this store was restored from a backup that was made with another identity (a renewed certificate is another one, and so is one whose file differs in line endings alone), and it holds transactions that may be on the ledger under that one; start with the certificate of then until they are settled (`sluicegate list --status pending`), or restore with --other-identity if none of them was submitted under it after the backup; if some were submitted under the one and some under the other since, neither finds all of them: let a person compare them with the ledger first (docs/OPERATIONS.md, Restoring)"
            );
        }
    }
    Ok(())
}
