//! A report as one HTML page: figures, plots, and what was run. It loads nothing, runs no script, and follows the reader's
//! dark mode.

use super::plot::{Axis, Line, Scale, bars, escape, lines, push};
use super::report::{Kind, Latencies, Report, Second};
use super::table;

const STYLE: &str = ":root{color-scheme:light dark;--paper:#fff;--ink:#1c2430;--soft:#5d6878;--grid:#dfe4ea;\
--c0:#3567b5;--c1:#c2571a;--c2:#2f8a4e;--c3:#8a4fb0}\
@media(prefers-color-scheme:dark){:root{--paper:#14181e;--ink:#e4e8ee;--soft:#98a3b3;--grid:#2c343f;\
--c0:#7aa7ee;--c1:#f0985f;--c2:#6cc98c;--c3:#c596e6}}\
body{margin:2rem auto;max-width:60rem;padding:0 1rem;font:15px/1.5 system-ui,sans-serif;background:var(--paper);color:var(--ink)}\
h1{font-size:1.5rem}h2{font-size:1.05rem;margin:0 0 .3rem}figure{margin:2rem 0}svg{width:100%;height:auto}\
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;border-bottom:1px solid var(--grid);text-align:right}\
td:first-child,th:first-child{text-align:left;padding-left:0}td.text{text-align:left;overflow-wrap:anywhere}\
figcaption,.label,.tick,.soft{color:var(--soft);fill:var(--soft)}.label,.tick{font-size:12px}.grid{stroke:var(--grid)}\
.line{fill:none;stroke-width:2}.line.c0,.dot.c0{stroke:var(--c0)}.line.c1,.dot.c1{stroke:var(--c1)}\
.line.c2,.dot.c2{stroke:var(--c2)}.line.c3,.dot.c3{stroke:var(--c3)}.dot{fill:none}.bar{fill:var(--c0)}.key{margin-right:1rem}\
.key i{display:inline-block;width:1rem;height:.2rem;margin-right:.4rem;vertical-align:middle}\
i.c0{background:var(--c0)}i.c1{background:var(--c1)}i.c2{background:var(--c2)}i.c3{background:var(--c3)}";

/// More points than a plot is wide show nothing more.
const POINTS: usize = 700;
/// So many bars have room for their labels.
const BARS: usize = 20;

const TIME: Axis = Axis {
    label: "seconds since the start of the measurement",
    scale: Scale::Linear,
};

pub(super) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\
         <meta name=\"viewport\" content=\"width=device-width\"/><title>Load run {run}</title><style>{STYLE}</style></head><body>\n\
         <h1>Load run</h1>\n<p>{}<br/>on {}<br/>{}</p>\n<p class=\"soft\">{} &#183; run {run} &#183; Sluicegate {}</p>\n",
        escape(&table::load(&report.load)),
        escape(&table::target(report)),
        escape(&table::calls(&report.load)),
        escape(&report.started_at),
        escape(&report.version),
        run = escape(&report.run),
    );
    for note in &report.notes {
        push(
            &mut page,
            format_args!("<p><strong>Note.</strong> {}</p>\n", escape(note)),
        );
    }
    page.push_str(&latencies(report));
    page.push_str(&counts(report));
    page.push_str(&plots(report));
    page.push_str("</body></html>\n");
    page
}

