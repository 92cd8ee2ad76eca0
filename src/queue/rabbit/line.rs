//! The connection that announcements go through: kept up, or made anew about once a second while it cannot be.
//!
//! lapin's own recovery is not used: under it, a call waits for as long as the broker is away, and what was
//! on its way is sent or lost without our knowing. Here a connection that failed is gone for good, with all
//! that was on it; whoever used it gets an error, in time, and asks for the next one.
//!
//! One task dials and watches, however many callers there are. It ends with the queue that it belongs to.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::{Dialer, PATIENCE};
use super::link::{Link, SILENT};
use crate::queue::QueueError;

/// Between two attempts to connect.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// A connection that comes and goes.
pub(super) struct Line(watch::Sender<State>);

#[derive(Clone)]
enum State {
    /// Being dialled, after this trouble if any.
    Dialling(Option<String>),
    Up(Arc<Link>),
    Down(String),
}

impl Line {
    /// Starts to dial, and goes on until `stop`.
    pub(super) fn start(dialer: Arc<Dialer>, tasks: &TaskTracker, stop: CancellationToken) -> Arc<Self> {
        let line = Arc::new(Self(watch::Sender::new(State::Dialling(None))));
        tasks.spawn(Arc::clone(&line).keep(dialer, stop));
        line
    }

    /// The connection; waits only for one that is being dialled.
    pub(super) async fn link(&self) -> Result<Arc<Link>, QueueError> {
        let mut state = self.0.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Up(link) => !link.has_failed(),
            State::Down(_) => true,
            State::Dialling(_) => false,
        });
        let trouble = match tokio::time::timeout(PATIENCE + PAUSE / 4, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Up(link) => return Ok(Arc::clone(link)),
                State::Down(trouble) => Some(trouble.clone()),
                State::Dialling(trouble) => trouble.clone(),
            },
            _ => self.trouble(),
        };
        Err(QueueError(trouble.unwrap_or_else(|| SILENT.to_owned())))
    }

    /// Why nothing can be announced now, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        match &*self.0.borrow() {
            State::Up(link) => link.trouble(),
            State::Down(trouble) => Some(trouble.clone()),
            State::Dialling(trouble) => trouble.clone(),
        }
    }

    /// Returns when that may have changed.
    pub(super) async fn changed(&self) {
        let mut state = self.0.subscribe();
        let now = state.borrow_and_update().clone();
        let changed = async {
            // Fails only when the line is gone, and this with it.
            drop(state.changed().await);
        };
        match now {
            State::Up(link) => tokio::select! {
                () = changed => {}
                () = link.block_changed() => {}
            },
            _ => changed.await,
        }
    }

    async fn keep(self: Arc<Self>, dialer: Arc<Dialer>, stop: CancellationToken) {
        let mut trouble: Option<String> = None;
        loop {
            let begun = Instant::now();
            self.0.send_replace(State::Dialling(trouble.clone()));
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                opened = dialer.open() => opened,
            };
            let now = match opened {
                Ok(link) => {
                    let link = Arc::new(link);
                    tracing::info!("connected to the broker");
                    self.0.send_replace(State::Up(Arc::clone(&link)));
                    tokio::select! {
                        () = stop.cancelled() => {
                            link.hang_up().await;
                            return;
                        }
                        why = link.watch() => why,
                        why = link.probe() => why,
                    }
                }
                Err(why) => why,
            };
            // A broker that is away for an hour is not news every second.
            if trouble.as_ref() != Some(&now) {
                tracing::warn!(trouble = %now, "no connection to the broker; trying again");
            }
            self.0.send_replace(State::Down(now.clone()));
            trouble = Some(now);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(begun + PAUSE) => {}
            }
        }
    }
}
