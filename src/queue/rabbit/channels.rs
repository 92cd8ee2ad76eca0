//! The channels that announcements go through: each serves one call at a time.
//!
//! One call only, because lapin gives a returned message to whichever confirmation comes next on its channel,
//! and numbers messages before it queues them: two calls on one channel would get each other's answers.
//!
//! A call that was cut short leaves messages behind that are still to be sent. Its channel is set aside and
//! stays open: closing it would overtake them, and a message on a closed channel makes the broker close the
//! connection.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lapin::Channel;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use super::link::Link;
use crate::domain::LedgerName;

/// Calls at a time on one connection.
const AT_ONCE: usize = 32;

/// So many calls cut short make a connection not worth keeping.
const TOO_MANY_RETIRED: usize = 64;

/// What publishing keeps with a connection.
pub(super) struct Channels {
    /// Held while queues are declared. Two at a time would be as good, were it not that RabbitMQ lets the
    /// second pass while it still starts the queue for the first, and refuses the messages that come then.
    pub(super) declaring: AsyncMutex<()>,
    turns: Semaphore,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    idle: Vec<Channel>,
    retired: Vec<Channel>,
    declared: HashSet<LedgerName>,
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            declaring: AsyncMutex::default(),
            turns: Semaphore::new(AT_ONCE),
            inner: Mutex::default(),
        }
    }
}

impl Channels {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call was cut short on this connection.
    pub(super) fn any_retired(&self) -> bool {
        !self.lock().retired.is_empty()
    }

    /// Whether the queues of `ledger` were seen to on this connection.
    pub(super) fn is_declared(&self, ledger: &LedgerName) -> bool {
        self.lock().declared.contains(ledger)
    }

    /// Notes whether they were.
    pub(super) fn set_declared(&self, ledger: &LedgerName, declared: bool) {
        let mut inner = self.lock();
        if declared {
            inner.declared.insert(ledger.clone());
        } else {
            inner.declared.remove(ledger);
        }
    }

    /// A channel with confirms, for this call alone.
    pub(super) async fn take<'l>(&self, link: &'l Link) -> Result<Lease<'l>, lapin::Error> {
        // Never closed, so it is always granted.
        if let Ok(turn) = self.turns.acquire().await {
            turn.forget();
        }
        // From here on the turn goes back with the lease.
        let mut lease = Lease {
            link,
            channel: None,
            clean: true,
        };
        let idle = self.lock().idle.pop();
        let channel = match idle {
            Some(channel) => channel,
            None => {
                let channel = link.connection.create_channel().await?;
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                channel
            }
        };
        lease.channel = Some(channel);
        Ok(lease)
    }
}

/// A channel on loan to one call.
pub(super) struct Lease<'l> {
    link: &'l Link,
    channel: Option<Channel>,
    clean: bool,
}

impl Lease<'_> {
    /// The channel.
    pub(super) fn channel(&self) -> Option<&Channel> {
        self.channel.as_ref()
    }

    /// Messages are on their way: dropped now, the channel is set aside.
    pub(super) fn begin(&mut self) {
        self.clean = false;
    }

    /// All of them were answered.
    pub(super) fn finish(&mut self) {
        self.clean = true;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let channels = &self.link.channels;
        channels.turns.add_permits(1);
        let Some(channel) = self.channel.take() else {
            return;
        };
        if !channel.status().connected() {
            return;
        }
        let mut inner = channels.lock();
        if self.clean {
            inner.idle.push(channel);
        } else {
            inner.retired.push(channel);
        }
        if inner.retired.len() >= TOO_MANY_RETIRED {
            drop(inner);
            self.link.fail("too many announcements were cut short");
        }
    }
}
