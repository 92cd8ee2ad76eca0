//! Announces transactions: all at once, each confirmed by the broker.
//!
//! - Announced is what came back as `Ack(None)`, and nothing else. `Ack(Some)` is a message that found no
//!   queue and was returned, or one that merely stood next to such a message: lapin pairs them by order of
//!   arrival, so what was returned is known by its own id.
//! - Nothing waits for ever: not for a connection, a channel, a turn, a write or a confirmation. After 5 s
//!   without progress the call ends. Its connection stays: it may be this one queue that has no leader.
//! - A crash loses what was not confirmed; the store still has it marked as to be announced.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use tokio::time::Instant;

use super::channels::Lease;
use super::connect::told;
use super::link::{Link, STALL};
use super::message::properties;
use super::topology::{Created, Topology};
use crate::domain::{LedgerName, Timestamp, TransactionId};
use crate::failpoint;
use crate::queue::{QueueError, Traces};

/// Messages that await their confirmation, for one call. Enough to keep the broker's disk busy.
const WINDOW: usize = 512;

/// The longest that a call takes, also with progress, and with all that it waits for. `lost_before` counts on less than 10 s.
pub(super) const LONGEST: Duration = Duration::from_secs(8);

const REFUSAL_PAUSE: Duration = Duration::from_millis(250);

type Answer = lapin::Result<Confirmation>;
type Awaited<'c> = Pin<Box<dyn Future<Output = Answer> + Send + 'c>>;

/// One call.
pub(super) struct Announcement<'a> {
    pub(super) link: &'a Link,
    pub(super) topology: &'a Topology,
    pub(super) created: &'a Created,
    pub(super) ledger: &'a LedgerName,
    pub(super) ids: &'a [TransactionId],
    pub(super) at: Timestamp,
    pub(super) traces: &'a Traces,
}

/// What is known so far.
struct Tally {
    confirmed: Vec<bool>,
    /// By message id.
    returned: HashSet<String>,
    refused: usize,
}

