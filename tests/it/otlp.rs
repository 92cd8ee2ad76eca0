//! What is pushed by OTLP, as a collector gets it: a real one in between, which would refuse what is no OTLP, and at the
//! end a server that reads what it passes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::rabbitmq::Broker;
use crate::support::receiver::{Receiver, Reply};
use crate::support::{DEADLINE, add, cli, eventually, python};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Something that must not be seen by whoever sees telemetry.
const PRIVATE: &str = "Tomoko-4711";

struct Gateway {
    process: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Gateway {
    async fn start(words: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!("[http]\nlisten = '127.0.0.1:0'\n{words}");
        std::fs::write(folder.path().join("config.toml"), config).expect("writes");
        let errors = std::fs::File::create(folder.path().join("log")).expect("a log");
        let mut command = cli::command(&["serve"]);
        command.current_dir(folder.path()).stderr(Stdio::from(errors));
        let (process, address) = cli::serve(&mut command).await;
        Self {
            process,
            address,
            folder,
        }
    }

    /// Posts, waits until it has settled, and answers the `traceparent` of the first answer and the record.
    async fn settle(&self, trace: Option<&str>, body: &Value) -> (Option<String>, Value) {
        let http = client();
        let mut request = http.post(format!("{}/v1/transactions", self.address)).json(body);
        if let Some(trace) = trace {
            request = request.header("traceparent", trace);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 202);
        let trace = answer.headers().get("traceparent");
        let trace = trace.map(|trace| trace.to_str().expect("ASCII").to_owned());
        let record: Value = answer.json().await.expect("JSON");
        let id = record["id"].as_str().expect("an id");
        let record: Value =
            serde_json::from_str(&self.get(&format!("/v1/transactions/{id}?wait=30")).await).expect("JSON");
        assert_ne!(record["status"], "pending", "{record}");
        (trace, record)
    }

    async fn get(&self, path: &str) -> String {
        let answer = client().get(format!("{}{path}", self.address)).send().await;
        answer.expect("an answer").text().await.expect("text")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).expect("a log")
    }

    /// Ends it as operators do, so that it pushes what is left.
    async fn stop(mut self) -> String {
        let pid = self.process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(pid.expect("runs"), Signal::TERM).expect("is told");
        let ended = tokio::time::timeout(DEADLINE, self.process.wait()).await;
        let ended = ended.expect("ends in time").expect("ends");
        assert!(ended.success(), "{ended}");
        self.log()
    }
}

fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE);
    client.build().expect("a client")
}

/// A real collector, which passes on to `to` what it takes.
struct Collector {
    _process: Child,
    endpoint: String,
    _folder: tempfile::TempDir,
}

