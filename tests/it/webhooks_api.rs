//! Endpoints and deliveries as their owners manage them.

use serde_json::{Value, json};
use sluicegate::config::{EndpointSettings, Secret};
use sluicegate::domain::{Status, TenantName};

use crate::support::receiver::{Receiver, told};
use crate::support::{Answer, TestApp, add, eventually, with};

async fn send(app: &TestApp, method: &str, path: &str, body: Value) -> Answer {
    app.send(app.request(method, path).json(&body)).await
}

#[tokio::test]
async fn an_endpoint_is_made_read_changed_and_removed_and_its_secret_told_once() {
    let app = TestApp::with(told).await;
    let wanted = json!({"url": "https://erp.example/hook", "statuses": ["failed"], "description": "the ERP"});
    let answer = send(&app, "POST", "/v1/webhooks", wanted).await.expect(201);
    let mut made = answer.json();
    let path = format!("/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    assert_eq!(answer.header("location"), Some(path.as_str()));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let secret = made
        .as_object_mut()
        .expect("an object")
        .remove("secret")
        .expect("a secret");
    let secret = secret.as_str().expect("a text");
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
    assert_eq!(
        (&made["disabled"], &made["disabled_reason"]),
        (&json!(false), &Value::Null)
    );
    let read = app.get(&path).await.expect(200);
    assert_eq!(read.json(), made);
    assert_eq!(
        app.get("/v1/webhooks").await.expect(200).json(),
        json!({"items": [made]})
    );
    let change =
        json!({"url": "https://erp2.example/hook", "statuses": ["done", "failed"], "disabled": true});
    let changed = send(&app, "PATCH", &path, change).await.expect(200).json();
    assert_eq!(changed["url"], "https://erp2.example/hook");
    assert_eq!(changed["statuses"], json!(["done", "failed"]));
    assert_eq!(changed["description"], "the ERP", "what is not named stays");
    assert_eq!(
        (&changed["disabled"], &changed["disabled_reason"]),
        (&json!(true), &json!("by_owner"))
    );
    let app = app.reopen(|_| {}).await;
    assert_eq!(app.get(&path).await.expect(200).json(), changed);
    app.send(app.request("DELETE", &path)).await.expect(204);
    app.get(&path).await.problem(404, "SG-0024");
    app.send(app.request("DELETE", &path))
        .await
        .problem(404, "SG-0024");
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_what_is_wrong_with_an_endpoint_is_told_by_field() {
    let app = TestApp::start().await;
    let good = json!({"url": "https://erp.example/hook"});
    let made = send(&app, "POST", "/v1/webhooks", good.clone())
        .await
        .expect(201)
        .json();
    let path = format!("/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    for (field, value) in [
        ("url", json!("")),
        ("url", json!("erp.example")),
        ("url", json!("ftp://erp.example/")),
        ("url", json!("https://me:secret@erp.example/")),
        ("url", json!("http://127.0.0.1/")),
        ("url", json!(7)),
        ("statuses", json!([])),
        ("statuses", json!(["pending"])),
        ("statuses", json!(["done", "failed", "done"])),
        ("statuses", json!("done")),
        ("description", json!("x".repeat(513))),
        ("disabled", json!("yes")),
        // Neither a secret of one's own nor, brought back, the one that it has.
        ("secret", json!("whsec_AAAA")),
        ("secret", made["secret"].clone()),
        ("id", json!("wh_1")),
    ] {
        for (method, path) in [("POST", "/v1/webhooks"), ("PATCH", path.as_str())] {
            let answer = send(&app, method, path, with(good.clone(), field, value.clone())).await;
            answer.fault(422, "SG-0002", &format!("/{field}"));
        }
    }
    send(&app, "POST", "/v1/webhooks", json!({}))
        .await
        .fault(422, "SG-0002", "/url");
    let both = json!({"url": "http://10.0.0.1/", "statuses": []});
    let problem = send(&app, "POST", "/v1/webhooks", both)
        .await
        .problem(422, "SG-0002");
    assert_eq!(
        problem["errors"].as_array().expect("errors").len(),
        2,
        "all at once"
    );
    let rotate = format!("{path}/rotate-secret");
    for value in [json!(-1), json!(2_592_001), json!("1"), json!(1.5)] {
        let answer = send(&app, "POST", &rotate, json!({"overlap_seconds": value})).await;
        answer.fault(422, "SG-0002", "/overlap_seconds");
    }
    for secret in [json!("whsec_AAAA"), made["secret"].clone()] {
        let answer = send(&app, "POST", &rotate, json!({"secret": secret})).await;
        answer.fault(422, "SG-0002", "/secret");
    }
    assert_eq!(
        app.get(&path).await.expect(200).json()["url"],
        good["url"],
        "nothing has changed"
    );
    assert_eq!(
        app.get("/v1/webhooks").await.expect(200).json()["items"]
            .as_array()
            .expect("items")
            .len(),
        1
    );
    app.finish_untouched().await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let app = TestApp::start().await;
    let uuid = "0195f3a1-0000-7000-8000-000000000000";
    for id in ["wh_00000000", "x", "wh_%2F..", "default%2Fwh_1", "%00", "%ff"] {
        let path = format!("/v1/webhooks/{id}");
        app.get(&path).await.problem(404, "SG-0024");
        send(&app, "PATCH", &path, json!({}))
            .await
            .problem(404, "SG-0024");
        app.send(app.request("DELETE", &path))
            .await
            .problem(404, "SG-0024");
        app.send(app.request("POST", &format!("{path}/rotate-secret")))
            .await
            .problem(404, "SG-0024");
    }
    for id in [
        "x",
        &format!("dlv_{uuid}_callback"),
        &format!("dlv_{uuid}_"),
        &format!("dlv_{uuid}_%2F"),
        "dlv_%00_%00",
    ] {
        let path = format!("/v1/deliveries/{id}");
        app.get(&path).await.problem(404, "SG-0024");
        app.send(app.request("POST", &format!("{path}/redeliver")))
            .await
            .problem(404, "SG-0024");
    }
    app.get(&format!("/v1/transactions/{uuid}/deliveries"))
        .await
        .problem(404, "SG-0004");
    app.get("/v1/transactions/x/deliveries")
        .await
        .problem(404, "SG-0004");
    app.finish_untouched().await;
}

#[tokio::test]
async fn what_stands_for_callbacks_has_a_secret_and_nothing_else_to_change() {
    let app = TestApp::start().await;
    let read = app.get("/v1/webhooks/callback").await.expect(200).json();
    assert_eq!((&read["url"], &read["secret"]), (&Value::Null, &Value::Null));
    let path = "/v1/webhooks/callback";
    send(&app, "PATCH", path, json!({"url": "https://erp.example/"}))
        .await
        .problem(404, "SG-0024");
    app.send(app.request("DELETE", path))
        .await
        .problem(404, "SG-0024");
    let rotate = format!("{path}/rotate-secret");
    let one = app.send(app.request("POST", &rotate)).await.expect(200).json();
    let other = send(&app, "POST", &rotate, json!({})).await.expect(200).json();
    assert_ne!(one["secret"], other["secret"]);
    assert_eq!(
        app.get("/v1/webhooks").await.expect(200).json()["items"],
        json!([])
    );
    app.finish_untouched().await;
}

#[tokio::test]
async fn a_tenant_has_fifty_endpoints_at_most() {
    let app = TestApp::start().await;
    for number in 0..50 {
        let url = format!("https://erp.example/hooks/{number}");
        send(&app, "POST", "/v1/webhooks", json!({"url": url}))
            .await
            .expect(201);
    }
    let one_more = send(
        &app,
        "POST",
        "/v1/webhooks",
        json!({"url": "https://erp.example/"}),
    )
    .await;
    assert!(one_more.fault(422, "SG-0002", "").contains("50 webhooks"));
    app.finish_untouched().await;
}

#[tokio::test]
async fn deliveries_are_listed_in_pages_that_leave_nothing_out() {
    const EVENTS: usize = 25;
    let app = TestApp::with(told).await;
    let receiver = Receiver::start().await;
    let (made, failing) = (
        json!({"url": receiver.url}),
        json!({"url": "http://127.0.0.1:1/"}),
    );
    let made = send(&app, "POST", "/v1/webhooks", made).await.expect(201).json();
    send(&app, "POST", "/v1/webhooks", failing).await.expect(201);
    let mut ids = Vec::new();
    for _ in 0..EVENTS {
        ids.push(app.settle(&add("hits", 1)).await.id());
    }
    let webhook = made["id"].as_str().expect("an id");
    let query = format!("/v1/deliveries?webhook={webhook}&state=delivered&limit=4");
    eventually("all are received", async || {
        let page = app
            .get(&format!(
                "/v1/deliveries?webhook={webhook}&state=delivered&limit=500"
            ))
            .await;
        (page.json()["items"].as_array().expect("items").len() == EVENTS).then_some(())
    })
    .await;
    let (mut found, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let from = cursor
            .map(|cursor| format!("&cursor={cursor}"))
            .unwrap_or_default();
        let page = app.get(&format!("{query}{from}")).await.expect(200).json();
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 4);
        assert!(
            items
                .iter()
                .all(|item| item["webhook"] == webhook && item["state"] == "delivered")
        );
        found.extend(
            items
                .iter()
                .map(|item| item["transaction_id"].as_str().expect("an id").to_owned()),
        );
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        let Some(cursor) = &cursor else { break };
        let other = app
            .get(&format!("/v1/deliveries?state=pending&cursor={cursor}"))
            .await;
        other.fault(400, "SG-0009", "#query/cursor");
    }
    ids.reverse();
    assert_eq!(found, ids, "newest first, each once");
    let one = app
        .get(&format!("/v1/deliveries?transaction={}", ids[0]))
        .await
        .expect(200)
        .json();
    assert_eq!(one["items"].as_array().expect("items").len(), 2);
    app.finish().await;
}

#[tokio::test]
async fn i10_a_search_for_deliveries_is_read_strictly() {
    let app = TestApp::start().await;
    for (query, field) in [
        ("state=done", "state"),
        ("transaction=x", "transaction"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=", "cursor"),
        ("stat=pending", "stat"),
        ("state=pending&state=failed", "state"),
    ] {
        let answer = app.get(&format!("/v1/deliveries?{query}")).await;
        answer.fault(400, "SG-0009", &format!("#query/{field}"));
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn what_the_operator_configures_is_there_and_is_changed_there() {
    let receiver = Receiver::start().await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
    let configured = |url: &str, secret: Option<&str>| EndpointSettings {
        url: url.to_owned(),
        tenant: TenantName::default(),
        statuses: vec![Status::Done],
        secret: secret.map(Secret::new),
    };
    let one = configured(&receiver.url, Some(secret));
    let app = TestApp::with(|settings| {
        told(settings);
        settings.webhooks.endpoints.insert("erp".to_owned(), one);
        settings
            .webhooks
            .endpoints
            .insert("own-key".to_owned(), configured("http://127.0.0.1:1/", None));
    })
    .await;
    let path = "/v1/webhooks/wh_config_erp";
    let read = app.get(path).await.expect(200).json();
    assert_eq!(
        (&read["url"], &read["statuses"]),
        (&json!(receiver.url), &json!(["done"]))
    );
    app.settle(&add("hits", 1)).await;
    assert!(receiver.wait_for(1).await[0].is_signed_by(secret));
    let change = json!({"url": "https://erp.example/"});
    send(&app, "PATCH", path, change)
        .await
        .fault(422, "SG-0002", "/url");
    app.send(app.request("DELETE", path))
        .await
        .problem(409, "SG-0023");
    send(&app, "POST", &format!("{path}/rotate-secret"), json!({}))
        .await
        .problem(409, "SG-0023");
    send(&app, "PATCH", path, json!({"disabled": true}))
        .await
        .expect(200);
    send(
        &app,
        "POST",
        "/v1/webhooks/wh_config_own-key/rotate-secret",
        json!({}),
    )
    .await
    .expect(200);
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let renewed = configured(&receiver.url, Some(other));
    let app = app
        .reopen(|settings| settings.webhooks.endpoints = [("erp".to_owned(), renewed)].into())
        .await;
    app.get("/v1/webhooks/wh_config_own-key")
        .await
        .problem(404, "SG-0024");
    assert_eq!(
        app.get(path).await.expect(200).json()["disabled"],
        true,
        "that is not decided there"
    );
    send(&app, "PATCH", path, json!({"disabled": false}))
        .await
        .expect(200);
    app.settle(&add("hits", 1)).await;
    let got = receiver.wait_for(2).await.remove(1);
    assert!(
        got.is_signed_by(secret) && got.is_signed_by(other),
        "both, for a day"
    );
    let app = app.reopen(|settings| settings.webhooks.endpoints.clear()).await;
    app.get(path).await.problem(404, "SG-0024");
    app.finish().await;
}
