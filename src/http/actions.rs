//! `/v1/transactions/{id}/cancel`, `/retry` and `/settle`: what people do to a transaction that exists.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Api;
use super::auth::Detail;
use super::body::{read_json, read_nothing};
use super::caller::Who;
use super::dto::TransactionView;
use super::error::{ApiError, Code};
use super::openapi::examples;
use super::openapi::schemas::AnyJson;
use super::params::Name;
use super::transactions::{accepted, describe, json, transaction_id};
use crate::domain::{Transaction, TransactionId};
use crate::gateway::{FieldError, Scope, Verdict};

/// A note, or an identifier of a ledger, may have so many bytes.
const MAX_TEXT: usize = 1_024;

// Fields that have to be there are optional here, so that all that are missing can be told.

/// An operator's word on a parked transaction.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(crate) struct SettleBody {
    outcome: Option<String>,
    note: Option<String>,
    tx_id: Option<String>,
    block: Option<u64>,
    result: Option<Box<RawValue>>,
}

/// What a [`SettleBody`] may say.
#[derive(ToSchema)]
#[serde(untagged)]
#[schema(as = Verdict)]
#[allow(dead_code, reason = "it is described, not made")]
pub(crate) enum Settling {
    /// It took effect.
    Done(SettleDone),
    /// It did not, and never will.
    Failed(SettleFailed),
}

/// It took effect.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is described, not made")]
pub(crate) struct SettleDone {
    /// `done`.
    #[schema(pattern = "^done$")]
    outcome: String,
    /// How they know; it is kept with the record. 1 to 1024 bytes.
    #[schema(min_length = 1, max_length = 1_024, pattern = r"\S")]
    note: String,
    /// What the ledger calls it, if that is not what the record says. 1 to 1024 bytes.
    #[schema(min_length = 1, max_length = 1_024)]
    tx_id: Option<String>,
    /// The block that it is in.
    block: Option<u64>,
    /// What the contract answered.
    #[schema(required = false)]
    result: AnyJson,
}

/// It took no effect, and never will.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it is described, not made")]
pub(crate) struct SettleFailed {
    /// `failed`.
    #[schema(pattern = "^failed$")]
    outcome: String,
    /// How they know; it is kept with the record. 1 to 1024 bytes.
    #[schema(min_length = 1, max_length = 1_024, pattern = r"\S")]
    note: String,
    /// What the ledger calls it, if that is not what the record says. 1 to 1024 bytes.
    #[schema(min_length = 1, max_length = 1_024)]
    tx_id: Option<String>,
}

/// Cancel a transaction
///
/// Ends one of which nothing was sent yet: it fails as `cancelled`. Who cancels twice gets the same answer.
#[utoipa::path(
    post,
    path = "/v1/transactions/{id}/cancel",
    operation_id = "cancelTransaction",
    tag = "transactions",
    params(("id" = TransactionId, Path, description = "Its id")),
    responses(
        (status = 200, description = "The record, which has failed", body = TransactionView,
            headers(("ETag" = String, description = "The record's version")), example = json!(examples::cancelled())),
        (status = 404, description = "SG-0004"),
        (status = 409, description = "SG-0023"),
    )
)]
pub(crate) async fn cancel(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Submit, Scope::Operate])?;
    read_nothing(body, api.body_limits).await?;
    let id = transaction_id(&id)?;
    let tx = api
        .gateway
        .cancel(&caller, id)
        .await
        .map_err(|refusal| (id, refusal))?;
    Ok(record(&tx))
}

