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
//! Two things it cannot see. `Instant` stands still while a machine is suspended. And a broker of several nodes
//! that lose sight of each other for a moment may pass the queue on and not tell. Then two workers send for a
//! while what each has in hand; the store's compare-and-swap keeps any of it from being sent twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lapin::{Channel, ChannelStatus, Queue};
use metrics::Gauge;

use super::connect::told;
use super::link::SILENT;
use super::topology::Topology;

/// Between two questions, at most.
const PACE: Duration = Duration::from_secs(1);

/// An answer that takes longer will not come, however long the heartbeat is.
const SILENCE: Duration = Duration::from_secs(10);

const LAST_WORD: Duration = Duration::from_millis(500);

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

    /// Asks once. The answer is proof if the queue knows a consumer.
    pub(super) async fn ask(&self, channel: &Channel, topology: &Topology) -> lapin::Result<Option<Queue>> {
        let sent = Instant::now();
        let found = topology.look(channel).await?;
        if found.as_ref().is_some_and(|queue| queue.consumer_count() > 0) {
            let nanos = sent.saturating_duration_since(self.begun).as_nanos();
            self.proven
                .store(u64::try_from(nanos).unwrap_or(u64::MAX), Ordering::Release);
        }
        Ok(found)
    }

    /// Asks again and again. Returns why that ended: the consumer is then at its end. A gap ends it for good,
    /// even if the broker answers again: it may have let another one have messages in between.
    pub(super) async fn keep(&self, channel: &Channel, topology: &Topology, depth: &Gauge) -> String {
        let mut last = Instant::now();
        let gap = self.lasts.min(SILENCE);
        loop {
            let sent = Instant::now();
            let late = sent.saturating_duration_since(last) > gap;
            // Where there is a gap already, an answer may tell why.
            let patience = (last + gap).max(sent + LAST_WORD);
            match tokio::time::timeout_at(patience.into(), self.ask(channel, topology)).await {
                Ok(Ok(Some(queue))) => {
                    depth.set(f64::from(queue.message_count()));
                    match (queue.consumer_count() > 0, late) {
                        (true, false) => last = sent,
                        (true, true) => return "there was no contact with the queue for too long".to_owned(),
                        (false, true) => return "the queue has no leader".to_owned(),
                        (false, false) => {}
                    }
                }
                Ok(Ok(None)) => return "the queue was deleted".to_owned(),
                Ok(Err(error)) => return told(&error),
                Err(_) => return SILENT.to_owned(),
            }
            tokio::time::sleep((self.lasts / 4).min(PACE)).await;
        }
    }
}
