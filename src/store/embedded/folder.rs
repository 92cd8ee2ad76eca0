//! The data folder: made if it is missing, held by one process at a time.
//!
//! ```text
//! data/lock            held while a process uses the folder; holds its process id
//! data/store.redb      the store (a folder `store.sled` with the other engine)
//! data/ledger-NAME.…   the chain of a simulator ledger
//! data/control.sock    where a running gateway takes orders from this machine (`sluicegate backup`, `keys`)
//! data/*.seal          what the file beside it was when it was closed
//! ```
//!
//! The lock is the operating system's and ends with the process, however that ends; a lock file left by a
//! crash holds nobody up.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::domain::TransactionId;
use crate::kv::{EngineKind, seal};

/// Why a data folder cannot be used. The text says what to do.
#[derive(Debug, Error)]
pub enum FolderError {
    /// It cannot be made or written.
    #[error(
        "cannot use {path} as the data folder: {source}; make it writable for this user, or set store.path to another folder"
    )]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data folder {path} is in use by process {holder}; stop that one first, or set store.path to another folder"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process id of the one that holds it.
        holder: String,
    },
    /// It holds a store of the other engine.
    #[error(
        "the data folder {path} holds a store of the engine {found}, but store.engine is \"{configured}\"; set store.engine = \"{found}\", or set store.path to another folder"
    )]
    OtherEngine {
        /// The folder.
        path: PathBuf,
        /// The engine whose store is there.
        found: EngineKind,
        /// The engine that was asked for.
        configured: EngineKind,
    },
}

