//! How long a consumer is certainly the only one.
//!
//! The broker gives the queue to another consumer when it takes this one for dead: at once when the
//! connection or the channel is closed, else after at least two heartbeats without a byte from us. So a
//! round trip to the broker proves for a while that nobody took over. What counts is when the question was
//! SENT: a process that was frozen, or cut off, cannot send, and finds the proof too old when it wakes up.
//! The question goes through the consumer's own channel, so that the answer proves that channel alive; and it
//! is put to the queue, whose leader answers. (A node of a cluster that cannot reach the leader answers that
//! there are no consumers, which proves nothing.)
//!
//! The clock is `Instant`, which stands still while a machine is suspended: a laptop that sleeps may hold its
//! tenure for a moment too long. The store's compare-and-swap is what makes that harmless.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lapin::{Channel, ChannelStatus};
use metrics::Gauge;

use super::connect::told;
use super::topology::Topology;

/// Between two questions, at most.
const PACE: Duration = Duration::from_secs(1);

/// An answer that takes longer will not come, however long the heartbeat is.
const SILENCE: Duration = Duration::from_secs(10);

/// When the broker was certainly in contact with a consumer.
pub(super) struct Contact {
    begun: Instant,
    /// When the last question was sent that was answered: nanoseconds after `begun`; `u64::MAX` for never again.
    proven: AtomicU64,
    /// For how long an answer is proof.
    lasts: Duration,
    channel: ChannelStatus,
}

impl Contact {
    /// No contact yet.
    pub(super) fn new(heartbeat: Duration, channel: &Channel) -> Self {
        Self {
            begun: Instant::now(),
            proven: AtomicU64::new(u64::MAX),
            lasts: heartbeat / 2,
            channel: channel.status().clone(),
        }
    }

    /// Whether nobody can have taken over.
    pub(super) fn holds(&self) -> bool {
        let proven = self.proven.load(Ordering::Acquire);
        let age = self.begun.elapsed().checked_sub(Duration::from_nanos(proven));
        self.channel.connected() && age.is_some_and(|age| age <= self.lasts)
    }

    /// From here on it does not hold.
    pub(super) fn end(&self) {
        self.proven.store(u64::MAX, Ordering::Release);
    }

    /// Asks again and again. Returns why that ended: the consumer is then at its end.
    pub(super) async fn keep(&self, channel: &Channel, topology: &Topology, depth: &Gauge) -> String {
        let mut last = Instant::now();
        loop {
            let sent = Instant::now();
            let limit = last + self.lasts.min(SILENCE);
            match tokio::time::timeout_at(limit.into(), topology.look(channel)).await {
                Ok(Ok(Some(queue))) => {
                    depth.set(f64::from(queue.message_count()));
                    if queue.consumer_count() > 0 {
                        last = sent;
                        self.prove(sent);
                    }
                }
                Ok(Ok(None)) => return "the queue was deleted".to_owned(),
                Ok(Err(error)) => return told(&error),
                Err(_) => return "the broker does not answer".to_owned(),
            }
            tokio::time::sleep((self.lasts / 4).min(PACE)).await;
        }
    }

    fn prove(&self, sent: Instant) {
        let nanos = sent.saturating_duration_since(self.begun).as_nanos();
        self.proven
            .store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Release);
    }
}
