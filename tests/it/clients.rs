//! The example clients of `docs/clients` against a real gateway: all of them do the same, in four languages.
//!
//! What a language needs and this machine lacks is said, and that language left out; `.ci/run` installs everything.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use axum::http::HeaderMap;
use serde_json::{Value, json};
use sluicegate::config::BackpressureMode;
use standardwebhooks::Webhook;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

use crate::basics::skipped;
use crate::proxy::{Fault, Proxy};
use crate::support::receiver::{Receiver, told};
use crate::support::{DEADLINE, TestApp, node};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/clients");

/// A language's client.
struct Client {
    language: &'static str,
    command: Box<dyn Fn() -> Command>,
}

/// How it ended: its code, what it said, what it complained of.
type Ended = (i32, String, String);

fn ended(output: &Output) -> Ended {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    let code = output.status.code().expect("was not killed");
    (code, text(&output.stdout), text(&output.stderr))
}

impl Client {
    fn new(language: &'static str, command: impl Fn() -> Command + 'static) -> Self {
        Self {
            language,
            command: Box::new(command),
        }
    }

    /// Started against the gateway at this address.
    fn start(&self, url: &str, words: &[&str]) -> Child {
        let mut command = (self.command)();
        command
            .args(words)
            .env("SLUICEGATE_URL", url)
            .env_remove("SLUICEGATE_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().expect("starts")
    }

    async fn run(&self, url: &str, words: &[&str]) -> Ended {
        let child = self.start(url, words);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output());
        ended(&output.await.expect("ends in time").expect("runs"))
    }

    /// Whether it takes this webhook for genuine.
    async fn accepts(&self, secret: &str, headers: &HeaderMap, body: &[u8]) -> bool {
        let mut command = (self.command)();
        command.arg("verify").env("WEBHOOK_SECRET", secret);
        for (variable, header) in [
            ("WEBHOOK_ID", "webhook-id"),
            ("WEBHOOK_TIMESTAMP", "webhook-timestamp"),
            ("WEBHOOK_SIGNATURE", "webhook-signature"),
        ] {
            command.env(variable, headers[header].to_str().expect("ASCII"));
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = pipes.stderr(Stdio::piped()).spawn().expect("starts");
        let mut input = child.stdin.take().expect("a pipe");
        // One that has decided need not read on.
        let _written = input.write_all(body).await;
        drop(input);
        let ended = ended(&child.wait_with_output().await.expect("runs"));
        match (ended.0, ended.1.trim()) {
            (0, "genuine") => true,
            (1, "forged") => false,
            _ => panic!("{}: {ended:?}", self.language),
        }
    }
}

/// Where the client in TypeScript is, once its types were found to be right.
async fn typed() -> &'static Path {
    static TYPED: OnceCell<PathBuf> = OnceCell::const_new();
    let check = async || {
        let folder = node::install("tests/clients").await;
        std::fs::copy(Path::new(FOLDER).join("gateway.ts"), folder.join("gateway.ts")).expect("copied");
        let words = ["node_modules/typescript/bin/tsc", "--project", "."];
        node::run(node::command(&folder).args(words)).await;
        folder
    };
    TYPED.get_or_init(check).await
}

/// Those that this machine can run.
async fn clients() -> Vec<Client> {
    let file = |name: &str| Path::new(FOLDER).join(name);
    let program = |name: &'static str, words: &'static [&'static str], script: &str| {
        let script = file(script);
        Client::new(name, move || {
            let mut command = Command::new(name);
            command.args(words).arg(&script);
            command
        })
    };
    let mut found = Vec::new();
    for (client, program, probe) in [
        (
            program("bash", &[], "gateway.sh"),
            "bash",
            ["-c", "type curl jq openssl"],
        ),
        (
            program("/usr/bin/python3", &[], "gateway.py"),
            "/usr/bin/python3",
            ["-c", "import requests"],
        ),
        (
            program("java", &[], "Gateway.java"),
            "java",
            ["--version", "--version"],
        ),
    ] {
        let probe = Command::new(program).args(probe).output().await;
        if probe.is_ok_and(|output| output.status.success()) {
            found.push(client);
        } else {
            skipped(&format!(
                "the client in {program}, which is not installed with all it needs"
            ));
        }
    }
    let typed = typed().await;
    found.push(Client::new("typescript", move || {
        let mut command = node::command(typed);
        command.arg("gateway.ts");
        command
    }));
    found
}

