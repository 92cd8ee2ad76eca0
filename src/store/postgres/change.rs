//! Compare-and-swap, many changes in one statement.
//!
//! A change touches `work` only; one that settles moves the row to `settled` and tells the other processes in
//! the same transaction. What changed goes into the log of changes with it. Rows go in the order of their ids, so that two groups cannot wait for one another in
//! a circle. If a group holds several changes of one record, they go into as many statements of one
//! transaction: each sees those before.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::Row;
use uuid::Uuid;

use super::Memory;
use super::counts::Deltas;
use super::failure::Failure;
use super::news;
use super::row::{self, EndRow, WorkRow};
use super::session::{Session, Sessions, Statement};
use super::writer::Job;
use crate::domain::{LedgerName, TenantName};
use crate::store::Change;

const CHANGE: &str = "\
WITH moved AS (
    UPDATE work w
    SET version = i.version, stage = i.stage, attempts = i.attempts, conflicts = i.conflicts,
        outages = i.outages, updated_at = to_timestamp(i.updated_at::float8 / 1000), due_at = i.due_at,
        first_try = i.first_try, expires_at = i.expires_at, progress = i.progress,
        announced_at = NULL, held_until = NULL, held_by = NULL
    FROM unnest($1::int[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
                $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bool[], $13::bigint[],
                $14::text[])
         AS i (n, ledger, id, old_version, version, stage, attempts, conflicts, outages, updated_at, due_at,
               first_try, expires_at, progress)
    WHERE w.ledger = i.ledger AND w.transaction_id = i.id AND w.version = i.old_version
    RETURNING i.n, w.transaction_id, w.version, w.updated_at
), gone AS (
    DELETE FROM work w
    USING unnest($15::int[], $16::text[], $17::uuid[], $18::bigint[]) AS i (n, ledger, id, old_version)
    WHERE w.ledger = i.ledger AND w.transaction_id = i.id AND w.version = i.old_version
    RETURNING i.n
), ended AS (
    INSERT INTO settled (ledger, transaction_id, version, attempts, conflicts, outages, finished_at, progress,
                         status, tx_id, block, error_code, error_message, ledger_code, tenant)
    SELECT ledger, id, version, attempts, conflicts, outages, to_timestamp(finished_at::float8 / 1000),
           progress, status, tx_id, block, error_code, error_message, ledger_code, tenant
    FROM unnest($15::int[], $16::text[], $17::uuid[], $19::bigint[], $20::bigint[], $21::bigint[],
                $22::bigint[], $23::bigint[], $24::text[], $25::text[], $26::text[], $27::bigint[],
                $28::text[], $29::text[], $30::text[], $31::text[])
         AS i (n, ledger, id, version, attempts, conflicts, outages, finished_at, progress, status, tx_id,
               block, error_code, error_message, ledger_code, tenant)
    WHERE n = ANY (ARRAY(SELECT n FROM gone))
    RETURNING transaction_id, version, finished_at
), logged AS (
    INSERT INTO changes (xid, n, entries, changed_at, ids, versions)
    SELECT pg_current_xact_id(), $32, count(*), max(updated_at), array_agg(transaction_id), array_agg(version)
    FROM (SELECT transaction_id, version, updated_at FROM moved UNION ALL TABLE ended) AS changed
    HAVING count(*) > 0
)
SELECT ARRAY(SELECT n FROM moved UNION ALL SELECT n FROM gone) AS made,
       pg_current_xact_id()::text AS transaction,
       (SELECT count(pg_notify($33, said)) FROM unnest($34::text[]) AS said) AS told";

/// One change, as it is stored.
pub(super) struct ChangeRow {
    id: Uuid,
    ledger: LedgerName,
    tenant: TenantName,
    old_version: i64,
    work: WorkRow,
    end: Option<EndRow>,
}

impl ChangeRow {
    pub(super) fn new(change: &Change) -> Result<Self, Failure> {
        let Change { old, new } = change;
        Ok(Self {
            id: row::uuid(new.id),
            ledger: new.request.ledger.clone(),
            tenant: new.tenant.clone(),
            old_version: i64::try_from(old.version).unwrap_or(i64::MAX),
            work: row::work(new)?,
            end: row::end(new),
        })
    }
}

/// The changes of one call: all of them in one commit.
pub(super) struct Changes(pub(super) Vec<ChangeRow>);

#[async_trait]
impl Job for Changes {
    /// In order, which were made.
    type Answer = Vec<bool>;

    fn size(&self) -> (usize, usize) {
        let bytes = self.0.iter().map(|change| change.work.progress.len() + 200);
        (self.0.len(), bytes.sum())
    }

