//! New records, many in one statement.
//!
//! A record whose idempotency key is taken is skipped by the statement, and looked up afterwards. Rows go in
//! the order of their keys: two groups that hold the same keys then wait for one another in the same order.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::Memory;
use super::failure::Failure;
use super::row::{NewRow, decode, record};
use super::session::{Session, Sessions, Statement};
use super::writer::Job;
use crate::domain::Transaction;

const INSERT: &str = "\
WITH stored AS (
    INSERT INTO transactions (id, ledger, contract, function, created_at, idempotency_key, idempotency_digest,
                              metadata, request)
    SELECT id, ledger, contract, function, to_timestamp(created_at::float8 / 1000), key, digest,
           metadata::jsonb, request::json
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bytea[],
                $8::text[], $9::text[])
         AS i (id, ledger, contract, function, created_at, key, digest, metadata, request)
    ON CONFLICT DO NOTHING
    RETURNING id
), waiting AS (
    INSERT INTO work (ledger, transaction_id, version, stage, attempts, conflicts, outages, updated_at, due_at,
                      first_try, expires_at, progress)
    SELECT ledger, id, version, stage, attempts, conflicts, outages, to_timestamp(updated_at::float8 / 1000),
           due_at, first_try, expires_at, progress
    FROM unnest($2::text[], $1::uuid[], $10::bigint[], $11::text[], $12::bigint[], $13::bigint[],
                $14::bigint[], $15::bigint[], $16::bigint[], $17::bool[], $18::bigint[], $19::text[])
         AS i (ledger, id, version, stage, attempts, conflicts, outages, updated_at, due_at, first_try,
               expires_at, progress)
    WHERE id = ANY (ARRAY(SELECT id FROM stored))
    RETURNING 1
)
SELECT (SELECT count(*) FROM waiting) AS stored, pg_current_xact_id()::text AS transaction";

const THERE: &str = "SELECT id FROM transactions WHERE id = ANY($1)";
const HOLDERS: &str = concat!(record!(), "WHERE t.idempotency_key = ANY($1)");

/// What became of a new record.
pub(super) enum Fate {
    Created,
    /// The key is taken.
    Existing(Box<Transaction>),
    /// The key was taken, and its holder has just been removed.
    Vanished,
    /// The key is taken by a record that cannot be read; that is told to those who hold the key alone.
    Unreadable(String),
}

#[async_trait]
impl Job for NewRow {
    type Answer = Fate;

    fn size(&self) -> (usize, usize) {
        (1, self.request.len() + self.work.progress.len() + 200)
    }

    async fn commit(group: &[Self], sessions: &Sessions, memory: &Memory) -> Result<Vec<Fate>, Failure> {
        let mut rows: Vec<&Self> = group.iter().collect();
        rows.sort_by(|a, b| (&a.key, a.id).cmp(&(&b.key, b.id)));
        let mut session = sessions.take(sessions.deadline()).await?;
        let answer = session.rows(statement(&rows)).await?;
        let answer = answer.first().ok_or(Failure::Closed)?;
        let stored: i64 = answer.try_get("stored")?;
        let transaction: &str = answer.try_get("transaction")?;
        let all = usize::try_from(stored) == Ok(rows.len());
        let fates: Vec<_> = if all {
            rows.iter().map(|_| Fate::Created).collect()
        } else {
            // The commit stands whatever comes of this: who cannot be told will find it by asking again.
            look_up(&rows, &mut session).await?
        };
        drop(session);
        let mut created = BTreeMap::new();
        for (row, _) in rows
            .iter()
            .zip(&fates)
            .filter(|(_, fate)| matches!(fate, Fate::Created))
        {
            *created.entry(row.ledger.clone()).or_insert(0) += 1;
        }
        memory.committed(transaction, &created);
        for ledger in created.keys() {
            memory.signals.of(ledger).notify_one();
        }
        // Back to the order of the group.
        let mut by_id: HashMap<Uuid, Vec<Fate>> = HashMap::new();
        for (row, fate) in rows.iter().zip(fates) {
            by_id.entry(row.id).or_default().push(fate);
        }
        let fate = |row: &Self| {
            by_id
                .get_mut(&row.id)
                .and_then(Vec::pop)
                .unwrap_or(Fate::Vanished)
        };
        Ok(group.iter().map(fate).collect())
    }
}

async fn look_up(rows: &[&NewRow], session: &mut Session<'_>) -> Result<Vec<Fate>, Failure> {
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let keys: Vec<_> = rows.iter().filter_map(|row| row.key.as_deref()).collect();
    let mut holders = HashMap::new();
    for row in &session.rows(sqlx::query(HOLDERS).bind(keys)).await? {
        let key: Option<String> = row.try_get("idempotency_key")?;
        holders.insert(key, decode(row));
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
            Some(Ok(holder)) => Fate::Existing(Box::new(holder.clone())),
            Some(Err(failure)) => Fate::Unreadable(failure.to_string()),
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
}