fn mint(account: &str) -> Value {
    json!({"ledger": "main", "contract": "token", "function": "Mint", "args": [account, 100]})
}

async fn pause(app: &TestApp, paused: bool) {
    let request = app.request("PATCH", "/v1/ledgers/main");
    app.send(request.json(&json!({"paused": paused})))
        .await
        .expect(200);
}

async fn lines(child: &mut Child) -> Lines<BufReader<ChildStdout>> {
    BufReader::new(child.stdout.take().expect("a pipe")).lines()
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await;
    line.expect("in time").expect("reads").expect("a line")
}

#[tokio::test]
async fn they_pay_once_and_tell_each_refusal() {
    let app = TestApp::start().await;
    let url = app.url("");
    for client in clients().await {
        let name = client.language;
        // Two of the four could have quotes in their accounts, and all have to cope.
        let (payer, payee) = (format!("{name} \"the\" payer"), format!("{name}\\payee"));
        app.settle(&mint(&payer)).await;
        let pay = ["pay", name, &payer, &payee, "30"];
        let (code, paid, complaint) = client.run(&url, &pay).await;
        assert_eq!((code, complaint.as_str()), (0, ""), "{name}");
        let done = app.list(&format!("metadata.order={name}")).await.remove(0);
        let id = done["id"].as_str().expect("an id");
        assert_eq!(paid, format!("done {id} in block {}\n", done["block"]), "{name}");
        assert_eq!(done["args"], json!([payer, payee, 30]), "{name}");
        assert_eq!(
            client.run(&url, &pay).await,
            (0, paid, String::new()),
            "{name}: again"
        );

        let (code, _, complaint) = client.run(&url, &["pay", name, &payer, &payee, "31"]).await;
        assert_eq!(code, 2, "{name}: {complaint}");
        assert!(
            complaint.contains("SG-0003 ") && complaint.contains("#header/Idempotency-Key"),
            "{name}: {complaint}"
        );

        let order = format!("{name}-2");
        let (code, failed, _) = client.run(&url, &["pay", &order, &payer, &payee, "1000"]).await;
        assert_eq!(code, 1, "{name}");
        assert!(
            failed.starts_with("failed ") && failed.contains(" rejected: insufficient funds: "),
            "{name}: {failed}"
        );
        assert!(failed.contains("\"the\" payer holds 70,"), "{name}: {failed}");

        let (code, _, complaint) = client.run(&url, &["cancel", id]).await;
        assert_eq!(code, 2, "{name}: {complaint}");
        assert!(complaint.contains("SG-0023 "), "{name}: {complaint}");
        pause(&app, true).await;
        let waits = app.post(&mint("later")).await.expect(202).id();
        let cancelled = client.run(&url, &["cancel", &waits]).await;
        pause(&app, false).await;
        assert_eq!(
            cancelled,
            (0, format!("cancelled {waits}\n"), String::new()),
            "{name}"
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn they_wait_while_the_gateway_is_full_or_away() {
    let app = TestApp::with(|settings| {
        settings.backpressure.mode = BackpressureMode::Drop;
        settings.backpressure.max_pending = std::num::NonZeroU64::MIN;
    })
    .await;
    let proxy = Proxy::before(app.address.port()).await;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    for client in clients().await {
        let name = client.language;
        app.settle(&mint(name)).await;
        pause(&app, true).await;
        app.post(&mint("the only one that may wait")).await.expect(202);
        proxy.set(Fault::Cut);
        let mut child = client.start(&url, &["pay", &format!("{name}-full"), name, "bob", "30"]);
        let mut complaints = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut complaint = async || {
            let line = tokio::time::timeout(DEADLINE, complaints.next_line()).await;
            line.expect("in time").expect("reads").expect("a line")
        };
        while !complaint().await.contains("again in") {}
        proxy.set(Fault::None);
        let full = loop {
            let line = complaint().await;
            if line.contains("SG-0011") {
                break line;
            }
        };
        assert!(full.contains("again in 1"), "{name}: {full}");
        pause(&app, false).await;
        let output = tokio::time::timeout(DEADLINE * 2, child.wait_with_output()).await;
        let (code, out, _) = ended(&output.expect("in time").expect("runs"));
        assert!(code == 0 && out.starts_with("done "), "{name}: {out}");
        app.drain().await;
    }
    app.finish().await;
}

#[tokio::test]
async fn they_miss_no_event_when_the_connection_breaks() {
    let app = TestApp::start().await;
    let proxy = Proxy::before(app.address.port()).await;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    for client in clients().await {
        let mut child = client.start(&url, &["watch", "3"]);
        let mut lines = lines(&mut child).await;
        assert_eq!(line(&mut lines).await, "ready", "{}", client.language);
        let first = app.settle(&mint("alice")).await.id();
        assert_eq!(
            line(&mut lines).await,
            format!("done {first}"),
            "{}",
            client.language
        );
        proxy.set(Fault::Cut);
        let missed = app.settle(&mint("bob")).await.id();
        let refused = json!({"ledger": "main", "contract": "token", "function": "Mint", "args": ["bob", -1]});
        let failed = app.settle(&refused).await.id();
        proxy.set(Fault::None);
        let mut rest = Vec::new();
        while rest.len() < 2 {
            let line = line(&mut lines).await;
            // Where the connection goes on.
            if line != "ready" {
                rest.push(line);
            }
        }
        assert_eq!(
            rest,
            [format!("done {missed}"), format!("failed {failed}")],
            "{}",
            client.language
        );
        let status = tokio::time::timeout(DEADLINE, child.wait()).await;
        assert!(
            status.expect("in time").expect("runs").success(),
            "{}",
            client.language
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn they_tell_a_genuine_webhook_from_a_forged_one() {
    let app = TestApp::with(told).await;
    let receiver = Receiver::start().await;
    let request = app
        .request("POST", "/v1/webhooks")
        .json(&json!({"url": receiver.url}));
    let hook = app.send(request).await.expect(201).json();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let old = text(&hook["secret"]);
    let path = format!("/v1/webhooks/{}/rotate-secret", text(&hook["id"]));
    let rotated = app
        .send(app.request("POST", &path).json(&json!({"overlap_seconds": 3600})))
        .await;
    let new = text(&rotated.expect(200).json()["secret"]);
    app.settle(&mint("alice")).await;
    let got = receiver.wait_for(1).await.remove(0);
    let stranger = format!("whsec_{}", "A".repeat(32));
    let mut late = got.headers.clone();
    let at: i64 = got.header("webhook-timestamp").parse().expect("a number");
    let signature = Webhook::new(&new)
        .expect("a secret")
        .sign(&got.id(), at - 600, &got.body);
    late.insert("webhook-timestamp", (at - 600).into());
    late.insert(
        "webhook-signature",
        signature.expect("signed").parse().expect("ASCII"),
    );
    let mut longer = got.body.to_vec();
    longer.push(b' ');
    for client in clients().await {
        let name = client.language;
        for (what, genuine, secret, headers, body) in [
            ("with the new secret", true, &new, &got.headers, &got.body[..]),
            ("with the old secret", true, &old, &got.headers, &got.body),
            ("with another secret", false, &stranger, &got.headers, &got.body),
            ("with another body", false, &new, &got.headers, &longer),
            ("ten minutes late", false, &new, &late, &got.body),
        ] {
            assert_eq!(
                client.accepts(secret, headers, body).await,
                genuine,
                "{name}: {what}"
            );
        }
    }
    app.finish().await;
}
