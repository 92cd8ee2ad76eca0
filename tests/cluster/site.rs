//! A whole installation: gateways, broker, database, ledger, with a proxy on each line that may break.
//!
//! The broker is one for all tests and may be broken, so a site holds it alone: one test at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU32, Ordering};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use tokio::sync::watch;

use crate::node::{LOG, Node};
use crate::postgres::Server;
use crate::proxy::{Fault, Proxy};
use crate::rabbitmq::Broker;
use crate::recorder::Recorder;
use crate::support::eventually;

/// What the worker is allowed, over all processes together. Within reach of an unoptimised build on
/// two busy cores, or the bound would never be tried.
pub(crate) const RATE: f64 = 200.0;
pub(crate) const BURST: f64 = 20.0;

/// Short leases and heartbeats: what takes long in production happens within a test.
/// All look-ups of a full lane, 50 at once, fit into half a lease, or the worker would call the ledger unavailable.
const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"
[store]
STORE
[queue]
kind = "rabbitmq"
url = "BROKER"
prefix = "PREFIX"
heartbeat_seconds = 2
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
rate_per_second = 200
burst = 20
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

enum Store {
    /// Each gateway its own.
    Own,
    /// A database.
    Shared,
}

pub(crate) struct Site {
    pub(crate) nodes: Vec<Node>,
    roles: Vec<&'static str>,
    /// Where those are that take requests.
    pub(crate) addresses: watch::Sender<Vec<String>>,
    pub(crate) ledger: Arc<Recorder>,
    /// The line to the broker.
    pub(crate) amqp: Proxy,
    pub(crate) broker: MutexGuard<'static, Broker>,
    database: Option<(Server, Proxy)>,
    prefix: String,
    folder: tempfile::TempDir,
}

impl Site {
    /// One gateway with its own store, and a broker.
    pub(crate) async fn broker() -> Self {
        Self::broker_with("", "").await
    }

    /// The same, with one line of the configuration replaced.
    pub(crate) async fn broker_with(line: &str, other: &str) -> Self {
        let mut site = Self::prepare(Store::Own, &["all"]).await;
        let file = site.folder.path().join("config.toml");
        let config = std::fs::read_to_string(&file).expect("reads");
        assert!(config.contains(line), "{line}");
        if !line.is_empty() {
            std::fs::write(&file, config.replace(line, other)).expect("writes");
        }
        site.start_all().await;
        site
    }

    /// The same, but at first the broker cannot be reached.
    pub(crate) async fn broker_away() -> Self {
        let mut site = Self::prepare(Store::Own, &["all"]).await;
        site.amqp.set(Fault::Cut);
        site.start_all().await;
        site
    }

