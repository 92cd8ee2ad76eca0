//! The socket in the data folder, at which a running gateway takes orders from this machine: for a backup, and about keys.
//!
//! Only its owner may use it: the rights to the files are the permission. One line asks; a backup, or one line, is the answer.
//! Nothing is kept, so a crash leaves a socket that nobody answers at, which the next start replaces.

use std::fs::Permissions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backup::Backups;
use super::keys::{self, KeyOrder};
use crate::auth::Keys;
use crate::store::embedded::DataFolder;

/// What asks for a backup.
pub(super) const BACKUP: &str = "backup";

/// What asks for something about keys, followed by a [`KeyOrder`].
pub(super) const KEYS: &str = "keys ";

/// How long whoever connected may take to say what he wants.
const HEAR: Duration = Duration::from_secs(5);

/// How long either side waits for the other one, which has a disk to wait for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Longest order, in bytes.
const LONGEST: u64 = 4096;

/// Takes orders.
pub(super) struct Control {
    listener: Option<UnixListener>,
    socket: PathBuf,
    backups: Arc<Backups>,
    keys: Arc<Keys>,
}

/// What somebody wants.
enum Order {
    Backup,
    Keys(KeyOrder),
}

impl Control {
    /// Begins to listen in the data folder, which this process holds.
    pub(super) fn of(path: &Path, backups: Backups, keys: Arc<Keys>) -> Self {
        let socket = DataFolder::control_socket(path);
        let listener = listen(&socket);
        let listener = listener.inspect_err(|error| {
            tracing::warn!(
                %error,
                folder = %path.display(),
                "`sluicegate backup` and `sluicegate keys` work only while the gateway is stopped; a shorter path for store.path, on a file system that knows sockets, helps"
            );
        });
        Self {
            listener: listener.ok(),
            socket,
            backups: Arc::new(backups),
            keys,
        }
    }

    /// Does what it is told until `stop`.
    pub(super) async fn serve(self, tasks: TaskTracker, stop: CancellationToken) {
        let Some(listener) = &self.listener else {
            return stop.cancelled().await;
        };
        while let Some(connected) = stop.run_until_cancelled(listener.accept()).await {
            let stream = match connected.and_then(|(stream, _)| stream.into_std()) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "nobody to take orders from");
                    tokio::time::sleep(HEAR / 50).await;
                    continue;
                }
            };
            let (backups, keys, stop) = (self.backups.clone(), self.keys.clone(), stop.clone());
            let runtime = Handle::current();
            tasks.spawn_blocking(move || match hear(&stream) {
                Ok(Order::Backup) => backups.give(stream, stop),
                Ok(Order::Keys(order)) => {
                    let answer = runtime.block_on(keys::carry_out(&keys, order));
                    if let Err(error) = keys::tell(&stream, &answer) {
                        tracing::warn!(%error, "the answer about a key did not arrive");
                    }
                }
                Err(error) => tracing::warn!(%error, "an order in the data folder was not understood"),
            });
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, "the socket in the data folder is left");
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
fn hear(stream: &UnixStream) -> io::Result<Order> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(HEAR))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let order = line
        .strip_suffix('\n')
        .ok_or_else(|| io::Error::other("the order is cut off"))?;
    if order == BACKUP {
        return Ok(Order::Backup);
    }
    let keys = order
        .strip_prefix(KEYS)
        .ok_or_else(|| io::Error::other("it is for no backup and no key"))?;
    Ok(Order::Keys(serde_json::from_str(keys)?))
}

/// Asks the gateway that uses the data folder, if one does.
pub(super) fn ask(data: &Path, order: &str) -> anyhow::Result<Option<UnixStream>> {
    let Ok(mut running) = UnixStream::connect(DataFolder::control_socket(data)) else {
        return Ok(None);
    };
    running.set_read_timeout(Some(PATIENCE))?;
    running.write_all(format!("{order}\n").as_bytes())?;
    Ok(Some(running))
}
