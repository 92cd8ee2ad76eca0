//! What every run has, whatever takes its load: progress, an end before its time, the table and the files.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::print;
use super::super::serve::{VERSION, told_to_stop};
use super::drive::{Target, drive};
use super::html;
use super::load::{Files, Load, LoadView, Pace};
use super::recorder::{Measured, Recorder};
use super::report::{Counts, FORMAT, Fairness, Kind, Lane, Latencies, Report, Throughput, Tries};
use super::table;
use crate::clock::{Clock, SystemClock};

const LOOK_EVERY: Duration = Duration::from_millis(50);
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// A run that has been prepared.
pub(super) struct Session {
    pub(super) load: Arc<Load>,
    pub(super) files: Files,
    pub(super) recorder: Arc<Recorder>,
    pub(super) run: String,
    pub(super) kind: Kind,
    pub(super) target: String,
    /// How transactions end is being followed.
    pub(super) followed: bool,
    started_at: String,
}

/// What the target knows besides.
#[derive(Debug, Default)]
pub(super) struct Besides {
    pub(super) lane: Option<Lane>,
    pub(super) notes: Vec<String>,
}

impl Session {
    /// The measurement begins when the warm-up is over, counted from now.
    pub(super) fn new(
        load: Load,
        files: Files,
        run: String,
        kind: Kind,
        target: String,
        followed: bool,
    ) -> Self {
        let start = Instant::now() + load.warm_up;
        Self {
            recorder: Arc::new(Recorder::new(start, start + load.duration)),
            load: Arc::new(load),
            files,
            run,
            kind,
            target,
            followed,
            started_at: SystemClock.now().to_string(),
        }
    }

    /// Sends the load, waits for what it has begun, shows what was measured and writes it down. Ctrl-C ends it early.
    pub(super) async fn go<T: Target>(
        self,
        target: Arc<T>,
        besides: impl AsyncFnOnce() -> Besides,
    ) -> anyhow::Result<ExitCode> {
        let stop = told_to_stop().context("listen for Ctrl-C")?;
        let bar = bar();
        let work = async {
            drive(&self.load, &target, &self.recorder, self.patience()).await;
            if self.followed && self.kind == Kind::Gateway {
                let deadline = Instant::now() + self.load.settle;
                while self.recorder.progress().pending > 0 && Instant::now() < deadline {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        };
        let show = async {
            loop {
                bar.set_message(self.progress());
                tokio::time::sleep(SHOW_EVERY).await;
            }
        };
        let interrupted = tokio::select! {
            () = work => false,
            () = stop => true,
            () = show => false,
        };
        let ended = Instant::now();
        bar.finish_and_clear();
        let measured = self.recorder.finish();
        let besides = besides().await;
        let report = self.report(&measured, ended, interrupted, besides);
        print::line(table::Table(&report))?;
        if let Some(file) = &self.files.json {
            let json = serde_json::to_string(&report)?;
            std::fs::write(file, json).with_context(|| format!("--json {}", file.display()))?;
        }
        if let Some(file) = &self.files.html {
            let page = html::page(&report);
            std::fs::write(file, page).with_context(|| format!("--html {}", file.display()))?;
        }
        if interrupted {
            eprintln!("interrupted: this is what was measured up to then");
            return Ok(ExitCode::from(130));
        }
        let counts = &report.counts;
        if counts.accepted == 0 {
            eprintln!("nothing was accepted; see the table for the reasons");
            return Ok(ExitCode::FAILURE);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// How long after the load something is still waited for before it is unfinished. A ledger's client is done with a
    /// transaction when it is settled.
    fn patience(&self) -> Duration {
        match self.kind {
            Kind::Gateway => self.load.timeout,
            Kind::Direct => self.load.settle,
        }
    }

    fn progress(&self) -> String {
        let now = Instant::now();
        let start = self.recorder.start();
        let progress = self.recorder.progress();
        let phase = match now.checked_duration_since(start) {
            None => format!("warming up, {:.0} s left", (start - now).as_secs_f64()),
            Some(passed) if passed < self.load.duration => format!(
                "{:.0} of {:.0} s",
                passed.as_secs_f64(),
                self.load.duration.as_secs_f64()
            ),
            Some(_) => "waiting for the rest".to_owned(),
        };
        let settled = match self.followed {
            true => format!(", {} settled, {} pending", progress.settled, progress.pending),
            false => String::new(),
        };
        format!(
            "{phase}: {} accepted, {} not{settled}",
            progress.accepted, progress.not_accepted
        )
    }

    fn report(&self, measured: &Measured, ended: Instant, interrupted: bool, besides: Besides) -> Report {
        let during = match interrupted {
            true => ended
                .saturating_duration_since(self.recorder.start())
                .min(self.load.duration),
            false => self.load.duration,
        };
        let counts = Counts::of(measured);
        let send_delay = Latencies::of(&measured.send_delay);
        let followed = self.followed && !measured.end_to_end.is_empty();
        let mut notes = besides.notes;
        notes.extend(self.notes(&counts, &send_delay, interrupted));
        Report {
            format: FORMAT,
            version: VERSION.to_owned(),
            kind: self.kind,
            run: self.run.clone(),
            started_at: self.started_at.clone(),
            target: self.target.clone(),
            load: LoadView::from(&*self.load),
            interrupted,
            throughput: Throughput::of(measured, during.as_secs_f64(), self.followed),
            accept: Latencies::of(&measured.accept),
            end_to_end: followed.then(|| Latencies::of(&measured.end_to_end)),
            send_delay,
            tries: followed.then(|| Tries::of(&measured.tries)).flatten(),
            lane: besides.lane,
            fairness: followed.then(|| Fairness::of(measured)).flatten(),
            series: measured.series.clone(),
            counts,
            notes,
        }
    }

    fn notes(&self, counts: &Counts, send_delay: &Latencies, interrupted: bool) -> Vec<String> {
        let mut notes = Vec::new();
        if interrupted {
            notes.push("The run was ended before its time.".to_owned());
        }
        match self.load.pace {
            Pace::Closed { .. } => notes.push(
                "Closed loop: latencies count from the sending, and a server that slows down gets less load, so they say \
                 less than those of an open loop (--rate)."
                    .to_owned(),
            ),
            Pace::Open { max_in_flight, .. } if counts.held_back > 0 => notes.push(format!(
                "{} transactions were due while {max_in_flight} were under way already (--max-in-flight) and left later; \
                 their latencies count from when they were due.",
                counts.held_back
            )),
            Pace::Open { .. } if send_delay.p99 > 10.0 => notes.push(
                "This machine sent late (see the delay of sending): it may be too slow for this load, and latencies are \
                 partly its own."
                    .to_owned(),
            ),
            Pace::Open { .. } => {}
        }
        if counts.unfinished > 0 && !interrupted {
            notes.push(format!(
                "{} transactions were not sent, or not answered, {:.0} s after the load had ended; no latency counts them.",
                counts.unfinished,
                self.patience().as_secs_f64()
            ));
        }
        if self.followed && counts.pending > 0 && !interrupted {
            notes.push(format!(
                "{} transactions were not settled {:.0} s after the load had ended (--settle); no end-to-end latency counts \
                 them.",
                counts.pending,
                self.load.settle.as_secs_f64()
            ));
        }
        notes
    }
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(SHOW_EVERY);
    bar
}
