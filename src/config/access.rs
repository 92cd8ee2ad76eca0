//! Who may come in, and how: TLS.

use std::path::PathBuf;

use super::fabric::pem_file;
use super::reader::Section;

const FILE: &str = "write the path of a PEM file";

/// The certificate of the API; files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Our certificate, with what is between it and its authority (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// Certificates (PEM) of those who may vouch for clients. With it, whoever has no certificate is not let in.
    pub client_ca: Option<PathBuf>,
}

/// The keys of `[http]` that are about TLS.
pub(super) fn tls(section: &mut Section<'_>) -> Option<TlsSettings> {
    let cert = section.optional("tls_cert", FILE, pem_file);
    let key = section.optional("tls_key", FILE, pem_file);
    let client_ca = section.optional("tls_client_ca", FILE, pem_file);
    let lacks = |there: &str, missing: &str| {
        section.problem(
            there,
            format!("does not fit: there is no {missing}"),
            format!("set {missing} as well"),
        );
    };
    match (section.was_set("tls_cert"), section.was_set("tls_key")) {
        (true, false) => lacks("tls_cert", "tls_key"),
        (false, true) => lacks("tls_key", "tls_cert"),
        (false, false) if client_ca.is_some() => lacks("tls_client_ca", "tls_cert"),
        (false, false) | (true, true) => {}
    }
    let (cert, key) = cert.zip(key)?;
    Some(TlsSettings { cert, key, client_ca })
}
