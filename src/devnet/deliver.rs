//! The Deliver service of a peer: streams of blocks.
//!
//! A client asks for a range on the stream, gets its blocks and then a status; after a success it may ask for another
//! range on the same stream. Whatever is wrong with a request comes as a status message, never as a gRPC error.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::calls::guarded;
use super::events::{Blocks, holding};
use super::faults::Method;
use super::line::Knife;
use super::membership::Role;
use super::proposal::is_timely;
use super::{Devnet, blocks};
use crate::fabric::proto::common::{ChannelHeader, Envelope, Payload, SignatureHeader, Status as Verdict};
use crate::fabric::proto::orderer::SeekInfo;
use crate::fabric::proto::orderer::seek_info::SeekBehavior;
use crate::fabric::proto::orderer::seek_position::Type;
use crate::fabric::proto::protos::deliver_server::Deliver;
use crate::fabric::proto::protos::{BlockAndPrivateData, DeliverResponse, deliver_response};
use crate::ledger::simulator::StoredBlock;

/// Blocks that may wait for a slow client.
const AHEAD: usize = 4;

type Reply = Result<DeliverResponse, Status>;

/// In which form blocks are sent.
#[derive(Debug, Clone, Copy)]
enum Form {
    Whole,
    Filtered,
    WithPrivateData,
}

/// The service.
pub(super) struct DeliverService(pub(super) Arc<Devnet>);

/// A range of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    start: u64,
    /// The block after which the range is done; others are passed.
    stop: u64,
    /// Whether a block that is not there yet ends it.
    fail_if_not_ready: bool,
}

/// The range that `seek` means when `tip` is the last block. A start right after the tip has to be waited for; one
/// beyond that is not found.
fn range(seek: &SeekInfo, tip: u64) -> Result<Range, Verdict> {
    let (Some(from), Some(to)) = (&seek.start, &seek.stop) else {
        return Err(Verdict::BadRequest);
    };
    let start = match &from.r#type {
        Some(Type::Oldest(_)) => 0,
        Some(Type::Newest(_)) => tip,
        Some(Type::NextCommit(_)) => tip + 1,
        Some(Type::Specified(block)) if block.number <= tip + 1 => block.number,
        Some(Type::Specified(_)) | None => return Err(Verdict::NotFound),
    };
    let stop = match &to.r#type {
        Some(Type::Oldest(_)) => start,
        Some(Type::Newest(_)) if from == to => start,
        Some(Type::Newest(_)) => tip,
        Some(Type::Specified(block)) if block.number < start => return Err(Verdict::BadRequest),
        Some(Type::Specified(block)) => block.number,
        // Never resolved by a real peer, which then stops after block 0 or not at all.
        Some(Type::NextCommit(_)) | None => 0,
    };
    Ok(Range {
        start,
        stop,
        fail_if_not_ready: seek.behavior == SeekBehavior::FailIfNotReady as i32,
    })
}

/// The first block that `seek` means, if it means any.
#[cfg(any(test, fuzzing))]
pub(super) fn first_of(seek: &SeekInfo, tip: u64) -> Option<u64> {
    range(seek, tip).ok().map(|range| range.start)
}

impl DeliverService {
    /// Opens a stream, with the fault that it is due.
    async fn answer(
        &self,
        method: Method,
        request: Request<Streaming<Envelope>>,
        form: Form,
    ) -> Result<Response<BoxStream<'static, Reply>>, Status> {
        let knife = Knife::of(request.extensions());
        guarded(&self.0.faults, method, knife, self.open(request, form)).await
    }

    async fn open(
        &self,
        request: Request<Streaming<Envelope>>,
        form: Form,
    ) -> Result<Response<BoxStream<'static, Reply>>, Status> {
        let place = self.0.deliver_limit.enter()?;
        let (to, from) = mpsc::channel(AHEAD);
        let devnet = Arc::clone(&self.0);
        self.0
            .tasks
            .spawn(async move { serve(devnet, request.into_inner(), form, to).await });
        Ok(Response::new(holding(place, ReceiverStream::new(from).boxed())))
    }
}

/// Serves one range after another, until one fails or the client goes.
async fn serve(devnet: Arc<Devnet>, mut requests: Streaming<Envelope>, form: Form, to: mpsc::Sender<Reply>) {
    loop {
        let request = tokio::select! {
            request = requests.message() => request,
            () = to.closed() => return,
            () = devnet.stop.cancelled() => {
                let _gone = to.send(Err(devnet.stopping())).await;
                return;
            }
        };
        let Ok(Some(envelope)) = request else { return };
        let verdict = tokio::select! {
            verdict = send_range(&devnet, &envelope, form, &to) => verdict,
            () = to.closed() => return,
        };
        let (reply, goes_on) = match verdict {
            Ok(()) => (Ok(Verdict::Success), true),
            Err(Ended::Verdict(verdict)) => (Ok(verdict), false),
            Err(Ended::Broken(status)) => (Err(status), false),
            Err(Ended::Gone) => return,
        };
        let reply = reply.map(|verdict| DeliverResponse {
            r#type: Some(deliver_response::Type::Status(verdict as i32)),
        });
        if to.send(reply).await.is_err() || !goes_on {
            return;
        }
    }
}

/// Why a range was not served to its end.
enum Ended {
    /// With a status message.
    Verdict(Verdict),
    /// With a gRPC error: the devnet stops.
    Broken(Status),
    /// The client is gone.
    Gone,
}

