//! Tokens of an identity provider: a real one that signs, publishes its keys, changes them and goes away.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use sluicegate::config::{JwksSource, JwtSettings};
use tokio::net::TcpListener;

use crate::access::{asked, make_key, operator};
use crate::support::events::Events;
use crate::support::{TestApp, add, eventually, spawn};

/// A key that signs tokens.
struct Signer {
    key: EncodingKey,
    kid: String,
    jwk: Value,
}

impl Signer {
    fn new(kid: &str) -> Self {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
        let key = EncodingKey::from_ec_der(&pair.serialize_der());
        let jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("JWK");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = kid.into();
        Self {
            key,
            kid: kid.to_owned(),
            jwk,
        }
    }

    fn sign(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        let mut claims = json!({"iss": "https://login.example", "aud": ["gate"], "sub": "alice", "exp": now() + 600,
                                "tenant": "acme", "scope": "openid read submit"});
        change(&mut claims);
        encode(&header, &claims, &self.key).expect("signs")
    }
}

#[expect(clippy::disallowed_methods, reason = "tokens are made for the machine's time")]
fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

fn set(signers: &[&Signer]) -> String {
    let keys: Vec<_> = signers.iter().map(|signer| &signer.jwk).collect();
    json!({"keys": keys}).to_string()
}

fn settings(jwks: JwksSource) -> JwtSettings {
    JwtSettings {
        jwks,
        issuer: "https://login.example".to_owned(),
        audience: "gate".to_owned(),
        tenant_claim: "tenant".to_owned(),
        scope_claim: "scope".to_owned(),
    }
}

async fn trusting(jwks: JwksSource) -> TestApp {
    TestApp::with(|gateway| {
        gateway.auth.jwt = Some(settings(jwks));
        gateway.auth.max_failed_tries_per_minute = std::num::NonZeroU32::new(1_000).expect("not zero");
    })
    .await
}

/// The keys of a provider, at an address.
#[derive(Clone, Default)]
struct Provider {
    set: Arc<Mutex<String>>,
    down: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

impl Provider {
    async fn start(self) -> JwksSource {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}/keys", listener.local_addr().expect("address"));
        let answer = async move || {
            self.asked.fetch_add(1, Ordering::Relaxed);
            match self.down.load(Ordering::Relaxed) {
                true => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
                false => (StatusCode::OK, self.set.lock().expect("lock").clone()),
            }
        };
        let router = axum::Router::new().route("/keys", get(answer));
        spawn(async move { axum::serve(listener, router).await });
        JwksSource::Url(url.parse().expect("a URL"))
    }

    fn publish(&self, signers: &[&Signer]) {
        *self.set.lock().expect("lock") = set(signers);
    }
}

async fn refused(app: &TestApp, token: &str, expected: &str) {
    let problem = asked(app, token, "GET", "/v1/whoami", None)
        .await
        .problem(401, "SG-0018");
    let detail = problem["detail"].as_str().expect("detail");
    assert!(detail.contains(expected), "{detail}");
}

#[tokio::test]
async fn a_token_is_worth_what_its_claims_say() {
    let signer = Signer::new("k1");
    let folder = tempfile::tempdir().expect("folder");
    let path: PathBuf = folder.path().join("jwks.json");
    std::fs::write(&path, set(&[&signer])).expect("writes");
    let app = trusting(JwksSource::File(path)).await;
    // With a provider nobody is anonymous, though there is no key.
    app.get("/v1/whoami").await.problem(401, "SG-0018");
    let token = signer.sign(|_| {});
    for _ in 0..2 {
        let who = asked(&app, &token, "GET", "/v1/whoami", None)
            .await
            .expect(200)
            .json();
        assert_eq!(
            who,
            json!({"subject": "jwt:alice", "tenant": "acme", "scopes": ["submit", "read"]})
        );
    }
    let record = asked(&app, &token, "POST", "/v1/transactions", Some(&add("visits", 1)))
        .await
        .expect(202)
        .json();
    assert_eq!(
        (&record["tenant"], &record["submitted_by"]["by"]),
        (&json!("acme"), &json!("jwt:alice"))
    );
    asked(&app, &token, "GET", "/v1/keys", None)
        .await
        .problem(403, "SG-0019");
    // An operator of all tenants makes keys; nothing else would without a key.
    let operator = signer.sign(|claims| {
        claims["tenant"] = "*".into();
        claims["scope"] = "operate".into();
    });
    let (_, key) = make_key(&app, Some(&operator), &json!({"name": "erp", "scopes": ["read"]})).await;
    asked(&app, &key, "GET", "/v1/transactions", None)
        .await
        .expect(200);

    refused(
        &app,
        &signer.sign(|claims| claims["iss"] = "https://evil.example".into()),
        "issuer",
    )
    .await;
    refused(
        &app,
        &signer.sign(|claims| claims["aud"] = "other".into()),
        "audience",
    )
    .await;
    refused(
        &app,
        &signer.sign(|claims| claims["exp"] = (now() - 60).into()),
        "has expired",
    )
    .await;
    refused(
        &app,
        &signer.sign(|claims| claims["nbf"] = (now() + 60).into()),
        "not valid before",
    )
    .await;
    refused(&app, &Signer::new("k1").sign(|_| {}), "signature is wrong").await;
    refused(&app, &Signer::new("k2").sign(|_| {}), "not among those").await;
    let parts: Vec<_> = token.split('.').collect();
    for header in [json!({"alg": "none"}), json!({"alg": "HS256", "kid": "k1"})] {
        let header = URL_SAFE_NO_PAD.encode(header.to_string());
        refused(&app, &format!("{header}.{}.{}", parts[1], parts[2]), "algorithm").await;
    }
    app.leave().await;
}