impl Collector {
    async fn start(to: &str) -> Self {
        let sources = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/otlp"));
        let commands = python::install(sources).await;
        let libraries = commands.parent().expect("a folder").join("lib");
        let found = std::fs::read_dir(libraries).expect("libraries").next();
        let program = found.expect("a Python").expect("a Python").path();
        let program = program.join("site-packages/rotel/rotel-agent");
        let folder = tempfile::tempdir().expect("a folder");
        let (grpc, http) = (free_port().await, free_port().await);
        let process = Command::new(program)
            .env_clear()
            .current_dir(folder.path())
            .arg("start")
            .args(["--exporter", "otlp", "--otlp-exporter-protocol", "http"])
            .args(["--otlp-exporter-endpoint", to])
            .args(["--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http])
            .args(["--batch-timeout", "100ms"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        eventually("the collector listens", async || {
            TcpStream::connect(&http).await.ok().map(drop)
        })
        .await;
        Self {
            _process: process,
            endpoint: format!("http://{http}"),
            _folder: folder,
        }
    }
}

/// An address that was free just now.
async fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    listener.local_addr().expect("an address").to_string()
}

/// Where a collector may send it.
async fn sink() -> (Receiver, String) {
    let sink = Receiver::start().await;
    let url = sink.url.trim_end_matches("/hook").to_owned();
    (sink, url)
}

fn bodies<M: Message + Default>(sink: &Receiver, path: &str) -> Vec<M> {
    let got = sink.got().into_iter().filter(|got| got.path == path);
    let bodies = got.map(|got| match got.headers.get("content-encoding") {
        None => got.body,
        Some(_) => {
            let mut whole = Vec::new();
            let read = GzDecoder::new(&*got.body).read_to_end(&mut whole);
            read.expect("is compressed");
            whole.into()
        }
    });
    bodies
        .map(|body| M::decode(body).expect("is what it says"))
        .collect()
}

fn spans(sink: &Receiver) -> Vec<Span> {
    let bodies = bodies::<ExportTraceServiceRequest>(sink, "/v1/traces");
    let resources = bodies.into_iter().flat_map(|body| body.resource_spans);
    let scopes = resources.flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn logs(sink: &Receiver) -> Vec<LogRecord> {
    let bodies = bodies::<ExportLogsServiceRequest>(sink, "/v1/logs");
    let resources = bodies.into_iter().flat_map(|body| body.resource_logs);
    let scopes = resources.flat_map(|resource| resource.scope_logs);
    scopes.flat_map(|scope| scope.log_records).collect()
}

/// The metrics that came last, by name.
fn metrics(sink: &Receiver) -> BTreeMap<String, Metric> {
    let bodies = bodies::<ExportMetricsServiceRequest>(sink, "/v1/metrics");
    let resources = bodies.into_iter().flat_map(|body| body.resource_metrics);
    let scopes = resources.flat_map(|resource| resource.scope_metrics);
    let all = scopes.flat_map(|scope| scope.metrics);
    all.map(|metric| (metric.name.clone(), metric)).collect()
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn otlp(endpoint: &str) -> String {
    format!("[otlp]\nendpoint = '{endpoint}'\nmetrics_interval_seconds = 1\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_request_over_the_queue_to_the_ledger_and_the_webhook() {
    let (sink, url) = sink().await;
    let collector = Collector::start(&url).await;
    let hook = Receiver::start().await;
    let broker = tokio::task::spawn_blocking(Broker::shared).await.expect("starts");
    let gateway = Gateway::start(&format!(
        "{}[webhooks]\nallow_targets = ['127.0.0.1']\n[ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 10\n\
         [queue]\nkind = 'rabbitmq'\nurl = '{}'\nprefix = 'otlp'\n",
        otlp(&collector.endpoint),
        broker.url()
    ))
    .await;

    let create = json!({"ledger": "main", "contract": "basic", "function": "CreateAsset",
        "args": ["asset1", "blue", 5, PRIVATE, 300], "callback_url": hook.url});
    let caller = format!("00-{TRACE}-{CALLER}-01");
    let (answered, record) = gateway.settle(Some(&caller), &create).await;
    assert_eq!(record["status"], "done", "{record}");
    let told = hook.wait_for(1).await.remove(0);
    // The contract refuses it: there is such an asset. It has a trace of its own.
    let (other, record) = gateway.settle(None, &create).await;
    assert_eq!(record["status"], "failed", "{record}");
    let other = other.expect("a trace of its own");
    hook.wait_for(2).await;
    let log = gateway.stop().await;

    let all = eventually("all spans", async || {
        let all = spans(&sink);
        let posts = all.iter().filter(|span| span.name == "POST").count();
        (posts == 2).then_some(all)
    })
    .await;
    let of = |trace: &str| -> Vec<Span> {
        let own = all.iter().filter(|span| hex(&span.trace_id) == trace);
        own.cloned().collect()
    };
    let ours = of(TRACE);
    let one = |name: &str| -> &Span {
        let mut found = ours.iter().filter(|span| span.name == name);
        let first = found.next().unwrap_or_else(|| panic!("no {name} in {ours:#?}"));
        assert!(found.next().is_none(), "{name} is there twice: {ours:#?}");
        first
    };
    let request = one("POST /v1/transactions");
    assert_eq!(hex(&request.parent_span_id), CALLER);
    assert_eq!(request.kind(), SpanKind::Server);
    assert_eq!(text(&request.attributes, "http.response.status_code"), "202");
    let place = hex(&request.span_id);
    assert_eq!(answered, Some(format!("00-{TRACE}-{place}-01")));
    let steps = [
        ("announce", SpanKind::Producer),
        ("wait", SpanKind::Consumer),
        ("prepare", SpanKind::Client),
        ("submit", SpanKind::Client),
        ("POST", SpanKind::Client),
    ];
    for (name, kind) in steps {
        let span = one(name);
        assert_eq!(
            (hex(&span.parent_span_id), span.kind()),
            (place.clone(), kind),
            "{name}"
        );
        assert_eq!(text(&span.attributes, "sluicegate.ledger"), "main");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
        assert_ne!(
            span.status.clone().unwrap_or_default().code(),
            StatusCode::Error,
            "{span:?}"
        );
    }
    let ends: Vec<_> = ["wait", "prepare", "submit"]
        .map(|name| one(name).end_time_unix_nano)
        .into();
    assert!(ends.is_sorted(), "one step after the other: {ours:#?}");
    assert_eq!(ours.len(), 1 + steps.len(), "{ours:#?}");
    assert_eq!(
        told.header("traceparent"),
        format!("00-{TRACE}-{}-01", hex(&one("POST").span_id))
    );

    let trace = other.split('-').nth(1).expect("a trace");
    let refused = of(trace);
    let prepare = refused
        .iter()
        .find(|span| span.name == "prepare")
        .expect("was prepared");
    assert_eq!(
        prepare.status.clone().expect("a status").code(),
        StatusCode::Error
    );
    let root = refused
        .iter()
        .find(|span| span.name == "POST /v1/transactions")
        .expect("a root");
    assert_eq!(root.parent_span_id, Vec::<u8>::new());

    // The same lines as on standard error, each with its trace.
    let lines: Vec<(String, LogRecord)> = eventually("all lines", async || {
        let lines: Vec<_> = logs(&sink)
            .into_iter()
            .map(|line| match line.body.clone().and_then(|body| body.value) {
                Some(Any::StringValue(text)) => (text, line),
                other => panic!("{other:?}"),
            })
            .collect();
        lines.iter().any(|(text, _)| text == "failed").then_some(lines)
    })
    .await;
    for said in ["accepted", "submitted", "done", "a webhook was received"] {
        let mut own = lines
            .iter()
            .filter(|(text, line)| text == said && hex(&line.trace_id) == TRACE);
        assert!(own.next().is_some(), "no {said} in {lines:#?}");
        assert!(log.contains(said), "no {said} in {log}");
    }
    assert!(!log.contains(PRIVATE), "{log}");
    for got in sink.got() {
        let body = String::from_utf8_lossy(&got.body);
        assert!(!body.contains(PRIVATE), "at {}: {body}", got.path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_what_is_scraped() {
    let (sink, url) = sink().await;
    let collector = Collector::start(&url).await;
    let gateway = Gateway::start(&otlp(&collector.endpoint)).await;
    for _ in 0..3 {
        gateway.settle(None, &add("hits", 1)).await;
    }
    let scraped = gateway.get("/metrics").await;
    gateway.stop().await;
    let pushed = eventually("the last numbers", async || {
        let all = metrics(&sink);
        let done = all
            .get("sluicegate_settled_total")
            .is_some_and(|metric| sum(metric) == 3);
        done.then_some(all)
    })
    .await;

    let names = |kind: &str| -> BTreeSet<String> {
        let types = scraped
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types
            .filter(|(_, is)| *is == kind)
            .map(|(name, _)| name.to_owned())
            .collect()
    };
    let of = |is: fn(&Data) -> bool| -> BTreeSet<String> {
        let own = pushed
            .values()
            .filter(|metric| metric.data.as_ref().is_some_and(is));
        own.map(|metric| metric.name.clone()).collect()
    };
    assert_eq!(of(|data| matches!(data, Data::Sum(_))), names("counter"));
    assert_eq!(of(|data| matches!(data, Data::Gauge(_))), names("gauge"));
    assert_eq!(of(|data| matches!(data, Data::Histogram(_))), names("histogram"));
    assert_eq!(sum(&pushed["sluicegate_accepted_total"]), 3);
    for metric in pushed.values() {
        assert!(!metric.description.is_empty(), "{}", metric.name);
        if let Some(Data::Histogram(histogram)) = &metric.data {
            for point in &histogram.data_points {
                let bounds = &point.explicit_bounds;
                let first = bounds.first().expect("bounds");
                let shown = format!("{}_bucket{{", metric.name);
                let line = scraped
                    .lines()
                    .find(|line| line.starts_with(&shown))
                    .expect("buckets");
                assert!(line.contains(&format!("le=\"{first}\"")), "{line}: {bounds:?}");
            }
        }
    }
}

fn sum(metric: &Metric) -> i64 {
    let Some(Data::Sum(sum)) = &metric.data else {
        panic!("{metric:?}")
    };
    assert!(sum.is_monotonic, "{metric:?}");
    let values = sum.data_points.iter().map(|point| match point.value {
        Some(number_data_point::Value::AsInt(number)) => number,
        other => panic!("{other:?}"),
    });
    values.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_hangs_costs_no_transaction_and_holds_up_no_end() {
    let nobody = free_port().await;
    let silent = Receiver::answering(|_| Reply(DEADLINE, axum::response::Response::default())).await;
    let full = Receiver::answering(|_| 503.into()).await;
    for endpoint in [format!("http://{nobody}"), silent.url.clone(), full.url.clone()] {
        let gateway = Gateway::start(&format!("{}timeout_ms = 500\n", otlp(&endpoint))).await;
        for _ in 0..3 {
            let (_, record) = gateway.settle(None, &add("hits", 1)).await;
            assert_eq!(record["status"], "done", "{record}");
        }
        eventually("it is told", async || {
            gateway.log().contains("takes nothing").then_some(())
        })
        .await;
        let begun = Instant::now();
        let log = gateway.stop().await;
        let took = begun.elapsed();
        assert!(took < DEADLINE / 2, "{endpoint}: {took:?}");
        // Once for metrics and traces, once for logs: not with each try.
        assert!(log.matches("takes nothing").count() <= 2, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_the_collector_goes_with_each_request_and_is_shown_nowhere() {
    let (sink, url) = sink().await;
    let words = format!(
        "{}headers = 'Authorization=Bearer hunter2,x-team=a b'\n",
        otlp(&url)
    );
    let gateway = Gateway::start(&words).await;
    gateway.settle(None, &add("hits", 1)).await;
    let config = gateway.folder.path().join("config.toml");
    let shown = cli::run(&["check-config", "--config", config.to_str().expect("UTF-8")]).await;
    let shown = shown.expect(0).out;
    let log = gateway.stop().await;
    for path in ["/v1/traces", "/v1/metrics", "/v1/logs"] {
        let of = |got: &&crate::support::receiver::Got| got.path == path;
        let all = sink.got();
        let got = all.iter().find(of).unwrap_or_else(|| panic!("nothing at {path}"));
        assert_eq!(got.header("authorization"), "Bearer hunter2");
        assert_eq!(got.header("x-team"), "a b");
        assert_eq!(got.header("content-type"), "application/x-protobuf");
    }
    assert!(
        !shown.contains("hunter2") && shown.contains("otlp.headers"),
        "{shown}"
    );
    assert!(!log.contains("hunter2"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_wanted_is_traced() {
    let (sink, url) = sink().await;
    let words = format!("{}trace_ratio = 0\nmetrics = false\nlogs = false\n", otlp(&url));
    let gateway = Gateway::start(&words).await;
    let (place, _) = gateway.settle(None, &add("hits", 1)).await;
    assert_eq!(place, None);
    // Whoever began a trace decides about it.
    let unwanted = format!("00-{TRACE}-{CALLER}-00");
    let (place, _) = gateway.settle(Some(&unwanted), &add("hits", 1)).await;
    let place = place.expect("a place");
    assert!(
        place.starts_with(&format!("00-{TRACE}-")) && place.ends_with("-00"),
        "{place}"
    );
    let (wanted, flagged) = ("4bf92f3577b34da6a3ce929d0e0e4736", "01");
    let traced = format!("00-{wanted}-{CALLER}-{flagged}");
    gateway.settle(Some(&traced), &add("hits", 1)).await;
    gateway.stop().await;
    let spans = spans(&sink);
    let traces: BTreeSet<_> = spans.iter().map(|span| hex(&span.trace_id)).collect();
    assert_eq!(traces, BTreeSet::from([wanted.to_owned()]), "{spans:#?}");
    assert!(sink.got().iter().all(|got| got.path == "/v1/traces"));
}
