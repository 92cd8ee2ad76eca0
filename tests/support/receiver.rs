//! Somebody who wants to be told: a real HTTP server that remembers what it got and answers as the test says.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri};
use serde_json::Value;
use sluicegate::config::Settings;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{eventually, spawn};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) at: Instant,
}

impl Got {
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name}"));
        value.to_str().expect("ASCII")
    }

    pub(crate) fn id(&self) -> String {
        self.header("webhook-id").to_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Whether the signature is this secret's, by the implementation that receivers use.
    pub(crate) fn is_signed_by(&self, secret: &str) -> bool {
        let verifier = standardwebhooks::Webhook::new(secret).expect("a secret");
        verifier.verify(&self.body, &self.headers).is_ok()
    }
}

/// What is answered, after how long.
pub(crate) struct Reply(pub(crate) Duration, pub(crate) Response<Body>);

impl From<u16> for Reply {
    fn from(status: u16) -> Self {
        let answer = Response::builder().status(status).body(Body::empty());
        Self(Duration::ZERO, answer.expect("an answer"))
    }
}

/// Decides by how many requests came before.
type Script = Arc<dyn Fn(usize) -> Reply + Send + Sync>;

#[derive(Clone)]
struct Inner {
    got: Arc<Mutex<Vec<Got>>>,
    script: Arc<Mutex<Script>>,
}

/// A running receiver.
pub(crate) struct Receiver {
    pub(crate) url: String,
    inner: Inner,
    stop: CancellationToken,
}

impl Receiver {
    /// One that answers 200.
    pub(crate) async fn start() -> Self {
        Self::answering(|_| 200.into()).await
    }

    pub(crate) async fn answering(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        Self::on(listener, script)
    }

    pub(crate) fn on(listener: TcpListener, script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let inner = Inner {
            got: Arc::default(),
            script: Arc::new(Mutex::new(Arc::new(script))),
        };
        let router = Router::new().fallback(receive).with_state(inner.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                ended = axum::serve(listener, router) => ended.expect("serves"),
            }
        });
        Self { url, inner, stop }
    }

    /// From now on it answers this.
    pub(crate) fn answer(&self, script: impl Fn(usize) -> Reply + Send + Sync + 'static) {
        *self.inner.script.lock().expect("lock") = Arc::new(script);
    }

    /// What came, oldest first.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.inner.got.lock().expect("lock").clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.inner.got.lock().expect("lock").len()
    }

    /// Waits until so many have come.
    pub(crate) async fn wait_for(&self, count: usize) -> Vec<Got> {
        let what = format!("{count} webhooks at {}", self.url);
        eventually(&what, async || (self.count() >= count).then(|| self.got())).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn receive(State(inner): State<Inner>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let at = Instant::now();
    let before = {
        let mut got = inner.got.lock().expect("lock");
        let path = uri.path().to_owned();
        got.push(Got {
            path,
            headers,
            body,
            at,
        });
        got.len() - 1
    };
    let script = inner.script.lock().expect("lock").clone();
    let Reply(after, answer) = script(before);
    tokio::time::sleep(after).await;
    answer
}

/// Receivers of tests are at the loopback, and nobody waits for hours.
pub(crate) fn told(settings: &mut Settings) {
    let webhooks = &mut settings.webhooks;
    webhooks.allow_targets = vec!["127.0.0.1".parse().expect("an address")];
    webhooks.timeout = Duration::from_millis(500);
    webhooks.retry_min = Duration::from_millis(20);
    webhooks.retry_max = Duration::from_millis(200);
}
