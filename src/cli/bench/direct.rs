//! `sluicegate bench direct`: the same load without a gateway, as the base to compare with.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, value_parser};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::super::ConfigArgs;
use super::call::Call;
use super::drive::{Order, Target};
use super::load::{Load, LoadArgs};
use super::recorder::{Ending, Recorder};
use super::report::{Kind, Lane};
use super::session::{Besides, Session};
use crate::app::alone::LoneLedger;
use crate::config;
use crate::domain::{
    Argument, Cause, LedgerName, LedgerTxId, Outcome, Prepared, Request, SubmissionId, TransactionId,
};
use crate::ledger::{LedgerBackend, Outcomes, PrepareError, SubmitError};

/// What the ledger does not tell by itself is asked for so often.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Put the same load straight on a ledger, without a gateway
///
/// The base that tells what a gateway adds. Each transaction is prepared, sent, and awaited by a client as simple as can
/// be: nothing is stored, no rate is kept to, and after a conflict it is prepared and sent anew at once, --tries times in all; then
/// it counts as failed with `conflicts_exhausted`. What counts as accepted is what the ledger has taken to order it; what it refuses before
/// counts as refused, by its code. With --rate, --max-in-flight bounds the transactions that are not settled.
///
/// Reads the configuration as `serve` does and uses the ledger that it names. A simulator lives inside its process: it gets a
/// new chain beside the data folder, removed in the end. A gateway may run meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluicegate bench direct --rate 200 --contract counter --function Add --args '[\"{key}\", 1]' --json direct.json
  sluicegate bench direct --config devnet-data/gateway.toml --connections 256 \\
      --contract counter --function Set --args '[\"{run}-{n}\", 1]'
  sluicegate bench compare direct.json gateway.json")]
pub(super) struct DirectArgs {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    config: ConfigArgs,
    /// How often a transaction is tried if it conflicts
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = value_parser!(u32).range(1..))]
    tries: u32,
}

pub(super) async fn run(args: DirectArgs) -> anyhow::Result<ExitCode> {
    let settings = config::load(args.config.config.as_deref())?.settings;
    let (load, files) = args.load.check()?;
    let lone = LoneLedger::open(&settings, &load.ledger)?;
    let ledger = lone.ledger().clone();
    let run = Uuid::now_v7().to_string();
    let requests = Requests::new(&load, &run, &*ledger)?;
    for call in 0..load.calls.len() {
        let request = requests.make(call, 1, 1)?;
        ledger
            .check(&request)
            .context("the load does not suit the ledger")?;
    }
    let ready = tokio::time::timeout(load.timeout, ledger.ready()).await;
    ready
        .map_err(|_| anyhow::anyhow!("no answer in time"))
        .and_then(|ready| ready.map_err(|cause| anyhow::anyhow!("{cause}")))
        .with_context(|| {
            format!(
                "ledger {} cannot be reached; see its section of the configuration",
                load.ledger
            )
        })?;
    let waiting = Arc::<Waiting>::default();
    let (told, stopped) = (waiting.clone(), lone.stopped().clone());
    let outcomes = ledger.outcomes(None);
    lone.tasks().spawn(async move {
        stopped.run_until_cancelled(told.listen(outcomes)).await;
    });
    let target = format!("{} ({})", load.ledger, ledger.kind());
    let session = Session::new(load, files, run, Kind::Direct, target, true);
    let target = Arc::new(Direct {
        ledger,
        requests,
        waiting,
        recorder: session.recorder.clone(),
        tries: args.tries,
        submissions: AtomicU64::new(0),
        conflicts: AtomicU64::new(0),
    });
    let counted = target.clone();
    let tries = args.tries;
    let code = session
        .go(target, async || {
            let submissions = counted.submissions.load(Ordering::Relaxed);
            let conflicts = counted.conflicts.load(Ordering::Relaxed);
            Besides {
                lane: Some(Lane {
                    submissions,
                    conflicts,
                    conflict_share: conflicts as f64 / submissions.max(1) as f64,
                }),
                notes: vec![format!(
                    "Without a gateway: nothing is durable before the ledger has it, no rate is kept to, and conflicts are tried \
                     again at once, {tries} times in all."
                )],
            }
        })
        .await;
    lone.close().await;
    code
}

/// Makes what the ledger is asked to do.
struct Requests {
    calls: Vec<Call>,
    ledger: LedgerName,
    default_contract: Option<String>,
    run: String,
}

impl Requests {
    fn new(load: &Load, run: &str, ledger: &dyn LedgerBackend) -> anyhow::Result<Self> {
        let default_contract = ledger.default_contract().map(str::to_owned);
        anyhow::ensure!(
            default_contract.is_some() || load.calls.iter().all(|call| call.contract.is_some()),
            "the ledger has no default_contract; give --contract"
        );
        Ok(Self {
            calls: load.calls.clone(),
            ledger: load.ledger.clone(),
            default_contract,
            run: run.to_owned(),
        })
    }

    fn make(&self, call: usize, key: u32, number: u64) -> anyhow::Result<Request> {
        let call = self.calls.get(call).context("a call of the load")?;
        let mut args = String::new();
        call.args.fill(&mut args, key, number, &self.run);
        let args: Vec<Argument> = serde_json::from_str(&args).context("read --args")?;
        let contract = call.contract.as_ref().or(self.default_contract.as_ref());
        let contract = contract.cloned().unwrap_or_default();
        Ok(Request::call(self.ledger.clone(), contract, &call.function, args))
    }
}

/// Those who wait to be told what became of a submission.
#[derive(Default)]
struct Waiting(Mutex<HashMap<LedgerTxId, oneshot::Sender<Outcome>>>);

