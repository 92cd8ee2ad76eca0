//! Webhooks as receivers meet them: what comes, when it comes again, and that it comes.

use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::receiver::{Got, Receiver, Reply, told};
use crate::support::{TestApp, add, eventually, spawn, with};

/// Makes an endpoint. Answers its id and its secret.
async fn endpoint(app: &TestApp, body: &Value) -> (String, String) {
    let made = app
        .send(app.request("POST", "/v1/webhooks").json(body))
        .await
        .expect(201)
        .json();
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("id"), text("secret"))
}

/// The deliveries of a transaction, by endpoint.
async fn deliveries(app: &TestApp, id: &str) -> Vec<Value> {
    let path = format!("/v1/transactions/{id}/deliveries");
    let mut items = app.get(&path).await.expect(200).json()["items"]
        .as_array()
        .expect("items")
        .clone();
    items.sort_by_key(|item| item["webhook"].to_string());
    items
}

/// The only delivery of a transaction, once `holds`.
async fn delivery(app: &TestApp, id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let found = deliveries(app, id).await.pop();
        found.filter(|delivery| holds(delivery))
    })
    .await
}

fn is(state: &'static str) -> impl Fn(&Value) -> bool {
    move |delivery| delivery["state"] == state
}

/// A counter's `Add` whose end is told to `url`.
fn called_back(url: &str) -> Value {
    with(add("hits", 1), "callback_url", url)
}

/// The gateway that these tests have.
async fn start() -> TestApp {
    TestApp::with(told).await
}

#[tokio::test]
async fn a_callback_and_an_endpoint_are_told_with_signatures_that_verify() {
    let app = start().await;
    let (callback, hook) = (Receiver::start().await, Receiver::start().await);
    let request = app.request("POST", "/v1/webhooks/callback/rotate-secret");
    let secret = app.send(request).await.expect(200).json()["secret"]
        .as_str()
        .expect("a secret")
        .to_owned();
    let (id, hook_secret) = endpoint(&app, &json!({"url": hook.url})).await;
    let done = app.settle(&called_back(&callback.url)).await.json();
    let tx = done["id"].as_str().expect("an id");
    for (receiver, name, secret, other) in [
        (&callback, "callback", &secret, &hook_secret),
        (&hook, id.as_str(), &hook_secret, &secret),
    ] {
        let got = receiver.wait_for(1).await.remove(0);
        assert!(got.is_signed_by(secret) && !got.is_signed_by(other));
        assert_eq!(got.header("content-type"), "application/json");
        assert_eq!(got.id(), format!("dlv_{tx}_{name}"));
        let body = got.json();
        assert_eq!(body["type"], "transaction.done");
        assert_eq!(body["timestamp"], done["finished_at"]);
        assert_eq!(body["data"], app.record(tx).await);
        assert_eq!(body.as_object().expect("an object").len(), 3);
    }
    eventually("both are noted", async || {
        let both = deliveries(&app, tx).await;
        assert_eq!(both.len(), 2);
        both.iter().all(is("delivered")).then_some(())
    })
    .await;
    let noted = deliveries(&app, tx).await.remove(0);
    assert_eq!(noted["attempts"][0]["status"], 200);
    assert_eq!(noted["attempts"][0]["error"], Value::Null);
    assert_eq!(
        (&noted["next_attempt_at"], &noted["type"]),
        (&Value::Null, &json!("transaction.done"))
    );
    assert_eq!((callback.count(), hook.count()), (1, 1), "once each");
    app.finish().await;
}

#[tokio::test]
async fn an_endpoint_is_told_of_what_it_asked_for() {
    let app = start().await;
    let (all, failures, off) = (
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    );
    endpoint(&app, &json!({"url": all.url})).await;
    endpoint(&app, &json!({"url": failures.url, "statuses": ["failed"]})).await;
    endpoint(&app, &json!({"url": off.url, "disabled": true})).await;
    app.settle(&add("hits", 1)).await;
    let missing = json!({"ledger": "main", "contract": "basic", "function": "DeleteAsset", "args": ["none"]});
    let failed = app.settle(&missing).await.json();
    assert_eq!(failed["status"], "failed");
    let got = failures.wait_for(1).await.remove(0).json();
    assert_eq!(
        (&got["type"], &got["data"]),
        (&json!("transaction.failed"), &failed)
    );
    all.wait_for(2).await;
    assert_eq!((failures.count(), off.count()), (1, 0));
    app.finish().await;
}

