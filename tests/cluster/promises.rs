//! The promises, one function each: facts in, the breach out. Nothing here asks anybody, so each can be shown to object.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ledger::Sent;
use crate::load::Accepted;
use crate::plan::Limit;

/// Sends at the gateway and arrivals at the ledger are some scheduling apart: a devnet that got no turn for so long, on a
/// machine with more to do than it can, takes at once what came in meanwhile.
const SCHEDULING: Duration = Duration::from_millis(500);

/// A record as the API lists it at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) status: String,
    pub(crate) tx_id: Option<String>,
    pub(crate) block: Option<u64>,
    /// What it adds 1 to; `None` if it is no `Add`.
    pub(crate) counter: Option<String>,
    /// What the counter came to by it.
    pub(crate) result: Option<u64>,
}

pub(crate) type Records = BTreeMap<String, Record>;

/// What holds, or which promise is broken by what.
pub(crate) type Promise = Result<(), String>;

/// At most so many offenders are named.
fn none(promise: &str, offenders: &[String]) -> Promise {
    if offenders.is_empty() {
        return Ok(());
    }
    let named = &offenders[..offenders.len().min(5)];
    Err(format!("{promise}: {} of them: {named:?}", offenders.len()))
}

/// I1: what was acknowledged is there.
pub(crate) fn every_acknowledged_is_there(accepted: &[Accepted], records: &Records) -> Promise {
    let lost = accepted.iter().filter(|one| !records.contains_key(&one.id));
    let lost: Vec<_> = lost.map(|one| one.id.clone()).collect();
    none("I1: acknowledged and lost", &lost)
}

/// I3: what was acknowledged is settled, and as it has to be.
pub(crate) fn every_record_is_settled(accepted: &[Accepted], records: &Records) -> Promise {
    let wrong = accepted.iter().filter_map(|one| {
        let status = &records.get(&one.id)?.status;
        let expected = if one.counter.is_some() { "done" } else { "failed" };
        (status != expected).then(|| format!("{} is {status}, not {expected}", one.id))
    });
    none("I3: not settled as it has to be", &wrong.collect::<Vec<_>>())
}

/// I1: the record is that of the request.
pub(crate) fn every_record_is_what_was_asked(accepted: &[Accepted], records: &Records) -> Promise {
    let others = accepted.iter().filter_map(|one| {
        let record = records.get(&one.id)?;
        (record.counter != one.counter).then(|| format!("{} asked for {:?}: {record:?}", one.id, one.counter))
    });
    none("I1: not what was asked", &others.collect::<Vec<_>>())
}

/// I2: of those that took effect on one counter, each was told a value of its own, from 1 up. `some_are_gone` of a store
/// that went back in time: what endorsers answer is on no ledger.
pub(crate) fn answers_are_exact(records: &Records, some_are_gone: bool) -> Promise {
    let mut told: BTreeMap<&String, Vec<Option<u64>>> = BTreeMap::new();
    for record in records.values().filter(|record| record.status == "done") {
        if let Some(counter) = &record.counter {
            told.entry(counter).or_default().push(record.result);
        }
    }
    let mut wrong = Vec::new();
    for (counter, mut results) in told {
        let all = results.len() as u64;
        results.retain(|result| !some_are_gone || result.is_some());
        results.sort_unstable();
        let distinct = results.windows(2).all(|pair| pair[0] != pair[1]);
        if !distinct
            || results
                .iter()
                .any(|result| !(Some(1)..=Some(all)).contains(result))
        {
            wrong.push(format!("{counter}: {results:?}"));
        }
    }
    none("I2: answers", &wrong)
}

/// I5: as many records as acknowledged requests, however often each was sent.
pub(crate) fn one_record_each(accepted: &[Accepted], records: &Records) -> Promise {
    let ids: BTreeSet<_> = accepted.iter().map(|one| &one.id).collect();
    let shared = accepted.len() - ids.len();
    if shared > 0 {
        return Err(format!("I5: {shared} requests were given the record of another"));
    }
    let more = records.keys().filter(|id| !ids.contains(id));
    none(
        "I5: records that nobody was told of",
        &more.cloned().collect::<Vec<_>>(),
    )
}

/// What each counter has to stand at.
pub(crate) fn effects(accepted: &[Accepted]) -> BTreeMap<String, u64> {
    let mut effects = BTreeMap::new();
    for counter in accepted.iter().filter_map(|one| one.counter.as_ref()) {
        *effects.entry(counter.clone()).or_default() += 1;
    }
    effects
}

/// I2: the counters stand where the acknowledged requests put them.
pub(crate) fn counters_are_exact(expected: &BTreeMap<String, u64>, stand: &BTreeMap<String, u64>) -> Promise {
    let wrong = expected.iter().filter_map(|(counter, times)| {
        let stands = stand.get(counter).copied().unwrap_or_default();
        (stands != *times).then(|| format!("{counter} stands at {stands}, not {times}"))
    });
    none("I2: counters", &wrong.collect::<Vec<_>>())
}

