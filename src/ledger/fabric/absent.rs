//! Chaincodes that the peers know nothing of: a slip in a name, or a peer that is not ready yet.
//!
//! One answer does not tell which. So a call of an unknown chaincode is tried again, until its name has been
//! unknown for so long that it is a slip. After a crash the time begins anew.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a name has to be unknown. A peer that joins or starts knows its chaincodes within seconds.
const LONG: Duration = Duration::from_secs(30);

/// So many names are remembered; callers may make up as many as they like.
const MOST: usize = 1_000;

/// A name that was unknown.
#[derive(Clone, Copy)]
struct Seen {
    first: Instant,
    last: Instant,
}

/// Names and when they were unknown.
#[derive(Default)]
pub(super) struct Absent(Mutex<HashMap<String, Seen>>);

impl Absent {
    fn names(&self) -> std::sync::MutexGuard<'_, HashMap<String, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer does not know `chaincode`. Answers whether that has been so for long, asked again and again.
    pub(super) fn for_long(&self, chaincode: &str, now: Instant) -> bool {
        let mut names = self.names();
        if names.len() >= MOST && !names.contains_key(chaincode) {
            names.retain(|_, seen| now.duration_since(seen.last) < LONG);
        }
        if names.len() >= MOST && !names.contains_key(chaincode) {
            // The newest goes: who makes up names by the thousand does not push out the others.
            let newest = names
                .iter()
                .max_by_key(|(_, seen)| seen.first)
                .map(|(name, _)| name.clone());
            newest.map(|name| names.remove(&name));
        }
        let seen = names.entry(chaincode.to_owned()).or_insert(Seen {
            first: now,
            last: now,
        });
        // Whoever asks after a long time may ask of another network.
        if now.duration_since(seen.last) >= LONG {
            seen.first = now;
        }
        seen.last = now;
        now.duration_since(seen.first) >= LONG
    }

    /// The peer knows `chaincode`.
    pub(super) fn found(&self, chaincode: &str) {
        self.names().remove(chaincode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_was_unknown_all_the_time_is_a_slip() {
        let (absent, start) = (Absent::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!absent.for_long("nosuch", start));
        assert!(!absent.for_long("nosuch", after(20)));
        assert!(absent.for_long("nosuch", after(30)));
        absent.found("nosuch");
        assert!(!absent.for_long("nosuch", after(31)), "it was known in between");
        assert!(
            !absent.for_long("nosuch", after(90)),
            "nobody asked for a long time"
        );
        assert!(!absent.for_long("nosuch", after(110)));
        assert!(absent.for_long("nosuch", after(120)));
    }

    #[test]
    fn i9_made_up_names_do_not_push_out_others() {
        let (absent, start) = (Absent::default(), Instant::now());
        assert!(!absent.for_long("nosuch", start));
        for n in 0..2 * MOST {
            absent.for_long(&format!("made-up-{n}"), start + Duration::from_secs(1));
        }
        absent.for_long("nosuch", start + Duration::from_secs(20));
        assert!(absent.for_long("nosuch", start + Duration::from_secs(40)));
        assert!(absent.names().len() <= MOST);
    }
}
