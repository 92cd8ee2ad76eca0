//! What workers have to look at.
//!
//! What one process is given is kept from the others for some seconds: held, by its id and until a moment of
//! the database's clock. Holding saves double work and decides nothing: a process that dies holds nobody up for
//! longer than that. Whatever is held by this process already is given to it again without a write.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::failure::Failure;
use super::row::{decode_readable, first_records, millis, record, transaction_id, uuid};
use super::session::Sessions;
use crate::domain::{LedgerName, Timestamp, Transaction};
use crate::store::{Due, MOST_BYTES, Mark};

/// How long others leave alone what one process was given.
const HOLD: Duration = Duration::from_secs(5);
/// So many marks are noted in one statement, so that the row locks are short.
const ANNOUNCED_AT_ONCE: usize = 512;

const DUE: &str = "\
WITH each AS (
    (SELECT transaction_id, due_at, first_try, row_number() OVER (ORDER BY transaction_id) AS turn,
            held_by = $4 AND held_until > now() + $5 / 2 AS mine
     FROM work
     WHERE ledger = $1 AND first_try AND announced_at IS NULL
       AND (held_until IS NULL OR held_until <= now() OR held_by = $4)
     ORDER BY transaction_id LIMIT $3)
    UNION ALL
    (SELECT transaction_id, due_at, first_try, row_number() OVER (ORDER BY due_at, transaction_id),
            held_by = $4 AND held_until > now() + $5 / 2
     FROM work
     WHERE ledger = $1 AND NOT first_try AND announced_at IS NULL AND due_at <= $2
       AND (held_until IS NULL OR held_until <= now() OR held_by = $4)
     ORDER BY due_at, transaction_id LIMIT $3)
), free AS MATERIALIZED (
    SELECT * FROM each ORDER BY turn, first_try LIMIT $3
), taken AS (
    SELECT w.transaction_id
    FROM free f
    JOIN work w ON w.ledger = $1 AND w.transaction_id = f.transaction_id
    WHERE f.mine IS NOT TRUE AND w.due_at = f.due_at AND w.first_try = f.first_try AND w.announced_at IS NULL
      AND (w.held_until IS NULL OR w.held_until <= now() OR w.held_by = $4)
    FOR UPDATE OF w SKIP LOCKED
), held AS (
    UPDATE work w SET held_by = $4, held_until = now() + $5
    FROM taken t WHERE w.ledger = $1 AND w.transaction_id = t.transaction_id
    RETURNING w.transaction_id
)
SELECT transaction_id, due_at, first_try, NULL::bigint AS next
FROM free WHERE mine OR transaction_id IN (SELECT transaction_id FROM held)
UNION ALL
SELECT NULL, NULL, NULL, (SELECT min(due_at) FROM work
                          WHERE ledger = $1 AND NOT first_try AND announced_at IS NULL AND due_at > $2)";

const ANNOUNCED: &str = "\
UPDATE work w SET announced_at = $1
FROM unnest($3::uuid[], $4::bigint[], $5::bool[]) AS i (id, due_at, first_try)
WHERE w.ledger = $2 AND w.transaction_id = i.id AND w.due_at = i.due_at AND w.first_try = i.first_try
  AND w.announced_at IS NULL";

const UNANNOUNCE: &str = "\
WITH lost AS (
    SELECT transaction_id FROM work
    WHERE ledger = $1 AND announced_at < $2
    ORDER BY announced_at LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE work w SET announced_at = NULL, held_until = NULL, held_by = NULL
FROM lost WHERE w.ledger = $1 AND w.transaction_id = lost.transaction_id
RETURNING 1";

const EXPIRED: &str = first_records!(
    "WHERE w.expires_at <= $1 ORDER BY w.expires_at LIMIT $2",
    by "w.expires_at", turn "expires_at, id", bytes "$3"
);

fn rows_at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) async fn due(
    sessions: &Sessions,
    holder: Uuid,
    ledger: &LedgerName,
    now: Timestamp,
    limit: usize,
) -> Result<Due, Failure> {
    let statement = sqlx::query(DUE)
        .bind(ledger.as_str())
        .bind(millis(now))
        .bind(rows_at_most(limit))
        .bind(holder)
        .bind(HOLD);
    let (mut first, mut again, mut next) = (Vec::new(), Vec::new(), None);
    for row in &sessions.rows(statement).await? {
        match mark(row)? {
            Some(mark) if mark.first_try => first.push(mark),
            Some(mark) => again.push(mark),
            None => next = row.try_get::<Option<i64>, _>("next")?.map(moment),
        }
    }
    // The database may give the rows in any order.
    first.sort_by_key(|mark| mark.id);
    again.sort_by_key(|mark| (mark.due_at, mark.id));
    let marks = Due::in_turn(again, first, limit);
    Ok(Due {
        next: next.filter(|_| marks.len() < limit),
        marks,
    })
}

fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis.try_into().unwrap_or_default())
}

fn mark(row: &PgRow) -> Result<Option<Mark>, Failure> {
    let Some(id) = row.try_get::<Option<Uuid>, _>("transaction_id")? else {
        return Ok(None);
    };
    Ok(Some(Mark {
        id: transaction_id(id),
        due_at: moment(row.try_get("due_at")?),
        first_try: row.try_get("first_try")?,
    }))
}

pub(super) async fn announced(
    sessions: &Sessions,
    ledger: &LedgerName,
    marks: &[Mark],
    at: Timestamp,
) -> Result<(), Failure> {
    let mut marks: Vec<_> = marks.iter().collect();
    // In the order of ids, as all who lock several rows.
    marks.sort_by_key(|mark| mark.id);
    for piece in marks.chunks(ANNOUNCED_AT_ONCE) {
        let ids: Vec<_> = piece.iter().map(|mark| uuid(mark.id)).collect();
        let due: Vec<_> = piece.iter().map(|mark| millis(mark.due_at)).collect();
        let first: Vec<_> = piece.iter().map(|mark| mark.first_try).collect();
        let statement = || {
            sqlx::query(ANNOUNCED)
                .bind(millis(at))
                .bind(ledger.as_str())
                .bind(ids.clone())
                .bind(due.clone())
                .bind(first.clone())
        };
        match sessions.rows(statement()).await {
            Err(failure) if failure.is_rerunnable() => sessions.rows(statement()).await?,
            answer => answer?,
        };
    }
    Ok(())
}

pub(super) async fn unannounce(
    sessions: &Sessions,
    ledger: &LedgerName,
    before: Timestamp,
    limit: usize,
) -> Result<usize, Failure> {
    let statement = sqlx::query(UNANNOUNCE)
        .bind(ledger.as_str())
        .bind(millis(before))
        .bind(rows_at_most(limit));
    Ok(sessions.rows(statement).await?.len())
}

pub(super) async fn expired(
    sessions: &Sessions,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Transaction>, Failure> {
    let statement = sqlx::query(EXPIRED)
        .bind(millis(now))
        .bind(rows_at_most(limit))
        .bind(MOST_BYTES as i64);
    Ok(decode_readable(&sessions.rows(statement).await?))
}
