//! Everything at once: clients are at it while a seeded schedule kills, freezes and restarts gateways, broker, database
//! and ledger, breaks the lines between them, fills the disk and sets clocks. Then all is mended, and the oracle is asked.
//!
//! `just campaign SECONDS SEED TOPOLOGY` runs it for longer, or a failure again.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::basics::{faketime, skipped};
use crate::blows::{Struck, strike_all};
use crate::clocks;
use crate::disk::SmallDisk;
use crate::ledger::Sent;
use crate::load::{Demand, Load};
use crate::observers::Observers;
use crate::oracle::{Evidence, judge_by};
use crate::plan::{Limit, Plan, Topology};
use crate::promises::{Stretch, arrivals, merged};
use crate::proxy::Fault;
use crate::schedule::{How, Target, schedule};
use crate::support::spawn;

/// Together two minutes.
const SECONDS: u64 = 40;
const SEED: u64 = 1;

/// Far more than the store of a long campaign takes; a tmpfs takes no more than what is in it.
const DISK_BYTES: u64 = 4 << 30;

/// sled is not written to below 8 MiB of free space, and does not survive a write that finds none. A disk that gives no
/// warning, full between that look and the write, is more than it is promised to stand: docs/RELIABILITY.md.
const SLED_SPARE: u64 = 6 << 20;

/// Clients wait while so many took no effect yet: an unoptimised build between blows settles less than comes in, and a
/// long campaign would end with an hour of nothing but working off. Overload has tests of its own.
const MOST_WAITING: usize = 1_000;

/// Submissions a second, and at once. Less than what clients want and an unoptimised build gets through, so that it is
/// the limit that holds them back; a campaign in which it never does shows nothing of it.
const LIMIT: Limit = Limit {
    rate: 100.0,
    burst: 20.0,
};

/// Clients get so many accepted in a second, at the least, whatever happens.
const LEAST_ACCEPTED: u64 = 5;

/// A line or a ledger that held up what was sent gives it all out within this.
const FLUSH_MS: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn embedded() {
    campaign(Topology::Embedded, "redb").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broker() {
    campaign(Topology::Broker, "sled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster() {
    campaign(Topology::Cluster, "").await;
}

/// A variable of the recipe `campaign`.
#[expect(
    clippy::disallowed_methods,
    reason = "how long, and with which seed, is for this test alone"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(format!("SLUICEGATE_CAMPAIGN_{name}")).ok()
}

fn number(name: &str, default: u64) -> u64 {
    variable(name).map_or(default, |text| text.parse().expect("a whole number"))
}

/// Tells how to run it again if it fails.
struct Again(String);

impl Drop for Again {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again: {}", self.0);
        }
    }
}

