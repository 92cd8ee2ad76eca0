//! The stream of blocks, from which all outcomes come.
//!
//! Invariants:
//! - No gap: after whatever interruption, on whatever peer, the stream goes on with the block after the last one
//!   that was passed on.
//! - It begins one block early. That block exists, so the first answer comes at once and shows that the stream is
//!   up; a peer that does not send it is behind, or has another chain.
//! - A stream that brings nothing although something was submitted is taken from the next peer.
//!
//! What is told twice does no harm. After a crash it begins where the checkpoint says, which is stored only after
//! the outcomes before it are.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::link::{LARGEST_MESSAGE, Link};
use super::peers::Line;
use super::proposal;
use super::verdict::verdict;
use crate::domain::{Cause, Checkpoint, LedgerTxId, Outcome};
use crate::fabric::proto::common::{HeaderType, Status};
use crate::fabric::proto::orderer::{SeekNewest, seek_position};
use crate::fabric::proto::protos::deliver_client::DeliverClient;
use crate::fabric::proto::protos::{DeliverResponse, FilteredBlock, deliver_response};
use crate::ledger::{Outcomes, Settled};

/// Blocks that may wait for a slow reader; then the peer waits.
const WAITING: usize = 64;

/// How long a peer may take for a block that it should have.
const FIRST: Duration = Duration::from_secs(5);

/// How often it is asked whether the stream stalls, and the shortest pause before it is opened again.
const TICK: Duration = Duration::from_millis(250);

/// Longest pause before it is opened again.
const LONGEST: Duration = Duration::from_secs(5);

/// Since when somebody waits for a block.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Since>);

#[derive(Default)]
struct Since {
    moment: Option<Instant>,
    /// How often somebody began to wait.
    times: u64,
}

impl Waiting {
    fn since(&self) -> std::sync::MutexGuard<'_, Since> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is submitted. The answer is for [`Waiting::cancel`].
    pub(super) fn begin(&self) -> u64 {
        let mut since = self.since();
        since.moment.get_or_insert_with(Instant::now);
        since.times += 1;
        since.times
    }

    /// It was not submitted after all. If others began since, they still wait.
    pub(super) fn cancel(&self, begun: u64) {
        let mut since = self.since();
        if since.times == begun {
            since.moment = None;
        }
    }

    /// A block came.
    fn end(&self) {
        self.since().moment = None;
    }

    fn longer_than(&self, limit: Duration) -> bool {
        self.since().moment.is_some_and(|since| since.elapsed() > limit)
    }
}

/// Streams outcomes from the block that `from` names, until the stream is dropped.
pub(super) fn follow(link: Arc<Link>, from: Option<Checkpoint>) -> Outcomes {
    let (told, outcomes) = mpsc::channel(WAITING);
    let next = from.map(|checkpoint| checkpoint.0).or(link.settings.start_block);
    let follower = Follower {
        link: link.clone(),
        told,
        next,
        peer: 0,
        silent: false,
    };
    link.tasks.spawn(follower.run());
    ReceiverStream::new(outcomes).boxed()
}

struct Follower {
    link: Arc<Link>,
    told: mpsc::Sender<Settled>,
    /// The block to go on with; `None` is the newest.
    next: Option<u64>,
    /// The peer to ask first.
    peer: usize,
    /// Whether trouble was told already.
    silent: bool,
}

