//! `sluicegate submit --file`: many transactions, streamed.
//!
//! The file is read as fast as the gateway accepts, never ahead of it. With `--wait` every accepted one is
//! then followed to its end while the rest of the file is still being handed in; all that is kept of it
//! until then are the 16 bytes of its id.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use tokio::io::{AsyncBufRead, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::answer::{ClientError, Record};
use super::client::Client;
use super::ndjson::{Line, LineError, Lines};
use super::print;
use super::submit::Wait;
use crate::domain::TransactionId;

type Source = Pin<Box<dyn AsyncBufRead>>;

/// Hands in every line of `file` (`-` is standard input), `concurrency` at a time, and prints a summary.
pub(super) async fn run(
    client: &Client,
    file: &Path,
    concurrency: usize,
    wait: Option<Wait>,
) -> anyhow::Result<ExitCode> {
    let (source, size) = open(file).await?;
    let run = Run {
        client,
        bar: bar(size),
        tally: RefCell::default(),
        stopped: Cell::new(false),
    };
    let started = Instant::now();
    let interrupted = tokio::select! {
        () = run.everything(Lines::new(source), concurrency, wait) => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    run.bar.finish_and_clear();
    let tally = run.tally.into_inner();
    print::line(Summary {
        tally: &tally,
        elapsed: started.elapsed(),
        waited: wait.is_some(),
    })?;
    Ok(match (interrupted, tally.is_fine(wait.is_some())) {
        (true, _) => {
            eprintln!("interrupted: not everything was handed in or followed");
            ExitCode::from(130)
        }
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::FAILURE,
    })
}

async fn open(file: &Path) -> anyhow::Result<(Source, Option<u64>)> {
    if file == Path::new("-") {
        return Ok((Box::pin(BufReader::new(tokio::io::stdin())), None));
    }
    let context = || format!("open {}", file.display());
    let opened = tokio::fs::File::open(file).await.with_context(context)?;
    let about = opened.metadata().await.with_context(context)?;
    anyhow::ensure!(!about.is_dir(), "{} is a directory", file.display());
    // A pipe has no size.
    let size = Some(about.len()).filter(|_| about.is_file());
    Ok((Box::pin(BufReader::with_capacity(256 * 1024, opened)), size))
}

fn bar(size: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size {
        Some(size) => (
            ProgressBar::new(size),
            "{bar:30} {percent:>3}% of the file  {msg}  {elapsed}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// One run over one file.
struct Run<'c> {
    client: &'c Client,
    bar: ProgressBar,
    tally: RefCell<Tally>,
    /// The gateway is gone: what remains is not tried.
    stopped: Cell<bool>,
}

impl Run<'_> {
    async fn everything(&self, lines: Lines<Source>, concurrency: usize, wait: Option<Wait>) {
        let (accepted, to_follow) = mpsc::unbounded_channel();
        let handing_in = self.hand_in(lines, concurrency, wait.and(Some(accepted)));
        let following = async {
            if let Some(wait) = wait {
                UnboundedReceiverStream::new(to_follow)
                    .for_each_concurrent(concurrency, |id| self.follow(id, wait))
                    .await;
            }
        };
        // The sender ends with `handing_in`, and with it, once it is empty, the stream.
        tokio::join!(handing_in, following);
    }

    async fn hand_in(
        &self,
        lines: Lines<Source>,
        concurrency: usize,
        accepted: Option<mpsc::UnboundedSender<TransactionId>>,
    ) {
        let lines = stream::unfold(lines, |mut lines| async move {
            if self.stopped.get() {
                return None;
            }
            let line = lines.next().await?;
            self.bar.set_position(lines.bytes);
            Some((line, lines))
        });
        lines
            .for_each_concurrent(concurrency, |line| self.one(line, accepted.as_ref()))
            .await;
    }

    async fn one(
        &self,
        line: Result<Line, LineError>,
        accepted: Option<&mpsc::UnboundedSender<TransactionId>>,
    ) {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                self.tally.borrow_mut().wrong += 1;
                return self.report(&error);
            }
        };
        match self.client.submit(line.body, &line.key).await {
            Ok(answer) => {
                self.tally.borrow_mut().accepted += 1;
                let id = answer.record.id.parse();
                match (accepted, id) {
                    (Some(accepted), Ok(id)) if !answer.record.is_at_rest() => {
                        // Fails only if nobody follows any more: the run is ending.
                        let _ended = accepted.send(id);
                    }
                    _ => self.tally.borrow_mut().end(&answer.record),
                }
            }
            Err(error) => {
                match error {
                    ClientError::Unreachable { .. } => self.tally.borrow_mut().unsent += 1,
                    _ => self.tally.borrow_mut().refused += 1,
                }
                self.report(&format_args!("line {}: {error}", line.number));
                self.stop_if_gone(&error);
            }
        }
        self.show_progress();
    }

    async fn follow(&self, id: TransactionId, wait: Wait) {
        if self.stopped.get() {
            self.tally.borrow_mut().lost += 1;
            return;
        }
        match self.client.follow(&id.to_string(), wait.deadline).await {
            Ok(Some(answer)) => self.tally.borrow_mut().end(&answer.record),
            Ok(None) => self.tally.borrow_mut().pending += 1,
            Err(error) => {
                self.tally.borrow_mut().lost += 1;
                self.report(&format_args!("{id}: {error}"));
                self.stop_if_gone(&error);
            }
        }
        self.show_progress();
    }

    /// Stops the run when tries were used up without any answer: every line would take as long as this one.
    fn stop_if_gone(&self, error: &ClientError) {
        let gone = matches!(error, ClientError::Unreachable { .. });
        if gone && !self.stopped.replace(true) {
            self.report(&"the gateway cannot be reached: what remains is not tried");
        }
    }

    fn report(&self, what: &dyn fmt::Display) {
        self.bar.suspend(|| eprintln!("{what}"));
    }

    fn show_progress(&self) {
        if self.bar.is_hidden() {
            return;
        }
        let tally = self.tally.borrow();
        let bad = tally.wrong + tally.refused + tally.unsent;
        let failed: u64 = tally.failed.values().sum();
        let read = match self.bar.length() {
            Some(_) => String::new(),
            None => format!("{} read, ", HumanBytes(self.bar.position())),
        };
        self.bar.set_message(format!(
            "{read}{} accepted, {bad} not, {} done, {failed} failed",
            tally.accepted, tally.done
        ));
    }
}

