//! Strikes a site as a schedule says. Everything that is struck has a sequence of its own, so that one thing is mended
//! while another is hit; when all sequences are over, all is mended.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::{LocalBoxFuture, join_all};
use serde_json::{Value, json};
use sluicegate::clock::{Clock, SystemClock};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use crate::clocks;
use crate::disk::SmallDisk;
use crate::ledger::Ledger;
use crate::node::Node;
use crate::postgres::Server;
use crate::promises::Stretch;
use crate::proxy::{Fault, Proxy};
use crate::rabbitmq::Broker;
use crate::schedule::{Blow, How, Target};
use crate::site::{Addresses, Site};

/// The ledger gets to any point of its work within this, if anybody reaches it at all.
const CRASH_PATIENCE: Duration = Duration::from_secs(5);

/// A blow that was struck.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Struck {
    pub(crate) blow: Blow,
    /// From the first harm until it was mended, in ms since 1970.
    pub(crate) was: Stretch,
}

fn now() -> u64 {
    SystemClock.now().as_millis()
}

/// Strikes every blow; answers them in the order in which they were over.
pub(crate) async fn strike_all(site: &mut Site, disk: Option<&SmallDisk>, blows: &[Blow]) -> Vec<Struck> {
    let start = Instant::now();
    let diary = Mutex::new(Vec::new());
    let (folder, line) = (site.folder.path(), site.ledger.line.clone());
    let (addresses, broker, database) = (&site.addresses, site.broker.as_ref(), site.database.as_ref());
    let mut ledger = Some(&mut site.ledger);
    let mut nodes: Vec<_> = site.nodes.iter_mut().map(Some).collect();
    let mut sequences: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
    for target in Target::all(site.topology) {
        let its = Sequence {
            start,
            blows: blows.iter().filter(|blow| blow.on == target).copied().collect(),
            diary: &diary,
        };
        let broker = || broker.expect("has a broker");
        let database = || database.expect("has a database");
        sequences.push(match target {
            Target::Gateway(number) => {
                let node = nodes[number].take().expect("one sequence for each");
                Box::pin(its.run(async move |blow: &Blow| on_gateway(node, number, addresses, blow).await))
            }
            Target::Clock(number) => Box::pin(its.run(async move |blow: &Blow| {
                let How::Skew(ahead) = blow.how else { unknown(blow) };
                clocks::set(folder, number, ahead);
                sleep(blow.lasts).await;
                clocks::set(folder, number, 0);
            })),
            Target::Disk => Box::pin(its.run(async move |blow: &Blow| {
                let disk = disk.expect("a disk that can be full");
                disk.fill();
                sleep(blow.lasts).await;
                disk.free();
            })),
            Target::Ledger => {
                let ledger = ledger.take().expect("one sequence for it");
                Box::pin(its.run(async move |blow: &Blow| on_ledger(ledger, blow).await))
            }
            Target::Broker => {
                let server: &'static Broker = *broker().server;
                Box::pin(its.run(async move |blow: &Blow| on_broker(server, blow).await))
            }
            Target::Database => {
                let server = database().server.clone();
                Box::pin(its.run(async move |blow: &Blow| on_database(&server, blow).await))
            }
            Target::LedgerLine => {
                let line = line.clone();
                Box::pin(its.run(async move |blow: &Blow| on_line(&line, blow).await))
            }
            Target::BrokerLine => {
                let line = &broker().line;
                Box::pin(its.run(async move |blow: &Blow| on_line(line, blow).await))
            }
            Target::DatabaseLine => {
                let line = &database().line;
                Box::pin(its.run(async move |blow: &Blow| on_line(line, blow).await))
            }
        });
    }
    join_all(sequences).await;
    diary.into_inner().expect("nobody panicked")
}

/// All that befalls one thing.
struct Sequence<'a> {
    start: Instant,
    blows: Vec<Blow>,
    diary: &'a Mutex<Vec<Struck>>,
}

