//! An open connection: what it is doing, and its end.

use std::sync::OnceLock;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::{Connection, Event};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::channels::Channels;
use super::connect::{Wire, told};
use crate::queue::QueueError;

/// How often an idle connection is asked for a sign of life, and how often its state is looked at.
const PROBE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(250);

/// The end of a connection may take this long.
const GOODBYE: Duration = Duration::from_secs(1);

/// A broker that does not answer for this long is given up. Well below the 10 s within which an announcement
/// counts as recent: see `lost_before` in `mod.rs`.
pub(super) const STALL: Duration = Duration::from_secs(5);

/// What is told of such a broker.
pub(super) const SILENT: &str = "the broker does not answer";

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
    pub(super) fn new(connection: Connection, wire: Wire) -> Self {
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

    async fn ended(&self) -> String {
        self.failed.cancelled().await;
        self.why.get().cloned().unwrap_or_default()
    }

    /// Whether it was given up.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_cancelled()
    }

    /// Returns when the broker began, or ceased, to refuse messages.
    pub(super) async fn block_changed(&self) {
        // Fails only when the connection is gone, and this with it.
        drop(self.blocked.subscribe().changed().await);
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
            // It may be one queue that does not answer. Whether the connection still lives, `probe` finds out.
            () = tokio::time::sleep_until(limit) => Err(QueueError(SILENT.to_owned())),
        }
    }

    /// Returns why it ended. Whoever opened it has to see to it that this goes on.
    pub(super) async fn watch(&self) -> String {
        let mut events = self.connection.events_listener();
        let mut heard = None;
        loop {
            tokio::select! {
                () = self.failed.cancelled() => {}
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

    /// Asks for an answer every now and then: heartbeats tell of a dead broker only after a long time. Gives the
    /// connection up when there is none, and returns why.
    pub(super) async fn probe(&self) -> String {
        let why = self.ask().await;
        self.fail(&why);
        why
    }

    async fn ask(&self) -> String {
        let silent = || SILENT.to_owned();
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
    pub(super) async fn hang_up(&self) {
        let goodbye = self.connection.close(200, "goodbye".into());
        drop(tokio::time::timeout(GOODBYE, goodbye).await);
        self.fail("closed");
    }
}

fn refusal(why: &str) -> String {
    format!("the broker refuses messages: {why}")
}
