//! Who may do what: keys, scopes, failed tries and the audit log, over HTTP.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sluicegate::app;
use sluicegate::config::{Settings, StoreSettings};

use crate::support::{Answer, TestApp, add, eventually};

/// Asks as the holder of this key.
pub(crate) async fn asked(
    app: &TestApp,
    key: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let request = app.request(method, path).bearer_auth(key);
    app.send(match body {
        Some(body) => request.json(body),
        None => request,
    })
    .await
}

/// Makes a key as `by`, or as nobody while there is none. Answers its identifier and the key.
pub(crate) async fn make_key(app: &TestApp, by: Option<&str>, body: &Value) -> (String, String) {
    let request = app.request("POST", "/v1/keys").json(body);
    let request = match by {
        Some(key) => request.bearer_auth(key),
        None => request,
    };
    let made = app.send(request).await.expect(201);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.json();
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("id"), text("key"))
}

/// The key of somebody who may do everything.
pub(crate) async fn operator(app: &TestApp) -> String {
    let all = json!({"name": "operator", "scopes": ["submit", "read", "operate"]});
    make_key(app, None, &all).await.1
}

/// Without keys this machine is the only guard, and a browser on it is everybody's.
#[tokio::test]
async fn without_keys_pages_from_elsewhere_are_not_the_operator() {
    let app =
        TestApp::with(|settings| settings.http.cors_origins = vec!["https://ui.example".to_owned()]).await;
    let list = || app.request("GET", "/v1/transactions");
    let port = app.address.port();
    for (name, value, let_in) in [
        ("host", format!("localhost:{port}"), true),
        ("host", format!("[::1]:{port}"), true),
        ("host", "127.0.0.1".to_owned(), true),
        ("host", format!("evil.example:{port}"), false),
        ("host", "localhost.evil.example".to_owned(), false),
        ("origin", format!("http://{}", app.address), true),
        ("origin", "https://ui.example".to_owned(), true),
        ("origin", "https://evil.example".to_owned(), false),
        ("origin", "null".to_owned(), false),
        // A browser that asks to read is kept from the answer anyway.
        ("sec-fetch-site", "cross-site".to_owned(), true),
    ] {
        let answer = app.send(list().header(name, &value)).await;
        match let_in {
            true => assert_eq!(answer.status, 200, "{name}: {value}: {}", answer.text),
            false => drop(answer.problem(403, "SG-0019")),
        }
    }
    let act = app.request("POST", "/v1/webhooks/callback/rotate-secret");
    app.send(act.header("sec-fetch-site", "cross-site"))
        .await
        .problem(403, "SG-0019");
    app.finish().await;
}

#[tokio::test]
async fn from_the_first_key_on_nobody_gets_in_without_one() {
    let app = TestApp::start().await;
    let who = app.get("/v1/whoami").await.expect(200).json();
    assert_eq!(
        who,
        json!({"subject": "anonymous", "tenant": null, "scopes": ["submit", "read", "operate"]})
    );
    app.get("/metrics").await.expect(200);
    let operator = operator(&app).await;
    let body = json!({"name": "erp", "tenant": "acme", "scopes": ["read", "submit"]});
    let (id, key) = make_key(&app, Some(&operator), &body).await;

    for path in [
        "/v1/whoami",
        "/v1/transactions",
        "/v1/ledgers",
        "/v1/keys",
        "/v1/audit",
        "/metrics",
    ] {
        let refusal = app.get(path).await;
        refusal.problem(401, "SG-0018");
        assert!(
            refusal
                .header("www-authenticate")
                .expect("a challenge")
                .starts_with("Bearer")
        );
    }
    app.post(&add("visits", 1)).await.problem(401, "SG-0018");
    for path in ["/livez", "/readyz"] {
        app.get(path).await.expect(200);
    }
    app.get("/nowhere").await.problem(404, "SG-0005");

    let me = json!({"subject": format!("key:{id}"), "tenant": "acme", "scopes": ["submit", "read"]});
    assert_eq!(
        asked(&app, &key, "GET", "/v1/whoami", None)
            .await
            .expect(200)
            .json(),
        me
    );
    let by_header = app.request("GET", "/v1/whoami").header("x-api-key", &key);
    assert_eq!(app.send(by_header).await.expect(200).json(), me);
    let by_scheme = app
        .request("GET", "/v1/whoami")
        .header("authorization", format!("bEARER   {key}"));
    assert_eq!(app.send(by_scheme).await.expect(200).json(), me);
    // It stays so over a restart.
    let app = app.reopen(|_| {}).await;
    app.get("/v1/whoami").await.problem(401, "SG-0018");
    assert_eq!(
        asked(&app, &key, "GET", "/v1/whoami", None)
            .await
            .expect(200)
            .json(),
        me
    );
    app.leave().await;
}

