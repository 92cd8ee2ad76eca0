//! `sluicegate bench compare`: two reports side by side.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;

use super::super::print;
use super::report::{FORMAT, Latencies, Report};
use super::table;

/// Set two reports side by side
///
/// Prints each figure of both, and B divided by A. Two runs are comparable if they had the same load: pace, arrivals,
/// duration, warm-up, keys, ledger and calls. The seed may differ. If they are not comparable, that is said, the figures are
/// printed all the same, and the exit status is 1.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  sluicegate bench compare before.json after.json")]
pub(super) struct CompareArgs {
    /// A file that `bench run --json` or `bench direct --json` has written: the base
    #[arg(value_name = "A.json")]
    a: PathBuf,
    /// Another one
    #[arg(value_name = "B.json")]
    b: PathBuf,
}

pub(super) fn run(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    print::line(Comparison { a: &a, b: &b })?;
    let differences = differences(&a, &b)?;
    if differences.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("not comparable: the loads differ");
    for (field, a, b) in differences {
        eprintln!("  {field}: {a} in A, {b} in B");
    }
    Ok(ExitCode::FAILURE)
}

fn read(file: &Path) -> anyhow::Result<Report> {
    let name = file.display();
    let text = std::fs::read(file).with_context(|| format!("read {name}"))?;
    let value: Value = serde_json::from_slice(&text)
        .with_context(|| format!("{name} is no JSON; give a file that `bench run --json` has written"))?;
    let format = value.get("format").and_then(Value::as_u64);
    ensure!(
        format == Some(FORMAT.into()),
        "{name} has not the format {FORMAT}; give a file that `bench run --json` of this version has written"
    );
    serde_json::from_value(value).with_context(|| format!("{name} is no report of a load run"))
}

/// What is not the same in two loads: the field, and its value in either.
fn differences(a: &Report, b: &Report) -> serde_json::Result<Vec<(String, String, String)>> {
    let (a, b) = (serde_json::to_value(&a.load)?, serde_json::to_value(&b.load)?);
    let (Value::Object(a), Value::Object(b)) = (a, b) else {
        return Ok(Vec::new());
    };
    Ok(a.into_iter()
        .filter(|(field, _)| field != "seed")
        .filter_map(|(field, a)| {
            let b = b.get(&field)?;
            (a != *b).then(|| (field, a.to_string(), b.to_string()))
        })
        .collect())
}

struct Comparison<'r> {
    a: &'r Report,
    b: &'r Report,
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, report) in [("A", self.a), ("B", self.b)] {
            let early = if report.interrupted {
                ", ended before its time"
            } else {
                ""
            };
            writeln!(
                f,
                "{name}  {} {}, version {}{early}",
                report.started_at,
                table::target(report),
                report.version
            )?;
        }
        writeln!(f, "\n{:<26} {:>12} {:>12} {:>8}", "", "A", "B", "B / A")?;
        for (name, figure) in figures() {
            let (a, b) = (figure(self.a), figure(self.b));
            if a.is_none() && b.is_none() {
                continue;
            }
            let show =
                |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
            let ratio = match (a, b) {
                (Some(a), Some(b)) if a != 0.0 => format!("{:.2}", b / a),
                _ => "-".to_owned(),
            };
            writeln!(f, "{name:<26} {:>12} {:>12} {ratio:>8}", show(a), show(b))?;
        }
        Ok(())
    }
}

type Quantile = (&'static str, fn(&Latencies) -> f64);
type Figure = Box<dyn Fn(&Report) -> Option<f64>>;

fn figures() -> Vec<(String, Figure)> {
    fn plain(name: &str, figure: impl Fn(&Report) -> Option<f64> + 'static) -> (String, Figure) {
        (name.to_owned(), Box::new(figure))
    }
    let mut all = vec![
        plain("due per second", |report| Some(report.throughput.due)),
        plain("accepted per second", |report| Some(report.throughput.accepted)),
        plain("settled per second", |report| report.throughput.settled),
    ];
    let quantiles: [Quantile; 5] = [
        ("p50", |ms| ms.p50),
        ("p90", |ms| ms.p90),
        ("p99", |ms| ms.p99),
        ("p99.9", |ms| ms.p99_9),
        ("max", |ms| ms.max),
    ];
    for (quantile, of) in quantiles {
        all.push(plain(&format!("accept {quantile} ms"), move |report| {
            (report.accept.count > 0).then(|| of(&report.accept))
        }));
    }
    for (quantile, of) in quantiles {
        all.push(plain(&format!("end to end {quantile} ms"), move |report| {
            report.end_to_end.as_ref().map(of)
        }));
    }
    all.extend([
        plain("tries, mean", |report| Some(report.tries.as_ref()?.mean)),
        plain("tries, most", |report| Some(report.tries.as_ref()?.max.into())),
        plain("fairness, latency of keys", |report| {
            Some(report.fairness?.latency_of_keys)
        }),
        plain("fairness, tries of keys", |report| {
            Some(report.fairness?.tries_of_keys)
        }),
        plain("done", |report| Some(report.counts.done as f64)),
        plain("failed", |report| Some(report.counts.failed() as f64)),
        plain("refused", |report| Some(report.counts.refused() as f64)),
        plain("unanswered", |report| Some(report.counts.unanswered() as f64)),
    ]);
    all
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
