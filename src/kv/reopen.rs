//! Recovery from a disk that failed for a while.
//!
//! An engine refuses everything after its first failed write, for good reason: what is in memory may no
//! longer be what is on the disk. So after [`KvError::Disk`] the engine is closed and opened anew by the next
//! call that finds nobody inside it. (What it then reads may still come from the system's page cache; a disk
//! whose sync fails and which then loses power can lose what a failed sync left open.)

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, TryLockError};

use super::{Batch, KvEngine, KvError, Order, Visit};

type Opener = Box<dyn Fn() -> Result<Box<dyn KvEngine>, KvError> + Send + Sync>;

pub(super) struct Reopening {
    opener: Opener,
    /// Whether trouble was reported and its end was not.
    troubled: AtomicBool,
    /// Whether the engine has to be opened anew before it is used again.
    broken: AtomicBool,
    engine: RwLock<Option<Box<dyn KvEngine>>>,
}

impl Reopening {
    pub(super) fn open(opener: Opener) -> Result<Self, KvError> {
        let engine = RwLock::new(Some(opener()?));
        Ok(Self {
            opener,
            troubled: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            engine,
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
        self.with(|engine| engine.get(key))
    }

    fn scan(&self, range: Range<&[u8]>, order: Order, visit: Visit<'_>) -> Result<(), KvError> {
        self.with(|engine| engine.scan(range, order, visit))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        self.with(|engine| engine.commit(batch))?;
        if self.troubled.load(Ordering::Relaxed) && self.troubled.swap(false, Ordering::Relaxed) {
            tracing::info!("the disk works again");
        }
        Ok(())
    }
}