#[tokio::test]
async fn i10_credentials_that_are_none_are_told_apart() {
    let app = TestApp::with(|settings| {
        settings.auth.max_failed_tries_per_minute = NonZeroU32::new(1_000).expect("not zero");
    })
    .await;
    let key = operator(&app).await;
    let other = format!("{}{}", &key[..key.len() - 4], "AAAA");
    let ask = |change: &dyn Fn(RequestBuilder) -> RequestBuilder| {
        app.send(change(app.request("GET", "/v1/whoami")))
    };
    let authorization =
        |value: String| ask(&move |request: RequestBuilder| request.header("authorization", &value));
    for (value, expected) in [
        (format!("Basic {key}"), "must be `Bearer `"),
        ("Bearer".to_owned(), "must be `Bearer `"),
        ("Bearer ".to_owned(), "must be `Bearer `"),
        (key.clone(), "must be `Bearer `"),
        (format!("Bearer {other}"), "is not known"),
        (format!("Bearer {}", key.to_uppercase()), "API keys only"),
        (format!("Bearer {}", &key[..20]), "is not known"),
        (format!("Bearer {key}x"), "is not known"),
        ("Bearer sg_".to_owned(), "is not known"),
        ("Bearer a.b.c".to_owned(), "API keys only"),
        (format!("Bearer {}", "x".repeat(20_000)), "API keys only"),
    ] {
        let shown = format!("{value:.60}");
        let problem = authorization(value).await.problem(401, "SG-0018");
        let detail = problem["detail"].as_str().expect("detail");
        assert!(detail.contains(expected), "{shown}: {detail}");
        assert!(!detail.contains(&key[12..]), "no secret comes back");
    }
    let twice = ask(&|request: RequestBuilder| request.bearer_auth(&key).header("x-api-key", &key)).await;
    assert!(
        twice.problem(401, "SG-0018")["detail"]
            .as_str()
            .expect("detail")
            .contains("more than one")
    );
    let bytes = reqwest::header::HeaderValue::from_bytes(b"Bearer \xff").expect("a header");
    let odd = ask(&|request: RequestBuilder| request.header("authorization", bytes.clone())).await;
    odd.problem(401, "SG-0018");
    app.leave().await;
}

/// Every route that asks who calls: which scopes open it, any one of them, and whether credentials of one tenant will do.
const ROUTES: [(&str, &str, &[&str], bool); 32] = [
    ("POST", "/v1/transactions", &["submit"], true),
    ("POST", "/v1/transactions/batch", &["submit"], true),
    ("GET", "/v1/transactions", &["read"], true),
    ("GET", "/v1/transactions/{id}", &["read"], true),
    ("GET", "/v1/transactions/{id}/attempts", &["read"], true),
    ("GET", "/v1/transactions/{id}/events", &["read"], true),
    ("GET", "/v1/transactions/{id}/deliveries", &["read"], true),
    (
        "POST",
        "/v1/transactions/{id}/cancel",
        &["submit", "operate"],
        true,
    ),
    (
        "POST",
        "/v1/transactions/{id}/retry",
        &["submit", "operate"],
        true,
    ),
    ("POST", "/v1/transactions/{id}/settle", &["operate"], true),
    ("GET", "/v1/events", &["read"], true),
    ("POST", "/v1/query", &["read"], true),
    ("GET", "/v1/ledgers", &["read"], true),
    ("GET", "/v1/ledgers/{name}", &["read"], true),
    ("PATCH", "/v1/ledgers/{name}", &["operate"], false),
    ("DELETE", "/v1/ledgers/{name}/overrides", &["operate"], false),
    ("GET", "/v1/settings", &["read", "operate"], false),
    ("PATCH", "/v1/settings", &["operate"], false),
    ("POST", "/v1/webhooks", &["submit", "operate"], true),
    ("GET", "/v1/webhooks", &["read"], true),
    ("GET", "/v1/webhooks/{id}", &["read"], true),
    ("PATCH", "/v1/webhooks/{id}", &["submit", "operate"], true),
    ("DELETE", "/v1/webhooks/{id}", &["submit", "operate"], true),
    (
        "POST",
        "/v1/webhooks/{id}/rotate-secret",
        &["submit", "operate"],
        true,
    ),
    ("GET", "/v1/deliveries", &["read"], true),
    ("GET", "/v1/deliveries/{id}", &["read"], true),
    (
        "POST",
        "/v1/deliveries/{id}/redeliver",
        &["submit", "operate"],
        true,
    ),
    ("POST", "/v1/keys", &["operate"], false),
    ("GET", "/v1/keys", &["operate"], false),
    ("DELETE", "/v1/keys/{id}", &["operate"], false),
    ("GET", "/v1/audit", &["operate"], false),
    ("GET", "/metrics", &["read", "operate"], false),
];

