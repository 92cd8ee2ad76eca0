//! Validation: which transactions of a cut block take effect.
//!
//! Invariant: the valid ones, executed one after another in block order, give the same state. Each is
//! valid only if every version it read, and every range it queried, is still the same in committed state
//! with the earlier valid transactions of the block applied. Runs only while no other block is appended.

use std::collections::{BTreeMap, HashSet};
use std::ops::{Bound, ControlFlow};

use serde_json::value::RawValue;

use crate::domain::{LedgerTxId, Outcome, Timestamp};
use crate::kv::KvError;

use super::block::{Block, Entry, ValidationCode};
use super::chain::Chain;
use super::envelope::{Effects, Envelope, RangeRead};
use super::state::{self, Version};

/// An envelope on its way into a block.
#[derive(Debug)]
pub(super) struct Submission {
    /// The envelope as it came.
    pub(super) text: Box<RawValue>,
    /// The same, opened.
    pub(super) envelope: Envelope,
    /// When it reached the orderer.
    pub(super) arrived: Timestamp,
}

/// Why a transaction is invalid, and the sentence about it.
type Invalid = (ValidationCode, Option<String>);

/// What the valid transactions of this block write, by engine key.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Judges `submissions` in order and makes the next block of them.
///
/// # Errors
/// [`KvError`]; nothing was changed.
pub(super) fn validate(
    chain: &Chain,
    submissions: &[Submission],
    cut_at: Timestamp,
) -> Result<Block, KvError> {
    let number = chain.height() + 1;
    let mut changes = Changes::new();
    let mut entries = Vec::with_capacity(submissions.len());
    let mut outcomes = Vec::with_capacity(submissions.len());
    let mut seen: HashSet<LedgerTxId> = HashSet::new();
    for (position, submission) in (0_u32..).zip(submissions) {
        let (tx_id, effects) = (&submission.envelope.tx_id, &submission.envelope.effects);
        let contract = &submission.envelope.call.contract;
        let repeated = !seen.insert(tx_id.clone());
        let original = if repeated { None } else { chain.verdict(tx_id)? };
        let verdict = if repeated || original.is_some() {
            Err((ValidationCode::DuplicateTxid, None))
        } else {
            judge(chain, &changes, contract, effects)?
        };
        if verdict.is_ok() {
            for (key, value) in &effects.writes {
                let version = Version(number, position);
                let value = value.as_deref().map(|value| state::encode_value(version, value));
                changes.insert(state::encode_key(contract, key), value);
            }
        }
        let (code, detail) = verdict.err().unwrap_or((ValidationCode::Valid, None));
        let entry = Entry {
            code,
            detail,
            envelope: submission.text.clone(),
        };
        // Of a repeat within the block, the first one tells; of a repeat from further back, the chain.
        let outcome: Option<Outcome> = entry.outcome(tx_id, number)?.or(original);
        outcomes.extend(outcome.map(|outcome| (tx_id.clone(), outcome)));
        entries.push((tx_id.clone(), entry));
    }
    Ok(Block {
        number,
        cut_at,
        entries,
        changes: changes.into_iter().collect(),
        outcomes,
    })
}

/// Compares what a transaction read with what is there now.
fn judge(
    chain: &Chain,
    changes: &Changes,
    contract: &str,
    effects: &Effects,
) -> Result<Result<(), Invalid>, KvError> {
    for (key, read) in &effects.reads {
        let changed = changes.contains_key(&state::encode_key(contract, key))
            || chain.value(contract, key)?.map(|(version, _)| version) != *read;
        if changed {
            return Ok(Err((
                ValidationCode::MvccReadConflict,
                Some(format!("the key {key:?} has changed since it was read")),
            )));
        }
    }
    for range in &effects.ranges {
        if !is_unchanged(chain, changes, contract, range)? {
            return Ok(Err((
                ValidationCode::PhantomReadConflict,
                Some(format!(
                    "the keys from {:?} to {:?} have changed since they were read",
                    range.start, range.end
                )),
            )));
        }
    }
    Ok(Ok(()))
}

/// Runs a range query again, over committed state with the block's earlier writes laid on top.
fn is_unchanged(
    chain: &Chain,
    changes: &Changes,
    contract: &str,
    range: &RangeRead,
) -> Result<bool, KvError> {
    let Some(keys) = state::encode_range(contract, &range.start, &range.end) else {
        return Ok(range.seen.is_empty());
    };
    let bounds = (Bound::Included(keys.start), Bound::Excluded(keys.end));
    // Whatever this block puts there has a version that nobody can have seen.
    if changes
        .range::<Vec<u8>, _>((bounds.0.as_ref(), bounds.1.as_ref()))
        .any(|(_, value)| value.is_some())
    {
        return Ok(false);
    }
    let mut expected = range.seen.iter();
    let mut same = true;
    chain.scan(contract, &range.start, &range.end, &mut |key, version, _| {
        // None of the changes left in the range is a put, so this one is a removal.
        if changes.contains_key(&state::encode_key(contract, key)) {
            return ControlFlow::Continue(());
        }
        same = expected
            .next()
            .is_some_and(|(seen, at)| seen == key && *at == version);
        if same {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(same && expected.next().is_none())
}
