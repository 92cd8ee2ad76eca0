//! What a run comes to: the shape of the JSON file, and how its figures are made of what was measured.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::load::LoadView;
use super::recorder::{KeyTotals, Measured};

/// Grows when a reader of older files would be misled.
pub(super) const FORMAT: u32 = 1;

/// What took the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A gateway, over HTTP.
    Gateway,
    /// The ledger itself.
    Direct,
}

/// A run, as it is written to a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) format: u32,
    /// Of this program.
    pub(super) version: String,
    pub(super) kind: Kind,
    /// The transactions carry it as their label `bench`.
    pub(super) run: String,
    pub(super) started_at: String,
    /// Address of the gateway, or kind of the ledger.
    pub(super) target: String,
    pub(super) load: LoadView,
    /// It was ended before its time.
    pub(super) interrupted: bool,
    pub(super) counts: Counts,
    pub(super) throughput: Throughput,
    /// From the moment a transaction was due (closed loop: was sent) to the answer that it is accepted.
    pub(super) accept: Latencies,
    /// From the same moment to the event that it is done or failed; none if that was not followed.
    pub(super) end_to_end: Option<Latencies>,
    /// By how much transactions left later than they were due, for want of a free place or of processor time here.
    pub(super) send_delay: Latencies,
    pub(super) tries: Option<Tries>,
    /// What the gateway counted meanwhile for the ledger, whoever's transactions; none if it did not tell.
    pub(super) lane: Option<Lane>,
    pub(super) fairness: Option<Fairness>,
    /// One entry for each second since the start of the measurement.
    pub(super) series: Vec<Second>,
    /// What has to be known to read the figures.
    pub(super) notes: Vec<String>,
}

/// `due` = `accepted` + refused + unanswered + `unfinished`; `accepted` = `done` + failed + `parked` + `pending`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) due: u64,
    pub(super) accepted: u64,
    /// By code.
    pub(super) refused: BTreeMap<String, Refused>,
    /// By what kept the answer away; these may have been accepted all the same.
    pub(super) unanswered: BTreeMap<String, u64>,
    /// Not sent, or not answered, when the run ended.
    pub(super) unfinished: u64,
    pub(super) done: u64,
    /// By code.
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) parked: u64,
    /// Not known to be settled when the run ended; if that was not followed, all that were accepted.
    pub(super) pending: u64,
    /// Of those without an answer, so many were accepted and have settled.
    pub(super) unclaimed: u64,
    /// Were due while as many as allowed were under way, and left later.
    pub(super) held_back: u64,
}

/// Refusals with one code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) count: u64,
    /// One of them, in words.
    pub(super) example: String,
}

/// Per second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Throughput {
    /// Came to be due, while the load lasted.
    pub(super) due: f64,
    /// Accepted while the load lasted.
    pub(super) accepted: f64,
    /// Done or failed, from the start to the last of them.
    pub(super) settled: Option<f64>,
}

/// Milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Latencies {
    pub(super) count: u64,
    pub(super) mean: f64,
    pub(super) min: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
    /// All of them: microseconds, to three digits, and how often.
    pub(super) histogram_us: Vec<(u64, u64)>,
}

/// How often settled transactions were tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Tries {
    pub(super) mean: f64,
    pub(super) max: u32,
    /// Those beyond the first, of all.
    pub(super) repeated_share: f64,
    /// How many transactions needed so many.
    pub(super) distribution: BTreeMap<u32, u64>,
}

/// A lane's counters, by how much they grew.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Lane {
    pub(super) submissions: u64,
    pub(super) conflicts: u64,
    /// Of the submissions.
    pub(super) conflict_share: f64,
}

/// Jain's index: the square of the sum, by the number and the sum of the squares. 1 if all are alike, 1/n if one has it
/// all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Fairness {
    /// So many keys had settled transactions.
    pub(super) keys: u64,
    /// Over keys, of the mean number of tries of a key's transactions.
    pub(super) tries_of_keys: f64,
    /// Over keys, of the mean end-to-end latency of a key's transactions.
    pub(super) latency_of_keys: f64,
    /// Over transactions, of tries.
    pub(super) tries_of_transactions: f64,
    /// Over transactions, of end-to-end latency.
    pub(super) latency_of_transactions: f64,
}

/// What happened in one second.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Second {
    pub(super) due: u64,
    pub(super) accepted: u64,
    pub(super) not_accepted: u64,
    pub(super) done: u64,
    pub(super) failed: u64,
    /// p50 and p99 of the accepts that were answered in it.
    pub(super) accept_ms: Option<[f64; 2]>,
    /// p50 and p99 of the transactions that were settled in it.
    pub(super) end_to_end_ms: Option<[f64; 2]>,
}

