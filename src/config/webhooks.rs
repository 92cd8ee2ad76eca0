//! `[webhooks]`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;

use super::reader::{Section, quoted};
use super::secret::Secret;
use super::settings::{DAY, at_least_one};
use crate::domain::{LedgerName, Status, TenantName};

/// `[webhooks]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// How long a receiver may take to answer.
    pub timeout: Duration,
    /// How long a delivery is tried.
    pub give_up_after: Duration,
    /// Shortest delay before a delivery is tried again ...
    pub retry_min: Duration,
    /// ... and the longest; never below the shortest.
    pub retry_max: Duration,
    /// How many deliveries may be under way at once.
    pub max_in_flight: NonZeroU32,
    /// How many of them may go to one endpoint.
    pub max_in_flight_per_endpoint: NonZeroU32,
    /// After so many failures in a row an endpoint gets one delivery at a time, at growing distances.
    pub breaker_failures: NonZeroU32,
    /// What may be called although it is not public.
    pub allow_targets: Vec<AllowedTarget>,
    /// Endpoints by name, beside those that tenants make.
    pub endpoints: BTreeMap<String, EndpointSettings>,
}

/// `[webhooks.endpoints.<name>]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSettings {
    /// Where to.
    pub url: String,
    /// Whose transactions it is told of.
    pub tenant: TenantName,
    /// Of what it is told; never empty.
    pub statuses: Vec<Status>,
    /// What signs: `whsec_` and 32 bytes in base64. Without it, one is made up.
    pub secret: Option<Secret>,
}

impl Default for WebhookSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            give_up_after: 3 * DAY,
            retry_min: Duration::from_secs(5),
            retry_max: Duration::from_secs(4 * 3_600),
            max_in_flight: at_least_one(64),
            max_in_flight_per_endpoint: at_least_one(8),
            breaker_failures: at_least_one(5),
            allow_targets: Vec::new(),
            endpoints: BTreeMap::new(),
        }
    }
}

/// Something that may be called although it is not public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedTarget {
    /// All addresses of a network.
    Network(IpNet),
    /// Whatever addresses this host has. Lower case, without a dot at the end.
    Host(String),
}

impl FromStr for AllowedTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse().ok();
        if let Some(network) = network.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            return Ok(Self::Network(network));
        }
        // A network with a slip in it must not become the name of a host.
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match !text.is_empty() && text.chars().all(fits) {
            true => Ok(Self::Host(host(text))),
            false => Err(format!("has {}", quoted(text))),
        }
    }
}

fn host(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl AllowedTarget {
    /// Whether it covers an address that `name`, if any, led to.
    pub fn covers(&self, name: Option<&str>, address: IpAddr) -> bool {
        match self {
            Self::Network(network) => network.contains(&address.to_canonical()),
            Self::Host(allowed) => name.is_some_and(|name| host(name) == *allowed),
        }
    }
}

pub(super) fn read(mut section: Section<'_>) -> WebhookSettings {
    const DAY_MS: u64 = 86_400_000;
    let default = WebhookSettings::default();
    let days = default.give_up_after.as_secs() / DAY.as_secs();
    let mut count =
        |key, default: NonZeroU32, most| at_least_one(section.u32_in(key, default.get(), 1..=most));
    let max_in_flight = count("max_in_flight", default.max_in_flight, 10_000);
    let per_endpoint = count(
        "max_in_flight_per_endpoint",
        default.max_in_flight_per_endpoint,
        1_000,
    );
    let breaker_failures = count("breaker_failures", default.breaker_failures, 1_000);
    let settings = WebhookSettings {
        timeout: section.duration_ms("timeout_ms", default.timeout, 100..=120_000),
        give_up_after: DAY * section.u32_in("max_attempts_days", u32::try_from(days).unwrap_or(1), 1..=30),
        retry_min: section.duration_ms("retry_min_ms", default.retry_min, 1..=DAY_MS),
        retry_max: section.duration_ms("retry_max_ms", default.retry_max, 1..=DAY_MS),
        max_in_flight,
        max_in_flight_per_endpoint: per_endpoint,
        breaker_failures,
        allow_targets: section.list(
            "allow_targets",
            "write networks and host names, such as [\"10.1.0.0/16\", \"erp.lan\"]",
            str::parse,
        ),
        endpoints: endpoints(&mut section),
    };
    if settings.retry_max < settings.retry_min {
        let (low, high) = (settings.retry_min.as_millis(), settings.retry_max.as_millis());
        let key = if section.was_set("retry_max_ms") {
            "retry_max_ms"
        } else {
            "retry_min_ms"
        };
        section.problem(
            key,
            format!("does not fit: retry_max_ms = {high} is below retry_min_ms = {low}"),
            format!("set retry_max_ms to at least {low}, or lower retry_min_ms"),
        );
    }
    section.finish();
    settings
}

fn endpoints(section: &mut Section<'_>) -> BTreeMap<String, EndpointSettings> {
    let mut endpoints = BTreeMap::new();
    for (name, origin, mut section) in section.sections("endpoints").into_iter().flatten() {
        let form = "use 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit";
        if LedgerName::new(&name).is_none() {
            section.problem_at(origin, "", "is not a valid name".to_owned(), form.to_owned());
        }
        let url = section.required(
            "url",
            "write an address such as \"https://erp.example/hooks/ledger\"",
            |text| match text.starts_with("https://") || text.starts_with("http://") {
                true => Ok(text.to_owned()),
                false => Err(format!("is {}", quoted(text))),
            },
        );
        let tenant = section.text("tenant", (TenantName::default(), "default"), form, |text| {
            TenantName::new(text).ok_or_else(|| format!("is {}", quoted(text)))
        });
        let settled = [Status::Done, Status::Failed];
        let statuses = section.list("statuses", "write [\"done\"], [\"failed\"] or both", |text| {
            let status = settled.into_iter().find(|status| status.as_str() == text);
            status.ok_or_else(|| format!("has {}", quoted(text)))
        });
        let secret = section.secret(
            "secret",
            "write whsec_ and 32 bytes in base64, or set the variable of this key",
            |text| {
                let key = text
                    .strip_prefix("whsec_")
                    .and_then(|rest| STANDARD.decode(rest).ok());
                match key.is_some_and(|key| key.len() == 32) {
                    true => Ok(Secret::new(text)),
                    false => Err("is no secret".to_owned()),
                }
            },
            |_| "***".to_owned(),
        );
        section.finish();
        let statuses = if statuses.is_empty() {
            settled.to_vec()
        } else {
            statuses
        };
        endpoints.insert(
            name,
            EndpointSettings {
                url,
                tenant,
                statuses,
                secret,
            },
        );
    }
    endpoints
}
