//! The queues at the broker: one for each ledger, and one beside it for what cannot be worked on.
//!
//! Declaring is repeated whenever a queue may be gone, and changes nothing where it is there. Both kinds of
//! queue survive a restart of the broker; a quorum queue also the loss of a node.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ErrorKind, Queue};

use super::connect::told;
use crate::clock::{Clock, SystemClock};
use crate::config::{QueueType, RabbitSettings};
use crate::domain::{LedgerName, Timestamp};
use crate::failpoint;

/// RabbitMQ 4 gives a quorum queue a limit of 20 and throws away what was delivered more often. Here a
/// redelivery is no sign of trouble: the store decides what becomes of a transaction. (-1, no limit at all,
/// is understood by RabbitMQ 4 only.)
const DELIVERY_LIMIT: i32 = 1_000_000_000;

/// A queue that is not there may have been deleted a moment ago. RabbitMQ 3 looks for its consumers then: if the
/// name is taken again by that time, it puts them on the new queue, tells nobody and delivers nothing to them,
/// and as the active one such a consumer stops its ledger. If it is not, they are told that they are at their end.
/// There is no way to ask for that (RabbitMQ 4 always does it), so the name stays free for so long.
const FAREWELL: Duration = Duration::from_millis(500);

/// What this process knows of queues that it made anew.
#[derive(Default)]
pub(super) struct Created(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Nothing that was announced before is in the queue.
    since: Option<Timestamp>,
    /// The moment that what is being announced now bears.
    announcing: Option<Timestamp>,
}

impl Created {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that bears this moment is being announced, from now on; nothing is, if it is `None`.
    pub(super) fn announcing(&self, at: Option<Timestamp>) {
        self.known().announcing = at;
    }

    /// Nothing that was announced before this moment was in the queue, if it was made anew and nobody asked since.
    pub(super) fn take(&self) -> Option<Timestamp> {
        self.known().since.take()
    }
}

/// The queues of one ledger.
#[derive(Clone)]
pub(super) struct Topology {
    queue: ShortString,
    dead: ShortString,
    kind: QueueType,
}

impl Topology {
    pub(super) fn new(settings: &RabbitSettings, ledger: &LedgerName) -> Self {
        let queue = format!("{}.{ledger}", settings.prefix);
        Self {
            dead: format!("{queue}.dead").into(),
            queue: queue.into(),
            kind: settings.queue_type,
        }
    }

    /// The queue that the worker takes from.
    pub(super) fn queue(&self) -> ShortString {
        self.queue.clone()
    }

    /// Sees to it that both queues are there. If the worker's was not, nothing that was announced before is in it, but
    /// what is being announced meanwhile may be: whoever announces makes it as well.
    pub(super) async fn declare(&self, connection: &Connection, created: &Created) -> Result<(), String> {
        let announcing = created.known().announcing;
        let begun = SystemClock.now();
        // Channels of their own: the broker closes the first if there is no queue, the second if it refuses.
        let open = async || connection.create_channel().await.map_err(|error| told(&error));
        let found = self.look(&open().await?).await.map_err(|error| told(&error))?;
        if found.is_none() {
            tokio::time::sleep(FAREWELL).await;
        }
        self.create(&open().await?).await?;
        failpoint::reached("queue-after-declare");
        if found.is_none() {
            created.known().since = Some(announcing.map_or(begun, |at| at.min(begun)));
        }
        Ok(())
    }

    async fn create(&self, channel: &Channel) -> Result<(), String> {
        let mut arguments = FieldTable::default();
        let mut text = |name: &str, value: &str| {
            arguments.insert(name.into(), AMQPValue::LongString(value.into()));
        };
        text("x-queue-type", self.kind.as_str());
        let dead = text_only(&[("x-queue-type", self.kind.as_str())]);
        text("x-dead-letter-exchange", "");
        text("x-dead-letter-routing-key", self.dead.as_str());
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        if self.kind == QueueType::Quorum {
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
        }
        // The dead letters' first: what is rejected must have somewhere to go.
        for (name, arguments) in [(&self.dead, dead), (&self.queue, arguments)] {
            let options = QueueDeclareOptions {
                durable: true,
                ..QueueDeclareOptions::default()
            };
            channel
                .queue_declare(name.clone(), options, arguments)
                .await
                .map_err(|error| refusal(name, &error))?;
        }
        Ok(())
    }

    /// Asks the broker about the worker's queue; `None` if there is no such queue, which closes the channel.
    pub(super) async fn look(&self, channel: &Channel) -> Result<Option<Queue>, lapin::Error> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        match channel
            .queue_declare(self.queue(), options, FieldTable::default())
            .await
        {
            Ok(queue) => Ok(Some(queue)),
            Err(error) if is_soft(&error, &AMQPSoftError::NOTFOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn text_only(entries: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    table
}

fn is_soft(error: &lapin::Error, kind: &AMQPSoftError) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(told) if matches!(told.kind(), AMQPErrorKind::Soft(soft) if soft == kind))
}

fn refusal(name: &ShortString, error: &lapin::Error) -> String {
    let what = told(error);
    if is_soft(error, &AMQPSoftError::PRECONDITIONFAILED) {
        format!(
            "the queue {name} exists with other properties ({what}): delete it with `rabbitmqctl delete_queue \
             {name}`, what waited in it is announced again; or set another queue.prefix or queue.queue_type"
        )
    } else if is_soft(error, &AMQPSoftError::ACCESSREFUSED) {
        format!("the broker does not let this user declare the queue {name}: {what}")
    } else {
        format!("cannot declare the queue {name}: {what}")
    }
}