impl From<Verdict> for Ended {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

async fn send_range(
    devnet: &Arc<Devnet>,
    envelope: &Envelope,
    form: Form,
    to: &mpsc::Sender<Reply>,
) -> Result<(), Ended> {
    let payload = Payload::decode(envelope.payload.as_slice()).map_err(|_| Verdict::BadRequest)?;
    let header = payload.header.ok_or(Verdict::BadRequest)?;
    let channel = ChannelHeader::decode(header.channel_header.as_slice()).map_err(|_| Verdict::BadRequest)?;
    let creator =
        SignatureHeader::decode(header.signature_header.as_slice()).map_err(|_| Verdict::BadRequest)?;
    if !is_timely(&channel, devnet.clock.now()) {
        return Err(Verdict::BadRequest.into());
    }
    if channel.channel_id != devnet.channel {
        return Err(Verdict::NotFound.into());
    }
    let seek = SeekInfo::decode(payload.data.as_slice()).map_err(|_| Verdict::BadRequest)?;
    let member = devnet
        .members
        .identify(&creator.creator)
        .ok_or(Verdict::Forbidden)?;
    if member.role == Role::Unknown || !member.signed(&envelope.payload, &envelope.signature) {
        return Err(Verdict::Forbidden.into());
    }
    let range = range(&seek, devnet.engine.height())?;
    let mut blocks = Blocks::from(devnet, range.start);
    for number in range.start.. {
        if range.fail_if_not_ready && number > devnet.engine.height() {
            return Err(Verdict::NotFound.into());
        }
        let block = blocks.next().await.map_err(Ended::Broken)?;
        if member.expired(devnet.clock.now()) {
            return Err(Verdict::Forbidden.into());
        }
        to.send(Ok(shape(devnet, &block, form)))
            .await
            .map_err(|_| Ended::Gone)?;
        if number == range.stop {
            break;
        }
    }
    Ok(())
}

fn shape(devnet: &Devnet, block: &StoredBlock, form: Form) -> DeliverResponse {
    use deliver_response::Type;
    let genesis = &devnet.genesis;
    DeliverResponse {
        r#type: Some(match form {
            Form::Whole => Type::Block(blocks::whole(block, genesis)),
            Form::Filtered => Type::FilteredBlock(blocks::filtered(block, genesis, &devnet.channel)),
            // There are no private collections.
            Form::WithPrivateData => Type::BlockAndPrivateData(BlockAndPrivateData {
                block: Some(blocks::whole(block, genesis)),
                ..BlockAndPrivateData::default()
            }),
        }),
    }
}

#[tonic::async_trait]
impl Deliver for DeliverService {
    type DeliverStream = BoxStream<'static, Reply>;

    async fn deliver(
        &self,
        request: Request<Streaming<Envelope>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        self.answer(Method::Deliver, request, Form::Whole).await
    }

    type DeliverFilteredStream = BoxStream<'static, Reply>;

    async fn deliver_filtered(
        &self,
        request: Request<Streaming<Envelope>>,
    ) -> Result<Response<Self::DeliverFilteredStream>, Status> {
        self.answer(Method::DeliverFiltered, request, Form::Filtered)
            .await
    }

    type DeliverWithPrivateDataStream = BoxStream<'static, Reply>;

    async fn deliver_with_private_data(
        &self,
        request: Request<Streaming<Envelope>>,
    ) -> Result<Response<Self::DeliverWithPrivateDataStream>, Status> {
        self.answer(Method::DeliverWithPrivateData, request, Form::WithPrivateData)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::proto::orderer::{
        SeekNewest, SeekNextCommit, SeekOldest, SeekPosition, SeekSpecified,
    };

    fn seek(start: Type, stop: Type) -> SeekInfo {
        let position = |kind| Some(SeekPosition { r#type: Some(kind) });
        SeekInfo {
            start: position(start),
            stop: position(stop),
            behavior: 0,
        }
    }

    fn at(number: u64) -> Type {
        Type::Specified(SeekSpecified { number })
    }

    #[test]
    fn positions_mean_what_a_real_peer_takes_them_for() {
        let oldest = || Type::Oldest(SeekOldest {});
        let newest = || Type::Newest(SeekNewest {});
        let next = || Type::NextCommit(SeekNextCommit {});
        let found = |start, stop| range(&seek(start, stop), 7).map(|range| (range.start, range.stop));
        assert_eq!(found(oldest(), at(u64::MAX)), Ok((0, u64::MAX)));
        assert_eq!(found(newest(), newest()), Ok((7, 7)));
        assert_eq!(found(at(3), newest()), Ok((3, 7)));
        assert_eq!(found(at(8), newest()), Ok((8, 7)), "waits, and never stops");
        assert_eq!(found(next(), at(u64::MAX)), Ok((8, u64::MAX)));
        assert_eq!(found(oldest(), next()), Ok((0, 0)), "only block 0");
        assert_eq!(found(at(5), oldest()), Ok((5, 5)));
        assert_eq!(found(at(5), at(2)), Err(Verdict::BadRequest));
        assert_eq!(found(at(9), at(u64::MAX)), Err(Verdict::NotFound));
        assert_eq!(found(at(9), newest()), Err(Verdict::NotFound));
        assert_eq!(range(&SeekInfo::default(), 7), Err(Verdict::BadRequest));
    }
}
