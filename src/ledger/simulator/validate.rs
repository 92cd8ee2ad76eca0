//! Validation: which transactions of a cut block take effect.
//!
//! Invariant: the valid ones, executed one after another in block order, give the same state. Each is
//! valid only if every version it read, and every range it queried, is still the same in committed state
//! with the earlier valid transactions of the block applied. Runs only while no other block is appended.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::domain::{LedgerTxId, Timestamp};
use crate::kv::KvError;

use super::block::{Block, Entry, Header, Settled, ValidationCode};
use super::chain::Chain;
use super::effects::{Effects, RangeRead};
use super::state::{self, Version};

/// What a transaction is found to be before it is compared with the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// In order: it takes effect if what it read still holds.
    Endorsed {
        /// The contract whose keys the effects are about.
        contract: String,
        /// What it read and wants to write.
        effects: Effects,
    },
    /// Malformed or forged. Comes before the question whether the identifier is new, as in Fabric.
    Malformed(ValidationCode),
    /// Well-formed, and not endorsed as it has to be.
    Unendorsed(ValidationCode),
}

/// An envelope on its way into a block.
#[derive(Debug)]
pub(crate) struct Submission {
    /// The identifier of the transaction.
    pub(crate) tx_id: LedgerTxId,
    /// The envelope as it came.
    pub(crate) envelope: Vec<u8>,
    /// What it is found to be.
    pub(crate) claim: Claim,
    /// When it reached the orderer.
    pub(crate) arrived: Timestamp,
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
    let mut settled = Vec::with_capacity(submissions.len());
    // Which of them stand in an earlier block.
    let mut known: HashMap<&LedgerTxId, bool> = HashMap::new();
    let mut endorsed: HashSet<&LedgerTxId> = HashSet::new();
    for (position, submission) in (0_u32..).zip(submissions) {
        let tx_id = &submission.tx_id;
        let new_here = !known.contains_key(tx_id);
        let original = if new_here { chain.settled(tx_id)? } else { None };
        let is_repeat = *known.entry(tx_id).or_insert(original.is_some());
        let verdict = match &submission.claim {
            Claim::Malformed(code) => Err((*code, None)),
            _ if is_repeat => Err((ValidationCode::DuplicateTxid, None)),
            Claim::Unendorsed(code) => Err((*code, None)),
            Claim::Endorsed { .. } if !endorsed.insert(tx_id) => Err((ValidationCode::DuplicateTxid, None)),
            Claim::Endorsed { contract, effects } => {
                let verdict = judge(chain, &changes, contract, effects)?;
                if verdict.is_ok() {
                    for (key, value) in &effects.writes {
                        let version = Version(number, position);
                        let value = value.as_deref().map(|value| state::encode_value(version, value));
                        changes.insert(state::encode_key(contract, key), value);
                    }
                }
                verdict
            }
        };
        let (code, detail) = verdict.err().unwrap_or((ValidationCode::Valid, None));
        let entry = Arc::new(Entry {
            tx_id: tx_id.clone(),
            code,
            detail,
            arrived_at: submission.arrived,
            envelope: submission.envelope.clone(),
        });
        // Of a repeat within the block, the first one tells; of a repeat from further back, the chain.
        if new_here && !tx_id.0.is_empty() {
            settled.push(original.unwrap_or_else(|| Settled {
                block: number,
                entry: Arc::clone(&entry),
            }));
        }
        entries.push(entry);
    }
    let previous = chain.hash_after(chain.height())?.to_vec();
    Ok(Block {
        number,
        header: Header::new(cut_at, previous, entries.iter().map(|entry| &entry.envelope[..])),
        entries,
        changes: changes.into_iter().collect(),
        settled,
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
