//! Listing from the index, newest first, and finding what retention may remove.
//!
//! Every combination of ledger, or tenant, and status is one run of keys in order of acceptance. A listing merges the
//! runs it needs and looks at records one by one, never at more than [`MAX_LOOKED_AT`] for one page.

use std::ops::{ControlFlow, Range};

use super::keys;
use super::record;
use super::writer::{Mutation, store_error};
use crate::domain::{LedgerName, Stage, Status, Timestamp, Transaction, TransactionId};
use crate::kv::{KvEngine, Order};
use crate::store::{Filter, MOST_BYTES, Page, StoreError};

/// So many records are looked at for one page; a search that found too little goes on at the next page.
const MAX_LOOKED_AT: usize = 5_000;

/// One run of the index, read in pieces from its newest end.
struct Run {
    /// What its keys begin with; an id follows.
    prefix: Vec<u8>,
    /// Ids read ahead, the next one last.
    ahead: Vec<TransactionId>,
    /// Everything at or above this was read.
    below: TransactionId,
    exhausted: bool,
}

impl Run {
    fn peek(
        &mut self,
        engine: &dyn KvEngine,
        from: TransactionId,
        piece: usize,
    ) -> Result<Option<TransactionId>, StoreError> {
        if self.ahead.is_empty() && !self.exhausted {
            let start = [&self.prefix, from.as_bytes().as_slice()].concat();
            let end = [&self.prefix, self.below.as_bytes().as_slice()].concat();
            engine
                .scan(&start..&end, Order::Descending, &mut |key, _| {
                    self.ahead.extend(keys::id(key));
                    if self.ahead.len() == piece {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })
                .map_err(store_error)?;
            self.exhausted = self.ahead.len() < piece;
            self.below = self.ahead.last().copied().unwrap_or(from);
            self.ahead.reverse();
        }
        Ok(self.ahead.last().copied())
    }
}

pub(super) fn page(
    engine: &dyn KvEngine,
    filter: &Filter,
    ledgers: &[LedgerName],
    cursor: Option<TransactionId>,
    limit: usize,
) -> Result<Page, StoreError> {
    let Range {
        start: from,
        end: below,
    } = filter.ids(cursor);
    // Only pending ones have a stage.
    let wanted = |status: &Status| match (filter.status, filter.stage) {
        (Some(wanted), None) => wanted == *status,
        (Some(wanted), Some(_)) => wanted == *status && *status == Status::Pending,
        (None, Some(_)) => *status == Status::Pending,
        (None, None) => true,
    };
    let mut prefixes = Vec::new();
    for status in Status::ALL.into_iter().filter(wanted) {
        match filter.tenant.as_ref().filter(|tenant| !tenant.is_default()) {
            Some(tenant) => prefixes.push(keys::tenant_prefix(tenant, status)),
            None => prefixes.extend(ledgers.iter().map(|ledger| keys::listing_prefix(ledger, status))),
        }
    }
    let run = |prefix| Run {
        prefix,
        ahead: Vec::new(),
        below,
        exhausted: below <= from,
    };
    let mut runs: Vec<_> = prefixes.into_iter().map(run).collect();
    let (mut page, mut bytes) = (Page::default(), 0);
    for _ in 0..MAX_LOOKED_AT {
        let mut newest: Option<(TransactionId, usize)> = None;
        for (number, run) in runs.iter_mut().enumerate() {
            let id = run.peek(engine, from, limit.max(16))?;
            newest = newest.max(id.map(|id| (id, number)));
        }
        let Some((id, number)) = newest else {
            page.next = None;
            return Ok(page);
        };
        runs[number].ahead.pop();
        page.next = Some(id);
        // A record that moved on between index and record is judged as it is now; one that was pruned
        // meanwhile is passed over.
        if let Some((tx, length)) = load_one(engine, id)?
            && filter.matches(&tx)
            && page.items.last().is_none_or(|last: &Transaction| last.id != id)
        {
            page.items.push(tx);
            bytes += length;
            if page.items.len() == limit || bytes >= MOST_BYTES {
                break;
            }
        }
    }
    let mut more = false;
    for run in &mut runs {
        more |= run.peek(engine, from, 1)?.is_some();
    }
    page.next = page.next.filter(|_| more);
    Ok(page)
}

/// What removes up to `limit` records of `status` that were settled before `before`, oldest first. The records, which may be
/// large, are not kept.
pub(super) fn removals(
    engine: &dyn KvEngine,
    ledgers: &[LedgerName],
    status: Status,
    before: Timestamp,
    limit: usize,
) -> Result<Vec<Mutation>, StoreError> {
    let mut found = Vec::new();
    settled(engine, ledgers, status, before, &mut |tx, _| {
        found.push(super::removal(&tx));
        found.len() < limit
    })?;
    Ok(found)
}

/// Up to `limit` of these records themselves, up to [`MOST_BYTES`].
pub(super) fn settled_before(
    engine: &dyn KvEngine,
    ledgers: &[LedgerName],
    status: Status,
    before: Timestamp,
    limit: usize,
) -> Result<Vec<Transaction>, StoreError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    settled(engine, ledgers, status, before, &mut |tx, length| {
        found.push(tx);
        bytes += length;
        found.len() < limit && bytes < MOST_BYTES
    })?;
    Ok(found)
}

