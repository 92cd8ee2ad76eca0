//! Tells those who wait for a transaction that it changed.
//!
//! Best effort and in memory: the store is the truth, and whoever is told reads it. Nothing is kept for
//! transactions that nobody waits for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::{Transaction, TransactionId};

/// Waiters by transaction.
#[derive(Default)]
pub struct StatusHub {
    waiting: Mutex<HashMap<TransactionId, Waiting>>,
    /// Set once the process is about to end.
    released: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    waiters: usize,
    settled: Arc<Notify>,
}

/// Somebody who waits for a transaction to be settled.
pub struct Waiter {
    hub: Arc<StatusHub>,
    id: TransactionId,
    settled: Arc<Notify>,
}

impl StatusHub {
    /// Starts to listen. Read the record after this and before [`Waiter::settled`], and no change is missed.
    pub fn listen(self: &Arc<Self>, id: TransactionId) -> Waiter {
        let mut map = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = map.entry(id).or_default();
        waiting.waiters += 1;
        Waiter {
            hub: self.clone(),
            id,
            settled: waiting.settled.clone(),
        }
    }

    /// The process is about to end: everybody reads the record as it stands and goes.
    pub fn release_all(&self) {
        // The flag first, so that whoever starts to listen is either told or sees it.
        self.released.store(true, Ordering::Release);
        self.look_again();
    }

    /// Whether there is no point in waiting any more.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// A new version of a transaction was stored.
    pub fn changed(&self, tx: &Transaction) {
        if tx.is_settled() {
            self.settled(tx.id);
        }
    }

    /// A transaction was settled, by whatever process.
    pub fn settled(&self, id: TransactionId) {
        let map = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = map.get(&id) {
            waiting.settled.notify_waiters();
        }
    }

    /// Something may have been missed: everybody reads the record they wait for.
    pub fn look_again(&self) {
        let map = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        map.values().for_each(|waiting| waiting.settled.notify_waiters());
    }
}

impl Waiter {
    /// A future that ends when the transaction is settled after this call, or may have been. Cancel safe.
    pub fn settled(&self) -> impl Future<Output = ()> + '_ {
        // A `Notified` counts from its creation, not from its first poll.
        self.settled.notified()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut map = self.hub.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = map.get_mut(&self.id) {
            waiting.waiters -= 1;
            if waiting.waiters == 0 {
                map.remove(&self.id);
            }
        }
    }
}
