//! What was told last, and whom it concerns.
//!
//! Followers who ask for the same are a group. A change is held against each group's filter once, however many are in it,
//! and only against those that ask for nothing else more precisely: a group that wants a label, a tenant or one identifier
//! is found by that. Whoever is not concerned is not woken. The last changes that concerned anybody are kept for those who
//! are not at them yet: a bounded number in all, so a group that is behind finds that out and reads the store.
//!
//! In memory only; what a crash takes with it is read from the store again.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use tokio::sync::Notify;

use crate::domain::Transaction;
use crate::store::{Filter, Position};

/// So many changes are kept for those who follow.
pub(super) const KEPT: usize = 512;

/// A change as those whom it concerns are told it.
pub(super) struct Update {
    pub(super) at: Position,
    /// The record as the client sees it; `None` if it has to be read.
    pub(super) json: Option<Bytes>,
}

/// What there is for one who follows.
pub(super) enum Next {
    Update(Arc<Update>),
    /// Something, that is no longer kept.
    Missed,
    /// Nothing: of all up to this position, if it is known.
    Nothing(Option<Position>),
}

#[derive(Default)]
pub(super) struct Board {
    state: Mutex<State>,
    hashes: RandomState,
}

#[derive(Default)]
struct State {
    /// Whether somebody tells.
    is_read: bool,
    groups: HashMap<GroupId, Group>,
    /// The groups by what they are found by ([`Board::place`]).
    places: HashMap<u64, Vec<GroupId>>,
    next_group: u64,
    /// The last updates, oldest first.
    kept: VecDeque<Arc<Update>>,
    /// The number of the first of them.
    first: u64,
    /// All up to here was told.
    told: Option<Position>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GroupId(u64);

/// All who follow with the same filter.
struct Group {
    filter: Filter,
    place: u64,
    followers: usize,
    /// The numbers of the updates that concern it, of those that are kept.
    concerned: VecDeque<u64>,
    /// Of what concerns it, nothing before this number is kept.
    kept_from: u64,
    woken: Arc<Notify>,
}

/// One who follows.
pub(super) struct Seat {
    board: Arc<Board>,
    group: GroupId,
    woken: Arc<Notify>,
    /// The number of the update to look at next.
    next: u64,
}

impl Board {
    /// Whoever asks for this hears what is told from now on. Answers also whether nobody tells yet; then the caller has
    /// to see to that.
    pub(super) fn follow(self: &Arc<Self>, filter: &Filter) -> (Seat, bool) {
        let place = self.place(filter);
        let mut guard = self.lock();
        let state = &mut *guard;
        let there = state.places.entry(place).or_default();
        let same = |id: &&GroupId| state.groups.get(id).is_some_and(|group| group.filter == *filter);
        let id = match there.iter().find(same) {
            Some(id) => *id,
            None => {
                let id = GroupId(state.next_group);
                state.next_group += 1;
                there.push(id);
                id
            }
        };
        let next = state.end();
        let group = state.groups.entry(id).or_insert_with(|| Group {
            filter: filter.clone(),
            place,
            followers: 0,
            concerned: VecDeque::new(),
            kept_from: next,
            woken: Arc::default(),
        });
        group.followers += 1;
        let seat = Seat {
            board: self.clone(),
            group: id,
            woken: group.woken.clone(),
            next,
        };
        (seat, !std::mem::replace(&mut state.is_read, true))
    }

    /// Whether nobody follows any more, or `over`. Then whoever follows next has to see to it that somebody tells.
    pub(super) fn ends(&self, over: bool) -> bool {
        let mut state = self.lock();
        let ends = over || state.groups.is_empty();
        if ends {
            state.is_read = false;
            state.told = None;
            state.first = state.end();
            state.kept.clear();
        }
        ends
    }

