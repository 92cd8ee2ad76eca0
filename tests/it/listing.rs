//! `GET /v1/transactions`: filters, their combinations, and what they refuse.

use insta::assert_json_snapshot;
use serde_json::{Value, json};
use sluicegate::domain::LedgerName;

use crate::support::{TestApp, add, ledger, stall, with};

/// Two ledgers: `main` works, `slow` submits nothing.
async fn two_ledgers() -> TestApp {
    TestApp::with(|settings| {
        let mut slow = ledger(settings).clone();
        slow.worker.rate_per_second = 0.001;
        settings
            .ledgers
            .insert(LedgerName::new("slow").expect("a name"), slow);
    })
    .await
}

/// What each listed record calls itself.
async fn names(app: &TestApp, query: &str) -> Vec<String> {
    let names = app.list(query).await.into_iter();
    names
        .map(|record| record["metadata"]["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn named(body: Value, name: &str) -> Value {
    with(body, "metadata", json!({"name": name, "kind/of~it": "x y&z"}))
}

#[tokio::test]
async fn filters_select_and_combine() {
    let app = two_ledgers().await;
    let mint = json!({"ledger": "main", "contract": "token", "function": "Mint", "args": ["tomoko", "5"]});
    let transfer =
        json!({"ledger": "main", "contract": "token", "function": "Transfer", "args": ["a", "b", "1"]});
    app.settle(&named(mint.clone(), "mint")).await;
    app.settle(&named(transfer, "broke")).await;
    app.settle(&add("hits", 1)).await;
    app.settle(&named(add("hits", 1), "add")).await;
    app.post(&named(with(mint, "ledger", "slow"), "slow"))
        .await
        .expect(202);

    for (query, expected) in [
        (
            "metadata.kind/of~it=x%20y%26z",
            &["slow", "add", "broke", "mint"][..],
        ),
        ("metadata.kind/of~it=x+y%26z&metadata.name=add", &["add"]),
        ("metadata.name=nobody", &[]),
        ("metadata.nothing=", &[]),
        ("status=pending", &["slow"]),
        ("status=failed", &["broke"]),
        ("status=done&contract=token", &["mint"]),
        ("status=done&stage=queued", &[]),
        ("stage=queued", &["slow"]),
        ("stage=backoff", &[]),
        ("ledger=slow", &["slow"]),
        ("ledger=nowhere", &[]),
        ("contract=token", &["slow", "broke", "mint"]),
        ("contract=token&function=Mint", &["slow", "mint"]),
        ("contract=token&function=Mint&ledger=main", &["mint"]),
        ("contract=token&function=mint", &[]),
    ] {
        assert_eq!(names(&app, query).await, expected, "{query}");
    }
    assert_eq!(app.list("").await.len(), 5);
    app.leave().await;
}

#[tokio::test]
async fn a_span_of_time_has_its_start_and_not_its_end() {
    let app = TestApp::stalled().await;
    let mut moments: Vec<String> = Vec::new();
    for name in ["one", "two", "three"] {
        let record = app.post(&named(add("hits", 1), name)).await.expect(202).json();
        let at = record["created_at"].as_str().expect("a moment").to_owned();
        // The next one has to be younger, and moments are told in milliseconds.
        while now_millis() <= millis(&at) {
            tokio::task::yield_now().await;
        }
        moments.push(at);
    }
    let [one, two, three] = moments.try_into().expect("three");
    let offset = two.replace('Z', "+00:00");
    for (query, expected) in [
        (format!("created_from={one}"), &["three", "two", "one"][..]),
        (format!("created_from={two}"), &["three", "two"]),
        (format!("created_before={two}"), &["one"]),
        (format!("created_from={two}&created_before={three}"), &["two"]),
        (format!("created_from={offset}&created_before={three}"), &["two"]),
        (format!("created_from={three}&created_before={one}"), &[]),
        ("created_from=2999-01-01T00:00:00Z".to_owned(), &[]),
        ("created_before=1999-01-01T00:00:00Z".to_owned(), &[]),
    ] {
        assert_eq!(names(&app, &query).await, expected, "{query}");
    }
    app.leave().await;
}

fn millis(moment: &str) -> u64 {
    sluicegate::domain::Timestamp::parse_rfc3339(moment)
        .expect("a moment")
        .as_millis()
}

fn now_millis() -> u64 {
    use sluicegate::clock::{Clock, SystemClock};
    SystemClock.now().as_millis()
}

#[tokio::test]
async fn a_parameter_that_is_wrong_is_named() {
    let app = TestApp::with(stall).await;
    for (name, value) in [
        ("status", "settled"),
        ("status", ""),
        ("status", "DONE"),
        ("stage", "done"),
        ("ledger", "Main"),
        ("ledger", ""),
        ("created_from", "yesterday"),
        ("created_from", "2026-01-31"),
        ("created_before", "1769860800"),
        ("limit", "0"),
        ("limit", "501"),
        ("limit", "-1"),
        ("limit", "ten"),
        ("cursor", ""),
        ("cursor", "nonsense"),
        ("cursor", "AZVvPowbfgKbHQ8m=="),
        ("offset", "10"),
        ("metadata", "x"),
        ("metadata[order]", "x"),
    ] {
        let answer = app
            .send(app.request("GET", "/v1/transactions").query(&[(name, value)]))
            .await;
        answer.fault(400, "SG-0009", &format!("#query/{name}"));
    }
    let twice = app.get("/v1/transactions?status=done&status=failed").await;
    twice.fault(400, "SG-0009", "#query/status");
    assert_json_snapshot!("bad_parameter", app.get("/v1/transactions?limit=0").await.json());
    app.finish().await;
}
