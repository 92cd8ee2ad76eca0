//! I9 and scopes for webhooks, with real keys: another tenant's is as good as none.

use serde_json::{Value, json};

use crate::access::{asked, make_key, operator};
use crate::support::receiver::{Receiver, told};
use crate::support::{TestApp, add, eventually, with};

async fn key(app: &TestApp, operator: &str, tenant: &str, scopes: &[&str]) -> String {
    let body = json!({"name": tenant, "tenant": tenant, "scopes": scopes});
    make_key(app, Some(operator), &body).await.1
}

#[tokio::test]
async fn i9_a_tenants_webhooks_and_deliveries_are_its_own() {
    let app = TestApp::with(told).await;
    let operator = operator(&app).await;
    let every = ["submit", "read", "operate"];
    let acme = key(&app, &operator, "acme", &every).await;
    let emca = key(&app, &operator, "emca", &every).await;
    let (own, foreign) = (Receiver::start().await, Receiver::start().await);
    let body = json!({"url": own.url});
    let made = asked(&app, &acme, "POST", "/v1/webhooks", Some(&body))
        .await
        .expect(201)
        .json();
    asked(
        &app,
        &emca,
        "POST",
        "/v1/webhooks",
        Some(&json!({"url": foreign.url})),
    )
    .await
    .expect(201);
    let submitted = with(add("hits", 1), "callback_url", own.url.clone());
    let record = asked(&app, &acme, "POST", "/v1/transactions", Some(&submitted))
        .await
        .expect(202);
    own.wait_for(2).await;
    assert_eq!(foreign.count(), 0, "told of what is not its own");
    let of_record = format!("/v1/transactions/{}/deliveries", record.id());
    let delivery = eventually("both are noted", async || {
        let items = asked(&app, &acme, "GET", &of_record, None)
            .await
            .expect(200)
            .json()["items"]
            .take();
        let done = items.as_array()?.iter().all(|item| item["state"] == "delivered");
        done.then(|| items[0]["id"].as_str().expect("an id").to_owned())
    })
    .await;
    let webhook = format!("/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    let (delivery, rotate) = (
        format!("/v1/deliveries/{delivery}"),
        format!("{webhook}/rotate-secret"),
    );
    let change = json!({"description": "x"});
    let routes = [
        ("GET", webhook.clone(), None, "SG-0024"),
        ("PATCH", webhook.clone(), Some(&change), "SG-0024"),
        ("POST", rotate, None, "SG-0024"),
        ("GET", delivery.clone(), None, "SG-0024"),
        ("POST", format!("{delivery}/redeliver"), None, "SG-0024"),
        ("GET", of_record.clone(), None, "SG-0004"),
    ];
    for (method, path, body, code) in &routes {
        let refused = asked(&app, &emca, method, path, *body).await;
        refused.problem(404, code);
        let unknown = asked(&app, &acme, method, path, *body).await;
        assert!(unknown.status < 300, "{method} {path}: {}", unknown.text);
        let all = asked(&app, &operator, method, path, *body).await;
        assert!(all.status < 300, "{method} {path}: {}", all.text);
    }
    asked(&app, &emca, "DELETE", &webhook, None)
        .await
        .problem(404, "SG-0024");
    let listed = async |key: &str, path: &str| -> Vec<Value> {
        let page = asked(&app, key, "GET", path, None).await.expect(200).json();
        page["items"].as_array().expect("items").clone()
    };
    for (key, webhooks, deliveries) in [(&acme, 1, 2), (&emca, 1, 0), (&operator, 2, 2)] {
        assert_eq!(listed(key, "/v1/webhooks").await.len(), webhooks);
        assert_eq!(listed(key, "/v1/deliveries").await.len(), deliveries);
    }
    asked(&app, &acme, "DELETE", &webhook, None).await.expect(204);
    app.leave().await;
}

#[tokio::test]
async fn where_a_webhook_leads_is_written_down() {
    let app = TestApp::with(told).await;
    let operator = operator(&app).await;
    let acme = key(&app, &operator, "acme", &["submit"]).await;
    let url = |page: &str| json!({"url": format!("https://erp.example/{page}")});
    let made = asked(&app, &acme, "POST", "/v1/webhooks", Some(&url("one"))).await;
    let made = made.expect(201).json();
    let path = format!("/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    asked(&app, &acme, "PATCH", &path, Some(&url("two")))
        .await
        .expect(200);
    let log = asked(&app, &operator, "GET", "/v1/audit?limit=2", None).await;
    let log = log.expect(200).json();
    for (entry, page) in [(0, "two"), (1, "one")] {
        let detail = &log["items"][entry]["detail"];
        assert_eq!((&detail["id"], &detail["url"]), (&made["id"], &url(page)["url"]));
    }
    assert!(!log.to_string().contains("whsec_"), "{log}");
    app.leave().await;
}

#[tokio::test]
async fn who_may_only_read_changes_nothing() {
    let app = TestApp::with(told).await;
    let operator = operator(&app).await;
    let reads = key(&app, &operator, "acme", &["read"]).await;
    let body = json!({"url": "https://erp.example/hook"});
    asked(&app, &reads, "GET", "/v1/webhooks", None).await.expect(200);
    asked(&app, &reads, "POST", "/v1/webhooks", Some(&body))
        .await
        .problem(403, "SG-0019");
    for (method, path) in [
        ("PATCH", "/v1/webhooks/wh_1"),
        ("DELETE", "/v1/webhooks/wh_1"),
        ("POST", "/v1/webhooks/callback/rotate-secret"),
        ("POST", "/v1/deliveries/dlv_1/redeliver"),
    ] {
        asked(&app, &reads, method, path, Some(&json!({})))
            .await
            .problem(403, "SG-0019");
    }
    app.get("/v1/webhooks").await.problem(401, "SG-0018");
    app.leave().await;
}
