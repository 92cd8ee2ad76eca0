//! The receiving end of one ledger's queue, on a channel of its own.
//!
//! It is used until it fails, and never comes back: when the queue is deleted, the channel closed or the
//! connection lost, `next` says so and the lane starts another one, which declares the queue again. What it
//! had in hand is then delivered to the next one, here or elsewhere; settling it here does nothing any more.
//! A crash is the same, only noticed by the broker.
//!
//! A task beside it tells the broker what became of deliveries, and keeps up the proof of contact. It ends
//! with the consumer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::message::Delivery as Message;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connect::told;
use super::contact::Contact;
use super::hand::{Hand, Tag, Told};
use super::line::{Link, STALL};
use super::message;
use super::topology::Topology;
use crate::config::RabbitSettings;
use crate::domain::{Timestamp, TransactionId};
use crate::queue::{Acknowledge, Consumer, Delivery, QueueError, Settlement, Tenure};
use crate::telemetry::metrics::QueueMetrics;

/// How long the end of a consumer may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the consumer, its task and its deliveries share.
pub(super) struct Shared {
    hand: Mutex<Hand>,
    settled: Notify,
    contact: Contact,
    /// When the newest that was delivered had been announced, in milliseconds; 0 for none.
    newest: AtomicU64,
    ended: CancellationToken,
    why: OnceLock<String>,
}

impl Shared {
    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: &str) {
        self.why.get_or_init(|| why.to_owned());
        self.contact.end();
        self.ended.cancel();
    }

    /// Whether the consumer still gets deliveries.
    pub(super) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// When the newest that was delivered had been announced.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        let newest = self.newest.load(Ordering::Relaxed);
        (newest > 0).then(|| Timestamp::from_millis(newest))
    }
}

/// Starts to consume, within some seconds.
pub(super) async fn consume(
    link: &Arc<Link>,
    settings: &RabbitSettings,
    topology: Topology,
    metrics: QueueMetrics,
    tasks: &TaskTracker,
) -> Result<RabbitConsumer, QueueError> {
    let opening = async {
        // A channel of its own: a refusal closes it.
        let channel = link.connection.create_channel().await;
        topology.declare(&channel.map_err(|error| told(&error))?).await?;
        let opened = async {
            let channel = link.connection.create_channel().await?;
            let prefetch = settings.prefetch.get();
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let stream = channel
                .basic_consume(
                    topology.queue(),
                    ShortString::default(),
                    BasicConsumeOptions::default(),
                    FieldTable::default(),
                )
                .await?;
            Ok((channel, stream))
        };
        opened.await.map_err(|error: lapin::Error| told(&error))
    };
    let limit = tokio::time::Instant::now() + STALL;
    let (channel, stream) = link.within(limit, false, opening).await?.map_err(QueueError)?;
    let shared = Arc::new(Shared {
        hand: Mutex::new(Hand::new(settings.prefetch.get().into())),
        settled: Notify::new(),
        contact: Contact::new(settings.heartbeat, &channel),
        newest: AtomicU64::new(0),
        ended: CancellationToken::new(),
        why: OnceLock::new(),
    });
    let dropped = CancellationToken::new();
    tasks.spawn(mind(
        Arc::clone(link),
        channel,
        topology,
        metrics.clone(),
        Arc::clone(&shared),
        dropped.clone(),
    ));
    Ok(RabbitConsumer {
        stream,
        shared,
        metrics,
        _dropped: dropped.drop_guard(),
    })
}

/// [`Consumer`] of one queue.
pub(super) struct RabbitConsumer {
    stream: lapin::Consumer,
    shared: Arc<Shared>,
    metrics: QueueMetrics,
    _dropped: DropGuard,
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        loop {
            let first = tokio::select! {
                biased;
                () = self.shared.ended.cancelled() => None,
                first = self.stream.next() => Some(first),
            };
            // From here to the return nothing waits, so a dropped future has taken nothing.
            let mut deliveries = Vec::new();
            let mut next = first;
            while let Some(item) = next {
                match item {
                    Some(Ok(message)) => deliveries.extend(self.receive(message)),
                    Some(Err(error)) => self.shared.end(&told(&error)),
                    None => self
                        .shared
                        .end("the broker ended the delivery: the queue was deleted"),
                }
                let more = deliveries.len() < max && !self.shared.ended.is_cancelled();
                next = if more {
                    self.stream.next().now_or_never()
                } else {
                    None
                };
            }
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            if let Some(why) = self.shared.why.get() {
                return Err(QueueError(why.clone()));
            }
        }
    }

    fn tenure(&self) -> Tenure {
        let shared = Arc::clone(&self.shared);
        Tenure::new(move || shared.contact.holds())
    }
}