async fn campaign(topology: Topology, engine: &'static str) {
    let (seconds, seed) = (number("SECONDS", SECONDS), number("SEED", SEED));
    let name = topology.name();
    let _again = Again(format!("just campaign {seconds} {seed} {name}"));
    let mut blows = schedule(seed, topology, Duration::from_secs(seconds));
    eprintln!("{name}: seed {seed}, {seconds} s, {} blows", blows.len());

    let spare = if engine == "sled" { SLED_SPARE } else { 0 };
    let disk = SmallDisk::mount(DISK_BYTES).map(|disk| disk.leaving(spare));
    let mut plan = Plan::new(topology).engine(engine).limit(LIMIT.rate, LIMIT.burst);
    match &disk {
        Some(disk) => plan = plan.store_path(disk.path().join("data").to_str().expect("UTF-8")),
        None => {
            skipped("a full disk: mounting a tmpfs takes root");
            blows.retain(|blow| blow.on != Target::Disk);
        }
    }
    if faketime().is_some() {
        plan = clocks::to_set(plan);
    } else {
        skipped("clocks that are wrong: install the package faketime");
        blows.retain(|blow| !matches!(blow.on, Target::Clock(_)));
    }
    let mut site = plan.prepare().await;
    for number in 0..topology.roles().len() {
        clocks::set(site.folder.path(), number, 0);
    }
    site.start_all().await;

    let load = Load::of(Demand::Mixed, 6, Duration::from_millis(50), &site.addresses);
    let observers = Observers::start(3, &load.log(), &site.addresses);
    // Reads the chain as it grows.
    let (chain, log, hold) = (site.ledger.chain.clone(), load.log(), load.hold());
    let watched = CancellationToken::new();
    let stop = watched.clone();
    let reader = spawn(async move {
        while !stop.is_cancelled() {
            let took_effect = chain.sent().await.iter().filter(|sent| sent.is_valid()).count();
            let wanted = {
                let log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.iter().filter(|one| one.counter.is_some()).count()
            };
            hold.send_replace(wanted > took_effect + MOST_WAITING);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    let struck = strike_all(&mut site, disk.as_ref(), &blows).await;
    let accepted = load.finish().await;
    let observed = observers.finish().await;
    watched.cancel();
    reader.await.expect("reads to the end");

    assert!(
        accepted.len() as u64 > LEAST_ACCEPTED * seconds && observed.reads > seconds,
        "a campaign without a load: {} accepted, {} reads",
        accepted.len(),
        observed.reads
    );
    let refused: usize = accepted.iter().map(|one| one.refused).sum();
    let fast = |one: &&Struck| matches!((one.blow.on, one.blow.how), (Target::Clock(0), How::Skew(1..)));
    let fast = struck.iter().filter(fast).count();
    let early = accepted.iter().filter(|one| one.dated() > one.at + 1_000).count();
    assert!(
        fast < 3 || early > 0,
        "a clock went fast {fast} times, and nothing was dated ahead"
    );
    let fills = struck.iter().filter(|one| one.blow.how == How::Fill).count();
    // Some come when there is no gateway to refuse anything; sled is left with space for what it has at hand.
    assert!(
        fills < 3 || refused > 0 || engine == "sled",
        "the disk was full {fills} times, and nobody was refused"
    );
    let tries = accepted.iter().filter(|one| one.tries > 1).count();
    let summary = format!(
        "{name}, seed {seed}, {seconds} s: {} accepted, {tries} of them with retries, {refused} answers 503, {} reads",
        accepted.len(),
        observed.reads
    );
    let evidence = Evidence {
        accepted,
        held_up: held_up(&struck),
        objections: observed.objections,
        ..Evidence::default()
    };
    let verdict = judge_by(site, evidence).await;
    let busiest = busiest_second(&verdict.chain);
    assert!(
        busiest as f64 > 0.8 * LIMIT.rate,
        "the limit of {} a second was not tried: {busiest} in the busiest one",
        LIMIT.rate
    );
    eprintln!("{summary}, {}", told_by(&verdict.chain));
    eprintln!(
        "  {}, the rest settled within {:.1} s, {busiest} submissions in the busiest second, {:.0} above the rate at most",
        pauses(&struck, &verdict.chain),
        verdict.drained_in.as_secs_f64(),
        verdict.above_rate
    );
    eprintln!("  {}", by_kind(&struck));
}

/// When the ledger, or the line to it, held up what was sent. What is cut or refused does not arrive later, and on a
/// half-open line it arrives at once.
fn held_up(struck: &[Struck]) -> Vec<Stretch> {
    let by = struck.iter().filter(|one| match (one.blow.on, one.blow.how) {
        (Target::Ledger, How::Freeze) => true,
        (Target::Ledger, How::Misbehave(fault)) => fault.contains("delay"),
        (Target::LedgerLine, How::Break(fault)) => matches!(fault, Fault::Stall | Fault::Slow(_)),
        _ => false,
    });
    by.map(|one| (one.was.0, one.was.1 + FLUSH_MS)).collect()
}

/// The most that the ledger saw within a second.
fn busiest_second(chain: &[Sent]) -> usize {
    let arrivals = arrivals(chain.iter());
    let within = |(first, at): (usize, &u64)| arrivals.partition_point(|other| *other < at + 1_000) - first;
    arrivals.iter().enumerate().map(within).max().unwrap_or_default()
}

fn told_by(chain: &[Sent]) -> String {
    let of = |code: &str| chain.iter().filter(|sent| sent.code == code).count();
    format!(
        "{} conflicts, {} submissions repeated and absorbed",
        of("MVCC_READ_CONFLICT"),
        of("DUPLICATE_TXID")
    )
}

/// How long it took, from the end of a blow with no other under way, until something took effect again, at worst, or
/// until the next blow, if that came first; and the longest time without that, whatever was the matter.
fn pauses(struck: &[Struck], chain: &[Sent]) -> String {
    let valid = arrivals(chain.iter().filter(|sent| sent.is_valid()));
    let stretches = merged(&struck.iter().map(|one| one.was).collect::<Vec<_>>());
    let mut worst = 0;
    for (number, (_, end)) in stretches.iter().enumerate() {
        let next = valid.partition_point(|at| at < end);
        let before_the_next = stretches.get(number + 1).map_or(u64::MAX, |(begin, _)| *begin);
        let recovered = valid.get(next).map_or(u64::MAX, |at| *at).min(before_the_next);
        if recovered < u64::MAX {
            worst = worst.max(recovered - end);
        }
    }
    let standstill = valid.windows(2).max_by_key(|pair| pair[1] - pair[0]);
    let (from, until) = standstill.map_or((0, 0), |pair| (pair[0], pair[1]));
    let begun = struck
        .iter()
        .map(|one| one.was.0 - one.blow.at.as_millis() as u64)
        .min();
    format!(
        "recovered in {worst} ms at worst, longest standstill {} ms, from {:.2} s on",
        until - from,
        from.saturating_sub(begun.unwrap_or_default()) as f64 / 1e3
    )
}

fn by_kind(struck: &[Struck]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for one in struck {
        let on = match one.blow.on {
            Target::Gateway(_) => "gateway".to_owned(),
            Target::Clock(_) => "clock".to_owned(),
            other => format!("{other:?}").to_lowercase(),
        };
        let how = match one.blow.how {
            How::Kill | How::CrashAt(_) => "killed",
            How::Restart => "restarted",
            How::Freeze => "frozen",
            How::Skew(_) => "set",
            How::Fill => "filled",
            How::Break(_) => "broken",
            How::Misbehave(_) => "misbehaved",
            How::Withhold(_) => "withheld",
        };
        *counts.entry(format!("{on} {how}")).or_default() += 1;
    }
    let all: Vec<_> = counts
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    let kills = struck
        .iter()
        .filter(|one| matches!(one.blow.how, How::Kill | How::CrashAt(_)));
    format!(
        "{} blows, {} kills: {}",
        struck.len(),
        kills.count(),
        all.join(", ")
    )
}
