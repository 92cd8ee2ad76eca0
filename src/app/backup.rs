//! Backups: how a running gateway gives them, and what its identities have to do with them.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::control;
use crate::clock::{Clock, SystemClock};
use crate::config::{BackendSettings, LedgerSettings, Settings, StoreSettings};
use crate::domain::{LedgerName, LedgerTxId, SubmissionId};
use crate::ledger::{fabric, simulator};
use crate::store::embedded::{BackupSource, DataFolder, EmbeddedStore, refuse_backup};
use crate::worker::Lane;

const BUFFER: usize = 256 << 10;

/// What gives backups of a running gateway.
pub(super) struct Backups {
    source: BackupSource,
    lanes: Vec<Arc<Lane>>,
    clock: Arc<dyn Clock>,
    /// One at a time.
    busy: Mutex<()>,
}

impl Backups {
    /// Of this store.
    pub(super) fn of(store: &EmbeddedStore, lanes: Vec<Arc<Lane>>, clock: Arc<dyn Clock>) -> Self {
        Self {
            source: store.source(),
            lanes,
            clock,
            busy: Mutex::new(()),
        }
    }

    /// Gives one to whoever asked for it. Blocks.
    pub(super) fn give(&self, stream: UnixStream, stop: CancellationToken) {
        let identity = |lane: &Arc<Lane>| (lane.name().clone(), lane.ledger().identify(SubmissionId::NONE));
        let identities = self.lanes.iter().map(identity).collect();
        let mut to = BufWriter::with_capacity(BUFFER, UntilStopped { stream, stop });
        let given = match self.busy.try_lock() {
            Ok(_one) => self.source.write(self.clock.now(), identities, &mut to),
            Err(_) => refuse_backup(&mut to, "another backup is being taken; try again later")
                .and(Err(io::Error::other("another one is being taken"))),
        };
        match given {
            Ok(()) => tracing::info!("a backup was taken"),
            Err(error) => tracing::warn!(%error, "a backup was not taken to its end"),
        }
    }
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
    if let Some(running) = control::ask(&store.path, control::BACKUP)? {
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
