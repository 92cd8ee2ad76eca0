//! Nobody can send the gateway where only it can go.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::basics::skipped;
use crate::support::receiver::{Receiver, Reply, told};
use crate::support::{TestApp, add, eventually, with};

/// What must not be called, however it is written.
const FORBIDDEN: [&str; 28] = [
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/",
    "http://2852039166/",
    "http://0251.0376.0251.0376/",
    "http://[::ffff:169.254.169.254]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[fd00:ec2::254]/",
    "http://127.0.0.1/",
    "http://127.1/",
    "http://0/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://[::1]/",
    "http://[::ffff:7f00:1]/",
    "http://localhost/",
    "http://LOCALHOST./",
    "https://localhost:8443/hook",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://[ff02::1]/",
    "http://168.63.129.16/",
];

#[tokio::test]
async fn what_is_not_public_is_refused_and_nothing_stored() {
    let app = TestApp::start().await;
    for url in FORBIDDEN {
        let refused = app.post(&with(add("hits", 1), "callback_url", url)).await;
        let detail = refused.fault(422, "SG-0002", "/callback_url");
        assert!(detail.contains("webhooks.allow_targets"), "{url}: {detail}");
        let request = app.request("POST", "/v1/webhooks").json(&json!({"url": url}));
        app.send(request).await.fault(422, "SG-0002", "/url");
    }
    assert_eq!(
        app.get("/v1/webhooks").await.expect(200).json()["items"],
        json!([])
    );
    app.finish_untouched().await;
}

#[tokio::test]
async fn what_is_no_url_of_a_receiver_is_refused() {
    let app = TestApp::start().await;
    for url in [
        "",
        "x",
        "//erp.example/",
        "ftp://erp.example/",
        "javascript:alert(1)",
        "https://me@erp.example/",
    ] {
        let refused = app.post(&with(add("hits", 1), "callback_url", url)).await;
        refused.fault(422, "SG-0002", "/callback_url");
    }
    let both = with(with(add("hits", 1), "callback_url", "x"), "function", "");
    let problem = app.post(&both).await.problem(422, "SG-0002");
    assert_eq!(
        problem["errors"].as_array().expect("errors").len(),
        2,
        "all at once"
    );
    let unknown = with(
        add("hits", 1),
        "callback_url",
        "https://no-such-name.invalid/hook",
    );
    app.post(&unknown).await.expect(202);
    app.drain().await;
    app.finish().await;
}

/// What was allowed when it was accepted and is not when it is sent.
#[tokio::test]
async fn an_address_is_judged_again_for_each_delivery() {
    let app = TestApp::with(told).await;
    let receiver = Receiver::answering(|_| 500.into()).await;
    let tx = app
        .settle(&with(add("hits", 1), "callback_url", receiver.url.clone()))
        .await
        .id();
    receiver.wait_for(1).await;
    let app = app
        .reopen(|settings| settings.webhooks.allow_targets.clear())
        .await;
    let before = receiver.count();
    let path = format!("/v1/transactions/{tx}/deliveries");
    eventually("an attempt is forbidden", async || {
        let delivery = app.get(&path).await.expect(200).json()["items"][0].take();
        let last = delivery["attempts"].as_array()?.last()?.clone();
        last["error"]
            .to_string()
            .contains("127.0.0.1: loopback")
            .then_some(())
    })
    .await;
    assert_eq!(receiver.count(), before);
    app.finish().await;
}

/// A gateway with a `/etc/hosts` of its own, so that names lead where the test wants.
struct Named {
    _child: Child,
    url: String,
    http: reqwest::Client,
}

