//! Tells those who wait for a transaction that it changed.
//!
//! Best effort and in memory: the store is the truth, and whoever is told reads it. Nothing is kept for
//! transactions that nobody waits for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::domain::{Transaction, TransactionId};

/// Waiters by transaction.
#[derive(Default)]
pub struct StatusHub {
    waiting: Mutex<HashMap<TransactionId, Waiting>>,
    /// Cancelled once the process is about to end.
    released: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    waiters: usize,
    settled: Arc<Notify>,
    changed: Arc<Notify>,
}

/// Somebody who waits for a transaction to change.
pub struct Waiter {
    hub: Arc<StatusHub>,
    id: TransactionId,
    settled: Arc<Notify>,
    changed: Arc<Notify>,
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
            changed: waiting.changed.clone(),
        }
    }

    /// The process is about to end: everybody reads the record as it stands and goes.
    pub fn release_all(&self) {
        // This first, so that whoever starts to listen is either told or sees it.
        self.released.cancel();
        self.look_again();
    }

    /// Whether there is no point in waiting any more.
    pub fn is_released(&self) -> bool {
        self.released.is_cancelled()
    }

    /// Ends once there is no point in waiting any more. Cancel safe.
    pub async fn released(&self) {
        self.released.cancelled().await;
    }

    /// A new version of a transaction was stored.
    pub fn changed(&self, tx: &Transaction) {
        let map = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = map.get(&tx.id) {
            waiting.changed.notify_waiters();
            if tx.is_settled() {
                waiting.settled.notify_waiters();
            }
        }
    }

    /// A transaction was settled, by whatever process.
    pub fn settled(&self, id: TransactionId) {
        let map = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = map.get(&id) {
            waiting.tell_all();
        }
    }

    /// Something may have been missed: everybody reads the record they wait for.
    pub fn look_again(&self) {
        let map = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        map.values().for_each(Waiting::tell_all);
    }
}

impl Waiting {
    fn tell_all(&self) {
        self.settled.notify_waiters();
        self.changed.notify_waiters();
    }
}

impl Waiter {
    /// A future that ends when the transaction is settled after this call, or may have been. Cancel safe.
    pub fn settled(&self) -> impl Future<Output = ()> + '_ {
        // A `Notified` counts from its creation, not from its first poll.
        self.settled.notified()
    }

    /// A future that ends when this process changes the transaction after this call, when it is settled by whatever
    /// process, or when either may have happened. Cancel safe.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
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
