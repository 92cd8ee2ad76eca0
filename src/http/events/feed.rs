//! One reader of the store's changes for all who follow them.
//!
//! While anybody follows, a task reads what changed, writes each record down as the client will see it, and tells it to
//! all. It keeps a bounded number of changes ahead of the slowest follower: who falls behind that reads them from the
//! store again, as does who resumes from an old position. So nothing is kept in memory for anybody, and nothing is
//! missed: both ways go by the same positions. A crash loses nothing but the connections.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use super::super::dto::TransactionView;
use crate::domain::Transaction;
use crate::gateway::Gateway;
use crate::store::{Position, StoreError};

/// So many changes are kept for those who follow.
const KEPT: usize = 512;
/// A larger record, with what clients do not see of it, is not kept: whoever wants it reads it.
const LARGEST_KEPT: usize = 32 << 10;
/// So many changes are read at once, by the one reader and by who catches up.
const PAGE: usize = 128;
const CATCH_UP_PAGE: usize = 4;
/// So many who catch up read at the same time.
const CATCHING_UP: usize = 16;
/// Changes of other processes, and those that become visible late, are looked for so often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After each look it rests so long: what comes meanwhile is read at once.
const REST: Duration = Duration::from_millis(5);
/// After the store refused, it waits so long.
const PAUSE: Duration = Duration::from_secs(1);

/// A change as all who follow are told it.
pub(super) struct Update {
    pub(super) at: Position,
    /// The record, and what the client sees of it; `None` if it is too large to be kept.
    pub(super) record: Option<(Transaction, Bytes)>,
}

impl Update {
    fn of(at: Position, tx: Transaction) -> Self {
        let json = serde_json::to_vec(&TransactionView::from(&tx)).unwrap_or_default();
        Self {
            at,
            record: Some((tx, json.into())),
        }
    }

    fn is_large(&self) -> bool {
        self.record.as_ref().is_some_and(|(tx, json)| {
            let sent = tx.state.sent().map_or(0, |sent| sent.envelope.len());
            let private: usize = tx.request.transient.values().map(String::len).sum();
            json.len() + sent + private > LARGEST_KEPT
        })
    }
}

/// What was read from the store by one who catches up.
pub(super) struct Read {
    pub(super) updates: Vec<Update>,
    pub(super) next: Position,
    pub(super) more: bool,
}

/// Where those who follow get their changes from.
pub(crate) struct Feed {
    gateway: Arc<Gateway>,
    /// Whom the reader tells; `None` while there is no reader.
    told: Mutex<Option<broadcast::Sender<Arc<Update>>>>,
    catching_up: Semaphore,
    tasks: TaskTracker,
}

impl Feed {
    pub(crate) fn new(gateway: Arc<Gateway>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            gateway,
            told: Mutex::new(None),
            catching_up: Semaphore::new(CATCHING_UP),
            tasks,
        })
    }

    pub(super) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// What will be told from now on. Whoever reads up to the end of the store after this misses nothing.
    pub(super) fn follow(self: &Arc<Self>) -> broadcast::Receiver<Arc<Update>> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &*told {
            Some(told) => told.subscribe(),
            None => {
                let (sender, receiver) = broadcast::channel(KEPT);
                *told = Some(sender.clone());
                self.tasks.spawn(self.clone().read(sender));
                receiver
            }
        }
    }

    /// What changed after a position; `None` if that is not known any more.
    pub(super) async fn catch_up(&self, after: Position) -> Result<Option<Read>, StoreError> {
        let Ok(_reading) = self.catching_up.acquire().await else {
            return Ok(None);
        };
        let changes = self.gateway.changes(after, CATCH_UP_PAGE).await?;
        let Some(changes) = changes else {
            return Ok(None);
        };
        let mut read = Read {
            updates: Vec::new(),
            next: changes.next,
            more: changes.more,
        };
        for (at, tx) in changes.items {
            let update = Update::of(at, tx);
            let is_large = update.is_large();
            read.updates.push(update);
            if is_large {
                // It waits for its client, who may be slow: what comes after it waits in the store.
                (read.next, read.more) = (at, true);
                break;
            }
        }
        Ok(Some(read))
    }

    /// Reads and tells until nobody follows.
    async fn read(self: Arc<Self>, told: broadcast::Sender<Arc<Update>>) {
        let changed = self.gateway.changed();
        let mut at = None;
        while !self.ends(&told) {
            let changed = changed.notified();
            match self.step(&mut at, &told).await {
                Ok(true) => continue,
                Ok(false) => {
                    // Nothing is lost by a change that comes before this: `notified` counts from its creation.
                    let _late = tokio::time::timeout(LOOK_EVERY, changed).await;
                    tokio::time::sleep(REST).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "changes cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Tells what changed after `at`. Answers whether there is more.
    async fn step(
        &self,
        at: &mut Option<Position>,
        told: &broadcast::Sender<Arc<Update>>,
    ) -> Result<bool, StoreError> {
        let from = match *at {
            Some(at) => at,
            None => {
                let from = self.gateway.last_change().await?;
                // Whoever is not here yet has missed something, and reads it.
                let _nobody = told.send(Arc::new(Update {
                    at: from,
                    record: None,
                }));
                *at = Some(from);
                from
            }
        };
        let Some(changes) = self.gateway.changes(from, PAGE).await? else {
            // The position is not known any more; whoever follows is told of the next one, and finds that out.
            *at = None;
            return Ok(true);
        };
        for (position, tx) in changes.items {
            let mut update = Update::of(position, tx);
            if update.is_large() {
                update.record = None;
            }
            // Whoever left meanwhile misses nothing.
            let _nobody = told.send(Arc::new(update));
        }
        *at = Some(changes.next);
        Ok(changes.more)
    }

    /// Whether nobody follows any more, or the process ends; then there is no reader from here on.
    fn ends(&self, told: &broadcast::Sender<Arc<Update>>) -> bool {
        let mut current = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = told.receiver_count() == 0 || self.gateway.hub().is_released();
        if ends {
            *current = None;
        }
        ends
    }
}
