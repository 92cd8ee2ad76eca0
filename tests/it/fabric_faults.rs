//! The devnet's control API, its greeting and its folder, as a test or an operator uses them.

use serde_json::json;

use crate::support::cli;
use crate::support::fabric::FabricDevnet;

#[tokio::test]
async fn the_control_api_keeps_a_table_of_faults() {
    let folder = tempfile::tempdir().expect("folder");
    let words = [
        "--fault",
        r#"{"method": "endorse", "action": "delay", "ms": 5}"#,
        "--no-tls",
    ];
    let devnet = FabricDevnet::start(folder.path(), &words).await;
    let fault = json!({"method": "submit", "action": "drop_reply", "count": 2});
    devnet.tell("POST", "/faults", &fault).await;
    let state = devnet.get("/").await;
    assert_eq!(
        state["faults"],
        json!([
            {"id": 1, "method": "endorse", "action": "delay", "ms": 5},
            {"id": 2, "method": "submit", "action": "drop_reply", "count": 2},
        ])
    );
    assert_eq!((&state["height"], &state["crash"]), (&json!(0), &json!(null)));
    devnet.tell("DELETE", "/faults/1", &json!(null)).await;
    assert_eq!(devnet.try_tell("DELETE", "/faults/1", "").await.0, 404);

    devnet.tell("PUT", "/cutting", &json!(false)).await;
    devnet.tell("PUT", "/flowing", &json!(false)).await;
    devnet.tell("PUT", "/crash", &json!("before-order")).await;
    let state = devnet.get("/").await;
    assert_eq!(
        (&state["cutting"], &state["flowing"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(state["crash"], "before-order");
    devnet.tell("DELETE", "/faults", &json!(null)).await;
    let state = devnet.get("/").await;
    assert_eq!(
        (&state["cutting"], &state["flowing"]),
        (&json!(true), &json!(true))
    );
    assert_eq!((&state["faults"], &state["crash"]), (&json!([]), &json!(null)));
    assert_eq!(devnet.get("/transactions").await, json!([]));
    assert_eq!(devnet.get("/readyz").await, json!({"status": "ready"}));

    let wrong = r#"{"method": "submit", "action": "explode"}"#;
    let (status, words) = devnet.try_tell("POST", "/faults", wrong).await;
    assert!(status == 400 && words.contains("explode"), "{status} {words}");
    devnet.stop().await;
}

#[tokio::test]
async fn a_devnet_greets_with_the_section_to_paste() {
    let folder = tempfile::tempdir().expect("folder");
    let devnet = FabricDevnet::start(folder.path(), &["--orgs", "3"]).await;
    let written = std::fs::read_to_string(folder.path().join("gateway.toml")).expect("a file");
    assert_eq!(written.trim(), devnet.section.trim(), "greeted and written alike");
    let ledger: toml::Table = written.parse().expect("TOML");
    let ledger = &ledger["ledgers"]["main"];
    assert_eq!(ledger["kind"].as_str(), Some("fabric"));
    let peer = format!("https://{}", devnet.address);
    assert_eq!(
        ledger["peers"].as_array().expect("a list")[0].as_str(),
        Some(&*peer)
    );
    let mut kept = Vec::new();
    for key in ["certificate", "private_key", "tls_ca"] {
        let path = ledger[key].as_str().expect("a path").to_owned();
        let pem = std::fs::read_to_string(&path).expect("a file");
        assert!(
            path.starts_with('/') && pem.starts_with("-----BEGIN "),
            "{path}: {pem}"
        );
        kept.push((path, pem));
    }
    assert!(folder.path().join("org3/user.pem").exists());
    devnet.stop().await;

    let again = FabricDevnet::start(folder.path(), &["--orgs", "3"]).await;
    for (path, pem) in kept {
        assert_eq!(
            std::fs::read_to_string(path).expect("a file"),
            pem,
            "a later start uses the same"
        );
    }
    again.stop().await;
    let data = folder.path().to_str().expect("UTF-8");
    let other = [
        "devnet",
        "--listen",
        "127.0.0.1:0",
        "--data",
        data,
        "--channel",
        "other",
    ];
    let refusal = cli::run(&other).await.expect(1).err;
    assert!(
        refusal.contains("\"mychannel\"") && refusal.contains("--channel"),
        "{refusal}"
    );
    let wrong = ["devnet", "--fault", "{}"];
    cli::run(&wrong).await.expect(2);
}
