//! At which gaps a gateway dies in the crash matrix, in which order, and what it takes to get there.

use std::collections::VecDeque;
use std::ops::Range;

use crate::plan::Topology;

/// What it takes for a gap to be reached, besides clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    Usual,
    /// What the last death left has to be found: it is not settled before.
    Inherits,
    /// The gap is at the start of a lane, and only if something was submitted at that moment: else it is started again.
    AtStart,
    /// Nothing can be sent, so deadlines pass.
    LedgerAway,
    /// What waits in the queue is lost.
    QueueDeleted,
    /// An operator stops the process once it submits.
    Stopped,
    /// The devnet dies as well, at this point of its own.
    LedgerDies(&'static str),
}

/// A gap to die in, after so many harmless passes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blow(pub(crate) &'static str, pub(crate) u32, pub(crate) Scene);

impl Blow {
    pub(crate) fn kills_the_ledger(&self) -> bool {
        matches!(self.2, Scene::LedgerDies(_))
    }

    pub(crate) fn needs_the_ledger_away(&self) -> bool {
        matches!(self.2, Scene::LedgerAway | Scene::QueueDeleted)
    }
}

pub(crate) const ACCEPT: [Blow; 6] = [
    Blow("accept-before-store", 5, Scene::Usual),
    Blow("store-before-commit", 3, Scene::Usual),
    Blow("store-after-commit", 8, Scene::Usual),
    Blow("store-before-commit", 20, Scene::Usual),
    Blow("accept-before-reply", 5, Scene::Usual),
    Blow("accept-after-reply", 20, Scene::Usual),
];

const RELAY: [Blow; 6] = [
    Blow("announce-before-publish", 3, Scene::Usual),
    Blow("announce-before-confirm", 3, Scene::Usual),
    Blow("announce-before-note", 3, Scene::Usual),
    Blow("announce-after-note", 3, Scene::Usual),
    Blow("lost-before-put-back", 0, Scene::QueueDeleted),
    Blow("lost-after-put-back", 0, Scene::QueueDeleted),
];

/// Whoever dies with a receiver's answer in hand sends it once more.
const WEBHOOKS: [Blow; 3] = [
    Blow("webhook-queued", 2, Scene::Usual),
    Blow("webhook-sent", 2, Scene::Usual),
    Blow("webhook-sent", 0, Scene::Usual),
];

const DEADLINES: [Blow; 2] = [
    Blow("expire-before-store", 0, Scene::LedgerAway),
    Blow("expire-after-store", 0, Scene::LedgerAway),
];

const CONSUMER: [Blow; 3] = [
    Blow("queue-after-declare", 0, Scene::Usual),
    Blow("ack-before-told", 5, Scene::Usual),
    Blow("ack-after-told", 5, Scene::Usual),
];

/// What is stored and not sent when a process dies is what the next one adopts and checks.
const LANE: [Blow; 20] = [
    Blow("claim-before-store", 5, Scene::Usual),
    Blow("claim-before-ack", 5, Scene::Usual),
    Blow("prepare-before-call", 10, Scene::Usual),
    Blow("prepare-before-store", 5, Scene::Usual),
    Blow("store-after-commit", 15, Scene::Usual),
    Blow("submit-after-reply", 10, Scene::Usual),
    Blow("outcome-before-store", 5, Scene::Usual),
    Blow("outcome-before-told", 10, Scene::Usual),
    Blow("retry-before-told", 0, Scene::Usual),
    Blow("checkpoint-before-store", 1, Scene::Usual),
    Blow("checkpoint-after-store", 1, Scene::Usual),
    Blow("submit-before-send", 3, Scene::Usual),
    Blow("check-before-lookup", 0, Scene::Inherits),
    Blow("submit-before-send", 10, Scene::Usual),
    Blow("check-after-lookup", 0, Scene::Inherits),
    Blow("submit-before-send", 5, Scene::Usual),
    Blow("adopt-before-store", 0, Scene::AtStart),
    Blow("adopt-after-store", 0, Scene::AtStart),
    Blow("stop-before-drain", 0, Scene::Stopped),
    Blow("stop-after-drain", 0, Scene::Stopped),
];

pub(crate) const ENGINE: [Blow; 2] = [
    Blow("store-before-sync", 4, Scene::Usual),
    Blow("store-before-sync", 15, Scene::Usual),
];

/// Gateway and ledger die of the same transaction.
const BOTH: [Blow; 4] = [
    Blow("submit-after-reply", 0, Scene::LedgerDies("before-order")),
    Blow("submit-after-reply", 0, Scene::LedgerDies("before-submit-reply")),
    Blow(
        "submit-after-reply",
        0,
        Scene::LedgerDies("after-order-before-block"),
    ),
    Blow(
        "outcome-before-store",
        3,
        Scene::LedgerDies("after-block-before-reply"),
    ),
];

/// Those of the archive come first: they leave what they did not remove to those without one.
pub(crate) const RETENTION: [Blow; 5] = [
    Blow("archive-before-put", 0, Scene::Usual),
    Blow("archive-before-verify", 0, Scene::Usual),
    Blow("archive-before-remove", 0, Scene::Usual),
    Blow("prune-before-store", 0, Scene::Usual),
    Blow("prune-after-store", 0, Scene::Usual),
];

/// What processes have to go through, each taking the next when it has died.
pub(crate) struct Agenda {
    pub(crate) nodes: Range<usize>,
    pub(crate) blows: VecDeque<Blow>,
}

impl Agenda {
    pub(crate) fn new(nodes: Range<usize>, blows: &[&[Blow]]) -> Self {
        Self {
            nodes,
            blows: blows.concat().into(),
        }
    }

    /// Of several workers one is active; when it dies, the other takes over and gets to the gap it has armed.
    pub(crate) fn of(topology: Topology) -> Vec<Self> {
        match topology {
            Topology::Embedded => vec![Self::new(
                0..1,
                &[&ENGINE, &ACCEPT, &LANE, &WEBHOOKS, &DEADLINES, &BOTH],
            )],
            Topology::Broker => vec![Self::new(
                0..1,
                &[
                    &ENGINE, &ACCEPT, &RELAY, &CONSUMER, &LANE, &WEBHOOKS, &DEADLINES, &BOTH,
                ],
            )],
            Topology::Cluster => vec![
                Self::new(0..1, &[&ACCEPT, &RELAY, &DEADLINES]),
                Self::new(1..3, &[&CONSUMER, &LANE, &WEBHOOKS, &BOTH]),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sluicegate::failpoint;

    use super::*;

    #[test]
    fn the_matrix_has_every_gap_that_a_topology_has() {
        let all: BTreeSet<_> = failpoint::ALL.iter().map(|(gap, _)| *gap).collect();
        // Only a broker can lose messages or be told; only an embedded engine is in the process.
        let of_a_broker = ["announce-", "lost-", "queue-", "ack-"];
        for topology in Topology::ALL {
            let agendas = Agenda::of(topology);
            let blows = agendas.iter().flat_map(|agenda| &agenda.blows).chain(&RETENTION);
            let covered: BTreeSet<_> = blows.map(|Blow(gap, ..)| *gap).collect();
            let exists = |gap: &&str| match topology {
                Topology::Embedded => !of_a_broker.iter().any(|begin| gap.starts_with(begin)),
                Topology::Broker => true,
                Topology::Cluster => *gap != "store-before-sync",
            };
            let expected: BTreeSet<_> = all.iter().copied().filter(|gap| exists(gap)).collect();
            assert_eq!(covered, expected, "{topology:?}");
        }
    }
}
