//! What has to hold of a request, whatever bytes it is made of.

#![allow(clippy::expect_used, reason = "a broken property panics")]

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use serde_json::Value;

use super::dto::TransactionView;
use super::error::{ApiError, Code};
use super::openapi::Document;
use super::params::{self, Pairs};
use super::transactions::Submission;
use super::{Api, Metrics};
use crate::auth::Authenticator;
use crate::config::HttpSettings;
use crate::domain::Transaction;
use crate::gateway::Gateway;
use crate::telemetry::Tracer;

/// The API without a socket.
pub(crate) struct Fuzzed(Api);

impl Fuzzed {
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        auth: Arc<Authenticator>,
        metrics: Metrics,
        settings: &HttpSettings,
    ) -> Self {
        let tasks = tokio_util::task::TaskTracker::new();
        Self(Api::new(
            gateway,
            auth,
            (metrics, Tracer::default()),
            settings,
            tasks,
            Document::default(),
        ))
    }

    /// A request as text: `GET` and its query, or anything else for a submission; headers, an empty line, the body.
    /// Answers the record that would be stored.
    pub(crate) async fn request(&self, text: &[u8]) -> Option<Transaction> {
        let end = text.windows(2).position(|pair| pair == b"\n\n");
        let (head, body) = end.map_or((text, &[][..]), |end| (&text[..end], &text[end + 2..]));
        let mut lines = head.split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        let headers: HeaderMap = lines.filter_map(header).collect();
        match first.strip_prefix(b"GET ") {
            Some(uri) => {
                self.read(uri, &headers).await;
                None
            }
            None => self.submit(&headers, body).await,
        }
    }

    async fn submit(&self, headers: &HeaderMap, body: &[u8]) -> Option<Transaction> {
        let asked = Submission::read(&self.0, headers, body.to_vec().into()).await;
        let checked = asked.and_then(|asked| {
            assert!(asked.wait.is_none_or(|wait| wait <= self.0.longest_wait));
            Ok(self.0.gateway.check(asked.request, asked.key)?)
        });
        let transaction = match checked {
            Ok(transaction) => transaction,
            Err(error) => {
                refused(error).await;
                return None;
            }
        };
        let view = serde_json::to_value(TransactionView::from(&transaction)).expect("JSON");
        assert_eq!(view["status"], "pending");
        assert_eq!(
            view["transient"],
            Value::Null,
            "private inputs are shown to nobody"
        );
        // What was understood, said again, means the same (I5).
        let again = serde_json::to_vec(&*transaction.request).expect("JSON");
        let again = Submission::read(&self.0, headers, again.into())
            .await
            .expect("what was accepted is accepted again");
        assert_eq!(again.request, *transaction.request);
        assert_eq!(again.request.fingerprint(), transaction.request.fingerprint());
        Some(transaction)
    }

    /// The parameters of a listing, and of a read that waits.
    async fn read(&self, uri: &[u8], headers: &HeaderMap) {
        let Ok(uri) = Uri::try_from(uri) else { return };
        let tag = HeaderValue::from_static("\"1\"");
        params::if_none_match(headers, &tag);
        let (mut parts, ()) = Request::builder()
            .uri(uri)
            .body(())
            .expect("a request")
            .into_parts();
        let pairs = match Pairs::from_request_parts(&mut parts, &()).await {
            Ok(Pairs(pairs)) => pairs,
            Err(error) => return refused(error).await,
        };
        match params::wait_only(pairs.clone(), self.0.longest_wait) {
            Ok(wait) => assert!(wait <= self.0.longest_wait),
            Err(error) => refused(error).await,
        }
        match params::listing(pairs, &crate::gateway::Caller::anonymous()) {
            Ok(listing) => {
                assert!((1..=500).contains(&listing.limit));
                let Some(id) = listing.cursor else { return };
                let cursor = params::write_cursor(id, listing.print);
                assert_eq!(params::read_cursor(&cursor), Some((id, listing.print)));
            }
            Err(error) => refused(error).await,
        }
    }
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let value = line[colon + 1..].trim_ascii();
    Some((
        HeaderName::from_bytes(&line[..colon]).ok()?,
        HeaderValue::from_bytes(value).ok()?,
    ))
}

/// A refusal is the client's fault, has a known code and says which field is wrong (I10).
async fn refused(error: ApiError) {
    let response = error.into_response();
    let status = response.status();
    assert!(status.is_client_error(), "{status}");
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let problem: Value = serde_json::from_slice(&body).expect("JSON");
    let code = problem["code"].as_str().expect("a code");
    let known = |known: &Code| {
        let (name, of, _) = known.parts();
        (name, of) == (code, status)
    };
    assert!(Code::ALL.iter().any(known), "{problem}");
    assert_eq!(problem["status"], status.as_u16());
    assert_ne!(problem["detail"], "", "{problem}");
    let faults = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let of_fields = [Code::InvalidFields, Code::InvalidParameter].map(|code| code.parts().0);
    assert!(!of_fields.contains(&code) || !faults.is_empty(), "{problem}");
    for fault in faults {
        let pointer = fault["pointer"].as_str().expect("a pointer");
        assert!(is_pointer(pointer), "{problem}");
        assert_ne!(fault["detail"], "", "{problem}");
    }
}

/// Whether it is a JSON Pointer (RFC 6901), or names a part of the request beside the body.
fn is_pointer(text: &str) -> bool {
    if text.starts_with("#header/") || text.starts_with("#query") {
        return true;
    }
    let mut after_tilde = text.split('~').skip(1);
    (text.is_empty() || text.starts_with('/')) && after_tilde.all(|rest| rest.starts_with(['0', '1']))
}
