//! Recovery from a disk that failed for a while.
//!
//! Both engines refuse everything after their first failed write, for good reason: what is in memory may
//! no longer be what is on the disk. So after [`KvError::Disk`] the engine is closed, and the next call
//! opens it anew from what the disk really has.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use super::{Batch, KvEngine, KvError, Order, Visit};

type Opener = Box<dyn Fn() -> Result<Box<dyn KvEngine>, KvError> + Send + Sync>;

pub(super) struct Reopening {
    opener: Opener,
    /// Whether trouble was reported and its end was not.
    troubled: AtomicBool,
    engine: RwLock<Option<Box<dyn KvEngine>>>,
}

impl Reopening {
    pub(super) fn open(opener: Opener) -> Result<Self, KvError> {
        let engine = RwLock::new(Some(opener()?));
        Ok(Self {
            opener,
            troubled: AtomicBool::new(false),
            engine,
        })
    }

    fn with<T>(&self, call: impl FnOnce(&dyn KvEngine) -> Result<T, KvError>) -> Result<T, KvError> {
        let result = loop {
            // A poisoned lock only means that a call panicked; the slot itself is always whole.
            let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(engine) = engine.as_deref() {
                break call(engine);
            }
            drop(engine);
            let mut slot = self.engine.write().unwrap_or_else(PoisonError::into_inner);
            if slot.is_none() {
                *slot = Some((self.opener)()?);
            }
        };
        if let Err(KvError::Disk(detail)) = &result {
            let mut slot = self.engine.write().unwrap_or_else(PoisonError::into_inner);
            *slot = None;
            if !self.troubled.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    detail,
                    "the disk refuses; its file is opened anew until it works again"
                );
            }
        }
        result
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
