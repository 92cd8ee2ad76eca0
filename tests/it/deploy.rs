//! What is shipped for operators in `deploy/`, against what a gateway really exports: alert rules, dashboard, the service of
//! systemd. The chart is in `deploy_helm.rs`, the runbooks in `deploy_runbooks.rs`.
//!
//! Needs `promtool` (Debian: `prometheus`, which `.ci/run` installs).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sluicegate::config::{AdaptiveSettings, Settings};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::rabbitmq::Broker;
use crate::support::fabric::FabricDevnet;
use crate::support::python::{run, said};
use crate::support::receiver::{Receiver, told};
use crate::support::{TestApp, add, cli, eventually, ledger, with};
use crate::tls;

/// Labels of the scrape itself, and the one of histograms' buckets.
const FOREIGN: [&str; 3] = ["instance", "job", "le"];

pub(crate) fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(shipped(path)).expect("is there")
}

/// `promtool`, which has to be content.
pub(crate) async fn promtool(words: &[&str], path: &Path, input: &str) {
    let mut command = Command::new("promtool");
    command.args(words);
    if input.is_empty() {
        command.arg(path);
    }
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = pipes
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("promtool: {error}; this test needs Debian's package prometheus (.ci/run installs it)")
        });
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).await.expect("is read");
    drop(pipe);
    let output = child.wait_with_output().await.expect("ends");
    assert!(
        output.status.success(),
        "promtool {words:?} {}: {}",
        path.display(),
        said(&output)
    );
}

/// The labels of each metric, by the names of its samples.
type Exported = BTreeMap<String, BTreeSet<String>>;

/// What stands in the braces of a selector, or of a sample.
fn labels(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let (mut name, mut quoted, mut value) = (String::new(), false, false);
    let mut escaped = false;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            ',' => value = false,
            '=' | '!' if !value => {
                found.insert(std::mem::take(&mut name).trim().to_owned());
                value = true;
            }
            _ if !value => name.push(c),
            _ => {}
        }
    }
    found
}

/// All metrics of ours that a text names, each with the labels in the braces behind it.
fn named(text: &str) -> Vec<(String, BTreeSet<String>)> {
    let mut found = Vec::new();
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for (at, _) in text.match_indices("sluicegate_") {
        let before = text[..at].chars().next_back();
        if before.is_some_and(of_name) {
            continue;
        }
        let rest = &text[at..];
        let end = rest.find(|c| !of_name(c)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let braces = rest.strip_prefix('{').and_then(closed);
        found.push((name.to_owned(), braces.map(labels).unwrap_or_default()));
    }
    found
}

/// What comes before the brace that closes.
fn closed(text: &str) -> Option<&str> {
    let mut quoted = false;
    let end = text.find(|c| {
        quoted ^= c == '"';
        c == '}' && !quoted
    })?;
    Some(&text[..end])
}

/// What of `text` the gateway does not export: names, and labels in braces. A text without our names has no claim.
fn strange(exported: &Exported, text: &str) -> Vec<String> {
    let mut strange = Vec::new();
    for (name, labels) in named(text) {
        match exported.get(&name) {
            None => strange.push(name),
            Some(known) => {
                let unknown = labels.iter().filter(|label| !known.contains(*label));
                let unknown = unknown.filter(|label| !FOREIGN.contains(&label.as_str()));
                strange.extend(unknown.map(|label| format!("{name}{{{label}}}")));
            }
        }
    }
    strange
}

/// Adds what `metrics` show.
fn take(exported: &mut Exported, metrics: &str) {
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        for (name, labels) in named(line.rsplit_once(' ').map_or("", |(series, _)| series)) {
            exported.entry(name).or_default().extend(labels);
        }
    }
}

/// The settings that a configuration says.
fn configured(words: &str) -> Settings {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), words).expect("writes");
    let loaded = sluicegate::config::load(Some(file.path()));
    loaded.expect("is good").settings
}

