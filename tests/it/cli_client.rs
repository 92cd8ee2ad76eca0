//! `submit`, `get` and `list` against a running gateway.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::cli::{self, Ended};
use crate::support::{TestApp, add};

async fn run(app: &TestApp, words: &[&str]) -> Ended {
    let url = app.url("");
    cli::run(&[words, &["--url", &url]].concat()).await
}

const ADD: [&str; 5] = ["submit", "--contract", "counter", "--function", "Add"];

#[tokio::test]
async fn submit_waits_and_prints_the_record() {
    let app = TestApp::start().await;
    let words = [
        &ADD[..],
        &[
            "--args-json",
            "[\"hits\", 7]",
            "--metadata",
            "order=4711",
            "--wait",
        ],
    ]
    .concat();
    let ended = run(&app, &words).await.expect(0);
    let record: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(record["status"], "done");
    assert_eq!(record["metadata"], json!({"order": "4711"}));
    assert_eq!(record, app.record(record["id"].as_str().expect("an id")).await);
    assert_eq!(app.counter("hits").await, 7);
    app.finish().await;
}

#[tokio::test]
async fn submit_tells_failure_and_refusal_apart_from_success() {
    let app = TestApp::start().await;
    let failing = [
        "submit",
        "--contract",
        "basic",
        "--function",
        "ReadAsset",
        "--arg",
        "none",
        "--wait",
        "30",
    ];
    let failed = run(&app, &failing).await.expect(1);
    assert!(
        failed.out.contains("the asset none does not exist"),
        "{failed:#?}"
    );
    let refused = run(&app, &["submit", "--contract", "count", "--function", "Add"])
        .await
        .expect(1);
    assert!(
        refused.err.contains("422 SG-0002") && refused.err.contains("/contract"),
        "{refused:#?}"
    );
    assert_eq!(refused.out, "");
    let spaced = run(&app, &[&ADD[..], &["--idempotency-key", "order 1"]].concat()).await;
    assert_ne!(spaced.code, 0, "{spaced:#?}");
    app.finish().await;
}

#[tokio::test]
async fn submit_with_a_key_has_one_effect() {
    let app = TestApp::start().await;
    let words = [
        &ADD[..],
        &[
            "--arg",
            "hits",
            "--arg",
            "1",
            "--idempotency-key",
            "order-1",
            "--wait",
        ],
    ]
    .concat();
    let first = run(&app, &words).await.expect(0);
    assert_eq!(run(&app, &words).await.expect(0).out, first.out);
    assert_eq!(app.counter("hits").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn submit_file_goes_on_past_a_bad_line() {
    let app = TestApp::start().await;
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("orders.ndjson");
    let mut keyed = add("hits", 1);
    keyed["idempotency_key"] = "order-1".into();
    let refused = json!({"ledger": "main", "contract": "counter", "function": "Subtract"});
    let lines = [
        add("hits", 1).to_string(),
        keyed.to_string(),
        "{not json".into(),
        refused.to_string(),
        keyed.to_string(),
    ];
    std::fs::write(&file, lines.join("\n")).expect("writes");
    let file = file.to_str().expect("UTF-8");
    let ended = run(&app, &["submit", "--file", file, "--wait", "30"])
        .await
        .expect(1);
    assert!(ended.err.contains("line 3: is not a JSON object"), "{ended:#?}");
    assert!(ended.err.contains("line 4: refused (422 SG-0002)"), "{ended:#?}");
    let summary: Vec<Vec<&str>> = ended
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    for expected in [
        ["accepted", "3"],
        ["done", "3"],
        ["failed", "0"],
        ["refused", "1"],
    ] {
        assert!(
            summary.iter().any(|line| line[..] == expected),
            "{expected:?}: {ended:#?}"
        );
    }
    assert!(summary.contains(&vec!["bad", "lines", "1"]), "{ended:#?}");
    assert_eq!(app.list("").await.len(), 2, "two lines had one key");
    assert_eq!(app.counter("hits").await, 2);
    app.finish().await;
}

#[tokio::test]
async fn get_shows_a_record_and_its_attempts() {
    let app = TestApp::start().await;
    let id = app.settle(&add("hits", 1)).await.id();
    let ended = run(&app, &["get", &id, "--attempts"]).await.expect(0);
    let documents: Vec<Value> = serde_json::Deserializer::from_str(&ended.out)
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("JSON");
    let attempts = app.get(&format!("/v1/transactions/{id}/attempts")).await.json();
    assert_eq!(documents, [app.record(&id).await, attempts]);
    let missing = run(&app, &["get", "01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f"])
        .await
        .expect(1);
    assert!(missing.err.contains("404 SG-0004"), "{missing:#?}");
    run(&app, &["get", "4711"]).await.expect(2);
    app.finish().await;
}

#[tokio::test]
async fn list_prints_lines_of_json_over_pages() {
    let app = TestApp::start().await;
    let accepted = (0..101).map(|number| {
        let (app, body) = (&app, add(&format!("k{number}"), 1));
        async move { app.post(&body).await.expect(202) }
    });
    join_all(accepted).await;
    app.drain().await;
    let ended = run(&app, &["list", "--json", "--all", "--status", "done"])
        .await
        .expect(0);
    let listed: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(listed, app.list("").await);
    let few = run(&app, &["list", "--limit", "2"]).await.expect(0);
    assert_eq!(few.out.lines().count(), 3, "a head and two rows: {few:#?}");
    assert!(few.err.contains("There are more"), "{few:#?}");
    let none = run(&app, &["list", "--json", "--status", "failed"])
        .await
        .expect(0);
    assert_eq!(none.out, "");
    app.finish().await;
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_named() {
    let app = TestApp::start().await;
    let url = app.url("");
    app.finish().await;
    let ended = cli::run(&["list", "--url", &url, "--tries", "2"]).await.expect(1);
    assert!(
        ended.err.contains("no answer from") && ended.err.contains(&url),
        "{ended:#?}"
    );
}
