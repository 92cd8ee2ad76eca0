//! `store check`, `repair` and `compact`: beside a running gateway refused, on a stopped one of use.

use std::path::Path;

use serde_json::json;

use crate::support::cli::{self, Ended};
use crate::support::{TestApp, add};

async fn store(action: &str, data: &Path) -> Ended {
    let folder = tempfile::tempdir().expect("folder");
    let config = folder.path().join("config.toml");
    std::fs::write(&config, format!("[store]\npath = {data:?}\n")).expect("writes");
    cli::run(&["store", action, "--config", config.to_str().expect("UTF-8")]).await
}

#[tokio::test]
async fn a_running_gateway_keeps_its_store_to_itself() {
    let app = TestApp::start().await;
    app.settle(&add("hits", 1)).await;
    for action in ["check", "repair", "compact"] {
        let ended = store(action, app.data()).await.expect(1);
        let holder = format!("is in use by process {};", std::process::id());
        assert!(ended.err.contains(&holder), "{ended:#?}");
    }
    app.settle(&add("hits", 1)).await;
    app.finish().await;
}

#[tokio::test]
async fn a_stopped_store_is_checked_repaired_and_compacted_without_a_change() {
    let app = TestApp::start().await;
    for _ in 0..5 {
        app.settle(&add("hits", 1)).await;
    }
    app.settle(&json!({"ledger": "main", "contract": "basic", "function": "ReadAsset", "args": ["none"]}))
        .await;
    let app = app.reopen(crate::support::stall).await;
    app.post_keyed("order-1", &add("hits", 1)).await.expect(202);
    let before = app.get("/v1/transactions").await.text;
    let stopped = app.leave().await;

    for action in ["check", "repair", "compact", "check"] {
        let ended = store(action, &stopped.data).await.expect(0);
        match action {
            "check" => {
                for line in [
                    "5 done on main",
                    "1 failed on main",
                    "1 pending on main",
                    "7 records can be read",
                    "all is well",
                ] {
                    assert!(ended.out.contains(line), "{line}: {ended:#?}");
                }
            }
            "repair" => assert!(ended.out.contains("there was nothing to mend"), "{ended:#?}"),
            _ => assert!(ended.out.contains(" before, "), "{ended:#?}"),
        }
    }

    let app = stopped.reopen(crate::support::stall).await;
    assert_eq!(app.get("/v1/transactions").await.text, before);
    let known = app.post_keyed("order-1", &add("hits", 1)).await.expect(202);
    assert_eq!(known.header("idempotent-replayed"), Some("true"));
    let app = app.reopen(crate::support::fast).await;
    app.drain().await;
    assert_eq!(app.counter("hits").await, 6);
    app.finish().await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().expect("folder");
    let data = folder.path().join("data");
    let ended = store("check", &data).await.expect(1);
    assert!(ended.err.contains("there is no data folder"), "{ended:#?}");
    assert!(!data.exists());
}
