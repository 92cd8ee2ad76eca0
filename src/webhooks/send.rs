//! One attempt: a POST that ends in time, whatever the receiver does.
//!
//! Only a 2xx status is success. What the receiver answers beside its status is not kept and not shown: a webhook
//! must not become a way to read what only the gateway can reach.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use tokio::time::Instant;

use super::delivery::{Attempt, Outcome, Verdict};
use super::sign;
use super::target::Guard;
use crate::domain::Timestamp;
use crate::telemetry::{TraceContext, root_cause};

/// So much of an answer is read, so that its connection can be used again.
const MOST_ANSWER: usize = 16 << 10;

/// Connections to one receiver that are kept although nothing is under way.
const IDLE_CONNECTIONS: usize = 2;
const IDLE: Duration = Duration::from_secs(30);

/// Sends.
pub(super) struct Sender {
    client: Client,
    guard: Guard,
    timeout: Duration,
}

/// What is sent.
pub(super) struct Message<'m> {
    /// The name of the delivery.
    pub(super) id: String,
    /// Where to.
    pub(super) url: &'m str,
    /// What signs.
    pub(super) secrets: Vec<&'m sign::Secret>,
    /// The payload.
    pub(super) body: Vec<u8>,
    /// Its place in a trace, if it has one.
    pub(super) trace: Option<TraceContext>,
}

impl Sender {
    /// # Errors
    /// If there is no way to make TLS connections.
    pub(super) fn new(guard: Guard, timeout: Duration) -> Result<Self, reqwest::Error> {
        let builder = || {
            Client::builder()
                .no_proxy()
                .redirect(Policy::none())
                .dns_resolver(guard.clone())
                .connect_timeout(timeout)
                .timeout(timeout)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_idle_timeout(IDLE)
                .user_agent(concat!("sluicegate/", env!("CARGO_PKG_VERSION")))
        };
        let client = builder().build().or_else(|error| {
            tracing::warn!(%error, "the machine has no certificate authorities; webhooks to https:// will fail");
            builder().tls_certs_only([]).build()
        })?;
        Ok(Self {
            client,
            guard,
            timeout,
        })
    }

    /// Makes one attempt that begins at `now`. Never takes much longer than the timeout.
    pub(super) async fn attempt(&self, message: Message<'_>, now: Timestamp) -> Outcome {
        let begun = Instant::now();
        let (status, error, verdict) = match self.guard.read(message.url) {
            Ok(url) => self.post(url, message, now).await,
            Err(forbidden) => (None, Some(forbidden.to_string()), Verdict::Again(Duration::ZERO)),
        };
        let attempt = Attempt {
            at: now,
            status: status.map(|status| status.as_u16()),
            error,
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        Outcome { attempt, verdict }
    }

    async fn post(
        &self,
        url: Url,
        message: Message<'_>,
        now: Timestamp,
    ) -> (Option<StatusCode>, Option<String>, Verdict) {
        let signature = sign::signature(message.secrets, &message.id, now, &message.body);
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", sign::seconds(now))
            .header("webhook-signature", signature)
            .body(message.body);
        let request = match message.trace {
            Some(trace) => request.header("traceparent", trace.to_string()),
            None => request,
        };
        let mut answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let words = match error.is_timeout() {
                    true => format!("no answer within {} ms", self.timeout.as_millis()),
                    false => root_cause(&error),
                };
                return (None, Some(words), Verdict::Again(Duration::ZERO));
            }
        };
        let status = answer.status();
        // The status has decided; the rest is read only to keep the connection.
        let mut read = 0;
        while let Ok(Some(chunk)) = answer.chunk().await {
            read += chunk.len();
            if read > MOST_ANSWER {
                break;
            }
        }
        let (error, verdict) = judge(status, answer.headers(), now);
        (Some(status), error, verdict)
    }
}

fn judge(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> (Option<String>, Verdict) {
    let again = |words: String| (Some(words), Verdict::Again(Duration::ZERO));
    match status {
        status if status.is_success() => (None, Verdict::Received),
        StatusCode::GONE => (Some("answered 410: gone for good".to_owned()), Verdict::Gone),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let asked = headers
                .get(RETRY_AFTER)
                .and_then(|value| retry_after(value.to_str().ok()?, now));
            let words = format!("answered {}", status.as_u16());
            (Some(words), Verdict::Again(asked.unwrap_or_default()))
        }
        status if status.is_redirection() => again(format!(
            "answered {}: redirects are not followed; give the URL that it leads to",
            status.as_u16()
        )),
        status => again(format!("answered {}", status.as_u16())),
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let millis = u64::try_from(date.as_millisecond()).ok()?;
    Some(Timestamp::from_millis(millis).since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_2xx_is_success_and_more_time_is_given_to_who_asks() {
        let now = Timestamp::parse_rfc3339("2026-01-31T12:00:00Z").expect("a moment");
        let judged = |status: u16, after: &str| {
            let headers = [(RETRY_AFTER, after.parse().expect("a header"))]
                .into_iter()
                .collect();
            judge(StatusCode::from_u16(status).expect("a status"), &headers, now)
        };
        for status in [200, 201, 202, 204, 299] {
            assert_eq!(judged(status, "7"), (None, Verdict::Received), "{status}");
        }
        for status in [301, 302, 303, 304, 307, 308, 400, 401, 404, 500, 502] {
            let (error, verdict) = judged(status, "7");
            assert_eq!(verdict, Verdict::Again(Duration::ZERO), "{status}");
            assert!(error.expect("a text").contains(&status.to_string()));
        }
        for (after, seconds) in [
            ("7", 7),
            ("", 0),
            ("soon", 0),
            ("-1", 0),
            ("Sat, 31 Jan 2026 12:01:00 GMT", 60),
            ("Sat, 31 Jan 2026 11:00:00 GMT", 0),
        ] {
            for status in [429, 503] {
                assert_eq!(
                    judged(status, after).1,
                    Verdict::Again(Duration::from_secs(seconds)),
                    "{after}"
                );
            }
        }
        assert_eq!(judged(410, "7").1, Verdict::Gone);
    }
}
