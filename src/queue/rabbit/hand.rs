//! What a consumer has in hand, and how the broker is told what became of it.
//!
//! Deliveries are numbered in order. One acknowledgement can settle all up to a number, which costs the
//! broker a quarter of single ones; so those without an open one before them go together. The others wait
//! a moment for the gap to close, and then go one by one: a delivery that stays in hand for long must not
//! use up the prefetch of all.
//!
//! This is bookkeeping only: it knows no broker and no clock. A crash needs nothing of it, since what was
//! not settled is delivered again.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::domain::{Timestamp, TransactionId};
use crate::queue::Settlement;

/// How long settled deliveries wait for one before them.
const GAP_PATIENCE: Duration = Duration::from_millis(20);

/// What was given back is delivered again at once by the broker; this keeps the circle from spinning.
const RETURN_PAUSE: Duration = Duration::from_millis(100);

/// The number that the broker gave to a delivery.
pub(super) type Tag = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// In hand.
    Open,
    /// To be told to the broker.
    Acked,
    GivenBack,
    Rejected,
    /// The broker knows.
    Told,
}

/// The deliveries of one channel.
pub(super) struct Hand {
    /// The number of the first of `fates`; all before it are told.
    first: Tag,
    fates: VecDeque<Fate>,
    /// When those of `fates` had been announced, as far as is known.
    announced: VecDeque<Option<Timestamp>>,
    ids: HashSet<TransactionId>,
    prefetch: usize,
    gap_since: Option<Instant>,
    returned_since: Option<Instant>,
}

/// What the broker has to be told now, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) reject: Vec<Tag>,
    pub(super) give_back: Vec<Tag>,
    /// This one and all before it.
    pub(super) ack_up_to: Option<Tag>,
    pub(super) ack: Vec<Tag>,
    /// When there is more to tell, if nothing happens before.
    pub(super) again_at: Option<Instant>,
}

impl Hand {
    pub(super) fn new(prefetch: usize) -> Self {
        Self {
            first: 1,
            fates: VecDeque::new(),
            announced: VecDeque::new(),
            ids: HashSet::new(),
            prefetch,
            gap_since: None,
            returned_since: None,
        }
    }

    /// A delivery came in, announced at that moment.
    pub(super) fn receive(&mut self, tag: Tag, announced: Option<Timestamp>) {
        while self.first + (self.fates.len() as Tag) < tag {
            self.fates.push_back(Fate::Told);
            self.announced.push_back(None);
        }
        self.fates.push_back(Fate::Open);
        self.announced.push_back(announced);
    }

