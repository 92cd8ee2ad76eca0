//! A contract that is left out is the ledger's default one.

use std::sync::Arc;

use serde_json::{Value, json};
use sluicegate::app;
use sluicegate::clock::SystemClock;
use sluicegate::config::{Settings, StoreSettings};
use sluicegate::ledger::LedgerBackend;
use tokio_util::sync::CancellationToken;

use crate::support::scripted::Scripted;
use crate::support::spawn;

#[tokio::test]
async fn i5_a_contract_left_out_is_the_default_one_and_the_same_request() {
    let folder = tempfile::tempdir().expect("folder");
    let mut settings = Settings::default();
    settings.http.listen.set_port(0);
    settings.store = StoreSettings::embedded_at(folder.path().to_owned());
    let ledger: Arc<dyn LedgerBackend> = Scripted::with_default_contract("basic");
    let built = app::build_with(settings, Arc::new(SystemClock), &|_| Some(ledger.clone())).await;
    let app = built.expect("builds");
    let (address, stop) = (app.address(), CancellationToken::new());
    let running = spawn(app.run(stop.clone().cancelled_owned()));
    let http = reqwest::Client::builder().no_proxy().build().expect("client");
    let post = async |path: &str, body: Value| -> (u16, Value) {
        let request = http.post(format!("http://{address}/v1/{path}"));
        let answer = request.header("idempotency-key", "one").json(&body).send().await;
        let answer = answer.expect("answers");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    };

    let (_, implied) = post("transactions", json!({"ledger": "main", "function": "Pay"})).await;
    assert_eq!(implied["contract"], "basic");
    let named = json!({"ledger": "main", "contract": "basic", "function": "Pay"});
    let (status, same) = post("transactions", named).await;
    assert!(status < 300, "{same}");
    assert_eq!(same["id"], implied["id"]);
    let other = json!({"ledger": "main", "contract": "other", "function": "Pay"});
    assert_eq!(post("transactions", other).await.1["code"], "SG-0003");
    let (_, asked) = post("query", json!({"ledger": "main", "function": "Get"})).await;
    assert_eq!(asked, json!({"result": "basic"}));

    stop.cancel();
    running.await.expect("no panic").expect("ends well");
}
