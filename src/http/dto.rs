//! Records as clients see them. Borrowed from the record and written once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::domain::{
    Action, Argument, Attempt, AttemptOutcome, ReadWriteSet, State, Timestamp, Transaction, TransactionId,
};
use crate::gateway::LaneStatus;

pub(crate) fn rfc3339<S: Serializer>(moment: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(moment)
}

pub(crate) fn rfc3339_or_null<S: Serializer>(
    moment: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match moment {
        Some(moment) => serializer.collect_str(moment),
        None => serializer.serialize_none(),
    }
}

/// A transaction.
#[derive(Serialize)]
pub(crate) struct TransactionView<'a> {
    id: TransactionId,
    status: &'static str,
    stage: Option<&'static str>,
    tx_id: Option<&'a str>,
    error: Option<ErrorView<'a>>,
    version: u64,
    ledger: &'a str,
    contract: &'a str,
    function: &'a str,
    args: &'a [Argument],
    attempts: u32,
    #[serde(serialize_with = "rfc3339")]
    created_at: Timestamp,
    #[serde(serialize_with = "rfc3339")]
    updated_at: Timestamp,
    #[serde(serialize_with = "rfc3339_or_null")]
    finished_at: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339_or_null")]
    expires_at: Option<Timestamp>,
    block: Option<u64>,
    ledger_code: Option<&'a str>,
    result: Option<&'a RawValue>,
    metadata: &'a BTreeMap<String, String>,
    tenant: &'a str,
    #[serde(serialize_with = "rfc3339_or_null")]
    not_before: Option<Timestamp>,
    callback_url: Option<&'a str>,
    retry_of: Option<TransactionId>,
    /// Told where one record is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retried_by: Option<TransactionId>,
    submitted_by: SubmitterView<'a>,
    actions: Vec<ActionView<'a>>,
}

/// Who brought a transaction.
#[derive(Serialize)]
struct SubmitterView<'a> {
    by: Option<&'a str>,
    from: Option<IpAddr>,
}

/// What a person did to a transaction.
#[derive(Serialize)]
struct ActionView<'a> {
    action: &'a str,
    by: &'a str,
    #[serde(serialize_with = "rfc3339")]
    at: Timestamp,
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
#[derive(Serialize)]
struct ErrorView<'a> {
    code: &'static str,
    message: &'a str,
    retryable: bool,
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

/// One page of transactions.
#[derive(Serialize)]
pub(crate) struct PageView<'a> {
    pub(crate) items: Vec<TransactionView<'a>>,
    pub(crate) next_cursor: Option<String>,
}

/// The remembered attempts of a transaction.
#[derive(Serialize)]
pub(crate) struct AttemptsView<'a> {
    /// How many there were; more than `items` has if the first ones are forgotten.
    attempts: u32,
    items: Vec<AttemptView<'a>>,
}

#[derive(Serialize)]
struct AttemptView<'a> {
    number: u32,
    #[serde(serialize_with = "rfc3339")]
    started_at: Timestamp,
    tx_id: Option<&'a str>,
    #[serde(serialize_with = "rfc3339_or_null")]
    sent_at: Option<Timestamp>,
    #[serde(serialize_with = "rfc3339_or_null")]
    settled_at: Option<Timestamp>,
    outcome: Option<AttemptOutcome>,
    code: Option<&'a str>,
    message: Option<&'a str>,
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
#[derive(Serialize)]
pub(crate) struct ResultView {
    pub(crate) result: Box<RawValue>,
}

/// A ledger's lane.
#[derive(Serialize)]
pub(crate) struct LaneView {
    name: String,
    kind: &'static str,
    state: &'static str,
    outage: Option<String>,
    backlog: u64,
    in_flight: usize,
    rate_per_second: f64,
    burst: u32,
    max_in_flight: u32,
    batch_size: u32,
    batch_timeout_ms: u64,
}

impl From<LaneStatus> for LaneView {
    fn from(lane: LaneStatus) -> Self {
        Self {
            name: lane.name.to_string(),
            kind: lane.kind,
            state: match (lane.works_here, &lane.outage) {
                (false, _) => "elsewhere",
                (true, Some(_)) => "unavailable",
                (true, None) => "running",
            },
            outage: lane.outage.map(|cause| cause.to_string()),
            backlog: lane.backlog,
            in_flight: lane.in_flight,
            rate_per_second: lane.settings.rate_per_second,
            burst: lane.settings.burst.get(),
            max_in_flight: lane.settings.max_in_flight.get(),
            batch_size: lane.settings.batch_size.get(),
            batch_timeout_ms: u64::try_from(lane.settings.batch_timeout.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// All lanes.
#[derive(Serialize)]
pub(crate) struct LanesView {
    pub(crate) items: Vec<LaneView>,
}
