//! The receiving end of one ledger's queue, on a connection of its own: a queue that is out of order can make
//! the broker close the connection of whoever starts to consume it, which must not be the end of the others.
//!
//! It is used until it fails, and never comes back: when the queue is deleted, the channel closed or the
//! connection lost, `next` says so and the lane starts another one, which declares the queue again. What it
//! had in hand is then delivered to the next one, here or elsewhere; settling it here does nothing any more.
//! A crash is the same, only noticed by the broker.
//!
//! A task beside it receives, tells the broker what became of deliveries, and keeps up the proof of contact. It
//! ends with the consumer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery as Message;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::{FieldTable, ShortString};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connect::told;
use super::contact::Contact;
use super::hand::{Hand, Tag, Told};
use super::link::{Link, STALL};
use super::message;
use super::topology::{Created, Topology};
use crate::config::RabbitSettings;
use crate::domain::{Timestamp, TransactionId};
use crate::failpoint;
use crate::queue::{Acknowledge, Consumer, Delivery, QueueError, Settlement, Tenure};
use crate::telemetry::metrics::QueueMetrics;

/// How long the end of a consumer may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the consumer, its task and its deliveries share.
pub(super) struct Shared {
    hand: Mutex<Hand>,
    settled: Notify,
    contact: Contact,
    /// Its own. Questions about the queue may go through it as well.
    link: Link,
    /// When the last that was delivered had been announced, in milliseconds; 0 for none.
    last: AtomicU64,
    ended: CancellationToken,
    why: OnceLock<String>,
}

impl Shared {
    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection.
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    fn end(&self, why: &str) {
        self.why.get_or_init(|| why.to_owned());
        self.contact.end();
        self.ended.cancel();
    }

    /// Settles what was never delivered.
    #[cfg(test)]
    pub(super) fn settle_unknown(&self, tag: Tag, settlement: Settlement) {
        let mut hand = self.hand();
        hand.receive(tag, None);
        hand.settle(tag, settlement);
        drop(hand);
        self.settled.notify_one();
    }

    /// Whether the consumer still gets deliveries.
    pub(super) fn is_alive(&self) -> bool {
        !self.ended.is_cancelled()
    }

    /// When the last that was delivered had been announced. If something was, this consumer is the one of its
    /// queue that has deliveries.
    pub(super) fn last(&self) -> Option<Timestamp> {
        let last = self.last.load(Ordering::Relaxed);
        (last > 0).then(|| Timestamp::from_millis(last))
    }

    /// When the first announced of those that were delivered and are not settled was announced.
    pub(super) fn oldest_in_hand(&self) -> Option<Timestamp> {
        self.hand().oldest()
    }

    /// A message came in, whether or not anybody has asked for it yet.
    fn receive(&self, message: &Message) {
        let announced = message::announced_at(&message.properties);
        self.hand().receive(message.delivery_tag, announced);
        if let Some(announced) = announced {
            self.last.store(announced.as_millis(), Ordering::Relaxed);
        }
    }
}

/// Starts to consume on a connection of its own, within some seconds.
pub(super) async fn consume(
    link: Link,
    settings: &RabbitSettings,
    (topology, created): (Topology, &Created),
    metrics: QueueMetrics,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> Result<RabbitConsumer, QueueError> {
    let opening = async {
        topology.declare(&link.connection, created).await?;
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
            let contact = Contact::new(heartbeat(&link, settings), &channel);
            // What is delivered first may be sent on at once, so the proof has to be there.
            contact.ask(&channel, &topology).await?;
            Ok((channel, stream, contact))
        };
        opened.await.map_err(|error: lapin::Error| told(&error))
    };
    let limit = tokio::time::Instant::now() + STALL;
    let (channel, stream, contact) = link.within(limit, false, opening).await?.map_err(QueueError)?;
    let shared = Arc::new(Shared {
        hand: Mutex::new(Hand::new(settings.prefetch.get().into())),
        settled: Notify::new(),
        contact,
        link,
        last: AtomicU64::new(0),
        ended: CancellationToken::new(),
        why: OnceLock::new(),
    });
    let dropped = CancellationToken::new();
    let (received, inbox) = unbounded_channel();
    tasks.spawn(mind(
        (channel, stream),
        received,
        topology,
        metrics.clone(),
        Arc::clone(&shared),
        (dropped.clone(), stop.clone()),
    ));
    Ok(RabbitConsumer {
        inbox,
        shared,
        metrics,
        _dropped: dropped.drop_guard(),
    })
}

/// The broker may have insisted on a shorter one. With none at all it takes nobody for dead.
fn heartbeat(link: &Link, settings: &RabbitSettings) -> Duration {
    match link.connection.configuration().heartbeat() {
        0 => settings.heartbeat,
        agreed => settings.heartbeat.min(Duration::from_secs(agreed.into())),
    }
}

/// [`Consumer`] of one queue.
pub(super) struct RabbitConsumer {
    /// Never more than the prefetch.
    inbox: UnboundedReceiver<Message>,
    shared: Arc<Shared>,
    metrics: QueueMetrics,
    _dropped: DropGuard,
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, QueueError> {
        loop {
            let mut messages = Vec::new();
            tokio::select! {
                biased;
                () = self.shared.ended.cancelled() => {}
                _ = self.inbox.recv_many(&mut messages, max.max(1)) => {}
            }
            // From here to the return nothing waits, so a dropped future has taken nothing.
            let deliveries: Vec<_> = messages
                .into_iter()
                .filter_map(|message| self.receive(message))
                .collect();
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            if self.shared.ended.is_cancelled() {
                return Err(QueueError(self.shared.why.get().cloned().unwrap_or_default()));
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
    (channel, stream): (Channel, lapin::Consumer),
    received: UnboundedSender<Message>,
    topology: Topology,
    metrics: QueueMetrics,
    shared: Arc<Shared>,
    (dropped, stop): (CancellationToken, CancellationToken),
) {
    let why = tokio::select! {
        () = dropped.cancelled() => None,
        () = stop.cancelled() => Some("the queue was closed".to_owned()),
        why = shared.link.watch() => Some(why),
        why = forward(stream, &shared, received) => Some(why),
        why = shared.contact.keep(&channel, &topology, &metrics.depth) => Some(why),
        error = settle(&channel, &shared) => Some(told(&error)),
    };
    shared.end(why.as_deref().unwrap_or("the consumer was dropped"));
    if channel.status().connected() {
        let last = shared.hand().tell(Instant::now(), true);
        drop(tokio::time::timeout(GOODBYE, tell(&channel, last)).await);
    }
    // With the connection goes whatever the broker still holds for this consumer, even if it was silent.
    shared.link.hang_up().await;
}

/// Takes what lapin received. Done here and not when somebody asks, so that the end is known at once: a
/// consumer that the broker cancelled must not go on proving that it is one. Returns why it ended.
async fn forward(mut stream: lapin::Consumer, shared: &Shared, received: UnboundedSender<Message>) -> String {
    loop {
        match stream.next().await {
            Some(Ok(message)) => {
                shared.receive(&message);
                if received.send(message).is_err() {
                    return "the consumer was dropped".to_owned();
                }
            }
            Some(Err(error)) => return told(&error),
            None => return "the broker ended the delivery: the queue was deleted".to_owned(),
        }
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
        failpoint::reached("ack-before-told");
        channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        failpoint::reached("ack-after-told");
    }
    for tag in told.ack {
        channel
            .basic_ack(tag, BasicAckOptions { multiple: false })
            .await?;
    }
    Ok(())
}
