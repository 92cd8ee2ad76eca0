//! Who may come in, and how far: TLS, tokens, tenants.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use url::{Host, Url};

use super::fabric::pem_file;
use super::reader::{Section, quoted};
use crate::domain::{LedgerName, TenantName};

const FILE: &str = "write the path of a PEM file";
const JWKS_URL: &str = "write an address such as \"https://login.example.com/.well-known/jwks.json\"";
const TENANT: &str = "use 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit";

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

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    /// How tokens of an identity provider are checked; `None` if there is none.
    pub jwt: Option<JwtSettings>,
    /// How many failed tries a minute one address has.
    pub max_failed_tries_per_minute: NonZeroU32,
}

impl Default for AuthSettings {
    fn default() -> Self {
        Self {
            jwt: None,
            max_failed_tries_per_minute: NonZeroU32::MIN.saturating_add(29),
        }
    }
}

/// How JSON Web Tokens are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSettings {
    /// Where the issuer's public keys are.
    pub jwks: JwksSource,
    /// Whose tokens count (`iss`).
    pub issuer: String,
    /// For whom they have to be (`aud`).
    pub audience: String,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// The claim that holds the scopes.
    pub scope_claim: String,
}

impl JwtSettings {
    /// What the tests of tokens go by.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        Self {
            jwks: JwksSource::File(PathBuf::from("jwks.json")),
            issuer: "https://issuer".to_owned(),
            audience: "gate".to_owned(),
            tenant_claim: "tenant".to_owned(),
            scope_claim: "scope".to_owned(),
        }
    }
}

/// Where the public keys of an issuer are (RFC 7517).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// At an address, which is asked again for keys that are not known.
    Url(Url),
}

/// `[tenants.<name>]`
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TenantSettings {
    /// Transactions and queries per second, in each process, and how many at once; `None` is without limit.
    pub rate: Option<TenantRate>,
    /// How many unsettled transactions it may have; `None` is without limit.
    pub max_pending: Option<NonZeroU64>,
    /// The ledgers that it may use; `None` is all.
    pub ledgers: Option<Vec<LedgerName>>,
    /// The contracts that it may call; `None` is all.
    pub contracts: Option<Vec<String>>,
}

/// How fast somebody may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TenantRate {
    /// So many per second in the long run.
    pub per_second: f64,
    /// So many at once after a quiet while.
    pub burst: NonZeroU32,
}

/// The keys of `[http]` that are about TLS.
pub(super) fn tls(section: &mut Section<'_>) -> Option<TlsSettings> {
    let cert = section.optional("tls_cert", FILE, pem_file);
    let key = section.optional("tls_key", FILE, pem_file);
    let client_ca = section.optional("tls_client_ca", FILE, pem_file);
    match (section.was_set("tls_cert"), section.was_set("tls_key")) {
        (true, false) => lacks(section, "tls_cert", "tls_key"),
        (false, true) => lacks(section, "tls_key", "tls_cert"),
        (false, false) if client_ca.is_some() => lacks(section, "tls_client_ca", "tls_cert"),
        (false, false) | (true, true) => {}
    }
    let (cert, key) = cert.zip(key)?;
    Some(TlsSettings { cert, key, client_ca })
}

fn lacks(section: &Section<'_>, there: &str, missing: &str) {
    let what = format!("does not fit: there is no {missing}");
    section.problem(there, what, format!("set {missing} as well"));
}

