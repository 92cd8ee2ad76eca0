//! Our identity and our certificates, read from their files, and read again when those change.
//!
//! Invariant: what is in use was whole and fitted together when it was read. A change that does not (a certificate
//! without its key yet, half a file) is told and waited out; the old identity stays in use meanwhile. Keys are never
//! logged. A crash loses nothing: everything is in the files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::watch;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::clock::Clock;
use crate::config::{FabricSettings, PrivateKey, Secret};
use crate::domain::Timestamp;
use crate::fabric::identity::{IdentityError, SigningIdentity, parse_certificate, parse_private_key};
use crate::telemetry::root_cause;

/// How often the files are looked at. Secrets of a Kubernetes volume are replaced at once, others in steps.
const LOOK: Duration = Duration::from_secs(2);

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum WalletError {
    /// A file cannot be read.
    #[error("{key}: cannot read {path}: {source}", path = path.display())]
    File {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{key}: {words}")]
    Contents {
        /// The setting that names it.
        key: &'static str,
        /// What is wrong and what would be right.
        words: String,
    },
}

/// What is in use.
pub(super) struct Keys {
    /// Who signs.
    pub(super) identity: SigningIdentity,
    /// How connections are secured; `None` without TLS.
    pub(super) tls: Option<ClientTlsConfig>,
    /// SHA-256 of our TLS certificate; empty without one.
    pub(super) tls_cert_hash: Vec<u8>,
    /// When our certificates end, by setting.
    pub(super) ends: Vec<(&'static str, Timestamp)>,
    /// Tells one state of the files from another.
    fingerprint: [u8; 32],
}

/// The identity and the certificates in use.
pub(super) struct Wallet {
    settings: FabricSettings,
    keys: RwLock<Arc<Keys>>,
    changes: watch::Sender<()>,
}

impl Wallet {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// [`WalletError`] names the setting and the remedy.
    pub(super) fn open(settings: &FabricSettings, clock: &dyn Clock) -> Result<Self, WalletError> {
        let contents = Contents::read(settings)?;
        let keys = contents.keys(settings)?;
        contents.warn_of_age(clock);
        Ok(Self {
            settings: settings.clone(),
            keys: RwLock::new(Arc::new(keys)),
            changes: watch::Sender::new(()),
        })
    }

    /// What is in use now.
    pub(super) fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wakes when the keys were replaced.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Looks after the files for ever.
    pub(super) async fn look_after(self: Arc<Self>, clock: Arc<dyn Clock>) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(LOOK).await;
            let (wallet, clock) = (self.clone(), clock.clone());
            let looked = tokio::task::spawn_blocking(move || wallet.look(&*clock)).await;
            match looked {
                Ok(Ok(false)) => told.clear(),
                Ok(Ok(true)) => {
                    told.clear();
                    tracing::info!(msp_id = self.settings.msp_id, "the Fabric identity was replaced");
                    self.changes.send_replace(());
                }
                Ok(Err(error)) => {
                    let words = error.to_string();
                    if words != told {
                        tracing::warn!(%error, "the changed files of the Fabric identity cannot be used; the old identity stays in use");
                        told = words;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Takes what the files hold, if that is something else. Answers whether it is. Blocks.
    pub(super) fn look(&self, clock: &dyn Clock) -> Result<bool, WalletError> {
        let contents = Contents::read(&self.settings)?;
        if contents.fingerprint() == self.keys().fingerprint {
            return Ok(false);
        }
        let keys = contents.keys(&self.settings)?;
        contents.warn_of_age(clock);
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(true)
    }
}

/// What the files hold.
struct Contents {
    certificate: String,
    key: Secret,
    tls_ca: Option<String>,
    tls_identity: Option<(String, Secret)>,
}

impl Contents {
    fn read(settings: &FabricSettings) -> Result<Self, WalletError> {
        let key = match &settings.private_key {
            PrivateKey::Here(key) => key.clone(),
            PrivateKey::File(path) => Secret::new(text("private_key", path)?),
        };
        let tls_identity = match &settings.tls_identity {
            Some(files) => Some((
                text("tls_cert", &files.cert)?,
                Secret::new(text("tls_key", &files.key)?),
            )),
            None => None,
        };
        Ok(Self {
            certificate: text("certificate", &settings.certificate)?,
            key,
            tls_ca: settings
                .tls_ca
                .as_deref()
                .map(|path| text("tls_ca", path))
                .transpose()?,
            tls_identity,
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let (cert, key) = match &self.tls_identity {
            Some((cert, key)) => (cert.as_str(), key.expose()),
            None => ("", ""),
        };
        for part in [
            &self.certificate,
            self.key.expose(),
            self.tls_ca.as_deref().unwrap_or(""),
            cert,
            key,
        ] {
            digest.update(Sha256::digest(part));
        }
        digest.finalize().into()
    }

    fn keys(&self, settings: &FabricSettings) -> Result<Keys, WalletError> {
        let passphrase = settings.private_key_passphrase.as_ref().map(Secret::expose);
        let key_setting = match settings.private_key {
            PrivateKey::File(_) => "private_key",
            PrivateKey::Here(_) => "private_key_pem",
        };
        let wrong = |key| {
            move |error: IdentityError| WalletError::Contents {
                key,
                words: error.to_string(),
            }
        };
        let key = parse_private_key(self.key.expose(), passphrase).map_err(wrong(key_setting))?;
        let identity = SigningIdentity::new(&settings.msp_id, &self.certificate, key);
        let mut hash = Vec::new();
        let encrypted = settings.peers.iter().any(|peer| peer.scheme() == "https");
        let tls = encrypted.then(|| {
            let mut tls = ClientTlsConfig::new();
            if let Some(pem) = &self.tls_ca {
                certificates("tls_ca", pem)?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            if let Some(name) = &settings.tls_server_name {
                tls = tls.domain_name(name);
            }
            if let Some((cert, key)) = &self.tls_identity {
                let chain = certificates("tls_cert", cert)?;
                // Peers compare it with the certificate of the connection (their `BindingInspector`).
                hash = chain
                    .first()
                    .map(|own| Sha256::digest(own).to_vec())
                    .unwrap_or_default();
                tls = tls.identity(Identity::from_pem(cert, key.expose()));
            }
            // It is here that certificate and key are held against each other.
            let fits = Endpoint::from_static("https://localhost").tls_config(tls.clone());
            fits.map_err(|error| WalletError::Contents {
                key: "tls_key",
                words: format!("the files of TLS do not fit together: {}", root_cause(&error)),
            })?;
            Ok(tls)
        });
        Ok(Keys {
            identity: identity.map_err(wrong("certificate"))?,
            tls: tls.transpose()?,
            tls_cert_hash: hash,
            ends: self.ends(),
            fingerprint: self.fingerprint(),
        })
    }

    fn ends(&self) -> Vec<(&'static str, Timestamp)> {
        let tls = self
            .tls_identity
            .as_ref()
            .map(|(cert, _)| ("tls_cert", cert.as_str()));
        let own = [("certificate", self.certificate.as_str())];
        own.into_iter()
            .chain(tls)
            .filter_map(|(setting, pem)| Some((setting, end(&parse_certificate(pem).ok()?))))
            .collect()
    }

    /// An identity that is past its end is refused by every peer, which is hard to see from their words.
    fn warn_of_age(&self, clock: &dyn Clock) {
        let Ok(certificate) = parse_certificate(&self.certificate) else {
            return;
        };
        if end(&certificate) <= clock.now() {
            tracing::warn!(
                expired_at = %certificate.tbs_certificate().validity().not_after,
                "the certificate of the Fabric identity has expired; peers and orderers will refuse it"
            );
        }
    }
}

fn end(certificate: &x509_cert::Certificate) -> Timestamp {
    let end = certificate.tbs_certificate().validity().not_after;
    Timestamp::from_millis(0).plus(end.to_unix_duration())
}

fn text(key: &'static str, path: &Path) -> Result<String, WalletError> {
    std::fs::read_to_string(path).map_err(|source| WalletError::File {
        key,
        path: path.to_owned(),
        source,
    })
}

fn certificates(key: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, WalletError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let words = match found {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => "the file holds no certificate; it has to begin with -----BEGIN CERTIFICATE-----".to_owned(),
        Err(error) => format!("the certificates are damaged: {error}"),
    };
    Err(WalletError::Contents { key, words })
}
