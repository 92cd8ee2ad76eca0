//! A connection that can be cut from within, so that a call can end its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Extensions;
use tonic::transport::server::{Connected, TlsConnectInfo};

/// Cuts the connection that it belongs to.
#[derive(Clone)]
pub(super) struct Knife(CancellationToken);

impl Knife {
    /// Cuts it: nothing more is read or written.
    pub(super) fn cut(&self) {
        self.0.cancel();
    }

    /// The one of the connection that a request came on.
    pub(super) fn of(extensions: &Extensions) -> Option<Self> {
        let plain = extensions.get::<Self>();
        let secured = || {
            extensions
                .get::<TlsConnectInfo<Self>>()
                .map(TlsConnectInfo::get_ref)
        };
        plain.or_else(secured).cloned()
    }
}

/// A connection.
pub(super) struct Line {
    socket: TcpStream,
    knife: Knife,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Line {
    /// A connection just accepted.
    pub(super) fn new(socket: TcpStream) -> Self {
        // An answer is one small write: waiting to fill a packet would only delay it.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        let token = CancellationToken::new();
        Self {
            socket,
            cut: Box::pin(token.clone().cancelled_owned()),
            knife: Knife(token),
        }
    }

    fn is_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Line {
    type ConnectInfo = Knife;

    fn connect_info(&self) -> Knife {
        self.knife.clone()
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_cut(context)?;
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_cut(context)?;
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_cut(context)?;
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