pub(super) fn auth(mut section: Section<'_>) -> AuthSettings {
    let default = AuthSettings::default();
    let file = section.optional("jwks_file", "write the path of a JWKS file", pem_file);
    let url = section.optional("jwks_url", JWKS_URL, jwks_url);
    let issuer = section.optional("jwt_issuer", "write what the tokens have as iss", text);
    let audience = section.optional("jwt_audience", "write what the tokens have as aud", text);
    let mut claim = |key, default: &str| {
        let remedy = "write the name of a claim";
        section.text(key, (default.to_owned(), default), remedy, text)
    };
    let tenant_claim = claim("jwt_tenant_claim", "tenant");
    let scope_claim = claim("jwt_scope_claim", "scope");
    let default_tries = default.max_failed_tries_per_minute;
    let tries = section.u32_in("max_failed_tries_per_minute", default_tries.get(), 1..=100_000);
    if file.is_some() && url.is_some() {
        section.problem(
            "jwks_url",
            "does not fit: there is a jwks_file",
            "leave one of them out",
        );
    }
    // Without them, tokens that the same provider made for somebody else would do.
    let needed = ["jwt_issuer", "jwt_audience"];
    let source = ["jwks_file", "jwks_url"]
        .into_iter()
        .find(|key| section.was_set(key));
    match source {
        Some(source) => {
            let missing = needed.into_iter().filter(|key| !section.was_set(key));
            missing.for_each(|missing| lacks(&section, source, missing));
        }
        None => {
            let there = needed.into_iter().filter(|key| section.was_set(key));
            there.for_each(|there| lacks(&section, there, "jwks_url"));
        }
    }
    section.finish();
    let jwks = file.map(JwksSource::File).or_else(|| url.map(JwksSource::Url));
    let jwt = jwks
        .zip(issuer)
        .zip(audience)
        .map(|((jwks, issuer), audience)| JwtSettings {
            jwks,
            issuer,
            audience,
            tenant_claim,
            scope_claim,
        });
    AuthSettings {
        jwt,
        max_failed_tries_per_minute: NonZeroU32::new(tries).unwrap_or(default_tries),
    }
}

fn text(text: &str) -> Result<String, String> {
    match text.trim().is_empty() {
        false => Ok(text.to_owned()),
        true => Err("is empty".to_owned()),
    }
}

/// Whoever can change the keys on their way can make tokens, so they come encrypted or from this machine.
fn jwks_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if here => Ok(url),
        "http" => Err("is not encrypted".to_owned()),
        scheme => Err(format!("starts with {}", quoted(&format!("{scheme}:")))),
    }
}

pub(super) fn tenants(
    root: &mut Section<'_>,
    known: impl Fn(&str) -> bool,
) -> BTreeMap<TenantName, TenantSettings> {
    let mut tenants = BTreeMap::new();
    for (name, origin, section) in root.sections("tenants").unwrap_or_default() {
        let checked = TenantName::new(&name);
        if checked.is_none() {
            section.problem_at(
                origin,
                "",
                "is not a valid name of a tenant".to_owned(),
                TENANT.to_owned(),
            );
        }
        let settings = tenant(section, &known);
        tenants.extend(checked.map(|name| (name, settings)));
    }
    tenants
}

fn tenant(mut section: Section<'_>, known: &impl Fn(&str) -> bool) -> TenantSettings {
    let per_second = section.optional_f64("rate_per_second", 0.001..=1_000_000.0);
    let default_burst = per_second.map_or(1, |rate| (rate.ceil() as u32).max(1));
    let burst = match per_second {
        Some(_) => section.u32_in("burst", default_burst, 1..=1_000_000),
        None => {
            if section.optional_u64("burst").is_some() {
                lacks(&section, "burst", "rate_per_second");
            }
            default_burst
        }
    };
    let max_pending = section.optional_u64("max_pending");
    if max_pending == Some(0) {
        section.problem(
            "max_pending",
            "is 0",
            "write a whole number from 1, or leave it out",
        );
    }
    let ledgers = section.list(
        "ledgers",
        "write a list of configured ledgers",
        |name| match LedgerName::new(name).filter(|_| known(name)) {
            Some(name) => Ok(name),
            None => Err(format!("names {}, which is not configured", quoted(name))),
        },
    );
    let contracts = section.list(
        "contracts",
        "write a list of contracts, such as [\"basic\"]",
        text,
    );
    let settings = TenantSettings {
        rate: per_second.map(|per_second| TenantRate {
            per_second,
            burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
        }),
        max_pending: max_pending.and_then(NonZeroU64::new),
        ledgers: section.was_set("ledgers").then_some(ledgers),
        contracts: section.was_set("contracts").then_some(contracts),
    };
    section.finish();
    settings
}
