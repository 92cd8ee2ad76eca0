//! Failed tries: whoever has had too many is not listened to for a while.
//!
//! Invariant: memory is bounded whatever addresses the tries come from. Addresses share a fixed number of buckets, by a hash
//! that nobody outside can foresee, so two of them rarely meet and nobody can choose whom to shut out. A restart forgets.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

const BUCKETS: usize = 4096;
const MINUTE: Duration = Duration::from_secs(60);

/// Counts failed tries by source address.
pub(super) struct FailedTries {
    start: Instant,
    hasher: RandomState,
    /// Until when, in nanoseconds since the start, each bucket is used up if no try is given back before.
    buckets: Vec<AtomicU64>,
    /// What one try costs.
    each: u64,
}

impl FailedTries {
    /// So many tries are forgiven in a minute.
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        Self {
            start: Instant::now(),
            hasher: RandomState::new(),
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            each: nanos(MINUTE) / u64::from(per_minute.get()),
        }
    }

    /// How long `from` has to wait before it may try again, if it has to.
    pub(super) fn wait(&self, from: IpAddr) -> Option<Duration> {
        let used_until = self.bucket(from).load(Ordering::Relaxed);
        let excess = (used_until + self.each).saturating_sub(self.now() + nanos(MINUTE));
        (excess > 0).then(|| Duration::from_nanos(excess))
    }

    /// Notes a failed try.
    pub(super) fn failed(&self, from: IpAddr) {
        let now = self.now();
        let more = |used_until: u64| {
            Some(
                used_until
                    .max(now)
                    .saturating_add(self.each)
                    .min(now + nanos(MINUTE)),
            )
        };
        // It never declines.
        let _before = self
            .bucket(from)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    fn bucket(&self, from: IpAddr) -> &AtomicU64 {
        // Whoever has one IPv6 address mostly has 2^64 of them.
        let source = match from {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => address.to_bits() >> 64,
        };
        let place = self.hasher.hash_one(source) as usize % BUCKETS;
        &self.buckets[place]
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(per_minute: u32) -> FailedTries {
        FailedTries::new(NonZeroU32::new(per_minute).expect("not zero"))
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_in_a_minute_and_then_one_by_one() {
        let tries = tries(6);
        let from = "203.0.113.7".parse().expect("address");
        for _ in 0..6 {
            assert_eq!(tries.wait(from), None);
            tries.failed(from);
        }
        assert_eq!(tries.wait(from), Some(Duration::from_secs(10)));
        // To go on trying makes it no longer.
        for _ in 0..100 {
            tries.failed(from);
        }
        assert_eq!(tries.wait(from), Some(Duration::from_secs(10)));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(tries.wait(from), None);
        tries.failed(from);
        assert_eq!(tries.wait(from), Some(Duration::from_secs(10)));
        tokio::time::advance(MINUTE).await;
        for _ in 0..6 {
            assert_eq!(tries.wait(from), None);
            tries.failed(from);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_source_does_not_shut_out_the_others() {
        let tries = tries(1);
        for network in 0..200_u16 {
            let from = std::net::Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, 1);
            tries.failed(from.into());
            let neighbour = std::net::Ipv6Addr::new(0x2001, 0xdb8, network, 0, 9, 9, 9, 9);
            assert!(tries.wait(neighbour.into()).is_some(), "the same network");
        }
        let shut_out = |last: &u32| tries.wait(std::net::Ipv4Addr::from_bits(*last).into()).is_some();
        let unlucky = (0..1_000_u32).filter(shut_out).count();
        assert!(unlucky < 150, "{unlucky} of 1000 share a bucket with one of 200");
    }
}
