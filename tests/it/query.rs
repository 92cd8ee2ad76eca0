//! `POST /v1/query`: asks the ledger, stores nothing.

use insta::assert_json_snapshot;
use serde_json::{Value, json};

use crate::support::{Answer, TestApp, add, with};

async fn query(app: &TestApp, body: &Value) -> Answer {
    app.send(app.request("POST", "/v1/query").json(body)).await
}

fn get(key: &str) -> Value {
    json!({"ledger": "main", "contract": "counter", "function": "Get", "args": [key]})
}

#[tokio::test]
async fn a_query_shows_what_is_committed() {
    let app = TestApp::start().await;
    let answer = query(&app, &get("hits")).await.expect(200);
    assert_eq!(answer.text, r#"{"result":0}"#);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let large = "170141183460469231731687303715884105727";
    app.settle(&with(add("hits", 0), "args", json!(["hits", large])))
        .await;
    assert_eq!(
        query(&app, &get("hits")).await.text,
        format!(r#"{{"result":{large}}}"#)
    );
    app.finish().await;
}

#[tokio::test]
async fn a_query_neither_writes_nor_leaves_a_record() {
    let app = TestApp::start().await;
    let mut body = add("hits", 5);
    assert_eq!(query(&app, &body).await.expect(200).text, r#"{"result":5}"#);
    body["function"] = "Set".into();
    assert_eq!(query(&app, &body).await.expect(200).text, r#"{"result":null}"#);
    assert_eq!(app.counter("hits").await, 0);
    assert!(app.list("").await.is_empty());
    app.finish().await;
}

#[tokio::test]
async fn a_query_that_cannot_be_answered_says_why() {
    let app = TestApp::start().await;
    let unknown = query(&app, &with(get("hits"), "function", "Got")).await;
    unknown.problem(422, "SG-0014");
    assert_json_snapshot!("query_unknown_function", unknown.json());
    let contract = query(&app, &with(get("hits"), "contract", "count")).await;
    contract.problem(422, "SG-0014");
    let refused = query(&app, &with(get("hits"), "args", json!([]))).await;
    let detail = refused.problem(422, "SG-0014")["detail"].to_string();
    assert!(detail.contains("Get takes 1 argument (name), got 0"), "{detail}");
    let ledger = query(&app, &with(get("hits"), "ledger", "other")).await;
    ledger.problem(422, "SG-0002");
    assert_json_snapshot!("query_unknown_ledger", ledger.json());
    app.finish().await;
}

#[tokio::test]
async fn a_query_is_read_as_strictly_as_a_transaction() {
    let app = TestApp::start().await;
    query(&app, &with(get("hits"), "metadata", json!({})))
        .await
        .fault(422, "SG-0002", "/metadata");
    query(&app, &with(get("hits"), "args", 5))
        .await
        .fault(422, "SG-0002", "/args");
    query(&app, &with(get("hits"), "contract", json!(null)))
        .await
        .fault(422, "SG-0002", "/contract");
    query(&app, &json!(["main", "counter", "Get", ["hits"]]))
        .await
        .fault(422, "SG-0002", "");
    query(&app, &json!("Get")).await.fault(422, "SG-0002", "");
    let request = app
        .request("POST", "/v1/query")
        .header("content-type", "application/json");
    app.send(request.body("{")).await.problem(400, "SG-0001");
    app.send(app.request("GET", "/v1/query"))
        .await
        .problem(405, "SG-0006");
    app.finish().await;
}
