//! The queue at a RabbitMQ, between those who accept and those who submit.
//!
//! Each ledger has a queue, of which the broker lets one consumer at a time have messages: so one worker
//! drives a ledger, and another takes over when it is gone.
//!
//! - Announcements have a connection of their own, because a broker that is short of memory or disk stops
//!   reading from those who publish: deliveries and their acknowledgements must not stand still for that.
//! - So has each consumer: what is wrong with one queue must not be the end of the others.
//! - Announced means confirmed: stored by the broker, with a quorum queue by most of its nodes.
//! - Every call ends within some seconds, whatever the broker does. None of them waits for it to come back.
//! - Nothing here is the truth (I4). A message lost costs time: `lost_before` lets it be announced again. A
//!   message too many is seen to be one. A crash of this process leaves nothing that has to be mended.
//!
//! ```text
//! publish -> line.rs (keeps a link up) -> channels.rs, publish.rs -> broker
//! consume -> connect.rs (a new link)   -> consumer.rs, with hand.rs (what is settled), contact.rs (tenure)
//! ```

mod channels;
mod connect;
mod consumer;
mod contact;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzed;
mod hand;
mod line;
mod link;
mod message;
mod publish;
mod topology;

#[cfg(test)]
#[path = "../../../tests/support/rabbitmq.rs"]
pub(crate) mod broker;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::connect::{Dialer, told};
use self::line::{Line, PAUSE};
use self::link::{Link, SILENT, STALL};
use self::publish::Announcement;
use self::topology::{Created, Topology};
use super::{Consumer, QueueError, QueueHealth, Traces, WorkQueue};
use crate::config::RabbitSettings;
use crate::domain::{LedgerName, Timestamp, TransactionId};
use crate::telemetry::metrics::{Metrics, QueueMetrics};

/// An announcement takes less than this from its `at` to the confirmation: `publish::LONGEST` and a rest.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// How far the order of a queue may differ from the order of `at`: the above, and clocks that differ.
const DISORDER: Duration = Duration::from_secs(30);

/// For how long a worker may have a message in hand before others begin to doubt it.
const HELD_BY_ANOTHER: Duration = Duration::from_secs(300);

/// The gauges are right after this long at the latest.
const STALE: Duration = Duration::from_secs(1);

/// The end of all tasks may take this long.
const GOODBYE: Duration = Duration::from_secs(3);

/// [`WorkQueue`] at a RabbitMQ.
pub struct RabbitQueue {
    settings: RabbitSettings,
    metrics: Metrics,
    ledgers: Arc<Ledgers>,
    dialer: Arc<Dialer>,
    publisher: Arc<Line>,
    /// When a consumer may dial again.
    door: AsyncMutex<Instant>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop: DropGuard,
}

type Ledgers = Mutex<HashMap<LedgerName, Arc<Ledger>>>;

/// What is kept for one ledger.
struct Ledger {
    topology: Topology,
    created: Created,
    metrics: QueueMetrics,
    /// The last consumer that this process had.
    consumer: Mutex<Weak<consumer::Shared>>,
}

impl RabbitQueue {
    /// A queue that starts to connect at once, and goes on trying for as long as it lives: a broker that is
    /// away stops nobody from starting. To be called within a tokio runtime.
    ///
    /// # Errors
    /// If a certificate or key in the settings cannot be used.
    pub fn new(settings: RabbitSettings, metrics: Metrics) -> Result<Self, QueueError> {
        let dialer = Arc::new(Dialer::new(&settings)?);
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let queue = Self {
            publisher: Line::start(Arc::clone(&dialer), &tasks, stop.clone()),
            dialer,
            door: AsyncMutex::new(Instant::now()),
            settings,
            metrics,
            ledgers: Arc::default(),
            _stop: stop.clone().drop_guard(),
            tasks,
            stop,
        };
        queue.tasks.spawn(show(
            Arc::clone(&queue.publisher),
            Arc::clone(&queue.ledgers),
            queue.stop.clone(),
        ));
        Ok(queue)
    }

    /// Opens a connection for a consumer: one at a time, and none for a while after one that failed.
    async fn dial(&self) -> Result<Link, QueueError> {
        // While the broker is away, the line alone tries to reach it.
        self.publisher.link().await?;
        let mut door = self.door.lock().await;
        tokio::time::sleep_until(*door).await;
        let opened = self.dialer.open().await;
        if opened.is_err() {
            *door = Instant::now() + PAUSE;
        }
        opened.map_err(QueueError)
    }

    fn ledger(&self, name: &LedgerName) -> Arc<Ledger> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        let ledger = ledgers.entry(name.clone()).or_insert_with(|| {
            let metrics = self.metrics.queue(name);
            metrics.connected.set(connected(&self.publisher));
            Arc::new(Ledger {
                topology: Topology::new(&self.settings, name),
                created: Created::default(),
                metrics,
                consumer: Mutex::default(),
            })
        });
        Arc::clone(ledger)
    }
}

