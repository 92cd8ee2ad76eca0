//! Between a record and its rows.
//!
//! The record itself is two JSON texts: `request`, which never changes, and `progress`, everything that does
//! (with the private inputs, which must be forgotten). All other columns follow from these; they are for
//! looking up and for readers, so they may be lossy: PostgreSQL's texts know no U+0000, its times end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::failure::Failure;
use crate::domain::{
    Action, Attempt, Fingerprint, LedgerName, Origin, Request, Stage, State, Status, TenantName, Timestamp,
    Transaction, TransactionId,
};

/// The last moment that goes into a column: the end of the year 9999.
const LAST_MOMENT: u64 = 253_402_300_799_999;

/// Selects what [`decode`] reads. Aliases: `t` transactions, `w` work, `s` settled.
macro_rules! record {
    () => {
        "SELECT t.id, COALESCE(w.version, s.version) AS version, t.tenant, t.idempotency_key, t.idempotency_digest, \
         t.request::text AS request, COALESCE(w.progress, s.progress) AS progress \
         FROM transactions t \
         LEFT JOIN work w ON w.ledger = t.ledger AND w.transaction_id = t.id \
         LEFT JOIN settled s ON s.status IN ('done', 'failed') AND s.ledger = t.ledger \
         AND s.transaction_id = t.id "
    };
}
pub(super) use record;

/// Like [`record`], the first rows `$which` (one text, in parts) in the order `$by`, as many as fit into `$bytes` bytes, and one at least;
/// with the number of all of them, whether they fit or not, as `found`. In `$by` and `$which` the aliases stand, in
/// `$turn` the same order without them.
///
/// The lengths as they are stored come first: they need no reading of what is large, but tell little of what is
/// compressed.
macro_rules! first_records {
    ($($which:literal)+, by $by:literal, turn $turn:literal, bytes $bytes:literal) => {
        concat!(
            "WITH sized AS (SELECT t.id, w.expires_at, s.finished_at, t.request, \
             COALESCE(octet_length(COALESCE(w.progress, s.progress)), 0) AS more \
             FROM transactions t \
             LEFT JOIN work w ON w.ledger = t.ledger AND w.transaction_id = t.id \
             LEFT JOIN settled s ON s.status IN ('done', 'failed') AND s.ledger = t.ledger \
             AND s.transaction_id = t.id ",
            $($which,)+
            "), stored AS (SELECT *, sum(pg_column_size(request) + more) OVER (ORDER BY ",
            $turn,
            ") - pg_column_size(request) - more AS stored_before FROM sized), \
             read AS (SELECT id, sum(octet_length(request::text) + more) OVER (ORDER BY ",
            $turn,
            ") - octet_length(request::text) - more AS read_before FROM stored WHERE stored_before < ",
            $bytes,
            ") SELECT first.*, (SELECT count(*) FROM sized) AS found FROM (",
            record!(),
            "WHERE t.id = ANY(ARRAY(SELECT id FROM read WHERE read_before < ",
            $bytes,
            ")) ORDER BY ",
            $by,
            ") AS first"
        )
    };
}
pub(super) use first_records;

/// What changes of a record, as it is stored.
#[derive(Serialize, Deserialize)]
struct Progress<'r> {
    created_at: Timestamp,
    updated_at: Timestamp,
    state: Cow<'r, State>,
    attempts: u32,
    conflicts: u32,
    outages: u32,
    #[serde(default)]
    submissions_ended: u64,
    /// Written only if it is so: docs/POSTGRES.md tells how to set it for a whole database.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    rewound: bool,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    history: Cow<'r, [Attempt]>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    transient: Cow<'r, BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Origin::is_unknown")]
    origin: Cow<'r, Origin>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    actions: Cow<'r, [Action]>,
}

/// A record that shall be stored.
pub(super) struct NewRow {
    pub(super) id: Uuid,
    pub(super) ledger: LedgerName,
    pub(super) contract: String,
    pub(super) function: String,
    pub(super) created_at: i64,
    pub(super) tenant: TenantName,
    pub(super) key: Option<String>,
    pub(super) digest: Option<[u8; 32]>,
    pub(super) metadata: Option<String>,
    pub(super) request: String,
    pub(super) work: WorkRow,
}

