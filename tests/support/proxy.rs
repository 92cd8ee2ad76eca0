//! A TCP proxy that breaks on demand, in front of a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::support::spawn;

/// What the proxy does with what passes through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: all is well.
    None,
    /// Every connection ends, new ones are closed at once.
    Cut,
    /// Connections stay and are taken, and nothing passes.
    Stall,
    /// Every piece is late by so much.
    Slow(Duration),
    /// What clients send arrives, what the server answers is lost, and nobody is told.
    HalfOpen,
}

/// The proxy; it ends with the runtime of its test.
pub(crate) struct Proxy {
    /// Where to connect instead of to the server.
    pub(crate) port: u16,
    /// Where the server is.
    server: Arc<AtomicU16>,
    fault: watch::Sender<Fault>,
}

impl Proxy {
    /// A proxy in front of `port` on this machine.
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("binds");
        let own = listener.local_addr().expect("is bound").port();
        let (fault, watched) = watch::channel(Fault::None);
        let server = Arc::new(AtomicU16::new(port));
        let at = Arc::clone(&server);
        spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *watched.borrow() != Fault::Cut {
                    spawn(connection(client, at.load(Ordering::Relaxed), watched.clone()));
                }
            }
        });
        Self {
            port: own,
            server,
            fault,
        }
    }

    /// The server is at another port now.
    pub(crate) fn lead_to(&self, port: u16) {
        self.server.store(port, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

async fn connection(client: TcpStream, port: u16, mut fault: watch::Receiver<Fault>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let watched = fault.clone();
    let both = async move {
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        // Either end closing closes both, as it does on the real line.
        tokio::select! {
            () = pass(from_client, to_server, watched.clone(), false) => {}
            () = pass(from_server, to_client, watched, true) => {}
        }
    };
    tokio::select! {
        () = both => {}
        _ = fault.wait_for(|fault| *fault == Fault::Cut) => {}
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut fault: watch::Receiver<Fault>,
    answers: bool,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if fault.wait_for(|fault| *fault != Fault::Stall).await.is_err() {
            return;
        }
        let now = *fault.borrow();
        if let Fault::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        let lost = answers && now == Fault::HalfOpen;
        if !lost && to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
