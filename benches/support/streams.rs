//! Many clients that follow what happens, over event streams.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::overload::{
    Measured, allow_many_connections, bounded, everything_took_effect, probe, simulator, slow_ledger,
};
use super::{ask, body};

/// `count` clients follow events, all on connections of their own: half of them one transaction, half all of them, out of
/// which one concerns them. All are told.
pub async fn streams(count: usize, quiet: Duration, block_after: Duration) -> Measured {
    let folder = tempfile::tempdir().expect("folder");
    let server = simulator(folder.path(), 1_000.0, &slow_ledger(block_after));
    let idle = probe(&server, quiet).await;
    allow_many_connections();
    let post = |ledger: &str| {
        let request = json!({"ledger": ledger, "contract": "counter", "function": "Add", "args": ["c", 1],
                             "metadata": {"for": "followers"}});
        let record = body(&ask(
            &server.address,
            "POST",
            "/v1/transactions",
            &request.to_string(),
        ));
        record["id"].as_str().expect("an id").to_owned()
    };
    let posted = Instant::now();
    let id = post("slow");
    let mut following = JoinSet::new();
    for number in 0..count {
        let path = match number % 2 {
            0 => format!("/v1/transactions/{id}/events"),
            _ => "/v1/events?metadata.for=followers&ledger=main".to_owned(),
        };
        let mut stream = TcpStream::connect(&server.address).await.expect("connects");
        let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
        stream.write_all(get.as_bytes()).await.expect("sends");
        until(&mut stream, "event: ready").await;
        following.spawn(async move {
            until(&mut stream, "\"status\":\"done\"").await;
            posted.elapsed()
        });
    }
    let connected = posted.elapsed();
    assert!(
        connected < block_after,
        "connecting took {connected:?}; make the blocks slower"
    );
    let loaded = probe(&server, quiet).await;
    post("main");
    let told = following.join_all().await;
    let (first, last) = (told.iter().min().expect("some"), told.iter().max().expect("some"));
    let accepted = idle.answers + loaded.answers + 2;
    everything_took_effect(&server, accepted).await;
    Measured {
        note: format!(
            "all told between {:.1} and {:.1} s",
            first.as_secs_f64(),
            last.as_secs_f64()
        ),
        peak_mib: bounded(&server),
        drained: None,
        idle,
        loaded,
        accepted,
    }
}

/// Reads until these words have come.
async fn until(stream: &mut TcpStream, words: &str) {
    let (mut text, mut buffer) = (String::new(), [0; 4_096]);
    while !text.contains(words) {
        let read = stream.read(&mut buffer).await.expect("reads");
        assert!(read > 0, "the stream ended without {words}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        // Words may be cut in two; what is older is not needed.
        if text.len() > 64 << 10 {
            text.drain(..32 << 10);
        }
    }
}