impl RabbitConsumer {
    /// A delivery for the lane, unless the message is none of its business.
    fn receive(&self, message: Message) -> Option<Delivery> {
        let tag = message.delivery_tag;
        if message.redelivered {
            self.metrics.redelivered.increment(1);
        }
        let mut hand = self.shared.hand();
        hand.receive(tag);
        let Some(id) = message::transaction(&message.data) else {
            tracing::warn!(
                bytes = message.data.len(),
                "a message without an id goes to the dead letters"
            );
            self.metrics.poison.increment(1);
            hand.settle(tag, Settlement::Reject);
            self.shared.settled.notify_one();
            return None;
        };
        if let Some(at) = message::announced_at(&message.properties) {
            self.shared.newest.fetch_max(at.as_millis(), Ordering::Relaxed);
        }
        if !hand.take(id) {
            // The one in hand decides. If it is given back, that one comes again.
            self.metrics.duplicates.increment(1);
            hand.settle(tag, Settlement::Ack);
            self.shared.settled.notify_one();
            return None;
        }
        drop(hand);
        let receipt = Receipt {
            shared: Arc::clone(&self.shared),
            tag,
            id,
            settlement: Settlement::Again,
        };
        Some(Delivery::new(id, Box::new(receipt)))
    }

    /// What others may know of it.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// Reports when it is dropped; given back unless something else was said.
struct Receipt {
    shared: Arc<Shared>,
    tag: Tag,
    id: TransactionId,
    settlement: Settlement,
}

impl Acknowledge for Receipt {
    fn settle(&mut self, settlement: Settlement) {
        self.settlement = settlement;
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let mut hand = self.shared.hand();
        hand.release(self.id);
        hand.settle(self.tag, self.settlement);
        drop(hand);
        self.shared.settled.notify_one();
    }
}

/// Stands beside a consumer until either ends.
async fn mind(
    link: Arc<Link>,
    channel: Channel,
    topology: Topology,
    metrics: QueueMetrics,
    shared: Arc<Shared>,
    dropped: CancellationToken,
) {
    let why = tokio::select! {
        () = dropped.cancelled() => None,
        () = shared.ended.cancelled() => None,
        why = link.ended() => Some(why),
        why = shared.contact.keep(&channel, &topology, &metrics.depth) => {
            // Nobody on this connection would get an answer.
            if channel.status().connected() {
                link.fail(&why);
            }
            Some(why)
        }
        error = settle(&channel, &shared) => Some(told(&error)),
    };
    shared.end(why.as_deref().unwrap_or("the consumer was dropped"));
    if !channel.status().connected() {
        return;
    }
    let last = shared.hand().tell(Instant::now(), true);
    let goodbye = async {
        tell(&channel, last).await?;
        channel.close(200, "done".into()).await
    };
    // While the channel is open the broker gives this consumer messages that nobody takes.
    if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
        link.fail("the broker does not answer");
    }
}

/// Tells the broker what became of deliveries, until that fails.
async fn settle(channel: &Channel, shared: &Shared) -> lapin::Error {
    loop {
        let told = shared.hand().tell(Instant::now(), false);
        let again_at = told.again_at;
        if let Err(error) = tell(channel, told).await {
            return error;
        }
        match again_at {
            None => shared.settled.notified().await,
            Some(at) => tokio::select! {
                () = shared.settled.notified() => {}
                () = tokio::time::sleep_until(at.into()) => {}
            },
        }
    }
}

async fn tell(channel: &Channel, told: Told) -> lapin::Result<()> {
    for tag in told.reject {
        channel
            .basic_reject(tag, BasicRejectOptions { requeue: false })
            .await?;
    }
    for tag in told.give_back {
        let options = BasicNackOptions {
            multiple: false,
            requeue: true,
        };
        channel.basic_nack(tag, options).await?;
    }
    if let Some(tag) = told.ack_up_to {
        channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
    }
    for tag in told.ack {
        channel
            .basic_ack(tag, BasicAckOptions { multiple: false })
            .await?;
    }
    Ok(())
}
