//! What each kind of write is made of: which entries it puts and removes, what has to hold for it, and what it counts.
//!
//! Pure: the writer judges and commits. All that a record brings with it is in one mutation, so it is there as a whole or
//! not at all.

use super::keys::{self, Entry};
use super::record;
use super::writer::{Expect, Mutation, Verdict};
use crate::domain::{LedgerName, TenantName, Transaction, TransactionId};
use crate::store::{Change, Mark, StoreError};

pub(super) fn insertion(tx: &Transaction) -> Result<Mutation, StoreError> {
    let mut puts = keys::index(tx);
    puts.push((keys::record(tx.id), record::encode(tx)?));
    let idempotency = tx.idempotency_entry().map(|key| keys::idempotency(&key));
    Ok(Mutation {
        id: tx.id,
        expect: Expect::New { idempotency },
        version: Some(tx.version),
        changed_at: Some(tx.updated_at),
        puts,
        deletes: Vec::new(),
        counts: vec![((tx.request.ledger.clone(), tx.status()), 1)],
        pending: pending_change(None, Some(tx)),
        wakes: Some(tx.request.ledger.clone()),
    })
}

pub(super) fn replacement(change: &Change) -> Result<Mutation, StoreError> {
    let Change { old, new } = change;
    let ledger = &new.request.ledger;
    let (before, after) = (keys::index(old), keys::index(new));
    let mut puts: Vec<_> = after.iter().filter(|e| !before.contains(e)).cloned().collect();
    puts.push((keys::record(new.id), record::encode(new)?));
    let gone = before.into_iter().filter(|e| !after.contains(e));
    let mut deletes: Vec<_> = gone.map(|(key, _)| key).collect();
    if let Some(mark) = Mark::of(old) {
        let due = keys::due(ledger, &mark);
        deletes.push(keys::announced(&due));
        // A mark that was announced is due anew, even if it should be the same.
        if Mark::of(new) == Some(mark) {
            puts.push((due, Vec::new()));
        }
    }
    let mut counts = Vec::new();
    if old.status() != new.status() {
        counts.push(((ledger.clone(), old.status()), -1));
        counts.push(((ledger.clone(), new.status()), 1));
    }
    Ok(Mutation {
        id: new.id,
        expect: Expect::Version(old.version),
        version: Some(new.version),
        changed_at: Some(new.updated_at),
        puts,
        deletes,
        counts,
        pending: pending_change(Some(old), Some(new)),
        wakes: new.state.due().map(|_| ledger.clone()),
    })
}

/// Moves a mark between due and announced, unless it has gone from `from`.
pub(super) fn move_mark(id: TransactionId, from: Vec<u8>, to: Entry, wakes: Option<LedgerName>) -> Mutation {
    Mutation {
        id,
        puts: vec![to],
        wakes,
        deletes: vec![from.clone()],
        ..beside(Expect::Mark(from))
    }
}

/// Notes a number that never goes back.
pub(super) fn note_number(key: Vec<u8>, number: u64) -> Mutation {
    let mut note = beside(Expect::Below(key.clone(), number));
    note.puts.push((key, number.to_be_bytes().to_vec()));
    note
}

/// A mutation of what stands beside the records.
pub(super) fn beside(expect: Expect) -> Mutation {
    Mutation {
        id: TransactionId::LOWEST,
        expect,
        version: None,
        changed_at: None,
        puts: Vec::new(),
        deletes: Vec::new(),
        counts: Vec::new(),
        pending: None,
        wakes: None,
    }
}

/// How the number of a tenant's transactions that are not settled changes.
pub(super) fn pending_change(
    old: Option<&Transaction>,
    new: Option<&Transaction>,
) -> Option<(TenantName, i64)> {
    let tenant = &old.or(new)?.tenant;
    let pending = |tx: Option<&Transaction>| i64::from(tx.is_some_and(|tx| !tx.is_settled()));
    let change = pending(new) - pending(old);
    (change != 0 && !tenant.is_default()).then(|| (tenant.clone(), change))
}

pub(super) fn removal(tx: &Transaction) -> Mutation {
    let mut deletes: Vec<_> = keys::index(tx).into_iter().map(|(key, _)| key).collect();
    deletes.push(keys::record(tx.id));
    Mutation {
        id: tx.id,
        deletes,
        counts: vec![((tx.request.ledger.clone(), tx.status()), -1)],
        pending: pending_change(Some(tx), None),
        ..beside(Expect::Version(tx.version))
    }
}

pub(super) fn made(verdicts: &[Verdict]) -> usize {
    verdicts
        .iter()
        .filter(|verdict| **verdict == Verdict::Made)
        .count()
}
