//! One reader of the store's changes for all who follow them.
//!
//! While anybody follows, a task reads what changed, and tells those whom it concerns ([`board`](super::board)); a record that
//! concerns anybody is written down once as the client will see it. A bounded number of changes is kept: who falls behind
//! that reads them from the store again, as does who resumes from an old position. So nothing is kept in memory for
//! anybody, and nothing is missed: both ways go by the same positions. A crash loses nothing but the connections.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::board::{Board, Seat, Update};
use super::shown;
use crate::gateway::Gateway;
use crate::store::{Filter, Position, StoreError};

/// A larger record is not kept: whoever wants it reads it.
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

/// What was read from the store by one who catches up.
pub(super) struct Read {
    /// What passed the filter, as the client sees it.
    pub(super) updates: Vec<(Position, Bytes)>,
    pub(super) next: Position,
    pub(super) more: bool,
}

/// Where those who follow get their changes from.
pub(crate) struct Feed {
    gateway: Arc<Gateway>,
    /// Whom the reader tells.
    board: Arc<Board>,
    catching_up: Semaphore,
    tasks: TaskTracker,
}

impl Feed {
    pub(crate) fn new(gateway: Arc<Gateway>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            gateway,
            board: Arc::default(),
            catching_up: Semaphore::new(CATCHING_UP),
            tasks,
        })
    }

    pub(super) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// What will be told from now on. Whoever reads up to the end of the store after this misses nothing.
    pub(super) fn follow(self: &Arc<Self>, filter: &Filter) -> Seat {
        let (seat, is_first) = self.board.follow(filter);
        if is_first {
            self.tasks.spawn(self.clone().read());
        }
        seat
    }

    /// What changed after a position and passes the filter; `None` if that position is not known any more.
    pub(super) async fn catch_up(
        &self,
        after: Position,
        filter: &Filter,
    ) -> Result<Option<Read>, StoreError> {
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
        for (at, tx) in changes.items.iter().filter(|(_, tx)| filter.matches(tx)) {
            let json = shown(tx);
            let is_large = json.len() > LARGEST_KEPT;
            read.updates.push((*at, json.into()));
            if is_large {
                // It waits for its client, who may be slow: what comes after it waits in the store.
                (read.next, read.more) = (*at, true);
                break;
            }
        }
        Ok(Some(read))
    }

    /// Reads and tells until nobody follows, or the process ends.
    async fn read(self: Arc<Self>) {
        let changed = self.gateway.changed();
        let mut at = None;
        while !self.board.ends(self.gateway.hub().is_released()) {
            let changed = changed.notified();
            match self.step(&mut at).await {
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
    async fn step(&self, at: &mut Option<Position>) -> Result<bool, StoreError> {
        let from = match *at {
            Some(at) => at,
            None => {
                let from = self.gateway.last_change().await?;
                // Whoever is not here yet has missed something, and reads it.
                self.board.tell_all(Update { at: from, json: None });
                *at = Some(from);
                from
            }
        };
        let Some(changes) = self.gateway.changes(from, PAGE).await? else {
            // The position is not known any more; whoever follows is told of the next one, and finds that out.
            *at = None;
            return Ok(true);
        };
        for (position, tx) in &changes.items {
            let concerned = self.board.concerned(tx);
            if concerned.is_empty() {
                continue;
            }
            let json = Some(shown(tx)).filter(|json| json.len() <= LARGEST_KEPT);
            let update = Update {
                at: *position,
                json: json.map(Bytes::from),
            };
            self.board.tell(update, &concerned);
        }
        self.board.told(changes.next);
        *at = Some(changes.next);
        Ok(changes.more)
    }
}