    async fn commit(group: &[Self], sessions: &Sessions, memory: &Memory) -> Result<Vec<Vec<bool>>, Failure> {
        let all: Vec<&ChangeRow> = group.iter().flat_map(|changes| &changes.0).collect();
        let mut made = vec![false; all.len()];
        let mut session = sessions.take(sessions.deadline()).await?;
        let rounds = rounds(&all);
        let transaction = match rounds.as_slice() {
            [round] => run(&mut session, &all, round, 1, memory, &mut made).await?,
            rounds => {
                session.begin().await?;
                let (mut transaction, mut first) = (String::new(), 1);
                for round in rounds {
                    transaction = run(&mut session, &all, round, first, memory, &mut made).await?;
                    first += round.len();
                }
                session.commit().await?;
                transaction
            }
        };
        drop(session);
        let mut settled = Deltas::default();
        for (change, _) in all.iter().zip(&made).filter(|(_, made)| **made) {
            if change.end.is_some() {
                settled.add(&change.ledger, &change.tenant, -1);
            }
        }
        memory.committed(&transaction, &settled);
        let mut due: Vec<_> = all
            .iter()
            .zip(&made)
            .filter(|(change, made)| **made && change.work.due_at.is_some())
            .map(|(change, _)| &change.ledger)
            .collect();
        due.sort();
        due.dedup();
        due.into_iter()
            .for_each(|ledger| memory.signals.of(ledger).notify_one());
        let mut made = made.into_iter();
        Ok(group
            .iter()
            .map(|changes| made.by_ref().take(changes.0.len()).collect())
            .collect())
    }
}

/// Numbers of the changes, each record at most once in a round, in the order of ids.
fn rounds(all: &[&ChangeRow]) -> Vec<Vec<usize>> {
    let mut seen: HashMap<Uuid, usize> = HashMap::with_capacity(all.len());
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    for (number, change) in all.iter().enumerate() {
        let round = seen.entry(change.id).and_modify(|round| *round += 1).or_insert(0);
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        rounds[*round].push(number);
    }
    for round in &mut rounds {
        round.sort_by_key(|number| all[*number].id);
    }
    rounds
}

/// Makes the changes of one round, which are logged from number `first` on, and answers the database's number of the
/// transaction.
async fn run(
    session: &mut Session<'_>,
    all: &[&ChangeRow],
    round: &[usize],
    first: usize,
    memory: &Memory,
    made: &mut [bool],
) -> Result<String, Failure> {
    let rows = round.iter().map(|number| (*number, all[*number]));
    let (ends, moves): (Vec<_>, Vec<_>) = rows.partition(|(_, change)| change.end.is_some());
    let settled: Vec<_> = ends.iter().map(|(_, change)| change.id).collect();
    let answer = session
        .rows(statement(
            &moves,
            &ends,
            first,
            news::tell(memory.instance, &settled),
        ))
        .await?;
    let answer = answer.first().ok_or(Failure::Closed)?;
    for number in answer.try_get::<Vec<i32>, _>("made")? {
        if let Some(made) = usize::try_from(number)
            .ok()
            .and_then(|number| made.get_mut(number))
        {
            *made = true;
        }
    }
    Ok(answer.try_get("transaction")?)
}

type Numbered<'q> = (usize, &'q ChangeRow);

fn statement<'q>(
    moves: &[Numbered<'q>],
    ends: &[Numbered<'q>],
    first: usize,
    told: Vec<String>,
) -> Statement<'q> {
    fn all<'q, T>(rows: &[Numbered<'q>], column: impl Fn(&'q ChangeRow) -> T) -> Vec<T> {
        rows.iter().map(|(_, change)| column(change)).collect()
    }
    fn numbers(rows: &[Numbered<'_>]) -> Vec<i32> {
        rows.iter()
            .map(|(number, _)| i32::try_from(*number).unwrap_or(i32::MAX))
            .collect()
    }
    fn end<'q, T>(rows: &[Numbered<'q>], column: impl Fn(&'q EndRow) -> Option<T>) -> Vec<Option<T>> {
        all(rows, |change| change.end.as_ref().and_then(&column))
    }
    sqlx::query(CHANGE)
        .bind(numbers(moves))
        .bind(all(moves, |change| change.ledger.as_str()))
        .bind(all(moves, |change| change.id))
        .bind(all(moves, |change| change.old_version))
        .bind(all(moves, |change| change.work.version))
        .bind(all(moves, |change| change.work.stage))
        .bind(all(moves, |change| change.work.attempts))
        .bind(all(moves, |change| change.work.conflicts))
        .bind(all(moves, |change| change.work.outages))
        .bind(all(moves, |change| change.work.updated_at))
        .bind(all(moves, |change| change.work.due_at))
        .bind(all(moves, |change| change.work.first_try))
        .bind(all(moves, |change| change.work.expires_at))
        .bind(all(moves, |change| change.work.progress.as_str()))
        .bind(numbers(ends))
        .bind(all(ends, |change| change.ledger.as_str()))
        .bind(all(ends, |change| change.id))
        .bind(all(ends, |change| change.old_version))
        .bind(all(ends, |change| change.work.version))
        .bind(all(ends, |change| change.work.attempts))
        .bind(all(ends, |change| change.work.conflicts))
        .bind(all(ends, |change| change.work.outages))
        .bind(all(ends, |change| change.work.updated_at))
        .bind(all(ends, |change| change.work.progress.as_str()))
        .bind(end(ends, |end| Some(end.status)))
        .bind(end(ends, |end| end.tx_id.as_deref()))
        .bind(end(ends, |end| end.block))
        .bind(end(ends, |end| end.error_code))
        .bind(end(ends, |end| end.error_message.as_deref()))
        .bind(end(ends, |end| end.ledger_code.as_deref()))
        .bind(all(ends, |change| change.tenant.as_str()))
        .bind(i32::try_from(first).unwrap_or(i32::MAX))
        .bind(news::CHANNEL)
        .bind(told)
}
