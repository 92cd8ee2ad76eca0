//! Documents in PostgreSQL.
//!
//! A change of several locks those that are there in the order of their keys, compares, and writes; new ones are inserted
//! in that order as well. So two processes that want the same never wait for one another in a circle, and the second
//! finds what the first has left.

use std::ops::Range;

use async_trait::async_trait;
use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::PostgresStore;
use super::failure::Failure;
use super::session::Sessions;
use crate::store::StoreError;
use crate::store::documents::{Document, DocumentChange, DocumentStore, Kind};

/// How often a victim of concurrency is tried in all.
const TRIES: u32 = 3;

const GET: &str = "SELECT key, version, body FROM documents WHERE kind = $1 AND key = $2";

macro_rules! list {
    ($end:literal, $order:literal) => {
        concat!(
            "SELECT key, version, body FROM documents WHERE kind = $1 AND key >= $2",
            $end,
            " ORDER BY key",
            $order,
            " LIMIT $3"
        )
    };
}

const LOCK: &str = "\
SELECT 1 FROM unnest($1::text[], $2::text[]) AS i (kind, key) \
JOIN documents d ON d.kind = i.kind AND d.key = i.key ORDER BY d.kind, d.key FOR UPDATE OF d";

/// What is there is locked, so only the new ones may have to wait.
const CHANGE: &str = "\
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS i (kind, key, expected, body)
), removed AS (
    DELETE FROM documents d USING wanted i
    WHERE i.body IS NULL AND d.kind = i.kind AND d.key = i.key AND d.version = i.expected
    RETURNING 1
), replaced AS (
    UPDATE documents d SET version = d.version + 1, body = i.body FROM wanted i
    WHERE i.body IS NOT NULL AND d.kind = i.kind AND d.key = i.key AND d.version = i.expected
    RETURNING 1
), made AS (
    INSERT INTO documents (kind, key, version, body)
    SELECT kind, key, 1, body FROM wanted WHERE expected IS NULL AND body IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT (SELECT count(*) FROM removed) + (SELECT count(*) FROM replaced) + (SELECT count(*) FROM made)
       + (SELECT count(*) FROM wanted i WHERE expected IS NULL AND body IS NULL
          AND NOT EXISTS (SELECT FROM documents d WHERE d.kind = i.kind AND d.key = i.key)) AS changed";

/// A bound of a range. No key holds U+0000, so what follows one with it is what follows one with the next character.
fn bound(text: &str) -> String {
    match text.split_once('\0') {
        Some((head, _)) => format!("{head}\u{1}"),
        None => text.to_owned(),
    }
}

fn read(row: &PgRow) -> Result<Document, Failure> {
    let (key, version, body): (String, i64, String) =
        (row.try_get("key")?, row.try_get("version")?, row.try_get("body")?);
    let damaged = |what: String| Failure::Damaged(format!("the document {key} cannot be read: {what}"));
    Ok(Document {
        version: u64::try_from(version).map_err(|_| damaged(format!("its version is {version}")))?,
        body: RawValue::from_string(body).map_err(|error| damaged(error.to_string()))?,
        key,
    })
}

/// Whether all could be made; else none was.
async fn change(sessions: &Sessions, changes: &[DocumentChange]) -> Result<bool, Failure> {
    let kinds: Vec<_> = changes.iter().map(|change| change.kind).collect();
    let keys: Vec<_> = changes.iter().map(|change| change.key.as_str()).collect();
    let expected = changes.iter().map(|change| change.expected);
    let expected: Vec<_> = expected
        .map(|version| version.map(|version| i64::try_from(version).unwrap_or(i64::MAX)))
        .collect();
    let bodies = changes.iter().map(|change| change.body.as_ref());
    let bodies: Vec<_> = bodies.map(|body| body.map(|body| body.get())).collect();
    // One by itself is made or not by its statement alone.
    let several = changes.len() > 1;
    let mut session = sessions.take(sessions.deadline()).await?;
    if several {
        session.begin().await?;
        let lock = sqlx::query(LOCK).bind(kinds.clone()).bind(keys.clone());
        session.rows(lock).await?;
    }
    let write = sqlx::query(CHANGE)
        .bind(kinds)
        .bind(keys)
        .bind(expected)
        .bind(bodies);
    let rows = session.rows(write).await?;
    let changed: i64 = rows.first().ok_or(Failure::Closed)?.try_get("changed")?;
    let all = usize::try_from(changed) == Ok(changes.len());
    match (several, all) {
        (false, _) => {}
        (true, true) => session.commit().await?,
        (true, false) => session.roll_back().await?,
    }
    Ok(all)
}

#[async_trait]
impl DocumentStore for PostgresStore {
    async fn document(&self, kind: Kind, key: &str) -> Result<Option<Document>, StoreError> {
        if key.contains('\0') {
            return Ok(None);
        }
        let read = async {
            let rows = self.sessions.rows(sqlx::query(GET).bind(kind).bind(key)).await?;
            rows.first().map(read).transpose()
        };
        read.await.map_err(Failure::into_store_error)
    }

    async fn documents(
        &self,
        kind: Kind,
        keys: Range<&str>,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<Document>, StoreError> {
        // The end is in the text or not, so that the index is read no further.
        let sql = match (keys.end.is_empty(), newest_first) {
            (true, false) => list!("", ""),
            (true, true) => list!("", " DESC"),
            (false, false) => list!(" AND key < $4", ""),
            (false, true) => list!(" AND key < $4", " DESC"),
        };
        let statement = sqlx::query(sql)
            .bind(kind)
            .bind(bound(keys.start))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let statement = match keys.end {
            "" => statement,
            end => statement.bind(bound(end)),
        };
        let rows = self
            .sessions
            .rows(statement)
            .await
            .map_err(Failure::into_store_error)?;
        // One that cannot be read must not hide the others.
        let readable = |row| {
            read(row)
                .inspect_err(|error| tracing::error!(%error, "a document is passed over"))
                .ok()
        };
        Ok(rows.iter().filter_map(readable).collect())
    }

    async fn change_documents(&self, mut changes: Vec<DocumentChange>) -> Result<bool, StoreError> {
        if changes.is_empty() {
            return Ok(true);
        }
        changes.sort_by(|a, b| (a.kind, &a.key).cmp(&(b.kind, &b.key)));
        let mut tries = 1;
        loop {
            match change(&self.sessions, &changes).await {
                Err(failure) if failure.is_rerunnable() && tries < TRIES => tries += 1,
                result => return result.map_err(Failure::into_store_error),
            }
        }
    }
}
