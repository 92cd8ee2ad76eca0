//! The checked settings. Whoever holds a [`Settings`] need not check anything again.
//!
//! The `Default` values here are the built-in ones; the `config.toml` that ships with the gateway spells
//! out the same values, and a test holds the two together.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use super::access::{AuthSettings, TenantSettings, TlsSettings};
use super::archive::ArchiveSettings;
use super::fabric::FabricSettings;
use super::otlp::OtlpSettings;
use super::postgres::PostgresSettings;
use super::rabbitmq::RabbitSettings;
use super::webhooks::WebhookSettings;
use crate::domain::{DelayStrategy, LedgerName, RetryPolicy, RetrySettings, TenantName};
use crate::kv::EngineKind;

/// One day.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// One hour.
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
/// One mebibyte.
pub(super) const MEBIBYTE: usize = 1024 * 1024;

/// `count` itself, or 1 instead of 0.
pub(super) const fn at_least_one(count: u32) -> NonZeroU32 {
    match NonZeroU32::new(count) {
        Some(count) => count,
        None => NonZeroU32::MIN,
    }
}

/// What a process does; together they do everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Everything.
    #[default]
    All,
    /// Accepts requests and answers questions.
    Api,
    /// Submits to the ledgers.
    Worker,
}

/// Everything an operator decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What this process does; not in the file, which all processes may share.
    pub role: Role,
    /// The HTTP API.
    pub http: HttpSettings,
    /// How credentials are checked.
    pub auth: AuthSettings,
    /// What is allowed to each tenant; those that are not named have no limits.
    pub tenants: BTreeMap<TenantName, TenantSettings>,
    /// Where records are kept.
    pub store: StoreSettings,
    /// How workers learn of work.
    pub queue: QueueSettings,
    /// What happens when producers are faster than the ledgers.
    pub backpressure: BackpressureSettings,
    /// How long settled records are kept.
    pub retention: RetentionSettings,
    /// Where records go before retention removes them, if they are to be kept.
    pub archive: Option<ArchiveSettings>,
    /// How callers are told what became of their transactions.
    pub webhooks: WebhookSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Where metrics, traces and logs are pushed to, if anywhere.
    pub otlp: Option<OtlpSettings>,
    /// How the gateway stops.
    pub shutdown: ShutdownSettings,
    /// The ledgers by name; never empty.
    pub ledgers: BTreeMap<LedgerName, LedgerSettings>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            role: Role::default(),
            http: HttpSettings::default(),
            auth: AuthSettings::default(),
            tenants: BTreeMap::new(),
            store: StoreSettings::default(),
            queue: QueueSettings::default(),
            backpressure: BackpressureSettings::default(),
            retention: RetentionSettings::default(),
            archive: None,
            webhooks: WebhookSettings::default(),
            log: LogSettings::default(),
            otlp: None,
            shutdown: ShutdownSettings::default(),
            ledgers: LedgerName::new(DEFAULT_LEDGER)
                .map(|name| (name, LedgerSettings::default()))
                .into_iter()
                .collect(),
        }
    }
}

/// The ledger there is when nobody configures one.
pub(super) const DEFAULT_LEDGER: &str = "main";

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address and port to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// How connections are secured; `None` without TLS.
    pub tls: Option<TlsSettings>,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// How long a client may take to send its request head.
    pub header_timeout: Duration,
    /// How long a client may take to send its request body.
    pub body_timeout: Duration,
    /// Longest time a request may ask to be held (`?wait=`, `Prefer: wait=`).
    pub max_wait: Duration,
    /// Origins whose pages may use the API in a browser, each as browsers send it; `*` stands for any.
    pub cors_origins: Vec<String>,
    /// How many event streams may be open.
    pub max_streams: u32,
    /// How long an event stream may be silent before it gives a sign of life.
    pub stream_heartbeat: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            tls: None,
            max_body_bytes: MEBIBYTE,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            max_wait: Duration::from_secs(60),
            cors_origins: Vec::new(),
            max_streams: 10_000,
            stream_heartbeat: Duration::from_secs(15),
        }
    }
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSettings {
    /// A database inside this process.
    Embedded(EmbeddedStoreSettings),
    /// A database that any number of gateways share.
    Postgres(PostgresSettings),
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self::Embedded(EmbeddedStoreSettings::default())
    }
}

