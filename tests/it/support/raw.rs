//! Bytes on a socket, for what no HTTP client would send.

use std::net::SocketAddr;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, DEADLINE};

/// Opens a connection and writes `bytes`.
pub(crate) async fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    // The gateway may have answered and closed before it read everything.
    let _refused = stream.write_all(bytes).await;
    stream
}

/// Reads until the gateway closes the connection, which it has to do in time. `None` if it did so without an
/// answer.
pub(crate) async fn answer(mut stream: impl AsyncRead + Unpin) -> Option<Answer> {
    let mut bytes = Vec::new();
    let _reset = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut bytes))
        .await
        .expect("the connection is closed in time");
    let text = String::from_utf8(bytes).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().expect("a status");
    let headers: HeaderMap = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a header name");
            (name, HeaderValue::from_str(value).expect("a header value"))
        })
        .collect();
    Some(Answer {
        status,
        headers,
        text: body.to_owned(),
    })
}

/// A whole exchange.
pub(crate) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    answer(open(address, bytes).await).await
}

/// The head of a POST to `/v1/transactions` on a connection that is used once, with more header lines.
pub(crate) fn head(lines: &[&str]) -> String {
    let mut head = "POST /v1/transactions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n".to_owned();
    for line in lines {
        head += line;
        head += "\r\n";
    }
    head + "\r\n"
}