/// The columns of `work`.
pub(super) struct WorkRow {
    pub(super) version: i64,
    pub(super) stage: &'static str,
    pub(super) attempts: i64,
    pub(super) conflicts: i64,
    pub(super) outages: i64,
    pub(super) updated_at: i64,
    pub(super) due_at: Option<i64>,
    pub(super) first_try: bool,
    pub(super) expires_at: Option<i64>,
    pub(super) progress: String,
}

/// The columns of `settled` that `work` does not have.
pub(super) struct EndRow {
    pub(super) status: &'static str,
    pub(super) tx_id: Option<String>,
    pub(super) block: Option<i64>,
    pub(super) error_code: Option<&'static str>,
    pub(super) error_message: Option<String>,
    pub(super) ledger_code: Option<String>,
}

pub(super) fn uuid(id: TransactionId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(super) fn transaction_id(id: Uuid) -> TransactionId {
    TransactionId::from_bytes(*id.as_bytes())
}

/// Milliseconds for a `bigint` column.
pub(super) fn millis(moment: Timestamp) -> i64 {
    i64::try_from(moment.as_millis()).unwrap_or(i64::MAX)
}

/// Milliseconds for a `timestamptz` column.
pub(super) fn calendar(moment: Timestamp) -> i64 {
    i64::try_from(moment.as_millis().min(LAST_MOMENT)).unwrap_or_default()
}

/// `text` as a column can hold it.
pub(super) fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// Labels as they are searched; `None` if there are none.
pub(super) fn labels(metadata: &BTreeMap<String, String>) -> Option<String> {
    let plain: BTreeMap<_, _> = metadata
        .iter()
        .map(|(key, value)| (plain(key), plain(value)))
        .collect();
    let json = serde_json::to_string(&plain).ok();
    json.filter(|_| !plain.is_empty())
}

fn broken(error: serde_json::Error) -> Failure {
    Failure::Damaged(error.to_string())
}

pub(super) fn new(tx: &Transaction) -> Result<NewRow, Failure> {
    let request = if tx.request.transient.is_empty() {
        serde_json::to_string(&*tx.request)
    } else {
        let mut shown = Request::clone(&tx.request);
        shown.transient.clear();
        serde_json::to_string(&shown)
    };
    Ok(NewRow {
        id: uuid(tx.id),
        ledger: tx.request.ledger.clone(),
        contract: plain(&tx.request.contract),
        function: plain(&tx.request.function),
        created_at: calendar(tx.created_at),
        tenant: tx.tenant.clone(),
        key: tx.idempotency_entry().map(|key| plain(&key)),
        digest: tx.idempotency.as_ref().map(|(_, digest)| *digest.as_bytes()),
        metadata: labels(&tx.request.metadata),
        request: request.map_err(broken)?,
        work: work(tx)?,
    })
}

pub(super) fn work(tx: &Transaction) -> Result<WorkRow, Failure> {
    let progress = Progress {
        created_at: tx.created_at,
        updated_at: tx.updated_at,
        state: Cow::Borrowed(&tx.state),
        attempts: tx.attempts,
        conflicts: tx.conflicts,
        outages: tx.outages,
        submissions_ended: tx.submissions_ended,
        rewound: tx.rewound,
        history: Cow::Borrowed(&tx.history),
        transient: Cow::Borrowed(&tx.request.transient),
        origin: Cow::Borrowed(&tx.origin),
        actions: Cow::Borrowed(&tx.actions),
    };
    let waits = matches!(tx.state, State::Pending { .. });
    Ok(WorkRow {
        version: i64::try_from(tx.version).unwrap_or(i64::MAX),
        stage: tx.stage().map_or("", Stage::as_str),
        attempts: tx.attempts.into(),
        conflicts: tx.conflicts.into(),
        outages: tx.outages.into(),
        updated_at: calendar(tx.updated_at),
        due_at: tx.state.due().map(millis),
        first_try: tx.state.due().is_some() && tx.is_first_try(),
        expires_at: tx.expires_unasked_at().filter(|_| waits).map(millis),
        progress: serde_json::to_string(&progress).map_err(broken)?,
    })
}

/// How it ended; `None` if it has not.
pub(super) fn end(tx: &Transaction) -> Option<EndRow> {
    let tx_id = || tx.ledger_tx_id().map(|id| plain(&id.0));
    match &tx.state {
        State::Done { receipt } => Some(EndRow {
            status: Status::Done.as_str(),
            tx_id: Some(plain(&receipt.tx_id.0)),
            block: Some(i64::try_from(receipt.block).unwrap_or(i64::MAX)),
            error_code: None,
            error_message: None,
            ledger_code: receipt.code.as_deref().map(plain),
        }),
        State::Failed { failure } => Some(EndRow {
            status: Status::Failed.as_str(),
            tx_id: tx_id(),
            block: None,
            error_code: Some(failure.code.as_str()),
            error_message: Some(plain(&failure.message)),
            ledger_code: failure.ledger_code.as_deref().map(plain),
        }),
        State::Pending { .. } | State::Preparing { .. } | State::Submitted { .. } | State::Parked { .. } => {
            None
        }
    }
}

/// What a row of [`record`] holds.
pub(super) struct Columns<'r> {
    pub(super) id: Uuid,
    pub(super) version: Option<i64>,
    pub(super) tenant: &'r str,
    pub(super) key: Option<String>,
    pub(super) digest: Option<&'r [u8]>,
    pub(super) request: &'r str,
    pub(super) progress: Option<&'r str>,
}