#[tokio::test]
async fn i9_with_its_token_a_stream_ends() {
    let signer = Signer::new("k1");
    let folder = tempfile::tempdir().expect("folder");
    let path: PathBuf = folder.path().join("jwks.json");
    std::fs::write(&path, set(&[&signer])).expect("writes");
    let app = TestApp::with(|gateway| {
        gateway.auth.jwt = Some(settings(JwksSource::File(path)));
        gateway.http.stream_heartbeat = Duration::from_millis(100);
    })
    .await;
    let token = signer.sign(|claims| claims["exp"] = (now() + 2).into());
    let mut events = Events::open(app.request("GET", "/v1/events").bearer_auth(&token)).await;
    events.expect("ready").await;
    assert_eq!(events.next().await, None);
    assert!(events.heartbeats > 0, "it was alive until then");
    refused(&app, &token, "has expired").await;
    app.leave().await;
}

#[tokio::test]
async fn a_file_of_keys_is_read_again_and_a_withdrawn_key_ends() {
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let folder = tempfile::tempdir().expect("folder");
    let path: PathBuf = folder.path().join("jwks.json");
    std::fs::write(&path, set(&[&old])).expect("writes");
    let app = trusting(JwksSource::File(path.clone())).await;
    let tokens = [&old, &new].map(|signer| signer.sign(|_| {}));
    asked(&app, &tokens[0], "GET", "/v1/whoami", None)
        .await
        .expect(200);
    refused(&app, &tokens[1], "not among those").await;
    // What cannot be used changes nothing, for longer than files are looked at.
    std::fs::write(&path, "{\"keys\": [").expect("writes");
    tokio::time::sleep(Duration::from_secs(3)).await;
    asked(&app, &tokens[0], "GET", "/v1/whoami", None)
        .await
        .expect(200);
    std::fs::write(&path, set(&[&new])).expect("writes");
    eventually("the new keys are in use", async || {
        (asked(&app, &tokens[1], "GET", "/v1/whoami", None).await.status == 200).then_some(())
    })
    .await;
    refused(&app, &tokens[0], "not among those").await;
    app.leave().await;
}

#[tokio::test]
async fn wrong_tries_from_an_address_do_not_shut_out_who_signs_in_anew() {
    let (signer, stranger) = (Signer::new("k1"), Signer::new("k2"));
    let provider = Provider::default();
    provider.publish(&[&signer]);
    let jwks = provider.clone().start().await;
    let app = TestApp::with(|gateway| {
        gateway.auth.jwt = Some(settings(jwks));
        gateway.auth.max_failed_tries_per_minute = std::num::NonZeroU32::new(1).expect("not zero");
    })
    .await;
    let ask = async |token: &str| asked(&app, token, "GET", "/v1/whoami", None).await;
    ask("a.b.c").await.problem(401, "SG-0018");
    let asked_before = provider.asked.load(Ordering::Relaxed);
    for wrong in ["a.b.c", &stranger.sign(|_| {}), &Signer::new("k1").sign(|_| {})] {
        ask(wrong).await.problem(429, "SG-0022");
    }
    assert_eq!(
        provider.asked.load(Ordering::Relaxed),
        asked_before,
        "nobody is asked for strangers"
    );
    ask(&signer.sign(|_| {})).await.expect(200);
    app.leave().await;
}

#[tokio::test]
async fn a_provider_may_be_down_and_is_not_asked_too_often() {
    let (old, new) = (Signer::new("k1"), Signer::new("k2"));
    let provider = Provider::default();
    provider.publish(&[&old]);
    let app = trusting(provider.clone().start().await).await;
    assert_eq!(provider.asked.load(Ordering::Relaxed), 1);
    let token = old.sign(|_| {});
    asked(&app, &token, "GET", "/v1/whoami", None).await.expect(200);

    provider.down.store(true, Ordering::Relaxed);
    asked(
        &app,
        &old.sign(|claims| claims["sub"] = "bob".into()),
        "GET",
        "/v1/whoami",
        None,
    )
    .await
    .expect(200);
    for _ in 0..20 {
        refused(&app, &new.sign(|_| {}), "not among those").await;
    }
    let asked_for_unknown = provider.asked.load(Ordering::Relaxed);
    assert!(asked_for_unknown <= 2, "asked {asked_for_unknown} times");

    // It comes back with another key, which is asked for as soon as that is allowed again.
    provider.publish(&[&old, &new]);
    provider.down.store(false, Ordering::Relaxed);
    let fresh = new.sign(|_| {});
    eventually("the new key is known", async || {
        (asked(&app, &fresh, "GET", "/v1/whoami", None).await.status == 200).then_some(())
    })
    .await;
    assert!(provider.asked.load(Ordering::Relaxed) <= 4);
    app.leave().await;
}

#[tokio::test]
async fn a_provider_that_is_down_at_the_start_stops_nobody_else() {
    let signer = Signer::new("k1");
    let provider = Provider::default();
    provider.down.store(true, Ordering::Relaxed);
    let jwks = provider.clone().start().await;
    let app = TestApp::start().await;
    let key = operator(&app).await;
    let app = app
        .reopen(|gateway| gateway.auth.jwt = Some(settings(jwks)))
        .await;
    asked(&app, &key, "GET", "/v1/transactions", None)
        .await
        .expect(200);
    refused(&app, &signer.sign(|_| {}), "not among those").await;
    provider.publish(&[&signer]);
    provider.down.store(false, Ordering::Relaxed);
    eventually("the provider is asked again", async || {
        (asked(&app, &signer.sign(|_| {}), "GET", "/v1/whoami", None)
            .await
            .status
            == 200)
            .then_some(())
    })
    .await;
    app.leave().await;
}