fn latencies(report: &Report) -> String {
    let mut html = "<table><tr><th>milliseconds</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th><th>mean</th></tr>"
        .to_owned();
    let rows = [
        ("accept", Some(&report.accept)),
        ("end to end", report.end_to_end.as_ref()),
        (
            "delay of sending",
            Some(&report.send_delay).filter(|delay| delay.count > 0),
        ),
    ];
    for (name, of) in rows {
        let Some(of) = of else { continue };
        push(&mut html, format_args!("<tr><td>{name}</td>"));
        for ms in [of.p50, of.p90, of.p99, of.p99_9, of.max, of.mean] {
            push(&mut html, format_args!("<td>{ms:.2}</td>"));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>\n");
    html
}

fn counts(report: &Report) -> String {
    let counts = &report.counts;
    let mut rows = vec![
        ("due".to_owned(), counts.due.to_string()),
        ("accepted".to_owned(), counts.accepted.to_string()),
        ("refused".to_owned(), counts.refused().to_string()),
    ];
    for (code, refused) in &counts.refused {
        rows.push((
            format!("\u{2003}{code}"),
            format!("{}: {}", refused.count, refused.example),
        ));
    }
    rows.push(("unanswered".to_owned(), counts.unanswered().to_string()));
    for (reason, count) in &counts.unanswered {
        rows.push((format!("\u{2003}{reason}"), count.to_string()));
    }
    rows.push(("unfinished".to_owned(), counts.unfinished.to_string()));
    rows.push(("done".to_owned(), counts.done.to_string()));
    rows.push(("failed".to_owned(), counts.failed().to_string()));
    for (code, count) in &counts.failed {
        rows.push((format!("\u{2003}{code}"), count.to_string()));
    }
    rows.push(("parked".to_owned(), counts.parked.to_string()));
    rows.push(("pending".to_owned(), counts.pending.to_string()));
    let throughput = &report.throughput;
    let settled = throughput
        .settled
        .map_or_else(String::new, |settled| format!(", {settled:.1} settled"));
    rows.push((
        "per second".to_owned(),
        format!(
            "{:.1} due, {:.1} accepted{settled}",
            throughput.due, throughput.accepted
        ),
    ));
    if let Some(tries) = &report.tries {
        let text = format!(
            "{:.2} for each transaction, {} at most; {:.1} % of all were repeats",
            tries.mean,
            tries.max,
            tries.repeated_share * 100.0
        );
        rows.push(("tries".to_owned(), text));
    }
    if let Some(lane) = &report.lane {
        let text = format!(
            "{} submissions, {} conflicts ({:.1} %), whoever's they were",
            lane.submissions,
            lane.conflicts,
            lane.conflict_share * 100.0
        );
        rows.push(("ledger".to_owned(), text));
    }
    if let Some(fairness) = &report.fairness {
        let text = format!(
            "{:.3} by latency, {:.3} by tries over {} keys; {:.3}, {:.3} over transactions",
            fairness.latency_of_keys,
            fairness.tries_of_keys,
            fairness.keys,
            fairness.latency_of_transactions,
            fairness.tries_of_transactions
        );
        rows.push(("fairness (Jain's index)".to_owned(), text));
    }
    let mut html = "<table>".to_owned();
    for (name, value) in rows {
        push(
            &mut html,
            format_args!(
                "<tr><td>{}</td><td class=\"text\">{}</td></tr>",
                escape(&name),
                escape(&value)
            ),
        );
    }
    html.push_str("</table>\n");
    html
}

fn plots(report: &Report) -> String {
    let per_second = Axis {
        label: "transactions per second",
        scale: Scale::Linear,
    };
    let ms = Axis {
        label: "milliseconds",
        scale: Scale::Log,
    };
    let share = Axis {
        label: "share of transactions that were at least as fast",
        scale: Scale::Nines,
    };
    let over_time = |name, value: &dyn Fn(&Second) -> Option<f64>| Line {
        name,
        points: thinned(&report.series, value),
    };
    let accepted = match report.kind {
        Kind::Gateway => "accepted",
        Kind::Direct => "taken by the ledger",
    };
    let mut html = lines(
        "Throughput",
        TIME,
        per_second,
        &[
            over_time("due", &|second| Some(second.due as f64)),
            over_time("not accepted", &|second| Some(second.not_accepted as f64)),
            over_time(accepted, &|second| Some(second.accepted as f64)),
            over_time("settled", &|second| Some((second.done + second.failed) as f64)),
        ],
    );
    html += &lines(
        "Accept latency, by the second of the answer",
        TIME,
        ms,
        &[
            over_time("p50", &|second| Some(second.accept_ms?[0])),
            over_time("p99", &|second| Some(second.accept_ms?[1])),
        ],
    );
    html += &lines(
        "End-to-end latency, by the second of the end",
        TIME,
        ms,
        &[
            over_time("p50", &|second| Some(second.end_to_end_ms?[0])),
            over_time("p99", &|second| Some(second.end_to_end_ms?[1])),
        ],
    );
    let mut distributions = vec![Line {
        name: "accept",
        points: distribution(&report.accept),
    }];
    distributions.extend(report.end_to_end.as_ref().map(|latencies| Line {
        name: "end to end",
        points: distribution(latencies),
    }));
    html += &lines("Latency by percentile", share, ms, &distributions);
    if let Some(tries) = &report.tries {
        let mut counts: Vec<(String, u64)> = tries
            .distribution
            .iter()
            .map(|(tries, count)| (tries.to_string(), *count))
            .collect();
        if counts.len() > BARS {
            let more: u64 = counts.drain(BARS - 1..).map(|(_, count)| count).sum();
            counts.push(("more".to_owned(), more));
        }
        html += &bars("Tries", "tries of a transaction", "transactions", &counts);
    }
    html
}

/// One point for a second, or the mean of several.
fn thinned(series: &[Second], value: &dyn Fn(&Second) -> Option<f64>) -> Vec<(f64, f64)> {
    let size = series.len().div_ceil(POINTS).max(1);
    let point = |(number, seconds): (usize, &[Second])| {
        let values: Vec<f64> = seconds.iter().filter_map(value).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (!values.is_empty()).then_some(((number * size) as f64, mean))
    };
    series.chunks(size).enumerate().filter_map(point).collect()
}

/// By the share of what was at least as fast.
fn distribution(latencies: &Latencies) -> Vec<(f64, f64)> {
    let all = latencies.count as f64;
    let mut faster = 0;
    let points: Vec<(f64, f64)> = latencies
        .histogram_us
        .iter()
        .map(|&(micros, count)| {
            // In the middle of those that took this long: of the slowest it cannot be said how rare it is.
            let share = (faster as f64 + count as f64 / 2.0) / all;
            faster += count;
            (share, Latencies::ms(micros))
        })
        .collect();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_thinned_and_gaps_are_left_out() {
        let mut series = vec![Second::default(); 2_000];
        for (number, second) in series.iter_mut().enumerate() {
            second.accepted = number as u64;
        }
        let points = thinned(&series, &|second| Some(second.accepted as f64));
        assert_eq!(points.len(), 667);
        assert_eq!(points[1], (3.0, 4.0));
        assert_eq!(thinned(&series, &|second| second.accept_ms.map(|ms| ms[0])), []);
    }
}
