//! Tenants (I9): each sees and touches what is its own, as fast and as far as it may.

use std::num::{NonZeroU32, NonZeroU64};

use serde_json::{Value, json};
use sluicegate::config::{Settings, TenantRate, TenantSettings};
use sluicegate::domain::{LedgerName, TenantName};

use crate::access::{asked, make_key, operator};
use crate::support::{Answer, DEADLINE, TestApp, add, stall};

fn limit(settings: &mut Settings, name: &str, limits: TenantSettings) {
    settings
        .tenants
        .insert(TenantName::new(name).expect("a name"), limits);
}

async fn tenant_key(app: &TestApp, operator: &str, tenant: &str) -> String {
    let body = json!({"name": tenant, "tenant": tenant, "scopes": ["submit", "read", "operate"]});
    make_key(app, Some(operator), &body).await.1
}

async fn submit(app: &TestApp, key: &str, idempotency: Option<&str>, body: &Value) -> Answer {
    let mut request = app
        .request("POST", "/v1/transactions")
        .bearer_auth(key)
        .json(body);
    if let Some(idempotency) = idempotency {
        request = request.header("idempotency-key", idempotency);
    }
    app.send(request).await
}

async fn ids(app: &TestApp, key: &str, query: &str) -> Vec<String> {
    let page = asked(app, key, "GET", &format!("/v1/transactions?{query}"), None)
        .await
        .expect(200)
        .json();
    let items = page["items"].as_array().expect("items").clone();
    items
        .iter()
        .map(|item| item["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn i9_another_tenants_record_is_as_good_as_none() {
    let app = TestApp::stalled().await;
    let operator = operator(&app).await;
    let acme = tenant_key(&app, &operator, "acme").await;
    let emca = tenant_key(&app, &operator, "emca").await;
    let body = add("visits", 1);
    let theirs = submit(&app, &emca, Some("k1"), &body).await.expect(202);
    let own = submit(&app, &acme, Some("k1"), &body).await.expect(202);
    assert_ne!(own.id(), theirs.id(), "one key of two tenants is two keys");
    assert_eq!(
        (&own.json()["tenant"], &theirs.json()["tenant"]),
        (&json!("acme"), &json!("emca"))
    );
    let repeat = submit(&app, &acme, Some("k1"), &body).await.expect(202);
    assert_eq!(
        (repeat.id(), repeat.header("idempotent-replayed")),
        (own.id(), Some("true"))
    );
    // A conflict of keys tells of the own record alone.
    let conflict = submit(&app, &acme, Some("k1"), &add("visits", 2)).await;
    assert!(
        conflict
            .fault(422, "SG-0003", "#header/Idempotency-Key")
            .contains(&own.id())
    );
    let by_operator = submit(&app, &operator, Some("k1"), &body).await.expect(202);
    assert_eq!(by_operator.json()["tenant"], "default");

    // Those who have no tenant write keys as they are; what a tenant's key is stored as is no key of theirs.
    let body_of_default = json!({"name": "default", "tenant": "default", "scopes": ["submit", "read"]});
    let default = make_key(&app, Some(&operator), &body_of_default).await.1;
    assert_eq!(
        ids(&app, &default, "idempotency_key=k1").await,
        [by_operator.id()]
    );
    for of_others in ["acme%20k1", "emca%20k1", "acme+k1"] {
        let found = ids(&app, &default, &format!("idempotency_key={of_others}")).await;
        assert!(found.is_empty(), "{of_others}");
    }

    let unknown = "01a1ff2d-47d0-7269-b9af-479c28b17c4b";
    let settle = json!({"outcome": "done", "note": "seen on the ledger"});
    for (method, rest, body) in [
        ("GET", "", None),
        ("GET", "?wait=1", None),
        ("GET", "/attempts", None),
        ("GET", "/events", None),
        ("POST", "/cancel", None),
        ("POST", "/retry", None),
        ("POST", "/settle", Some(&settle)),
    ] {
        let at = |id: &str| format!("/v1/transactions/{id}{rest}");
        let hidden = asked(&app, &acme, method, &at(&theirs.id()), body).await;
        let missing = asked(&app, &acme, method, &at(unknown), body).await;
        hidden.problem(404, "SG-0004");
        assert_eq!(
            hidden.text.replace(&theirs.id(), unknown),
            missing.text,
            "{method} {rest}"
        );
        // A stream of events has no end.
        if method == "GET" && rest != "/events" {
            asked(&app, &operator, method, &at(&own.id()), body)
                .await
                .expect(200);
        }
    }

    assert_eq!(ids(&app, &acme, "").await, [own.id()]);
    assert_eq!(ids(&app, &acme, "tenant=acme").await, [own.id()]);
    assert_eq!(ids(&app, &acme, "idempotency_key=k1").await, [own.id()]);
    assert_eq!(
        ids(&app, &emca, "status=pending&ledger=main&contract=counter").await,
        [theirs.id()]
    );
    assert_eq!(
        ids(&app, &operator, "").await,
        [by_operator.id(), own.id(), theirs.id()]
    );
    assert_eq!(ids(&app, &operator, "tenant=emca").await, [theirs.id()]);
    let other = asked(&app, &acme, "GET", "/v1/transactions?tenant=emca", None).await;
    other.fault(400, "SG-0009", "#query/tenant");
    app.leave().await;
}

#[tokio::test]
async fn i9_events_are_of_the_own_records() {
    let app = TestApp::stalled().await;
    let operator = operator(&app).await;
    let acme = tenant_key(&app, &operator, "acme").await;
    let emca = tenant_key(&app, &operator, "emca").await;
    let mut events = app
        .request("GET", "/v1/events")
        .bearer_auth(&acme)
        .send()
        .await
        .expect("an answer");
    assert_eq!(events.status(), 200);
    let theirs = submit(&app, &emca, None, &add("visits", 1))
        .await
        .expect(202)
        .id();
    let by_operator = submit(&app, &operator, None, &add("visits", 1))
        .await
        .expect(202)
        .id();
    let own = submit(&app, &acme, None, &add("visits", 1))
        .await
        .expect(202)
        .id();
    let mut told = String::new();
    while !told.contains(&own) {
        let chunk = tokio::time::timeout(DEADLINE, events.chunk())
            .await
            .expect("in time");
        told += std::str::from_utf8(&chunk.expect("goes on").expect("has no end")).expect("UTF-8");
    }
    // They came before it.
    assert!(!told.contains(&theirs) && !told.contains(&by_operator), "{told}");
    app.leave().await;
}

#[tokio::test]
async fn i9_a_batch_is_its_tenants_too() {
    let app = TestApp::stalled().await;
    let operator = operator(&app).await;
    let acme = tenant_key(&app, &operator, "acme").await;
    let emca = tenant_key(&app, &operator, "emca").await;
    let mut item = add("visits", 1);
    item["idempotency_key"] = "b1".into();
    for key in [&acme, &emca] {
        let batch = asked(&app, key, "POST", "/v1/transactions/batch", Some(&json!([item])))
            .await
            .expect(200)
            .json();
        assert_eq!(
            (&batch["accepted"], &batch["repeated"]),
            (&json!(1), &json!(0)),
            "{batch}"
        );
    }
    assert_eq!(ids(&app, &acme, "").await.len(), 1);
    app.leave().await;
}

#[tokio::test]
async fn a_tenant_uses_the_ledgers_and_contracts_that_it_may() {
    let app = TestApp::with(|settings| {
        let main = settings.ledgers.values().next().expect("main").clone();
        settings
            .ledgers
            .insert(LedgerName::new("side").expect("a name"), main);
        let limits = TenantSettings {
            ledgers: Some(vec![LedgerName::new("main").expect("a name")]),
            contracts: Some(vec!["counter".to_owned()]),
            ..TenantSettings::default()
        };
        limit(settings, "acme", limits);
    })
    .await;
    let operator = operator(&app).await;
    let acme = tenant_key(&app, &operator, "acme").await;
    let mut elsewhere = add("visits", 1);
    elsewhere["ledger"] = "side".into();
    let otherwise = json!({"ledger": "main", "contract": "basic", "function": "GetAllAssets"});
    for (body, named) in [(&elsewhere, "side"), (&otherwise, "basic")] {
        let refusal = submit(&app, &acme, None, body).await.problem(403, "SG-0029");
        assert!(
            refusal["detail"].as_str().expect("detail").contains(named),
            "{refusal}"
        );
        let batch = json!([body, add("visits", 1)]);
        let batch = asked(&app, &acme, "POST", "/v1/transactions/batch", Some(&batch))
            .await
            .expect(200)
            .json();
        assert_eq!(batch["items"][0]["problem"]["code"], "SG-0029", "{batch}");
        assert_eq!(batch["accepted"], 1);
        asked(&app, &acme, "POST", "/v1/query", Some(body))
            .await
            .problem(403, "SG-0029");
        assert!(submit(&app, &operator, None, body).await.status < 300);
    }
    // Nor is it told what else there is.
    let unknown = json!({"ledger": "main", "contract": "token", "function": "Nonsense"});
    let refusal = submit(&app, &acme, None, &unknown).await.problem(403, "SG-0029");
    assert!(!refusal.to_string().contains("basic"), "{refusal}");
    let lanes = asked(&app, &acme, "GET", "/v1/ledgers", None)
        .await
        .expect(200)
        .json();
    assert_eq!(lanes["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(lanes["items"][0]["name"], "main");
    let hidden = asked(&app, &acme, "GET", "/v1/ledgers/side", None).await;
    let hidden = hidden.problem(404, "SG-0016")["detail"].to_string();
    let missing = asked(&app, &acme, "GET", "/v1/ledgers/nowhere", None).await;
    let missing = missing.problem(404, "SG-0016")["detail"].to_string();
    assert_eq!(hidden.replace("side", "nowhere"), missing, "no hint");
    elsewhere["ledger"] = "nowhere".into();
    let missing = submit(&app, &acme, None, &elsewhere).await;
    assert!(!missing.problem(422, "SG-0002").to_string().contains("side"));
    asked(&app, &operator, "GET", "/v1/ledgers/side", None)
        .await
        .expect(200);
    app.leave().await;
}

#[tokio::test]
async fn a_tenant_that_is_too_fast_slows_itself_alone() {
    let app = TestApp::with(|settings| {
        let rate = TenantRate {
            per_second: 0.1,
            burst: NonZeroU32::new(3).expect("not zero"),
        };
        let limits = TenantSettings {
            rate: Some(rate),
            ..TenantSettings::default()
        };
        limit(settings, "acme", limits);
        stall(settings);
    })
    .await;
    let operator = operator(&app).await;
    let acme = tenant_key(&app, &operator, "acme").await;
    let emca = tenant_key(&app, &operator, "emca").await;
    for _ in 0..3 {
        submit(&app, &acme, None, &add("visits", 1)).await.expect(202);
    }
    let refusal = submit(&app, &acme, None, &add("visits", 1)).await;
    refusal.problem(429, "SG-0020");
    let after: u64 = refusal
        .header("retry-after")
        .expect("says when")
        .parse()
        .expect("seconds");
    assert!((1..=10).contains(&after), "{after}");
    asked(&app, &acme, "GET", "/v1/transactions", None)
        .await
        .expect(200);
    for _ in 0..10 {
        submit(&app, &emca, None, &add("visits", 1)).await.expect(202);
    }
    assert_eq!(
        ids(&app, &acme, "").await.len(),
        3,
        "nothing was stored of what was refused"
    );
    app.leave().await;
}

#[tokio::test]
async fn a_tenant_whose_backlog_is_full_waits_for_its_own() {
    let app = TestApp::with(|settings| {
        let limits = TenantSettings {
            max_pending: NonZeroU64::new(2),
            ..TenantSettings::default()
        };
        limit(settings, "acme", limits);
        stall(settings);
    })
    .await;
    let operator = operator(&app).await;
    let acme = tenant_key(&app, &operator, "acme").await;
    let first = submit(&app, &acme, Some("k1"), &add("visits", 1))
        .await
        .expect(202)
        .id();
    let batch = json!([add("visits", 1), add("visits", 1)]);
    let batch = asked(&app, &acme, "POST", "/v1/transactions/batch", Some(&batch))
        .await
        .expect(200)
        .json();
    assert_eq!((&batch["accepted"], &batch["refused"]), (&json!(1), &json!(1)));
    assert_eq!(batch["items"][1]["problem"]["code"], "SG-0021", "{batch}");
    let refusal = submit(&app, &acme, None, &add("visits", 1)).await;
    refusal.problem(429, "SG-0021");
    assert!(refusal.header("retry-after").is_some());
    // A repeat adds nothing; others have room; and so has it, once something is settled.
    submit(&app, &acme, Some("k1"), &add("visits", 1))
        .await
        .expect(202);
    submit(&app, &operator, None, &add("visits", 1)).await.expect(202);
    asked(
        &app,
        &acme,
        "POST",
        &format!("/v1/transactions/{first}/cancel"),
        None,
    )
    .await
    .expect(200);
    submit(&app, &acme, None, &add("visits", 1)).await.expect(202);
    app.leave().await;
}

#[tokio::test]
async fn i10_the_first_key_shuts_nobody_out_for_good() {
    let app = TestApp::start().await;
    for body in [
        json!({"name": "erp", "scopes": ["submit", "read"]}),
        json!({"name": "erp", "scopes": ["operate"], "tenant": "acme"}),
    ] {
        app.send(app.request("POST", "/v1/keys").json(&body))
            .await
            .fault(422, "SG-0002", "/scopes");
    }
    app.get("/v1/transactions").await.expect(200);
    let operator = operator(&app).await;
    tenant_key(&app, &operator, "acme").await;
    app.leave().await;
}
