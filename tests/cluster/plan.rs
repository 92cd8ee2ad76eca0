//! What a site is to be, and how it is put together.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::ledger::Ledger;
use crate::node::{BINARY, Launch, Node};
use crate::postgres::Server;
use crate::proxy::Proxy;
use crate::rabbitmq::Broker;
use crate::site::{BrokerPart, DatabasePart, Site};

/// What the worker is allowed, over all processes together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Submissions a second.
    pub(crate) rate: f64,
    /// At once, after a quiet moment.
    pub(crate) burst: f64,
}

/// Within reach of an unoptimised build on two busy cores, or the bound would never be tried.
const USUAL: Limit = Limit {
    rate: 200.0,
    burst: 20.0,
};

/// Short leases and heartbeats: what takes long in production happens within a test.
/// All look-ups of a full lane, 50 at once, fit into half a lease, or the worker would call the ledger unavailable.
const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[store]
STORE
QUEUE
[log]
level = "info"
[shutdown]
drain_seconds = 5
[ledgers.main]
kind = "fabric"
peers = ["http://LEDGER"]
channel = "mychannel"
msp_id = "Org1MSP"
certificate = "FOLDER/org1/user.pem"
private_key = "FOLDER/org1/user.key"
commit_status_timeout_ms = 300
stall_after_ms = 2000
[ledgers.main.worker]
rate_per_second = RATE
burst = BURST
max_in_flight = 128
lease_seconds = 3
check_after_ms = 3000
[ledgers.main.retry]
min_ms = 5
max_ms = 60
max_attempts = 0
outage_min_ms = 50
outage_max_ms = 500
"#;

const QUEUE: &str = r#"[queue]
kind = "rabbitmq"
url = "BROKER"
prefix = "PREFIX"
heartbeat_seconds = 2"#;

/// One binary, three ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One gateway with its own store and queue.
    Embedded,
    /// One gateway with its own store, and a broker.
    Broker,
    /// Gateways that share a database and a broker.
    Cluster,
}

impl Topology {
    pub(crate) const ALL: [Self; 3] = [Self::Embedded, Self::Broker, Self::Cluster];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Broker => "broker",
            Self::Cluster => "cluster",
        }
    }

    /// The roles of its processes, unless a plan says otherwise.
    pub(crate) fn roles(self) -> &'static [&'static str] {
        match self {
            Self::Embedded | Self::Broker => &["all"],
            Self::Cluster => &["api", "api", "worker", "worker"],
        }
    }
}

/// A site to be.
pub(crate) struct Plan {
    topology: Topology,
    roles: Vec<&'static str>,
    engine: &'static str,
    store_path: String,
    binary: PathBuf,
    limit: Limit,
    replaced: Vec<(String, String)>,
    variables: Vec<(String, String)>,
}

impl Plan {
    pub(crate) fn new(topology: Topology) -> Self {
        Self {
            topology,
            roles: topology.roles().to_vec(),
            engine: "redb",
            store_path: "data".to_owned(),
            binary: BINARY.into(),
            limit: USUAL,
            replaced: Vec::new(),
            variables: Vec::new(),
        }
    }

    /// Gateways of another version.
    pub(crate) fn binary(mut self, binary: &Path) -> Self {
        binary.clone_into(&mut self.binary);
        self
    }

