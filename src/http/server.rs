//! Connections: accepted, bounded in time, and ended gracefully.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::add_extension::AddExtension;

use super::tls::{self, Tls};

/// The header block of a request may have so many bytes; more is answered with 431.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// When no connection can be accepted (no file descriptors left), it waits so long and tries again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client that takes nothing of its answer for so long is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Who is at the other end of a connection, as far as the connection tells. Every request carries it as an extension.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// The common name in the client's certificate, if it was asked for one.
    pub(crate) certificate: Option<Arc<str>>,
}

/// Serves `router` on `listener` until `stop`, then lets requests under way finish, at most `drain` long.
///
/// A connection whose request headers do not arrive within `header_timeout` is closed; so is one that is
/// idle for that long, with `tls` one whose handshake takes longer, and one whose client does not read its answer.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    header_timeout: Duration,
    stop: CancellationToken,
    drain: Duration,
    tasks: TaskTracker,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(2 * MAX_HEADER_BYTES);
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // An answer is one small write: waiting to fill a packet would only delay it.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let connection = Connection {
            http: http.clone(),
            router: router.clone(),
            watcher: connections.watcher(),
            peer: Peer {
                address: address.ip().to_canonical(),
                certificate: None,
            },
        };
        match &tls {
            None => drop(tasks.spawn(connection.serve(stream))),
            Some(tls) => {
                let (tls, stop) = (tls.clone(), stop.clone());
                // In a task of its own: whoever stalls a handshake holds nobody else up.
                tasks.spawn(async move {
                    let shaken = connection.shake_hands(&tls, stream, address);
                    let limit = tokio::time::timeout(header_timeout, shaken);
                    match stop.run_until_cancelled_owned(limit).await {
                        Some(Ok(Some((connection, stream)))) => connection.serve(stream).await,
                        Some(Err(_)) => tracing::debug!(%address, "a TLS handshake took too long"),
                        Some(Ok(None)) | None => {}
                    }
                });
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(drain, connections.shutdown()).await.is_err() {
        tracing::info!("some requests were cut off; what was accepted is stored");
    }
}

/// A connection to be served.
struct Connection {
    http: http1::Builder,
    router: Router,
    watcher: Watcher,
    peer: Peer,
}

impl Connection {
    /// Nobody learns from the outside why a handshake failed; the log says it to whoever looks for it.
    async fn shake_hands(
        mut self,
        tls: &Tls,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Option<(Self, tokio_rustls::server::TlsStream<TcpStream>)> {
        let stream = match tls.acceptor().accept(stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, %address, "a TLS handshake failed");
                return None;
            }
        };
        let chain = stream.get_ref().1.peer_certificates();
        let own = chain.and_then(<[_]>::first);
        self.peer.certificate = own.and_then(tls::common_name).map(Arc::from);
        Some((self, stream))
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        #[cfg(feature = "failpoints")]
        let stream = tokio_util::io::InspectWriter::new(stream, |written: &[u8]| {
            if written.starts_with(b"HTTP/1.1 202") {
                crate::failpoint::reached("accept-after-reply");
            }
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIMEOUT));
        let stream = Box::pin(stream);
        let service = TowerToHyperService::new(AddExtension::new(self.router, self.peer));
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
