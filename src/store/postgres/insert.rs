//! New records, many in one statement.
//!
//! A record whose idempotency key is taken is skipped by the statement, and looked up afterwards. What is stored goes into
//! the log of changes with it. Rows go in
//! the order of their keys: two groups that hold the same keys then wait for one another in the same order.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::Memory;
use super::counts::Deltas;
use super::failure::Failure;
use super::row::{NewRow, transaction_id};
use super::session::{Session, Sessions, Statement};
use super::writer::Job;
use crate::domain::TransactionId;

const INSERT: &str = "\
WITH stored AS (
    INSERT INTO transactions (id, ledger, contract, function, created_at, idempotency_key, idempotency_digest,
                              metadata, request, tenant)
    SELECT id, ledger, contract, function, to_timestamp(created_at::float8 / 1000), key, digest,
           metadata::jsonb, request::json, tenant
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[],
                $8::text[], $9::text[], $20::text[])
         AS i (id, ledger, contract, function, created_at, key, digest, metadata, request, tenant)
    ON CONFLICT DO NOTHING
    RETURNING id
), waiting AS (
    INSERT INTO work (ledger, transaction_id, version, stage, attempts, conflicts, outages, updated_at, due_at,
                      first_try, expires_at, progress, tenant)
    SELECT ledger, id, version, stage, attempts, conflicts, outages, to_timestamp(updated_at::float8 / 1000),
           due_at, first_try, expires_at, progress, tenant
    FROM unnest($2::text[], $1::uuid[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[],
                $14::bigint[], $15::bigint[], $16::bigint[], $17::bool[], $18::bigint[], $19::text[],
                $20::text[])
         AS i (ledger, id, version, stage, attempts, conflicts, outages, updated_at, due_at, first_try,
               expires_at, progress, tenant)
    WHERE id = ANY (ARRAY(SELECT id FROM stored))
    RETURNING transaction_id, version, updated_at
), logged AS (
    INSERT INTO changes (xid, n, entries, changed_at, ids, versions)
    SELECT pg_current_xact_id(), 1, count(*), max(updated_at), array_agg(transaction_id), array_agg(version)
    FROM waiting
    HAVING count(*) > 0
)
SELECT (SELECT count(*) FROM waiting) AS stored, pg_current_xact_id()::text AS transaction";

const THERE: &str = "SELECT id FROM transactions WHERE id = ANY($1)";
const HOLDERS: &str = "SELECT id, idempotency_key FROM transactions WHERE idempotency_key = ANY($1)";

/// What became of a new record.
pub(super) enum Fate {
    Created,
    /// The key is taken.
    Existing(TransactionId),
    /// It would have been stored, were it not for another one.
    Withheld,
    /// The key was taken, and its holder has just been removed.
    Vanished,
}

#[async_trait]
impl Job for NewRow {
    type Answer = Fate;

    fn size(&self) -> (usize, usize) {
        (1, self.request.len() + self.work.progress.len() + 200)
    }

    async fn commit(group: &[Self], sessions: &Sessions, memory: &Memory) -> Result<Vec<Fate>, Failure> {
        let rows = in_order(group);
        let mut session = sessions.take(sessions.deadline()).await?;
        let (stored, transaction) = store(&rows, &mut session).await?;
        // The commit stands whatever comes of this: who cannot be told will find it by asking again.
        let fates = fates(&rows, stored, &mut session).await?;
        drop(session);
        note(&rows, &fates, &transaction, memory);
        Ok(as_given(group, &rows, fates))
    }
}

/// New records that are stored in one commit by themselves.
pub(super) struct Batch {
    pub(super) rows: Vec<NewRow>,
    /// Nothing is stored if one of them is there.
    pub(super) all_or_none: bool,
}

#[async_trait]
impl Job for Batch {
    type Answer = Vec<Fate>;

    const ALONE: bool = true;

    fn size(&self) -> (usize, usize) {
        let bytes = self.rows.iter().map(|row| row.size().1);
        (self.rows.len(), bytes.sum())
    }

    async fn commit(group: &[Self], sessions: &Sessions, memory: &Memory) -> Result<Vec<Vec<Fate>>, Failure> {
        let mut answers = Vec::with_capacity(group.len());
        for batch in group {
            answers.push(match batch.all_or_none {
                true => all_or_none(&batch.rows, sessions, memory).await?,
                false => NewRow::commit(&batch.rows, sessions, memory).await?,
            });
        }
        Ok(answers)
    }
}

async fn all_or_none(group: &[NewRow], sessions: &Sessions, memory: &Memory) -> Result<Vec<Fate>, Failure> {
    let rows = in_order(group);
    let mut session = sessions.take(sessions.deadline()).await?;
    session.begin().await?;
    let (stored, transaction) = store(&rows, &mut session).await?;
    let mut fates = fates(&rows, stored, &mut session).await?;
    if stored == rows.len() {
        session.commit().await?;
        note(&rows, &fates, &transaction, memory);
    } else {
        session.roll_back().await?;
        let stored = fates.iter_mut().filter(|fate| matches!(fate, Fate::Created));
        stored.for_each(|fate| *fate = Fate::Withheld);
    }
    Ok(as_given(group, &rows, fates))
}

/// In the order in which all groups go.
fn in_order(group: &[NewRow]) -> Vec<&NewRow> {
    let mut rows: Vec<_> = group.iter().collect();
    rows.sort_by(|a, b| (&a.key, a.id).cmp(&(&b.key, b.id)));
    rows
}

/// Back to the order of the group.
fn as_given(group: &[NewRow], rows: &[&NewRow], fates: Vec<Fate>) -> Vec<Fate> {
    let mut by_id: HashMap<Uuid, Vec<Fate>> = HashMap::new();
    for (row, fate) in rows.iter().zip(fates) {
        by_id.entry(row.id).or_default().push(fate);
    }
    let fate = |row: &NewRow| {
        by_id
            .get_mut(&row.id)
            .and_then(Vec::pop)
            .unwrap_or(Fate::Vanished)
    };
    group.iter().map(fate).collect()
}

/// Stores what can be stored. Answers how many, and the database's number of the transaction.
async fn store(rows: &[&NewRow], session: &mut Session<'_>) -> Result<(usize, String), Failure> {
    let answer = session.rows(statement(rows)).await?;
    let answer = answer.first().ok_or(Failure::Closed)?;
    let stored: i64 = answer.try_get("stored")?;
    Ok((
        usize::try_from(stored).unwrap_or_default(),
        answer.try_get("transaction")?,
    ))
}

/// What became of each, of which `stored` were stored.
async fn fates(rows: &[&NewRow], stored: usize, session: &mut Session<'_>) -> Result<Vec<Fate>, Failure> {
    if stored == rows.len() {
        return Ok(rows.iter().map(|_| Fate::Created).collect());
    }
    look_up(rows, session).await
}

/// Takes note of what is committed.
fn note(rows: &[&NewRow], fates: &[Fate], transaction: &str, memory: &Memory) {
    let mut created = Deltas::default();
    for (row, fate) in rows.iter().zip(fates) {
        if matches!(fate, Fate::Created) {
            created.add(&row.ledger, &row.tenant, 1);
        }
    }
    memory.committed(transaction, &created);
    for ledger in created.ledgers.keys() {
        memory.signals.of(ledger).notify_one();
    }
}

async fn look_up(rows: &[&NewRow], session: &mut Session<'_>) -> Result<Vec<Fate>, Failure> {
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let keys: Vec<_> = rows.iter().filter_map(|row| row.key.as_deref()).collect();
    let mut holders = HashMap::new();
    for row in &session.rows(sqlx::query(HOLDERS).bind(keys)).await? {
        let key: Option<String> = row.try_get("idempotency_key")?;
        holders.insert(key, transaction_id(row.try_get("id")?));
    }
    let mut there = HashSet::new();
    for row in session.rows(sqlx::query(THERE).bind(ids)).await? {
        there.insert(row.try_get::<Uuid, _>("id")?);
    }
    let fate = |row: &&NewRow| {
        if there.contains(&row.id) {
            return Fate::Created;
        }
        match holders.get(&row.key) {
            Some(holder) => Fate::Existing(*holder),
            None => Fate::Vanished,
        }
    };
    Ok(rows.iter().map(fate).collect())
}

fn statement<'q>(rows: &[&'q NewRow]) -> Statement<'q> {
    fn all<'q, T>(rows: &[&'q NewRow], column: impl Fn(&'q NewRow) -> T) -> Vec<T> {
        rows.iter().map(|row| column(row)).collect()
    }
    sqlx::query(INSERT)
        .bind(all(rows, |row| row.id))
        .bind(all(rows, |row| row.ledger.as_str()))
        .bind(all(rows, |row| row.contract.as_str()))
        .bind(all(rows, |row| row.function.as_str()))
        .bind(all(rows, |row| row.created_at))
        .bind(all(rows, |row| row.key.as_deref()))
        .bind(all(rows, |row| {
            row.digest.as_ref().map(|digest| digest.as_slice())
        }))
        .bind(all(rows, |row| row.metadata.as_deref()))
        .bind(all(rows, |row| row.request.as_str()))
        .bind(all(rows, |row| row.work.version))
        .bind(all(rows, |row| row.work.stage))
        .bind(all(rows, |row| row.work.attempts))
        .bind(all(rows, |row| row.work.conflicts))
        .bind(all(rows, |row| row.work.outages))
        .bind(all(rows, |row| row.work.updated_at))
        .bind(all(rows, |row| row.work.due_at))
        .bind(all(rows, |row| row.work.first_try))
        .bind(all(rows, |row| row.work.expires_at))
        .bind(all(rows, |row| row.work.progress.as_str()))
        .bind(all(rows, |row| row.tenant.as_str()))
}
