//! What people do to a transaction that exists: cancel it, run a failed one again, settle what is parked.
//!
//! Each is a compare-and-swap like any other change. Against a worker that moves the same record it wins, or it reads
//! again and decides anew; a worker that lost sends nothing. A crash leaves the change made or not made, and each may be
//! asked for again: the answer is then the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{Accepted, Caller, Gateway, Item, Refusal};
use crate::domain::{
    Action, Cause, Event, FailureCode, LedgerTxId, Receipt, State, Timestamp, Transaction, TransactionId,
};
use crate::store::documents::{DocumentChange, Kind};
use crate::store::{self, Change, StoreError};

/// Why a transaction was left as it is.
#[derive(Debug, Error)]
pub enum ActionRefusal {
    /// There is none that the caller may see.
    #[error("there is no such transaction")]
    Missing,
    /// It is past, or before, the state in which this can be done.
    #[error("{0}")]
    NotNow(String),
    /// What it would become is not acceptable.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store could not do it. It may be done all the same.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What somebody found out about a parked transaction.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Whether it took effect.
    pub done: bool,
    /// How they know.
    pub note: String,
    /// The ledger's identifier of it, if it is not the one that is known.
    pub tx_id: Option<String>,
    /// The block it is in.
    pub block: Option<u64>,
    /// What the contract answered.
    pub result: Option<Box<RawValue>>,
}

/// The ledger code of what an operator settled.
const BY_OPERATOR: &str = "SETTLED_BY_OPERATOR";

const RETRY: Kind = "retry";

/// Retention keeps what is done for a day at least.
const NOT_YET_PRUNED: Duration = Duration::from_secs(12 * 3_600);

/// By which transaction a failed one was run again, and when that was noted.
#[derive(Serialize, Deserialize)]
struct Retry {
    id: TransactionId,
    at: Timestamp,
}

impl Gateway {
    /// Ends a transaction before anything of it is sent. One that is cancelled already stays as it is.
    ///
    /// # Errors
    /// [`ActionRefusal`]; it goes its way as if nobody had asked.
    pub async fn cancel(&self, caller: &Caller, id: TransactionId) -> Result<Transaction, ActionRefusal> {
        self.act(caller, id, "cancel", None, |tx| match &tx.state {
            State::Pending { .. } | State::Preparing { .. } if tx.rewound => Err(
                "the store was restored from a backup, and the ledger has not yet told whether it has this transaction; try again later".to_owned(),
            ),
            State::Pending { .. } | State::Preparing { .. } => Ok(Some(Event::Cancelled {
                by: caller.subject.clone(),
            })),
            State::Failed { failure } if failure.code == FailureCode::Cancelled => Ok(None),
            State::Submitted { .. } => {
                Err("it was submitted to the ledger already, so it can no longer be cancelled; wait for its outcome".to_owned())
            }
            State::Parked { .. } => Err(
                "it was submitted and its outcome is not known, so it cannot be cancelled; settle it".to_owned(),
            ),
            State::Done { .. } | State::Failed { .. } => {
                Err(format!("it is {} already", tx.status().as_str()))
            }
        })
        .await
    }

    /// Takes a person's word for what became of a parked transaction.
    ///
    /// # Errors
    /// [`ActionRefusal`].
    pub async fn settle(
        &self,
        caller: &Caller,
        id: TransactionId,
        verdict: &Verdict,
    ) -> Result<Transaction, ActionRefusal> {
        self.act(caller, id, "settle", Some(&verdict.note), |tx| {
            let State::Parked { sent, .. } = &tx.state else {
                return Err("only a transaction at stage parked can be settled by hand".to_owned());
            };
            Ok(Some(match verdict.done {
                true => Event::Committed {
                    receipt: Receipt {
                        tx_id: verdict
                            .tx_id
                            .clone()
                            .map_or_else(|| sent.tx_id.clone(), LedgerTxId),
                        block: verdict.block.unwrap_or_default(),
                        code: Some(BY_OPERATOR.to_owned()),
                        result: verdict.result.clone(),
                    },
                },
                false => Event::Rejected {
                    cause: Cause::new(BY_OPERATOR, verdict.note.clone()),
                },
            }))
        })
        .await
    }

