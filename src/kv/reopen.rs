//! What both engines need around them: recovery from a disk that failed for a while, and care about damage.
//!
//! An engine refuses everything after its first failed write, for good reason: what is in memory may no
//! longer be what is on the disk. So after [`KvError::Disk`] the engine is closed and opened anew by the next
//! call that finds nobody inside it. (What it then reads may still come from the system's page cache; a disk
//! whose sync fails and which then loses power can lose what a failed sync left open.)
//!
//! A file is opened only if it is as it was left, and sealed when it is closed (see [`seal`]). A read that meets
//! damage, or over which the engine panics, fails alone; the seal then keeps the next start from trusting the file. A
//! commit that panics goes on panicking: nobody knows what is in memory then.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock, TryLockError};

use super::{Batch, EngineKind, KvEngine, KvError, Order, Visit, seal};

type Opener = Box<dyn Fn() -> Result<Box<dyn KvEngine>, KvError> + Send + Sync>;

pub(super) struct Reopening {
    kind: EngineKind,
    path: PathBuf,
    opener: Opener,
    /// Whether it has been given a seal, or that was tried.
    begun: AtomicBool,
    /// The first damage that was met.
    damage: OnceLock<String>,
    /// Whether trouble was reported and its end was not.
    troubled: AtomicBool,
    /// Whether the engine has to be opened anew before it is used again.
    broken: AtomicBool,
    engine: RwLock<Option<Box<dyn KvEngine>>>,
}

impl Reopening {
    pub(super) fn open(kind: EngineKind, path: PathBuf, opener: Opener) -> Result<Self, KvError> {
        seal::verify(&path)?;
        seal::open(&path)?;
        let engine = unless_it_panics(&*opener)?;
        Ok(Self {
            kind,
            path,
            opener,
            begun: AtomicBool::new(false),
            damage: OnceLock::new(),
            troubled: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            engine: RwLock::new(Some(engine)),
        })
    }

    fn with<T>(&self, call: impl FnOnce(&dyn KvEngine) -> Result<T, KvError>) -> Result<T, KvError> {
        if self.broken.load(Ordering::Acquire) {
            self.reopen()?;
        }
        // A poisoned lock only means that a call panicked; the slot itself is always whole.
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let Some(engine) = engine.as_deref() else {
            return Err(KvError::Refused("the file is not open".to_owned()));
        };
        let result = call(engine);
        if let Err(KvError::Damaged(detail)) = &result
            && self.damage.set(detail.clone()).is_ok()
        {
            tracing::error!(path = %self.path.display(), detail, "damage in the file; run `sluicegate store check`");
        }
        if let Err(KvError::Disk(detail)) = &result {
            self.broken.store(true, Ordering::Release);
            if !self.troubled.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    detail,
                    "the disk refuses; its file is opened anew until it works again"
                );
            }
        }
        result
    }

    /// Never waits for the lock: a scan may be calling from within a scan, and would wait for itself.
    fn reopen(&self) -> Result<(), KvError> {
        let mut slot = match self.engine.try_write() {
            Ok(slot) => slot,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(KvError::Refused("the file is about to be opened anew".to_owned()));
            }
        };
        if self.broken.load(Ordering::Acquire) {
            // Closed first: an engine locks its file.
            *slot = None;
            *slot = Some((self.opener)()?);
            self.broken.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl KvEngine for Reopening {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.with(|engine| unless_it_panics(|| engine.get(key)))
    }

    fn scan(&self, range: Range<&[u8]>, order: Order, visit: Visit<'_>) -> Result<(), KvError> {
        self.with(|engine| unless_it_panics(|| engine.scan(range, order, visit)))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        self.with(|engine| engine.commit(batch))?;
        if !self.begun.swap(true, Ordering::Relaxed)
            && let Err(error) = seal::begin(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot be given a seal");
        }
        if self.troubled.load(Ordering::Relaxed) && self.troubled.swap(false, Ordering::Relaxed) {
            tracing::info!("the disk works again");
        }
        Ok(())
    }
}

impl Drop for Reopening {
    /// Closes the engine, then seals what it left.
    fn drop(&mut self) {
        let engine = self.engine.get_mut().unwrap_or_else(PoisonError::into_inner);
        let was_open = engine.take().is_some();
        let sealed = match self.damage.get() {
            Some(detail) => seal::condemn(&self.path, detail),
            None if was_open && !self.broken.load(Ordering::Acquire) => seal::close(self.kind, &self.path),
            None => Ok(()),
        };
        if let Err(error) = sealed {
            tracing::warn!(path = %self.path.display(), %error, "cannot be sealed; it opens as after a crash");
        }
    }
}

/// An engine that panics has met something that it did not expect in its file.
fn unless_it_panics<T>(call: impl FnOnce() -> Result<T, KvError>) -> Result<T, KvError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(KvError::Damaged("the engine gave up on what it read".to_owned())))
}
