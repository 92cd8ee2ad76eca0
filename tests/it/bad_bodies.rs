//! I10: a body that is wrong is refused with the field at fault, and nothing is stored.

use insta::assert_json_snapshot;
use serde_json::json;

use crate::support::{TestApp, add, with};

#[tokio::test]
async fn i10_what_is_not_json() {
    let app = TestApp::start().await;
    let good = add("hits", 1).to_string();
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"   ".to_vec(),
        b"{".to_vec(),
        b"hello".to_vec(),
        good.as_bytes()[..good.len() - 1].to_vec(),
        good.replace("hits", "hits\n").into_bytes(),
        good.replace(",", ",,").into_bytes(),
        good.replace('"', "'").into_bytes(),
        [good.as_bytes(), b"x"].concat(),
        [good.replace("hits", "").split_at(60).0.as_bytes(), b"\xff\xfe"].concat(),
        br#"{"ledger":"main","contract":"counter","function":"Add","args":["h"#
            .iter()
            .copied()
            .chain(*b"\xc3\x28\",1]}")
            .collect(),
        [b"\xef\xbb\xbf", good.as_bytes()].concat(),
        good.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        vec![0; 100],
        b"[".repeat(100_000),
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let answer = app.post_bytes(body).await;
        assert_eq!(answer.status, 400, "{shown}: {}", answer.text);
        answer.problem(400, "SG-0001");
    }
    assert_json_snapshot!(
        "malformed_json",
        app.post_bytes(r#"{"ledger": main}"#).await.json()
    );
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_fields_of_the_wrong_type() {
    let app = TestApp::start().await;
    for (field, value, pointer) in [
        ("ledger", json!(5), "/ledger"),
        ("ledger", json!(null), "/ledger"),
        ("contract", json!(["counter"]), "/contract"),
        ("function", json!({}), "/function"),
        ("args", json!(5), "/args"),
        ("args", json!("hits"), "/args"),
        ("args", json!({"0": "hits"}), "/args"),
        ("args", json!(null), "/args"),
        ("transient", json!({"price": 100}), "/transient/price"),
        ("transient", json!([]), "/transient"),
        ("conflict_keys", json!("hits"), "/conflict_keys"),
        ("conflict_keys", json!(["hits", 5]), "/conflict_keys/1"),
        ("expires_in_seconds", json!("60"), "/expires_in_seconds"),
        ("expires_in_seconds", json!(1.5), "/expires_in_seconds"),
        ("expires_in_seconds", json!(-1), "/expires_in_seconds"),
        (
            "expires_in_seconds",
            json!(4_294_967_296_u64),
            "/expires_in_seconds",
        ),
        ("metadata", json!("order"), "/metadata"),
        ("metadata", json!({"order": 4711}), "/metadata/order"),
        ("metadata", json!({"a/b~c": null}), "/metadata/a~1b~0c"),
        ("callback_url", json!(7), "/callback_url"),
        ("callback_url", json!([[["deep"]]]), "/callback_url"),
        ("priority", json!(1), "/priority"),
    ] {
        let answer = app.post(&with(add("hits", 1), field, value.clone())).await;
        assert_eq!(answer.status, 422, "{field} {value}: {}", answer.text);
        let detail = answer.fault(422, "SG-0002", pointer);
        assert!(
            !detail.contains("struct"),
            "our own names are not the client's business: {detail}"
        );
    }
    for body in [json!([]), json!("x"), json!(5), json!(null), json!(true)] {
        app.post_bytes(body.to_string()).await.fault(422, "SG-0002", "");
    }
    let half = add("hits", 1).to_string().replace("hits", "\\ud800");
    app.post_bytes(half).await.fault(422, "SG-0002", "/args/0");
    // As Rust has it, this would be the same as an object.
    let positions = json!(["main", "counter", "Add", ["hits", 1], {}, [], null, {}, null]);
    app.post_bytes(positions.to_string())
        .await
        .fault(422, "SG-0002", "");
    let wrong_type = app
        .post(&with(add("hits", 1), "metadata", json!({"order": 4711})))
        .await;
    assert_json_snapshot!("wrong_type", wrong_type.json());
    let positions = app.post_bytes(positions.to_string()).await;
    assert_json_snapshot!("not_an_object", positions.json());
    app.finish_untouched().await;
}

#[tokio::test]
async fn i10_fields_missing_or_given_twice() {
    let app = TestApp::start().await;
    for field in ["ledger", "contract", "function"] {
        let mut body = add("hits", 1);
        body.as_object_mut().expect("an object").remove(field);
        let pointer = format!("/{field}");
        let detail = app.post(&body).await.fault(422, "SG-0002", &pointer);
        assert!(detail.contains("missing"), "{detail}");
    }
    let all = app.post_bytes("{}").await;
    assert_json_snapshot!("missing_fields", all.json());
    let good = add("hits", 1).to_string();
    for (field, value) in [
        ("args", "[1]"),
        ("function", "\"Set\""),
        ("metadata", "{},\"metadata\":{}"),
    ] {
        let twice = good.replacen('{', &format!("{{\"{field}\":{value},"), 1);
        let detail = app.post_bytes(twice).await.fault(422, "SG-0002", "");
        let expected = format!("duplicate field `{field}`");
        assert!(detail.contains(&expected), "{detail}");
    }
    for (field, value) in [
        ("metadata", r#"{"a":"1","a":"2"}"#),
        ("transient", r#"{"a":"MQ==","a":"Mg=="}"#),
    ] {
        let twice = good.replacen('{', &format!("{{\"{field}\":{value},"), 1);
        let detail = app
            .post_bytes(twice)
            .await
            .fault(422, "SG-0002", &format!("/{field}"));
        assert!(detail.contains("duplicate"), "{detail}");
    }
    app.finish_untouched().await;
}