    /// Runs a failed transaction again as a new one that names it. Asked for again, it answers the same new one.
    ///
    /// Which one that is, is noted before it is stored, and outlives it: retention may take the new one long before the
    /// old, and then it must not be run a third time (I2).
    ///
    /// # Errors
    /// [`ActionRefusal`].
    pub async fn retry(&self, caller: &Caller, id: TransactionId) -> Result<Accepted, ActionRefusal> {
        let failed = self.get(caller, id).await?.ok_or(ActionRefusal::Missing)?;
        if !matches!(failed.state, State::Failed { .. }) {
            let now = failed
                .stage()
                .map_or(failed.status().as_str(), |stage| stage.as_str());
            return Err(ActionRefusal::NotNow(format!(
                "only a failed transaction can be run again, and this one is {now}"
            )));
        }
        let mut request = crate::domain::Request::clone(&failed.request);
        // What it waited for has come, or no longer matters.
        request.not_before = None;
        let (mut retry, lane) = self.check_item(&failed.tenant, Item { request, key: None })?;
        let note = self.note_retry(failed.id, retry.id).await?;
        if note.id != retry.id {
            if let Some(transaction) = self.0.store.get(note.id).await? {
                return Ok(Accepted {
                    transaction,
                    repeated: true,
                });
            }
            // It was noted, and a crash came before it was stored; or it was stored, and retention took it.
            if retry.created_at.since(note.at) > NOT_YET_PRUNED {
                let id = note.id;
                return Err(ActionRefusal::NotNow(format!(
                    "it was run again as transaction {id}, which is no longer kept; send the request anew if it is still wanted"
                )));
            }
            retry.id = note.id;
        }
        retry.idempotency = Some((failed.retry_key(), retry.request.fingerprint()));
        retry.origin = caller.origin(None);
        retry.origin.retry_of = Some(failed.id);
        Ok(self.admit(retry, &lane).await?)
    }

    /// Notes which transaction runs a failed one again, unless that is noted already. Answers what stands.
    async fn note_retry(&self, failed: TransactionId, retry: TransactionId) -> Result<Retry, StoreError> {
        let note = Retry {
            id: retry,
            at: self.0.clock.now(),
        };
        loop {
            if let Some(noted) = self.0.documents.document(RETRY, &failed.to_string()).await? {
                return noted.read();
            }
            let create = DocumentChange::create(RETRY, failed.to_string(), &note)?;
            if self.0.documents.change_documents(vec![create]).await? {
                return Ok(note);
            }
        }
    }

    /// The transaction that runs this failed one again, if somebody asked for that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn retried_by(&self, tx: &Transaction) -> Result<Option<TransactionId>, StoreError> {
        if !matches!(tx.state, State::Failed { .. }) {
            return Ok(None);
        }
        let noted = self.0.documents.document(RETRY, &tx.id.to_string()).await?;
        Ok(noted
            .map(|noted| noted.read::<Retry>())
            .transpose()?
            .map(|retry| retry.id))
    }

    /// Applies what `decide` says until that is stored: `Ok(None)` leaves the record as it is, `Err` says why not.
    async fn act(
        &self,
        caller: &Caller,
        id: TransactionId,
        action: &str,
        note: Option<&str>,
        decide: impl Fn(&Transaction) -> Result<Option<Event>, String>,
    ) -> Result<Transaction, ActionRefusal> {
        loop {
            let old = self.get(caller, id).await?.ok_or(ActionRefusal::Missing)?;
            let Some(event) = decide(&old).map_err(ActionRefusal::NotNow)? else {
                return Ok(old);
            };
            let action = Action {
                action: action.to_owned(),
                by: caller.subject.clone(),
                at: self.0.clock.now(),
                note: note.map(str::to_owned),
            };
            let new = old
                .act(event, action)
                .map_err(|illegal| ActionRefusal::NotNow(illegal.to_string()))?;
            // Whoever moved it meanwhile decides what can still be done.
            if let Some(new) = store::swap(&*self.0.store, vec![Change { old, new }])
                .await?
                .pop()
            {
                self.told(&new);
                return Ok(new);
            }
        }
    }

    /// Counts and tells what a person settled.
    fn told(&self, tx: &Transaction) {
        if let Some(lane) = self.0.lanes.get(&tx.request.ledger) {
            let outcome = match &tx.state {
                State::Failed { failure } => failure.code.as_str(),
                _ => "done",
            };
            lane.metrics()
                .settled(outcome, tx.updated_at.since(tx.created_at));
        }
        self.0.hub.changed(tx);
    }
}