impl Sequence<'_> {
    async fn run(self, mut strike: impl AsyncFnMut(&Blow)) {
        for blow in self.blows {
            sleep_until(self.start + blow.at).await;
            let begin = now();
            strike(&blow).await;
            let was = (begin, now());
            let late = Duration::from_millis(was.1 - was.0).saturating_sub(blow.lasts);
            eprintln!("{blow}, mended in {:.2} s", late.as_secs_f64());
            self.diary
                .lock()
                .expect("nobody panicked")
                .push(Struck { blow, was });
        }
    }
}

fn unknown(blow: &Blow) -> ! {
    panic!("there is no way to do that: {blow}")
}

async fn on_gateway(node: &mut Node, number: usize, addresses: &watch::Sender<Addresses>, blow: &Blow) {
    let ended = node.has_ended();
    assert!(ended.is_none(), "gateway {number} ended by itself: {ended:?}");
    match blow.how {
        How::Freeze => {
            node.signal("STOP").await;
            sleep(blow.lasts).await;
            return node.signal("CONT").await;
        }
        How::Kill => {
            node.kill().await;
            sleep(blow.lasts / 3).await;
        }
        How::Restart => node.stop().await,
        _ => unknown(blow),
    }
    node.come_back().await;
    if node.is_api() {
        addresses.send_modify(|all| drop(all.insert(number, node.address.clone())));
    }
}

async fn on_ledger(ledger: &mut Ledger, blow: &Blow) {
    match blow.how {
        How::Kill => {
            ledger.kill().await;
            sleep(blow.lasts / 2).await;
            ledger.start_again().await;
        }
        How::CrashAt(point) => {
            ledger.tell("PUT", "/crash", &json!(point)).await;
            if !ledger.crashed(CRASH_PATIENCE).await {
                eprintln!("{blow}: nobody got there, so it was killed");
            }
            ledger.start_again().await;
        }
        How::Freeze => {
            ledger.signal("STOP").await;
            sleep(blow.lasts).await;
            ledger.signal("CONT").await;
        }
        How::Misbehave(fault) => {
            let fault: Value = serde_json::from_str(fault).expect("JSON");
            ledger.tell("POST", "/faults", &fault).await;
            sleep(blow.lasts).await;
            ledger.tell("DELETE", "/faults", &Value::Null).await;
        }
        How::Withhold(switch) => {
            let switch = format!("/{switch}");
            ledger.tell("PUT", &switch, &json!(false)).await;
            sleep(blow.lasts).await;
            ledger.tell("PUT", &switch, &json!(true)).await;
        }
        _ => unknown(blow),
    }
}

async fn on_line(line: &Proxy, blow: &Blow) {
    let How::Break(fault) = blow.how else {
        unknown(blow)
    };
    line.set(fault);
    sleep(blow.lasts).await;
    line.set(Fault::None);
}

async fn on_broker(broker: &'static Broker, blow: &Blow) {
    match blow.how {
        How::Kill => {
            aside(|| broker.kill9()).await;
            sleep(blow.lasts / 3).await;
            aside(|| broker.restart()).await;
        }
        How::Freeze => {
            broker.stop_signal();
            sleep(blow.lasts).await;
            broker.cont();
        }
        _ => unknown(blow),
    }
}

async fn on_database(server: &std::sync::Arc<Server>, blow: &Blow) {
    let (one, other) = (server.clone(), server.clone());
    match blow.how {
        How::Kill => {
            aside(move || one.kill()).await;
            sleep(blow.lasts / 3).await;
            aside(move || other.restart()).await;
        }
        How::Freeze => {
            aside(move || one.pause()).await;
            sleep(blow.lasts).await;
            aside(move || other.resume()).await;
        }
        _ => unknown(blow),
    }
}

/// What takes a while and must not hold up the other sequences.
async fn aside(job: impl FnOnce() + Send + 'static) {
    spawn_blocking(job).await.expect("done");
}
