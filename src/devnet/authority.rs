//! Certificate authorities: the files that make a network out of a folder.
//!
//! | file | what |
//! |---|---|
//! | `orgN/ca.pem`, `orgN/ca.key` | the authority that an organisation's members are known by |
//! | `orgN/peer.pem`, `orgN/peer.key` | who endorses for it |
//! | `orgN/user.pem`, `orgN/user.key` | a client, for whoever wants to try |
//! | `tls-ca.pem`, `tls-ca.key` | the authority of the server's TLS certificate |
//!
//! Made at the first start and used by every later one, because clients were given copies. The TLS certificate itself
//! is made anew at every start, for the names of the day. A crash half-way leaves an organisation's folder whole or
//! not at all. All of it is for development: the keys lie there for whoever may read the folder.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use thiserror::Error;

/// Why a network's files cannot be made or used.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A key or certificate is not what it should be.
    #[error("{}: {words}; put it back, or start with a new folder", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        words: String,
    },
    /// No certificate can be made.
    #[error("no certificate can be made: {0}")]
    Making(#[from] rcgen::Error),
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub(super) struct Pair {
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Somebody who certifies others.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: String,
}

impl Authority {
    /// The authority `name` with a new key.
    pub(super) fn new(name: &str) -> Result<(Self, String), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = key.serialize_pem();
        let params = Self::params(name);
        let certificate = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        Ok((Self { issuer, certificate }, pem))
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = lasting();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params
    }

    /// Certifies a member of an organisation; `role` is its organisational unit, as Fabric expects it.
    pub(super) fn member(&self, name: &str, role: &str) -> Result<Pair, AuthorityError> {
        let mut params = lasting();
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, role);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        self.certify(params)
    }

    /// Certifies a server under these names and addresses.
    pub(super) fn server(&self, names: &[String]) -> Result<Pair, AuthorityError> {
        let mut params = CertificateParams::new(names)?;
        let plain = lasting();
        (params.not_before, params.not_after) = (plain.not_before, plain.not_after);
        params.distinguished_name = plain.distinguished_name;
        params.distinguished_name.push(DnType::CommonName, "devnet");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.certify(params)
    }

    /// Certifies a new key.
    pub(super) fn certify(&self, params: CertificateParams) -> Result<Pair, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        Ok(Pair {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The authority in the files `stem.pem` and `stem.key`; a new one, named `name`, if there is none.
    pub(super) fn keep(folder: &Path, stem: &str, name: &str) -> Result<Self, AuthorityError> {
        let (certificate, key) = (
            folder.join(format!("{stem}.pem")),
            folder.join(format!("{stem}.key")),
        );
        if !certificate.exists() {
            let (authority, pem) = Self::new(name)?;
            write(&key, &pem)?;
            write(&certificate, &authority.certificate)?;
            return Ok(authority);
        }
        let pair = KeyPair::from_pem(&read(&key)?).map_err(|error| AuthorityError::Unusable {
            path: key,
            words: error.to_string(),
        })?;
        Ok(Self {
            issuer: Issuer::new(Self::params(name), pair),
            certificate: read(&certificate)?,
        })
    }
}

/// A name that is still empty, for as long as anybody will try.
fn lasting() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    params
}

/// What lies in an organisation's folder.
pub(super) struct OrganisationFiles {
    pub(super) folder: PathBuf,
    pub(super) ca: String,
    pub(super) peer: Pair,
}

/// The files of the organisation in `folder`, whose members are named after `domain`. Made if they are missing.
pub(super) fn organisation(folder: &Path, domain: &str) -> Result<OrganisationFiles, AuthorityError> {
    if !folder.exists() {
        let making = folder.with_extension("new");
        let file = |source| AuthorityError::File {
            path: making.clone(),
            source,
        };
        if making.exists() {
            fs::remove_dir_all(&making).map_err(file)?;
        }
        fs::create_dir_all(&making).map_err(file)?;
        let (authority, key) = Authority::new(&format!("ca.{domain}"))?;
        let ca = Pair {
            certificate: authority.certificate.clone(),
            key,
        };
        let peer = authority.member(&format!("peer0.{domain}"), "peer")?;
        let user = authority.member(&format!("user1@{domain}"), "client")?;
        for (stem, pair) in [("ca", ca), ("peer", peer), ("user", user)] {
            write(&making.join(format!("{stem}.key")), &pair.key)?;
            write(&making.join(format!("{stem}.pem")), &pair.certificate)?;
        }
        fs::rename(&making, folder).map_err(file)?;
    }
    Ok(OrganisationFiles {
        ca: read(&folder.join("ca.pem"))?,
        peer: Pair {
            certificate: read(&folder.join("peer.pem"))?,
            key: read(&folder.join("peer.key"))?,
        },
        folder: folder.to_owned(),
    })
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    fs::read_to_string(path).map_err(|source| AuthorityError::File {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &Path, text: &str) -> Result<(), AuthorityError> {
    let mode = if path.extension().is_some_and(|ending| ending == "key") {
        0o600
    } else {
        0o644
    };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    options
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|source| AuthorityError::File {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_uses_the_same_files() {
        let folder = tempfile::tempdir().expect("folder");
        let first = organisation(&folder.path().join("org1"), "org1.devnet").expect("made");
        let again = organisation(&folder.path().join("org1"), "org1.devnet").expect("read");
        assert_eq!(first.ca, again.ca);
        assert_eq!(first.peer.key, again.peer.key);
        let tls = Authority::keep(folder.path(), "tls-ca", "tls").expect("made");
        let kept = Authority::keep(folder.path(), "tls-ca", "tls").expect("read");
        assert_eq!(tls.certificate, kept.certificate);
        let server = kept
            .server(&["localhost".into(), "::1".into()])
            .expect("certified");
        assert!(server.certificate.contains("BEGIN CERTIFICATE"));
        fs::write(folder.path().join("tls-ca.key"), "no key").expect("written");
        let error = Authority::keep(folder.path(), "tls-ca", "tls")
            .err()
            .expect("refused");
        assert!(error.to_string().contains("tls-ca.key"), "{error}");
    }

    #[test]
    fn a_crash_half_way_leaves_no_half_organisation() {
        let folder = tempfile::tempdir().expect("folder");
        let making = folder.path().join("org1.new");
        fs::create_dir(&making).expect("made");
        fs::write(making.join("ca.key"), "half").expect("written");
        organisation(&folder.path().join("org1"), "org1.devnet").expect("made");
        assert!(!making.exists());
    }
}
