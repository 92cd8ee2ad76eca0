//! Listing, newest first, and what retention removes.
//!
//! A page looks at a bounded number of records. First the ids that may match, read off one index in order:
//! every ledger has its run in `work` (pending ones) and two in `settled`, which are merged; without any of
//! those conditions it is the run of all ids. Then the records with these ids, judged as they are now.
//!
//! A tenant other than the default one has runs of its own, so that those of the others are not looked at.
//!
//! Labels, and what the ledger knows a record by, have an index without order: if few records have them, these are all
//! the ids there are; if many do, the run of all ids meets one soon.

use std::fmt::Write as _;
use std::ops::Range;

use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::failure::Failure;
use super::row::{calendar, decode_readable, first_records, labels, plain, record, transaction_id, uuid};
use super::session::Sessions;
use crate::domain::{LedgerName, Stage, Status, TenantName, Timestamp, Transaction, TransactionId};
use crate::store::{Filter, MOST_BYTES, Page};

/// So many records are looked at for one page; a search that found too little goes on at the next page.
const MAX_LOOKED_AT: usize = 5_000;

/// The ledgers there are, without reading every row: from one to the next along the index.
const LEDGERS: &str = "\
WITH RECURSIVE waiting AS (
    (SELECT ledger FROM work ORDER BY ledger LIMIT 1)
    UNION ALL
    SELECT (SELECT w.ledger FROM work w WHERE w.ledger > waiting.ledger ORDER BY w.ledger LIMIT 1)
    FROM waiting WHERE waiting.ledger IS NOT NULL
), ended AS (
    (SELECT status, ledger FROM settled ORDER BY status, ledger LIMIT 1)
    UNION ALL
    SELECT n.status, n.ledger FROM ended, LATERAL (
        SELECT s.status, s.ledger FROM settled s WHERE (s.status, s.ledger) > (ended.status, ended.ledger)
        ORDER BY s.status, s.ledger LIMIT 1) n
)
SELECT ledger FROM waiting WHERE ledger IS NOT NULL UNION SELECT ledger FROM ended";

const LABELLED: &str = "\
WITH labelled AS MATERIALIZED (SELECT id FROM transactions WHERE metadata @> $1::jsonb)
SELECT id FROM labelled LIMIT $2";

/// What is not settled has the identifier in its history.
const KNOWN_AS: &str = "\
SELECT transaction_id FROM settled WHERE tx_id = $1 \
UNION ALL SELECT transaction_id FROM work WHERE stage <> 'queued' AND position($2 IN progress) > 0 LIMIT $3";

/// What the indexes of tenants leave out.
const NOT_DEFAULT: &str = "tenant IS DISTINCT FROM 'default'";

const RECORDS: &str = first_records!(
    "WHERE t.id = ANY($1) AND ($2::text IS NULL OR t.contract = $2) \
     AND ($3::text IS NULL OR t.function = $3) AND ($6::text IS NULL OR t.tenant = $6) \
     AND ($7::text IS NULL OR t.ledger = $7) ORDER BY t.id DESC LIMIT $4",
    by "t.id DESC", turn "id DESC", bytes "$5"
);

/// The status is part of the text, because each has an index of its own.
macro_rules! prune {
    ($status:literal) => {
        concat!(
            "WITH old AS (SELECT ledger, transaction_id FROM settled WHERE status = '",
            $status,
            "' AND finished_at < to_timestamp($1::float8 / 1000) ORDER BY finished_at LIMIT $2 \
             FOR UPDATE SKIP LOCKED), \
             gone AS (DELETE FROM settled s USING old WHERE s.status = '",
            $status,
            "' AND s.ledger = old.ledger AND s.transaction_id = old.transaction_id \
             RETURNING s.transaction_id), \
             forgotten AS (DELETE FROM transactions t USING gone WHERE t.id = gone.transaction_id) \
             SELECT count(*) AS removed FROM gone"
        )
    };
}

