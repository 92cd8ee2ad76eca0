//! One ledger of the configuration without a gateway, for whoever wants to know what the gateway adds.
//!
//! A simulator lives in the process that has it, so it gets a new chain, beside the data folder and thus on the same disk,
//! which goes when it is dropped. Nothing else is touched; a process that is killed leaves that folder.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::parts::open_ledger;
use crate::clock::{Clock, SystemClock};
use crate::config::{BackendSettings, Settings, StoreSettings};
use crate::domain::LedgerName;
use crate::ledger::LedgerBackend;
use crate::store::embedded::DataFolder;

/// An open ledger.
pub struct LoneLedger {
    ledger: Arc<dyn LedgerBackend>,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// In this order: first it is let go, then it is removed.
    _folder: Option<(DataFolder, TempDir)>,
}

impl LoneLedger {
    /// Opens the ledger of this name.
    ///
    /// # Errors
    /// If it is not configured, or cannot be opened.
    pub fn open(settings: &Settings, name: &LedgerName) -> anyhow::Result<Self> {
        let ledger = settings.ledgers.get(name).with_context(|| {
            let known: Vec<_> = settings.ledgers.keys().map(LedgerName::as_str).collect();
            format!(
                "the configuration has no ledger {name}; it has {}",
                known.join(", ")
            )
        })?;
        let folder = match (&ledger.backend, &settings.store) {
            (BackendSettings::Simulator(_), StoreSettings::Embedded(store)) => {
                let beside = match store.path.parent() {
                    Some(parent) if parent != Path::new("") => parent,
                    _ => Path::new("."),
                };
                let made = tempfile::Builder::new().prefix("bench-").tempdir_in(beside);
                let made =
                    made.with_context(|| format!("make a folder for a chain in {}", beside.display()))?;
                Some((DataFolder::hold(made.path(), store.engine)?, made))
            }
            _ => None,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let held = folder.as_ref().map(|(folder, _)| folder);
        let ledger = open_ledger(name, ledger, held, &clock, &tasks, &stop)?;
        Ok(Self {
            ledger,
            stop,
            tasks,
            _folder: folder,
        })
    }

    /// The ledger.
    pub fn ledger(&self) -> &Arc<dyn LedgerBackend> {
        &self.ledger
    }

    /// What is to run until the ledger is closed.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Ends when the ledger is closed.
    pub fn stopped(&self) -> &CancellationToken {
        &self.stop
    }

    /// Ends what runs for it.
    pub async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
