//! The one place that knows the time.
//!
//! Everything that decides by time takes a [`Clock`], so a test can hold the hands. A clock that jumps
//! makes things early or late, never wrong: versions, not moments, keep a transaction from happening twice.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::Timestamp;

/// Tells the time and waits.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// The moment now, UTC.
    fn now(&self) -> Timestamp;

    /// Waits for `duration`. Cancel safe.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A clock that moves only when it is told to.
#[derive(Debug)]
pub struct ManualClock(tokio::sync::watch::Sender<Timestamp>);

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(tokio::sync::watch::Sender::new(now))
    }

    /// Moves the clock on and wakes whoever waited for less.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now = now.plus(by));
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now().plus(duration);
        // The sender lives as long as `self`, so the wait cannot fail.
        let mut hands = self.0.subscribe();
        let _closed = hands.wait_for(|now| *now >= until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_sleepers_when_moved() {
        let clock = ManualClock::new(Timestamp::from_millis(5));
        let nap = clock.sleep(Duration::from_millis(10));
        tokio::pin!(nap);
        assert!(futures_util::poll!(&mut nap).is_pending());
        clock.advance(Duration::from_millis(9));
        assert!(futures_util::poll!(&mut nap).is_pending());
        clock.advance(Duration::from_millis(1));
        nap.await;
        assert_eq!(clock.now(), Timestamp::from_millis(15));
    }
}