/// The routes of the API's document that are for everybody, whatever the credentials.
const FOR_EVERYBODY: [&str; 4] = ["/livez", "/readyz", "/openapi.json", "/v1/whoami"];

#[tokio::test]
async fn no_route_of_the_document_is_missing_in_the_table() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").await.expect(200).json();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        if FOR_EVERYBODY.contains(&path.as_str()) {
            continue;
        }
        for method in operations.as_object().expect("operations").keys() {
            let known = |(known, at, ..): &(&str, &str, &[&str], bool)| {
                known.eq_ignore_ascii_case(method) && at == path
            };
            assert!(
                ROUTES.iter().any(known),
                "{method} {path} is not in the table of scopes"
            );
        }
    }
    app.leave().await;
}

#[tokio::test]
async fn a_scope_opens_its_routes_and_no_others() {
    let app = TestApp::start().await;
    let operator = operator(&app).await;
    for scope in ["submit", "read", "operate"] {
        for tenant in [None, Some("acme")] {
            let body = json!({"name": "one", "scopes": [scope], "tenant": tenant});
            let (_, key) = make_key(&app, Some(&operator), &body).await;
            for (method, path, scopes, tenants_may) in ROUTES {
                let path = match path.contains("/keys/") {
                    true => path.replace("{id}", "aaaaaaaa"),
                    false => path.replace("{id}", "01a1ff2d-47d0-7269-b9af-479c28b17c4b"),
                };
                let path = &path.replace("{name}", "main");
                // Not to its end: a stream of events has none.
                let sent = app
                    .request(method, path)
                    .bearer_auth(&key)
                    .send()
                    .await
                    .expect("an answer");
                let allowed = scopes.contains(&scope) && (tenants_may || tenant.is_none());
                if allowed {
                    let status = sent.status().as_u16();
                    assert!(
                        ![401, 403].contains(&status),
                        "{scope} {tenant:?} {method} {path}: {status}"
                    );
                    continue;
                }
                let answer = Answer::read(sent).await;
                let problem = answer.problem(403, "SG-0019");
                let detail = problem["detail"].as_str().expect("detail");
                let named = scopes.iter().all(|scope| detail.contains(scope));
                assert!(
                    named || detail.contains("all tenants"),
                    "{method} {path}: {detail}"
                );
            }
        }
    }
    assert!(
        app.send(app.request("GET", "/v1/transactions").bearer_auth(&operator))
            .await
            .expect(200)
            .json()["items"]
            .as_array()
            .expect("items")
            .is_empty()
    );
    app.leave().await;
}