impl Follower {
    async fn run(mut self) {
        let mut pause = TICK;
        loop {
            let told = self.told.clone();
            let before = self.next;
            let cause = tokio::select! {
                // Nobody listens any more.
                () = told.closed() => return,
                cause = self.stream() => cause,
            };
            if self.next != before {
                pause = TICK;
            }
            if !std::mem::replace(&mut self.silent, true) {
                tracing::warn!(channel = self.link.settings.channel, %cause, next_block = self.next, "the block stream was interrupted; it is opened again");
            }
            tokio::select! {
                () = told.closed() => return,
                () = tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())) => {}
            }
            pause = (pause * 2).min(LONGEST);
        }
    }

    /// Passes blocks on until the stream ends. Answers why it did.
    async fn stream(&mut self) -> Cause {
        let mut line = match self.link.peers.line_from(self.peer).await {
            Ok(line) => line,
            Err(cause) => return cause,
        };
        self.peer = line.peer;
        let mut changes = self.link.wallet.changes();
        let cause = tokio::select! {
            cause = self.read(&mut line) => cause,
            _ = changes.changed() => return Cause::new("RENEWED", "the certificates were replaced"),
        };
        self.peer = line.peer + 1;
        cause
    }

    async fn read(&mut self, line: &mut Line) -> Cause {
        let start = match self.next {
            Some(next) => proposal::block(next.saturating_sub(1)),
            None => seek_position::Type::Newest(SeekNewest {}),
        };
        let opened = async {
            let mut blocks = open(&self.link, line, start, proposal::block(u64::MAX)).await?;
            let first = next_block(&mut blocks).await?;
            Ok::<_, Cause>((blocks, first))
        };
        let (mut blocks, first) = match tokio::time::timeout(FIRST, opened).await {
            Ok(Ok(opened)) => opened,
            // A block far beyond the end of its chain is refused at once; the one after the end is waited for.
            Ok(Err(cause)) if cause.code != Status::NotFound.as_str_name() => return cause,
            Ok(Err(_)) | Err(_) => return self.look_for_newest(line).await,
        };
        if std::mem::take(&mut self.silent) {
            tracing::info!(
                channel = self.link.settings.channel,
                peer = self.link.peers.name(line.peer),
                "the block stream is back"
            );
        }
        self.link.waiting.end();
        if let Err(cause) = self.pass_on(first).await {
            return cause;
        }
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                block = next_block(&mut blocks) => match block {
                    Ok(block) => {
                        self.link.waiting.end();
                        if let Err(cause) = self.pass_on(block).await {
                            return cause;
                        }
                    }
                    Err(cause) => return cause,
                },
                _ = tick.tick() => {
                    if self.link.waiting.longer_than(self.link.settings.stall_after) {
                        // The next peer gets as long.
                        self.link.waiting.end();
                        let limit = self.link.settings.stall_after;
                        return Cause::new("STALLED", format!("no block came within {limit:?} after a submission"));
                    }
                }
            }
        }
    }

    /// The peer did not send a block that should be there. If its chain ends before that, it is followed from its
    /// end: either it is behind, and nothing is missed, or it is another chain, of which nothing is known.
    async fn look_for_newest(&mut self, line: &Line) -> Cause {
        let name = self.link.peers.name(line.peer).to_owned();
        match newest(&self.link, line).await {
            Ok(newest) if self.next.is_some_and(|next| newest + 1 < next) => {
                let wanted = self.next.unwrap_or_default();
                self.next = Some(newest);
                Cause::new(
                    "SHORTER_CHAIN",
                    format!(
                        "the newest block of {name} is {newest}, and {wanted} was to come next; if the network was not made anew, this peer is behind"
                    ),
                )
            }
            Ok(newest) => Cause::new(
                "STALLED",
                format!("{name} sends no blocks, although its newest is {newest}"),
            ),
            Err(cause) => cause,
        }
    }

    /// Tells the outcomes of a block.
    async fn pass_on(&mut self, block: FilteredBlock) -> Result<(), Cause> {
        let number = block.number;
        let settled = settled(block, &self.link.settings.channel, self.next)?;
        let told = self.told.send(settled).await;
        told.map_err(|_| Cause::new("CLOSED", "nobody listens"))?;
        // Only now: a block that was dropped on its way comes again.
        self.next = Some(number + 1);
        self.link.reached.fetch_max(number, Ordering::Relaxed);
        Ok(())
    }
}

