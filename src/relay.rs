//! From the store to the broker: announces what is due, again and again until the broker has confirmed it.
//!
//! The due marks, stored with the records, are the outbox: whatever is due and not yet announced is read
//! from there and from nowhere else, so a first announcement, a retry, a check and the catching up after an
//! outage of the broker are one path. No request ever waits for it.
//!
//! - A mark is noted as announced only after the broker's confirm. A crash in between announces it twice,
//!   which is harmless (I4).
//! - What was announced and whose message is gone (a queue deleted by hand, a broker that lost its disk) is
//!   found by [`WorkQueue::lost_before`] and announced again (I3).
//!
//! Several processes may relay for one ledger: the store keeps what it gave to one from the others for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::{LedgerName, TransactionId};
use crate::failpoint;
use crate::queue::{QueueError, WorkQueue};
use crate::store::{Mark, StoreError, TransactionStore};
use crate::telemetry::metrics::QueueMetrics;
use crate::telemetry::{Span, SpanKind, TraceContext, Tracer};

/// Announced together: enough that the commit that notes it costs little beside it.
const BATCH: usize = 2_048;

/// What another process made due, or a clock that jumped, is noticed after so long.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// How often lost messages are looked for, and how many marks are put back at once.
const LOOK_FOR_LOST: Duration = Duration::from_secs(2);
const PUT_BACK: usize = 1_000;
/// Looking takes at most this share of the time: one in so many.
const LOOK_SHARE: u32 = 20;

const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Announces what is due for one ledger.
pub struct Relay {
    /// The ledger.
    pub ledger: LedgerName,
    /// The truth.
    pub store: Arc<dyn TransactionStore>,
    /// Where it is announced.
    pub queue: Arc<dyn WorkQueue>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: QueueMetrics,
    /// What is traced.
    pub tracer: Tracer,
}

/// Why a round came to nothing. Nothing is lost: the marks are where they were.
#[derive(Debug, thiserror::Error)]
enum Setback {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Relay {
    /// Works until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = SHORTEST_PAUSE;
        let mut in_trouble = false;
        let mut look_at = Instant::now() + LOOK_FOR_LOST;
        while !stop.is_cancelled() {
            let round = async {
                let begun = Instant::now();
                if begun >= look_at {
                    look_at = begun + LOOK_FOR_LOST;
                    self.put_back_lost().await?;
                    // A long look is a large backlog.
                    look_at = begun + LOOK_FOR_LOST.max(begun.elapsed() * LOOK_SHARE);
                }
                self.round().await
            };
            let result = tokio::select! {
                () = stop.cancelled() => break,
                result = round => result,
            };
            match result {
                Ok(()) => {
                    if std::mem::take(&mut in_trouble) {
                        tracing::info!(ledger = %self.ledger, "announcements go through again");
                    }
                    pause = SHORTEST_PAUSE;
                }
                Err(setback) => {
                    if !std::mem::replace(&mut in_trouble, true) {
                        tracing::warn!(ledger = %self.ledger, %setback, "announcements wait");
                    }
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())) => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Announces what is due, or waits until something may be.
    async fn round(&self) -> Result<(), Setback> {
        let signal = self.store.due_signal(&self.ledger);
        let now = self.clock.now();
        let due = self.store.due(&self.ledger, now, BATCH).await?;
        let oldest = due.marks.iter().map(|mark| now.since(mark.due_at)).max();
        self.metrics
            .outbox_age
            .set(oldest.unwrap_or_default().as_secs_f64());
        if due.marks.is_empty() {
            let nap = due.next.map_or(LONGEST_NAP, |next| next.since(now));
            tokio::select! {
                () = signal.notified() => {}
                () = self.clock.sleep(nap.min(LONGEST_NAP)) => {}
            }
            return Ok(());
        }
        self.announce(&due.marks).await
    }

    async fn announce(&self, marks: &[Mark]) -> Result<(), Setback> {
        let ids: Vec<_> = marks.iter().map(|mark| mark.id).collect();
        let at = self.clock.now();
        failpoint::reached("announce-before-publish");
        let (spans, traces) = self.traces(&ids).await.into_iter().unzip();
        let confirmed = self.queue.publish(&self.ledger, &ids, at, &traces).await?;
        drop::<Vec<Span>>(spans);
        let announced: Vec<_> = marks
            .iter()
            .zip(confirmed)
            .filter_map(|(mark, confirmed)| confirmed.then_some(*mark))
            .collect();
        failpoint::reached("announce-before-note");
        self.store.announced(&self.ledger, &announced, at).await?;
        failpoint::reached("announce-after-note");
        if announced.len() < marks.len() {
            let missing = marks.len() - announced.len();
            return Err(QueueError(format!(
                "it did not confirm {missing} of {} messages",
                marks.len()
            ))
            .into());
        }
        Ok(())
    }

    /// Begins a span for each that is traced; the place of it goes with its message. Records are read for that, so only where
    /// traces are collected.
    async fn traces(&self, ids: &[TransactionId]) -> Vec<(Span, (TransactionId, TraceContext))> {
        if !self.tracer.is_on() {
            return Vec::new();
        }
        let records = self.store.get_many(ids).await;
        let traced = records.into_iter().flatten().flatten().filter_map(|tx| {
            let above = self.tracer.place_of(&tx)?;
            let mut span = self.tracer.start("announce", SpanKind::Producer, Some(above));
            span.is_of(&tx);
            let place = span.place()?;
            Some((span, (tx.id, place)))
        });
        traced.collect()
    }

    /// Makes due again what was announced and is not in the queue any more.
    async fn put_back_lost(&self) -> Result<(), Setback> {
        let Some(before) = self.queue.lost_before(&self.ledger, self.clock.now()).await? else {
            return Ok(());
        };
        loop {
            failpoint::reached("lost-before-put-back");
            let lost = self.store.unannounce(&self.ledger, before, PUT_BACK).await?;
            if lost > 0 {
                failpoint::reached("lost-after-put-back");
                self.metrics.announced_again.increment(lost as u64);
                tracing::warn!(ledger = %self.ledger, lost, "messages were lost; their transactions are announced again");
            }
            if lost < PUT_BACK {
                return Ok(());
            }
        }
    }
}