/// What became of the lines.
#[derive(Debug, Default)]
struct Tally {
    accepted: u64,
    done: u64,
    /// By code.
    failed: BTreeMap<String, u64>,
    /// Waits for a person.
    parked: u64,
    /// Not at rest when last seen.
    pending: u64,
    /// Accepted, but its state could not be asked for.
    lost: u64,
    refused: u64,
    /// Lines that are no request.
    wrong: u64,
    /// No answer from the gateway.
    unsent: u64,
}

impl Tally {
    fn end(&mut self, record: &Record) {
        match record.status.as_str() {
            "done" => self.done += 1,
            "failed" => {
                let code = record.error.as_ref().map_or("unknown", |error| &error.code);
                *self.failed.entry(code.to_owned()).or_default() += 1;
            }
            _ if record.is_at_rest() => self.parked += 1,
            _ => self.pending += 1,
        }
    }

    fn is_fine(&self, waited: bool) -> bool {
        let accepted = self.refused + self.wrong + self.unsent + self.lost == 0 && self.failed.is_empty();
        accepted && !(waited && self.parked + self.pending > 0)
    }
}

struct Summary<'t> {
    tally: &'t Tally,
    elapsed: Duration,
    waited: bool,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = self.tally;
        let failed: u64 = tally.failed.values().sum();
        writeln!(f, "accepted     {:>10}", tally.accepted)?;
        // Without --wait these are the ones that an earlier run has brought to their end.
        if self.waited || tally.done + failed > 0 {
            writeln!(f, "  done       {:>10}", tally.done)?;
            writeln!(f, "  failed     {failed:>10}")?;
        }
        for (code, count) in &tally.failed {
            writeln!(f, "    {count} {code}")?;
        }
        let rarely = [
            ("  parked", tally.parked),
            ("  pending", if self.waited { tally.pending } else { 0 }),
            ("  not seen", tally.lost),
            ("unreachable", tally.unsent),
            ("bad lines", tally.wrong),
        ];
        for (name, count) in rarely.into_iter().filter(|&(_, count)| count > 0) {
            writeln!(f, "{name:<12} {count:>10}")?;
        }
        writeln!(f, "refused      {:>10}", tally.refused)?;
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "elapsed      {seconds:>10.1} s")?;
        let per_second = |count: u64| count as f64 / seconds.max(1e-9);
        match self.waited {
            true => write!(
                f,
                "rate         {:>10.1} tx/s done or failed",
                per_second(tally.done + failed)
            ),
            false => write!(
                f,
                "rate         {:>10.1} tx/s accepted",
                per_second(tally.accepted)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_tells_what_became_of_every_line() {
        let mut tally = Tally {
            accepted: 5,
            refused: 1,
            wrong: 1,
            ..Tally::default()
        };
        for json in [
            r#"{"id":"1","status":"done","stage":null}"#,
            r#"{"id":"2","status":"failed","error":{"code":"rejected","message":"no"}}"#,
            r#"{"id":"3","status":"failed","error":{"code":"expired"}}"#,
            r#"{"id":"4","status":"pending","stage":"parked"}"#,
            r#"{"id":"5","status":"pending","stage":"backoff"}"#,
        ] {
            tally.end(&serde_json::from_str(json).expect("a record"));
        }
        let summary = Summary {
            tally: &tally,
            elapsed: Duration::from_secs(2),
            waited: true,
        };
        insta::assert_snapshot!(summary, @"
        accepted              5
          done                1
          failed              2
            1 expired
            1 rejected
          parked              1
          pending             1
        bad lines             1
        refused               1
        elapsed             2.0 s
        rate                1.5 tx/s done or failed
        ");
        assert!(!tally.is_fine(true));
        let fine = Tally {
            accepted: 1,
            pending: 1,
            ..Tally::default()
        };
        assert!(fine.is_fine(false) && !fine.is_fine(true));
    }
}
