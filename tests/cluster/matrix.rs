//! The crash matrix: in each topology, with clients at work, the gateway dies at every gap that `failpoint::ALL` lists
//! and exists there. It is started again as in production, and what was acknowledged before its death has to settle; then
//! it is killed and started with the next gap armed. A gap that nobody gets to fails the test. In the end the oracle judges
//! what the clients were told, the store and the ledger's chain.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use lapin::options::QueueDeleteOptions;
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agenda::{ACCEPT, Agenda, Blow, ENGINE, RETENTION, Scene};
use crate::basics::faketime;
use crate::load::{Accepted, Demand, Load, Log};
use crate::node::Launch;
use crate::observers::Observers;
use crate::oracle::{Evidence, judge_by, listed, the_backlog_drains};
use crate::plan::{Plan, Topology};
use crate::promises;
use crate::proxy::Fault;
use crate::receiver::Receiver;
use crate::site::{Addresses, Site};
use crate::support::{eventually, http, spawn};

/// Longer than any gap is away from the one before it.
const PATIENCE: Duration = Duration::from_secs(45);

/// Everything that was acknowledged before a death is settled so long after it: a lease, a check, a conflict or two.
const SETTLING: Duration = Duration::from_secs(20);

/// What is to be deleted is given so long to gather, and a start to show that it was in vain.
const GATHERING: Duration = Duration::from_secs(3);

const SIGKILL: i32 = 9;

const URL: &str = "SLUICEGATE__ARCHIVE__URL";