    /// Gateways of these roles that share a database of their own.
    pub(crate) async fn cluster(roles: &[&'static str]) -> Self {
        let mut site = Self::prepare(Store::Shared, roles).await;
        site.start_all().await;
        site
    }

    #[expect(clippy::await_holding_lock, reason = "the broker is for one test at a time")]
    async fn prepare(store: Store, roles: &[&'static str]) -> Self {
        static SITES: AtomicU32 = AtomicU32::new(0);
        // First, for it is here that tests wait for each other.
        let broker = tokio::task::block_in_place(Broker::to_break);
        let server = match store {
            Store::Own => None,
            Store::Shared => Some(tokio::task::block_in_place(|| Server::start(&[]))),
        };
        let folder = tempfile::tempdir().expect("folder");
        let ledger = Recorder::start(false).await;
        let prefix = format!("site-{}", SITES.fetch_add(1, Ordering::Relaxed));
        let amqp = Proxy::before(port(broker.url())).await;
        let database = match server {
            None => None,
            Some(server) => {
                let url = server.database();
                let proxy = Proxy::before(port(&url)).await;
                let through = url.replace(&format!(":{}/", port(&url)), &format!(":{}/", proxy.port));
                Some((server, proxy, through))
            }
        };
        let store = match &database {
            None => "path = \"data\"".to_owned(),
            Some((_, _, url)) => format!("kind = \"postgres\"\nurl = \"{url}\"\ntimeout_ms = 1000"),
        };
        let through = broker
            .url()
            .replace(&format!(":{}/", port(broker.url())), &format!(":{}/", amqp.port));
        let config = CONFIG
            .replace("STORE", &store)
            .replace("BROKER", &through)
            .replace("PREFIX", &prefix)
            .replace("LEDGER", &ledger.address.to_string())
            .replace("FOLDER", ledger.folder().to_str().expect("UTF-8"));
        std::fs::write(folder.path().join("config.toml"), config).expect("writes");
        Self {
            nodes: Vec::new(),
            roles: roles.to_vec(),
            addresses: watch::Sender::new(Vec::new()),
            ledger,
            amqp,
            broker,
            database: database.map(|(server, proxy, _)| (server, proxy)),
            prefix,
            folder,
        }
    }

    async fn start_all(&mut self) {
        let folder: PathBuf = self.folder.path().to_owned();
        let starts = self.roles.iter().map(|role| Node::start(&folder, role));
        self.nodes = futures_util::future::join_all(starts).await;
        self.tell();
    }

    /// Clients learn where the gateways are.
    fn tell(&self) {
        let takes_requests = self
            .nodes
            .iter()
            .zip(&self.roles)
            .filter(|(_, role)| **role != "worker");
        self.addresses
            .send_replace(takes_requests.map(|(node, _)| node.address.clone()).collect());
    }

    /// Starts a node that was killed.
    pub(crate) async fn start(&mut self, number: usize) {
        self.nodes[number] = Node::start(self.folder.path(), self.roles[number]).await;
        self.tell();
    }

    /// Stops a node as an operator would, and starts it again. Clients learn that it goes when it is gone.
    pub(crate) async fn restart(&mut self, number: usize) {
        self.nodes[number].stop().await;
        self.start(number).await;
    }

    /// A node that takes requests.
    pub(crate) fn api(&self) -> &Node {
        let number = self.roles.iter().position(|role| *role != "worker").expect("one");
        &self.nodes[number]
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = &Node> {
        let pairs = self.nodes.iter().zip(&self.roles);
        pairs.filter(|(_, role)| **role != "api").map(|(node, _)| node)
    }

    /// The number of the worker that submits at the moment.
    pub(crate) async fn active_worker(&self) -> usize {
        let mut before = Vec::new();
        for node in &self.nodes {
            before.push(node.submissions().await);
        }
        eventually("somebody submits", async || {
            for (number, node) in self.nodes.iter().enumerate() {
                if node.submissions().await > before[number] {
                    return Some(number);
                }
            }
            None
        })
        .await
    }

    /// Waits until the ledger has had more than so many further submissions.
    pub(crate) async fn work_goes_on(&self, submissions: usize) {
        let before = self.ledger.sent().await.len();
        eventually("somebody submits", async || {
            (self.ledger.sent().await.len() > before + submissions).then_some(())
        })
        .await;
    }

    pub(crate) fn has_database(&self) -> bool {
        self.database.is_some()
    }

    pub(crate) fn database(&self) -> &Server {
        &self.database.as_ref().expect("a cluster").0
    }

    pub(crate) fn database_line(&self) -> &Proxy {
        &self.database.as_ref().expect("a cluster").1
    }

    /// The name of the ledger's queue.
    pub(crate) fn queue(&self) -> String {
        format!("{}.main", self.prefix)
    }

    /// Messages in the ledger's queue, in hand or not.
    pub(crate) fn messages(&self) -> u64 {
        self.depth(&self.queue())
    }

    pub(crate) fn dead_letters(&self) -> u64 {
        self.depth(&format!("{}.dead", self.queue()))
    }

    fn depth(&self, queue: &str) -> u64 {
        let listed = tokio::task::block_in_place(|| self.broker.ctl(&["list_queues", "name", "messages"]));
        let depth = listed
            .lines()
            .find_map(|line| line.strip_prefix(queue)?.trim().parse().ok());
        depth.unwrap_or_default()
    }

    /// Puts messages into the ledger's queue, as whoever has the broker's password may.
    pub(crate) async fn publish(&self, bodies: &[String]) {
        let broker = Connection::connect(self.broker.url(), ConnectionProperties::default());
        let broker = broker.await.expect("connects");
        let channel = broker.create_channel().await.expect("opens");
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .expect("confirms");
        for body in bodies {
            let options = BasicPublishOptions::default();
            let queue = self.queue();
            let sent = channel.basic_publish(
                "".into(),
                queue.as_str().into(),
                options,
                body.as_bytes(),
                BasicProperties::default(),
            );
            sent.await.expect("sends").await.expect("is taken");
        }
    }
}

impl Drop for Site {
    /// A test that failed shows what the gateways had to say.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join(LOG)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

fn port(url: &str) -> u16 {
    let url = url::Url::parse(url).expect("an address");
    url.port().expect("a port")
}