/// Shows the records of `status` that were settled before `before`, each with the length of what is stored, ledger by
/// ledger and oldest first, as long as `visit` wants more; at most [`MAX_LOOKED_AT`] of a ledger.
fn settled(
    engine: &dyn KvEngine,
    ledgers: &[LedgerName],
    status: Status,
    before: Timestamp,
    visit: &mut dyn FnMut(Transaction, usize) -> bool,
) -> Result<(), StoreError> {
    if status == Status::Pending {
        return Ok(());
    }
    for ledger in ledgers {
        let mut ids = Vec::new();
        // Accepted before it was settled: nothing newer than `before` can qualify.
        let start = keys::listing(ledger, status, TransactionId::LOWEST);
        let end = keys::listing(ledger, status, TransactionId::lowest_at(before));
        engine
            .scan(&start..&end, Order::Ascending, &mut |key, _| {
                ids.extend(keys::id(key));
                if ids.len() == MAX_LOOKED_AT {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .map_err(store_error)?;
        for id in ids {
            if let Some((tx, length)) = load_one(engine, id)?
                && tx.status() == status
                && tx.updated_at < before
                && !visit(tx, length)
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Up to `limit` submitted records of a ledger. They are among those that a worker has looked at before, which
/// are few beside a long backlog; at [`MAX_LOOKED_AT`] of them it ends.
pub(super) fn submitted(
    engine: &dyn KvEngine,
    ledger: &LedgerName,
    limit: usize,
) -> Result<Vec<Transaction>, StoreError> {
    let mut ids = Vec::new();
    let due = keys::due_prefix(ledger, 1);
    for prefix in [keys::announced(&due), due] {
        let end = super::after(&prefix);
        engine
            .scan(prefix.as_slice()..&end, Order::Ascending, &mut |key, _| {
                ids.extend(keys::id(key));
                if ids.len() >= MAX_LOOKED_AT {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
            .map_err(store_error)?;
    }
    let mut found = Vec::new();
    for id in ids {
        if found.len() == limit {
            break;
        }
        let record = load_one(engine, id)?.map(|(tx, _)| tx);
        found.extend(record.filter(|tx| tx.stage() == Some(Stage::Submitted)));
    }
    Ok(found)
}

/// The first of these records, up to [`MOST_BYTES`].
pub(super) fn load(engine: &dyn KvEngine, ids: Vec<TransactionId>) -> Result<Vec<Transaction>, StoreError> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    for id in ids {
        if let Some((tx, length)) = load_one(engine, id)? {
            found.push(tx);
            bytes += length;
            if bytes >= MOST_BYTES {
                break;
            }
        }
    }
    Ok(found)
}

/// A record, and the length of what is stored. One that cannot be read is reported and passed over: it must not
/// hide the others.
pub(super) fn load_one(
    engine: &dyn KvEngine,
    id: TransactionId,
) -> Result<Option<(Transaction, usize)>, StoreError> {
    let bytes = engine.get(&keys::record(id)).map_err(store_error)?;
    Ok(bytes.and_then(|bytes| {
        record::decode(id, &bytes)
            .inspect_err(|error| tracing::error!(tx.id = %id, %error, "run `sluicegate store check`"))
            .ok()
            .map(|tx| (tx, bytes.len()))
    }))
}
