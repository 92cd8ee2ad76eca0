//! Every key there is: its name, its default, its bounds and the section it belongs to.
//!
//! The built-in values are the `Default`s of the settings, so they are written down once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use url::Url;

use super::problem::Origin;
use super::reader::{Findings, Section, quoted};
use super::settings::{
    AdaptiveSettings, BackendSettings, BackpressureMode, BackpressureSettings, DAY, DEFAULT_LEDGER,
    EmbeddedStoreSettings, HOUR, HttpSettings, LedgerSettings, LogFormat, LogSettings, MEBIBYTE,
    QueueSettings, RetentionSettings, Role, Settings, ShutdownSettings, SimulatorSettings, StoreSettings,
    WorkerSettings,
};
use super::tree::Table;
use super::{access, archive, fabric, otlp, postgres, rabbitmq, webhooks};
use crate::domain::{DelayStrategy, LedgerName, RetryPolicy, RetrySettings};
use crate::kv::EngineKind;

/// Reads everything. The settings are of use only if no problem was found.
pub(super) fn settings(tree: Table, findings: &Findings) -> Settings {
    let mut root = Section::root(tree, findings);
    let ledgers = ledgers(&mut root, findings);
    let settings = Settings {
        role: Role::default(),
        http: http(root.section("http")),
        auth: access::auth(root.section("auth")),
        tenants: access::tenants(&mut root, |ledger| ledgers.contains_key(ledger)),
        store: store(root.section("store")),
        queue: queue(root.section("queue")),
        backpressure: backpressure(root.section("backpressure")),
        retention: retention(root.section("retention")),
        archive: archive::read(root.section("archive")),
        webhooks: webhooks::read(root.section("webhooks")),
        log: log(root.section("log")),
        otlp: otlp::read(root.section("otlp")),
        shutdown: shutdown(root.section("shutdown")),
        ledgers,
    };
    if matches!(settings.store, StoreSettings::Postgres(_)) {
        what_only_one_can_have(&root, &settings);
    }
    root.finish();
    settings
}

/// Several processes may share the store; then nothing else may be one process's own.
fn what_only_one_can_have(root: &Section<'_>, settings: &Settings) {
    if settings.queue == QueueSettings::Embedded {
        root.problem(
            "queue",
            "does not fit: store.kind is \"postgres\", which several gateways may share, and an embedded queue cannot tell which of them is to submit",
            "set queue.kind = \"rabbitmq\" and queue.url, or store.kind = \"embedded\"",
        );
    }
    let own = |ledger: &LedgerSettings| matches!(ledger.backend, BackendSettings::Simulator(_));
    for (name, _) in settings.ledgers.iter().filter(|(_, ledger)| own(ledger)) {
        root.problem(
            "ledgers",
            format!("does not fit: store.kind is \"postgres\", which several gateways may share, and {name} is a simulator that each of them has for itself"),
            format!("set ledgers.{name}.kind = \"fabric\" and name a network that all reach; `sluicegate devnet` is one to try out"),
        );
    }
}

fn http(mut section: Section<'_>) -> HttpSettings {
    let default = HttpSettings::default();
    let shown = default.listen.to_string();
    let settings = HttpSettings {
        listen: section.text(
            "listen",
            (default.listen, &shown),
            "write an IP address and a port, such as \"127.0.0.1:8080\" or \"[::]:8080\"",
            |text| {
                text.parse::<SocketAddr>()
                    .map_err(|_| format!("is {}", quoted(text)))
            },
        ),
        tls: access::tls(&mut section),
        max_body_bytes: section.usize_in("max_body_bytes", default.max_body_bytes, 1024..=100 * 1024 * 1024),
        header_timeout: section.duration_ms("header_timeout_ms", default.header_timeout, 100..=600_000),
        body_timeout: section.duration_ms("body_timeout_ms", default.body_timeout, 100..=3_600_000),
        max_wait: section.duration_s("max_wait_seconds", default.max_wait, 1..=3600),
        cors_origins: section.list(
            "cors_origins",
            "write origins as browsers send them, such as [\"https://erp.example.com\", \"http://localhost:3000\"], or [\"*\"] for any",
            origin,
        ),
        max_streams: section.u32_in("max_streams", default.max_streams, 0..=1_000_000),
        stream_heartbeat: section.duration_s("stream_heartbeat_seconds", default.stream_heartbeat, 1..=3600),
    };
    section.finish();
    settings
}

