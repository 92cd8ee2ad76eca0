//! `[queue]` of kind `rabbitmq`.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use super::fabric::pem_file;
use super::reader::{Section, quoted};
use super::server_url::{ServerUrl, server_url};

const EXAMPLE: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// `[queue]` of kind `rabbitmq`: a broker between those who accept and those who submit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RabbitSettings {
    /// Where it is and how to log in; the path is the virtual host, `amqps` is TLS.
    pub url: ServerUrl,
    /// What the queues are made of.
    pub queue_type: QueueType,
    /// The queue of ledger `main` is called `{prefix}.main`, the one for dead letters `{prefix}.main.dead`.
    pub prefix: String,
    /// How many messages a worker may hold per ledger.
    pub prefetch: NonZeroU16,
    /// After so long without a sign of life, either side takes the other for dead.
    pub heartbeat: Duration,
    /// Certificates (PEM) of those who may vouch for the broker; without it, those that come with the program.
    pub tls_ca: Option<PathBuf>,
    /// Our certificate and key (PEM), for brokers that ask for one.
    pub tls_identity: Option<TlsIdentity>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The certificate, with what is between it and its authority (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM, PKCS #8).
    pub key: PathBuf,
}

/// What a queue is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated, and safe when a node of the broker is lost. Needs RabbitMQ 3.8.
    Quorum,
    /// For brokers that know nothing else.
    Classic,
}

impl QueueType {
    const ALL: [Self; 2] = [Self::Quorum, Self::Classic];

    /// The name in the configuration file, and for the broker.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

pub(super) fn read(section: &mut Section<'_>) -> RabbitSettings {
    let url = server_url(section, &["amqp", "amqps"], EXAMPLE);
    let ca = section.optional("tls_ca", "write the path of a PEM file", pem_file);
    let cert = section.optional("tls_cert", "write the path of a PEM file", pem_file);
    let key = section.optional("tls_key", "write the path of a PEM file", pem_file);
    for (name, set) in [("tls_ca", &ca), ("tls_cert", &cert), ("tls_key", &key)] {
        if set.is_some() && url.expose().scheme() != "amqps" {
            section.problem(
                name,
                "does not fit: the URL says amqp, which is not encrypted",
                "write amqps in url",
            );
        }
    }
    if cert.is_some() != key.is_some() {
        let (there, missing) = if cert.is_some() {
            ("tls_cert", "tls_key")
        } else {
            ("tls_key", "tls_cert")
        };
        section.problem(
            there,
            format!("does not fit: there is no {missing}"),
            format!("set {missing} as well"),
        );
    }
    RabbitSettings {
        url,
        queue_type: section.one_of(
            "queue_type",
            QueueType::Quorum,
            &QueueType::ALL,
            QueueType::as_str,
        ),
        prefix: section.text(
            "prefix",
            ("sluicegate".to_owned(), "sluicegate"),
            "write 1 to 100 of a-z, A-Z, 0-9, _, - and .",
            |text| {
                let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                match (1..=100).contains(&text.len()) && text.chars().all(fits) {
                    true => Ok(text.to_owned()),
                    false => Err(format!("is {}", quoted(text))),
                }
            },
        ),
        prefetch: u16::try_from(section.u32_in("prefetch", 256, 1..=10_000))
            .ok()
            .and_then(NonZeroU16::new)
            .unwrap_or(NonZeroU16::MIN),
        heartbeat: section.duration_s("heartbeat_seconds", Duration::from_secs(10), 2..=300),
        tls_ca: ca,
        tls_identity: cert.zip(key).map(|(cert, key)| TlsIdentity { cert, key }),
    }
}