/// As [`prune!`], with the status in the text.
macro_rules! settled_before {
    ($status:literal) => {
        first_records!(
            "WHERE s.status = '" $status
            "' AND s.finished_at < to_timestamp($1::float8 / 1000) ORDER BY s.finished_at, t.id LIMIT $2",
            by "s.finished_at, t.id", turn "finished_at, id", bytes "$3"
        )
    };
}

/// Rows that another process is at are left to it.
const REMOVE: &str = "\
WITH wanted AS (SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[]) AS w(status, ledger, id, version)), \
old AS (SELECT s.status, s.ledger, s.transaction_id FROM wanted w JOIN settled s ON s.status = w.status \
AND s.ledger = w.ledger AND s.transaction_id = w.id AND s.version = w.version FOR UPDATE OF s SKIP LOCKED), \
gone AS (DELETE FROM settled s USING old WHERE s.status = old.status AND s.ledger = old.ledger \
AND s.transaction_id = old.transaction_id RETURNING s.transaction_id), \
forgotten AS (DELETE FROM transactions t USING gone WHERE t.id = gone.transaction_id) \
SELECT count(*) AS removed FROM gone";

/// The ids that may match, newest first.
struct Candidates {
    ids: Vec<Uuid>,
    /// There may be more below the last one.
    more: bool,
}

pub(super) async fn page(
    sessions: &Sessions,
    filter: &Filter,
    cursor: Option<TransactionId>,
    limit: usize,
) -> Result<Page, Failure> {
    let Range {
        start: from,
        end: below,
    } = filter.ids(cursor);
    if below <= from || limit == 0 {
        return Ok(Page::default());
    }
    let candidates = candidates(sessions, filter, (from, below), limit).await?;
    if candidates.ids.is_empty() {
        return Ok(Page::default());
    }
    let lowest = candidates.ids.last().copied();
    let statement = sqlx::query(RECORDS)
        .bind(candidates.ids)
        .bind(filter.contract.as_deref().map(plain))
        .bind(filter.function.as_deref().map(plain))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
        .bind(MOST_BYTES as i64)
        .bind(filter.tenant.as_ref().map(TenantName::as_str))
        .bind(filter.ledger.as_ref().map(LedgerName::as_str));
    let rows = sessions.rows(statement).await?;
    let shown = &rows[..rows.len().min(limit)];
    let next = match shown.last() {
        // One more was found than is shown, at least: there is a next page.
        Some(last) if last.try_get::<i64, _>("found")? > shown.len() as i64 => Some(last.try_get("id")?),
        _ => lowest.filter(|_| candidates.more),
    };
    let mut items = decode_readable(shown);
    items.retain(|tx| filter.matches(tx));
    Ok(Page {
        items,
        next: next.map(transaction_id),
    })
}

