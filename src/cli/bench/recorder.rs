//! Measures a run while it goes on.
//!
//! Moments are those of this process's own monotonic clock, never those that a record tells: an accept is over when its
//! answer has been read, a transaction is settled when the event that says so has been read. What belongs to the
//! warm-up is left out. Memory grows by some 100 bytes for each accepted transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::drive::Order;
use super::report::{Latencies, Second};
use crate::domain::TransactionId;

/// What a transaction has come to.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    Done,
    /// With its code.
    Failed(String),
    /// Waits for a person; it may still end.
    Parked,
}

/// What there is to show while a run goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) accepted: u64,
    /// Refused, or without a usable answer.
    pub(super) not_accepted: u64,
    pub(super) settled: u64,
    /// Accepted, and neither settled nor parked.
    pub(super) pending: u64,
}

/// A count, and an example of what it counts.
#[derive(Debug, Default)]
pub(super) struct Kind {
    pub(super) count: u64,
    pub(super) example: String,
}

/// What the transactions of one key came to.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct KeyTotals {
    pub(super) settled: u64,
    pub(super) tries: u64,
    pub(super) latency_us: u64,
}

/// Everything that was measured.
pub(super) struct Measured {
    pub(super) arrived: u64,
    pub(super) held_back: u64,
    pub(super) accepted: u64,
    pub(super) refused: BTreeMap<String, Kind>,
    pub(super) unanswered: BTreeMap<String, u64>,
    pub(super) done: u64,
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) parked: u64,
    /// Events told that these are settled, and no answer ever told that they were accepted.
    pub(super) unclaimed: u64,
    /// How many transactions needed so many tries.
    pub(super) tries: BTreeMap<u32, u64>,
    pub(super) keys: HashMap<u32, KeyTotals>,
    pub(super) accept: Histogram<u64>,
    pub(super) end_to_end: Histogram<u64>,
    pub(super) send_delay: Histogram<u64>,
    pub(super) series: Vec<Second>,
    /// Accepted before the load was over.
    pub(super) accepted_in_time: u64,
    /// From the start to the last end of a transaction.
    pub(super) last_settled: Duration,
    transactions: HashMap<TransactionId, Known>,
    accept_now: Rolling,
    end_to_end_now: Rolling,
}

/// What is known of a transaction.
enum Known {
    /// Its event was faster than the answer.
    Event(Ending, u32, Instant),
    Accepted {
        due: Instant,
        key: u32,
        parked: bool,
    },
    Settled,
}

/// Takes down what happens, from many tasks.
pub(super) struct Recorder {
    start: Instant,
    end: Instant,
    measured: Mutex<Measured>,
}

impl Recorder {
    /// What is due before `start` is not measured. The load is over at `end`.
    pub(super) fn new(start: Instant, end: Instant) -> Self {
        Self {
            start,
            end,
            measured: Mutex::new(Measured::new()),
        }
    }

    pub(super) fn start(&self) -> Instant {
        self.start
    }

    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction is due.
    pub(super) fn arrived(&self, order: &Order) {
        if order.measured {
            let mut measured = self.measured();
            measured.arrived += 1;
            let second = measured.second(order.due - self.start);
            measured.series[second].due += 1;
        }
    }

    /// It has to wait because too many are under way.
    pub(super) fn held_back(&self, order: &Order) {
        if order.measured {
            self.measured().held_back += 1;
        }
    }

    /// It leaves now.
    pub(super) fn sent(&self, order: &Order, at: Instant) {
        if order.measured {
            record(
                &mut self.measured().send_delay,
                at.saturating_duration_since(order.due),
            );
        }
    }

    /// It was accepted, under this id.
    pub(super) fn accepted(&self, order: &Order, id: TransactionId, at: Instant) {
        if !order.measured {
            return;
        }
        let mut measured = self.measured();
        let took = at.saturating_duration_since(order.due);
        measured.accepted += 1;
        measured.accepted_in_time += u64::from(at < self.end);
        record(&mut measured.accept, took);
        let second = measured.second(at - self.start);
        measured.series[second].accepted += 1;
        if let Some((past, summary)) = measured.accept_now.record(second, took) {
            measured.series[past].accept_ms = Some(summary);
        }
        let accepted = Known::Accepted {
            due: order.due,
            key: order.key,
            parked: false,
        };
        if let Some(Known::Event(ending, tries, when)) = measured.transactions.insert(id, accepted) {
            measured.unclaimed -= 1;
            self.ended(&mut measured, id, ending, tries, when);
        }
    }

    /// It was refused with this code, for this reason.
    pub(super) fn refused(&self, order: &Order, code: &str, reason: &str, at: Instant) {
        if !order.measured {
            return;
        }
        let mut measured = self.measured();
        let second = measured.second(at - self.start);
        measured.series[second].not_accepted += 1;
        let kind = measured.refused.entry(code.to_owned()).or_default();
        kind.count += 1;
        if kind.example.is_empty() {
            reason.clone_into(&mut kind.example);
        }
    }

    /// No usable answer came. It may have been accepted all the same.
    pub(super) fn unanswered(&self, order: &Order, reason: String, at: Instant) {
        if !order.measured {
            return;
        }
        let mut measured = self.measured();
        let second = measured.second(at - self.start);
        measured.series[second].not_accepted += 1;
        *measured.unanswered.entry(reason).or_default() += 1;
    }

