//! The log of changes: which record changed, in an order that all processes see alike.
//!
//! The statement that stores or changes records adds one row to the log: its transaction's number, and which records
//! have which version now. Numbers are given when a transaction begins to write and become visible when it commits, in
//! another order. So readers take only what is below every transaction that is still open: nothing can come in there any
//! more, and whoever goes on behind it misses nothing and reads nothing twice. The price: a transaction that stays open,
//! and has written anything anywhere on this server, holds up the log of all; no record waits for it.
//!
//! An entry whose record has another version by now is passed over: a later one tells of it. A position names the place
//! it belongs to, a database of one server on one timeline: after a restore or a failover older ones are not known.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::failure::Failure;
use super::row::{calendar, decode_readable, first_records, record, transaction_id};
use super::session::Sessions;
use crate::domain::{Timestamp, Transaction};
use crate::store::{Changes, MOST_BYTES, Position};

/// So many bits of a position number the entries of one transaction; a group is far smaller.
const ENTRY_BITS: u32 = 20;

/// What stays the same while transaction numbers go on. A restored dump brings the log of another place along.
macro_rules! place {
    () => {
        "(SELECT concat_ws(' ', control.system_identifier, base.oid, 'changes'::regclass::oid) \
         FROM pg_control_system() AS control, pg_database AS base WHERE base.datname = current_database())"
    };
}

/// The name of the log, and the number below which no transaction is open.
macro_rules! log {
    () => {
        concat!(
            "SELECT hashtextextended(concat_ws(' ', ",
            place!(),
            ", control.timeline_id), 0) AS name, pg_snapshot_xmin(pg_current_snapshot()) AS past, \
             forgotten_in, forgotten FROM change_log, pg_control_checkpoint() AS control"
        )
    };
}

const BEGIN: &str = concat!(
    "WITH begun AS (UPDATE change_log SET place = ",
    place!(),
    ", forgotten_in = pg_current_xact_id(), forgotten = 0 WHERE place IS DISTINCT FROM ",
    place!(),
    " RETURNING 1) DELETE FROM changes WHERE EXISTS (SELECT FROM begun)"
);

const LAST: &str = concat!("SELECT name, past::text AS past FROM (", log!(), ") AS log");

/// Entries behind $1, $2: rows until there are $3 or more.
const READ: &str = concat!(
    "WITH log AS MATERIALIZED (",
    log!(),
    ") SELECT log.name, log.past::text AS past, log.forgotten_in::text AS forgotten_in, log.forgotten, \
            e.xid::text AS xid, e.n, e.ids, e.versions \
     FROM log LEFT JOIN LATERAL ( \
         SELECT * FROM ( \
             SELECT xid, n, ids, versions, sum(rest) OVER (ORDER BY xid, n) - rest AS before FROM ( \
                 SELECT c.*, LEAST(c.entries, CASE WHEN c.xid = $1::text::xid8 THEN c.n + c.entries - 1 - $2 \
                                                   ELSE c.entries END) AS rest \
                 FROM changes c \
                 WHERE c.xid >= $1::text::xid8 AND c.xid < log.past \
                   AND (c.xid > $1::text::xid8 OR c.n + c.entries - 1 > $2) \
                 ORDER BY c.xid, c.n LIMIT $3 \
             ) AS first \
         ) AS counted WHERE before < $3 \
     ) AS e ON true ORDER BY e.xid, e.n"
);

const RECORDS: &str = first_records!(
    "WHERE t.id = ANY($1)",
    by "array_position($1, t.id)", turn "array_position($1, id)", bytes "$2"
);

/// Whole rows, the first of them however long it is.
const FORGET: &str = "\
WITH first AS (
    SELECT * FROM changes WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY xid, n LIMIT $2
), counted AS (
    SELECT xid, n, sum(entries) OVER turn AS until, row_number() OVER turn AS turn,
           bool_and(changed_at < to_timestamp($1::float8 / 1000)) OVER turn AS old
    FROM first WINDOW turn AS (ORDER BY xid, n)
), gone AS (
    DELETE FROM changes c USING counted
    WHERE old AND (until <= $2 OR turn = 1) AND c.xid = counted.xid AND c.n = counted.n
      AND (c.xid, c.n) < (SELECT xid, n FROM changes ORDER BY xid DESC, n DESC LIMIT 1)
    RETURNING c.xid, c.n, c.entries
), noted AS (
    UPDATE change_log SET forgotten_in = last.xid, forgotten = last.entry
    FROM (SELECT xid, n + entries - 1 AS entry FROM gone ORDER BY xid DESC, n DESC LIMIT 1) AS last
    WHERE (forgotten_in, change_log.forgotten) < (last.xid, last.entry)
)
SELECT COALESCE(sum(entries), 0) AS forgotten FROM gone";

struct Entry {
    place: u64,
    id: Uuid,
    version: i64,
}

/// Where the log stands.
struct Log {
    name: u64,
    /// Behind everything that can be read.
    past: u64,
}

