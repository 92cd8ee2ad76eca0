//! A report as a table for a terminal.

use std::fmt;

use super::load::{Arrivals, LoadView, Pace};
use super::report::{Kind, Latencies, Report};

/// What is printed at the end of a run.
pub(super) struct Table<'r>(pub(super) &'r Report);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let counts = &report.counts;
        writeln!(f, "run          {} ({})", report.run, target(report))?;
        writeln!(f, "load         {}", load(&report.load))?;
        writeln!(f, "             {}\n", calls(&report.load))?;
        row(f, "due", counts.due)?;
        row(f, "accepted", counts.accepted)?;
        if report.end_to_end.is_some() || counts.done + counts.failed() > 0 {
            row(f, "  done", counts.done)?;
            row(f, "  failed", counts.failed())?;
            for (code, count) in &counts.failed {
                writeln!(f, "    {count} {code}")?;
            }
        }
        rarely(f, "  parked", counts.parked)?;
        rarely(f, "  pending", counts.pending)?;
        rarely(f, "refused", counts.refused())?;
        for (code, refused) in &counts.refused {
            writeln!(f, "    {} {code}: {}", refused.count, printable(&refused.example))?;
        }
        rarely(f, "unanswered", counts.unanswered())?;
        for (reason, count) in &counts.unanswered {
            writeln!(f, "    {count} {}", printable(reason))?;
        }
        if counts.unclaimed > 0 {
            writeln!(
                f,
                "    {} of these were accepted and settled all the same",
                counts.unclaimed
            )?;
        }
        rarely(f, "unfinished", counts.unfinished)?;
        let throughput = &report.throughput;
        write!(
            f,
            "\nper second   {:.1} due, {:.1} accepted",
            throughput.due, throughput.accepted
        )?;
        if let Some(settled) = throughput.settled {
            write!(f, ", {settled:.1} settled")?;
        }
        writeln!(
            f,
            "\n\n{:<12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "ms", "p50", "p90", "p99", "p99.9", "max", "mean"
        )?;
        latencies(f, "accept", &report.accept)?;
        if let Some(end_to_end) = &report.end_to_end {
            latencies(f, "end to end", end_to_end)?;
        }
        if report.send_delay.count > 0 {
            latencies(f, "send delay", &report.send_delay)?;
        }
        if let Some(tries) = &report.tries {
            writeln!(
                f,
                "\ntries        {:.2} for each transaction, {} at most; {:.1} % of all were repeats",
                tries.mean,
                tries.max,
                tries.repeated_share * 100.0
            )?;
        }
        if let Some(lane) = &report.lane {
            writeln!(
                f,
                "ledger       {} submissions, {} conflicts ({:.1} %), whoever's they were",
                lane.submissions,
                lane.conflicts,
                lane.conflict_share * 100.0
            )?;
        }
        if let Some(fairness) = &report.fairness {
            writeln!(
                f,
                "fairness     {:.3} by latency, {:.3} by tries, over {} keys; {:.3}, {:.3} over transactions (Jain's index)",
                fairness.latency_of_keys,
                fairness.tries_of_keys,
                fairness.keys,
                fairness.latency_of_transactions,
                fairness.tries_of_transactions
            )?;
        }
        for note in &report.notes {
            write!(f, "\nnote: {note}")?;
        }
        Ok(())
    }
}

/// What took the load, in words.
pub(super) fn target(report: &Report) -> String {
    match report.kind {
        Kind::Gateway => format!("the gateway at {}", report.target),
        Kind::Direct => format!("the ledger itself: {}", report.target),
    }
}

/// How it was paced, in words.
pub(super) fn load(load: &LoadView) -> String {
    let pace = match load.pace {
        Pace::Open {
            per_second, arrivals, ..
        } => {
            let arrivals = match arrivals {
                Arrivals::Even => "evenly spread",
                Arrivals::Poisson => "Poisson arrivals",
            };
            format!("{per_second} per second, {arrivals}")
        }
        Pace::Closed { connections } => format!("{connections} callers, one transaction at a time each"),
    };
    format!(
        "{pace}, for {} s after {} s of warm-up",
        load.duration_seconds, load.warm_up_seconds
    )
}

/// What is called, in words.
pub(super) fn calls(load: &LoadView) -> String {
    let all: u32 = load.calls.iter().map(|call| call.weight).sum();
    let calls = load.calls.iter().map(|call| {
        let contract = call.contract.as_deref().unwrap_or("(default contract)");
        let share = match load.calls.len() {
            1 => String::new(),
            _ => format!("{:.0} % ", f64::from(call.weight) / f64::from(all) * 100.0),
        };
        format!("{share}{contract} {} {}", call.function, call.args)
    });
    let calls: Vec<_> = calls.collect();
    format!(
        "{} on ledger {}, keys {}",
        calls.join(", "),
        load.ledger,
        load.keys
    )
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, count: u64) -> fmt::Result {
    writeln!(f, "{name:<12} {count:>10}")
}

fn rarely(f: &mut fmt::Formatter<'_>, name: &str, count: u64) -> fmt::Result {
    if count > 0 { row(f, name, count) } else { Ok(()) }
}

fn latencies(f: &mut fmt::Formatter<'_>, name: &str, of: &Latencies) -> fmt::Result {
    let figures = [of.p50, of.p90, of.p99, of.p99_9, of.max, of.mean];
    write!(f, "{name:<12}")?;
    figures.iter().try_for_each(|ms| write!(f, " {ms:>10.2}"))?;
    writeln!(f)
}

/// What a server says could carry characters that move a terminal's cursor.
fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}
