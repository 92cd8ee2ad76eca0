//! `bench` against a running gateway: what it reports is what happened.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::cli::{self, Ended};
use crate::support::{TestApp, eventually};

const ADD: [&str; 8] = [
    "bench",
    "run",
    "--contract",
    "counter",
    "--function",
    "Add",
    "--args",
    r#"["{key}", 1]"#,
];

async fn run(app: &TestApp, words: &[&str]) -> Ended {
    let url = app.url("");
    cli::run(&[words, &["--url", &url]].concat()).await
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("is there")).expect("JSON")
}

fn sum(counts: &Value) -> u64 {
    let counts = counts.as_object().expect("an object").values();
    counts
        .map(|count| count.as_u64().or(count["count"].as_u64()).expect("a count"))
        .sum()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// What holds for every report, whatever happened.
fn adds_up(report: &Value) {
    let counts = &report["counts"];
    let count = |name: &str| number(&counts[name]);
    assert_eq!(
        count("due"),
        count("accepted") + sum(&counts["refused"]) + sum(&counts["unanswered"]) + count("unfinished"),
        "{counts:#}"
    );
    let settled = count("done") + sum(&counts["failed"]);
    assert_eq!(
        count("accepted"),
        settled + count("parked") + count("pending"),
        "{counts:#}"
    );
    let of_histogram = |latencies: &Value| {
        let steps = latencies["histogram_us"].as_array().expect("steps");
        steps.iter().map(|step| number(&step[1])).sum::<u64>()
    };
    assert_eq!(of_histogram(&report["accept"]), count("accepted"));
    if settled > 0 {
        assert_eq!(of_histogram(&report["end_to_end"]), settled);
        assert_eq!(sum(&report["tries"]["distribution"]), settled);
    }
    let series = report["series"].as_array().expect("a series");
    let of_series = |name: &str| series.iter().map(|second| number(&second[name])).sum::<u64>();
    assert_eq!(of_series("due"), count("due"));
    assert_eq!(of_series("accepted"), count("accepted"));
    assert_eq!(of_series("done") + of_series("failed"), settled);
}

/// Every element is closed in order, and nothing is loaded from anywhere.
fn is_a_page_of_its_own(html: &str) {
    let (kind, mut rest) = html.split_once('\n').expect("lines");
    assert_eq!(kind, "<!DOCTYPE html>");
    let mut open: Vec<&str> = Vec::new();
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
        assert!(!tag.contains('<'), "<{tag}>");
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .expect("a name");
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "closes <{tag}>"),
            (false, true) => {}
            (false, false) => open.push(name),
        }
        rest = after;
    }
    assert!(open.is_empty(), "{open:?}");
    for word in [
        "<script", "<link", "<img", "<iframe", "src=", "href=", "url(", "@import", "://",
    ] {
        assert!(!html.contains(word), "{word}");
    }
}