/// Run a failed transaction again
///
/// Makes a new one of the same request, linked to the old. Who asks twice gets the same one.
#[utoipa::path(
    post,
    path = "/v1/transactions/{id}/retry",
    operation_id = "retryTransaction",
    tag = "transactions",
    params(("id" = TransactionId, Path, description = "The id of the failed one")),
    responses(
        (status = 202, description = "The new record", body = TransactionView, headers(
            ("Location" = String, description = "Where the new record is"),
            ("ETag" = String, description = "The record's version"),
            ("Retry-After" = u32, description = "Seconds after which to ask again"),
            ("Idempotent-Replayed" = bool, description = "Somebody asked before; this is what was made then"),
        ), example = json!(examples::retry())),
        (status = 200, description = "The new record, which is settled already", body = TransactionView, headers(
            ("Location" = String, description = "Where the new record is"),
            ("ETag" = String, description = "The record's version"),
            ("Idempotent-Replayed" = bool, description = "Somebody asked before; this is what was made then"),
        ), example = json!(examples::done())),
        (status = 403, description = "SG-0029"),
        (status = 429, description = "SG-0020 SG-0021"),
        (status = 404, description = "SG-0004"),
        (status = 409, description = "SG-0023"),
        (status = 503, description = "SG-0011"),
    )
)]
pub(crate) async fn retry(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Submit, Scope::Operate])?;
    read_nothing(body, api.body_limits).await?;
    let id = transaction_id(&id)?;
    let answer = api
        .gateway
        .retry(&caller, id)
        .await
        .map_err(|refusal| (id, refusal))?;
    let status = match answer.transaction.is_settled() {
        true => StatusCode::OK,
        false => StatusCode::ACCEPTED,
    };
    Ok(accepted(status, &answer))
}

/// Settle a parked transaction
///
/// An operator's word on one whose outcome the ledger cannot tell. It is audited.
#[utoipa::path(
    post,
    path = "/v1/transactions/{id}/settle",
    operation_id = "settleTransaction",
    tag = "transactions",
    params(("id" = TransactionId, Path, description = "Its id")),
    request_body(content = Settling, description = "What became of it, and how they know",
        example = json!({"outcome": "done", "note": "seen in block 7 with the ledger's explorer", "block": 7})),
    responses(
        (status = 200, description = "The record, which is settled", body = TransactionView,
            headers(("ETag" = String, description = "The record's version")), example = json!(examples::settled())),
        (status = 404, description = "SG-0004"),
        (status = 409, description = "SG-0023"),
    )
)]
pub(crate) async fn settle(
    State(api): State<Api>,
    who: Who,
    Name(id): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let caller = who.with(&[Scope::Operate])?;
    let id = transaction_id(&id)?;
    let body: SettleBody = read_json(&headers, body, api.body_limits).await?;
    let verdict = body.into_verdict()?;
    let audited = Detail(serde_json::json!({"done": verdict.done, "note": verdict.note}));
    let tx = api
        .gateway
        .settle(&caller, id, &verdict)
        .await
        .map_err(|refusal| (id, refusal))?;
    let mut response = record(&tx);
    response.extensions_mut().insert(audited);
    Ok(response)
}

fn record(tx: &Transaction) -> Response {
    let mut response = json(StatusCode::OK, &TransactionView::from(tx));
    describe(response.headers_mut(), tx);
    response
}

impl SettleBody {
    fn into_verdict(self) -> Result<Verdict, ApiError> {
        let mut faults = Vec::new();
        let mut fault = |pointer: &str, detail: String| {
            faults.push(FieldError {
                pointer: pointer.to_owned(),
                detail,
            });
        };
        let done = match self.outcome.as_deref() {
            Some("done") => Some(true),
            Some("failed") => Some(false),
            _ => {
                fault(
                    "/outcome",
                    "must be \"done\" (it took effect) or \"failed\" (it did not, and never will)".to_owned(),
                );
                None
            }
        };
        let note = self
            .note
            .filter(|note| !note.trim().is_empty() && note.len() <= MAX_TEXT);
        if note.is_none() {
            fault(
                "/note",
                format!("say how you know, in 1 to {MAX_TEXT} bytes; it is kept with the record"),
            );
        }
        if self
            .tx_id
            .as_ref()
            .is_some_and(|id| id.is_empty() || id.len() > MAX_TEXT)
        {
            fault("/tx_id", format!("must be 1 to {MAX_TEXT} bytes"));
        }
        if done == Some(false) {
            let told = [
                ("/block", self.block.is_some()),
                ("/result", self.result.is_some()),
            ];
            for (pointer, _) in told.into_iter().filter(|(_, told)| *told) {
                fault(pointer, "is for what took effect; leave it out".to_owned());
            }
        }
        match (done, note) {
            (Some(done), Some(note)) if faults.is_empty() => Ok(Verdict {
                done,
                note,
                tx_id: self.tx_id,
                block: self.block,
                result: self.result,
            }),
            _ => Err(ApiError::fields(Code::InvalidFields, faults)),
        }
    }
}
