//! Probes, metrics and the view of the lanes.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use insta::assert_json_snapshot;
use serde_json::json;
use sluicegate::config::Role;

use crate::support::events::Events;
use crate::support::{TestApp, add, eventually, ledger, simulator};

#[tokio::test]
async fn probes_answer() {
    let app = TestApp::start().await;
    assert_eq!(
        app.get("/livez").await.expect(200).json(),
        json!({"status": "live"})
    );
    assert_eq!(
        app.get("/readyz").await.expect(200).json(),
        json!({"status": "ready", "queue": {"kind": "embedded", "trouble": null}})
    );
    let head = app.send(app.request("HEAD", "/livez")).await.expect(200);
    assert_eq!(head.text, "");
    app.finish().await;
}

#[tokio::test]
async fn lanes_show_their_backlog_and_settings() {
    let app = TestApp::stalled().await;
    app.post(&add("hits", 1)).await.expect(202);
    app.post(&add("hits", 1)).await.expect(202);
    // The lane holds a slot for what it would submit next.
    let read = async |path: &str| {
        let mut answer = app.get(path).await.expect(200).json();
        // Points come with time: tests/it/steering.rs looks at them.
        for lane in answer["items"].as_array_mut().into_iter().flatten() {
            lane["history"]["points"] = json!([]);
        }
        answer
    };
    let lanes = eventually("the lane waits for its rate", async || {
        let lanes = read("/v1/ledgers").await;
        (lanes["items"][0]["in_flight"] == 1).then_some(lanes)
    })
    .await;
    assert_json_snapshot!("lanes", lanes);
    let mut one = app.get("/v1/ledgers/main").await.expect(200).json();
    one["history"]["points"] = json!([]);
    assert_eq!(one, lanes["items"][0]);
    let app = app.reopen(crate::support::fast).await;
    app.drain().await;
    app.finish().await;
}

/// The value of the sample with this name and these labels, in any order.
fn sample(metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: BTreeSet<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    metrics.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels: BTreeSet<String> = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty())
            .map(str::to_owned)
            .collect();
        (found == name && labels == wanted).then(|| value.parse().expect("a number"))
    })
}

/// There only with a broker, a certificate, an adaptive rate or an archive.
const NOT_ALWAYS: [&str; 6] = [
    "sluicegate_queue_",
    "sluicegate_certificate_",
    "sluicegate_adapted_",
    "sluicegate_rate_adaptations_",
    "sluicegate_archive_",
    "sluicegate_archived_",
];

/// Every name in the file that has them all, but for those.
fn promised() -> BTreeSet<&'static str> {
    let source = include_str!("../../src/telemetry/metrics.rs");
    let names = source.split('"').filter(|text| text.starts_with("sluicegate_"));
    names
        .filter(|name| !NOT_ALWAYS.iter().any(|start| name.starts_with(start)))
        .collect()
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    const SENT: usize = 8;
    let app = TestApp::with(|settings| ledger(settings).backend = simulator(100, SENT as u32)).await;
    let body = add("hits", 1);
    let answers = join_all((0..SENT).map(|number| {
        let (app, body) = (&app, &body);
        async move { app.post_keyed(&format!("order-{number}"), body).await.expect(202) }
    }))
    .await;
    app.post_keyed("order-0", &body).await;
    app.post_keyed("order-0", &add("hits", 2))
        .await
        .problem(422, "SG-0003");
    app.drain().await;
    let refused = json!({"ledger": "main", "contract": "basic", "function": "ReadAsset", "args": ["none"]});
    app.settle(&refused).await;
    app.get("/nowhere").await.expect(404);
    let mut tries = 0.0;
    for answer in answers {
        tries += app.record(&answer.id()).await["attempts"]
            .as_f64()
            .expect("a number");
    }

    let answer = app.get("/metrics").await.expect(200);
    assert!(
        answer
            .header("content-type")
            .expect("a type")
            .starts_with("text/plain; version=0.0.4")
    );
    let metrics = answer.text;
    for name in promised() {
        let starts = |line: &str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
        };
        assert!(metrics.lines().any(starts), "{name} is missing:\n{metrics}");
    }
    let main = ("ledger", "main");
    let (sent, conflicts) = (SENT as f64, tries - SENT as f64);
    assert!(conflicts > 0.0, "nothing conflicted");
    for (name, labels, expected) in [
        ("sluicegate_accepted_total", &[main][..], sent + 1.0),
        ("sluicegate_idempotent_repeats_total", &[main], 1.0),
        ("sluicegate_submissions_total", &[main], tries),
        ("sluicegate_resends_total", &[main], 0.0),
        ("sluicegate_conflicts_total", &[main], conflicts),
        (
            "sluicegate_retries_total",
            &[main, ("reason", "conflict")],
            conflicts,
        ),
        ("sluicegate_settled_total", &[main, ("outcome", "done")], sent),
        ("sluicegate_settled_total", &[main, ("outcome", "rejected")], 1.0),
        ("sluicegate_parked_total", &[main], 0.0),
        ("sluicegate_backlog", &[main], 0.0),
        ("sluicegate_in_flight", &[main], 0.0),
        ("sluicegate_ledger_available", &[main], 1.0),
        ("sluicegate_commit_latency_seconds_count", &[main], tries),
        ("sluicegate_end_to_end_seconds_count", &[main], sent + 1.0),
        ("sluicegate_store_commit_failures_total", &[], 0.0),
    ] {
        assert_eq!(
            sample(&metrics, name, labels),
            Some(expected),
            "{name}{labels:?}\n{metrics}"
        );
    }
    let requests = |method, route, status| {
        let labels = [("method", method), ("route", route), ("status", status)];
        sample(&metrics, "sluicegate_http_requests_total", &labels)
    };
    assert_eq!(requests("POST", "/v1/transactions", "422"), Some(1.0));
    assert_eq!(requests("GET", "(none)", "404"), Some(1.0));
    assert_eq!(requests("GET", "/v1/transactions/{id}", "200"), Some(sent));
    app.finish().await;
}