#[async_trait]
impl WorkQueue for RabbitQueue {
    async fn publish(
        &self,
        ledger: &LedgerName,
        ids: &[TransactionId],
        at: Timestamp,
        traces: &Traces,
    ) -> Result<Vec<bool>, QueueError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let kept = self.ledger(ledger);
        let longest = Instant::now() + publish::LONGEST;
        let publishing = async {
            let link = self.publisher.link().await?;
            if let Some(trouble) = link.trouble() {
                return Err(QueueError(trouble));
            }
            let announcement = Announcement {
                link: &link,
                topology: &kept.topology,
                created: &kept.created,
                ledger,
                ids,
                at,
                traces,
            };
            announcement.publish(longest).await
        };
        kept.created.announcing(Some(at));
        let result = publishing.await;
        kept.created.announcing(None);
        let confirmed = result
            .as_ref()
            .map_or(0, |known| known.iter().filter(|yes| **yes).count());
        kept.metrics.announced.increment(confirmed as u64);
        kept.metrics.unconfirmed.increment((ids.len() - confirmed) as u64);
        result
    }

    async fn consume(&self, ledger: &LedgerName) -> Result<Box<dyn Consumer>, QueueError> {
        let kept = self.ledger(ledger);
        let opening = async {
            consumer::consume(
                self.dial().await?,
                &self.settings,
                (kept.topology.clone(), &kept.created),
                kept.metrics.clone(),
                (&self.tasks, &self.stop),
            )
            .await
        };
        let consumer = match tokio::time::timeout(publish::LONGEST, opening).await {
            Ok(opened) => opened?,
            Err(_) => return Err(QueueError(SILENT.to_owned())),
        };
        *kept.consumer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(consumer.shared());
        Ok(Box::new(consumer))
    }

    /// - A queue that this process had to make anew holds nothing of what was announced before.
    /// - If nothing waits in it, all there is is what the consumer with the deliveries has in hand, and what is
    ///   being announced at this moment. Who is not that consumer cannot know what it has, and waits for long.
    /// - A queue hands out what came first, first. So what was announced well before the last that was
    ///   delivered here is not in it any more, and lost unless it is in hand: what is fetched in advance may have
    ///   been announced over a long time.
    async fn lost_before(
        &self,
        ledger: &LedgerName,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, QueueError> {
        let kept = self.ledger(ledger);
        let consumer = kept
            .consumer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade();
        let consumer = consumer.filter(|consumer| consumer.is_alive());
        // Deliveries go on while the broker refuses messages, and so does their connection.
        let line;
        let link = match &consumer {
            Some(consumer) => consumer.link(),
            None => {
                line = self.publisher.link().await?;
                &*line
            }
        };
        let looking = async {
            let channel = link.connection.create_channel().await?;
            kept.topology.look(&channel).await
        };
        let limit = Instant::now() + STALL;
        let found = link.within(limit, true, looking).await?;
        let found = found.map_err(|error| QueueError(told(&error)))?;
        let there = found.is_some();
        let (waiting, consumers) =
            found.map_or((0, 0), |queue| (queue.message_count(), queue.consumer_count()));
        kept.metrics.depth.set(f64::from(waiting));
        kept.metrics.consumers.set(f64::from(consumers));
        let active = consumer.filter(|consumer| consumer.last().is_some() || consumers == 1);
        let lost = match active {
            _ if !there => Some(now.minus(UNDER_WAY)),
            // A node that cannot reach the queue's leader knows nothing, and says it with zeros.
            Some(_) if waiting == 0 && consumers == 0 => None,
            Some(consumer) if waiting == 0 => {
                let settled = now.minus(UNDER_WAY);
                Some(
                    consumer
                        .oldest_in_hand()
                        .map_or(settled, |oldest| oldest.min(settled)),
                )
            }
            Some(consumer) => consumer.last().map(|last| {
                let passed = last.min(now).minus(DISORDER);
                consumer
                    .oldest_in_hand()
                    .map_or(passed, |oldest| oldest.min(passed))
            }),
            None if waiting == 0 => Some(now.minus(HELD_BY_ANOTHER)),
            None => None,
        };
        Ok(lost.max(kept.created.take()))
    }

    /// Closes the connections in an orderly way. Nothing depends on it: a queue that is dropped ends too.
    async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GOODBYE, self.tasks.wait()).await.is_err() {
            tracing::warn!("the broker was left without a goodbye");
        }
    }

    fn health(&self) -> QueueHealth {
        QueueHealth {
            kind: "rabbitmq",
            trouble: self.publisher.trouble(),
        }
    }
}

fn connected(line: &Line) -> f64 {
    if line.trouble().is_none() { 1.0 } else { 0.0 }
}

/// Keeps the gauges in step with the connection.
async fn show(line: Arc<Line>, ledgers: Arc<Ledgers>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let now = connected(&line);
        for ledger in ledgers.lock().unwrap_or_else(PoisonError::into_inner).values() {
            ledger.metrics.connected.set(now);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = line.changed() => {}
            // A change may have come between the look above and the wait.
            () = tokio::time::sleep(STALE) => {}
        }
    }
}