#[tokio::test]
async fn what_fails_is_tried_again_until_it_is_received() {
    let app = start().await;
    let receiver = Receiver::answering(|before| match before {
        0 => 500.into(),
        1 => Reply(Duration::from_secs(5), Response::default()),
        2 => 404.into(),
        _ => 204.into(),
    })
    .await;
    let tx = app.settle(&called_back(&receiver.url)).await.id();
    let noted = delivery(&app, &tx, "is received", is("delivered")).await;
    let got = receiver.got();
    assert!(
        got.iter()
            .all(|one| one.id() == got[0].id() && one.body == got[0].body),
        "the same event"
    );
    let attempts: Vec<_> = noted["attempts"].as_array().expect("attempts").iter().collect();
    let statuses: Vec<_> = attempts.iter().map(|attempt| attempt["status"].clone()).collect();
    assert_eq!(statuses, [json!(500), Value::Null, json!(404), json!(204)]);
    assert_eq!(attempts[1]["error"], "no answer within 500 ms");
    assert!(attempts[1]["duration_ms"].as_u64().expect("a number") >= 500);
    app.finish().await;
}

#[tokio::test]
async fn a_receiver_that_is_not_there_yet_is_told_when_it_is() {
    let app = start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let tx = app
        .settle(&called_back(&format!("http://{address}/hook")))
        .await
        .id();
    let refused = |delivery: &Value| delivery["attempts"][0]["error"].to_string().contains("refused");
    delivery(&app, &tx, "is refused", refused).await;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .expect("the port is free");
    let receiver = Receiver::on(listener, |_| 200.into());
    receiver.wait_for(1).await;
    delivery(&app, &tx, "is received", is("delivered")).await;
    app.finish().await;
}

#[tokio::test]
async fn i1_a_restart_in_between_loses_nothing_and_keeps_the_id() {
    let app = start().await;
    let receiver = Receiver::answering(|_| 500.into()).await;
    let mut ids: Vec<String> = Vec::new();
    for _ in 0..10 {
        ids.push(app.settle(&called_back(&receiver.url)).await.id());
    }
    let before = receiver.wait_for(1).await.remove(0).id();
    let app = app.reopen(|_| {}).await;
    receiver.answer(|_| 200.into());
    for id in &ids {
        delivery(&app, id, "is received", is("delivered")).await;
    }
    let after: Vec<_> = receiver.got().iter().map(Got::id).collect();
    for id in &ids {
        assert!(after.contains(&format!("dlv_{id}_callback")), "{id}");
    }
    assert!(
        after.iter().filter(|id| **id == before).count() > 1,
        "{before} came again"
    );
    app.finish().await;
}

/// Deliveries are made of what settled while nobody was there to make them.
#[tokio::test]
async fn what_settled_just_before_the_end_is_told_after_the_next_start() {
    let app = start().await;
    let receiver = Receiver::start().await;
    let tx = app.settle(&called_back(&receiver.url)).await.id();
    let app = app.reopen(|_| {}).await;
    delivery(&app, &tx, "is received", is("delivered")).await;
    app.finish().await;
}

#[tokio::test]
async fn both_secrets_sign_while_they_overlap() {
    let app = start().await;
    let receiver = Receiver::start().await;
    let (id, first) = endpoint(&app, &json!({"url": receiver.url})).await;
    let rotate = async |body: Value| {
        let request = app
            .request("POST", &format!("/v1/webhooks/{id}/rotate-secret"))
            .json(&body);
        let answer = app.send(request).await.expect(200);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        answer.json()["secret"].as_str().expect("a secret").to_owned()
    };
    let second = rotate(json!({"overlap_seconds": 3600})).await;
    app.settle(&add("hits", 1)).await;
    let got = receiver.wait_for(1).await.remove(0);
    assert_eq!(got.header("webhook-signature").split(' ').count(), 2);
    assert!(got.is_signed_by(&first) && got.is_signed_by(&second));
    let third = rotate(json!({"overlap_seconds": 0})).await;
    app.settle(&add("hits", 1)).await;
    let got = receiver.wait_for(2).await.remove(1);
    assert!(got.is_signed_by(&third) && !got.is_signed_by(&first) && !got.is_signed_by(&second));
    app.finish().await;
}