    /// When the one that was announced first, of those that are not settled, was.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        let pairs = self.fates.iter().zip(&self.announced);
        pairs
            .filter(|(fate, _)| **fate == Fate::Open)
            .filter_map(|(_, announced)| *announced)
            .min()
    }

    /// Whether the transaction was not in hand yet; it is now.
    pub(super) fn take(&mut self, id: TransactionId) -> bool {
        self.ids.insert(id)
    }

    /// The transaction is not in hand any more.
    pub(super) fn release(&mut self, id: TransactionId) {
        self.ids.remove(&id);
    }

    /// A delivery is over.
    pub(super) fn settle(&mut self, tag: Tag, settlement: Settlement) {
        let Some(fate) = tag
            .checked_sub(self.first)
            .and_then(|at| self.fates.get_mut(usize::try_from(at).ok()?))
        else {
            return;
        };
        *fate = match settlement {
            Settlement::Ack => Fate::Acked,
            Settlement::Again => Fate::GivenBack,
            Settlement::Reject => Fate::Rejected,
        };
    }

    /// What has to be told now; counts as told. With `all`, nothing waits for anything.
    pub(super) fn tell(&mut self, now: Instant, all: bool) -> Told {
        let mut told = Told {
            reject: self.pick(Fate::Rejected),
            ..Told::default()
        };
        if self.fates.contains(&Fate::GivenBack) {
            let due = *self.returned_since.get_or_insert(now) + RETURN_PAUSE;
            if all || due <= now {
                told.give_back = self.pick(Fate::GivenBack);
                self.returned_since = None;
            } else {
                told.again_at = Some(due);
            }
        }
        let is_over = |fate: &Fate| matches!(fate, Fate::Acked | Fate::Told);
        let run = self.fates.iter().take_while(|fate| is_over(fate)).count();
        // The number itself has to be one that the broker still waits for.
        if let Some(last) = (0..run).rev().find(|at| self.fates[*at] == Fate::Acked) {
            told.ack_up_to = Some(self.first + last as Tag);
        }
        self.fates.drain(..run);
        self.announced.drain(..run);
        self.first += run as Tag;
        let behind = self.fates.iter().filter(|fate| **fate == Fate::Acked).count();
        if behind == 0 {
            self.gap_since = None;
            return told;
        }
        let due = *self.gap_since.get_or_insert(now) + GAP_PATIENCE;
        if all || due <= now || behind * 2 >= self.prefetch {
            told.ack = self.pick(Fate::Acked);
            self.gap_since = None;
        } else {
            told.again_at = Some(told.again_at.map_or(due, |other| other.min(due)));
        }
        told
    }

    /// The numbers of those with this fate, which are told from here on.
    fn pick(&mut self, wanted: Fate) -> Vec<Tag> {
        let mut picked = Vec::new();
        for (at, fate) in self.fates.iter_mut().enumerate() {
            if *fate == wanted {
                *fate = Fate::Told;
                picked.push(self.first + at as Tag);
            }
        }
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hand(deliveries: Tag) -> Hand {
        let mut hand = Hand::new(100);
        (1..=deliveries).for_each(|tag| hand.receive(tag, Some(Timestamp::from_millis(tag))));
        hand
    }

    #[test]
    fn what_is_settled_without_a_gap_is_acknowledged_together() {
        let (mut hand, now) = (hand(10), Instant::now());
        for tag in [3, 1, 2, 4] {
            hand.settle(tag, Settlement::Ack);
        }
        let told = hand.tell(now, false);
        assert_eq!((told.ack_up_to, &told.ack[..]), (Some(4), &[][..]));
        assert_eq!(hand.tell(now, false), Told::default());
    }

    #[test]
    fn one_that_stays_in_hand_holds_the_others_up_for_a_moment_only() {
        let (mut hand, now) = (hand(10), Instant::now());
        for tag in [2, 3, 5] {
            hand.settle(tag, Settlement::Ack);
        }
        let told = hand.tell(now, false);
        assert_eq!((told.ack_up_to, told.ack), (None, vec![]));
        assert_eq!(told.again_at, Some(now + GAP_PATIENCE));
        let told = hand.tell(now + GAP_PATIENCE, false);
        assert_eq!((told.ack_up_to, told.ack), (None, vec![2, 3, 5]));
        // The number of a common acknowledgement must be one that is still open at the broker: 4, not 5.
        hand.settle(1, Settlement::Ack);
        hand.settle(4, Settlement::Ack);
        assert_eq!(hand.tell(now, false).ack_up_to, Some(4));
        hand.settle(6, Settlement::Ack);
        assert_eq!(hand.tell(now, false).ack_up_to, Some(6));
    }

    #[test]
    fn half_of_the_prefetch_behind_a_gap_does_not_wait() {
        let (mut hand, now) = (Hand::new(4), Instant::now());
        (1..=4).for_each(|tag| hand.receive(tag, None));
        hand.settle(2, Settlement::Ack);
        assert!(hand.tell(now, false).ack.is_empty());
        hand.settle(3, Settlement::Ack);
        assert_eq!(hand.tell(now, false).ack, [2, 3]);
    }

    #[test]
    fn a_common_acknowledgement_never_covers_what_is_given_back() {
        let (mut hand, now) = (hand(4), Instant::now());
        hand.settle(1, Settlement::Ack);
        hand.settle(2, Settlement::Again);
        hand.settle(3, Settlement::Reject);
        hand.settle(4, Settlement::Ack);
        let told = hand.tell(now, false);
        assert_eq!(
            (told.reject, told.give_back, told.ack_up_to),
            (vec![3], vec![], Some(1))
        );
        let told = hand.tell(now + RETURN_PAUSE, false);
        assert_eq!((told.give_back, told.ack_up_to), (vec![2], Some(4)));
    }

    #[test]
    fn the_oldest_is_that_of_those_still_in_hand() {
        let (mut hand, now) = (hand(3), Instant::now());
        assert_eq!(hand.oldest(), Some(Timestamp::from_millis(1)));
        hand.settle(1, Settlement::Ack);
        assert_eq!(hand.oldest(), Some(Timestamp::from_millis(2)));
        hand.tell(now, true);
        hand.settle(2, Settlement::Again);
        hand.settle(3, Settlement::Ack);
        assert_eq!(hand.oldest(), None);
    }

    #[test]
    fn at_the_end_nothing_waits() {
        let (mut hand, now) = (hand(3), Instant::now());
        hand.settle(2, Settlement::Ack);
        hand.settle(3, Settlement::Again);
        let told = hand.tell(now, true);
        assert_eq!((told.ack, told.give_back), (vec![2], vec![3]));
    }

    #[test]
    fn what_is_settled_twice_or_unknown_does_no_harm() {
        let (mut hand, now) = (hand(2), Instant::now());
        hand.settle(1, Settlement::Ack);
        assert_eq!(hand.tell(now, false).ack_up_to, Some(1));
        hand.settle(1, Settlement::Ack);
        hand.settle(77, Settlement::Ack);
        assert_eq!(hand.tell(now, false), Told::default());
        let id = TransactionId::new();
        assert!(hand.take(id) && !hand.take(id));
        hand.release(id);
        assert!(hand.take(id));
    }
}