/// The outcomes in a block of `channel`, where `next` is to come or the one before it.
pub(super) fn settled(block: FilteredBlock, channel: &str, next: Option<u64>) -> Result<Settled, Cause> {
    let number = block.number;
    // The block before the one that was asked for only shows that the stream is up.
    let known = next.is_some_and(|next| next == number.saturating_add(1));
    let fits = known || next.is_none_or(|next| next == number);
    if !fits || number == u64::MAX || block.channel_id != channel {
        let words = format!(
            "block {number} of {:?} came instead of {next:?}",
            block.channel_id
        );
        return Err(Cause::new("STRANGE_BLOCK", words));
    }
    let transactions = block
        .filtered_transactions
        .into_iter()
        .filter(|transaction| !known && transaction.r#type == HeaderType::EndorserTransaction as i32);
    let outcomes = transactions.filter_map(|transaction| {
        let tx_id = LedgerTxId(transaction.txid);
        let outcome = verdict(transaction.tx_validation_code, &tx_id, number)?;
        Some((tx_id, outcome))
    });
    let mut outcomes: Vec<_> = outcomes.collect();
    // Of two envelopes with one id in a block, the second may be the valid one, if the first was badly endorsed.
    outcomes.sort_by_key(|(_, outcome)| !matches!(outcome, Outcome::Committed(_)));
    Ok(Settled {
        outcomes,
        checkpoint: Some(Checkpoint(number + 1)),
    })
}

/// The number of a peer's newest block.
///
/// # Errors
/// Why it does not tell.
pub(super) async fn newest(link: &Link, line: &Line) -> Result<u64, Cause> {
    let newest = || seek_position::Type::Newest(SeekNewest {});
    let asked = async {
        let mut blocks = open(link, line, newest(), newest()).await?;
        next_block(&mut blocks).await
    };
    let late = |_| {
        Cause::new(
            "TIMEOUT",
            format!("the peer did not send its newest block within {FIRST:?}"),
        )
    };
    let block = tokio::time::timeout(FIRST, asked).await.map_err(late)??;
    Ok(block.number)
}

/// Opens a stream of blocks. The peer answers only with the first block.
async fn open(
    link: &Link,
    line: &Line,
    start: seek_position::Type,
    stop: seek_position::Type,
) -> Result<Streaming<DeliverResponse>, Cause> {
    let keys = link.wallet.keys();
    let envelope = link.sender(&keys).ask_blocks(start, stop);
    // Our side stays open, or the peer takes it for a hang-up.
    let asking = stream::iter([envelope]).chain(stream::pending());
    let mut client = DeliverClient::new(line.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE);
    match client.deliver_filtered(asking).await {
        Ok(answer) => Ok(answer.into_inner()),
        Err(status) => Err(link.lost(line, &status)),
    }
}

async fn next_block(blocks: &mut Streaming<DeliverResponse>) -> Result<FilteredBlock, Cause> {
    let answer = match blocks.message().await {
        Ok(Some(answer)) => answer,
        Ok(None) => return Err(Cause::new("ENDED", "the peer ended the block stream")),
        Err(status) => {
            return Err(Cause::new(
                "LOST",
                format!("{:?}: {}", status.code(), status.message()),
            ));
        }
    };
    filtered(answer)
}

/// The block in an answer.
pub(super) fn filtered(answer: DeliverResponse) -> Result<FilteredBlock, Cause> {
    match answer.r#type {
        Some(deliver_response::Type::FilteredBlock(block)) => Ok(block),
        Some(deliver_response::Type::Status(status)) => Err(refused(status)),
        _ => Err(Cause::new(
            "STRANGE_ANSWER",
            "the peer sent something that is no filtered block",
        )),
    }
}

fn refused(status: i32) -> Cause {
    let status = Status::try_from(status).unwrap_or(Status::Unknown);
    let words = match status {
        Status::Forbidden => {
            "the peer does not let this identity read the channel's blocks; its organisation has to be a reader of the channel, and its certificate valid"
        }
        Status::NotFound => "the peer knows no such channel, or has no such block",
        Status::BadRequest => {
            "the peer cannot use the request; is the clock right, and is a client certificate needed for TLS?"
        }
        _ => "the peer ended the block stream",
    };
    Cause::new(status.as_str_name(), words)
}