#[tokio::test]
async fn a_delivery_is_sent_again_by_hand_with_its_id() {
    let app = start().await;
    let receiver = Receiver::start().await;
    let tx = app.settle(&called_back(&receiver.url)).await.id();
    let id = delivery(&app, &tx, "is received", is("delivered")).await["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let path = format!("/v1/deliveries/{id}/redeliver");
    let again = app.send(app.request("POST", &path)).await.expect(202).json();
    assert_eq!((&again["id"], &again["state"]), (&json!(id), &json!("pending")));
    let got = receiver.wait_for(2).await;
    assert_eq!(got[0].id(), got[1].id());
    let noted = delivery(&app, &tx, "is received again", is("delivered")).await;
    assert_eq!(noted["attempts"].as_array().expect("attempts").len(), 2);
    app.finish().await;
}

#[tokio::test]
async fn what_cannot_be_sent_again_stays_as_it_is() {
    let app = start().await;
    let receiver = Receiver::start().await;
    let (webhook, _) = endpoint(&app, &json!({"url": receiver.url})).await;
    let webhook = format!("/v1/webhooks/{webhook}");
    let tx = app.settle(&add("hits", 1)).await.id();
    let told = delivery(&app, &tx, "is received", is("delivered")).await;
    let path = format!("/v1/deliveries/{}/redeliver", told["id"].as_str().expect("an id"));
    let refused = async |why: &str| {
        let problem = app.send(app.request("POST", &path)).await.problem(409, "SG-0023");
        assert!(problem["detail"].to_string().contains(why), "{problem}");
        assert_eq!(deliveries(&app, &tx).await, std::slice::from_ref(&told));
    };
    let disabled = app.request("PATCH", &webhook).json(&json!({"disabled": true}));
    app.send(disabled).await.expect(200);
    refused("enable it first").await;
    app.send(app.request("DELETE", &webhook)).await.expect(204);
    refused("was removed").await;
    app.finish().await;
}

#[tokio::test]
async fn who_says_gone_is_told_no_more_until_its_owner_says_so() {
    let app = start().await;
    let receiver = Receiver::answering(|_| 410.into()).await;
    let (id, _) = endpoint(&app, &json!({"url": receiver.url})).await;
    let path = format!("/v1/webhooks/{id}");
    let tx = app.settle(&add("hits", 1)).await.id();
    let failed = delivery(&app, &tx, "is given up", is("failed")).await;
    assert_eq!(failed["error"], "answered 410: gone for good");
    let disabled = app.get(&path).await.expect(200).json();
    assert_eq!(
        (&disabled["disabled"], &disabled["disabled_reason"]),
        (&json!(true), &json!("gone"))
    );
    receiver.answer(|_| 200.into());
    // It is looked at once its callback is told.
    let callback = Receiver::start().await;
    let silent = app.settle(&called_back(&callback.url)).await.id();
    callback.wait_for(1).await;
    app.send(app.request("PATCH", &path).json(&json!({"disabled": false})))
        .await
        .expect(200);
    let told = app.settle(&add("hits", 1)).await.id();
    delivery(&app, &told, "is received", is("delivered")).await;
    let of_silent = deliveries(&app, &silent).await;
    assert_eq!(
        (of_silent.len(), &of_silent[0]["webhook"]),
        (1, &json!("callback"))
    );
    assert_eq!(receiver.count(), 2);
    app.finish().await;
}

#[tokio::test]
async fn what_waits_for_an_endpoint_that_is_removed_fails() {
    let app = start().await;
    let receiver = Receiver::answering(|_| 500.into()).await;
    let (id, _) = endpoint(&app, &json!({"url": receiver.url})).await;
    let tx = app.settle(&add("hits", 1)).await.id();
    receiver.wait_for(1).await;
    app.send(app.request("DELETE", &format!("/v1/webhooks/{id}")))
        .await
        .expect(204);
    let failed = delivery(&app, &tx, "is given up", is("failed")).await;
    assert_eq!(failed["error"], "the webhook was removed");
    app.finish().await;
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let app = start().await;
    let elsewhere = Receiver::start().await;
    let targets = [
        elsewhere.url.clone(),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ];
    let receiver = Receiver::answering(move |before| {
        let answer = Response::builder()
            .status(307)
            .header("location", &targets[before % 2]);
        Reply(Duration::ZERO, answer.body(Body::empty()).expect("an answer"))
    })
    .await;
    let tx = app.settle(&called_back(&receiver.url)).await.id();
    let tried = |delivery: &Value| {
        delivery["attempts"]
            .as_array()
            .is_some_and(|attempts| attempts.len() >= 4)
    };
    let noted = delivery(&app, &tx, "is tried", tried).await;
    for attempt in noted["attempts"].as_array().expect("attempts") {
        assert_eq!(attempt["status"], 307);
        let error = attempt["error"].as_str().expect("a text");
        assert!(error.contains("redirects are not followed"), "{error}");
    }
    assert_eq!(elsewhere.count(), 0);
    app.finish().await;
}

#[tokio::test]
async fn who_asks_for_time_gets_it() {
    let app = start().await;
    let receiver = Receiver::answering(|before| match before {
        0 => {
            let answer = Response::builder().status(503).header("retry-after", "2");
            Reply(Duration::ZERO, answer.body(Body::empty()).expect("an answer"))
        }
        _ => 200.into(),
    })
    .await;
    app.settle(&called_back(&receiver.url)).await;
    let got = receiver.wait_for(2).await;
    let distance = got[1].at - got[0].at;
    assert!(
        distance >= Duration::from_millis(1_900),
        "after {distance:?}, instead of 2 s"
    );
    app.finish().await;
}

/// What a receiver says beside its status is not read to its end, not kept and not shown.
#[tokio::test]
async fn i7_an_endless_answer_is_cut_off_and_not_shown() {
    let app = start().await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    let receiver = Receiver::answering(move |before| {
        let counted = counted.clone();
        let chunks = futures_util::stream::repeat_with(move || {
            counted.fetch_add(64 << 10, std::sync::atomic::Ordering::Relaxed);
            Ok::<_, std::io::Error>(b"secret".repeat(10_923))
        });
        let status = if before == 0 { 500 } else { 200 };
        let answer = Response::builder()
            .status(status)
            .body(Body::from_stream(chunks.boxed()));
        Reply(Duration::ZERO, answer.expect("an answer"))
    })
    .await;
    let tx = app.settle(&called_back(&receiver.url)).await.id();
    let noted = delivery(&app, &tx, "is received", is("delivered")).await;
    assert!(!noted.to_string().contains("secret"), "{noted}");
    let sent = sent.load(std::sync::atomic::Ordering::Relaxed);
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    app.finish().await;
}

/// I9: the one hangs until the time is over, the other is told at once all the same.
#[tokio::test]
async fn i9_an_endpoint_that_is_down_slows_no_other() {
    const EVENTS: usize = 200;
    let app = TestApp::with(|settings| {
        told(settings);
        settings.webhooks.max_in_flight = std::num::NonZeroU32::new(8).expect("not zero");
        settings.webhooks.timeout = Duration::from_secs(3);
        settings.webhooks.retry_min = Duration::from_secs(60);
        settings.webhooks.retry_max = Duration::from_secs(60);
    })
    .await;
    let hangs = Receiver::answering(|_| Reply(Duration::from_secs(60), Response::default())).await;
    let well = Receiver::start().await;
    endpoint(&app, &json!({"url": hangs.url})).await;
    endpoint(&app, &json!({"url": well.url})).await;
    let posts: Vec<_> = (0..EVENTS)
        .map(|number| {
            let request = app
                .request("POST", "/v1/transactions")
                .json(&add(&format!("hits{number}"), 1));
            spawn(async move { request.send().await.expect("an answer").status() })
        })
        .collect();
    for post in posts {
        assert_eq!(post.await.expect("posts"), 202);
    }
    well.wait_for(EVENTS).await;
    // Two of eight places at a time, five failures, and one probe a minute from then on.
    assert!(
        hangs.count() <= 12,
        "{} went to the one that hangs",
        hangs.count()
    );
    let pending = app
        .get("/v1/deliveries?state=pending&limit=500")
        .await
        .expect(200)
        .json();
    assert!(
        pending["items"].as_array().expect("items").len() > EVENTS / 2,
        "what it did not get waits"
    );
    app.drain().await;
    app.leave().await;
}