/// `/metrics` of a gateway with a broker and an archive that did a bit of everything.
async fn with_a_broker() -> String {
    let broker = tokio::task::spawn_blocking(Broker::shared);
    let url = broker.await.expect("starts").url().to_owned();
    let words = format!("[queue]\nkind = \"rabbitmq\"\nurl = \"{url}\"\nprefix = \"deploy\"\n");
    let archive = tempfile::tempdir().expect("folder");
    let words = format!(
        "{words}[archive]\nurl = \"file://{}\"\n",
        archive.path().display()
    );
    let app = TestApp::with(|settings| {
        let configured = configured(&words);
        (settings.queue, settings.archive) = (configured.queue, configured.archive);
        ledger(settings).worker.adaptive = Some(AdaptiveSettings {
            min_rate_per_second: 1.0,
            max_latency: Duration::from_secs(60),
            max_conflict_share: 1.0,
        });
        told(settings);
    })
    .await;
    let hook = Receiver::start().await;
    app.settle(&with(add("hits", 1), "callback_url", hook.url.as_str()))
        .await;
    hook.wait_for(1).await;
    let text = eventually("the broker told of the worker", async || {
        let text = app.get("/metrics").await.expect(200).text;
        let told = text.contains("sluicegate_queue_consumers{ledger=\"main\"} 1\n");
        told.then_some(text)
    })
    .await;
    app.finish().await;
    text
}

/// `/metrics` of a gateway before a Fabric network.
async fn with_fabric() -> String {
    let folder = tempfile::tempdir().expect("folder");
    let devnet = FabricDevnet::start(folder.path(), &["--no-tls"]).await;
    let app = TestApp::with(|settings| settings.ledgers = configured(&devnet.section).ledgers).await;
    let text = app.get("/metrics").await.expect(200).text;
    app.leave().await;
    let identity = "sluicegate_certificate_end_timestamp_seconds{setting=\"ledgers.main.certificate\"}";
    assert!(text.contains(identity), "{text}");
    text
}