#[tokio::test]
async fn a_key_is_listed_without_its_secret_and_revoked_at_once() {
    let app = TestApp::start().await;
    let operator = operator(&app).await;
    let (id, key) = make_key(
        &app,
        Some(&operator),
        &json!({"name": "erp", "scopes": ["read"], "expires_in_days": 1}),
    )
    .await;
    asked(&app, &key, "GET", "/v1/transactions", None)
        .await
        .expect(200);
    let listed = asked(&app, &operator, "GET", "/v1/keys", None).await.expect(200);
    let secret = &key[12..];
    assert!(!listed.text.contains(secret), "{}", listed.text);
    assert!(!listed.text.contains("hash"), "{}", listed.text);
    let listed = listed.json();
    let erp = listed["items"]
        .as_array()
        .expect("items")
        .iter()
        .find(|item| item["id"] == id.as_str());
    let erp = erp.expect("is listed");
    assert_eq!(
        (&erp["name"], &erp["tenant"], &erp["revoked_at"]),
        (&json!("erp"), &Value::Null, &Value::Null)
    );
    assert!(erp["expires_at"].is_string());

    let path = format!("/v1/keys/{id}");
    let revoked = asked(&app, &operator, "DELETE", &path, None)
        .await
        .expect(200)
        .json();
    assert!(revoked["revoked_at"].is_string());
    let refusal = asked(&app, &key, "GET", "/v1/transactions", None).await;
    let detail = refusal.problem(401, "SG-0018")["detail"]
        .as_str()
        .expect("detail")
        .to_owned();
    assert!(detail.contains("was revoked") && detail.contains(&id), "{detail}");
    // Who knows no more than the identifier is told nothing.
    let guess = format!("sg_{id}_{}", "A".repeat(43));
    let told = asked(&app, &guess, "GET", "/v1/transactions", None)
        .await
        .problem(401, "SG-0018");
    assert!(told["detail"].as_str().expect("detail").contains("is not known"));
    let again = asked(&app, &operator, "DELETE", &path, None)
        .await
        .expect(200)
        .json();
    assert_eq!(again, revoked);
    for unknown in ["aaaaaaaa", "x", "%00", "..%2f"] {
        let path = format!("/v1/keys/{unknown}");
        asked(&app, &operator, "DELETE", &path, None)
            .await
            .problem(404, "SG-0025");
    }
    // Without any key left, it is not open again.
    let own = &operator[3..11];
    asked(&app, &operator, "DELETE", &format!("/v1/keys/{own}"), None)
        .await
        .expect(200);
    let app = app.reopen(|_| {}).await;
    app.get("/v1/whoami").await.problem(401, "SG-0018");
    app.leave().await;
}

#[tokio::test]
async fn i10_a_bad_key_order_names_every_field() {
    let app = TestApp::start().await;
    let operator = operator(&app).await;
    let faults = async |body: Value| -> Vec<String> {
        let problem = asked(&app, &operator, "POST", "/v1/keys", Some(&body))
            .await
            .problem(422, "SG-0002");
        let errors = problem["errors"].as_array().expect("errors").clone();
        errors
            .iter()
            .map(|error| error["pointer"].as_str().expect("pointer").to_owned())
            .collect()
    };
    assert_eq!(faults(json!({})).await, ["/name", "/scopes"]);
    let body = json!({"tenant": "A B", "scopes": ["read", "root"], "expires_in_days": 0});
    assert_eq!(
        faults(body).await,
        ["/name", "/tenant", "/scopes/1", "/expires_in_days"]
    );
    assert_eq!(faults(json!({"name": "", "scopes": ["read"]})).await, ["/name"]);
    assert_eq!(
        faults(json!({"name": "a\nb", "scopes": ["read"]})).await,
        ["/name"]
    );
    assert_eq!(
        faults(json!({"name": "x".repeat(101), "scopes": ["read"]})).await,
        ["/name"]
    );
    assert_eq!(faults(json!({"name": "x", "scopes": []})).await, ["/scopes"]);
    assert_eq!(
        faults(json!({"name": "x", "scopes": ["read"], "secret": "s"})).await,
        ["/secret"]
    );
    let listed = asked(&app, &operator, "GET", "/v1/keys", None)
        .await
        .expect(200)
        .json();
    assert_eq!(
        listed["items"].as_array().map(Vec::len),
        Some(1),
        "nothing was stored"
    );
    app.leave().await;
}

#[tokio::test]
async fn failed_tries_are_limited_and_who_is_known_gets_in() {
    let app = TestApp::with(|settings| {
        settings.auth.max_failed_tries_per_minute = NonZeroU32::new(5).expect("not zero");
    })
    .await;
    let key = operator(&app).await;
    let guess = format!("sg_aaaaaaaa_{}", "A".repeat(43));
    for _ in 0..5 {
        asked(&app, &guess, "GET", "/v1/whoami", None)
            .await
            .problem(401, "SG-0018");
    }
    let refusal = asked(&app, &guess, "GET", "/v1/whoami", None).await;
    refusal.problem(429, "SG-0022");
    let after: u64 = refusal
        .header("retry-after")
        .expect("says when")
        .parse()
        .expect("seconds");
    assert!((1..=12).contains(&after), "{after}");
    asked(&app, "a.b.c", "GET", "/v1/whoami", None)
        .await
        .problem(429, "SG-0022");
    asked(&app, &key, "GET", "/v1/whoami", None).await.expect(200);
    // To say nothing is no try.
    app.get("/v1/whoami").await.problem(401, "SG-0018");
    app.leave().await;
}

