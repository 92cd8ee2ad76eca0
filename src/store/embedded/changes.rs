//! The log of changes: which record changed, in the order of commits.
//!
//! The writer numbers each change of a record within the commit that makes it, so the log never differs from the
//! records. It is read up to the last commit that was answered. An entry whose record has changed since is passed over:
//! a later one tells of it. What is forgotten is the log, never a record.

use std::ops::ControlFlow;

use super::writer::store_error;
use super::{keys, listing};
use crate::domain::Timestamp;
use crate::kv::{Batch, KvEngine, Order};
use crate::store::{Changes, MOST_BYTES, Position, StoreError};

/// So many entries are looked at for each change that is asked for.
const LOOKED_AT: usize = 8;

/// The number of the last change on the disk; 0 if there was none.
pub(super) fn last(engine: &dyn KvEngine) -> Result<u64, StoreError> {
    let mut last =
        keys::number(engine.get(keys::CHANGES_FORGOTTEN).map_err(store_error)?).unwrap_or_default();
    let (from, to) = (keys::change(0), super::after(b"v"));
    engine
        .scan(&from..&to, Order::Descending, &mut |key, _| {
            last = keys::change_number(key).unwrap_or_default().max(last);
            ControlFlow::Break(())
        })
        .map_err(store_error)?;
    Ok(last)
}

/// The name of this log; one that has none yet is given one.
pub(super) fn log(engine: &dyn KvEngine) -> Result<u64, StoreError> {
    if let Some(log) = keys::number(engine.get(keys::CHANGE_LOG).map_err(store_error)?) {
        return Ok(log);
    }
    let log: u64 = rand::random();
    let mut batch = Batch::default();
    batch.put(keys::CHANGE_LOG.to_vec(), log.to_be_bytes().to_vec());
    engine.commit(batch).map_err(store_error)?;
    Ok(log)
}

/// What changed after number `after`, up to `visible`.
pub(super) fn read(
    engine: &dyn KvEngine,
    log: u64,
    after: u64,
    visible: u64,
    limit: usize,
) -> Result<Option<Changes>, StoreError> {
    let forgotten = keys::number(engine.get(keys::CHANGES_FORGOTTEN).map_err(store_error)?);
    if after > visible || forgotten.is_some_and(|forgotten| after < forgotten) {
        return Ok(None);
    }
    let (from, to) = (keys::change(after + 1), keys::change(visible.saturating_add(1)));
    let mut entries = Vec::new();
    engine
        .scan(&from..&to, Order::Ascending, &mut |key, value| {
            entries.push((keys::change_number(key), keys::changed(value)));
            match entries.len() < limit * LOOKED_AT {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })
        .map_err(store_error)?;
    let (mut items, mut bytes) = (Vec::new(), 0);
    let mut next = after;
    for (number, entry) in entries {
        let Some(number) = number else { continue };
        next = number;
        if let Some((id, version, _)) = entry
            && let Some((tx, length)) = listing::load_one(engine, id)?
            && tx.version == version
        {
            items.push((Position(log, number), tx));
            bytes += length;
        }
        if items.len() >= limit || bytes >= MOST_BYTES {
            break;
        }
    }
    // Numbers without an entry are of commits that failed.
    let more = next < visible && {
        let (from, mut more) = (keys::change(next + 1), false);
        engine
            .scan(&from..&to, Order::Ascending, &mut |_, _| {
                more = true;
                ControlFlow::Break(())
            })
            .map_err(store_error)?;
        more
    };
    Ok(Some(Changes {
        items,
        next: Position(log, if more { next } else { visible }),
        more,
    }))
}

/// The numbers of up to `limit` changes before `before`, oldest first.
pub(super) fn old(engine: &dyn KvEngine, before: Timestamp, limit: usize) -> Result<Vec<u64>, StoreError> {
    let mut old = Vec::new();
    let (from, to) = (keys::change(0), super::after(b"v"));
    engine
        .scan(&from..&to, Order::Ascending, &mut |key, value| {
            let readable = keys::changed(value);
            if old.len() == limit || readable.is_some_and(|(_, _, at)| at >= before) {
                return ControlFlow::Break(());
            }
            old.extend(keys::change_number(key));
            ControlFlow::Continue(())
        })
        .map_err(store_error)?;
    Ok(old)
}
