//! A client of the HTTP API that can be used blindly: what is worth another try is tried again.
//!
//! Every POST carries an idempotency key, so a request whose answer got lost is repeated without a second
//! effect. Tries are bounded; between them it waits longer and longer, with jitter, and never shorter than
//! the gateway's `Retry-After`.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::GatewayArgs;
use super::answer::{Answer, ClientError, Record, Refusal};
use crate::telemetry::root_cause;

/// Longest time for which the gateway is asked to hold an answer.
const HOLD: Duration = Duration::from_secs(20);
/// How long an answer may take beyond the time it is held.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest pause that a `Retry-After` can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Talks to one gateway.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    tries: u32,
}

impl Client {
    /// A client of the gateway that the command line names.
    ///
    /// # Errors
    /// TLS cannot be set up, for want of root certificates for instance.
    pub(super) fn new(gateway: &GatewayArgs) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("sluicegate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            // A redirected POST would become a GET.
            .redirect(reqwest::redirect::Policy::none());
        if let Ok(url) = Url::parse(&gateway.address.url) {
            if url.scheme() == "http" {
                // Without TLS a machine without root certificates will do.
                http = http.tls_certs_only([]);
            }
            if is_loopback(&url) {
                http = http.no_proxy();
            }
        }
        if let Some(key) = &gateway.address.key {
            let mut authorization = HeaderValue::try_from(format!("Bearer {key}"))
                .context("the key has characters that no key has; check that it was copied whole")?;
            authorization.set_sensitive(true);
            http = http.default_headers(HeaderMap::from_iter([(AUTHORIZATION, authorization)]));
        }
        Ok(Self {
            http: http.build()?,
            base: gateway.address.url.clone(),
            tries: gateway.tries,
        })
    }

    /// Hands in a request; `key` makes repeats safe.
    pub(super) async fn submit(&self, body: String, key: &HeaderValue) -> Result<Answer, ClientError> {
        let request = self
            .request(Method::POST, "/v1/transactions")
            .header(CONTENT_TYPE, "application/json")
            .header("idempotency-key", key)
            .timeout(ANSWER)
            .body(body);
        self.answer(request).await
    }