impl Announcement<'_> {
    /// Answers which of the ids the broker has for good, before `longest`.
    pub(super) async fn publish(&self, longest: Instant) -> Result<Vec<bool>, QueueError> {
        let mut tally = Tally {
            confirmed: vec![false; self.ids.len()],
            returned: HashSet::new(),
            refused: 0,
        };
        let mut trouble = self.rounds(longest, &mut tally).await.err();
        if trouble.is_none() && tally.refused > 0 {
            trouble = Some(QueueError(format!(
                "the broker did not take {} messages",
                tally.refused
            )));
        }
        match trouble {
            // Those that are confirmed are, whatever became of the others.
            Some(trouble) if !tally.confirmed.contains(&true) => Err(trouble),
            _ => Ok(tally.confirmed),
        }
    }

    /// Publishes; and once more what found no queue, after declaring it again, or was refused: a queue that is
    /// just being made refuses for a moment.
    async fn rounds(&self, longest: Instant, tally: &mut Tally) -> Result<(), QueueError> {
        let all: Vec<usize> = (0..self.ids.len()).collect();
        self.round(&all, longest, tally).await?;
        if !tally.returned.is_empty() {
            tracing::warn!(ledger = %self.ledger, "the queue was gone; declaring it again");
            self.link.channels.set_declared(self.ledger, false);
        } else if tally.refused > 0 {
            tokio::time::sleep(REFUSAL_PAUSE).await;
        } else {
            return Ok(());
        }
        let again: Vec<usize> = (0..self.ids.len()).filter(|at| !tally.confirmed[*at]).collect();
        tally.returned.clear();
        tally.refused = 0;
        self.round(&again, longest, tally).await
    }

    async fn round(&self, wanted: &[usize], longest: Instant, tally: &mut Tally) -> Result<(), QueueError> {
        self.declare(longest).await?;
        let mut lease = self
            .soon(longest, self.link.channels.take(self.link))
            .await?
            .map_err(|error| QueueError(told(&error)))?;
        let result = self.send(&mut lease, wanted, longest, tally).await;
        // A returned message may have been paired with the confirmation of another.
        for index in wanted.iter().filter(|_| !tally.returned.is_empty()) {
            if tally.returned.contains(&self.ids[*index].to_string()) {
                tally.confirmed[*index] = false;
            }
        }
        result
    }

    async fn declare(&self, longest: Instant) -> Result<(), QueueError> {
        if self.link.channels.is_declared(self.ledger) {
            return Ok(());
        }
        let declaring = async {
            let _alone = self.link.channels.declaring.lock().await;
            if self.link.channels.is_declared(self.ledger) {
                return Ok(());
            }
            self.topology.declare(&self.link.connection, self.created).await?;
            self.link.channels.set_declared(self.ledger, true);
            Ok(())
        };
        self.soon(longest, declaring).await?.map_err(QueueError)
    }

    /// Bounds what should take a moment.
    async fn soon<T>(&self, longest: Instant, work: impl Future<Output = T>) -> Result<T, QueueError> {
        let limit = longest.min(Instant::now() + STALL);
        self.link.within(limit, true, work).await
    }

    async fn send(
        &self,
        lease: &mut Lease<'_>,
        wanted: &[usize],
        longest: Instant,
        tally: &mut Tally,
    ) -> Result<(), QueueError> {
        lease.begin();
        let Some(channel) = lease.channel() else {
            return Ok(());
        };
        let mut waiting: VecDeque<(usize, Awaited<'_>)> = VecDeque::with_capacity(WINDOW);
        let mut rest = wanted.iter().copied();
        let mut done = false;
        loop {
            // Polled once, a message is handed to lapin. Nobody is woken for it until it is the oldest.
            while !done && waiting.len() < WINDOW {
                let Some(index) = rest.next() else {
                    done = true;
                    break;
                };
                let mut awaited = self.hand_over(channel, index);
                match glance(&mut awaited) {
                    Poll::Ready(answer) => tally.note(index, answer)?,
                    Poll::Pending => waiting.push_back((index, awaited)),
                }
            }
            failpoint::reached("announce-before-confirm");
            // Confirmations come nearly in order: to wait for the oldest is to wait for most of them.
            let Some((index, oldest)) = waiting.front_mut() else {
                break;
            };
            let answer = self.soon(longest, oldest).await?;
            tally.note(*index, answer)?;
            waiting.pop_front();
            while let Some((index, next)) = waiting.front_mut() {
                let Poll::Ready(answer) = glance(next) else { break };
                tally.note(*index, answer)?;
                waiting.pop_front();
            }
        }
        drop(waiting);
        lease.finish();
        Ok(())
    }

    fn hand_over<'c>(&self, channel: &'c Channel, index: usize) -> Awaited<'c> {
        let id = self.ids[index];
        let text = id.to_string();
        let properties = properties(&text, self.at, self.traces.get(&id));
        let queue = self.topology.queue();
        Box::pin(async move {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let exchange = ShortString::default();
            let confirm = channel
                .basic_publish(exchange, queue, options, text.as_bytes(), properties)
                .await?;
            confirm.await
        })
    }
}

impl Tally {
    fn note(&mut self, index: usize, answer: Answer) -> Result<(), QueueError> {
        match answer {
            Ok(Confirmation::Ack(None)) => self.confirmed[index] = true,
            Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) => {
                self.returned.extend(message_id(&message));
            }
            Ok(Confirmation::Nack(None) | Confirmation::NotRequested) => self.refused += 1,
            Err(error) => return Err(QueueError(told(&error))),
        }
        Ok(())
    }
}

fn message_id(message: &BasicReturnMessage) -> Option<String> {
    message.properties.message_id().as_ref().map(ToString::to_string)
}

/// Looks whether it is ready, without being woken when it is.
fn glance<T>(awaited: &mut Pin<Box<dyn Future<Output = T> + Send + '_>>) -> Poll<T> {
    awaited.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
