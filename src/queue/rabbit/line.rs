//! A connection that is kept up, or made anew about once a second while it cannot be.
//!
//! lapin's own recovery is not used: under it, a call waits for as long as the broker is away, and what was
//! on its way is sent or lost without our knowing. Here a connection that failed is gone for good, with all
//! that was on it; whoever used it gets an error, in time, and asks for the next one.
//!
//! One task dials and watches, however many callers there are. It ends with the queue that it belongs to.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::{Connection, Event};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::channels::Channels;
use super::connect::{Dialer, PATIENCE, Wire, told};
use crate::queue::QueueError;

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// How often an idle connection is asked for a sign of life, and how often its state is looked at.
const PROBE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(250);

/// A broker that does not answer for this long is given up. Well below the 10 s within which an announcement
/// counts as recent: see `lost_before` in `mod.rs`.
pub(super) const STALL: Duration = Duration::from_secs(5);

/// One of the two connections: for announcements, or for deliveries.
pub(super) struct Line {
    what: &'static str,
    dialer: Arc<Dialer>,
    state: watch::Sender<State>,
    tasks: TaskTracker,
    stop: CancellationToken,
    started: OnceLock<()>,
}

/// How a line is doing.
#[derive(Clone)]
enum State {
    /// Being dialled, after this trouble if any.
    Dialling(Option<String>),
    Up(Arc<Link>),
    Down(String),
}

impl Line {
    /// Dials when it is first asked for.
    pub(super) fn new(
        what: &'static str,
        dialer: Arc<Dialer>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            what,
            dialer,
            state: watch::Sender::new(State::Dialling(None)),
            tasks,
            stop,
            started: OnceLock::new(),
        })
    }

    /// Starts to dial, unless that was done already.
    pub(super) fn start(self: &Arc<Self>) {
        self.started.get_or_init(|| {
            self.tasks.spawn(Arc::clone(self).keep());
        });
    }

    /// A connection; waits only for one that is being dialled.
    pub(super) async fn link(self: &Arc<Self>) -> Result<Arc<Link>, QueueError> {
        self.start();
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Up(link) => !link.failed.is_cancelled(),
            State::Down(_) => true,
            State::Dialling(_) => false,
        });
        match tokio::time::timeout(PATIENCE + LOOK, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Up(link) => Ok(Arc::clone(link)),
                State::Down(trouble) | State::Dialling(Some(trouble)) => Err(QueueError(trouble.clone())),
                State::Dialling(None) => Err(QueueError("no connection yet".to_owned())),
            },
            _ => Err(QueueError("the broker does not answer".to_owned())),
        }
    }

    /// Why it is of no use now, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Up(link) => link.trouble(),
            State::Down(trouble) => Some(trouble.clone()),
            State::Dialling(trouble) => trouble.clone(),
        }
    }

    /// Returns when the trouble may have changed.
    pub(super) async fn changed(&self) {
        let mut state = self.state.subscribe();
        let now = state.borrow_and_update().clone();
        match now {
            State::Up(link) => {
                let mut blocked = link.blocked.subscribe();
                tokio::select! {
                    _ = state.changed() => {}
                    _ = blocked.changed() => {}
                }
            }
            // Fails only when the line is gone, and this with it.
            _ => drop(state.changed().await),
        }
    }

    async fn keep(self: Arc<Self>) {
        let stop = self.stop.clone();
        let mut trouble: Option<String> = None;
        loop {
            let begun = Instant::now();
            self.state.send_replace(State::Dialling(trouble.clone()));
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                opened = self.dialer.open() => opened,
            };
            let what = self.what;
            let now = match opened {
                Ok((connection, wire)) => {
                    let link = Arc::new(Link::new(connection, wire));
                    tracing::info!(what, "connected to the broker");
                    self.state.send_replace(State::Up(Arc::clone(&link)));
                    tokio::select! {
                        () = stop.cancelled() => {
                            link.hang_up().await;
                            return;
                        }
                        why = link.watch() => why,
                    }
                }
                Err(why) => why,
            };
            // A broker that is away for an hour is not news every second.
            if trouble.as_ref() != Some(&now) {
                tracing::warn!(what, trouble = %now, "no connection to the broker; trying again");
            }
            self.state.send_replace(State::Down(now.clone()));
            trouble = Some(now);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(begun + PAUSE) => {}
            }
        }
    }
}

/// An open connection. It is used until it fails, and never comes back.
pub(super) struct Link {
    pub(super) connection: Connection,
    /// What publishing keeps with a connection.
    pub(super) channels: Channels,
    wire: Wire,
    /// Why the broker takes no messages on it, if so.
    blocked: watch::Sender<Option<String>>,
    failed: CancellationToken,
    why: OnceLock<String>,
}