/// The record in a row of [`record`].
pub(super) fn decode(row: &PgRow) -> Result<Transaction, Failure> {
    let columns = Columns {
        id: row.try_get("id")?,
        version: row.try_get("version")?,
        tenant: row.try_get("tenant")?,
        key: row.try_get("idempotency_key")?,
        digest: row.try_get("idempotency_digest")?,
        request: row.try_get("request")?,
        progress: row.try_get("progress")?,
    };
    columns.record()
}

impl Columns<'_> {
    pub(super) fn record(self) -> Result<Transaction, Failure> {
        let id = self.id;
        let damaged = |what: String| Failure::Damaged(format!("the record {id} cannot be read: {what}"));
        let unreadable = |error: serde_json::Error| damaged(error.to_string());
        let (Some(version), Some(progress)) = (self.version, self.progress) else {
            return Err(damaged("it has a row in neither work nor settled".to_owned()));
        };
        let mut request: Request = serde_json::from_str(self.request).map_err(unreadable)?;
        let progress: Progress<'static> = serde_json::from_str(progress).map_err(unreadable)?;
        request.transient = progress.transient.into_owned();
        let tenant = TenantName::new(self.tenant)
            .ok_or_else(|| damaged(format!("its tenant is {:?}", self.tenant)))?;
        let digest = self.digest.and_then(|digest| <[u8; 32]>::try_from(digest).ok());
        let idempotency = match (self.key, digest) {
            (None, _) => None,
            (Some(key), Some(digest)) => {
                Some((tenant.unscoped(&key).to_owned(), Fingerprint::from_bytes(digest)))
            }
            (Some(_), None) => return Err(damaged("its idempotency key has no digest".to_owned())),
        };
        Ok(Transaction {
            id: transaction_id(id),
            version: u64::try_from(version).map_err(|_| damaged(format!("its version is {version}")))?,
            tenant,
            request: Arc::new(request),
            idempotency,
            origin: progress.origin.into_owned(),
            created_at: progress.created_at,
            updated_at: progress.updated_at,
            state: progress.state.into_owned(),
            attempts: progress.attempts,
            conflicts: progress.conflicts,
            outages: progress.outages,
            submissions_ended: progress.submissions_ended,
            rewound: progress.rewound,
            history: progress.history.into_owned(),
            actions: progress.actions.into_owned(),
        })
    }
}

/// The records in these rows. One that cannot be read is reported and passed over: it must not hide the others.
pub(super) fn decode_readable(rows: &[PgRow]) -> Vec<Transaction> {
    let readable = |row| {
        decode(row)
            .inspect_err(|error| tracing::error!(%error, "a record in the database is damaged"))
            .ok()
    };
    rows.iter().filter_map(readable).collect()
}