    /// Hands in a request once, whatever comes of it.
    pub(super) async fn submit_once(
        &self,
        body: String,
        key: Option<&HeaderValue>,
        timeout: Duration,
    ) -> Result<Record, ClientError> {
        let mut request = self
            .request(Method::POST, "/v1/transactions")
            .header(CONTENT_TYPE, "application/json")
            .timeout(timeout)
            .body(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        match attempt_once(request).await {
            Ok(reply) if reply.status.is_success() => self.parse(&reply.body),
            Ok(reply) => Err(self.refusal(reply)),
            Err(error) => Err(self.unreachable(1, root_cause(&error))),
        }
    }

    /// Follows what happens, as server-sent events, behind the event `last` if there is one.
    pub(super) async fn events(
        &self,
        query: &[(&str, &str)],
        last: Option<&str>,
    ) -> Result<Response, ClientError> {
        let mut request = self.request(Method::GET, "/v1/events").query(query);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(1, root_cause(&error)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let reply = Reply {
            status: response.status(),
            headers: HeaderMap::new(),
            body: response.text().await.unwrap_or_default(),
        };
        Err(self.refusal(reply))
    }

    /// The record `id`; a pending one is held for up to `hold` first.
    pub(super) async fn get(&self, id: &str, hold: Duration) -> Result<Answer, ClientError> {
        let mut request = self
            .request(Method::GET, &format!("/v1/transactions/{id}"))
            .timeout(hold + ANSWER);
        let seconds = hold.as_millis().div_ceil(1000);
        if seconds > 0 {
            request = request.query(&[("wait", seconds.to_string())]);
        }
        self.answer(request).await
    }

    /// Follows the record `id` until it is at rest, or until `deadline`. `None` if that has passed already.
    pub(super) async fn follow(
        &self,
        id: &str,
        deadline: Option<Instant>,
    ) -> Result<Option<Answer>, ClientError> {
        let mut last = None;
        loop {
            let asked = Instant::now();
            let left = deadline.map_or(HOLD, |deadline| deadline.saturating_duration_since(asked));
            if left.is_zero() {
                return Ok(last);
            }
            let answer = self.get(id, left.min(HOLD)).await?;
            if answer.record.is_at_rest() {
                return Ok(Some(answer));
            }
            last = Some(answer);
            // A gateway may hold answers for less than it was asked to; that must not become a busy loop.
            if asked.elapsed() < Duration::from_secs(1) {
                tokio::time::sleep(Duration::from_millis(200).min(left)).await;
            }
        }
    }

    /// Any other GET, as JSON text.
    pub(super) async fn get_json(
        &self,
        path: &str,
        query: &[(String, String)],
    ) -> Result<String, ClientError> {
        self.send(self.request(Method::GET, path).query(query).timeout(ANSWER))
            .await
    }

    /// Reads an answer's JSON.
    pub(super) fn parse<T: DeserializeOwned>(&self, json: &str) -> Result<T, ClientError> {
        serde_json::from_str(json).map_err(|error| self.strange(error))
    }

    /// The answer was not one that a gateway gives, for this reason.
    pub(super) fn strange(&self, reason: impl ToString) -> ClientError {
        ClientError::Strange {
            url: self.base.clone(),
            reason: reason.to_string(),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Answer, ClientError> {
        let json = self.send(request).await?;
        Ok(Answer {
            record: self.parse(&json)?,
            json,
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<String, ClientError> {
        let mut tries = 1;
        loop {
            // Cannot be cloned only if the body is a stream, which none is.
            let Some(attempt) = request.try_clone() else {
                return Err(self.unreachable(tries, "the request cannot be repeated".to_owned()));
            };
            let (error, pause) = match attempt_once(attempt).await {
                Ok(Reply { status, body, .. }) if status.is_success() => return Ok(body),
                Ok(reply) => {
                    let pause = retry_after(&reply.headers);
                    let worthwhile = is_temporary(reply.status);
                    let error = self.refusal(reply);
                    if !worthwhile {
                        return Err(error);
                    }
                    (error, pause)
                }
                Err(error) if error.is_builder() => {
                    return Err(self.unreachable(tries, root_cause(&error)));
                }
                Err(error) => (self.unreachable(tries, root_cause(&error)), Duration::ZERO),
            };
            if tries >= self.tries {
                return Err(error);
            }
            tokio::time::sleep(pause + backoff(tries, rand::random())).await;
            tries += 1;
        }
    }

    fn unreachable(&self, tries: u32, reason: String) -> ClientError {
        ClientError::Unreachable {
            url: self.base.clone(),
            tries,
            reason,
        }
    }

    fn refusal(&self, reply: Reply) -> ClientError {
        let status = reply.status;
        match serde_json::from_str::<Refusal>(&reply.body) {
            Ok(refusal) => ClientError::Refused(Refusal {
                status: status.as_u16(),
                ..refusal
            }),
            Err(_) if status.is_client_error() || status.is_server_error() => ClientError::Refused(Refusal {
                status: status.as_u16(),
                title: status.canonical_reason().map(str::to_owned),
                ..Refusal::default()
            }),
            Err(_) => ClientError::Strange {
                url: self.base.clone(),
                reason: format!("status {status}"),
            },
        }
    }
}

/// A whole answer.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

async fn attempt_once(request: RequestBuilder) -> Result<Reply, reqwest::Error> {
    let mut response = request.send().await?;
    let headers = std::mem::take(response.headers_mut());
    Ok(Reply {
        status: response.status(),
        headers,
        body: response.text().await?,
    })
}

/// Whether the same request may well be answered differently soon.
fn is_temporary(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The seconds of a `Retry-After`, within reason. One that gives a date is left out of account.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds
        .map_or(Duration::ZERO, Duration::from_secs)
        .min(LONGEST_PAUSE)
}

/// The pause after try number `tries`: up to 0.2 s, doubled with every try, never above 5 s. `chance` is in
/// `[0, 1)`.
fn backoff(tries: u32, chance: f64) -> Duration {
    let ceiling = Duration::from_millis(200 << tries.saturating_sub(1).min(5)).min(Duration::from_secs(5));
    ceiling.mul_f64(0.1 + 0.9 * chance)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks the address of a gateway; what it returns does not end with a slash.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; write it as http://HOST:PORT"))?;
    let plain = url.query().is_none() && url.fragment().is_none();
    match matches!(url.scheme(), "http" | "https") && url.has_host() && plain {
        true => Ok(url.as_str().trim_end_matches('/').to_owned()),
        false => Err("write it as http://HOST:PORT or https://HOST".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::body::Body;
    use axum::response::{IntoResponse, Response};

    use super::super::AddressArgs;
    use super::*;

    #[test]
    fn pauses_grow_within_bounds_and_honour_the_gateway() {
        assert_eq!(backoff(1, 0.0), Duration::from_millis(20));
        assert!(backoff(3, 0.999) > Duration::from_millis(700));
        assert!((1..2000).all(|tries| backoff(tries, 0.999) <= Duration::from_secs(5)));
        let after = |value: &'static str| {
            retry_after(&HeaderMap::from_iter([(
                RETRY_AFTER,
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(after("7"), Duration::from_secs(7));
        assert_eq!(after("99999999999"), LONGEST_PAUSE);
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), Duration::ZERO);
    }

    #[test]
    fn addresses_are_checked_and_trimmed() {
        assert_eq!(base_url("http://gw:80/api/").as_deref(), Ok("http://gw/api"));
        for bad in [
            "gw:8080",
            "127.0.0.1:8080",
            "ftp://gw",
            "http://",
            "http://gw?x=1",
        ] {
            assert!(base_url(bad).is_err(), "{bad}");
        }
        for (url, loopback) in [
            ("http://[::1]:1", true),
            ("http://127.0.0.9", true),
            ("http://localhost", true),
            ("http://gw", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).expect("valid")), loopback, "{url}");
        }
    }

    /// Answers POSTs with 503, then a broken connection, then 202, and remembers the keys it saw.
    async fn moody(keys: Arc<Mutex<Vec<HeaderValue>>>, headers: HeaderMap) -> Response {
        let tries = {
            let mut keys = keys.lock().expect("not poisoned");
            keys.extend(headers.get("idempotency-key").cloned());
            keys.len()
        };
        match tries {
            1 => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "0")]).into_response(),
            2 => {
                let broken = futures_util::stream::iter([Err::<&str, _>("the connection breaks")]);
                Response::new(Body::from_stream(broken))
            }
            _ => (
                StatusCode::ACCEPTED,
                r#"{"id":"7","status":"pending","stage":"queued"}"#,
            )
                .into_response(),
        }
    }

    async fn submit_to_moody(tries: u32) -> (Result<Answer, ClientError>, Vec<HeaderValue>) {
        let keys = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&keys);
        let routes = axum::Router::new().route(
            "/v1/transactions",
            axum::routing::post(move |headers| moody(Arc::clone(&seen), headers)),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let client = Client::new(&GatewayArgs {
            address: AddressArgs { url, key: None },
            tries,
        })
        .expect("a client");
        let key = HeaderValue::from_static("k");
        let answer = tokio::select! {
            _ = axum::serve(listener, routes) => panic!("the server ended"),
            answer = client.submit("{}".to_owned(), &key) => answer,
        };
        let keys = keys.lock().expect("not poisoned").clone();
        (answer, keys)
    }

    #[tokio::test]
    async fn a_request_is_repeated_with_the_same_key_until_it_is_answered() {
        let (answer, keys) = submit_to_moody(3).await;
        assert_eq!(answer.expect("accepted").record.id, "7");
        assert_eq!(keys, ["k", "k", "k"]);
    }

    #[tokio::test]
    async fn tries_are_bounded() {
        let (answer, keys) = submit_to_moody(1).await;
        assert_eq!(
            answer.expect_err("busy").to_string(),
            "refused (503): Service Unavailable"
        );
        assert_eq!(keys.len(), 1);
        let (answer, keys) = submit_to_moody(2).await;
        assert!(matches!(answer, Err(ClientError::Unreachable { tries: 2, .. })));
        assert_eq!(keys.len(), 2);
    }
}
