//! Serving a network on a socket: gRPC over HTTP/2, with TLS or without.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use thiserror::Error;
use tokio::net::TcpListener;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::Devnet;
use super::deliver::DeliverService;
use super::gateway::GatewayService;
use super::line::Line;
use crate::fabric::proto::gateway::gateway_server::GatewayServer;
use crate::fabric::proto::protos::deliver_server::DeliverServer;

/// How long calls under way may take to finish once it has to stop.
const DRAIN: Duration = Duration::from_secs(2);
/// Largest message either way, in bytes, as on a real peer.
const LARGEST_MESSAGE: usize = 100 * 1024 * 1024;
/// Bytes that may be under way on one stream and on one connection. Fixed, because windows that adapt have closed
/// connections under hundreds of small replies.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// Calls on one connection; more than the limits of the services, which are to answer for themselves.
const STREAMS: u32 = 100_000;
/// Calls given up by their clients that may wait to be forgotten.
const RESET_STREAMS: usize = 10_000;

/// Why a network is not served any more.
#[derive(Debug, Error)]
#[error("the network is not served any more: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves `devnet` on `listener` until its token is cancelled; then streams end, and calls under way may finish within
/// two seconds.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(devnet: Arc<Devnet>, listener: TcpListener) -> Result<(), ServeError> {
    let gateway = GatewayServer::new(GatewayService(Arc::clone(&devnet)))
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    let deliver = DeliverServer::new(DeliverService(Arc::clone(&devnet)))
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE);
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .http2_max_pending_accept_reset_streams(Some(RESET_STREAMS))
        .http2_max_local_error_reset_streams(Some(RESET_STREAMS));
    if let Some(pair) = &devnet.tls {
        let identity = Identity::from_pem(&pair.certificate, &pair.key);
        server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
    }
    let lines = stream::unfold(listener, async |listener| {
        let accepted = listener.accept().await.map(|(socket, _)| Line::new(socket));
        Some((accepted, listener))
    });
    let stop = devnet.stop.clone();
    let server = server
        .add_service(gateway)
        .add_service(deliver)
        .serve_with_incoming_shutdown(lines, stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = server => Ok(ended?),
        () = overdue => {
            tracing::info!("some calls were cut off");
            Ok(())
        }
    }
}