#[tokio::test]
async fn counters_start_at_zero_rather_than_at_nothing() {
    let app = TestApp::start().await;
    let metrics = app.get("/metrics").await.text;
    for name in [
        "accepted",
        "submissions",
        "resends",
        "conflicts",
        "parked",
        "idempotent_repeats",
    ] {
        let name = format!("sluicegate_{name}_total");
        assert_eq!(
            sample(&metrics, &name, &[("ledger", "main")]),
            Some(0.0),
            "{name}"
        );
    }
    app.finish().await;
}

#[tokio::test]
async fn gauges_tell_how_a_lane_stands() {
    let app = TestApp::stalled().await;
    let value = async |name: &str, labels: &[(&str, &str)]| {
        let metrics = app.get("/metrics").await.expect(200).text;
        sample(&metrics, name, labels).unwrap_or_else(|| panic!("{name} is missing:\n{metrics}"))
    };
    let main = [("ledger", "main")];
    assert_eq!(value("sluicegate_backlog_age_seconds", &main).await, 0.0);
    assert_eq!(value("sluicegate_rate_limit_per_second", &main).await, 0.001);
    assert_eq!(value("sluicegate_paused", &main).await, 0.0);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    assert_eq!(value("sluicegate_build_info", &version).await, 1.0);

    let id = app.post(&add("hits", 1)).await.expect(202).id();
    let accepted = std::time::Instant::now();
    eventually("the backlog ages", async || {
        let age = value("sluicegate_backlog_age_seconds", &main).await;
        assert!(age <= accepted.elapsed().as_secs_f64() + 1.0, "{age}");
        (age > 0.0).then_some(())
    })
    .await;
    let steer = json!({"paused": true, "rate_per_second": 250});
    app.send(app.request("PATCH", "/v1/ledgers/main").json(&steer))
        .await
        .expect(200);
    assert_eq!(value("sluicegate_rate_limit_per_second", &main).await, 250.0);
    assert_eq!(value("sluicegate_paused", &main).await, 1.0);

    assert_eq!(value("sluicegate_event_streams", &[]).await, 0.0);
    let mut stream = Events::open(app.request("GET", "/v1/events")).await;
    stream.expect("ready").await;
    assert_eq!(value("sluicegate_event_streams", &[]).await, 1.0);
    drop(stream);
    eventually("the stream has ended", async || {
        (value("sluicegate_event_streams", &[]).await == 0.0).then_some(())
    })
    .await;

    // What is over does not age, however seldom that is looked up.
    let cancel = app.request("POST", &format!("/v1/transactions/{id}/cancel"));
    app.send(cancel).await.expect(200);
    assert_eq!(value("sluicegate_backlog_age_seconds", &main).await, 0.0);
    let cancelled = [main[0], ("outcome", "cancelled")];
    assert_eq!(value("sluicegate_settled_total", &cancelled).await, 1.0);
    app.finish().await;
}

/// It would look like an outage.
#[tokio::test]
async fn who_does_not_submit_does_not_say_that_the_ledger_is_away() {
    let app = TestApp::with(|settings| settings.role = Role::Api).await;
    let metrics = app.get("/metrics").await.expect(200).text;
    assert_eq!(
        sample(&metrics, "sluicegate_ledger_available", &[("ledger", "main")]),
        None
    );
    app.finish().await;
}