#[tokio::test]
async fn rules_and_dashboard_speak_of_what_is_exported() {
    let mut exported = Exported::new();
    for metrics in [with_a_broker().await, with_fabric().await, tls::metrics().await] {
        promtool(&["check", "metrics"], Path::new("-"), &metrics).await;
        take(&mut exported, &metrics);
    }

    let (rules, tests) = (read("prometheus/alerts.yml"), read("prometheus/alerts_test.yml"));
    assert_eq!(strange(&exported, &rules), Vec::<String>::new(), "rules");
    assert_eq!(strange(&exported, &tests), Vec::<String>::new(), "their tests");
    // What the tests feed the rules has all the labels that the real ones have: so rules that pass suit those.
    let broken = |(name, labels): &(String, BTreeSet<String>)| {
        let fed: BTreeSet<_> = labels
            .iter()
            .filter(|label| !FOREIGN.contains(&label.as_str()))
            .collect();
        let real: BTreeSet<_> = exported[name].iter().filter(|label| *label != "le").collect();
        fed != real
    };
    let series = tests.lines().filter(|line| line.contains("series: '"));
    let unlike: Vec<_> = series.flat_map(named).filter(broken).collect();
    assert_eq!(unlike, [], "of other labels than what is exported");

    let dashboard: Value = serde_json::from_str(&read("grafana/sluicegate.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array());
    let queries: Vec<_> = targets
        .flatten()
        .map(|target| target["expr"].as_str().expect("a query"))
        .collect();
    assert!(queries.len() > 30, "only {} queries were found", queries.len());
    for query in &queries {
        assert_eq!(strange(&exported, query), Vec::<String>::new(), "{query}");
        assert_ne!(named(query), [], "{query}");
        let known: BTreeSet<_> = named(query)
            .iter()
            .flat_map(|(name, _)| exported[name].clone())
            .collect();
        for by in query.split("by (").skip(1) {
            for label in by.split(')').next().expect("a list").split(',').map(str::trim) {
                let is_known = known.contains(label) || FOREIGN.contains(&label);
                assert!(is_known, "{label} is no label: {query}");
            }
        }
    }
    queries_are_promql(&queries).await;
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    assert_eq!(
        (&variables[0]["type"], &variables[0]["name"]),
        (&json!("datasource"), &json!("datasource"))
    );
    let source = |panel: &Value| panel["datasource"]["uid"] == "${datasource}";
    assert!(panels.iter().all(|panel| panel["type"] == "row" || source(panel)));

    // That a slip is found is no matter of course.
    for slip in [
        "rate(sluicegate_acepted_total[5m])",
        "sum by (ledger) (sluicegate_backlog{ledgre=\"main\"})",
        "sluicegate_end_to_end_seconds",
    ] {
        assert_eq!(strange(&exported, slip).len(), 1, "{slip}");
    }
    let right = "sluicegate_http_requests_total{route=~\"/{id}\",status!=\"200\"} sluicegate_end_to_end_seconds_bucket";
    assert_eq!(strange(&exported, right), Vec::<String>::new());
}

/// What Grafana fills in is filled in here; `promtool` then reads each as the expression of a rule.
async fn queries_are_promql(queries: &[&str]) {
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace("$ledger", "main");
        rules.push_str(&format!(
            "  - record: panel:{number}\n    expr: {}\n",
            json!(query)
        ));
    }
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("dashboard.yml");
    std::fs::write(&file, rules).expect("writes");
    promtool(&["check", "rules"], &file, "").await;
}

#[tokio::test]
async fn alerts_fire_when_they_should() {
    promtool(&["check", "rules"], &shipped("prometheus/alerts.yml"), "").await;
    promtool(&["test", "rules"], &shipped("prometheus/alerts_test.yml"), "").await;
    let (rules, tests) = (read("prometheus/alerts.yml"), read("prometheus/alerts_test.yml"));
    for alert in crate::deploy_runbooks::alerts(&rules) {
        let fires = format!("        alertname: {alert}\n        exp_alerts:\n          - exp_labels");
        let rests = format!("alertname: {alert}, exp_alerts: []");
        assert!(
            tests.contains(&fires) && tests.contains(&rests),
            "{alert} is not tested"
        );
    }
    let compose = std::fs::read_to_string(shipped("../docker-compose.yml")).expect("is there");
    let config = read("prometheus.yml");
    let mounted = "./deploy/prometheus/alerts.yml:/etc/prometheus/alerts.yml:ro";
    assert!(compose.contains(mounted) && config.contains("rule_files: [/etc/prometheus/alerts.yml]"));
}

/// An image cannot be built here; that a file is left out by mistake can be seen without it.
#[test]
fn the_image_is_given_what_it_is_built_from() {
    let given = read("../.dockerignore");
    let given: Vec<_> = given.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let dockerfile = read("../Dockerfile");
    let copies = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY "));
    let sources: Vec<_> = copies
        .filter(|words| !words.starts_with("--from"))
        .filter_map(|words| words.rsplit_once(' '))
        .flat_map(|(sources, _)| sources.split(' '))
        .collect();
    assert!(sources.contains(&"src"), "{sources:?}");
    for source in &sources {
        assert!(shipped("..").join(source).exists(), "there is no {source}");
        assert!(given.contains(source), "{source} is not in .dockerignore");
    }
    assert_eq!(given.len(), sources.len(), "what is given is copied");
}

#[tokio::test]
async fn the_service_of_systemd_is_sound_and_closed() {
    let unit = read("systemd/sluicegate.service");
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/sluicegate "))
        .expect("starts the gateway");
    let words: Vec<_> = start.split(' ').chain(["--help"]).collect();
    cli::run(&words).await.expect(0);

    let there = Command::new("systemd-analyze").arg("--version").output().await;
    if there.is_err() {
        return crate::basics::skipped("the service of systemd: there is no systemd-analyze here");
    }
    // Where the program is on this machine.
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("sluicegate.service");
    let here = unit.replace("/usr/bin/sluicegate", env!("CARGO_BIN_EXE_sluicegate"));
    std::fs::write(&file, here).expect("writes");
    let verify = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&file))
    .await;
    // Of what it only passes over, it says so and ends well.
    let complaints: Vec<_> = said(&verify)
        .lines()
        .filter(|line| line.contains("sluicegate.service"))
        .map(str::to_owned)
        .collect();
    assert!(
        verify.status.success() && complaints.is_empty(),
        "{}",
        said(&verify)
    );
    // In tenths: 0 is closed, 100 is open.
    let exposed = run(Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=20"])
        .arg(&file))
    .await;
    assert!(exposed.status.success(), "{}", said(&exposed));
}