/// I2: each record that is done names a transaction that is valid in the chain, once and in that block, and the chain has
/// no other.
pub(crate) fn one_valid_transaction_each(records: &Records, chain: &[Sent]) -> Promise {
    let mut valid = BTreeMap::new();
    let twice = chain
        .iter()
        .filter(|sent| sent.is_valid() && valid.insert(&sent.id, sent.block).is_some());
    none(
        "I2: valid twice",
        &twice.map(|sent| sent.id.clone()).collect::<Vec<_>>(),
    )?;
    let mut unknown = valid.clone();
    let mut offenders = Vec::new();
    for (id, record) in records {
        let block = record.tx_id.as_ref().and_then(|tx_id| unknown.remove(tx_id));
        if block != record.block || block.is_some() != (record.status == "done") {
            offenders.push(format!("{id} {record:?}"));
        }
    }
    none("I2: record and chain disagree", &offenders)?;
    none(
        "I2: valid transactions without a record",
        &unknown.into_keys().cloned().collect::<Vec<_>>(),
    )
}

/// When these came to the ledger, in order, in ms since 1970.
pub(crate) fn arrivals<'c>(sent: impl Iterator<Item = &'c Sent>) -> Vec<u64> {
    let mut arrivals: Vec<u64> = sent.map(|sent| sent.arrived_at).collect();
    arrivals.sort_unstable();
    arrivals
}

/// A stretch of time, in ms since 1970.
pub(crate) type Stretch = (u64, u64);

/// I6: in any stretch of time the ledger saw at most rate × time + burst, over all processes together. What a
/// bucket that drains at the rate would have held at its fullest is the worst of all stretches.
///
/// While the ledger or the line to it was held up, arrivals say nothing about when things were sent: what came in
/// such a stretch may have been sent at any time in it, so that no stretch is judged that begins or ends there.
pub(crate) fn the_rate_was_kept(chain: &[Sent], held_up: &[Stretch], limit: Limit) -> Result<f64, String> {
    let arrivals = arrivals(chain.iter());
    let (mut held, mut fullest, mut before) = (0.0_f64, 0.0_f64, 0);
    let mut held_up = merged(held_up).into_iter().peekable();
    let mut drain = |held: f64, until: u64, and_more: f64| {
        let passed = Duration::from_millis(until.saturating_sub(before));
        before = until.max(before);
        (held + and_more - limit.rate * passed.as_secs_f64()).max(0.0)
    };
    let mut rest = arrivals.as_slice();
    while let Some((first, others)) = rest.split_first() {
        match held_up.peek() {
            Some((begin, end)) if begin <= first => {
                held = drain(held, *begin, 0.0);
                let within = rest.iter().take_while(|at| *at <= end).count();
                held = drain(held, *end, within as f64);
                rest = &rest[within..];
                held_up.next();
            }
            _ => {
                held = drain(held, *first, 0.0) + 1.0;
                rest = others;
            }
        }
        fullest = fullest.max(held);
    }
    let allowed = limit.burst + limit.rate * SCHEDULING.as_secs_f64();
    if fullest > allowed {
        return Err(format!("I6: {fullest:.0} above the rate, {allowed} allowed"));
    }
    Ok(fullest)
}

/// Stretches in order, those that overlap as one.
pub(crate) fn merged(stretches: &[Stretch]) -> Vec<Stretch> {
    let mut sorted = stretches.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<Stretch> = Vec::new();
    for (begin, end) in sorted {
        match merged.last_mut() {
            Some(last) if begin <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((begin, end)),
        }
    }
    merged
}

/// I4: the queue holds nothing, in hand or not, and only what was to be put aside is there.
pub(crate) fn the_queue_is_empty(messages: u64, dead_letters: u64, expected: u64) -> Promise {
    if (messages, dead_letters) == (0, expected) {
        return Ok(());
    }
    Err(format!(
        "I4: {messages} messages are left; {dead_letters} were put aside, {expected} should have been"
    ))
}

/// What a gateway says of itself when it has a defect, though it goes on or is started again.
const DEFECTS: [&str; 4] = ["panicked at", "illegal move", "ended badly", "ended by itself"];

/// Nothing in the gateways' log tells of a defect.
pub(crate) fn no_defect_was_told(log: &str) -> Promise {
    let told = log
        .lines()
        .filter(|line| DEFECTS.iter().any(|words| line.contains(words)));
    none("defects in the log", &told.map(str::to_owned).collect::<Vec<_>>())
}

/// A gateway that has stopped leaves its store, and no temporary file.
pub(crate) fn nothing_is_left_over(data_folder: &[String]) -> Promise {
    let known = [
        "lock",
        "store.redb",
        "store.redb.seal",
        "store.sled",
        "store.sled.seal",
    ];
    let left: Vec<_> = data_folder
        .iter()
        .filter(|name| !known.contains(&name.as_str()))
        .cloned()
        .collect();
    none("left in the data folder", &left)
}

#[cfg(test)]
#[path = "promises_tests.rs"]
mod tests;
