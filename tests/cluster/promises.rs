//! The promises, one function each: facts in, the breach out. Nothing here asks anybody, so each can be shown to object.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::ledger::Sent;
use crate::load::Accepted;
use crate::plan::{BURST, RATE};

/// Sends at the gateway and arrivals at the ledger are some scheduling apart.
const SCHEDULING: Duration = Duration::from_millis(250);

/// A record as the API lists it at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) status: String,
    pub(crate) tx_id: Option<String>,
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

/// I2: each record that is done names a transaction that is valid in the chain, once, and the chain has no other.
pub(crate) fn one_valid_transaction_each(records: &Records, chain: &[Sent]) -> Promise {
    let mut valid = BTreeSet::new();
    let twice = chain
        .iter()
        .filter(|sent| sent.is_valid() && !valid.insert(&sent.id));
    none(
        "I2: valid twice",
        &twice.map(|sent| sent.id.clone()).collect::<Vec<_>>(),
    )?;
    let mut unknown = valid.clone();
    let mut offenders = Vec::new();
    for (id, record) in records {
        let committed = record.tx_id.as_ref().is_some_and(|tx_id| unknown.remove(tx_id));
        if committed != (record.status == "done") {
            offenders.push(format!("{id} {record:?}"));
        }
    }
    none("I2: record and chain disagree", &offenders)?;
    none(
        "I2: valid transactions without a record",
        &unknown.into_iter().cloned().collect::<Vec<_>>(),
    )
}

/// A stretch of time, in ms since 1970.
pub(crate) type Stretch = (u64, u64);

/// I6: in any stretch of time the ledger saw at most rate × time + burst, over all processes together. What a
/// bucket that drains at the rate would have held at its fullest is the worst of all stretches.
///
/// While the ledger or the line to it was held up, arrivals say nothing about when things were sent: what came in
/// such a stretch may have been sent at any time in it, so that no stretch is judged that begins or ends there.
pub(crate) fn the_rate_was_kept(chain: &[Sent], held_up: &[Stretch]) -> Result<f64, String> {
    let mut arrivals: Vec<u64> = chain.iter().map(|sent| sent.arrived_at).collect();
    arrivals.sort_unstable();
    let (mut held, mut fullest, mut before) = (0.0_f64, 0.0_f64, 0);
    let mut held_up = merged(held_up).into_iter().peekable();
    let mut drain = |held: f64, until: u64, and_more: f64| {
        let passed = Duration::from_millis(until.saturating_sub(before));
        before = until.max(before);
        (held + and_more - RATE * passed.as_secs_f64()).max(0.0)
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
    let allowed = BURST + RATE * SCHEDULING.as_secs_f64();
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
