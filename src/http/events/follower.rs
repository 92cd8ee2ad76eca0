//! One client that follows all changes that it may see.
//!
//! It reads from the store until it has caught up, then takes what concerns it of what is told; falling behind, it reads
//! from the store again. Its position only moves forward, over what it was shown and over what does not concern it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use tokio::time::Instant;

use super::board::{Next, Seat};
use super::feed::Feed;
use super::{ApiError, heartbeat, ready, transaction};
use crate::share::Place;
use crate::store::{Filter, Position};

/// After the store refused, it waits so long.
const PAUSE: Duration = Duration::from_secs(1);

/// What a client asks for.
pub(super) struct Start {
    pub(super) filter: Filter,
    /// The last event that it saw, if it comes back.
    pub(super) after: Option<Position>,
    pub(super) heartbeat: Duration,
}

/// How it gets what is next.
enum Way {
    /// From the store.
    CatchingUp,
    /// From what is told.
    Following(Seat),
}

pub(super) struct Follower {
    feed: Arc<Feed>,
    filter: Filter,
    heartbeat: Duration,
    way: Way,
    /// Up to here everything was told or does not concern it.
    at: Position,
    /// The last id that the client was given.
    given: Position,
    /// Events that are ready to be sent.
    ahead: VecDeque<Event>,
    _place: Place,
}

impl Follower {
    pub(super) async fn start(feed: Arc<Feed>, start: Start, place: Place) -> Result<Self, ApiError> {
        let mut ahead = VecDeque::new();
        let known = match start.after {
            Some(after) => feed.gateway().changes(after, 0).await?.map(|_| after),
            None => None,
        };
        let at = match known {
            Some(at) => at,
            None => feed.gateway().last_change().await?,
        };
        if start.after.is_some() && known.is_none() {
            ahead.push_back(reset(at));
        } else {
            ahead.push_back(ready(&at.to_string()));
        }
        Ok(Self {
            feed,
            filter: start.filter,
            heartbeat: start.heartbeat,
            way: Way::CatchingUp,
            at,
            given: at,
            ahead,
            _place: place,
        })
    }

    /// The next event; `None` when the process ends.
    pub(super) async fn next(&mut self) -> Option<Event> {
        let beat = Instant::now() + self.heartbeat;
        loop {
            if let Some(event) = self.ahead.pop_front() {
                return Some(event);
            }
            let hub = self.feed.gateway().hub().clone();
            tokio::select! {
                () = self.advance() => {}
                () = tokio::time::sleep_until(beat) => if self.has_all() {
                    return Some(self.beat());
                },
                () = hub.released() => return None,
            }
        }
    }

    /// Takes one step on its way. Cancel safe: the position moves with what is put ahead.
    async fn advance(&mut self) {
        let Way::Following(seat) = &self.way else {
            return self.catch_up().await;
        };
        let woken = seat.woken();
        // Listening before looking: nothing is missed.
        let woken = woken.notified();
        if self.has_all() {
            woken.await;
        }
    }

    /// Takes what is next of what is told, and answers whether there was nothing. Whoever catches up is not told.
    fn has_all(&mut self) -> bool {
        let Way::Following(seat) = &mut self.way else {
            return true;
        };
        match seat.next() {
            Next::Nothing(told) => {
                // All up to there was told, so none of it concerned the client.
                let further = told.filter(|told| told.is_of_the_log_of(self.at));
                self.at = further.map_or(self.at, |told| told.max(self.at));
                return true;
            }
            Next::Update(update) if update.at.is_of_the_log_of(self.at) && update.at <= self.at => {}
            Next::Update(update) => match &update.json {
                Some(json) if update.at.is_of_the_log_of(self.at) => self.take(update.at, json),
                _ => self.way = Way::CatchingUp,
            },
            Next::Missed => self.way = Way::CatchingUp,
        }
        false
    }

    async fn catch_up(&mut self) {
        let feed = self.feed.clone();
        // Following before the last look: what changes in between is told or read, or both.
        let seat = feed.follow(&self.filter);
        match feed.catch_up(self.at, &self.filter).await {
            Ok(Some(read)) => {
                for (at, json) in &read.updates {
                    self.take(*at, json);
                }
                self.at = read.next;
                if !read.more {
                    self.way = Way::Following(seat);
                }
            }
            Ok(None) => match feed.gateway().last_change().await {
                Ok(last) => {
                    self.at = last;
                    self.given = last;
                    self.ahead.push_back(reset(last));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Err(error) => {
                tracing::debug!(%error, "changes cannot be read");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn take(&mut self, at: Position, json: &[u8]) {
        (self.at, self.given) = (at, at);
        self.ahead.push_back(transaction(&at.to_string(), json));
    }

    /// A sign of life. If much has passed that did not concern the client, it tells how far that is, so that the client
    /// does not go back to it.
    fn beat(&mut self) -> Event {
        if self.at == self.given {
            return heartbeat();
        }
        self.given = self.at;
        Event::default()
            .event("position")
            .id(self.at.to_string())
            .data("{}")
    }
}

/// What the client saw last is not known any more: it has to list anew, and goes on from here.
fn reset(at: Position) -> Event {
    Event::default().event("reset").id(at.to_string()).data("{}")
}