    /// A transaction of this run has ended so, after so many tries.
    pub(super) fn settled(&self, id: TransactionId, ending: Ending, tries: u32, at: Instant) {
        self.ended(&mut self.measured(), id, ending, tries, at);
    }

    fn ended(&self, measured: &mut Measured, id: TransactionId, ending: Ending, tries: u32, at: Instant) {
        let (due, key) = match measured.transactions.get_mut(&id) {
            Some(Known::Accepted { due, key, parked }) => match ending {
                Ending::Parked => {
                    if !std::mem::replace(parked, true) {
                        measured.parked += 1;
                    }
                    return;
                }
                Ending::Done | Ending::Failed(_) => {
                    if *parked {
                        measured.parked -= 1;
                    }
                    (*due, *key)
                }
            },
            // Told again.
            Some(Known::Settled | Known::Event(Ending::Done | Ending::Failed(_), ..)) => return,
            Some(known @ Known::Event(Ending::Parked, ..)) => {
                *known = Known::Event(ending, tries, at);
                return;
            }
            None => {
                measured.unclaimed += 1;
                measured.transactions.insert(id, Known::Event(ending, tries, at));
                return;
            }
        };
        measured.transactions.insert(id, Known::Settled);
        let took = at.saturating_duration_since(due);
        let since = at.saturating_duration_since(self.start);
        measured.last_settled = measured.last_settled.max(since);
        let second = measured.second(since);
        match ending {
            Ending::Failed(code) => {
                *measured.failed.entry(code).or_default() += 1;
                measured.series[second].failed += 1;
            }
            Ending::Done | Ending::Parked => {
                measured.done += 1;
                measured.series[second].done += 1;
            }
        }
        record(&mut measured.end_to_end, took);
        if let Some((past, summary)) = measured.end_to_end_now.record(second, took) {
            measured.series[past].end_to_end_ms = Some(summary);
        }
        *measured.tries.entry(tries).or_default() += 1;
        let key = measured.keys.entry(key).or_default();
        key.settled += 1;
        key.tries += u64::from(tries);
        key.latency_us += micros(took);
    }

    pub(super) fn progress(&self) -> Progress {
        self.measured().progress()
    }

    /// What was measured up to now.
    pub(super) fn finish(&self) -> Measured {
        let mut measured = std::mem::replace(&mut *self.measured(), Measured::new());
        if let Some((second, summary)) = measured.accept_now.flush() {
            measured.series[second].accept_ms = Some(summary);
        }
        if let Some((second, summary)) = measured.end_to_end_now.flush() {
            measured.series[second].end_to_end_ms = Some(summary);
        }
        measured
    }
}

impl Measured {
    fn new() -> Self {
        Self {
            arrived: 0,
            held_back: 0,
            accepted: 0,
            refused: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            done: 0,
            failed: BTreeMap::new(),
            parked: 0,
            unclaimed: 0,
            tries: BTreeMap::new(),
            keys: HashMap::new(),
            accept: histogram(),
            end_to_end: histogram(),
            send_delay: histogram(),
            series: Vec::new(),
            accepted_in_time: 0,
            last_settled: Duration::ZERO,
            transactions: HashMap::new(),
            accept_now: Rolling::new(),
            end_to_end_now: Rolling::new(),
        }
    }

    pub(super) fn progress(&self) -> Progress {
        let settled = self.done + self.failed.values().sum::<u64>();
        let refused: u64 = self.refused.values().map(|kind| kind.count).sum();
        Progress {
            accepted: self.accepted,
            not_accepted: refused + self.unanswered.values().sum::<u64>(),
            settled,
            pending: self.accepted - settled - self.parked,
        }
    }

    /// The second of the run in which this lies. There is an entry for it, and for all before.
    fn second(&mut self, at: Duration) -> usize {
        let number = usize::try_from(at.as_secs()).unwrap_or(usize::MAX);
        while self.series.len() <= number {
            self.series.push(Second::default());
        }
        number
    }
}

/// Latencies of the current second.
struct Rolling {
    second: usize,
    latencies: Histogram<u64>,
}

impl Rolling {
    fn new() -> Self {
        Self {
            second: 0,
            latencies: histogram(),
        }
    }

    /// Takes one down. Answers what the second before was like, if this begins another.
    fn record(&mut self, second: usize, took: Duration) -> Option<(usize, [f64; 2])> {
        // Two tasks may come in the other order; what is late by that much counts for the current second.
        let before = if second > self.second { self.flush() } else { None };
        self.second = self.second.max(second);
        record(&mut self.latencies, took);
        before
    }

    fn flush(&mut self) -> Option<(usize, [f64; 2])> {
        if self.latencies.is_empty() {
            return None;
        }
        let summary = [0.5, 0.99].map(|quantile| Latencies::ms(self.latencies.value_at_quantile(quantile)));
        self.latencies.reset();
        Some((self.second, summary))
    }
}

/// Of microseconds, to three digits; it grows as needed.
#[expect(
    clippy::expect_used,
    reason = "the only mistake is a number of digits above five"
)]
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

fn record(into: &mut Histogram<u64>, took: Duration) {
    let micros = micros(took);
    if into.record(micros).is_err() {
        // Longer than a histogram can grow to: some 10,000 years.
        into.saturating_record(micros);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "recorder_tests.rs"]
mod tests;