/// Receivers are at the loopback, and a lease on a delivery is shorter than the next gap is away.
const RETENTION_AND_WEBHOOKS: &str = "[retention]\ndone_days = 0\nfailed_days = 1\n[webhooks]\ntimeout_ms = 1000\n\
                                      retry_min_ms = 50\nretry_max_ms = 500\nallow_targets = ['127.0.0.1']\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_gateway_on_redb_dies_at_every_gap() {
    matrix(Plan::new(Topology::Embedded), Agenda::of(Topology::Embedded)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_gateway_on_sled_dies_at_every_gap_of_its_store() {
    let blows = Agenda::new(0..1, &[&ENGINE, &ACCEPT]);
    matrix(Plan::new(Topology::Embedded).engine("sled"), vec![blows]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_with_a_broker_dies_at_every_gap() {
    matrix(Plan::new(Topology::Broker), Agenda::of(Topology::Broker)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_dies_at_every_gap() {
    let plan = Plan::new(Topology::Cluster).roles(&["api", "worker", "worker"]);
    matrix(plan, Agenda::of(Topology::Cluster)).await;
}

async fn matrix(plan: Plan, agendas: Vec<Agenda>) {
    let began = Instant::now();
    let mut site = plan
        // A standby takes over what is due soon; a check comes while the next gap is waited for.
        .replace("check_after_ms = 3000", "check_after_ms = 1500")
        .replace("[log]", &format!("{RETENTION_AND_WEBHOOKS}[log]"))
        .start()
        .await;
    let load = Load::of(Demand::Mixed, 2, Duration::from_millis(50), &site.addresses);
    let observers = Observers::start(1, &load.log(), &site.addresses);
    let stop = CancellationToken::new();
    let receiver = Receiver::start().await;
    let hurried = spawn(hurry(
        site.addresses.subscribe(),
        receiver.url.clone(),
        stop.clone(),
    ));
    let deaths = die_at_each(&mut site, agendas, &load.log()).await;
    stop.cancel();
    let hurried = hurried.await.expect("ends");
    let observed = observers.finish().await;
    let mut accepted = load.finish().await;
    the_backlog_drains(&site).await;
    let hurried = judge_hurried(&site, hurried).await;
    let told = judge_told(&receiver, &hurried).await;
    let expired = hurried.iter().filter(|one| one.counter.is_none()).count();
    accepted.extend(hurried);
    let records = listed(&site).await;
    promises::every_acknowledged_is_there(&accepted, &records).unwrap();
    promises::every_record_is_settled(&accepted, &records).unwrap();
    let all = accepted.len();
    // The others are about to be removed.
    accepted.retain(|one| one.counter.is_some());
    let deaths = deaths + die_while_pruning(&mut site).await;
    let evidence = Evidence {
        accepted,
        objections: observed.objections,
        ..Evidence::default()
    };
    let verdict = judge_by(site, evidence).await;
    eprintln!(
        "{all} accepted over {deaths} deaths, {expired} of them expired; {} submissions and {told} webhooks came twice; {:?}",
        verdict.repeated.len(),
        began.elapsed()
    );
}

/// What a node is at.
enum Phase {
    /// It waits for its turn.
    Down,
    /// It is to die.
    Armed(Armed),
    /// It has died, and runs on as in production.
    Resting(Rest),
    /// It has died at all its gaps, and runs on as in production.
    Through,
}

/// Kills and starts until every agenda is done. Answers how many deaths there were.
async fn die_at_each(site: &mut Site, mut agendas: Vec<Agenda>, log: &Log) -> usize {
    let mut phases: BTreeMap<usize, Phase> = BTreeMap::new();
    for number in agendas.iter().flat_map(|agenda| agenda.nodes.clone()) {
        site.nodes[number].kill().await;
        phases.insert(number, Phase::Down);
    }
    let (mut deaths, mut last) = (0, Instant::now());
    while !phases.values().all(|phase| matches!(phase, Phase::Through)) {
        let unsettled = unsettled(site).await;
        for agenda in &mut agendas {
            for number in agenda.nodes.clone() {
                let armed = |is: fn(&Blow) -> bool| waiting(&phases).iter().any(is);
                let ledger_is_away = armed(Blow::needs_the_ledger_away);
                // The ledger dies with one at a time. Whoever waits for that is not in the way of the other.
                let ledger_dies = armed(Blow::kills_the_ledger);
                let next = agenda.blows.front();
                let has_ended = site.nodes[number].has_ended();
                let phase = phases.get_mut(&number).expect("has one");
                match phase {
                    Phase::Down if ledger_dies && next.is_some_and(Blow::kills_the_ledger) => {}
                    Phase::Down => {
                        *phase = arm_next(site, number, agenda).await;
                        last = Instant::now();
                    }
                    Phase::Armed(armed) => match has_ended {
                        None => act(site, number, armed).await,
                        Some(status) => {
                            die(site, number, armed, status).await;
                            (deaths, last) = (deaths + 1, Instant::now());
                            *phase = match next {
                                Some(Blow(_, _, Scene::Inherits)) => Phase::Down,
                                _ => rest(site, number, armed.blow, log).await,
                            };
                        }
                    },
                    Phase::Resting(rest) => {
                        assert_eq!(has_ended, None, "node {number} ended by itself");
                        if ledger_is_away {
                            rest.since = Instant::now();
                        } else if rest.is_over(&unsettled) {
                            site.nodes[number].kill().await;
                            *phase = Phase::Down;
                        }
                    }
                    Phase::Through => assert_eq!(has_ended, None, "node {number} ended by itself"),
                }
            }
        }
        assert!(last.elapsed() < PATIENCE, "nobody got to {:?}", waiting(&phases));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    deaths
}

/// Where nodes are to die.
fn waiting(phases: &BTreeMap<usize, Phase>) -> Vec<Blow> {
    let blow = |phase: &Phase| match phase {
        Phase::Armed(armed) => Some(armed.blow),
        Phase::Down | Phase::Resting(_) | Phase::Through => None,
    };
    phases.values().filter_map(blow).collect()
}

/// It has died where it was to die.
async fn die(site: &mut Site, number: usize, armed: &Armed, status: ExitStatus) {
    let Blow(gap, _, scene) = armed.blow;
    assert_eq!(status.signal(), Some(SIGKILL), "{gap}: {status}");
    eprintln!("node {number} died at {gap} after {:?}", armed.since.elapsed());
    match scene {
        Scene::LedgerAway | Scene::QueueDeleted => site.ledger.line.set(Fault::None),
        Scene::LedgerDies(at) if armed.acted.is_none() => {
            let crashed = site.ledger.crashed(Duration::from_secs(1)).await;
            assert!(crashed, "the ledger did not get to {at}");
            site.ledger.start_again().await;
        }
        _ => {}
    }
}

/// Starts a node that has died as it is in production.
async fn rest(site: &mut Site, number: usize, Blow(gap, ..): Blow, log: &Log) -> Phase {
    let accepted = {
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().map(|one| one.id.clone()).collect()
    };
    set(site, number, "FAILPOINTS", "");
    site.start(number).await;
    Phase::Resting(Rest {
        after: gap,
        since: Instant::now(),
        accepted,
    })
}

struct Rest {
    /// The gap that it died at.
    after: &'static str,
    /// Since when the ledger can be reached.
    since: Instant,
    /// What was acknowledged before that, as far as it may be unsettled.
    accepted: BTreeSet<String>,
}

impl Rest {
    /// Whether all is settled; nothing is known without a list.
    fn is_over(&mut self, unsettled: &Option<BTreeSet<String>>) -> bool {
        if let Some(unsettled) = unsettled {
            self.accepted.retain(|id| unsettled.contains(id));
        }
        let left = self.accepted.len();
        assert!(
            self.since.elapsed() < SETTLING || left == 0,
            "I3: {left} are not settled {SETTLING:?} after a death at {}",
            self.after
        );
        unsettled.is_some() && left == 0
    }
}

/// The ids of what is not settled; nothing if no gateway can tell now.
async fn unsettled(site: &Site) -> Option<BTreeSet<String>> {
    let pending = site.listed("&status=pending").await?;
    let id = |record: &Value| record["id"].as_str().expect("an id").to_owned();
    Some(pending.iter().map(id).collect())
}

struct Armed {
    blow: Blow,
    since: Instant,
    /// When the scene last did something.
    acted: Option<Instant>,
}

/// Starts a node with the next gap armed, or as it is in production if there is none.
async fn arm_next(site: &mut Site, number: usize, agenda: &mut Agenda) -> Phase {
    let blow = agenda.blows.pop_front();
    set(
        site,
        number,
        "FAILPOINTS",
        &blow.map(failpoints).unwrap_or_default(),
    );
    match blow {
        Some(Blow(_, _, Scene::LedgerAway | Scene::QueueDeleted)) => site.ledger.line.set(Fault::Cut),
        Some(Blow(_, _, Scene::LedgerDies(at))) => {
            site.ledger.tell("PUT", "/crash", &json!(at)).await;
        }
        _ => {}
    }
    site.start(number).await;
    blow.map_or(Phase::Through, |blow| {
        Phase::Armed(Armed {
            blow,
            since: Instant::now(),
            acted: None,
        })
    })
}

fn failpoints(Blow(gap, passes, _): Blow) -> String {
    format!("{gap}={passes}*off->return")
}

/// Sets a variable for the next start of a node.
fn set(site: &mut Site, number: usize, name: &str, value: &str) {
    unset(site, number, name);
    let variables = &mut site.nodes[number].launch.variables;
    variables.push((name.to_owned(), value.to_owned()));
}

/// Takes a variable away for the next start of a node.
fn unset(site: &mut Site, number: usize, name: &str) {
    let variables = &mut site.nodes[number].launch.variables;
    variables.retain(|(other, _)| other != name);
}

/// Does what the scene of a node is waiting for.
async fn act(site: &mut Site, number: usize, armed: &mut Armed) {
    let gathered = armed.acted.unwrap_or(armed.since).elapsed() > GATHERING;
    match armed.blow.2 {
        Scene::AtStart if gathered => {
            site.nodes[number].kill().await;
            site.start(number).await;
            armed.acted = Some(Instant::now());
        }
        Scene::QueueDeleted if gathered => {
            delete_queue(site).await;
            armed.acted = Some(Instant::now());
        }
        Scene::LedgerDies(_) if armed.acted.is_none() && site.ledger.has_crashed().await => {
            site.ledger.start_again().await;
            armed.acted = Some(Instant::now());
        }
        Scene::Stopped if armed.acted.is_none() && site.nodes[number].submissions().await > 0.0 => {
            site.nodes[number].signal("TERM").await;
            armed.acted = Some(Instant::now());
        }
        Scene::Usual
        | Scene::Inherits
        | Scene::AtStart
        | Scene::LedgerAway
        | Scene::QueueDeleted
        | Scene::Stopped
        | Scene::LedgerDies(_) => {}
    }
}

async fn delete_queue(site: &Site) {
    let broker = Connection::connect(site.broker_part().server.url(), ConnectionProperties::default());
    let broker = broker.await.expect("connects");
    let channel = broker.create_channel().await.expect("opens");
    let lost = channel.queue_delete(site.queue().into(), QueueDeleteOptions::default());
    lost.await.expect("deletes");
}

/// A client whose transactions may be too late: each adds 1 to a counter of its own, or expires, which `told` is to be
/// told. Answers their ids, with the counters.
async fn hurry(
    addresses: watch::Receiver<Addresses>,
    told: String,
    stop: CancellationToken,
) -> Vec<(String, String)> {
    let http = http();
    let mut accepted = Vec::new();
    while !stop.is_cancelled() {
        let counter = format!("hurried{}", accepted.len());
        let address = addresses.borrow().values().next().expect("one").clone();
        let body = json!({"ledger": "main", "contract": "counter", "function": "Add", "args": [counter, 1],
            "expires_in_seconds": 1, "callback_url": told});
        let request = http.post(format!("{address}/v1/transactions"));
        let answer = request.header("Idempotency-Key", &counter).json(&body).send();
        if let Ok(answer) = answer.await
            && answer.status().is_success()
            && let Ok(record) = answer.json::<serde_json::Value>().await
        {
            accepted.push((record["id"].as_str().expect("an id").to_owned(), counter));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    accepted
}

/// They are done, or expired: as such the oracle is to take them.
async fn judge_hurried(site: &Site, hurried: Vec<(String, String)>) -> Vec<Accepted> {
    let mut judged = Vec::new();
    for (id, counter) in hurried {
        let record = site.api().get(&format!("/v1/transactions/{id}")).await;
        let is_done = record["status"] == "done";
        assert!(is_done || record["error"]["code"] == "expired", "I3: {record}");
        judged.push(Accepted {
            id,
            counter: is_done.then_some(counter),
            at: 0,
            took: Duration::ZERO,
            tries: 1,
            refused: 0,
        });
    }
    judged
}

/// Whoever asked for it is told of each of them, whoever died. Answers how many were told more than once.
async fn judge_told(receiver: &Receiver, hurried: &[Accepted]) -> usize {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    eventually("every end is told", async || {
        told.clear();
        for got in receiver.got() {
            *told.entry(got.id()).or_default() += 1;
        }
        let id = |one: &Accepted| format!("dlv_{}_callback", one.id);
        hurried
            .iter()
            .all(|one| told.contains_key(&id(one)))
            .then_some(())
    })
    .await;
    told.values().filter(|times| **times > 1).count()
}

/// Two days later, on one node alone, which removes what has failed, first with an archive and then without. In the end all
/// that is gone from the store and once in the archive, and it is today again.
async fn die_while_pruning(site: &mut Site) -> usize {
    let failed = site.listed("&status=failed").await.expect("a list");
    let archive = site.folder.path().join("archive");
    std::fs::create_dir(&archive).expect("a folder");
    for node in &mut site.nodes {
        node.stop().await;
    }
    let library = faketime().expect("the package faketime");
    set(site, 0, "LD_PRELOAD", library.to_str().expect("UTF-8"));
    set(site, 0, "FAKETIME", "+2d");
    set(site, 0, "FAKETIME_DONT_FAKE_MONOTONIC", "1");
    set(site, 0, "SLUICEGATE__ARCHIVE__GATHER_MINUTES", "0");
    set(site, 0, URL, &format!("file://{}", archive.display()));
    for blow in RETENTION {
        if !blow.0.starts_with("archive-") {
            unset(site, 0, URL);
        }
        set(site, 0, "FAILPOINTS", &failpoints(blow));
        site.start(0).await;
        let status = site.nodes[0].ended().await;
        assert_eq!(status.signal(), Some(SIGKILL), "{blow:?}: {status}");
    }
    set(site, 0, "FAILPOINTS", "");
    site.start(0).await;
    eventually("what failed is removed", async || {
        let failed = site.api().get("/v1/transactions?status=failed").await;
        failed["items"]
            .as_array()
            .expect("items")
            .is_empty()
            .then_some(())
    })
    .await;
    site.nodes[0].stop().await;
    set(site, 0, URL, &format!("file://{}", archive.display()));
    let archived = archived(&site.nodes[0].launch).await;
    let id = |record: &Value| record["id"].as_str().expect("an id").to_owned();
    let mut failed: Vec<_> = failed.iter().map(id).collect();
    failed.sort();
    let archived: Vec<_> = archived.iter().map(id).collect();
    assert_eq!(archived, failed, "each is in the archive, and is told once");
    site.nodes[0].launch.variables.clear();
    for number in 0..site.nodes.len() {
        site.start(number).await;
    }
    RETENTION.len()
}

/// What the command finds in the archive of a node.
async fn archived(launch: &Launch) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_sluicegate"))
        .args(["archive", "search"])
        .current_dir(&launch.folder)
        .envs(launch.variables.iter().map(|(key, value)| (key, value)))
        .env_remove("LD_PRELOAD")
        .kill_on_drop(true)
        .output()
        .await
        .expect("runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}
