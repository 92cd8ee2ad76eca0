//! Reports made by hand.

use serde_json::json;

use super::*;

fn report(change: impl FnOnce(&mut Value)) -> Report {
    let latencies = |p50: f64| {
        json!({"count": 2, "mean": 2.0, "min": 1.0, "p50": p50, "p90": 3.0, "p99": 3.0, "p99_9": 3.0, "max": 3.0,
            "histogram_us": [[1000, 1], [3000, 1]]})
    };
    let mut value = json!({
        "format": FORMAT, "version": "1.2.3", "kind": "gateway", "run": "r", "started_at": "2026-01-02T03:04:05.678Z",
        "target": "127.0.0.1:8080",
        "load": {
            "pace": {"open": {"per_second": 100.0, "arrivals": "even", "max_in_flight": 1024}},
            "duration_seconds": 1.0, "warm_up_seconds": 0.0, "keys": "hot", "ledger": "main",
            "calls": [{"weight": 1, "contract": "counter", "function": "Add", "args": "[\"{key}\",1]"}],
            "timeout_seconds": 30.0, "settle_seconds": 60.0, "seed": 7,
        },
        "interrupted": false,
        "counts": {"due": 2, "accepted": 2, "refused": {}, "unanswered": {}, "unfinished": 0, "done": 2, "failed": {},
            "parked": 0, "pending": 0, "unclaimed": 0, "held_back": 0},
        "throughput": {"due": 2.0, "accepted": 2.0, "settled": 1.0},
        "accept": latencies(1.0), "end_to_end": latencies(2.0), "send_delay": latencies(0.5),
        "tries": {"mean": 1.5, "max": 2, "repeated_share": 0.33, "distribution": {"1": 1, "2": 1}},
        "lane": null, "fairness": null, "series": [], "notes": [],
    });
    change(&mut value);
    serde_json::from_value(value).expect("a report")
}

#[test]
fn ratios_are_told_with_both_values() {
    let a = report(|_| {});
    let b = report(|value| {
        value["accept"]["p50"] = 3.0.into();
        value["throughput"]["settled"] = Value::Null;
        value["counts"]["done"] = 0.into();
        value["load"]["seed"] = 8.into();
    });
    let text = Comparison { a: &a, b: &b }.to_string();
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect("a row");
        line[26..]
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(row("accept p50 ms"), ["1.00", "3.00", "3.00"]);
    assert_eq!(row("end to end p50 ms"), ["2.00", "2.00", "1.00"]);
    assert_eq!(row("settled per second"), ["1.00", "-", "-"]);
    assert_eq!(row("done"), ["2.00", "0.00", "0.00"]);
    // Nothing to divide by.
    assert_eq!(row("failed"), ["0.00", "0.00", "-"]);
    assert!(!text.contains("fairness"), "{text}");
    assert_eq!(differences(&a, &b).expect("loads"), []);
}

#[test]
fn different_loads_are_not_comparable() {
    let a = report(|_| {});
    let b = report(|value| {
        value["load"]["pace"]["open"]["per_second"] = 200.0.into();
        value["load"]["keys"] = "uniform:10".into();
    });
    let fields: Vec<_> = differences(&a, &b)
        .expect("loads")
        .into_iter()
        .map(|(field, ..)| field)
        .collect();
    assert_eq!(fields, ["keys", "pace"]);
}

#[test]
fn what_is_no_report_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("x.json");
    for (text, told) in [
        ("no", "is no JSON"),
        ("{}", "has not the format"),
        ("{\"format\":1}", "is no report"),
    ] {
        std::fs::write(&file, text).expect("writes");
        let error = read(&file).expect_err(text).to_string();
        assert!(error.contains(told), "{error}");
    }
}
