//! A whole installation: gateways, broker, database, ledger, with a proxy on each line that may break.
//!
//! [`Plan`] says what there is. The broker is one for all tests and may be broken, and tests measure time, so there is
//! one site at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::sync::watch;

use crate::ledger::Ledger;
use crate::node::{LOG, Launch, Node};
use crate::plan::{Limit, Plan, Topology};
use crate::postgres::Server;
use crate::proxy::Proxy;
use crate::rabbitmq::Broker;
use crate::support::eventually;

/// Where gateways take requests, by their number.
pub(crate) type Addresses = BTreeMap<usize, String>;

/// In a database, every version of every record, noted by the database itself.
const HISTORY: &str = "
CREATE SCHEMA oracle;
CREATE TABLE oracle.history (n bigserial, id uuid, version bigint, stage text, attempts bigint);
CREATE FUNCTION oracle.work() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'INSERT' OR NEW.version <> OLD.version THEN
        INSERT INTO oracle.history (id, version, stage, attempts)
        VALUES (NEW.transaction_id, NEW.version, NEW.stage, NEW.attempts);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION oracle.settled() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO oracle.history (id, version, stage, attempts)
    VALUES (NEW.transaction_id, NEW.version, NEW.status, NEW.attempts);
    RETURN NULL;
END $$;
CREATE TRIGGER history AFTER INSERT OR UPDATE ON work FOR EACH ROW EXECUTE FUNCTION oracle.work();
CREATE TRIGGER history AFTER INSERT OR UPDATE ON settled FOR EACH ROW EXECUTE FUNCTION oracle.settled();";

/// The broker, which this site has to itself.
pub(crate) struct BrokerPart {
    pub(crate) server: MutexGuard<'static, &'static Broker>,
    pub(crate) line: Proxy,
    /// What the names of this site's queues begin with.
    pub(crate) prefix: String,
}

/// A database server with one database.
pub(crate) struct DatabasePart {
    pub(crate) server: Arc<Server>,
    pub(crate) line: Proxy,
    pub(crate) url: String,
}

impl DatabasePart {
    /// Runs a statement and answers what it printed.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let name = self.url.rsplit('/').next().expect("a name");
        tokio::task::block_in_place(|| self.server.sql(name, statement))
    }
}

pub(crate) struct Site {
    pub(crate) topology: Topology,
    /// What the worker is allowed.
    pub(crate) limit: Limit,
    pub(crate) nodes: Vec<Node>,
    /// Of nodes that are yet to be started.
    pub(crate) launches: Vec<Launch>,
    pub(crate) addresses: watch::Sender<Addresses>,
    pub(crate) ledger: Ledger,
    pub(crate) broker: Option<BrokerPart>,
    pub(crate) database: Option<DatabasePart>,
    /// Where an embedded store is.
    pub(crate) store: PathBuf,
    pub(crate) folder: tempfile::TempDir,
    /// Held to the end.
    pub(crate) _turn: MutexGuard<'static, ()>,
}

impl Site {
    /// One gateway with its own store, and a broker.
    pub(crate) async fn broker() -> Self {
        Plan::new(Topology::Broker).start().await
    }

    /// The same, with one line of the configuration replaced.
    pub(crate) async fn broker_with(line: &str, other: &str) -> Self {
        Plan::new(Topology::Broker).replace(line, other).start().await
    }

    /// Gateways of these roles that share a database of their own.
    pub(crate) async fn cluster(roles: &[&'static str]) -> Self {
        Plan::new(Topology::Cluster).roles(roles).start().await
    }

    /// The broker of a site that has one.
    pub(crate) fn broker_part(&self) -> &BrokerPart {
        self.broker.as_ref().expect("has a broker")
    }

    /// The database of a site that has one.
    pub(crate) fn database_part(&self) -> &DatabasePart {
        self.database.as_ref().expect("has a database")
    }

    /// Has the database note every version of every record, from now on.
    pub(crate) fn keep_history(&self) {
        if let Some(database) = &self.database {
            database.sql(HISTORY);
        }
    }

    /// Clients learn where the gateways are.
    pub(crate) fn tell(&self) {
        let api = self.nodes.iter().enumerate().filter(|(_, node)| node.is_api());
        self.addresses
            .send_replace(api.map(|(number, node)| (number, node.address.clone())).collect());
    }

    /// Starts a node that has ended.
    pub(crate) async fn start(&mut self, number: usize) {
        self.nodes[number].start_again().await;
        self.tell();
    }

    /// Stops a node as an operator would, and starts it again. Clients learn that it goes when it is gone.
    pub(crate) async fn restart(&mut self, number: usize) {
        self.nodes[number].stop().await;
        self.start(number).await;
    }

    /// A node that takes requests.
    pub(crate) fn api(&self) -> &Node {
        self.nodes.iter().find(|node| node.is_api()).expect("one")
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.launch.role != "api")
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
        let before = self.ledger.chain.sent().await.len();
        eventually("somebody submits", async || {
            (self.ledger.chain.sent().await.len() > before + submissions).then_some(())
        })
        .await;
    }

    /// Every record that a query lists; nothing if the gateway cannot tell now.
    pub(crate) async fn listed(&self, query: &str) -> Option<Vec<Value>> {
        let (mut records, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/transactions?limit=500{query}{cursor}");
            let mut page = self.api().try_get(&path).await?;
            match page["items"].take() {
                Value::Array(items) => records.extend(items),
                other => panic!("no items: {other}"),
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Some(records),
            }
        }
    }

    /// The name of the ledger's queue.
    pub(crate) fn queue(&self) -> String {
        format!("{}.main", self.broker_part().prefix)
    }

    /// Messages in the ledger's queue, in hand or not.
    pub(crate) fn messages(&self) -> u64 {
        self.depth(&self.queue())
    }

    pub(crate) fn dead_letters(&self) -> u64 {
        self.depth(&format!("{}.dead", self.queue()))
    }

    /// What the gateways have said so far.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read(self.folder.path().join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn depth(&self, queue: &str) -> u64 {
        let broker = &self.broker_part().server;
        let listed = tokio::task::block_in_place(|| broker.ctl(&["list_queues", "name", "messages"]));
        let depth = listed
            .lines()
            .find_map(|line| line.strip_prefix(queue)?.trim().parse().ok());
        depth.unwrap_or_else(|| panic!("the broker lists no queue {queue}: {listed}"))
    }

    /// Puts messages into the ledger's queue, as whoever has the broker's password may.
    pub(crate) async fn publish(&self, bodies: &[String]) {
        let broker = Connection::connect(self.broker_part().server.url(), ConnectionProperties::default());
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
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}
