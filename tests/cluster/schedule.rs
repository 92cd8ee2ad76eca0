//! What befalls a site, and when: a pure function of seed, topology and duration, so that a seed tells it all.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::plan::Topology;
use crate::proxy::Fault;

/// RabbitMQ 3.10 may leave a quorum queue without a leader for good if it is killed within seconds of the
/// queue's creation.
const QUEUE_SETTLES: Duration = Duration::from_secs(8);

/// Leases and backoff wait by the clock: one that was ahead by so much makes things late by as much.
const MOST_SKEW: i64 = 12;

/// What is hit. One thing is hit by one blow at a time; different things are hit at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Gateway(usize),
    /// The clock of a gateway.
    Clock(usize),
    /// The file system of an embedded store.
    Disk,
    Ledger,
    LedgerLine,
    Broker,
    BrokerLine,
    Database,
    DatabaseLine,
}

/// How it is hit. All but `Restart` last a while, and then it is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// SIGKILL, and a start.
    Kill,
    /// An orderly stop, and a start.
    Restart,
    /// SIGSTOP, SIGCONT.
    Freeze,
    /// A clock is so many seconds ahead.
    Skew(i64),
    /// A disk has no space left.
    Fill,
    /// A line breaks.
    Break(Fault),
    /// The ledger ends by itself at a point of `devnet --crash-at`.
    CrashAt(&'static str),
    /// The ledger does to calls what this fault of `devnet --fault` says.
    Misbehave(&'static str),
    /// A switch of the ledger is off: `cutting` of blocks, or `flowing` to those who listen.
    Withhold(&'static str),
}

/// One blow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blow {
    /// Since the start.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) on: Target,
    pub(crate) how: How,
}

const CRASH_POINTS: [&str; 5] = [
    "before-endorse-reply",
    "before-order",
    "before-submit-reply",
    "after-order-before-block",
    "after-block-before-reply",
];

const MISBEHAVIOUR: [&str; 8] = [
    r#"{"method": "submit", "action": "drop_reply", "probability": 0.2}"#,
    r#"{"method": "submit", "action": "close_after", "probability": 0.05}"#,
    r#"{"method": "submit", "action": "close_before", "probability": 0.05}"#,
    r#"{"method": "submit", "action": "refuse", "code": 14, "message": "no orderers could successfully process transaction", "probability": 0.3}"#,
    r#"{"method": "submit", "action": "delay", "ms": 700, "probability": 0.2}"#,
    r#"{"method": "endorse", "action": "drop_reply", "probability": 0.1}"#,
    r#"{"method": "endorse", "action": "refuse", "code": 2, "message": "too many requests for /gateway.Gateway, exceeding concurrency limit (500)", "probability": 0.2}"#,
    r#"{"method": "commit_status", "action": "drop_reply", "probability": 0.5}"#,
];

impl Target {
    /// All that a topology has.
    pub(crate) fn all(topology: Topology) -> Vec<Self> {
        let gateways = 0..topology.roles().len();
        let mut all: Vec<_> = gateways.clone().map(Self::Gateway).collect();
        all.extend(gateways.map(Self::Clock));
        all.extend([Self::Ledger, Self::LedgerLine]);
        if topology != Topology::Embedded {
            all.extend([Self::Broker, Self::BrokerLine]);
        }
        all.push(match topology {
            Topology::Cluster => Self::Database,
            Topology::Embedded | Topology::Broker => Self::Disk,
        });
        if topology == Topology::Cluster {
            all.push(Self::DatabaseLine);
        }
        all
    }

    /// How often it is chosen.
    fn weight(self) -> u32 {
        match self {
            Self::Gateway(_) | Self::Ledger => 4,
            Self::LedgerLine | Self::Broker | Self::BrokerLine | Self::Database | Self::DatabaseLine => 3,
            Self::Clock(_) | Self::Disk => 2,
        }
    }

    /// How long it may need to be itself again when a blow is over.
    fn recovers_in(self) -> Duration {
        Duration::from_secs(match self {
            // It takes as long to start.
            Self::Broker => 12,
            Self::Gateway(_) | Self::Ledger | Self::Database => 2,
            _ => 0,
        })
    }
}

fn how(target: Target, random: &mut StdRng) -> How {
    let mut one = |of: &[How]| *of.choose(random).expect("not empty");
    match target {
        Target::Gateway(_) => one(&[
            How::Kill,
            How::Kill,
            How::Kill,
            How::Restart,
            How::Freeze,
            How::Freeze,
        ]),
        Target::Broker | Target::Database => one(&[How::Kill, How::Freeze]),
        Target::LedgerLine | Target::BrokerLine | Target::DatabaseLine => one(&[
            How::Break(Fault::Cut),
            How::Break(Fault::Stall),
            How::Break(Fault::HalfOpen),
            How::Break(Fault::Slow(Duration::from_millis(40))),
        ]),
        Target::Disk => How::Fill,
        Target::Clock(_) => {
            let by = random.random_range(2..=MOST_SKEW);
            How::Skew(if random.random() { by } else { -by })
        }
        Target::Ledger => match random.random_range(0..8) {
            0 | 1 => How::Kill,
            2 | 3 => How::CrashAt(CRASH_POINTS.choose(random).expect("not empty")),
            4 => How::Freeze,
            5 => How::Withhold(["cutting", "flowing"].choose(random).expect("not empty")),
            _ => How::Misbehave(MISBEHAVIOUR.choose(random).expect("not empty")),
        },
    }
}

/// All that befalls a site, in order. Nothing begins in the last two seconds.
pub(crate) fn schedule(seed: u64, topology: Topology, duration: Duration) -> Vec<Blow> {
    let mut random = StdRng::seed_from_u64(seed ^ ((topology as u64) << 32));
    let targets = Target::all(topology);
    let mut busy: BTreeMap<Target, Duration> = BTreeMap::new();
    let mut blows = Vec::new();
    let mut at = Duration::from_secs(2);
    loop {
        at += Duration::from_millis(random.random_range(200..2_500));
        if at + Duration::from_secs(2) > duration {
            return blows;
        }
        let on = *targets
            .choose_weighted(&mut random, |target| target.weight())
            .expect("there are some");
        let how = how(on, &mut random);
        let lasts = Duration::from_millis(random.random_range(200..3_000));
        if busy.get(&on).is_some_and(|until| at < *until) || (on == Target::Broker && at < QUEUE_SETTLES) {
            continue;
        }
        busy.insert(on, at + lasts + on.recovers_in());
        blows.push(Blow { at, lasts, on, how });
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, lasts, on, how } = self;
        write!(
            f,
            "{:7.2} s  {on:?}: {how:?} for {:.2} s",
            at.as_secs_f64(),
            lasts.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_secs(1_800);

    #[test]
    fn a_seed_tells_it_all() {
        for topology in Topology::ALL {
            let blows = schedule(7, topology, MINUTES);
            assert_eq!(blows, schedule(7, topology, MINUTES));
            assert_ne!(blows, schedule(8, topology, MINUTES));
            assert!(blows.is_sorted_by_key(|blow| blow.at));
            for target in Target::all(topology) {
                let mut free = Duration::ZERO;
                let on_it: Vec<_> = blows.iter().filter(|blow| blow.on == target).collect();
                assert!(on_it.len() > 10, "{target:?} is hit {} times", on_it.len());
                for blow in on_it {
                    assert!(blow.at >= free, "{blow} comes while it is down");
                    free = blow.at + blow.lasts;
                }
            }
        }
        let short = schedule(7, Topology::Cluster, Duration::from_secs(40));
        assert!(short.len() > 15 && short.iter().all(|blow| blow.at < Duration::from_secs(38)));
    }
}
