//! TLS: our certificate, read from its files, and read again when those change.
//!
//! Invariant: what is in use was whole and fitted together when it was read. A change that does not (a certificate without
//! its key yet, half a file) is told and waited out; the old certificate stays in use meanwhile. Connections that are
//! there keep what they began with. Keys are never logged. A crash loses nothing: everything is in the files.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::config::{Secret, TlsSettings};
use crate::domain::Timestamp;

/// `commonName` of X.520.
const COMMON_NAME: &str = "2.5.4.3";

/// Why there is no TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("http.{key}: cannot read {path}: {source}; let the user who runs the gateway read it")]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("http.{key}: {words}")]
    Contents {
        /// The setting that names it.
        key: &'static str,
        /// What is wrong and what would be right.
        words: String,
    },
}

/// The certificate in use.
pub struct Tls {
    settings: TlsSettings,
    in_use: RwLock<InUse>,
}

struct InUse {
    config: Arc<ServerConfig>,
    /// Tells one state of the files from another.
    fingerprint: [u8; 32],
    /// When the first certificate of the chain ends that ends.
    ends: Option<Timestamp>,
}

impl Tls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`TlsError`] names the setting and the remedy.
    pub fn open(settings: &TlsSettings) -> Result<Self, TlsError> {
        Ok(Self {
            settings: settings.clone(),
            in_use: RwLock::new(Files::read(settings)?.into_use()?),
        })
    }

    /// Takes what the files hold, if that is something else. Answers whether it is. Blocks.
    ///
    /// # Errors
    /// [`TlsError`]: they cannot be used, and the old certificate stays.
    pub fn look(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.settings)?;
        let known = self
            .in_use
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .fingerprint;
        if files.fingerprint() == known {
            return Ok(false);
        }
        let new = files.into_use()?;
        *self.in_use.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    /// When the certificate in use ends, or one that is between it and its authority; `None` if that cannot be read.
    pub fn ends(&self) -> Option<Timestamp> {
        self.in_use.read().unwrap_or_else(PoisonError::into_inner).ends
    }

    /// What shakes hands with the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(in_use.config.clone())
    }
}

/// What the files hold.
struct Files {
    cert: String,
    key: Secret,
    client_ca: Option<String>,
}

impl Files {
    fn read(settings: &TlsSettings) -> Result<Self, TlsError> {
        let client_ca = settings.client_ca.as_deref();
        Ok(Self {
            cert: text("tls_cert", &settings.cert)?,
            key: Secret::new(text("tls_key", &settings.key)?),
            client_ca: client_ca.map(|path| text("tls_client_ca", path)).transpose()?,
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [
            &self.cert,
            self.key.expose(),
            self.client_ca.as_deref().unwrap_or(""),
        ] {
            digest.update(Sha256::digest(part));
        }
        digest.finalize().into()
    }

    fn into_use(self) -> Result<InUse, TlsError> {
        let fingerprint = self.fingerprint();
        let chain = certificates("tls_cert", &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes()).map_err(|_| {
            let words = "the file holds no private key; it has to be an unencrypted key that begins with -----BEGIN PRIVATE KEY-----";
            wrong("tls_key", words)
        })?;
        let ends = chain.iter().filter_map(end).min();
        // Named, not left to the process: another library may have brought a second one along.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("tls_cert", error))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for root in certificates("tls_client_ca", pem)? {
                    roots.add(root).map_err(|error| wrong("tls_client_ca", error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error: VerifierBuilderError| wrong("tls_client_ca", error))?,
                )
            }
        };
        // It is here that certificate and key are held against each other.
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error: rustls::Error| {
                wrong(
                    "tls_key",
                    format!("certificate and key do not fit together: {error}"),
                )
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(InUse {
            config: Arc::new(config),
            fingerprint,
            ends,
        })
    }
}

fn wrong(key: &'static str, words: impl ToString) -> TlsError {
    TlsError::Contents {
        key,
        words: words.to_string(),
    }
}

fn text(key: &'static str, path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|source| TlsError::File {
        key,
        path: path.display().to_string(),
        source,
    })
}

fn certificates(key: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(wrong(
            key,
            "the file holds no certificate; it has to begin with -----BEGIN CERTIFICATE-----",
        )),
        Err(error) => Err(wrong(key, format!("the certificates are damaged: {error}"))),
    }
}

/// When a certificate ends.
fn end(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate().validity().not_after;
    Some(Timestamp::from_millis(0).plus(end.to_unix_duration()))
}

/// The common name in a certificate that was verified.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let names = certificate.tbs_certificate().subject().iter();
    let name = names.filter(|name| name.oid.to_string() == COMMON_NAME).last()?;
    std::str::from_utf8(name.value.value()).ok().map(str::to_owned)
}
