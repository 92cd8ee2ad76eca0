//! The stream of a chaincode's events: those of valid transactions, block after block.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, Stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::{Devnet, blocks};
use crate::domain::LedgerTxId;
use crate::fabric::proto::gateway::{ChaincodeEventsRequest, ChaincodeEventsResponse};
use crate::fabric::proto::orderer::seek_position::Type;
use crate::ledger::simulator::StoredBlock;

/// Every durable block from `next` on, each as soon as there is one. Ends with the devnet.
pub(super) struct Blocks {
    devnet: Arc<Devnet>,
    heights: watch::Receiver<u64>,
    next: u64,
}

impl Blocks {
    /// From block `next` on.
    pub(super) fn from(devnet: &Arc<Devnet>, next: u64) -> Self {
        Self {
            heights: devnet.engine.heights(),
            devnet: Arc::clone(devnet),
            next,
        }
    }

    /// The next block, as soon as there is one and streams flow. Cancel safe.
    ///
    /// # Errors
    /// What to tell the client: the devnet stops, or its disk fails.
    pub(super) async fn next(&mut self) -> Result<StoredBlock, Status> {
        let next = self.next;
        let ready = async {
            let arrived = self.heights.wait_for(|height| *height >= next).await.is_ok();
            super::faults::until_on(self.devnet.faults.flowing()).await;
            arrived
        };
        tokio::select! {
            arrived = ready => if !arrived { return Err(self.devnet.stopping()) },
            () = self.devnet.stop.cancelled() => return Err(self.devnet.stopping()),
        }
        let block = self.devnet.engine.block(next).await;
        let block = block.map_err(|error| Status::aborted(error.to_string()))?;
        let block = block.ok_or_else(|| Status::aborted(format!("block {next} cannot be read")))?;
        self.next += 1;
        Ok(block)
    }
}

/// The events that `request` asks for.
///
/// # Errors
/// A position that events cannot start at.
pub(super) fn stream(
    devnet: &Arc<Devnet>,
    request: ChaincodeEventsRequest,
) -> Result<BoxStream<'static, Result<ChaincodeEventsResponse, Status>>, Status> {
    let position = request.start_position.and_then(|position| position.r#type);
    let next = devnet.engine.height() + 1;
    let mut after = Some(request.after_transaction_id).filter(|id| !id.is_empty());
    let known = after
        .as_ref()
        .and_then(|id| devnet.engine.settled(&LedgerTxId(id.clone())).ok().flatten());
    let start = match (known, position) {
        (Some(settled), _) => settled.block,
        (None, None | Some(Type::NextCommit(_))) => next,
        (None, Some(Type::Specified(block))) => block.number,
        (None, Some(Type::Newest(_))) => return Err(no_start("SeekPosition_Newest")),
        (None, Some(Type::Oldest(_))) => return Err(no_start("SeekPosition_Oldest")),
    };
    let chaincode = request.chaincode_id;
    let matching = move |block: &StoredBlock| {
        let mut events = blocks::events(block);
        if let Some(id) = &after {
            // Nothing counts before the event of that transaction has been seen.
            let Some(at) = events.iter().position(|event| event.tx_id == *id) else {
                return Vec::new();
            };
            events.drain(..=at);
            after = None;
        }
        events.retain(|event| event.chaincode_id == chaincode);
        events
    };
    let state = (Blocks::from(devnet, start), matching, false);
    let stream = stream::unfold(state, async |(mut blocks, mut matching, ended)| {
        if ended {
            return None;
        }
        loop {
            let block = match blocks.next().await {
                Ok(block) => block,
                Err(status) => return Some((Err(status), (blocks, matching, true))),
            };
            let events = matching(&block);
            if !events.is_empty() {
                let block_number = block.number;
                let response = ChaincodeEventsResponse { events, block_number };
                return Some((Ok(response), (blocks, matching, false)));
            }
        }
    });
    Ok(stream.boxed())
}

fn no_start(name: &str) -> Status {
    Status::invalid_argument(format!("invalid start position type: *orderer.{name}"))
}

/// A stream that holds a place as long as it lives.
struct Holding<S> {
    stream: S,
    _place: OwnedSemaphorePermit,
}

impl<S: Stream + Unpin> Stream for Holding<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

/// `stream`, holding `place`.
pub(super) fn holding<T: 'static>(
    place: OwnedSemaphorePermit,
    stream: BoxStream<'static, T>,
) -> BoxStream<'static, T> {
    Holding {
        stream,
        _place: place,
    }
    .boxed()
}
