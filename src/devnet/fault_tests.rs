//! Faults on demand, and the Deliver service, over a socket.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Streaming};

use super::faults::{Action, Detail};
use super::testkit::{Client, Running, now};
use super::*;
use crate::fabric::proto::common::{Block, ChannelHeader, Envelope, HeaderType};
use crate::fabric::proto::orderer::seek_position::Type as Position;
use crate::fabric::proto::orderer::{SeekInfo, SeekOldest, SeekPosition, SeekSpecified};
use crate::fabric::proto::protos::DeliverResponse;
use crate::fabric::proto::protos::deliver_response::Type;
use crate::fabric::status::details;

fn fault(method: Method, action: Action) -> Fault {
    Fault {
        method,
        action,
        count: Some(1),
        probability: None,
    }
}

const SOON: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_call_goes_wrong_as_it_is_told_to() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    let add = |delta: &'static str| client.add("n", delta);

    let details_told = vec![Detail {
        address: "orderer.devnet:7050".into(),
        msp_id: "OrdererMSP".into(),
        message: "gone".into(),
    }];
    running.devnet.faults.add(fault(
        Method::Submit,
        Action::Refuse {
            code: Code::Unavailable as i32,
            message: "no orderers".into(),
            details: details_told,
        },
    ));
    let (id, envelope) = add("1").await;
    let error = client.submit(&envelope).await.expect_err("refused");
    assert_eq!(
        (error.code(), error.message()),
        (Code::Unavailable, "no orderers")
    );
    assert_eq!(details(&error)[0].msp_id, "OrdererMSP");
    let unknown = tokio::time::timeout(SOON, client.status(&id)).await;
    assert!(unknown.is_err(), "it was executed: {unknown:?}");

    running
        .devnet
        .faults
        .add(fault(Method::Submit, Action::DropReply));
    let silence = tokio::time::timeout(SOON, client.submit(&envelope)).await;
    assert!(silence.is_err(), "{silence:?}");
    assert_eq!(client.status(&id).await.expect("settled").result, 0);

    running
        .devnet
        .faults
        .add(fault(Method::Submit, Action::CloseAfter));
    let (id, envelope) = add("10").await;
    client
        .submit(&envelope)
        .await
        .expect_err("the connection is closed");
    assert_eq!(client.status(&id).await.expect("a new connection").result, 0);

    running
        .devnet
        .faults
        .add(fault(Method::Submit, Action::CloseBefore));
    let (id, envelope) = add("100").await;
    client
        .submit(&envelope)
        .await
        .expect_err("the connection is closed");
    let unknown = tokio::time::timeout(SOON, client.status(&id)).await;
    assert!(unknown.is_err(), "it was executed: {unknown:?}");
    assert_eq!(
        client.evaluate("counter", &["Get", "n"]).await.expect("asked"),
        "11"
    );

    running
        .devnet
        .faults
        .add(fault(Method::Evaluate, Action::Delay { ms: 200 }));
    let start = std::time::Instant::now();
    client.evaluate("counter", &["Get", "n"]).await.expect("asked");
    assert!(start.elapsed() >= Duration::from_millis(200));
    running.stop().await;
}

#[tokio::test]
async fn blocks_wait_while_cutting_is_paused() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    running.devnet.faults.cutting().send_replace(false);
    let (id, envelope) = client.add("n", "1").await;
    client.submit(&envelope).await.expect("taken");
    assert!(tokio::time::timeout(SOON, client.status(&id)).await.is_err());
    running.devnet.faults.cutting().send_replace(true);
    assert_eq!(client.status(&id).await.expect("settled").result, 0);
    // A shutdown stores what waits.
    running.devnet.faults.cutting().send_replace(false);
    let (id, envelope) = client.add("n", "1").await;
    client.submit(&envelope).await.expect("taken");
    let running = Running::start_in(running.stop().await, |_| {}).await;
    let client = running.client(1).await;
    assert_eq!(client.status(&id).await.expect("settled").result, 0);
    running.stop().await;
}