#[tokio::test]
async fn a_run_reports_what_the_gateway_has() {
    let app = TestApp::start().await;
    let folder = tempfile::tempdir().expect("folder");
    let (json, html) = (folder.path().join("a.json"), folder.path().join("a.html"));
    let files = [json.to_str().expect("UTF-8"), html.to_str().expect("UTF-8")];
    let words = [
        "bench",
        "run",
        "--rate",
        "50",
        "--arrivals",
        "even",
        "--duration",
        "1.5",
        "--warm-up",
        "0.3",
        "--keys",
        "zipf:5:1.5",
        "--seed",
        "7",
        "--json",
        files[0],
        "--html",
        files[1],
        "--mix",
        r#"8 counter Add ["{key}", 1]"#,
        "--mix",
        r#"1 basic ReadAsset ["none of {run}"]"#,
        "--mix",
        r#"1 count Add ["{n}"]"#,
    ];
    let ended = run(&app, &words).await.expect(0);
    let report = read(&json);
    adds_up(&report);
    let counts = &report["counts"];
    assert_eq!(counts["due"], 75, "{counts:#}");
    assert_eq!(
        (number(&counts["pending"]), number(&counts["parked"])),
        (0, 0),
        "{counts:#}"
    );
    assert!(
        sum(&counts["failed"]) > 0 && number(&counts["done"]) > 0,
        "{counts:#}"
    );
    assert!(number(&counts["refused"]["SG-0002"]["count"]) > 0, "{counts:#}");
    let example = counts["refused"]["SG-0002"]["example"].as_str().expect("text");
    assert!(example.contains("/contract"), "{example}");

    let label = report["run"].as_str().expect("text");
    let records = app.list(&format!("metadata.bench={label}")).await;
    assert_eq!(records.len() as u64, number(&counts["accepted"]));
    let done = records.iter().filter(|record| record["status"] == "done").count();
    assert_eq!(done as u64, number(&counts["done"]));
    let tries: u64 = records.iter().map(|record| number(&record["attempts"])).sum();
    let told = report["tries"]["distribution"]
        .as_object()
        .expect("counts")
        .iter();
    let told: u64 = told
        .map(|(tries, count)| tries.parse::<u64>().expect("a number") * number(count))
        .sum();
    assert_eq!(told, tries);
    let warm_up = app.list(&format!("metadata.bench={label}-warm-up")).await;
    assert!(!warm_up.is_empty() && warm_up.len() <= 15, "{}", warm_up.len());

    let latency = |of: &str, name: &str| report[of][name].as_f64().expect("a number");
    assert!(latency("end_to_end", "p50") > latency("accept", "p50"));
    assert!(latency("accept", "max") >= latency("accept", "p99") && latency("accept", "p50") > 0.0);
    let fairness = report["fairness"]["tries_of_keys"].as_f64().expect("a number");
    assert!(fairness > 0.2 && fairness <= 1.0, "{fairness}");
    assert!(report["lane"]["submissions"].as_u64() > Some(0));

    for row in ["accepted ", "refused ", "end to end ", "fairness "] {
        assert!(
            ended.out.lines().any(|line| line.starts_with(row)),
            "{row}: {}",
            ended.out
        );
    }
    // Neither a progress line nor anything else where nobody watches.
    assert_eq!(ended.err, "");
    let html = std::fs::read_to_string(&html).expect("is there");
    is_a_page_of_its_own(&html);
    assert_eq!(html.matches("<svg").count(), 5, "all plots");

    // The same run twice is comparable, another load is not.
    let same = cli::run(&["bench", "compare", files[0], files[0]])
        .await
        .expect(0);
    assert!(same.out.contains("accept p99 ms"), "{same:#?}");
    let other = folder.path().join("b.json");
    let other = other.to_str().expect("UTF-8");
    let closed = [
        &ADD[..],
        &[
            "--connections",
            "4",
            "--duration",
            "0.5",
            "--warm-up",
            "0",
            "--accept-only",
            "--idempotency-keys",
            "--json",
            other,
        ],
    ]
    .concat();
    run(&app, &closed).await.expect(0);
    let closed = read(Path::new(other));
    adds_up(&closed);
    assert!(closed["end_to_end"].is_null() && number(&closed["counts"]["accepted"]) > 4);
    let ended = cli::run(&["bench", "compare", files[0], other]).await.expect(1);
    assert!(
        ended.err.contains("not comparable") && ended.err.contains("pace"),
        "{ended:#?}"
    );
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn what_never_settles_is_pending() {
    let app = TestApp::stalled().await;
    let folder = tempfile::tempdir().expect("folder");
    let json = folder.path().join("a.json");
    let words = [
        &ADD[..],
        &[
            "--rate",
            "40",
            "--duration",
            "0.5",
            "--warm-up",
            "0",
            "--settle",
            "0.2",
            "--json",
            json.to_str().expect("UTF-8"),
        ],
    ]
    .concat();
    let ended = run(&app, &words).await.expect(0);
    let report = read(&json);
    adds_up(&report);
    assert!(number(&report["counts"]["pending"]) >= 19, "{report:#}");
    assert!(ended.out.contains("were not settled"), "{}", ended.out);
    app.leave().await;
}

#[tokio::test]
async fn ctrl_c_ends_a_run_and_keeps_what_was_measured() {
    let app = TestApp::start().await;
    let folder = tempfile::tempdir().expect("folder");
    let (json, html) = (folder.path().join("a.json"), folder.path().join("a.html"));
    let url = app.url("");
    let words = [
        &ADD[..],
        &[
            "--rate",
            "100",
            "--duration",
            "600",
            "--warm-up",
            "0",
            "--url",
            &url,
            "--json",
            json.to_str().expect("UTF-8"),
            "--html",
            html.to_str().expect("UTF-8"),
        ],
    ]
    .concat();
    let running = cli::command(&words).spawn().expect("starts");
    eventually("something has settled", async || {
        (!app.list("status=done").await.is_empty()).then_some(())
    })
    .await;
    let id = running
        .id()
        .and_then(|id| Pid::from_raw(id.try_into().expect("an id")))
        .expect("runs");
    kill_process(id, Signal::INT).expect("is told");
    let output = running.wait_with_output().await.expect("ends");
    assert_eq!(output.status.code(), Some(130));
    let report = read(&json);
    adds_up(&report);
    assert_eq!(report["interrupted"], true);
    assert!(number(&report["counts"]["accepted"]) > 0);
    is_a_page_of_its_own(&std::fs::read_to_string(&html).expect("is there"));
    app.drain().await;
    app.finish().await;
}

#[tokio::test]
async fn what_cannot_work_is_told_before_anything_is_sent() {
    let app = TestApp::start().await;
    let url = app.url("");
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    for (words, code, told) in [
        (
            &["--rate", "1", "--url", &free][..],
            1,
            "start one with `sluicegate serve`",
        ),
        (
            &["--rate", "1", "--url", &url, "--ledger", "other"],
            1,
            "there is no ledger",
        ),
        (
            &["--rate", "1", "--url", &url, "--json", "/no/such/folder/a.json"],
            1,
            "--json",
        ),
        (&["--rate", "1", "--url", &url, "--html", "/"], 1, "--html"),
        (
            &["--rate", "1", "--url", &url, "--duration", "0"],
            1,
            "--duration",
        ),
        (&["--rate", "0", "--url", &url], 2, "--rate"),
        (&["--url", &url], 2, "--rate"),
        (
            &["--rate", "1", "--connections", "1", "--url", &url],
            2,
            "--connections",
        ),
        (&["--rate", "1", "--url", &url, "--keys", "zipf"], 2, "--keys"),
        (&["--rate", "1", "--url", &url, "--mix", "1 a b []"], 2, "--mix"),
    ] {
        let ended = cli::run(&[&ADD[..], words].concat()).await.expect(code);
        assert!(ended.err.contains(told), "{words:?}: {ended:#?}");
    }
    app.finish_untouched().await;
}

#[tokio::test]
async fn a_ledger_is_measured_without_a_gateway() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let config = format!(
        "[store]\nkind = 'embedded'\npath = '{}'\n[ledgers.main]\nkind = 'simulator'\nbatch_timeout_ms = 20\n",
        path("data")
    );
    std::fs::write(path("config.toml"), config).expect("writes");
    let (config, json) = (path("config.toml"), path("a.json"));
    let words = |keys: &'static str, tries: &'static str| {
        [
            "bench",
            "direct",
            "--config",
            &config,
            "--rate",
            "100",
            "--duration",
            "0.6",
            "--warm-up",
            "0.2",
            "--keys",
            keys,
            "--seed",
            "7",
            "--tries",
            tries,
            "--mix",
            r#"9 counter Add ["{key}", 1]"#,
            "--mix",
            r#"1 basic ReadAsset ["none"]"#,
            "--json",
            &json,
        ]
        .map(str::to_owned)
    };
    for (keys, tries) in [("uniform:1000", "100"), ("hot", "1")] {
        let words = words(keys, tries);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        cli::run(&words).await.expect(0);
        let report = read(Path::new(&json));
        adds_up(&report);
        let counts = &report["counts"];
        assert_eq!(report["kind"], "direct");
        assert_eq!(
            (number(&counts["due"]), number(&counts["pending"])),
            (60, 0),
            "{counts:#}"
        );
        assert!(sum(&counts["refused"]) > 0, "{counts:#}");
        let conflicts = number(&report["lane"]["conflicts"]);
        match keys {
            "hot" => {
                // One of each block is valid, and nobody tries again.
                assert!(conflicts > 0, "{report:#}");
                assert_eq!(
                    number(&counts["failed"]["conflicts_exhausted"]),
                    conflicts,
                    "{report:#}"
                );
            }
            _ => assert_eq!(sum(&counts["failed"]), 0, "{counts:#}"),
        }
    }
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("reads")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["a.json", "config.toml"], "no chain is left");

    let missing = [
        "bench",
        "direct",
        "--config",
        &config,
        "--rate",
        "1",
        "--ledger",
        "other",
        "--function",
        "F",
    ];
    let ended = cli::run(&missing).await.expect(1);
    assert!(
        ended.err.contains("has no ledger other; it has main"),
        "{ended:#?}"
    );
}
