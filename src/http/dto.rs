//! Records as clients see them. Borrowed from the record and written once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::openapi::schemas::AnyJson;
use crate::domain::{
    Action, Argument, Attempt, AttemptOutcome, LedgerName, ReadWriteSet, Stage, State, Status, TenantName,
    Timestamp, Transaction, TransactionId,
};

pub(super) fn rfc3339<S: Serializer>(moment: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(moment)
}

pub(super) fn rfc3339_or_null<S: Serializer>(
    moment: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => serializer.collect_str(moment),
        None => serializer.serialize_none(),
    }
}

/// A transaction.
#[derive(Serialize, ToSchema)]
#[schema(as = Transaction)]
pub(crate) struct TransactionView<'a> {
    id: TransactionId,
    #[schema(value_type = Status)]
    status: &'static str,
    /// Only while it is pending.
    #[schema(required, value_type = Option<Stage>)]
    stage: Option<&'static str>,
    /// What the ledger calls it, known before it is sent.
    #[schema(required)]
    tx_id: Option<&'a str>,
    /// Why it failed, or why a parked one waits.
    #[schema(required)]
    error: Option<ErrorView<'a>>,
    /// Grows with every change; it is the ETag, too.
    version: u64,
    #[schema(value_type = LedgerName)]
    ledger: &'a str,
    contract: &'a str,
    function: &'a str,
    args: &'a [Argument],
    /// How many times it was taken on by a worker.
    attempts: u32,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    #[serde(serialize_with = "rfc3339")]
    updated_at: Timestamp,
    /// When it was done, or failed.
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    finished_at: Option<Timestamp>,
    /// When it fails if it was not submitted by then.
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    expires_at: Option<Timestamp>,
    /// The block that it is in.
    #[schema(required)]
    block: Option<u64>,
    /// The ledger's own code for a valid transaction, where it has one.
    #[schema(required)]
    ledger_code: Option<&'a str>,
    /// What the contract answered.
    #[schema(required, value_type = AnyJson)]
    result: Option<&'a RawValue>,
    /// The caller's labels.
    metadata: &'a BTreeMap<String, String>,
    /// Whose it is.
    #[schema(value_type = TenantName)]
    tenant: &'a str,
    /// It is not submitted before this moment.
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    not_before: Option<Timestamp>,
    /// Who is told when it is settled.
    #[schema(required)]
    callback_url: Option<&'a str>,
    /// The failed transaction that it does again.
    #[schema(required)]
    retry_of: Option<TransactionId>,
    /// The one that does it again; told where one record is read, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) retried_by: Option<TransactionId>,
    submitted_by: SubmitterView<'a>,
    /// What people did to it, oldest first.
    actions: Vec<ActionView<'a>>,
}

/// Who brought a transaction.
#[derive(Serialize, ToSchema)]
#[schema(as = Submitter)]
struct SubmitterView<'a> {
    /// `key:…`, `jwt:…`, `cert:…` or `anonymous`; null if it is not known.
    #[schema(required)]
    by: Option<&'a str>,
    /// From which address.
    #[schema(required, value_type = Option<String>)]
    from: Option<IpAddr>,
}

/// What a person did to a transaction.
#[derive(Serialize, ToSchema)]
#[schema(as = Action)]
struct ActionView<'a> {
    /// `cancel`, `retry` or `settle`.
    action: &'a str,
    by: &'a str,
    #[serde(serialize_with = "rfc3339")]
    at: Timestamp,
    #[schema(required)]
    note: Option<&'a str>,
}

impl<'a> From<&'a Action> for ActionView<'a> {
    fn from(action: &'a Action) -> Self {
        Self {
            action: &action.action,
            by: &action.by,
            at: action.at,
            note: action.note.as_deref(),
        }
    }
}

/// Why a transaction failed, or why a parked one waits.
#[derive(Serialize, ToSchema)]
#[schema(as = TransactionError)]
struct ErrorView<'a> {
    /// Decide by this.
    #[schema(example = "conflicts_exhausted")]
    code: &'static str,
    /// For a person; its wording may change.
    message: &'a str,
    /// Whether the same request, with a new idempotency key, may well succeed.
    retryable: bool,
    /// The ledger's own code, if the ledger decided.
    #[schema(required)]
    ledger_code: Option<&'a str>,
}

