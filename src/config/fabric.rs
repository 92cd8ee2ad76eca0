//! `[ledgers.<name>]` of kind `fabric`.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::TlsIdentity;
use super::reader::{Section, quoted};
use super::secret::Secret;

const PEERS: &str = "write the addresses of peers in a list, such as [\"https://localhost:7051\"]";
const FILE: &str = "write the path of a PEM file";

/// `[ledgers.<name>]` of kind `fabric`: one channel of a Hyperledger Fabric network, through the Gateway service of
/// its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FabricSettings {
    /// Peers, the one to ask first at the front; `http` is without TLS. Never empty.
    pub peers: Vec<Url>,
    /// The channel.
    pub channel: String,
    /// The chaincode of requests that name none, as `chaincode` or `chaincode:Contract`.
    pub default_contract: Option<String>,
    /// The organisation of our identity.
    pub msp_id: String,
    /// Our certificate (PEM).
    pub certificate: PathBuf,
    /// Where its private key is.
    pub private_key: PrivateKey,
    /// Opens the private key, if it is an encrypted one.
    pub private_key_passphrase: Option<Secret>,
    /// Certificates (PEM) of those who may vouch for peers; there is one if a peer's address says `https`.
    pub tls_ca: Option<PathBuf>,
    /// The name in the peers' certificates, if it is not the one in their address.
    pub tls_server_name: Option<String>,
    /// Our certificate and key for TLS (PEM), for peers that ask for one.
    pub tls_identity: Option<TlsIdentity>,
    /// Which organisations endorse; empty leaves it to the peer, which plans by the endorsement policy.
    pub endorsing_organizations: Vec<String>,
    /// How long an endorsement may take.
    pub endorse_timeout: Duration,
    /// How long handing over to the orderers may take.
    pub submit_timeout: Duration,
    /// How long a query may take.
    pub evaluate_timeout: Duration,
    /// How long the peer is given to know a transaction that is looked up; it does not answer for one it does not
    /// know.
    pub commit_status_timeout: Duration,
    /// A block stream that brings nothing for so long after a submission is taken from the next peer.
    pub stall_after: Duration,
    /// Where the block stream begins the first time; `None` is with the newest block.
    pub start_block: Option<u64>,
    /// What is kept of the keys that a transaction reads and writes.
    pub keys: KeysKept,
}

/// Where a private key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateKey {
    /// In a PEM file.
    File(PathBuf),
    /// Here, as PEM.
    Here(Secret),
}

/// What is kept of the keys that a transaction reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysKept {
    /// The keys.
    Plain,
    /// A hash of each, for keys that are nobody's business.
    Hashed,
    /// Nothing.
    Nothing,
}

impl KeysKept {
    const ALL: [Self; 3] = [Self::Plain, Self::Hashed, Self::Nothing];

    /// The name in the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Hashed => "hashed",
            Self::Nothing => "nothing",
        }
    }
}

pub(super) fn read(section: &mut Section<'_>) -> FabricSettings {
    let peers = peers(section);
    let name = |text: &str| match text.is_empty() || text.chars().any(char::is_whitespace) {
        true => Err(format!("is {}", quoted(text))),
        false => Ok(text.to_owned()),
    };
    let channel = section.required(
        "channel",
        "write the name of the channel, such as \"mychannel\"",
        name,
    );
    let default_contract = section.optional(
        "default_contract",
        "write the name of a chaincode, such as \"basic\" or \"basic:Contract\"",
        contract,
    );
    let msp_id = section.required(
        "msp_id",
        "write the organisation's MSP id, such as \"Org1MSP\"",
        name,
    );
    let certificate = section.required("certificate", FILE, pem_file);
    let private_key = private_key(section);
    let private_key_passphrase = section.secret(
        "private_key_passphrase",
        "write the passphrase of the private key",
        |text| Ok(Secret::new(text)),
        Secret::to_string,
    );
    let tls_ca = section.optional("tls_ca", FILE, pem_file);
    let tls_server_name = section.optional("tls_server_name", "write a host name", name);
    let tls_cert = section.optional("tls_cert", FILE, pem_file);
    let tls_key = section.optional("tls_key", FILE, pem_file);
    let encrypted = peers.iter().any(|peer| peer.scheme() == "https");
    for key in ["tls_ca", "tls_server_name", "tls_cert", "tls_key"] {
        if section.was_set(key) && !encrypted && !peers.is_empty() {
            section.problem(
                key,
                "does not fit: the peers' addresses say http, which is not encrypted",
                "write https in peers",
            );
        }
    }
    if encrypted && !section.was_set("tls_ca") {
        section.problem(
            "tls_ca",
            "is missing: the peers' addresses say https",
            "write the path of the PEM file with the certificate of their TLS authority",
        );
    }
    for (there, missing) in [("tls_cert", "tls_key"), ("tls_key", "tls_cert")] {
        if section.was_set(there) && !section.was_set(missing) {
            section.problem(
                there,
                format!("does not fit: there is no {missing}"),
                format!("set {missing} as well"),
            );
        }
    }
    let endorsing_organizations = section.list(
        "endorsing_organizations",
        "write MSP ids in a list, such as [\"Org1MSP\", \"Org2MSP\"]",
        name,
    );
    let ms = Duration::from_millis;
    FabricSettings {
        peers,
        channel,
        default_contract,
        msp_id,
        certificate,
        private_key,
        private_key_passphrase,
        tls_ca,
        tls_server_name,
        tls_identity: tls_cert.zip(tls_key).map(|(cert, key)| TlsIdentity { cert, key }),
        endorsing_organizations,
        endorse_timeout: section.duration_ms("endorse_timeout_ms", ms(4_000), 100..=300_000),
        submit_timeout: section.duration_ms("submit_timeout_ms", ms(4_000), 100..=300_000),
        evaluate_timeout: section.duration_ms("evaluate_timeout_ms", ms(10_000), 100..=300_000),
        commit_status_timeout: section.duration_ms("commit_status_timeout_ms", ms(1_000), 10..=300_000),
        stall_after: section.duration_ms("stall_after_ms", ms(10_000), 100..=3_600_000),
        start_block: section.optional_u64("start_block"),
        keys: section.one_of("keys", KeysKept::Plain, &KeysKept::ALL, KeysKept::as_str),
    }
}