impl Waiting {
    fn wait_for(&self, id: &LedgerTxId) -> oneshot::Receiver<Outcome> {
        let (tell, told) = oneshot::channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone(), tell);
        told
    }

    fn forget(&self, id: &LedgerTxId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    async fn listen(&self, mut outcomes: Outcomes) {
        while let Some(group) = outcomes.next().await {
            for (id, outcome) in group.outcomes {
                let waiter = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(waiter) = waiter {
                    // Whoever does not wait any more was cut off.
                    let _gone = waiter.send(outcome);
                }
            }
        }
    }
}

/// The ledger itself.
struct Direct {
    ledger: Arc<dyn LedgerBackend>,
    requests: Requests,
    waiting: Arc<Waiting>,
    recorder: Arc<Recorder>,
    tries: u32,
    submissions: AtomicU64,
    conflicts: AtomicU64,
}

/// How one try went.
enum Try {
    Committed,
    Conflict,
    Failed(Cause),
    /// The ledger did not take it.
    Unavailable(Cause),
}

impl Target for Direct {
    async fn send(&self, order: Order) {
        let request = match self.requests.make(order.call, order.key, order.number) {
            Ok(request) => request,
            Err(error) => {
                return self
                    .recorder
                    .unanswered(&order, error.to_string(), Instant::now());
            }
        };
        let record = TransactionId::new();
        let mut taken = false;
        for number in 1..=self.tries {
            // A submission's number begins with 0.
            let submission = SubmissionId {
                record,
                number: u64::from(number - 1),
            };
            let ended = self.once(&order, submission, &request, &mut taken).await;
            let now = Instant::now();
            let (ending, code) = match ended {
                Try::Committed => (Ending::Done, None),
                Try::Conflict if number < self.tries => continue,
                Try::Conflict => (Ending::Failed("conflicts_exhausted".to_owned()), None),
                Try::Failed(cause) => (Ending::Failed("rejected".to_owned()), Some(cause)),
                Try::Unavailable(cause) if taken => {
                    (Ending::Failed("ledger_unavailable".to_owned()), Some(cause))
                }
                Try::Unavailable(cause) => {
                    return self.recorder.unanswered(&order, cause.to_string(), now);
                }
            };
            match (taken, code) {
                (false, Some(cause)) => self.recorder.refused(&order, &cause.code, &cause.message, now),
                (false, None) => self
                    .recorder
                    .refused(&order, "conflicts_exhausted", "while preparing", now),
                (true, _) if order.measured => self.recorder.settled(record, ending, number, now),
                (true, _) => {}
            }
            return;
        }
    }
}

impl Direct {
    async fn once(
        &self,
        order: &Order,
        submission: SubmissionId,
        request: &Request,
        taken: &mut bool,
    ) -> Try {
        if order.measured {
            self.submissions.fetch_add(1, Ordering::Relaxed);
        }
        let ended = self.prepare_and_send(order, submission, request, taken).await;
        if order.measured && matches!(ended, Try::Conflict) {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
        }
        ended
    }

    async fn prepare_and_send(
        &self,
        order: &Order,
        submission: SubmissionId,
        request: &Request,
        taken: &mut bool,
    ) -> Try {
        let prepared = match self.ledger.prepare(submission, request).await {
            Ok(prepared) => prepared,
            Err(PrepareError::Rejected(cause)) => return Try::Failed(cause),
            Err(PrepareError::Conflict(_)) => return Try::Conflict,
            Err(PrepareError::Postponed(cause) | PrepareError::Unavailable(cause)) => {
                return Try::Unavailable(cause);
            }
            Err(PrepareError::AlreadyOnLedger(id)) => {
                return Try::Failed(Cause::new("already_on_ledger", id.to_string()));
            }
        };
        let told = self.waiting.wait_for(&prepared.tx_id);
        match self.ledger.submit(&prepared).await {
            Ok(()) => {
                if !std::mem::replace(taken, true) {
                    self.recorder.accepted(order, submission.record, Instant::now());
                }
            }
            // It may have been sent: what became of it is still told, or can be asked for.
            Err(SubmitError::Unknown(_)) => {}
            Err(SubmitError::Rejected(cause)) => {
                self.waiting.forget(&prepared.tx_id);
                return Try::Failed(cause);
            }
            Err(SubmitError::Unavailable(cause)) => {
                self.waiting.forget(&prepared.tx_id);
                return Try::Unavailable(cause);
            }
        }
        let ended = self.outcome(&prepared, told).await;
        self.waiting.forget(&prepared.tx_id);
        if matches!(ended, Try::Committed | Try::Conflict) && !std::mem::replace(taken, true) {
            self.recorder.accepted(order, submission.record, Instant::now());
        }
        ended
    }

    /// Waits to be told, and asks now and then; whoever waits in vain is cut off with the run.
    async fn outcome(&self, prepared: &Prepared, told: oneshot::Receiver<Outcome>) -> Try {
        let mut outcome = match tokio::time::timeout(ASK_EVERY, told).await {
            Ok(Ok(outcome)) => Some(outcome),
            Ok(Err(_)) | Err(_) => None,
        };
        loop {
            match outcome.take() {
                Some(Outcome::Committed(_)) => return Try::Committed,
                Some(Outcome::Conflict(_)) => return Try::Conflict,
                Some(Outcome::Rejected(cause)) => return Try::Failed(cause),
                // No final word yet.
                Some(Outcome::Unavailable(_) | Outcome::Absent(_) | Outcome::Unknown(_)) => {
                    tokio::time::sleep(ASK_EVERY).await;
                }
                None => {}
            }
            outcome = Some(self.ledger.lookup(&prepared.tx_id).await);
        }
    }
}