impl StoreSettings {
    /// An embedded store in the directory `path`.
    pub fn embedded_at(path: PathBuf) -> Self {
        Self::Embedded(EmbeddedStoreSettings {
            path,
            ..EmbeddedStoreSettings::default()
        })
    }
}

/// `[store]`, of kind `embedded`: a database inside this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedStoreSettings {
    /// Directory of the database; a relative one starts where the gateway was started.
    pub path: PathBuf,
    /// The engine that keeps it.
    pub engine: EngineKind,
    /// Memory for its cache, in bytes.
    pub cache_bytes: usize,
}

impl Default for EmbeddedStoreSettings {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data"),
            engine: EngineKind::Redb,
            cache_bytes: 64 * MEBIBYTE,
        }
    }
}

/// `[queue]`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueueSettings {
    /// Derived from the store; no other process.
    #[default]
    Embedded,
    /// A broker between those who accept and those who submit.
    RabbitMq(Box<RabbitSettings>),
}

/// `[backpressure]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackpressureSettings {
    /// What happens when producers are faster than the ledgers.
    pub mode: BackpressureMode,
    /// How many unsettled transactions there may be; only [`BackpressureMode::Drop`] enforces it.
    pub max_pending: NonZeroU64,
}

impl Default for BackpressureSettings {
    fn default() -> Self {
        Self {
            mode: BackpressureMode::Buffer,
            max_pending: at_least_one(1_000_000).into(),
        }
    }
}

/// What happens when producers are faster than the ledgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackpressureMode {
    /// Accept always; the backlog grows on the disk.
    Buffer,
    /// Refuse with 503 and `Retry-After` while there are `max_pending` unsettled transactions.
    Drop,
    /// Accept always, and tell producers backlog and drain rate in `RateLimit` headers.
    Control,
}

impl BackpressureMode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Buffer, Self::Drop, Self::Control];

    /// The name in the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Buffer => "buffer",
            Self::Drop => "drop",
            Self::Control => "control",
        }
    }
}

/// `[retention]`; pending records are never removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionSettings {
    /// How long a `done` record is kept after it settled; `None` is for ever.
    pub done: Option<Duration>,
    /// How long a `failed` record is kept after it settled; `None` is for ever.
    pub failed: Option<Duration>,
    /// How long an entry of the audit log is kept; `None` is for ever.
    pub audit: Option<Duration>,
    /// How long it is known in which order records changed: for event streams that go on where they were.
    pub events: Duration,
    /// How long a webhook's delivery is kept after its end; `None` is for ever.
    pub deliveries: Option<Duration>,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            done: Some(30 * DAY),
            failed: Some(90 * DAY),
            audit: Some(400 * DAY),
            events: 7 * DAY,
            deliveries: Some(7 * DAY),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Directives of `tracing_subscriber::EnvFilter`, checked: `info`, or `info,sluicegate::worker=debug`.
    pub level: String,
    /// How a log line looks.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Pretty,
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line, for collectors.
    Json,
}

impl LogFormat {
    /// Both formats.
    pub const ALL: [Self; 2] = [Self::Pretty, Self::Json];

    /// The name in the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

/// `[shutdown]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownSettings {
    /// How long it still serves, and says that it is not ready, after it was told to stop; zero stops serving at once.
    pub lame_duck: Duration,
    /// How long open requests and submissions may take to finish; zero stops at once. Nothing accepted is
    /// lost either way.
    pub drain: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self {
            lame_duck: Duration::ZERO,
            drain: Duration::from_secs(20),
        }
    }
}

