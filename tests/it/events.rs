//! Streams of events: nothing is missed, nothing comes twice, and nobody holds the others up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sluicegate::clock::{Clock, SystemClock};

use crate::access::{asked, make_key, operator};
use crate::support::events::{Event, Events};
use crate::support::{TestApp, add, ledger, simulator, with};

impl TestApp {
    fn events(&self, query: &str) -> RequestBuilder {
        self.request("GET", &format!("/v1/events?{query}"))
    }
}

fn id_of(event: &Event) -> String {
    event.data["id"].as_str().expect("an id").to_owned()
}

/// Reads until so many transactions have settled, each once and with growing versions.
async fn settled(events: &mut Events, wanted: usize) -> (BTreeSet<String>, String) {
    let (mut versions, mut done, mut last) = (BTreeMap::new(), BTreeSet::new(), String::new());
    while done.len() < wanted {
        let event = events.next().await.expect("an event");
        last = event.id.clone();
        if event.name != "transaction" {
            continue;
        }
        let version = event.data["version"].as_u64().expect("a version");
        let before = versions.insert(id_of(&event), version);
        assert!(
            before.is_none_or(|before| before < version),
            "told twice: {event:?}"
        );
        if event.data["status"] != "pending" {
            assert!(done.insert(id_of(&event)), "settled twice: {event:?}");
        }
    }
    (done, last)
}