/// A call that the lane gives up first never says what it found; a transaction that the peer does not know would never
/// be sent again. So what is set too long is refused, and what is built in is shortened.
pub(super) fn within_lease(section: &Section<'_>, settings: &mut FabricSettings, lease: Duration) {
    let half = lease / 2;
    for (key, limit, times) in [
        ("endorse_timeout_ms", &mut settings.endorse_timeout, 1),
        ("submit_timeout_ms", &mut settings.submit_timeout, 1),
        // It may wait for its turn twice as long before, and after it, as long for proof that the peer is well.
        ("commit_status_timeout_ms", &mut settings.commit_status_timeout, 4),
    ] {
        let most = half / times;
        if *limit < most {
            continue;
        }
        if section.was_set(key) {
            section.problem(
                key,
                format!(
                    "does not fit: the lane gives every call up after {} ms, half of worker.lease_seconds",
                    half.as_millis()
                ),
                format!(
                    "set it below {}, or set a longer worker.lease_seconds",
                    most.as_millis()
                ),
            );
        }
        *limit = most.mul_f64(0.8);
    }
}

fn peers(section: &mut Section<'_>) -> Vec<Url> {
    let peers = section.list("peers", PEERS, |text| match Url::parse(text) {
        Ok(url) if is_peer(&url) => Ok(url),
        _ => Err(format!(
            "holds {}, which is not http:// or https://, a host and a port",
            quoted(text)
        )),
    });
    if !section.was_set("peers") {
        section.problem("peers", "is missing", PEERS);
    } else if peers.is_empty() {
        section.problem("peers", "names no peer", PEERS);
    }
    peers
}

/// Whether an address is a scheme, a host and a port, and nothing else.
fn is_peer(url: &Url) -> bool {
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let open = url.username().is_empty() && url.password().is_none();
    matches!(url.scheme(), "http" | "https") && url.has_host() && bare && open
}

/// The path of a PEM file. What is PEM itself is refused without showing it: it may be a key.
pub(super) fn pem_file(text: &str) -> Result<PathBuf, String> {
    match () {
        () if text.contains("-----BEGIN") => {
            Err("holds the contents of a file instead of its path".to_owned())
        }
        () if text.is_empty() || text.contains('\0') => Err(format!("is {}", quoted(text))),
        () => Ok(PathBuf::from(text)),
    }
}

/// The name of a chaincode, or of one with a contract in it.
fn contract(text: &str) -> Result<String, String> {
    let (chaincode, contract) = text.split_once(':').unwrap_or((text, "contract"));
    match is_chaincode_name(chaincode) && !contract.is_empty() {
        true => Ok(text.to_owned()),
        false => Err(format!("is {}", quoted(text))),
    }
}

/// Fabric's own rule for names of chaincodes: letters and digits, with single `-` or `_` between them.
pub(crate) fn is_chaincode_name(name: &str) -> bool {
    let mut parts = name.split(['-', '_']);
    parts.all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn private_key(section: &mut Section<'_>) -> PrivateKey {
    let file = section.optional("private_key", FILE, pem_file);
    let here = section.secret(
        "private_key_pem",
        "put the private key as PEM into the environment variable of this setting",
        |text| match text.contains("-----BEGIN") {
            true => Ok(Secret::new(text)),
            false => Err("is not PEM".to_owned()),
        },
        Secret::to_string,
    );
    match (file, here) {
        (Some(_), Some(here)) => {
            section.problem(
                "private_key_pem",
                "does not fit: private_key names a file",
                "set only one of the two",
            );
            PrivateKey::Here(here)
        }
        (None, Some(here)) => PrivateKey::Here(here),
        (Some(file), None) => PrivateKey::File(file),
        (None, None) => {
            if !section.was_set("private_key") && !section.was_set("private_key_pem") {
                section.problem(
                    "private_key",
                    "is missing",
                    "write the path of a PEM file, or set private_key_pem",
                );
            }
            PrivateKey::File(PathBuf::new())
        }
    }
}