impl Latencies {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| Self::ms(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            mean: histogram.mean() / 1e3,
            min: Self::ms(histogram.min()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: Self::ms(histogram.max()),
            histogram_us: histogram
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect(),
        }
    }

    pub(super) fn ms(micros: u64) -> f64 {
        micros as f64 / 1e3
    }
}

impl Counts {
    pub(super) fn refused(&self) -> u64 {
        self.refused.values().map(|refused| refused.count).sum()
    }

    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered.values().sum()
    }

    pub(super) fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    pub(super) fn of(measured: &Measured) -> Self {
        let progress = measured.progress();
        let refused = measured.refused.iter().map(|(code, kind)| {
            let example = kind.example.clone();
            let count = kind.count;
            (code.clone(), Refused { count, example })
        });
        Self {
            due: measured.arrived,
            accepted: measured.accepted,
            refused: refused.collect(),
            unanswered: measured.unanswered.clone(),
            unfinished: measured.arrived - progress.accepted - progress.not_accepted,
            done: measured.done,
            failed: measured.failed.clone(),
            parked: measured.parked,
            pending: progress.pending,
            unclaimed: measured.unclaimed,
            held_back: measured.held_back,
        }
    }
}

impl Throughput {
    /// `during` is how many seconds the load lasted.
    pub(super) fn of(measured: &Measured, during: f64, followed: bool) -> Self {
        let settled = measured.progress().settled as f64;
        let lasted = measured.last_settled.as_secs_f64();
        Self {
            due: measured.arrived as f64 / during.max(1e-9),
            // What was answered after the load had ended is not the rate at which it was accepted.
            accepted: measured.accepted_in_time as f64 / during.max(1e-9),
            settled: (followed && lasted > 0.0).then(|| settled / lasted),
        }
    }
}

impl Tries {
    pub(super) fn of(distribution: &BTreeMap<u32, u64>) -> Option<Self> {
        let transactions: u64 = distribution.values().sum();
        let all: u64 = distribution
            .iter()
            .map(|(&tries, &count)| u64::from(tries) * count)
            .sum();
        let (max, _) = distribution.last_key_value()?;
        Some(Self {
            mean: all as f64 / transactions as f64,
            max: *max,
            repeated_share: match all {
                0 => 0.0,
                all => all.saturating_sub(transactions) as f64 / all as f64,
            },
            distribution: distribution.clone(),
        })
    }
}

impl Fairness {
    pub(super) fn of(measured: &Measured) -> Option<Self> {
        let keys = || measured.keys.values().filter(|key| key.settled > 0);
        let mean =
            |of: fn(&KeyTotals) -> u64| jain(keys().map(move |key| (of(key) as f64 / key.settled as f64, 1)));
        let latencies = measured
            .end_to_end
            .iter_recorded()
            .map(|step| (step.value_iterated_to() as f64, step.count_at_value()));
        Some(Self {
            keys: keys().count() as u64,
            tries_of_keys: mean(|key| key.tries)?,
            latency_of_keys: mean(|key| key.latency_us)?,
            tries_of_transactions: jain(
                measured
                    .tries
                    .iter()
                    .map(|(&tries, &count)| (tries.into(), count)),
            )?,
            latency_of_transactions: jain(latencies)?,
        })
    }
}

/// Jain's index of values, each with how often it occurs. `None` if there are none, or all are 0.
fn jain(values: impl Iterator<Item = (f64, u64)>) -> Option<f64> {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for (value, times) in values {
        let times = times as f64;
        count += times;
        sum += value * times;
        squares += value * value * times;
    }
    (squares > 0.0).then(|| sum * sum / (count * squares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_if_all_are_alike_and_one_nth_if_one_has_it_all() {
        let of = |values: &[f64]| jain(values.iter().map(|&value| (value, 1)));
        assert_eq!(of(&[3.0, 3.0, 3.0]), Some(1.0));
        assert_eq!(of(&[1.0, 0.0, 0.0, 0.0]), Some(0.25));
        // By hand: (1+2+3)^2 / (3 * (1+4+9)).
        assert_eq!(of(&[1.0, 2.0, 3.0]), Some(36.0 / 42.0));
        assert_eq!(jain([(1.0, 2), (4.0, 1)].into_iter()), of(&[1.0, 1.0, 4.0]));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0.0]), None);
    }

    #[test]
    fn tries_are_summed_up() {
        let tries = Tries::of(&BTreeMap::from([(1, 6), (2, 3), (8, 1)])).expect("some");
        assert_eq!((tries.mean, tries.max), (2.0, 8));
        assert_eq!(tries.repeated_share, 0.5);
        assert_eq!(Tries::of(&BTreeMap::new()), None);
    }
}
