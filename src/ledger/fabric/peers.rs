//! Connections to the peers: one each, kept, and moved from when it fails.
//!
//! Invariant: a call that found no connection sent nothing. Peers are equals; the one that works is kept until it
//! does not. Nothing is stored, so a crash costs new connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};
use url::Url;

use super::wallet::{Keys, Wallet};
use crate::domain::Cause;
use crate::telemetry::root_cause;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);

/// Peers refuse clients that ask more often than once a minute whether they are still there (their
/// `keepalive.minInterval`).
const KEEP_ALIVE: Duration = Duration::from_secs(65);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(20);

/// Fixed windows: with adaptive ones, hundreds of small replies at once make the connection fail.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The peers of one ledger.
pub(super) struct Peers {
    wallet: Arc<Wallet>,
    peers: Vec<Peer>,
    /// The peer to ask first, for each purpose.
    favourites: [AtomicUsize; 3],
}

/// What a call is for. Each purpose has a favourite peer of its own, so that no query and no look-up can drive submissions
/// from a peer that works to one that does not.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// Endorsing and submitting.
    Submitting,
    /// Queries of whoever asks.
    Querying,
    /// Asking what became of a transaction.
    LookingUp,
}

struct Peer {
    url: Url,
    channel: Mutex<Option<Channel>>,
    /// One attempt to connect at a time; the others wait for it.
    connecting: tokio::sync::Mutex<()>,
}

impl Peer {
    fn held(&self) -> std::sync::MutexGuard<'_, Option<Channel>> {
        self.channel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, and whose it is.
#[derive(Clone)]
pub(super) struct Line {
    /// To make calls with.
    pub(super) channel: Channel,
    /// Number of the peer.
    pub(super) peer: usize,
}

impl Peers {
    /// Connects to nothing yet.
    pub(super) fn new(urls: &[Url], wallet: Arc<Wallet>) -> Self {
        let peer = |url: &Url| Peer {
            url: url.clone(),
            channel: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        };
        Self {
            wallet,
            peers: urls.iter().map(peer).collect(),
            favourites: Default::default(),
        }
    }

    /// A connection to the preferred peer, or to the next one that can be reached.
    ///
    /// # Errors
    /// Why none can be reached.
    pub(super) async fn line(&self, purpose: Purpose) -> Result<Line, Cause> {
        self.line_from(self.favourites[purpose as usize].load(Ordering::Relaxed))
            .await
    }

    /// The same, beginning with a certain peer.
    ///
    /// # Errors
    /// Why none can be reached.
    pub(super) async fn line_from(&self, first: usize) -> Result<Line, Cause> {
        let mut reasons = Vec::new();
        for step in 0..self.peers.len() {
            let peer = (first + step) % self.peers.len();
            match self.connect(peer).await {
                Ok(channel) => return Ok(Line { channel, peer }),
                Err(reason) => {
                    reasons.push(reason);
                    self.failed(peer);
                }
            }
        }
        Err(Cause::new("UNREACHABLE", reasons.join("; ")))
    }

    async fn connect(&self, number: usize) -> Result<Channel, String> {
        let peer = &self.peers[number];
        if let Some(channel) = peer.held().clone() {
            return Ok(channel);
        }
        let _alone = peer.connecting.lock().await;
        if let Some(channel) = peer.held().clone() {
            return Ok(channel);
        }
        loop {
            let keys = self.wallet.keys();
            // The time for a connection does not cover a TLS handshake that nobody answers.
            let opened = tokio::time::timeout(CONNECT, open(&peer.url, &keys)).await;
            let reason = match opened {
                // Certificates that were replaced meanwhile are not to stay in use.
                Ok(Ok(_)) if !Arc::ptr_eq(&keys, &self.wallet.keys()) => continue,
                Ok(Ok(channel)) => {
                    *peer.held() = Some(channel.clone());
                    return Ok(channel);
                }
                Ok(Err(error)) => root_cause(&error),
                Err(_) => format!("no connection came about within {CONNECT:?}"),
            };
            return Err(format!(
                "the peer at {} cannot be reached: {reason}",
                place(&peer.url)
            ));
        }
    }

    /// The connection of `peer` does not work: it is dropped, and another peer is asked first.
    pub(super) fn failed(&self, peer: usize) {
        self.peers[peer].held().take();
        for purpose in [Purpose::Submitting, Purpose::Querying, Purpose::LookingUp] {
            self.pass_over(purpose, peer);
        }
    }

    /// Another peer is asked first from now on.
    pub(super) fn pass_over(&self, purpose: Purpose, peer: usize) {
        // Whoever else has moved on already is not moved again.
        let (favourite, next) = (&self.favourites[purpose as usize], (peer + 1) % self.peers.len());
        let _moved = favourite.compare_exchange(peer, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Drops all connections: they were made with certificates that have been replaced.
    pub(super) fn renew(&self) {
        self.peers.iter().for_each(|peer| drop(peer.held().take()));
    }

    /// Where a peer is, for a message.
    pub(super) fn name(&self, peer: usize) -> &str {
        self.peers[peer].url.as_str()
    }
}

async fn open(url: &Url, keys: &Keys) -> Result<Channel, tonic::transport::Error> {
    let mut endpoint = Endpoint::from_shared(url.as_str().trim_end_matches('/').to_owned())?
        .tcp_nodelay(true)
        .http2_adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_ANSWER);
    if url.scheme() == "https"
        && let Some(tls) = keys.tls.clone()
    {
        endpoint = endpoint.tls_config(tls)?;
    }
    endpoint.connect().await
}

/// Host and port.
fn place(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or(0);
    format!("{}:{port}", url.host_str().unwrap_or_default())
}
