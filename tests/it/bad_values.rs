//! I10: values out of their bounds are refused with the field at fault, all of them at once.

use insta::assert_json_snapshot;
use serde_json::{Value, json};

use crate::support::{TestApp, add, with};

#[tokio::test]
async fn i10_values_out_of_bounds() {
    let app = TestApp::start().await;
    let many = |count: usize| -> Value { (0..count).map(|n| (n.to_string(), json!("MQ=="))).collect() };
    for (field, value, pointer) in [
        ("ledger", json!("other"), "/ledger"),
        ("ledger", json!("Main"), "/ledger"),
        ("ledger", json!(""), "/ledger"),
        ("ledger", json!("../main"), "/ledger"),
        ("contract", json!("count"), "/contract"),
        ("contract", json!(""), "/contract"),
        ("contract", json!("count\u{0}er"), "/contract"),
        ("contract", json!("c".repeat(129)), "/contract"),
        ("function", json!("Subtract"), "/function"),
        ("function", json!(""), "/function"),
        ("function", json!("Add\r\nSet"), "/function"),
        ("function", json!("Add\u{7f}"), "/function"),
        ("args", json!(vec![1; 1_001]), "/args"),
        ("args", json!(vec![1; 10_000]), "/args"),
        ("transient", json!({"price": "not base64!"}), "/transient/price"),
        ("transient", many(65), "/transient"),
        ("conflict_keys", json!(vec!["k"; 65]), "/conflict_keys"),
        ("conflict_keys", json!(["ok", ""]), "/conflict_keys/1"),
        ("conflict_keys", json!(["k".repeat(257)]), "/conflict_keys/0"),
        ("expires_in_seconds", json!(0), "/expires_in_seconds"),
        ("expires_in_seconds", json!(40_000_000), "/expires_in_seconds"),
        ("metadata", many(33), "/metadata"),
        ("metadata", json!({"": "x"}), "/metadata/"),
        ("metadata", json!({"order": "x".repeat(513)}), "/metadata/order"),
    ] {
        let answer = app.post(&with(add("hits", 1), field, value)).await;
        assert_eq!(answer.status, 422, "{pointer}: {}", answer.text);
        answer.fault(422, "SG-0002", pointer);
    }
    let mut body = with(add("hits", 1), "contract", "");
    body["expires_in_seconds"] = json!(0);
    body["metadata"] = json!({"": ""});
    body["ledger"] = json!("other");
    assert_json_snapshot!("all_faults_at_once", app.post(&body).await.json());
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_nesting_is_bounded_without_recursion() {
    let app = TestApp::start().await;
    let nested = |open: &str, close: &str, depth: usize| open.repeat(depth) + "1" + &close.repeat(depth);
    let body = |field: &str, value: &str| {
        format!(r#"{{"ledger":"main","contract":"counter","function":"Add","{field}":{value}}}"#)
    };
    for depth in [65, 100, 100_000] {
        let deep = nested("[", "]", depth);
        let answer = app.post_bytes(body("args", &format!("[\"hits\",{deep}]"))).await;
        answer.fault(422, "SG-0002", "/args/1");
        let answer = app
            .post_bytes(body("metadata", &format!("{{\"a\":{deep}}}")))
            .await;
        answer.fault(422, "SG-0002", "/metadata/a");
        app.post_bytes(body("callback_url", &deep))
            .await
            .fault(422, "SG-0002", "/callback_url");
        app.post_bytes(body("unknown", &deep))
            .await
            .fault(422, "SG-0002", "/unknown");
        app.post_bytes(deep).await.fault(422, "SG-0002", "");
    }
    let deep = nested("{\"a\":", "}", 100_000);
    app.post_bytes(body("args", &format!("[{deep}]")))
        .await
        .fault(422, "SG-0002", "/args/0");
    app.finish_untouched().await;
}
