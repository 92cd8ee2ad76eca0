//! What can go wrong with a database, in classes that tell what to do next.
//!
//! Decided by SQLSTATE, never by message text. Whatever is not known to leave the session sound costs the
//! session: a new one is cheap, and a doubtful one could answer the next question with the last one's answer.

use std::time::Duration;

use sqlx::Error;
use thiserror::Error as ThisError;

use crate::store::StoreError;

/// Why a statement has no result.
#[derive(Debug, ThisError)]
pub(super) enum Failure {
    /// Nothing was heard within the time a call may take.
    #[error("no answer within {0:?}; what was under way may be stored")]
    Silent(Duration),
    /// No session could be had in time.
    #[error("{0}")]
    NoSession(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The database, or the way to it, said no.
    #[error("{}", told(.0))]
    Sql(#[source] Error),
    /// What came back cannot be a record.
    #[error("{0}")]
    Damaged(String),
}

impl Failure {
    fn state(&self) -> Option<String> {
        match self {
            Self::Sql(Error::Database(error)) => error.code().map(|code| code.into_owned()),
            Self::Sql(_) | Self::Silent(_) | Self::NoSession(_) | Self::Closed | Self::Damaged(_) => None,
        }
    }

    fn is_state(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.state().is_some_and(|state| wanted(&state))
    }

    /// The statement was refused for what it says, and the session is as good as before.
    pub(super) fn spares_session(&self) -> bool {
        self.is_state(|state| {
            let class = state.get(..2).unwrap_or_default();
            ["22", "23", "40", "42", "54", "55"].contains(&class) && state != "40003"
        })
    }

    /// Other sessions that were opened before have very likely gone the same way: the server stopped, changed
    /// its role, or the network broke. One slow statement says nothing of the others.
    pub(super) fn dooms_others(&self) -> bool {
        match self {
            Self::Sql(Error::Io(_)) => true,
            _ => {
                self.is_state(|state| state == "25006" || state.starts_with("57P") || state.starts_with("08"))
            }
        }
    }

    /// A victim of concurrency, rolled back as a whole: the same statement can succeed at once.
    pub(super) fn is_rerunnable(&self) -> bool {
        self.is_state(|state| ["40001", "40P01"].contains(&state))
    }

    /// One of the rows is at fault, and the others would have been stored without it.
    pub(super) fn blames_a_row(&self) -> bool {
        self.is_state(|state| {
            let class = state.get(..2).unwrap_or_default();
            ["22", "23", "54"].contains(&class)
        })
    }

    /// A server that starts, is full, or plays the standby may be different in a moment.
    pub(super) fn passes_while_connecting(&self) -> bool {
        match self {
            Self::Sql(Error::Io(_)) => true,
            Self::NoSession(_) => true,
            _ => self.is_state(|state| {
                ["08", "53", "57"].contains(&state.get(..2).unwrap_or_default()) || state == "25006"
            }),
        }
    }

    /// For the caller of the store.
    pub(super) fn into_store_error(self) -> StoreError {
        let damaged = match &self {
            Self::Damaged(_) => true,
            Self::Sql(Error::ColumnDecode { .. } | Error::Decode(_)) => true,
            // data_corrupted, index_corrupted
            _ => self.is_state(|state| ["XX001", "XX002"].contains(&state)),
        };
        if damaged {
            StoreError::Damaged(self.to_string())
        } else {
            StoreError::Unavailable(self.to_string())
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

fn told(error: &Error) -> String {
    match error {
        Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            let hint = match &*code {
                "25006" => " (a standby, or default_transaction_read_only is on)",
                "42P01" | "42703" => " (the tables are not those of this version: run `sluicegate migrate`)",
                _ => "",
            };
            format!("the database says: {} [{code}]{hint}", error.message())
        }
        Error::Io(error) => format!("the connection to the database failed: {error}"),
        Error::Protocol(what) => format!("the connection to the database is out of step: {what}"),
        other => other.to_string(),
    }
}