/// A scheme and a host, and a port if it is not the usual one; nothing else would ever match what a browser sends.
fn origin(text: &str) -> Result<String, String> {
    let as_sent = |url: Url| url.origin().ascii_serialization() == text;
    let web = text.starts_with("http://") || text.starts_with("https://");
    match text == "*" || (web && Url::parse(text).is_ok_and(as_sent)) {
        true => Ok(text.to_owned()),
        false => Err(format!("has {}", quoted(text))),
    }
}

fn store(mut section: Section<'_>) -> StoreSettings {
    let default = EmbeddedStoreSettings::default();
    let kind = section.kind(&["embedded", "postgres"]);
    if kind == Some("postgres") {
        let settings = postgres::read(&mut section);
        section.finish();
        return StoreSettings::Postgres(settings);
    }
    if kind.is_none() {
        section.finish_unread();
        return StoreSettings::Embedded(default);
    }
    let shown = default.path.display().to_string();
    let settings = EmbeddedStoreSettings {
        path: section.text(
            "path",
            (default.path, &shown),
            "write the path of a directory, such as \"data\" or \"/var/lib/sluicegate\"",
            |text| match text.is_empty() || text.contains('\0') {
                false => Ok(PathBuf::from(text)),
                true => Err(format!("is {}", quoted(text))),
            },
        ),
        engine: section.one_of("engine", default.engine, &EngineKind::ALL, EngineKind::as_str),
        cache_bytes: section
            .usize_in("cache_mb", default.cache_bytes / MEBIBYTE, 1..=65_536)
            .saturating_mul(MEBIBYTE),
    };
    section.finish();
    StoreSettings::Embedded(settings)
}

fn queue(mut section: Section<'_>) -> QueueSettings {
    match section.kind(&["embedded", "rabbitmq"]) {
        Some("rabbitmq") => {
            let settings = rabbitmq::read(&mut section);
            section.finish();
            return QueueSettings::RabbitMq(Box::new(settings));
        }
        Some(_) => section.finish(),
        None => section.finish_unread(),
    }
    QueueSettings::Embedded
}

fn backpressure(mut section: Section<'_>) -> BackpressureSettings {
    let default = BackpressureSettings::default();
    let settings = BackpressureSettings {
        mode: section.one_of(
            "mode",
            default.mode,
            &BackpressureMode::ALL,
            BackpressureMode::as_str,
        ),
        max_pending: NonZeroU64::new(section.u64_in(
            "max_pending",
            default.max_pending.get(),
            1..=1_000_000_000,
        ))
        .unwrap_or(default.max_pending),
    };
    section.finish();
    settings
}

fn retention(mut section: Section<'_>) -> RetentionSettings {
    let default = RetentionSettings::default();
    let mut days = |key, default: Option<Duration>| {
        let default = default.map_or(0, |kept| kept.as_secs() / DAY.as_secs());
        let days = section.u64_in(key, default, 0..=36_500);
        (days > 0).then(|| Duration::from_secs(days * DAY.as_secs()))
    };
    let (done, failed, audit, deliveries) = (
        days("done_days", default.done),
        days("failed_days", default.failed),
        days("audit_days", default.audit),
        days("deliveries_days", default.deliveries),
    );
    let hours = section.u64_in(
        "events_hours",
        default.events.as_secs() / HOUR.as_secs(),
        1..=87_600,
    );
    let settings = RetentionSettings {
        done,
        failed,
        events: Duration::from_secs(hours * HOUR.as_secs()),
        audit,
        deliveries,
    };
    section.finish();
    settings
}

