//! The stream of outcomes: every block from a checkpoint on, read off the chain as it gets there.
//!
//! Invariant: every block from the first one on is told once, in order, however slow the reader is. Nothing is
//! kept, so a crash costs nothing: the checkpoint is the number of the next block.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use super::outcome;
use super::peer::Peer;
use crate::domain::{Checkpoint, LedgerTxId, Outcome};
use crate::fabric::proto::protos::TxValidationCode;
use crate::kv::KvError;
use crate::ledger::simulator::block::Settled as Verdict;
use crate::ledger::{Outcomes, Settled};

/// Between two tries to read a block.
const PAUSE: Duration = Duration::from_secs(1);

/// What was not told yet.
struct Reader {
    /// Not kept alive by those who listen.
    peer: Weak<Peer>,
    heights: watch::Receiver<u64>,
    /// The next block to tell.
    next: u64,
}

/// Tells the outcomes of all blocks from the checkpoint on; without one, of those that are yet to come.
pub(super) fn outcomes(peer: &Arc<Peer>, from: Option<Checkpoint>) -> Outcomes {
    let end = peer.chain().height() + 1;
    let next = from.map_or(end, |checkpoint| checkpoint.0.clamp(1, end));
    let begin = Settled {
        outcomes: Vec::new(),
        checkpoint: Some(Checkpoint(next)),
    };
    let reader = Reader {
        peer: Arc::downgrade(peer),
        heights: peer.heights(),
        next,
    };
    let blocks = stream::unfold(reader, async |mut reader| Some((reader.tell().await?, reader)));
    stream::iter([begin]).chain(blocks).boxed()
}

impl Reader {
    /// The next block; `None` once the ledger is gone.
    async fn tell(&mut self) -> Option<Settled> {
        let next = self.next;
        self.heights.wait_for(|height| *height >= next).await.ok()?;
        loop {
            let peer = self.peer.upgrade()?;
            let read = tokio::task::spawn_blocking(move || told(&peer, next)).await;
            match read.unwrap_or_else(|error| Err(KvError::Disk(error.to_string()))) {
                Ok(outcomes) => {
                    self.next += 1;
                    return Some(Settled {
                        outcomes,
                        checkpoint: Some(Checkpoint(self.next)),
                    });
                }
                Err(error) => {
                    tracing::warn!(ledger.kind = "simulator", block = next, %error, "a block cannot be read");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// The final words in a block, in order. Of a repeat from further back, the chain tells; of one in this block, the
/// first. Blocks.
fn told(peer: &Peer, number: u64) -> Result<Vec<(LedgerTxId, Outcome)>, KvError> {
    let chain = peer.chain();
    let block = chain
        .block(number)?
        .ok_or_else(|| KvError::Damaged(format!("block {number} is missing")))?;
    let mut outcomes = Vec::with_capacity(block.entries.len());
    for entry in block.entries {
        let tx_id = entry.tx_id.clone();
        let verdict = match entry.code {
            TxValidationCode::DuplicateTxid => {
                chain.settled(&tx_id)?.filter(|original| original.block != number)
            }
            _ => Some(Verdict {
                block: number,
                entry: Arc::new(entry),
            }),
        };
        if let Some(verdict) = verdict {
            outcomes.push((tx_id, outcome(&verdict)?));
        }
    }
    Ok(outcomes)
}
