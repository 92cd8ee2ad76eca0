//! What a stored change says to those who watch: numbers, a log line, and the steps that it ended, as spans.
//!
//! All of it follows from the record alone, so it does not matter which worker began the step: one that took over tells what
//! the other had begun. Told after it is stored; a crash in between loses the line and the number, never the change.

use super::Lane;
use crate::domain::{AttemptOutcome, State, Transaction};
use crate::failpoint;
use crate::telemetry::{PastSpan, SpanKind};

impl Lane {
    /// Tells of a change that is stored.
    pub(super) fn tell(&self, tx: &Transaction) {
        self.count(tx);
        let place = self.parts.tracer.place_of(tx);
        let _entered = place.map(|place| place.enter());
        self.log(tx);
        let Some(place) = place else { return };
        for step in steps(tx) {
            self.parts.tracer.note(step, tx, place);
        }
    }

    /// One line for each move from one stage to another. Codes, no messages: those may quote what was asked for.
    fn log(&self, tx: &Transaction) {
        let ledger = &self.parts.name;
        let (attempt, code) = (tx.attempts, code(tx));
        match &tx.state {
            State::Preparing { .. } => tracing::info!(tx.id = %tx.id, %ledger, attempt, "preparing"),
            State::Submitted { sent, .. } => {
                // A check that is claimed leaves it where it was.
                if tx.sent_at() == Some(tx.updated_at) {
                    tracing::info!(tx.id = %tx.id, %ledger, attempt, tx.ledger_id = %sent.tx_id, "submitted");
                }
            }
            State::Pending { due_at } => {
                tracing::info!(tx.id = %tx.id, %ledger, attempt, code, %due_at, "put back for another try");
            }
            State::Parked { .. } => {
                tracing::warn!(tx.id = %tx.id, %ledger, attempt, code, "parked: the ledger cannot tell, a person has to");
            }
            State::Done { .. } => {
                let took_ms = took(tx);
                tracing::info!(tx.id = %tx.id, %ledger, attempts = attempt, took_ms, "done");
            }
            State::Failed { failure } => {
                let (took_ms, reason) = (took(tx), failure.code.as_str());
                tracing::info!(tx.id = %tx.id, %ledger, attempts = attempt, took_ms, reason, code, "failed");
            }
        }
    }

    fn count(&self, tx: &Transaction) {
        let metrics = &self.parts.metrics;
        let ending = tx
            .history
            .last()
            .and_then(|attempt| Some((attempt.sent_at, attempt.ending.as_ref()?)));
        let conflicted = ending.is_some_and(|(_, ending)| ending.outcome == AttemptOutcome::Conflict);
        if let Some((Some(sent_at), ending)) = ending
            && ending.at == tx.updated_at
        {
            metrics
                .commit_latency
                .record(ending.at.since(sent_at).as_secs_f64());
            if conflicted {
                metrics.conflicted();
            }
        }
        let outcome = match &tx.state {
            State::Done { .. } => "done",
            State::Failed { failure } => failure.code.as_str(),
            State::Pending { .. } => {
                failpoint::reached("retry-before-told");
                return metrics.retried(if conflicted { "conflict" } else { "outage" });
            }
            State::Parked { .. } => return metrics.parked.increment(1),
            State::Preparing { .. } | State::Submitted { .. } => return,
        };
        failpoint::reached("outcome-before-told");
        metrics.settled(outcome, tx.updated_at.since(tx.created_at));
    }
}

/// The steps that the last change of `tx` ended. A claim ends none: it may be stored only together with what was prepared.
fn steps(tx: &Transaction) -> Vec<PastSpan<'_>> {
    let Some(attempt) = tx.history.last() else {
        return Vec::new();
    };
    let step = |name, kind, from, to, failed: bool| PastSpan {
        name,
        kind,
        from,
        to,
        error: failed.then(|| code(tx).unwrap_or("failed")),
    };
    // For its turn, or until another try.
    let wait = || {
        let before = tx
            .history
            .iter()
            .rev()
            .nth(1)
            .and_then(|last| last.ending.as_ref());
        let from = before.map_or(tx.created_at, |ending| ending.at);
        step("wait", SpanKind::Consumer, from, attempt.started_at, false)
    };
    let prepare = |to, failed| step("prepare", SpanKind::Client, attempt.started_at, to, failed);
    match (&attempt.ending, attempt.sent_at) {
        (None, Some(sent_at)) if sent_at == tx.updated_at => vec![wait(), prepare(sent_at, false)],
        (Some(ending), sent_at) if ending.at == tx.updated_at => {
            let failed = ending.outcome != AttemptOutcome::Committed;
            match sent_at {
                Some(sent_at) => vec![step("submit", SpanKind::Client, sent_at, ending.at, failed)],
                None => vec![wait(), prepare(ending.at, failed)],
            }
        }
        _ => Vec::new(),
    }
}

/// The ledger's code for how the last attempt ended.
fn code(tx: &Transaction) -> Option<&str> {
    tx.history.last()?.ending.as_ref()?.code.as_deref()
}

fn took(tx: &Transaction) -> u64 {
    u64::try_from(tx.updated_at.since(tx.created_at).as_millis()).unwrap_or(u64::MAX)
}