fn log(mut section: Section<'_>) -> LogSettings {
    let default = LogSettings::default();
    let shown = default.level.clone();
    let settings = LogSettings {
        level: section.text(
            "level",
            (default.level, &shown),
            "write error, warn, info, debug or trace, or directives such as \"info,sluicegate::worker=debug\"",
            |text| log_level(text).map(|()| text.to_owned()),
        ),
        format: section.one_of("format", default.format, &LogFormat::ALL, LogFormat::as_str),
    };
    section.finish();
    settings
}

/// Checks filter directives. `EnvFilter` takes a lone word for a module, so that a misspelt `ifno` would
/// silence everything else; here a lone word must be a level.
pub(crate) fn log_level(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let lone_word = |directive: &&str| !directive.contains(['=', '[', ']', '{', '}', '"']);
    let stray = text
        .split(',')
        .map(str::trim)
        .filter(lone_word)
        .find(|word| !LEVELS.contains(&word.to_ascii_lowercase().as_str()));
    if let Some(word) = stray {
        return Err(format!("has {}, which is no level", quoted(word)));
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("is {}", quoted(text))),
    }
}

fn shutdown(mut section: Section<'_>) -> ShutdownSettings {
    let default = ShutdownSettings::default();
    let settings = ShutdownSettings {
        lame_duck: section.duration_s("lame_duck_seconds", default.lame_duck, 0..=3600),
        drain: section.duration_s("drain_seconds", default.drain, 0..=3600),
    };
    section.finish();
    settings
}

fn ledgers(root: &mut Section<'_>, findings: &Findings) -> BTreeMap<LedgerName, LedgerSettings> {
    let configured = root.sections("ledgers").filter(|ledgers| !ledgers.is_empty());
    // Read even if nobody configured it, so that its values show up among the effective ones.
    let configured = configured.unwrap_or_else(|| {
        let mut nobody = Section::root(Table::new(), findings);
        vec![(
            DEFAULT_LEDGER.to_owned(),
            Origin::BuiltIn,
            nobody.section("ledgers").section(DEFAULT_LEDGER),
        )]
    });
    let mut ledgers = BTreeMap::new();
    for (name, origin, section) in configured {
        let checked = LedgerName::new(&name);
        if checked.is_none() {
            section.problem_at(
                origin.clone(),
                "",
                "is not a valid name of a ledger".to_owned(),
                "use 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit".to_owned(),
            );
        }
        let unheard = matches!(origin, Origin::Variable(_)) && name != DEFAULT_LEDGER;
        let settings = ledger(section, unheard.then_some(origin));
        ledgers.extend(checked.map(|name| (name, settings)));
    }
    ledgers
}

/// `unheard` is the variable that is the first to mention this ledger: a slip in a name must not bring
/// another ledger into being.
fn ledger(mut section: Section<'_>, unheard: Option<Origin>) -> LedgerSettings {
    let default = LedgerSettings::default();
    let kind = section.kind(&["simulator", "fabric"]);
    if let Some(variable) = unheard.filter(|_| !section.was_set("kind")) {
        let remedy = "correct the name, or set its `kind` to configure another ledger";
        let what = "is a ledger that the file does not know";
        section.problem_at(variable, "", what.to_owned(), remedy.to_owned());
    }
    let mut backend = match kind {
        Some("fabric") => BackendSettings::Fabric(Box::new(fabric::read(&mut section))),
        Some(_) => simulator(&mut section),
        None => default.backend,
    };
    let mut worker = worker(section.section("worker"));
    worker.adaptive = adaptive(section.section("adaptive"), worker.rate_per_second);
    let retry = retry(section.section("retry"), &default.retry);
    if let BackendSettings::Fabric(fabric) = &mut backend {
        fabric::within_lease(&section, fabric, worker.lease);
    }
    match kind {
        Some(_) => section.finish(),
        None => section.finish_unread(),
    }
    LedgerSettings {
        backend,
        worker,
        retry,
    }
}

fn simulator(section: &mut Section<'_>) -> BackendSettings {
    let default = SimulatorSettings::default();
    BackendSettings::Simulator(SimulatorSettings {
        batch_timeout: section.duration_ms("batch_timeout_ms", default.batch_timeout, 1..=60_000),
        max_message_count: count(section, "max_message_count", default.max_message_count, 100_000),
    })
}