/// `[ledgers.<name>]`
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerSettings {
    /// What kind of ledger it is, with what only that kind needs.
    pub backend: BackendSettings,
    /// How fast and in what portions it is fed.
    pub worker: WorkerSettings,
    /// When a submission is tried again, and when it is given up.
    pub retry: RetryPolicy,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self {
            backend: BackendSettings::Simulator(SimulatorSettings::default()),
            worker: WorkerSettings::default(),
            retry: RetryPolicy {
                conflict: RetrySettings {
                    strategy: DelayStrategy::Jitter,
                    min: Duration::from_millis(50),
                    max: Duration::from_millis(500),
                    max_attempts: NonZeroU32::new(20),
                },
                outage: RetrySettings {
                    strategy: DelayStrategy::Exponential,
                    min: Duration::from_millis(250),
                    max: Duration::from_secs(10),
                    max_attempts: None,
                },
            },
        }
    }
}

/// What kind of ledger it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendSettings {
    /// A ledger inside this process that behaves like Fabric.
    Simulator(SimulatorSettings),
    /// A channel of a Hyperledger Fabric network.
    Fabric(Box<FabricSettings>),
}

/// `[ledgers.<name>]` of kind `simulator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatorSettings {
    /// A block is cut this long after its first transaction at the latest.
    pub batch_timeout: Duration,
    /// A block is cut when it holds so many transactions.
    pub max_message_count: NonZeroU32,
}

impl Default for SimulatorSettings {
    fn default() -> Self {
        Self {
            batch_timeout: Duration::from_millis(500),
            max_message_count: at_least_one(10),
        }
    }
}

/// `[ledgers.<name>.worker]`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkerSettings {
    /// Submissions per second, retries included; finite, from 0.001 to 1,000,000.
    pub rate_per_second: f64,
    /// How many submissions may go out at once after a quiet moment; at least `rate_per_second / 500`.
    pub burst: NonZeroU32,
    /// How many submissions may await their outcome at the same time.
    pub max_in_flight: NonZeroU32,
    /// A batch is taken on when it holds so many transactions ...
    pub batch_size: NonZeroU32,
    /// ... or so long after its first one came in; zero does not wait for others.
    pub batch_timeout: Duration,
    /// How long a claimed transaction stays this worker's before another may take it.
    pub lease: Duration,
    /// How long after submission the ledger is asked for an outcome that has not come by itself.
    pub check_after: Duration,
    /// Whether the rate follows what the ledger bears, below `rate_per_second`: `[ledgers.<name>.adaptive]`.
    pub adaptive: Option<AdaptiveSettings>,
}

/// `[ledgers.<name>.adaptive]`: what the ledger is to be spared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptiveSettings {
    /// The rate is not lowered below this; finite, from 0.001 to 1,000,000.
    pub min_rate_per_second: f64,
    /// The mean time from sending to the ledger's verdict above which the rate is lowered.
    pub max_latency: Duration,
    /// The part of verdicts that are conflicts above which the rate is lowered, from 0 to 1.
    pub max_conflict_share: f64,
}

impl Default for AdaptiveSettings {
    fn default() -> Self {
        Self {
            min_rate_per_second: 1.0,
            max_latency: Duration::from_secs(5),
            max_conflict_share: 0.5,
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            rate_per_second: 100.0,
            burst: at_least_one(20),
            max_in_flight: at_least_one(256),
            batch_size: at_least_one(50),
            batch_timeout: Duration::from_millis(20),
            lease: Duration::from_secs(10),
            check_after: Duration::from_secs(5),
            adaptive: None,
        }
    }
}

impl WorkerSettings {
    /// The smallest burst with which `rate_per_second` can be reached. Timers tick in milliseconds and may
    /// be one late, so up to two milliseconds' worth has to go out at once.
    pub fn smallest_burst(rate_per_second: f64) -> NonZeroU32 {
        // `as` saturates, and turns what is not a number into 0.
        at_least_one((rate_per_second / 500.0).ceil() as u32)
    }
}
