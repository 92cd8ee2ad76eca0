//! Places that tenants share, so that however much one of them does, some are left to the others (I9).
//!
//! Of the places that are free or its own, a tenant gets three in four, and one at least: alone it has most of them, and the
//! more others come, the less it keeps (the dynamic thresholds of switches with a shared buffer). In memory only; a crash
//! frees all places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::TenantName;

/// How many more of `free` places somebody may take who has `own` already.
pub(crate) fn room(free: usize, own: usize) -> usize {
    let most = ((free + own) * 3 / 4).max(1);
    most.saturating_sub(own).min(free)
}

/// A number of places.
pub(crate) struct Places(Mutex<State>);

struct State {
    count: usize,
    free: usize,
    /// How many each tenant has, of those that have some.
    own: HashMap<TenantName, usize>,
}

/// A place that somebody has until it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    tenant: Option<TenantName>,
}

impl Places {
    pub(crate) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            count,
            free: count,
            own: HashMap::new(),
        })))
    }

    /// How many are taken.
    pub(crate) fn taken(&self) -> usize {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.count - state.free
    }

    /// A place for a tenant, if there is one; whoever belongs to none may take the last one.
    pub(crate) fn take(self: &Arc<Self>, tenant: Option<&TenantName>) -> Option<Place> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = match tenant {
            Some(tenant) => room(state.free, state.own.get(tenant).copied().unwrap_or_default()) > 0,
            None => state.free > 0,
        };
        if !has_room {
            return None;
        }
        state.free -= 1;
        if let Some(tenant) = tenant {
            *state.own.entry(tenant.clone()).or_default() += 1;
        }
        Some(Place {
            places: self.clone(),
            tenant: tenant.cloned(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.free += 1;
        if let Some(tenant) = &self.tenant
            && let Some(own) = state.own.get_mut(tenant)
        {
            *own -= 1;
            if *own == 0 {
                state.own.remove(tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_nobody_takes_all_and_everybody_gets_one() {
        let places = Places::new(64);
        let tenant = |name: &str| TenantName::new(name).expect("a name");
        let mut taken = Vec::new();
        let mut take = |name: &str| {
            let tenant = tenant(name);
            let before = taken.len();
            taken.extend(std::iter::from_fn(|| places.take(Some(&tenant))));
            taken.len() - before
        };
        assert_eq!(["a", "b", "c", "d", "e"].map(&mut take), [48, 12, 3, 1, 0]);
        assert!(places.take(None).is_none(), "none is left");
        taken.drain(..48);
        assert!(places.take(Some(&tenant("e"))).is_some());
    }

    #[test]
    fn whoever_belongs_to_no_tenant_may_take_all_and_all_come_back() {
        let places = Places::new(3);
        let taken: Vec<_> = std::iter::from_fn(|| places.take(None)).collect();
        assert_eq!((taken.len(), places.taken()), (3, 3));
        drop(taken);
        assert_eq!(places.taken(), 0);
        let acme = TenantName::new("acme");
        let taken: Vec<_> = std::iter::from_fn(|| places.take(acme.as_ref())).collect();
        assert_eq!(taken.len(), 2);
        drop(taken);
        let state = places.0.lock().expect("lock");
        assert_eq!((state.free, state.own.len()), (3, 0));
    }
}