    /// Gateways of these roles.
    pub(crate) fn roles(mut self, roles: &[&'static str]) -> Self {
        self.roles = roles.to_vec();
        self
    }

    /// The engine of an embedded store: `redb` or `sled`.
    pub(crate) fn engine(mut self, engine: &'static str) -> Self {
        self.engine = engine;
        self
    }

    /// Where an embedded store is.
    pub(crate) fn store_path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.store_path);
        self
    }

    /// The worker may do so much.
    pub(crate) fn limit(mut self, rate: f64, burst: f64) -> Self {
        self.limit = Limit { rate, burst };
        self
    }

    /// One line of the configuration is another.
    pub(crate) fn replace(mut self, line: &str, other: &str) -> Self {
        self.replaced.push((line.to_owned(), other.to_owned()));
        self
    }

    /// A variable in the environment of every gateway; `NODE` in its value is the number of the gateway, `SITE` the
    /// folder of the site.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The site, up and running.
    pub(crate) async fn start(self) -> Site {
        let mut site = self.prepare().await;
        site.start_all().await;
        site
    }

    /// All but the gateways.
    #[expect(clippy::await_holding_lock, reason = "a site is alone on the machine")]
    pub(crate) async fn prepare(self) -> Site {
        static SITES: AtomicU32 = AtomicU32::new(0);
        // First, for it is here that tests wait for each other.
        let turn = tokio::task::block_in_place(turn);
        let broker = match self.topology {
            Topology::Embedded => None,
            Topology::Broker | Topology::Cluster => {
                let server = tokio::task::block_in_place(Broker::to_break);
                let line = Proxy::before(port(server.url())).await;
                let prefix = format!("site-{}", SITES.fetch_add(1, Ordering::Relaxed));
                Some(BrokerPart { server, line, prefix })
            }
        };
        let database = match self.topology {
            Topology::Embedded | Topology::Broker => None,
            Topology::Cluster => {
                let server = tokio::task::block_in_place(|| Server::start(&[]));
                let url = server.database();
                let line = Proxy::before(port(&url)).await;
                let server = Arc::new(server);
                Some(DatabasePart { server, line, url })
            }
        };
        let ledger = Ledger::start(false).await;
        let folder = tempfile::tempdir().expect("folder");
        let store = match &database {
            None => format!("path = \"{}\"\nengine = \"{}\"", self.store_path, self.engine),
            Some(part) => format!(
                "kind = \"postgres\"\nurl = \"{}\"\ntimeout_ms = 1000",
                through(&part.url, &part.line)
            ),
        };
        let queue = match &broker {
            None => String::new(),
            Some(part) => QUEUE
                .replace("BROKER", &through(part.server.url(), &part.line))
                .replace("PREFIX", &part.prefix),
        };
        let mut config = CONFIG
            .replace("STORE", &store)
            .replace("QUEUE", &queue)
            .replace("RATE", &self.limit.rate.to_string())
            .replace("BURST", &self.limit.burst.to_string())
            .replace("LEDGER", &ledger.address().to_string())
            .replace("FOLDER", ledger.folder().to_str().expect("UTF-8"));
        for (line, other) in &self.replaced {
            assert!(config.contains(line), "{line}");
            config = config.replace(line, other);
        }
        std::fs::write(folder.path().join("config.toml"), config).expect("writes");
        let site_folder = folder.path().to_str().expect("UTF-8");
        let launch = |(number, role): (usize, &&'static str)| Launch {
            binary: self.binary.clone(),
            folder: folder.path().to_owned(),
            role,
            variables: self
                .variables
                .iter()
                .map(|(name, value)| {
                    let value = value.replace("NODE", &number.to_string());
                    (name.clone(), value.replace("SITE", site_folder))
                })
                .collect(),
        };
        let launches = self.roles.iter().enumerate().map(launch).collect();
        Site {
            topology: self.topology,
            limit: self.limit,
            nodes: Vec::new(),
            launches,
            addresses: watch::Sender::default(),
            ledger,
            broker,
            database,
            store: folder.path().join(&self.store_path),
            folder,
            _turn: turn,
        }
    }
}

impl Site {
    /// Starts the gateways that the plan names.
    pub(crate) async fn start_all(&mut self) {
        let starts = std::mem::take(&mut self.launches).into_iter().map(Node::start);
        self.nodes = futures_util::future::join_all(starts).await;
        self.tell();
        self.keep_history();
    }
}

/// One site at a time: what one of them measures must not be the doing of another.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address `url`, by way of a proxy.
fn through(url: &str, line: &Proxy) -> String {
    url.replace(&format!(":{}/", port(url)), &format!(":{}/", line.port))
}

fn port(url: &str) -> u16 {
    let url = url::Url::parse(url).expect("an address");
    url.port().expect("a port")
}