impl Named {
    /// `None` if this machine does not let us.
    async fn start(folder: &std::path::Path, allowed: &str) -> Option<Self> {
        let hosts = "127.0.0.1 localhost\n169.254.169.254 meta.example\n10.1.2.3 inner.example\n127.0.0.1 loop.example erp.lan\n::1 loop6.example\n";
        std::fs::write(folder.join("hosts"), hosts).expect("writes");
        let config = format!(
            "[http]\nlisten = '127.0.0.1:0'\n[store]\npath = 'data'\n[webhooks]\nallow_targets = [{allowed}]\n\
             retry_min_ms = 20\nretry_max_ms = 200\n[ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 20\n"
        );
        std::fs::write(folder.join("config.toml"), config).expect("writes");
        let mut child = Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                "mount --bind hosts /etc/hosts && exec \"$0\" serve",
            ])
            .arg(env!("CARGO_BIN_EXE_sluicegate"))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        while let Some(line) = lines.next_line().await.expect("reads") {
            if let Some((_, rest)) = line.split_once("http://") {
                let url = format!("http://{}", rest.split_whitespace().next().expect("an address"));
                let http = reqwest::Client::builder().no_proxy().build().expect("a client");
                return Some(Self {
                    _child: child,
                    url,
                    http,
                });
            }
        }
        None
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = self
            .http
            .post(format!("{}{path}", self.url))
            .json(body)
            .send()
            .await
            .expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("an answer");
        answer.json().await.expect("JSON")
    }
}

#[tokio::test]
async fn a_name_that_leads_inside_is_refused_and_nothing_stored() {
    let folder = tempfile::tempdir().expect("folder");
    let Some(gateway) = Named::start(folder.path(), "'erp.lan'").await else {
        return skipped("names that lead inside: no mount namespace of our own here");
    };
    for host in [
        "meta.example",
        "META.example",
        "inner.example",
        "loop.example",
        "loop6.example",
    ] {
        let url = format!("http://{host}/hook");
        let (status, problem) = gateway
            .post(
                "/v1/transactions",
                &with(add("hits", 1), "callback_url", url.as_str()),
            )
            .await;
        assert_eq!(
            (status, &problem["errors"][0]["pointer"]),
            (422, &json!("/callback_url")),
            "{host}: {problem}"
        );
        let (status, problem) = gateway.post("/v1/webhooks", &json!({"url": url})).await;
        assert_eq!(
            (status, &problem["errors"][0]["pointer"]),
            (422, &json!("/url")),
            "{host}: {problem}"
        );
    }
    assert_eq!(gateway.get("/v1/transactions").await["items"], json!([]));
    assert_eq!(gateway.get("/v1/webhooks").await["items"], json!([]));
}

/// DNS rebinding, with a real resolver: the name is harmless when it is accepted, and leads inside when it is sent to.
#[tokio::test]
async fn a_name_that_comes_to_lead_inside_is_not_connected_to() {
    let folder = tempfile::tempdir().expect("folder");
    let Some(gateway) = Named::start(folder.path(), "'erp.lan'").await else {
        return skipped("names that come to lead inside: no mount namespace of our own here");
    };
    let receiver = Receiver::answering(|_| Reply::from(200)).await;
    let port = receiver.url.rsplit_once(':').expect("a port").1.to_owned();
    let target = |host: &str| format!("http://{host}:{port}");
    let accepted = async |host: &str| {
        let body = with(add(host, 1), "callback_url", target(host));
        let (status, record) = gateway.post("/v1/transactions", &body).await;
        assert_eq!(status, 202, "{record}");
        record["id"].as_str().expect("an id").to_owned()
    };
    // It does not resolve yet, which is no reason to refuse it.
    let tx = accepted("rebound.example").await;
    let hosts = folder.path().join("hosts");
    let more = std::fs::read_to_string(&hosts).expect("reads") + "127.0.0.1 rebound.example\n";
    std::fs::write(&hosts, more).expect("writes");
    let allowed = accepted("erp.lan").await;
    let last_error = async |id: &str| {
        let deliveries = gateway.get(&format!("/v1/transactions/{id}/deliveries")).await;
        let delivery = &deliveries["items"][0];
        let attempts = delivery["attempts"].as_array().cloned().unwrap_or_default();
        (
            delivery["state"].clone(),
            attempts.last().map(|attempt| attempt["error"].to_string()),
        )
    };
    eventually("the name is found to lead inside", async || {
        let (_, error) = last_error(&tx).await;
        error.filter(|error| error.contains("rebound.example, which is not a public address: loopback"))
    })
    .await;
    eventually("the one that is allowed is told", async || {
        (last_error(&allowed).await.0 == "delivered").then_some(())
    })
    .await;
    let told: Vec<_> = receiver
        .got()
        .iter()
        .map(|got| got.json()["data"]["id"].clone())
        .collect();
    assert_eq!(told, [json!(allowed)]);
}