impl Link {
    fn new(connection: Connection, wire: Wire) -> Self {
        Self {
            connection,
            channels: Channels::default(),
            wire,
            blocked: watch::Sender::new(None),
            failed: CancellationToken::new(),
            why: OnceLock::new(),
        }
    }

    /// Gives it up: everything under way on it ends with an error.
    pub(super) fn fail(&self, why: &str) {
        self.why.get_or_init(|| why.to_owned());
        self.failed.cancel();
        self.wire.cut();
    }

    /// Returns why it ended.
    pub(super) async fn ended(&self) -> String {
        self.failed.cancelled().await;
        self.why.get().cloned().unwrap_or_default()
    }

    /// Why it is of no use for announcements, if so.
    pub(super) fn trouble(&self) -> Option<String> {
        let refused = || self.blocked.borrow().as_ref().map(|why| refusal(why));
        self.why.get().cloned().or_else(refused)
    }

    /// Waits for `work`, but no longer than to `limit`, and not past the end of the connection. A broker that
    /// takes no messages ends it too, unless `work` sends none that it minds.
    pub(super) async fn within<T>(
        &self,
        limit: Instant,
        minds_blocking: bool,
        work: impl Future<Output = T>,
    ) -> Result<T, QueueError> {
        let mut blocked = self.blocked.subscribe();
        tokio::select! {
            biased;
            why = self.ended() => Err(QueueError(why)),
            Ok(why) = blocked.wait_for(Option::is_some), if minds_blocking => {
                Err(QueueError(refusal(why.as_deref().unwrap_or_default())))
            }
            done = work => Ok(done),
            () = tokio::time::sleep_until(limit) => {
                // A connection on which nothing moves is no connection.
                let why = "the broker does not answer";
                self.fail(why);
                Err(QueueError(why.to_owned()))
            }
        }
    }

    /// Returns why it ended.
    async fn watch(&self) -> String {
        let mut events = self.connection.events_listener();
        let mut heard = None;
        let probing = self.probe();
        tokio::pin!(probing);
        loop {
            tokio::select! {
                () = self.failed.cancelled() => {}
                why = &mut probing => self.fail(&why),
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(why)) => {
                        tracing::warn!(%why, "the broker refuses messages");
                        self.blocked.send_replace(Some(why));
                    }
                    Some(Event::ConnectionUnblocked) => self.unblock(),
                    Some(Event::Error(error)) => heard = Some(told(&error)),
                    _ => {}
                },
                () = tokio::time::sleep(LOOK) => {}
            }
            let status = self.connection.status();
            // An event that came before anybody listened is not heard.
            if status.blocked() && self.blocked.borrow().is_none() {
                self.blocked
                    .send_replace(Some("it is low on memory or disk".to_owned()));
            }
            if !status.connected() {
                self.fail(heard.as_deref().unwrap_or("the broker closed the connection"));
            }
            if let Some(why) = self.why.get() {
                return why.clone();
            }
        }
    }

    fn unblock(&self) {
        tracing::info!("the broker takes messages again");
        self.blocked.send_replace(None);
        // What was cut short is still on its way, long after its callers were told that it failed.
        if self.channels.any_retired() {
            self.fail("the broker takes messages again; what was held up is announced anew");
        }
    }

    /// Asks for an answer every now and then: heartbeats tell of a dead broker only after a long time. Returns
    /// why there is none.
    async fn probe(&self) -> String {
        let silent = || "the broker does not answer".to_owned();
        let Ok(opened) = tokio::time::timeout(STALL, self.connection.create_channel()).await else {
            return silent();
        };
        let channel = match opened {
            Ok(channel) => channel,
            Err(error) => return told(&error),
        };
        loop {
            tokio::time::sleep(PROBE).await;
            // lapin sends nothing at all while it is blocked.
            if self.connection.status().blocked() {
                continue;
            }
            let asking = channel.confirm_select(ConfirmSelectOptions::default());
            match tokio::time::timeout(STALL, asking).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return told(&error),
                Err(_) if self.connection.status().blocked() => {}
                Err(_) => return silent(),
            }
        }
    }

    /// Says goodbye, or does without if that takes long.
    async fn hang_up(&self) {
        let goodbye = self.connection.close(200, "goodbye".into());
        drop(tokio::time::timeout(PAUSE, goodbye).await);
        self.fail("closed");
    }
}

fn refusal(why: &str) -> String {
    format!("the broker refuses messages: {why}")
}