/// A whole number from 1 to `most`.
fn count(section: &mut Section<'_>, key: &'static str, default: NonZeroU32, most: u32) -> NonZeroU32 {
    NonZeroU32::new(section.u32_in(key, default.get(), 1..=most)).unwrap_or(default)
}

fn worker(mut section: Section<'_>) -> WorkerSettings {
    let default = WorkerSettings::default();
    let settings = WorkerSettings {
        rate_per_second: section.f64_in("rate_per_second", default.rate_per_second, 0.001..=1_000_000.0),
        burst: count(&mut section, "burst", default.burst, 1_000_000),
        max_in_flight: count(&mut section, "max_in_flight", default.max_in_flight, 100_000),
        batch_size: count(&mut section, "batch_size", default.batch_size, 10_000),
        batch_timeout: section.duration_ms("batch_timeout_ms", default.batch_timeout, 0..=60_000),
        lease: section.duration_s("lease_seconds", default.lease, 1..=3600),
        check_after: section.duration_ms("check_after_ms", default.check_after, 100..=3_600_000),
        adaptive: None,
    };
    let smallest = WorkerSettings::smallest_burst(settings.rate_per_second);
    if settings.burst < smallest {
        let key = if section.was_set("burst") {
            "burst"
        } else {
            "rate_per_second"
        };
        section.problem(
            key,
            format!(
                "does not fit: timers tick in milliseconds, so a burst of {} cannot reach {} per second",
                settings.burst, settings.rate_per_second
            ),
            format!("set burst to {smallest} or more"),
        );
    }
    section.finish();
    settings
}

fn adaptive(mut section: Section<'_>, most: f64) -> Option<AdaptiveSettings> {
    let default = AdaptiveSettings::default();
    let enabled = section.flag("enabled", false);
    let settings = AdaptiveSettings {
        min_rate_per_second: section.f64_in(
            "min_rate_per_second",
            default.min_rate_per_second.min(most),
            0.001..=1_000_000.0,
        ),
        max_latency: section.duration_ms("max_latency_ms", default.max_latency, 1..=3_600_000),
        max_conflict_share: section.f64_in("max_conflict_share", default.max_conflict_share, 0.0..=1.0),
    };
    if settings.min_rate_per_second > most {
        section.problem(
            "min_rate_per_second",
            format!(
                "does not fit: {} is above rate_per_second = {most}",
                settings.min_rate_per_second
            ),
            "lower it, or raise rate_per_second".to_owned(),
        );
    }
    section.finish();
    enabled.then_some(settings)
}

fn retry(mut section: Section<'_>, default: &RetryPolicy) -> RetryPolicy {
    let strategy = section.one_of(
        "strategy",
        default.conflict.strategy,
        &DelayStrategy::ALL,
        DelayStrategy::as_str,
    );
    let conflict = budget(
        &mut section,
        ["min_ms", "max_ms", "max_attempts"],
        strategy,
        &default.conflict,
    );
    let outage = budget(
        &mut section,
        ["outage_min_ms", "outage_max_ms", "outage_max_attempts"],
        default.outage.strategy,
        &default.outage,
    );
    section.finish();
    RetryPolicy { conflict, outage }
}

fn budget(
    section: &mut Section<'_>,
    [min, max, attempts]: [&'static str; 3],
    strategy: DelayStrategy,
    default: &RetrySettings,
) -> RetrySettings {
    const DAY_MS: u64 = 86_400_000;
    let limit = default.max_attempts.map_or(0, NonZeroU32::get);
    let settings = RetrySettings {
        strategy,
        min: section.duration_ms(min, default.min, 1..=DAY_MS),
        max: section.duration_ms(max, default.max, 1..=DAY_MS),
        max_attempts: NonZeroU32::new(section.u32_in(attempts, limit, 0..=1_000_000)),
    };
    if settings.max < settings.min {
        let (low, high) = (settings.min.as_millis(), settings.max.as_millis());
        let key = if section.was_set(max) { max } else { min };
        section.problem(
            key,
            format!("does not fit: {max} = {high} is below {min} = {low}"),
            format!("set {max} to at least {low}, or lower {min}"),
        );
    }
    settings
}
