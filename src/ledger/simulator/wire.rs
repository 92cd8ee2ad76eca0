//! What goes between [`serve`](super::serve()) and [`RemoteSimulator`](super::RemoteSimulator): JSON over HTTP/1.1.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /prepare` | `Request` | `Prepared` |
//! | `POST /submit` | `Prepared` | `null` |
//! | `GET /lookup/{tx_id}` | | `Outcome` |
//! | `POST /query` | `Query` | what the contract returned |
//! | `GET /probe` | | `null` |
//! | `GET /outcomes` | | a [`Group`] a line, without end; an empty one at once and then at least every second |
//!
//! What is not answered with 200 is answered with a [`Refusal`].

use std::time::Duration;

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::domain::{Cause, LedgerTxId, Outcome};
use crate::ledger::{PrepareError, QueryError, SubmitError};

/// How often at least a line of outcomes comes.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// The outcomes of one block. An empty one is a heartbeat.
pub(super) type Group = Vec<(LedgerTxId, Outcome)>;

/// Why a call was not done, in the cases of [`SubmitError`], the finest of the three.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refusal {
    /// Never.
    Rejected(Cause),
    /// Not now; certainly nothing was done.
    Unavailable(Cause),
    /// It may have been done.
    Unknown(Cause),
}

impl Refusal {
    /// For people with a command line; the program reads the body.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Rejected(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown(_) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What is to be told, whichever case it is.
    pub(super) fn into_cause(self) -> Cause {
        match self {
            Self::Rejected(cause) | Self::Unavailable(cause) | Self::Unknown(cause) => cause,
        }
    }
}

impl From<SubmitError> for Refusal {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Rejected(cause) => Self::Rejected(cause),
            SubmitError::Unavailable(cause) => Self::Unavailable(cause),
            SubmitError::Unknown(cause) => Self::Unknown(cause),
        }
    }
}

impl From<PrepareError> for Refusal {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::Rejected(cause) => Self::Rejected(cause),
            PrepareError::Unavailable(cause) => Self::Unavailable(cause),
        }
    }
}

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Rejected(cause) => Self::Rejected(cause),
            QueryError::Unavailable(cause) => Self::Unavailable(cause),
        }
    }
}

impl From<Refusal> for SubmitError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rejected(cause) => Self::Rejected(cause),
            Refusal::Unavailable(cause) => Self::Unavailable(cause),
            Refusal::Unknown(cause) => Self::Unknown(cause),
        }
    }
}

// Preparing and asking have no effect, so a doubt whether they were done is none.

impl From<Refusal> for PrepareError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rejected(cause) => Self::Rejected(cause),
            Refusal::Unavailable(cause) | Refusal::Unknown(cause) => Self::Unavailable(cause),
        }
    }
}

impl From<Refusal> for QueryError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rejected(cause) => Self::Rejected(cause),
            Refusal::Unavailable(cause) | Refusal::Unknown(cause) => Self::Unavailable(cause),
        }
    }
}