#[tokio::test]
async fn a_record_is_told_as_it_is_read_and_every_settlement_once() {
    let app = TestApp::start().await;
    let mut events = Events::open(app.events("")).await;
    events.expect("ready").await;
    for n in 0..20 {
        app.post(&add(&format!("key {n}"), 1)).await.expect(202);
    }
    let (done, _) = settled(&mut events, 20).await;
    let listed: BTreeSet<_> = app
        .list("status=done")
        .await
        .iter()
        .map(|record| record["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(done, listed);
    let record = app.settle(&add("last", 1)).await.json();
    let event = events.until(|event| event.data["status"] == "done").await;
    assert_eq!(event.last().expect("an event").data, record, "as it is read");
    assert!(events.is_silent(Duration::from_millis(300)).await);
    drop(events);
    app.finish().await;
}

#[tokio::test]
async fn i1_who_comes_back_goes_on_right_behind_even_after_a_restart() {
    let app = TestApp::start().await;
    let mut events = Events::open(app.events("")).await;
    let start = events.expect("ready").await.id;
    for n in 0..10 {
        app.settle(&add(&format!("key {n}"), 1)).await;
    }
    let (first, last) = settled(&mut events, 5).await;
    drop(events);
    let app = app.reopen(|_| {}).await;
    for n in 0..10 {
        app.settle(&add(&format!("other {n}"), 1)).await;
    }
    // By the header, as a browser does it, and by the address.
    for by_header in [true, false] {
        let request = match by_header {
            true => app.events("").header("last-event-id", &last),
            false => app.events(&format!("last_event_id={last}")),
        };
        let mut events = Events::open(request).await;
        assert_eq!(events.expect("ready").await.id, last);
        let (rest, _) = settled(&mut events, 15).await;
        assert!(first.is_disjoint(&rest), "told again");
        assert!(events.is_silent(Duration::from_millis(200)).await);
    }
    let mut events = Events::open(app.events("").header("last-event-id", &start)).await;
    events.expect("ready").await;
    settled(&mut events, 20).await;
    drop(events);
    app.finish().await;
}

#[tokio::test]
async fn a_stream_is_narrowed_as_a_list_is() {
    let app = TestApp::start().await;
    let mut events = Events::open(app.events("status=done&metadata.order=4711")).await;
    events.expect("ready").await;
    app.settle(&add("a", 1)).await;
    app.settle(&with(add("b", 1), "metadata", json!({"order": "4712"})))
        .await;
    let wanted = app
        .settle(&with(add("c", 1), "metadata", json!({"order": "4711"})))
        .await;
    assert_eq!(events.expect("transaction").await.data, wanted.json());
    drop(events);
    app.finish().await;
}

#[tokio::test]
async fn one_transaction_is_followed_to_its_end() {
    let app = TestApp::with(|settings| {
        ledger(settings).backend = simulator(300, 100);
    })
    .await;
    let id = app.post(&add("hits", 1)).await.expect(202).id();
    let path = format!("/v1/transactions/{id}/events");
    let mut events = Events::open(app.request("GET", &path)).await;
    events.expect("ready").await;
    let mut versions = Vec::new();
    let mut last = Value::Null;
    while let Some(event) = events.next().await {
        assert_eq!(event.id, event.data["version"].to_string());
        versions.push(event.data["version"].as_u64().expect("a version"));
        last = event.data;
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert_eq!(last, app.record(&id).await);
    // Nothing is left to tell, and a browser is told not to come back.
    let again = app
        .request("GET", &path)
        .header("last-event-id", versions.last().expect("one").to_string());
    app.send(again).await.expect(204);
    let mut again = Events::open(app.request("GET", &path)).await;
    again.expect("ready").await;
    assert_eq!(again.expect("transaction").await.data, last);
    assert_eq!(again.next().await, None);
    app.finish().await;
}

#[tokio::test]
async fn a_position_that_is_not_known_begins_anew_and_says_so() {
    let app = TestApp::start().await;
    app.settle(&add("hits", 1)).await;
    let mut events = Events::open(app.events("last_event_id=1-1")).await;
    events.expect("reset").await;
    app.settle(&add("hits", 1)).await;
    let told = events.until(|event| event.data["status"] == "done").await;
    assert!(
        told.iter().all(|event| event.data["version"] != Value::Null),
        "{told:?}"
    );
    let refused = app.get("/v1/events?last_event_id=yesterday").await;
    refused.fault(400, "SG-0009", "#query/last_event_id");
    let refused = app.get("/v1/events?limit=3").await.expect(400);
    assert_eq!(refused.json()["errors"][0]["pointer"], "#query/limit");
    drop(events);
    app.finish().await;
}

#[tokio::test]
async fn a_silent_stream_gives_signs_of_life_and_ends_with_the_process() {
    let app = TestApp::with(|settings| {
        settings.http.stream_heartbeat = Duration::from_millis(100);
        settings.shutdown.drain = Duration::from_secs(20);
        settings.http.max_streams = 2;
    })
    .await;
    let mut events = Events::open(app.events("")).await;
    events.expect("ready").await;
    assert!(events.is_silent(Duration::from_millis(500)).await);
    assert!(events.heartbeats >= 2, "{}", events.heartbeats);
    let _second = Events::open(app.events("")).await;
    let refused = app.send(app.events("")).await.expect(503);
    assert_eq!(
        (refused.json()["code"].as_str(), refused.header("retry-after")),
        (Some("SG-0026"), Some("5"))
    );
    let begun = std::time::Instant::now();
    app.leave().await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "it waited for those who follow"
    );
    assert_eq!(events.next().await, None);
}

/// A position moves on with what does not concern a client, so that it does not come back to it.
#[tokio::test]
async fn what_passes_by_moves_the_position() {
    let app = TestApp::with(|settings| settings.http.stream_heartbeat = Duration::from_millis(50)).await;
    let mut events = Events::open(app.events("metadata.order=none")).await;
    let start = events.expect("ready").await.id;
    app.settle(&add("hits", 1)).await;
    assert_ne!(events.expect("position").await.id, start);
    drop(events);
    app.finish().await;
}

#[tokio::test]
async fn i7_who_does_not_read_holds_nobody_up_and_gets_all_in_the_end() {
    let app = TestApp::start().await;
    let mut lazy = Events::open(app.events("status=done")).await;
    let mut keen = Events::open(app.events("status=done")).await;
    let metadata = json!({"filling": "x".repeat(500)});
    let items: Vec<_> = (0..1_000)
        .map(|n| with(add(&format!("key {n}"), 1), "metadata", metadata.clone()))
        .collect();
    for _ in 0..2 {
        app.send(app.request("POST", "/v1/transactions/batch").json(&items))
            .await
            .expect(200);
        settled(&mut keen, 1_000).await;
    }
    settled(&mut lazy, 2_000).await;
    drop((lazy, keen));
    app.finish().await;
}

#[tokio::test]
async fn i9_with_its_key_a_stream_ends() {
    let app = TestApp::with(|settings| settings.http.stream_heartbeat = Duration::from_millis(100)).await;
    let operator = operator(&app).await;
    let (id, key) = make_key(&app, Some(&operator), &json!({"name": "erp", "scopes": ["read"]})).await;
    let submit = async |body: &Value| {
        asked(&app, &operator, "POST", "/v1/transactions", Some(body))
            .await
            .expect(202)
            .json()
    };
    let later = SystemClock.now().plus(Duration::from_secs(3_600));
    let waits = submit(&with(add("a", 1), "not_before", json!(later.to_string()))).await;
    let one = format!("/v1/transactions/{}/events", waits["id"].as_str().expect("an id"));
    let mut streams = Vec::new();
    for path in ["/v1/events", &one] {
        let mut events = Events::open(app.request("GET", path).bearer_auth(&key)).await;
        events.expect("ready").await;
        streams.push(events);
    }
    streams[1].expect("transaction").await;
    asked(&app, &operator, "DELETE", &format!("/v1/keys/{id}"), None)
        .await
        .expect(200);
    submit(&add("b", 1)).await;
    for events in &mut streams {
        assert_eq!(events.next().await, None, "what came after the key is not told");
    }
    app.leave().await;
}

#[tokio::test]
async fn i9_a_tenant_leaves_streams_to_others() {
    let app = TestApp::with(|settings| settings.http.max_streams = 4).await;
    let operator = operator(&app).await;
    let mut open = Vec::new();
    for (tenant, most) in [("acme", 3), ("globex", 1)] {
        let order = json!({"name": tenant, "tenant": tenant, "scopes": ["read"]});
        let (_, key) = make_key(&app, Some(&operator), &order).await;
        for _ in 0..most {
            open.push(Events::open(app.events("").bearer_auth(&key)).await);
        }
        app.send(app.events("").bearer_auth(&key))
            .await
            .problem(503, "SG-0026");
    }
    drop(open);
    app.leave().await;
}