impl Log {
    fn of(row: &PgRow) -> Result<Self, Failure> {
        let name: i64 = row.try_get("name")?;
        Ok(Self {
            name: name.cast_unsigned(),
            past: place(number(row, "past")?, 0),
        })
    }

    fn position(&self, place: u64) -> Position {
        Position(self.name, place)
    }
}

/// Entries are numbered from 1, so 0 is before the first of them.
fn place(transaction: u64, entry: i32) -> u64 {
    (transaction << ENTRY_BITS) + u64::from(entry.cast_unsigned())
}

fn number(row: &PgRow, column: &str) -> Result<u64, Failure> {
    let text: &str = row.try_get(column)?;
    text.parse()
        .map_err(|_| Failure::Damaged(format!("{text:?} is no transaction number")))
}

/// Begins the log anew if what is there was written elsewhere.
pub(super) async fn begin(sessions: &Sessions) -> Result<(), Failure> {
    sessions.rows(sqlx::query(BEGIN)).await.map(drop)
}

pub(super) async fn last(sessions: &Sessions) -> Result<Position, Failure> {
    let rows = sessions.rows(sqlx::query(LAST)).await?;
    let log = Log::of(rows.first().ok_or(Failure::Closed)?)?;
    Ok(log.position(log.past))
}

pub(super) async fn read(
    sessions: &Sessions,
    after: Position,
    limit: usize,
) -> Result<Option<Changes>, Failure> {
    let limit = limit.max(1);
    let entry = i32::try_from(after.1 & ((1 << ENTRY_BITS) - 1)).unwrap_or_default();
    let statement = sqlx::query(READ)
        .bind((after.1 >> ENTRY_BITS).to_string())
        .bind(entry)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1));
    let rows = sessions.rows(statement).await?;
    let first = rows.first().ok_or(Failure::Closed)?;
    let log = Log::of(first)?;
    let forgotten = place(number(first, "forgotten_in")?, first.try_get("forgotten")?);
    if after.0 != log.name || after.1 < forgotten || after.1 > log.past {
        return Ok(None);
    }
    let mut entries = entries(&rows, after.1)?;
    let mut more = entries.len() > limit;
    entries.truncate(limit);
    let mut next = entries
        .last()
        .filter(|_| more)
        .map_or(log.past, |last| last.place);
    let newest: HashMap<Uuid, i64> = entries.iter().map(|entry| (entry.id, entry.version)).collect();
    entries.retain(|entry| newest.get(&entry.id) == Some(&entry.version));
    let (records, cut) = records(sessions, &entries).await?;
    if let Some(last) = cut {
        more = true;
        next = last;
    }
    let mut records: HashMap<_, _> = records.into_iter().map(|tx| (tx.id, tx)).collect();
    let items = entries.iter().filter_map(|entry| {
        let tx = records.remove(&transaction_id(entry.id))?;
        let stands = u64::try_from(entry.version) == Ok(tx.version);
        stands.then(|| (log.position(entry.place), tx))
    });
    Ok(Some(Changes {
        items: items.collect(),
        next: log.position(next),
        more,
    }))
}

fn entries(rows: &[PgRow], after: u64) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for row in rows {
        // One row without an entry tells where the log stands if there is none.
        let (Some(ids), Some(versions)) = (
            row.try_get::<Option<Vec<Uuid>>, _>("ids")?,
            row.try_get::<Option<Vec<i64>>, _>("versions")?,
        ) else {
            continue;
        };
        let first = place(number(row, "xid")?, row.try_get("n")?);
        let numbered = (first..).zip(ids.into_iter().zip(versions));
        entries.extend(
            numbered
                .filter(|(place, _)| *place > after)
                .map(|(place, (id, version))| Entry { place, id, version }),
        );
    }
    Ok(entries)
}

/// The records of these entries, and the place of the last one that was read if they are too large for all.
async fn records(sessions: &Sessions, entries: &[Entry]) -> Result<(Vec<Transaction>, Option<u64>), Failure> {
    if entries.is_empty() {
        return Ok((Vec::new(), None));
    }
    let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
    let statement = sqlx::query(RECORDS).bind(ids).bind(MOST_BYTES as i64);
    let rows = sessions.rows(statement).await?;
    let found: Option<i64> = rows.first().map(|row| row.try_get("found")).transpose()?;
    let cut = found.is_some_and(|found| found > rows.len() as i64);
    let last: Option<Uuid> = rows.last().map(|row| row.try_get("id")).transpose()?;
    let last = entries.iter().find(|entry| Some(entry.id) == last);
    Ok((
        decode_readable(&rows),
        last.filter(|_| cut).map(|entry| entry.place),
    ))
}

pub(super) async fn forget(sessions: &Sessions, before: Timestamp, limit: usize) -> Result<usize, Failure> {
    let statement = sqlx::query(FORGET)
        .bind(calendar(before))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = sessions.rows(statement).await?;
    let forgotten: i64 = rows.first().ok_or(Failure::Closed)?.try_get("forgotten")?;
    Ok(usize::try_from(forgotten).unwrap_or_default())
}