/// A data folder that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    engine: EngineKind,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder if need be and takes hold of it.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn hold(path: &Path, engine: EngineKind) -> Result<Self, FolderError> {
        let unusable = |source| FolderError::Unusable {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(unusable)?;
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = lock.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
                return Err(FolderError::InUse {
                    path: path.to_owned(),
                    holder: if known {
                        holder.trim().to_owned()
                    } else {
                        "(unknown)".to_owned()
                    },
                });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(unusable)?;
        let folder = Self {
            path: path.to_owned(),
            engine,
            _lock: lock,
        };
        folder
            .finish_compaction()
            .and_then(|()| folder.clear_scratch())
            .map_err(unusable)?;
        let other = EngineKind::ALL.into_iter().find(|kind| *kind != engine);
        match other {
            Some(found) if folder.store_of(found).exists() && !folder.store().exists() => {
                Err(FolderError::OtherEngine {
                    path: path.to_owned(),
                    found,
                    configured: engine,
                })
            }
            _ => Ok(folder),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the store's file (or, with sled, folder).
    pub fn store(&self) -> PathBuf {
        self.store_of(self.engine)
    }

    /// The path for the chain of a simulator ledger.
    pub fn chain(&self, ledger: &str) -> PathBuf {
        self.path.join(format!("ledger-{ledger}.{}", self.engine))
    }

    /// The engine of this folder.
    pub fn engine(&self) -> EngineKind {
        self.engine
    }

    fn store_of(&self, engine: EngineKind) -> PathBuf {
        self.path.join(format!("store.{engine}"))
    }

    /// Where the compacted copy is made, and where the old file waits until the copy is in place.
    pub(super) fn compacting(&self) -> (PathBuf, PathBuf) {
        let beside = |ending| self.path.join(format!("store.{}.{ending}", self.engine));
        (beside("new"), beside("old"))
    }

    /// Puts the new file in the place of the store. A crash in between is mended at the next start: the old store
    /// is whole, and goes with its seal, until the new one is in place.
    pub(super) fn replace_store(&self) -> io::Result<()> {
        let (new, old) = self.compacting();
        fs::rename(self.store(), &old)?;
        seal::rename(&self.store(), &old)?;
        fs::rename(&new, self.store())?;
        seal::rename(&new, &self.store())?;
        File::open(&self.path)?.sync_all()?;
        remove(&old)
    }

    /// Puts what was made beside it in the place of the store, where there is none. If that fails, it is beside it
    /// again.
    pub(super) fn place_store(&self) -> io::Result<()> {
        let (new, _) = self.compacting();
        fs::rename(&new, self.store())?;
        let placed = seal::rename(&new, &self.store()).and_then(|()| File::open(&self.path)?.sync_all());
        placed.inspect_err(|_| {
            if let Err(error) = self.take_back() {
                tracing::error!(%error, "what failed has left a store; remove {}", self.store().display());
            }
        })
    }

    fn take_back(&self) -> io::Result<()> {
        let (new, _) = self.compacting();
        fs::rename(self.store(), &new)?;
        if seal::path(&new).exists() {
            // The seal had not moved.
            return Ok(());
        }
        seal::rename(&self.store(), &new)
    }

    /// The socket at which the process that holds the folder can be reached.
    pub fn control_socket(path: &Path) -> PathBuf {
        path.join("control.sock")
    }

    fn finish_compaction(&self) -> io::Result<()> {
        let (new, old) = self.compacting();
        if !self.store().exists() && old.exists() {
            fs::rename(&old, self.store())?;
            seal::rename(&old, &self.store())?;
        }
        remove(&old).and_then(|()| remove(&new))
    }

    /// Keeps the store's files, as they are, under another name as well, which nothing here ever removes.
    pub(super) fn keep_damaged(&self) -> io::Result<PathBuf> {
        let kept = format!("{}.damaged-{}", self.engine, TransactionId::new());
        let kept = self.store().with_extension(kept);
        self.for_each_file(&kept, &|file, place| fs::hard_link(file, place))?;
        Ok(kept)
    }

    /// A copy of the store's files that may be changed, until [`clear_scratch`](Self::clear_scratch).
    pub(super) fn copy_to_scratch(&self) -> io::Result<PathBuf> {
        self.clear_scratch()?;
        let copy = self.scratch();
        self.for_each_file(&copy, &|file, place| fs::copy(file, place).map(drop))?;
        Ok(copy)
    }

    /// Calls `act` with each file of the store and its place below `to`, in a folder that is there.
    fn for_each_file(&self, to: &Path, act: &dyn Fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
        let store = self.store();
        for file in seal::files(&store)? {
            let place = under(to, &store, &file);
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            act(&file, &place)?;
        }
        Ok(())
    }

    pub(super) fn clear_scratch(&self) -> io::Result<()> {
        remove(&self.scratch())
    }

    fn scratch(&self) -> PathBuf {
        self.path.join(format!("store.{}.scratch", self.engine))
    }
}

/// The place below `to` of a file at or below `from`.
fn under(to: &Path, from: &Path, file: &Path) -> PathBuf {
    match file.strip_prefix(from) {
        Ok(name) if !name.as_os_str().is_empty() => to.join(name),
        _ => to.to_owned(),
    }
}

/// Removes a store, if it is there, and its seal.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    seal::remove(path)?;
    if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_at_a_time_and_says_by_whom() {
        let place = tempfile::tempdir().expect("folder");
        let held = DataFolder::hold(place.path(), EngineKind::Redb).expect("holds");
        let refusal = DataFolder::hold(place.path(), EngineKind::Redb).expect_err("is held");
        assert!(
            refusal
                .to_string()
                .contains(&format!("process {}", std::process::id())),
            "{refusal}"
        );
        drop(held);
        DataFolder::hold(place.path(), EngineKind::Redb).expect("free again");
    }

    #[test]
    fn another_engines_store_is_not_passed_over() {
        let place = tempfile::tempdir().expect("folder");
        fs::create_dir(place.path().join("store.sled")).expect("folder");
        let refusal = DataFolder::hold(place.path(), EngineKind::Redb).expect_err("refuses");
        assert!(
            refusal.to_string().contains("set store.engine = \"sled\""),
            "{refusal}"
        );
    }

    #[test]
    fn a_compaction_cut_short_leaves_the_store() {
        let place = tempfile::tempdir().expect("folder");
        fs::write(place.path().join("store.redb.old"), "whole").expect("writes");
        fs::write(place.path().join("store.redb.new"), "partial").expect("writes");
        let folder = DataFolder::hold(place.path(), EngineKind::Redb).expect("holds");
        assert_eq!(fs::read_to_string(folder.store()).expect("reads"), "whole");
        assert!(!folder.compacting().0.exists() && !folder.compacting().1.exists());
    }

    #[test]
    fn an_unwritable_place_is_refused_with_the_remedy() {
        let refusal = DataFolder::hold(Path::new("/proc/nowhere"), EngineKind::Redb).expect_err("refuses");
        assert!(refusal.to_string().contains("store.path"), "{refusal}");
    }
}