#[tokio::test]
async fn what_operators_do_is_written_down_before_it_is_answered() {
    let app = TestApp::start().await;
    let operator = operator(&app).await;
    let (id, key) = make_key(
        &app,
        Some(&operator),
        &json!({"name": "erp", "tenant": "acme", "scopes": ["submit"]}),
    )
    .await;
    asked(&app, &operator, "DELETE", &format!("/v1/keys/{id}"), None)
        .await
        .expect(200);
    asked(&app, &key, "POST", "/v1/transactions", Some(&add("visits", 1)))
        .await
        .problem(401, "SG-0018");
    let request = json!({"ledger": "main", "contract": "basic", "function": "TransferAsset", "args": ["none", "Tomoko"]});
    let failed = app
        .request("POST", "/v1/transactions")
        .bearer_auth(&operator)
        .header("prefer", "wait=30");
    let failed = app.send(failed.json(&request)).await.expect(200);
    assert_eq!(failed.json()["status"], "failed");
    let retry = format!("/v1/transactions/{}/retry", failed.id());
    let retried = asked(&app, &operator, "POST", &retry, None)
        .await
        .expect(202)
        .id();
    let cancel = format!("/v1/transactions/{}/cancel", failed.id());
    asked(&app, &operator, "POST", &cancel, None)
        .await
        .problem(409, "SG-0023");

    let entries = async |query: &str| {
        let page = asked(&app, &operator, "GET", &format!("/v1/audit{query}"), None)
            .await
            .expect(200)
            .json();
        (
            page["items"].as_array().expect("items").clone(),
            page["next_cursor"].clone(),
        )
    };
    let (all, next) = entries("").await;
    assert_eq!(next, Value::Null);
    let own = format!("key:{}", &operator[3..11]);
    let shown: Vec<_> = all
        .iter()
        .map(|entry| {
            assert!(
                entry["at"].is_string() && entry["from"] == "127.0.0.1" && entry["tenant"].is_null(),
                "{entry}"
            );
            let text = |field: &str| entry[field].as_str().expect("a text").to_owned();
            (text("who"), text("action"), text("target"))
        })
        .collect();
    let did = |who: &str, action: &str, target: &str| (who.to_owned(), action.to_owned(), target.to_owned());
    assert_eq!(
        shown,
        [
            did(&own, "POST /v1/transactions/{id}/retry", &retry),
            did(&own, "DELETE /v1/keys/{id}", &id),
            did(&own, "POST /v1/keys", &id),
            did("anonymous", "POST /v1/keys", &operator[3..11]),
        ]
    );
    assert_eq!(
        all[2]["detail"],
        json!({"name": "erp", "tenant": "acme", "scopes": ["submit"]})
    );

    let (first, cursor) = entries("?limit=3").await;
    assert_eq!(first, all[..3]);
    let (rest, end) = entries(&format!("?limit=3&cursor={}", cursor.as_str().expect("a cursor"))).await;
    assert_eq!((rest.as_slice(), end), (&all[3..], Value::Null));
    for (query, pointer) in [
        ("cursor=x", "#query/cursor"),
        ("limit=0", "#query/limit"),
        ("limit=501", "#query/limit"),
        ("a=b", "#query/a"),
    ] {
        asked(&app, &operator, "GET", &format!("/v1/audit?{query}"), None)
            .await
            .fault(400, "SG-0009", pointer);
    }
    // Who brought a transaction stands in its record.
    let record = asked(
        &app,
        &operator,
        "GET",
        &format!("/v1/transactions/{retried}"),
        None,
    )
    .await
    .expect(200)
    .json();
    assert_eq!(record["submitted_by"]["by"], own.as_str());
    assert_eq!(record["submitted_by"]["from"], "127.0.0.1");
    app.leave().await;
}

#[tokio::test]
async fn without_a_key_it_listens_on_this_machine_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let mut settings = Settings {
        store: StoreSettings::embedded_at(folder.path().join("data")),
        ..Settings::default()
    };
    settings.http.listen = SocketAddr::from(([0, 0, 0, 0], 0));
    let refusal = app::build(settings.clone())
        .await
        .err()
        .expect("does not start")
        .to_string();
    assert!(
        refusal.contains("sluicegate keys create") && refusal.contains("127.0.0.1"),
        "{refusal}"
    );
    let order = app::KeyOrder::Create(sluicegate::auth::NewKey {
        name: "first".to_owned(),
        tenant: None,
        scopes: sluicegate::gateway::Scopes::all(),
        lasts: None,
    });
    app::manage_keys(&settings, order).await.expect("is made");
    let started = eventually("the store is free again", async || {
        app::build(settings.clone()).await.ok()
    })
    .await;
    assert!(started.address().ip().is_unspecified());
}