async fn candidates(
    sessions: &Sessions,
    filter: &Filter,
    (from, below): (TransactionId, TransactionId),
    limit: usize,
) -> Result<Candidates, Failure> {
    // What the run does not tell has to be looked for in the records.
    let searched = filter.contract.is_some()
        || filter.function.is_some()
        || !filter.metadata.is_empty()
        || filter.tx_id.is_some()
        || match &filter.tenant {
            Some(tenant) => tenant.is_default() || filter.ledger.is_some(),
            None => false,
        };
    let most = if searched { MAX_LOOKED_AT } else { limit + 1 };
    let unordered = match (&filter.tx_id, labels(&filter.metadata)) {
        (Some(tx_id), _) => Some(
            sqlx::query(KNOWN_AS)
                .bind(plain(tx_id))
                .bind(serde_json::Value::from(tx_id.as_str()).to_string()),
        ),
        (None, Some(labels)) => Some(sqlx::query(LABELLED).bind(labels)),
        (None, None) => None,
    };
    if let Some(statement) = unordered {
        let statement = statement.bind(rows(MAX_LOOKED_AT + 1));
        let mut ids = ids(sessions, statement).await?;
        if ids.len() <= MAX_LOOKED_AT {
            ids.retain(|id| (uuid(from)..uuid(below)).contains(id));
            ids.sort_by(|a, b| b.cmp(a));
            return Ok(Candidates { ids, more: false });
        }
    }
    let sql = match runs(sessions, filter).await? {
        None => "SELECT id FROM transactions WHERE id >= $1 AND id < $2 ORDER BY id DESC LIMIT $3".to_owned(),
        Some(runs) if runs.is_empty() => {
            return Ok(Candidates {
                ids: Vec::new(),
                more: false,
            });
        }
        Some(runs) => merged(&runs),
    };
    // All that is put into the text are names that the gateway has checked and words of its own.
    let statement = sqlx::query(AssertSqlSafe(sql))
        .persistent(false)
        .bind(uuid(from))
        .bind(uuid(below))
        .bind(rows(most));
    let ids = ids(sessions, statement).await?;
    Ok(Candidates {
        more: ids.len() == most,
        ids,
    })
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

async fn ids(sessions: &Sessions, statement: super::session::Statement<'_>) -> Result<Vec<Uuid>, Failure> {
    let rows = sessions.rows(statement).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// One index, read from its newest end.
struct Run {
    table: &'static str,
    id: &'static str,
    condition: String,
}

impl Run {
    fn of_work(condition: String) -> Self {
        Self {
            table: "work",
            id: "transaction_id",
            condition,
        }
    }

    fn of_settled(status: Status, whose: &str) -> Self {
        Self {
            table: "settled",
            id: "transaction_id",
            condition: format!("status = '{}' AND {whose}", status.as_str()),
        }
    }
}

/// The runs that may hold what is looked for; `None` for the run of all ids.
async fn runs(sessions: &Sessions, filter: &Filter) -> Result<Option<Vec<Run>>, Failure> {
    let wanted: Vec<_> = Status::ALL
        .into_iter()
        // Only pending ones have a stage.
        .filter(|status| filter.status.is_none_or(|wanted| wanted == *status))
        .filter(|status| filter.stage.is_none() || *status == Status::Pending)
        .collect();
    let tenant = filter.tenant.as_ref().filter(|tenant| !tenant.is_default());
    // Few have another stage, so these are looked for among those of all.
    let few = filter.stage.is_some_and(|stage| stage != Stage::Queued);
    if let Some(tenant) = tenant.filter(|_| !few) {
        return Ok(Some(runs_of(tenant, &wanted, filter.stage)));
    }
    if filter.ledger.is_none() && wanted.len() == Status::ALL.len() {
        return Ok(None);
    }
    let ledgers: Vec<String> = match &filter.ledger {
        Some(ledger) => vec![ledger.to_string()],
        None => {
            let found = sessions.rows(sqlx::query(LEDGERS)).await?;
            found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?
        }
    };
    let whose = tenant.map_or_else(String::new, |tenant| format!(" AND tenant = '{tenant}'"));
    let mut runs = Vec::new();
    // A name from the database is checked as one from a request is.
    for ledger in ledgers.iter().filter_map(|name| LedgerName::new(name)) {
        let of_ledger = format!("ledger = '{ledger}'");
        for status in &wanted {
            runs.push(match (status, filter.stage) {
                (Status::Pending, None) => Run::of_work(of_ledger.clone()),
                (Status::Pending, Some(Stage::Queued)) => {
                    Run::of_work(format!("{of_ledger} AND stage = 'queued'"))
                }
                (Status::Pending, Some(stage)) => Run::of_work(format!(
                    "{of_ledger} AND stage = '{}' AND stage <> 'queued'{whose}",
                    stage.as_str()
                )),
                (Status::Done | Status::Failed, _) => Run::of_settled(*status, &of_ledger),
            });
        }
    }
    Ok(Some(runs))
}

/// The runs of a tenant other than the default one.
fn runs_of(tenant: &TenantName, wanted: &[Status], stage: Option<Stage>) -> Vec<Run> {
    let whose = format!("{NOT_DEFAULT} AND tenant = '{tenant}'");
    if wanted.len() == Status::ALL.len() {
        return vec![Run {
            table: "transactions",
            id: "id",
            condition: whose,
        }];
    }
    let mut runs = Vec::new();
    for status in wanted {
        match (status, stage) {
            (Status::Pending, None) => runs.push(Run::of_work(whose.clone())),
            (Status::Pending, Some(stage)) => {
                runs.push(Run::of_work(format!("{whose} AND stage = '{}'", stage.as_str())));
            }
            (Status::Done | Status::Failed, _) => {
                runs.push(Run::of_settled(*status, &whose));
                // Those that an earlier version settled do not say whose they are.
                runs.push(Run::of_settled(
                    *status,
                    &format!("{NOT_DEFAULT} AND tenant IS NULL"),
                ));
            }
        }
    }
    runs
}

fn merged(runs: &[Run]) -> String {
    let mut sql = String::from("SELECT id FROM (");
    for (number, Run { table, id, condition }) in runs.iter().enumerate() {
        let union = if number == 0 { "" } else { " UNION ALL " };
        // Writing to a text cannot fail.
        let _written = write!(
            sql,
            "{union}(SELECT {id} AS id FROM {table} WHERE {condition} AND {id} >= $1 \
             AND {id} < $2 ORDER BY {id} DESC LIMIT $3)"
        );
    }
    sql + ") AS runs ORDER BY id DESC LIMIT $3"
}

pub(super) async fn prune(
    sessions: &Sessions,
    status: Status,
    before: Timestamp,
    limit: usize,
) -> Result<usize, Failure> {
    let sql = match status {
        // What is not settled is never removed.
        Status::Pending => return Ok(0),
        Status::Done => prune!("done"),
        Status::Failed => prune!("failed"),
    };
    let statement = sqlx::query(sql).bind(calendar(before)).bind(rows(limit));
    let answer = sessions.rows(statement).await?;
    let removed: i64 = answer.first().ok_or(Failure::Closed)?.try_get("removed")?;
    Ok(usize::try_from(removed).unwrap_or_default())
}

pub(super) async fn settled_before(
    sessions: &Sessions,
    status: Status,
    before: Timestamp,
    limit: usize,
) -> Result<Vec<Transaction>, Failure> {
    let sql = match status {
        Status::Pending => return Ok(Vec::new()),
        Status::Done => settled_before!("done"),
        Status::Failed => settled_before!("failed"),
    };
    let statement = sqlx::query(sql)
        .bind(calendar(before))
        .bind(rows(limit))
        .bind(MOST_BYTES as i64);
    Ok(decode_readable(&sessions.rows(statement).await?))
}

pub(super) async fn remove_settled(sessions: &Sessions, records: &[Transaction]) -> Result<usize, Failure> {
    let settled: Vec<_> = records.iter().filter(|tx| tx.is_settled()).collect();
    fn all<'t, T>(records: &[&'t Transaction], column: impl Fn(&'t Transaction) -> T) -> Vec<T> {
        records.iter().map(|tx| column(tx)).collect()
    }
    let statement = sqlx::query(REMOVE)
        .bind(all(&settled, |tx| tx.status().as_str()))
        .bind(all(&settled, |tx| tx.request.ledger.as_str()))
        .bind(all(&settled, |tx| uuid(tx.id)))
        .bind(all(&settled, |tx| i64::try_from(tx.version).unwrap_or(i64::MAX)));
    let answer = sessions.rows(statement).await?;
    let removed: i64 = answer.first().ok_or(Failure::Closed)?.try_get("removed")?;
    Ok(usize::try_from(removed).unwrap_or_default())
}
