//! What has to hold of deliveries, whatever is in them and in whatever order they are settled.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::hand::{Hand, Tag};
use super::message::{announced_at, properties, transaction};
use crate::domain::Timestamp;
use crate::queue::Settlement;

/// The properties of a message as they travel, then its body.
pub(crate) fn delivery(bytes: &[u8]) {
    let Ok((body, read)) = lapin::protocol::basic::parse_properties(bytes) else {
        return;
    };
    let at = announced_at(&read);
    if let Some(id) = transaction(body) {
        assert_eq!(transaction(id.to_string().as_bytes()), Some(id));
        let at = at.unwrap_or(Timestamp::from_millis(0));
        let sent = properties(&id.to_string(), at, None);
        assert_eq!(announced_at(&sent), Some(at));
    }
}

/// Deliveries as the broker sees them: the number of each that it waits for, when it was announced, and what became
/// of it here.
#[derive(Default)]
struct Broker {
    open: BTreeMap<Tag, (Option<Timestamp>, Option<Settlement>)>,
    last: Tag,
}

impl Broker {
    /// The broker is told of one delivery, which it has to wait for, that this became of it.
    fn told(&mut self, tag: Tag, expected: Settlement) {
        let found = self.open.remove(&tag).map(|(_, settlement)| settlement);
        assert_eq!(found, Some(Some(expected)), "delivery {tag}");
    }

    fn hear(&mut self, hand: &mut Hand, now: Instant, all: bool) {
        let told = hand.tell(now, all);
        for tag in told.reject {
            self.told(tag, Settlement::Reject);
        }
        for tag in told.give_back {
            self.told(tag, Settlement::Again);
        }
        if let Some(last) = told.ack_up_to {
            assert!(
                self.open.contains_key(&last),
                "the broker does not wait for {last}"
            );
            let covered: Vec<Tag> = self.open.range(..=last).map(|(tag, _)| *tag).collect();
            for tag in covered {
                self.told(tag, Settlement::Ack);
            }
        }
        for tag in told.ack {
            self.told(tag, Settlement::Ack);
        }
        assert!(
            told.again_at.is_none_or(|at| at > now),
            "no reason to come at once"
        );
        let settled = self.open.values().any(|(_, settlement)| settlement.is_some());
        assert_eq!(
            told.again_at.is_some(),
            settled,
            "what is left to tell is told later"
        );
        let in_hand = self.open.values().filter(|(_, settlement)| settlement.is_none());
        assert_eq!(hand.oldest(), in_hand.filter_map(|(at, _)| *at).min());
    }
}

/// What a consumer does, two bytes a step: every delivery is told to the broker once, and as what it is.
pub(crate) fn bookkeeping(steps: &[u8]) {
    let [prefetch, steps @ ..] = steps else { return };
    let mut hand = Hand::new(usize::from(*prefetch).max(1));
    let mut broker = Broker::default();
    let mut now = Instant::now();
    for step in steps.chunks_exact(2) {
        let (what, which) = (step[0] % 6, step[1]);
        match what {
            0 | 1 => {
                // A number may be missing: the broker gave it to nobody.
                broker.last += 1 + u64::from(what * (which % 3));
                let at = (which > 10).then(|| Timestamp::from_millis(which.into()));
                hand.receive(broker.last, at);
                broker.open.insert(broker.last, (at, None));
            }
            2..=4 => {
                let settlement =
                    [Settlement::Ack, Settlement::Again, Settlement::Reject][usize::from(what) - 2];
                let mut in_hand = broker
                    .open
                    .iter_mut()
                    .filter(|(_, (_, settled))| settled.is_none());
                if let Some((tag, (_, settled))) = in_hand.nth(usize::from(which) % 8) {
                    hand.settle(*tag, settlement);
                    *settled = Some(settlement);
                }
            }
            _ => {
                now += Duration::from_millis(which.into());
                broker.hear(&mut hand, now, false);
            }
        }
    }
    for (tag, (_, settled)) in broker
        .open
        .iter_mut()
        .filter(|(_, (_, settled))| settled.is_none())
    {
        hand.settle(*tag, Settlement::Ack);
        *settled = Some(Settlement::Ack);
    }
    broker.hear(&mut hand, now, true);
    assert!(broker.open.is_empty());
}