impl<'a> From<&'a Transaction> for TransactionView<'a> {
    fn from(tx: &'a Transaction) -> Self {
        let request = &*tx.request;
        let receipt = match &tx.state {
            State::Done { receipt } => Some(receipt),
            _ => None,
        };
        let error = match &tx.state {
            State::Failed { failure } => Some(ErrorView {
                code: failure.code.as_str(),
                message: &failure.message,
                retryable: failure.code.is_retryable(),
                ledger_code: failure.ledger_code.as_deref(),
            }),
            State::Parked { cause, .. } => Some(ErrorView {
                code: "outcome_unknown",
                message: &cause.message,
                retryable: false,
                ledger_code: Some(&cause.code),
            }),
            _ => None,
        };
        Self {
            id: tx.id,
            status: tx.status().as_str(),
            stage: tx.stage().map(|stage| stage.as_str()),
            tx_id: tx.ledger_tx_id().map(|id| id.0.as_str()),
            error,
            version: tx.version,
            ledger: request.ledger.as_str(),
            contract: &request.contract,
            function: &request.function,
            args: &request.args,
            attempts: tx.attempts,
            created_at: tx.created_at,
            updated_at: tx.updated_at,
            finished_at: tx.is_settled().then_some(tx.updated_at),
            expires_at: tx.expires_at(),
            block: receipt.map(|receipt| receipt.block),
            ledger_code: receipt.and_then(|receipt| receipt.code.as_deref()),
            result: receipt.and_then(|receipt| receipt.result.as_deref()),
            metadata: &request.metadata,
            tenant: tx.tenant.as_str(),
            not_before: request.not_before,
            callback_url: request.callback_url.as_deref(),
            retry_of: tx.origin.retry_of,
            retried_by: None,
            submitted_by: SubmitterView {
                by: tx.origin.by.as_deref(),
                from: tx.origin.from,
            },
            actions: tx.actions.iter().map(ActionView::from).collect(),
        }
    }
}

/// A transaction as whoever is told of it sees it.
///
/// # Errors
/// If it cannot be written.
pub fn show(tx: &Transaction) -> serde_json::Result<Box<RawValue>> {
    serde_json::value::to_raw_value(&TransactionView::from(tx))
}

/// A transaction as it stands in an archive: as the API shows it, with its idempotency key and the attempts that are
/// remembered.
#[derive(Serialize)]
struct ArchivedView<'a> {
    #[serde(flatten)]
    transaction: TransactionView<'a>,
    idempotency_key: Option<&'a str>,
    history: Vec<AttemptView<'a>>,
}

/// A transaction as it is archived.
///
/// # Errors
/// If it cannot be written.
pub fn show_archived(tx: &Transaction) -> serde_json::Result<Box<RawValue>> {
    serde_json::value::to_raw_value(&ArchivedView {
        transaction: TransactionView::from(tx),
        idempotency_key: tx.idempotency.as_ref().map(|(key, _)| key.as_str()),
        history: tx.history.iter().map(AttemptView::from).collect(),
    })
}

/// One page of transactions.
#[derive(Serialize, ToSchema)]
#[schema(as = TransactionPage)]
pub(crate) struct PageView<'a> {
    pub(crate) items: Vec<TransactionView<'a>>,
    /// For the next page, with the same filter; null on the last one.
    #[schema(required)]
    pub(crate) next_cursor: Option<String>,
}

/// The remembered attempts of a transaction.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempts)]
pub(crate) struct AttemptsView<'a> {
    /// How many there were; more than `items` has if the first ones are forgotten.
    attempts: u32,
    items: Vec<AttemptView<'a>>,
}

/// One try to get a transaction onto its ledger.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
struct AttemptView<'a> {
    /// 1 for the first.
    number: u32,
    #[serde(serialize_with = "rfc3339")]
    started_at: Timestamp,
    /// What the ledger calls it, once prepared.
    #[schema(required)]
    tx_id: Option<&'a str>,
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    sent_at: Option<Timestamp>,
    /// When its outcome was known.
    #[serde(serialize_with = "rfc3339_or_null")]
    #[schema(required)]
    settled_at: Option<Timestamp>,
    /// Null while it is under way.
    #[schema(required)]
    outcome: Option<AttemptOutcome>,
    /// The ledger's code, if it gave one.
    #[schema(required)]
    code: Option<&'a str>,
    /// For a person.
    #[schema(required)]
    message: Option<&'a str>,
    /// The keys it read and wrote, if the ledger tells.
    #[schema(required)]
    touched: Option<&'a ReadWriteSet>,
}

impl<'a> From<&'a Transaction> for AttemptsView<'a> {
    fn from(tx: &'a Transaction) -> Self {
        Self {
            attempts: tx.attempts,
            items: tx.history.iter().map(AttemptView::from).collect(),
        }
    }
}

impl<'a> From<&'a Attempt> for AttemptView<'a> {
    fn from(attempt: &'a Attempt) -> Self {
        let ending = attempt.ending.as_ref();
        Self {
            number: attempt.number,
            started_at: attempt.started_at,
            tx_id: attempt.tx_id.as_ref().map(|id| id.0.as_str()),
            sent_at: attempt.sent_at,
            settled_at: ending.map(|ending| ending.at),
            outcome: ending.map(|ending| ending.outcome),
            code: ending.and_then(|ending| ending.code.as_deref()),
            message: ending.and_then(|ending| ending.message.as_deref()),
            touched: attempt.touched.as_ref(),
        }
    }
}

/// A query's answer.
#[derive(Serialize, ToSchema)]
#[schema(as = QueryResult)]
pub(crate) struct ResultView {
    /// What the contract answered.
    #[schema(value_type = AnyJson)]
    pub(crate) result: Box<RawValue>,
}
