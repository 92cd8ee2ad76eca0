//! A simulator in another process, reached over HTTP: what [`serve`](super::serve()) offers.
//!
//! Invariants:
//! - `Unavailable` only if the connection did not come about, or the other side says so itself. Whatever may
//!   have left this process and has no answer that can be read is `Unknown` (I2).
//! - An outcome is missed as rarely as can be. The lane subscribes before it sends, but a connection takes its
//!   time; so `prepare` and `probe`, once answered, wait until the streams are up, for 300 ms at most. They do
//!   so after their answer: a ledger that is away is told at once, and one that answers is quickly connected
//!   to. What is missed all the same (a broken connection, a resend right after one) is found by look-ups.
//!
//! It stores nothing: after a crash of either side the lane looks up what it sent, and sends the same bytes
//! again if no block holds them.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{RequestBuilder, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::subscription::{Links, subscribe};
use super::wire::Refusal;
use crate::domain::{Cause, LedgerTxId, Outcome, Prepared, Request};
use crate::ledger::{LedgerBackend, Outcomes, PrepareError, Query, QueryError, SubmitError, Unacceptable};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a call may take. The lane has shorter limits of its own; queries of the API have not.
const ANSWER: Duration = Duration::from_secs(30);

/// Calls at the same time, each with a connection. Without a bound a large `max_in_flight` would use up the
/// file descriptors of both processes.
const CALLS: usize = 64;

/// Why there can be no such ledger.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// The address is none.
    #[error("{0:?} is not the address of a devnet; write it as http://HOST:PORT")]
    Address(String),
    /// This process cannot be an HTTP client.
    #[error("set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// A simulator that runs as `sluicegate devnet`, or is served by [`serve`](super::serve()).
pub struct RemoteSimulator {
    http: reqwest::Client,
    base: Url,
    calls: Semaphore,
    links: Arc<Links>,
    tasks: TaskTracker,
}

impl RemoteSimulator {
    /// The ledger at `url`, such as `http://127.0.0.1:7060`. Nobody need be there yet. Streams of outcomes are
    /// held open on `tasks`, each until it is dropped.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn new(url: &str, tasks: &TaskTracker) -> Result<Self, RemoteError> {
        let base = Url::parse(url).ok().filter(Url::has_host);
        let base = base.ok_or_else(|| RemoteError::Address(url.to_owned()))?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            // A devnet is a neighbour: no proxy in between, no redirection, and without TLS a machine without
            // root certificates will do.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only([])
            .build()
            .map_err(RemoteError::Client)?;
        Ok(Self {
            http,
            base,
            calls: Semaphore::new(CALLS),
            links: Arc::default(),
            tasks: tasks.clone(),
        })
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Fails only for addresses without a host.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Refusal> {
        self.call(self.http.get(self.url(path))).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Refusal> {
        self.call(self.http.post(self.url(&[path])).json(body)).await
    }

    /// Sends a request and reads the answer.
    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Refusal> {
        // Never closed.
        let _permit = self.calls.acquire().await;
        let sent = request.timeout(ANSWER).send().await;
        let answer = sent.map_err(|error| self.unanswered(&error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| self.unanswered(&error))?;
        let strange = |error| {
            let words = format!(
                "the devnet at {} answered {status}, which makes no sense: {error}",
                self.base
            );
            Refusal::Unknown(Cause::new("STRANGE_ANSWER", words))
        };
        match status.is_success() {
            true => serde_json::from_slice(&body).map_err(strange),
            false => Err(serde_json::from_slice(&body).unwrap_or_else(strange)),
        }
    }

    /// What is certain after a request without an answer.
    fn unanswered(&self, error: &reqwest::Error) -> Refusal {
        let (base, reason) = (&self.base, root(error));
        // No connection, or no request: nothing can have left.
        if error.is_connect() || error.is_builder() {
            let words = format!(
                "the devnet at {base} cannot be reached: {reason}; is `sluicegate devnet` running there?"
            );
            return Refusal::Unavailable(Cause::new("UNREACHABLE", words));
        }
        let words = format!("the devnet at {base} did not answer: {reason}");
        Refusal::Unknown(Cause::new("NO_ANSWER", words))
    }
}

#[async_trait]
impl LedgerBackend for RemoteSimulator {
    fn kind(&self) -> &'static str {
        "simulator"
    }

    fn check(&self, request: &Request) -> Result<(), Unacceptable> {
        super::check(request)
    }

    fn deduplicates(&self) -> bool {
        true
    }

    async fn prepare(&self, request: &Request) -> Result<Prepared, PrepareError> {
        // The caller's labels are not for ledgers.
        let request = Request {
            metadata: Default::default(),
            ..request.clone()
        };
        let prepared = self.post("prepare", &request).await?;
        self.links.up().await;
        Ok(prepared)
    }

    async fn submit(&self, prepared: &Prepared) -> Result<(), SubmitError> {
        Ok(self.post("submit", prepared).await?)
    }

    /// Must be called within a tokio runtime.
    fn outcomes(&self) -> Outcomes {
        let url = self.url(&["outcomes"]);
        subscribe(self.http.clone(), url, Arc::clone(&self.links), &self.tasks)
    }

    async fn lookup(&self, tx_id: &LedgerTxId) -> Outcome {
        self.get(&["lookup", &tx_id.0])
            .await
            .unwrap_or_else(|refusal: Refusal| Outcome::Unavailable(refusal.into_cause()))
    }

    async fn query(&self, query: &Query) -> Result<Box<RawValue>, QueryError> {
        Ok(self.post("query", query).await?)
    }

    async fn probe(&self) -> Result<(), Cause> {
        let alive: Result<(), Refusal> = self.get(&["probe"]).await;
        alive.map_err(Refusal::into_cause)?;
        self.links.up().await;
        Ok(())
    }
}

/// The innermost cause: "Connection refused" says more than "error sending request".
pub(super) fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
