//! How many transactions may be between claim and outcome at once (I7), and how many are.
//!
//! The limit may change while slots are out: a higher one is of use at once, a lower one as slots come back. None is taken
//! away. In memory only; a crash gives all of them back.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Slots {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Clone, Copy)]
struct State {
    limit: usize,
    taken: usize,
}

/// One of `max_in_flight`, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

impl Slots {
    pub(super) fn new(limit: NonZeroU32) -> Arc<Self> {
        let state = State {
            limit: limit.get() as usize,
            taken: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets another limit. What is out above it stays out.
    pub(super) fn set(&self, limit: NonZeroU32) {
        self.state().limit = limit.get() as usize;
        self.changed.notify_waiters();
    }

    /// A slot, if one is free.
    pub(super) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.state();
        if state.taken >= state.limit {
            return None;
        }
        state.taken += 1;
        drop(state);
        Some(Slot(Arc::clone(self)))
    }

    /// Waits for a slot. Cancel safe: it is taken only when this returns.
    pub(super) async fn take(self: &Arc<Self>) -> Slot {
        loop {
            let changed = self.changed.notified();
            if let Some(slot) = self.try_take() {
                return slot;
            }
            changed.await;
        }
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        let state = self.state();
        state.limit.saturating_sub(state.taken)
    }

    /// How many are out.
    pub(super) fn taken(&self) -> usize {
        self.state().taken
    }

    /// Waits until all are back. Cancel safe.
    pub(super) async fn all_back(&self) {
        loop {
            let changed = self.changed.notified();
            if self.taken() == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.state().taken -= 1;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(limit: u32) -> NonZeroU32 {
        NonZeroU32::new(limit).expect("not zero")
    }

    #[test]
    fn i7_a_lower_limit_holds_as_slots_come_back() {
        let slots = Slots::new(limit(3));
        let mut out: Vec<_> = std::iter::from_fn(|| slots.try_take()).collect();
        assert_eq!((out.len(), slots.free()), (3, 0));
        slots.set(limit(1));
        assert_eq!((slots.taken(), slots.free()), (3, 0));
        out.truncate(1);
        assert!(slots.try_take().is_none(), "one is out, and one may be");
        out.clear();
        assert!(slots.try_take().is_some());
        assert_eq!(slots.free(), 1, "it came back");
    }

    #[tokio::test]
    async fn who_waits_gets_one_when_the_limit_rises_or_one_comes_back() {
        let slots = Slots::new(limit(1));
        let first = slots.take().await;
        let mut second = std::pin::pin!(slots.take());
        assert!(futures_util::poll!(&mut second).is_pending());
        slots.set(limit(2));
        let second = second.await;
        let mut third = std::pin::pin!(slots.take());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        let third = third.await;
        let mut idle = std::pin::pin!(slots.all_back());
        assert!(futures_util::poll!(&mut idle).is_pending());
        drop((second, third));
        idle.await;
    }
}
