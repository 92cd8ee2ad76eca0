//! `[otlp]`: where metrics, traces and logs are pushed to.

use std::time::Duration;

use url::{Host, Url};

use super::reader::Section;
use super::secret::Secret;

const ENDPOINT: &str = "write an address such as \"http://127.0.0.1:4318\"";
const HEADERS: &str = "write name=value, and more after a comma, such as \"authorization=Bearer abc\"";

/// `[otlp]`
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpSettings {
    /// The address of the collector, without a slash at its end; `/v1/traces` and the like follow.
    pub endpoint: String,
    /// What goes with each request, by lower-case name.
    pub headers: Vec<(String, Secret)>,
    /// Whether metrics are pushed ...
    pub metrics: bool,
    /// ... and traces ...
    pub traces: bool,
    /// ... and logs.
    pub logs: bool,
    /// How often metrics are.
    pub metrics_interval: Duration,
    /// Of the requests that bring no trace, the share that begins one; from 0 to 1.
    pub trace_ratio: f64,
    /// How long the collector may take to answer.
    pub timeout: Duration,
    /// What the telemetry is known as.
    pub service_name: String,
}

/// `None` if nothing is pushed.
pub(super) fn read(mut section: Section<'_>) -> Option<OtlpSettings> {
    let endpoint = section.optional("endpoint", ENDPOINT, endpoint);
    let headers = section.secret("headers", HEADERS, headers, |_| "***".to_owned());
    let settings = OtlpSettings {
        endpoint: String::new(),
        headers: headers.unwrap_or_default(),
        metrics: section.flag("metrics", true),
        traces: section.flag("traces", true),
        logs: section.flag("logs", true),
        metrics_interval: section.duration_s("metrics_interval_seconds", Duration::from_secs(15), 1..=3_600),
        trace_ratio: section.f64_in("trace_ratio", 1.0, 0.0..=1.0),
        timeout: section.duration_ms("timeout_ms", Duration::from_secs(10), 100..=120_000),
        service_name: section.text(
            "service_name",
            ("sluicegate".to_owned(), "sluicegate"),
            "write a name such as \"sluicegate\"",
            |text| match text.trim().is_empty() {
                true => Err("is empty".to_owned()),
                false => Ok(text.to_owned()),
            },
        ),
    };
    let is_open = endpoint.as_ref().is_some_and(|(_, is_open)| *is_open);
    if is_open && !settings.headers.is_empty() {
        let remedy = "write https, or name a collector on this machine";
        section.problem("endpoint", "is not encrypted, and the headers are secret", remedy);
    }
    if !section.was_set("endpoint") && section.was_set("headers") {
        section.problem(
            "headers",
            "does not fit: there is no endpoint",
            "set endpoint as well",
        );
    }
    section.finish();
    endpoint.map(|(endpoint, _)| OtlpSettings { endpoint, ..settings })
}

/// The address, and whether others can read what goes there.
fn endpoint(text: &str) -> Result<(String, bool), String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL: {error}"))?;
    let bare = url.username().is_empty() && url.password().is_none();
    let bare = bare && url.query().is_none() && url.fragment().is_none();
    if !bare || !matches!(url.scheme(), "http" | "https") {
        return Err("is not the plain address of a server, http or https".to_owned());
    }
    for signal in ["/v1/traces", "/v1/metrics", "/v1/logs"] {
        if url.path().trim_end_matches('/').ends_with(signal) {
            return Err(format!("ends with {signal}, which is added to it"));
        }
    }
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let is_open = url.scheme() == "http" && !is_here;
    Ok((text.trim_end_matches('/').to_owned(), is_open))
}

/// As `OTEL_EXPORTER_OTLP_HEADERS` has them. Values are secret, so they are not quoted.
fn headers(text: &str) -> Result<Vec<(String, Secret)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| "has something without a =".to_owned())?;
            let (name, value) = (name.trim(), value.trim());
            let fits = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
            if name.is_empty() || !name.bytes().all(fits) {
                return Err("has a name that no header can have".to_owned());
            }
            if value.is_empty() || !value.bytes().all(|c| matches!(c, b' '..=b'~')) {
                return Err(format!("has no value for {name} that a header can have"));
            }
            Ok((name.to_ascii_lowercase(), Secret::new(value)))
        })
        .collect()
}