    /// The groups that a record concerns.
    pub(super) fn concerned(&self, tx: &Transaction) -> Vec<GroupId> {
        let mut places = vec![self.anywhere(), self.of_tenant(tx.tenant.as_str())];
        places.extend(tx.ledger_tx_id().map(|id| self.of_tx_id(&id.0)));
        places.extend(tx.request.metadata.iter().map(|label| self.of_label(label)));
        // Two of them may have the same hash; a group is in one place only.
        places.sort_unstable();
        places.dedup();
        let state = self.lock();
        let there = places
            .iter()
            .filter_map(|place| state.places.get(place))
            .flatten();
        let concerned = |id: &&GroupId| state.groups.get(id).is_some_and(|group| group.filter.matches(tx));
        there.filter(concerned).copied().collect()
    }

    /// Tells these groups.
    ///
    /// Whoever came after [`concerned`](Self::concerned) is told nothing; the change is in the store, and they have that
    /// still to read.
    pub(super) fn tell(&self, update: Update, groups: &[GroupId]) {
        let mut state = self.lock();
        let number = state.keep(update);
        for id in groups {
            state.concern(*id, number);
        }
    }

    /// Tells everybody.
    pub(super) fn tell_all(&self, update: Update) {
        let mut state = self.lock();
        let number = state.keep(update);
        let groups: Vec<_> = state.groups.keys().copied().collect();
        for id in groups {
            state.concern(id, number);
        }
    }

    /// All up to here was told to whomever it concerns.
    pub(super) fn told(&self, up_to: Position) {
        self.lock().told = Some(up_to);
    }

    /// By what a group with this filter is found: the most precise of what it asks for.
    fn place(&self, filter: &Filter) -> u64 {
        match (&filter.tx_id, filter.metadata.first_key_value(), &filter.tenant) {
            (Some(id), _, _) => self.of_tx_id(id),
            (None, Some(label), _) => self.of_label(label),
            (None, None, Some(tenant)) => self.of_tenant(tenant.as_str()),
            (None, None, None) => self.anywhere(),
        }
    }

    fn anywhere(&self) -> u64 {
        self.hashes.hash_one(0_u8)
    }

    fn of_tenant(&self, tenant: &str) -> u64 {
        self.hashes.hash_one((1_u8, tenant))
    }

    fn of_tx_id(&self, id: &str) -> u64 {
        self.hashes.hash_one((2_u8, id))
    }

    fn of_label(&self, (name, value): (&String, &String)) -> u64 {
        self.hashes.hash_one((3_u8, name, value))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.kept.len() as u64
    }

    fn keep(&mut self, update: Update) -> u64 {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
            self.first += 1;
        }
        self.kept.push_back(Arc::new(update));
        self.end() - 1
    }

    fn concern(&mut self, group: GroupId, number: u64) {
        // It may have gone meanwhile.
        if let Some(group) = self.groups.get_mut(&group) {
            while let Some(oldest) = group.concerned.front().filter(|oldest| **oldest < self.first) {
                group.kept_from = oldest + 1;
                group.concerned.pop_front();
            }
            group.concerned.push_back(number);
            group.woken.notify_waiters();
        }
    }
}

impl Seat {
    /// Notified when there may be something. Listen before [`next`](Self::next), and nothing is missed.
    pub(super) fn woken(&self) -> Arc<Notify> {
        self.woken.clone()
    }

    /// What comes next.
    pub(super) fn next(&mut self) -> Next {
        let state = self.board.lock();
        let Some(group) = state.groups.get(&self.group) else {
            return Next::Missed;
        };
        if self.next < group.kept_from {
            return Next::Missed;
        }
        let at = group.concerned.partition_point(|number| *number < self.next);
        let Some(number) = group.concerned.get(at) else {
            return Next::Nothing(state.told);
        };
        let index = number.checked_sub(state.first);
        match index.and_then(|index| state.kept.get(usize::try_from(index).ok()?)) {
            Some(update) => {
                self.next = number + 1;
                Next::Update(update.clone())
            }
            None => Next::Missed,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        let Some(group) = state.groups.get_mut(&self.group) else {
            return;
        };
        group.followers -= 1;
        if group.followers > 0 {
            return;
        }
        let place = group.place;
        state.groups.remove(&self.group);
        if let Some(there) = state.places.get_mut(&place) {
            there.retain(|id| *id != self.group);
            if there.is_empty() {
                state.places.remove(&place);
            }
        }
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
