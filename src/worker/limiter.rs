//! The rate limit of a ledger (I6): a token bucket, one token for each submission, resends included.

use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use tokio::sync::Notify;

/// Lets through `rate_per_second` submissions a second, and `burst` at once after a quiet while.
pub(crate) struct RateLimiter {
    bucket: RwLock<Arc<DefaultDirectRateLimiter>>,
    changed: Notify,
}

impl RateLimiter {
    /// A bucket that starts empty, so that a process that is restarted again and again does not get a
    /// fresh burst each time.
    pub(crate) fn new(rate_per_second: f64, burst: NonZeroU32) -> Self {
        Self {
            bucket: RwLock::new(Self::empty_bucket(rate_per_second, burst)),
            changed: Notify::new(),
        }
    }

    /// Goes on at another rate, with nothing saved up. Who waits, waits by the new rate.
    pub(crate) fn set(&self, rate_per_second: f64, burst: NonZeroU32) {
        let bucket = Self::empty_bucket(rate_per_second, burst);
        *self.bucket.write().unwrap_or_else(PoisonError::into_inner) = bucket;
        self.changed.notify_waiters();
    }

    fn bucket(&self) -> Arc<DefaultDirectRateLimiter> {
        self.bucket.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn empty_bucket(rate_per_second: f64, burst: NonZeroU32) -> Arc<DefaultDirectRateLimiter> {
        let period = Duration::from_secs_f64(1.0 / rate_per_second).max(Duration::from_nanos(1));
        let quota = Quota::with_period(period)
            .unwrap_or(Quota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        let bucket = DefaultDirectRateLimiter::direct(quota);
        while bucket.check().is_ok() {}
        Arc::new(bucket)
    }

    /// Takes all there is, for somebody else may have used it.
    pub(crate) fn empty(&self) {
        let bucket = self.bucket();
        while bucket.check().is_ok() {}
    }

    /// Waits until at least one token is there and takes what is there, at most `max`. Cancel safe: tokens
    /// are taken only when it returns.
    pub(crate) async fn take(&self, max: usize) -> usize {
        loop {
            let changed = self.changed.notified();
            let bucket = self.bucket();
            match bucket.check() {
                Ok(()) => return 1 + (1..max).take_while(|_| bucket.check().is_ok()).count(),
                Err(early) => tokio::select! {
                    () = tokio::time::sleep(early.wait_time_from(DefaultClock::default().now())) => {}
                    () = changed => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn i6_never_more_than_rate_times_time_plus_burst() {
        let limiter = RateLimiter::new(2_000.0, NonZeroU32::new(20).expect("not zero"));
        let start = Instant::now();
        let mut taken = 0;
        while start.elapsed() < Duration::from_millis(300) {
            taken += limiter.take(50).await;
            let allowed = 2_000.0 * start.elapsed().as_secs_f64() + 20.0;
            assert!(taken as f64 <= allowed, "{taken} taken, {allowed} allowed");
        }
        assert!(taken >= 20, "it does let submissions through");
    }

    #[tokio::test]
    async fn who_waits_waits_by_the_rate_that_is_set() {
        let limiter = RateLimiter::new(0.001, NonZeroU32::MIN);
        let mut take = std::pin::pin!(limiter.take(1));
        assert!(futures_util::poll!(&mut take).is_pending());
        limiter.set(1_000.0, NonZeroU32::MIN);
        let taken = tokio::time::timeout(Duration::from_secs(10), take).await;
        assert_eq!(taken.expect("not a quarter of an hour"), 1);
    }

    #[tokio::test]
    async fn a_new_bucket_holds_no_burst() {
        let limiter = RateLimiter::new(0.5, NonZeroU32::new(10).expect("not zero"));
        assert!(futures_util::poll!(std::pin::pin!(limiter.take(1))).is_pending());
    }
}
