//! Opens connections to the broker.
//!
//! The socket is ours before it is lapin's, because lapin gives up neither a connection that is being opened
//! nor one that the broker blocked: its thread and its socket would stay. [`Wire`] cuts the socket, which
//! ends both. No text from here holds a password: addresses are told by host and port.

use std::fs;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::link::Link;
use crate::config::{RabbitSettings, TlsIdentity};
use crate::queue::QueueError;

/// A connection that is not open after this long is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// Knows where the broker is and how to log in.
pub(super) struct Dialer {
    uri: AMQPUri,
    ca: Option<std::path::PathBuf>,
    identity: Option<TlsIdentity>,
}

impl Dialer {
    /// Connects to nothing, but reads the certificates: a file that is missing is better told at the start.
    pub(super) fn new(settings: &RabbitSettings) -> Result<Self, QueueError> {
        let url = settings.url.expose();
        // Its own error may quote the address.
        let mut uri: AMQPUri = url.as_str().parse().map_err(|_| {
            QueueError("queue.url cannot be used: write it like amqp://user@host:5672/%2f".to_owned())
        })?;
        // What it takes for the host has no IPv6.
        if let Some(host) = url.host_str() {
            uri.authority.host = host.trim_matches(['[', ']']).to_owned();
        }
        uri.query.heartbeat = Some(u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX));
        let dialer = Self {
            uri,
            ca: settings.tls_ca.clone(),
            identity: settings.tls_identity.clone(),
        };
        dialer.tls().map_err(QueueError)?;
        Ok(dialer)
    }

    /// Opens a connection, within [`PATIENCE`].
    pub(super) async fn open(&self) -> Result<Link, String> {
        let wire = Wire::default();
        let place = format!("{}:{}", self.uri.authority.host, self.uri.authority.port);
        let tls = self.tls()?;
        let socket = wire.0.clone();
        let properties = ConnectionProperties::default().with_connection_name("sluicegate".into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| told(&error))?;
        let connecting = Connection::connector(
            self.uri.clone(),
            runtime,
            async move |uri, runtime| {
                let connected = async {
                    let host = uri.authority.host.as_str();
                    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, uri.authority.port))
                        .await?
                        .collect();
                    let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                    if let AsyncTcpStream::Plain(plain) = &stream {
                        Socket::hold(&socket, plain.get_ref())?;
                    }
                    match &tls {
                        Some(tls) => stream.into_rustls(tls, host).await,
                        None => Ok(stream),
                    }
                };
                // This runs on a thread of lapin's, which nobody else would end.
                let stream = tokio::time::timeout(PATIENCE, connected).await;
                Ok(stream.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))?)
            },
            properties,
        );
        match tokio::time::timeout(PATIENCE, connecting).await {
            Ok(Ok(connection)) => Ok(Link::new(connection, wire)),
            Ok(Err(error)) => Err(format!("cannot connect to {place}: {}", told(&error))),
            Err(_) => Err(format!("cannot connect to {place}: no answer in {PATIENCE:?}")),
        }
    }

    /// Read anew for each connection, since certificates are replaced while we run.
    fn tls(&self) -> Result<Option<RustlsConnector>, String> {
        if self.uri.scheme != AMQPScheme::AMQPS {
            return Ok(None);
        }
        let config = match &self.ca {
            Some(path) => {
                let authorities = certificates(path, "tls_ca")?;
                RustlsConnectorConfig::default().with_parsable_certificates(authorities)
            }
            None => RustlsConnectorConfig::new_with_webpki_root_certs(),
        };
        let connector = match &self.identity {
            Some(TlsIdentity { cert, key }) => {
                let chain = certificates(cert, "tls_cert")?;
                let secret = PrivateKeyDer::from_pem_slice(&read(key, "tls_key")?)
                    .map_err(|error| format!("queue.tls_key, {}, holds no key: {error}", key.display()))?;
                config.connector_with_single_cert(chain, secret)
            }
            None => config.connector_with_no_client_auth(),
        };
        match connector {
            Ok(connector) => Ok(Some(connector)),
            Err(error) => Err(format!("the certificates for the broker cannot be used: {error}")),
        }
    }
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read queue.{key}, {}: {error}", path.display()))
}

fn certificates(path: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path, key)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("queue.{key}, {}, holds no certificate", path.display())),
        Err(error) => Err(format!("queue.{key}, {}, is damaged: {error}", path.display())),
    }
}

/// A second hold on the socket of a connection. Whoever drops it cuts the connection.
#[derive(Default)]
pub(super) struct Wire(Arc<Mutex<Socket>>);

#[derive(Default)]
enum Socket {
    #[default]
    NotYet,
    Open(TcpStream),
    Cut,
}

impl Socket {
    fn hold(held: &Mutex<Self>, stream: &impl AsFd) -> std::io::Result<()> {
        let socket = TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*held, Self::Cut) {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        *held = Self::Open(socket);
        Ok(())
    }
}

impl Wire {
    /// Ends the connection, whatever state it is in.
    pub(super) fn cut(&self) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Socket::Open(socket) = std::mem::replace(&mut *held, Socket::Cut) {
            // It fails only if the other side has closed it already.
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}

/// An error of lapin's in words that help. None of them holds what was sent, so no password either.
pub(super) fn told(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(told) => told.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        ErrorKind::InvalidConnectionState(_) | ErrorKind::InvalidChannelState(..) => {
            "the connection was lost".to_owned()
        }
        _ => error.to_string(),
    }
}