fn header() -> ChannelHeader {
    ChannelHeader {
        r#type: HeaderType::DeliverSeekInfo as i32,
        timestamp: Some(now()),
        channel_id: "mychannel".into(),
        ..ChannelHeader::default()
    }
}

fn seek(stop: u64) -> SeekInfo {
    let position = |kind| Some(SeekPosition { r#type: Some(kind) });
    SeekInfo {
        start: position(Position::Oldest(SeekOldest {})),
        stop: position(Position::Specified(SeekSpecified { number: stop })),
        behavior: 0,
    }
}

async fn deliver(client: &Client, requests: Vec<Envelope>) -> Streaming<DeliverResponse> {
    // A client that keeps its half of the stream open.
    let requests = futures_util::StreamExt::chain(
        tokio_stream::iter(requests),
        futures_util::stream::pending::<Envelope>(),
    );
    client
        .deliver
        .clone()
        .deliver(requests)
        .await
        .expect("a stream")
        .into_inner()
}

async fn status(stream: &mut Streaming<DeliverResponse>) -> i32 {
    match stream
        .message()
        .await
        .expect("a message")
        .expect("not the end")
        .r#type
    {
        Some(Type::Status(status)) => status,
        other => panic!("no status: {other:?}"),
    }
}

#[tokio::test]
async fn wrong_requests_for_blocks_get_a_status() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    let good = seek(0).encode_to_vec();
    let mut late = header();
    late.timestamp = None;
    let mut elsewhere = header();
    elsewhere.channel_id = "nosuch".into();
    let mut forged = client.envelope(&header(), good.clone());
    forged.signature[12] ^= 1;
    for (envelope, expected) in [
        (Envelope::default(), 400),
        (client.envelope(&late, good.clone()), 400),
        (client.envelope(&elsewhere, good.clone()), 404),
        (client.envelope(&header(), vec![0xff]), 400),
        (client.envelope(&header(), Vec::new()), 400),
        (forged, 403),
    ] {
        let mut stream = deliver(&client, vec![envelope]).await;
        assert_eq!(status(&mut stream).await, expected);
        assert!(stream.message().await.expect("a proper end").is_none());
    }
    // A stream serves one range after another.
    let range = client.envelope(&header(), good);
    let mut stream = deliver(&client, vec![range.clone(), range]).await;
    for _ in 0..2 {
        let block = stream.message().await.expect("a message").expect("a block");
        assert!(matches!(block.r#type, Some(Type::Block(_))), "{block:?}");
        assert_eq!(status(&mut stream).await, 200);
    }
    running.stop().await;
}

async fn blocks(client: &Client, stop: u64) -> Vec<Block> {
    let mut stream = deliver(
        client,
        vec![client.envelope(&header(), seek(stop).encode_to_vec())],
    )
    .await;
    let mut blocks = Vec::new();
    loop {
        match stream
            .message()
            .await
            .expect("a message")
            .expect("not the end")
            .r#type
        {
            Some(Type::Block(block)) => blocks.push(block),
            Some(Type::Status(200)) => return blocks,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_restart_serves_the_same_blocks() {
    let running = Running::start(|_| {}).await;
    let client = running.client(1).await;
    let mut sent = Vec::new();
    for delta in ["1", "2"] {
        let (id, envelope) = client.add("n", delta).await;
        client.settle(&id, &envelope).await;
        sent.push(envelope.encode_to_vec());
    }
    let before = blocks(&client, 2).await;
    let running = Running::start_in(running.stop().await, |_| {}).await;
    let client = running.client(1).await;
    let after = blocks(&client, 2).await;
    assert_eq!(before, after);
    let kept: Vec<_> = after[1..]
        .iter()
        .flat_map(|block| block.data.clone().expect("data").data)
        .collect();
    assert_eq!(kept, sent);

    running.devnet.faults.flowing().send_replace(false);
    let stalled = tokio::time::timeout(SOON, blocks(&client, 2)).await;
    assert!(stalled.is_err());
    running.devnet.faults.flowing().send_replace(true);
    assert_eq!(blocks(&client, 2).await, before);
    running.stop().await;
}
