//! A ledger that does what a test tells it to: each outcome, each doubt, each outage.
//!
//! It counts what took effect by identifier, so "at most once" (I2) is checked where it matters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use serde_json::value::{RawValue, to_raw_value};
use sluicegate::domain::{Cause, Checkpoint, LedgerTxId, Outcome, Prepared, Receipt, Request, SubmissionId};
use sluicegate::ledger::{
    LedgerBackend, Outcomes, PrepareError, Query, QueryError, Settled, SubmitError, Unacceptable,
};
use tokio::sync::watch;

/// What the ledger does with one submission.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// Takes effect; the outcome is told.
    Commit,
    /// Takes effect; nobody is told.
    CommitSilently,
    /// Takes effect, but the reply to `submit` is lost and nobody is told.
    CommitAndLoseReply,
    /// The reply is lost, and so is the submission.
    LoseAll,
    Conflict,
    Reject,
    /// Refuses the connection: certainly nothing sent.
    Refuse,
    /// Takes effect, and is told, when the test releases it; until then nobody knows it.
    Hold,
}

/// A ledger that follows a script; when that is at its end, it commits.
pub(crate) struct Scripted {
    script: Mutex<VecDeque<Act>>,
    deduplicates: bool,
    pub(crate) down: AtomicBool,
    pub(crate) prepared: AtomicUsize,
    pub(crate) probes: AtomicUsize,
    /// Every `submit`, with its moment.
    pub(crate) sent: Mutex<Vec<(LedgerTxId, Instant)>>,
    effects: Mutex<BTreeMap<LedgerTxId, usize>>,
    verdicts: Mutex<BTreeMap<LedgerTxId, Outcome>>,
    /// What was told, each a block of its own.
    told: watch::Sender<Vec<(LedgerTxId, Outcome)>>,
    /// Whether the stream goes on from a checkpoint.
    resumes: bool,
    default_contract: Option<&'static str>,
    pub(crate) lookups: AtomicUsize,
    /// Those who endorse know of nothing that is on the ledger.
    pub(crate) lags: AtomicBool,
    /// Look-ups are not answered.
    pub(crate) silent: AtomicBool,
    /// Until when a connection is on its way.
    pub(crate) connected_at: Mutex<Instant>,
    /// The contract refuses by now.
    pub(crate) refuses: AtomicBool,
    /// So long whoever endorses takes.
    pub(crate) endorses_for: Mutex<Duration>,
    /// Who the gateway is to it.
    pub(crate) identity: Mutex<&'static str>,
    held: Mutex<VecDeque<LedgerTxId>>,
}

impl Scripted {
    pub(crate) fn new(script: &[Act], deduplicates: bool) -> Arc<Self> {
        Arc::new(Self::of(script, deduplicates))
    }

    /// One whose stream goes on from a checkpoint.
    pub(crate) fn resuming(script: &[Act]) -> Arc<Self> {
        Arc::new(Self {
            resumes: true,
            ..Self::of(script, true)
        })
    }

    /// One with a contract for calls that name none.
    pub(crate) fn with_default_contract(contract: &'static str) -> Arc<Self> {
        Arc::new(Self {
            default_contract: Some(contract),
            ..Self::of(&[], true)
        })
    }

    fn of(script: &[Act], deduplicates: bool) -> Self {
        Self {
            script: Mutex::new(script.iter().copied().collect()),
            deduplicates,
            down: AtomicBool::new(false),
            prepared: AtomicUsize::new(0),
            probes: AtomicUsize::new(0),
            sent: Mutex::default(),
            effects: Mutex::default(),
            verdicts: Mutex::default(),
            told: watch::Sender::default(),
            resumes: false,
            default_contract: None,
            lookups: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
            connected_at: Mutex::new(Instant::now()),
            lags: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            endorses_for: Mutex::default(),
            identity: Mutex::new("tx"),
            held: Mutex::default(),
        }
    }

    pub(crate) fn sends(&self) -> Vec<LedgerTxId> {
        self.sent
            .lock()
            .unwrap()
            .iter()
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub(crate) fn effects(&self) -> usize {
        self.effects.lock().unwrap().values().sum()
    }
}

fn cause(code: &str) -> Cause {
    Cause::new(code, "as the script says")
}

#[async_trait]
impl LedgerBackend for Scripted {
    fn kind(&self) -> &'static str {
        "scripted"
    }

    fn check(&self, _: &Request) -> Result<(), Unacceptable> {
        Ok(())
    }

    fn deduplicates(&self) -> bool {
        self.deduplicates
    }

    fn identify(&self, submission: SubmissionId) -> LedgerTxId {
        let who = self.identity.lock().unwrap();
        LedgerTxId(format!("{who}-{}-{}", submission.record, submission.number))
    }

    async fn prepare(&self, submission: SubmissionId, request: &Request) -> Result<Prepared, PrepareError> {
        let endorses_for = *self.endorses_for.lock().unwrap();
        if !endorses_for.is_zero() {
            tokio::time::sleep(endorses_for).await;
        }
        if self.down.load(Ordering::SeqCst) {
            return Err(PrepareError::Unavailable(cause("DOWN")));
        }
        let tx_id = self.identify(submission);
        let known = self.verdicts.lock().unwrap().contains_key(&tx_id);
        if known && !self.lags.load(Ordering::SeqCst) {
            return Err(PrepareError::AlreadyOnLedger(tx_id));
        }
        if request.function == "Nonsense" || self.refuses.load(Ordering::SeqCst) {
            return Err(PrepareError::Rejected(cause("BUSINESS_ERROR")));
        }
        self.prepared.fetch_add(1, Ordering::SeqCst);
        Ok(Prepared {
            tx_id,
            envelope: "signed".into(),
            response: None,
            touched: None,
        })
    }

    async fn ready(&self) -> Result<(), Cause> {
        let at = *self.connected_at.lock().unwrap();
        tokio::time::sleep_until(at.into()).await;
        Ok(())
    }

    async fn submit(&self, prepared: &Prepared) -> Result<(), SubmitError> {
        let id = prepared.tx_id.clone();
        self.sent.lock().unwrap().push((id.clone(), Instant::now()));
        if self.deduplicates && self.verdicts.lock().unwrap().contains_key(&id) {
            return Ok(());
        }
        let act = self.script.lock().unwrap().pop_front().unwrap_or(Act::Commit);
        let (verdict, told) = match act {
            Act::Commit => (self.commit(&id), true),
            Act::CommitSilently | Act::CommitAndLoseReply => (self.commit(&id), false),
            Act::Conflict => (Outcome::Conflict(cause("MVCC_READ_CONFLICT")), true),
            Act::Reject => (Outcome::Rejected(cause("ENDORSEMENT_POLICY_FAILURE")), true),
            Act::Hold => {
                let mut held = self.held.lock().unwrap();
                if !held.contains(&id) {
                    held.push_back(id);
                }
                return Ok(());
            }
            Act::LoseAll => return Err(SubmitError::Unknown(cause("TIMEOUT"))),
            Act::Refuse => return Err(SubmitError::Unavailable(cause("REFUSED"))),
        };
        self.verdicts.lock().unwrap().insert(id.clone(), verdict.clone());
        if told {
            self.told.send_modify(|told| told.push((id, verdict)));
        }
        match act {
            Act::CommitAndLoseReply => Err(SubmitError::Unknown(cause("TIMEOUT"))),
            _ => Ok(()),
        }
    }

    fn outcomes(&self, from: Option<Checkpoint>) -> Outcomes {
        let (told, resumes) = (self.told.subscribe(), self.resumes);
        let end = told.borrow().len();
        let next = from
            .filter(|_| resumes)
            .map_or(end, |checkpoint| checkpoint.0 as usize);
        let settled = move |outcomes, next: usize| Settled {
            outcomes,
            checkpoint: resumes.then_some(Checkpoint(next as u64)),
        };
        let blocks = stream::unfold((told, next), move |(mut told, next)| async move {
            let block = told.wait_for(|told| told.len() > next).await.ok()?[next].clone();
            Some((settled(vec![block], next + 1), (told, next + 1)))
        });
        stream::iter([settled(Vec::new(), next)]).chain(blocks).boxed()
    }

    fn default_contract(&self) -> Option<&str> {
        self.default_contract
    }

    async fn lookup(&self, id: &LedgerTxId) -> Outcome {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let known = self.verdicts.lock().unwrap().get(id).cloned();
        if self.silent.load(Ordering::SeqCst) {
            return Outcome::Unknown(cause("TIMEOUT"));
        }
        known.unwrap_or(Outcome::Absent(cause("NOT_FOUND")))
    }

    /// Answers which contract was meant.
    async fn query(&self, query: &Query) -> Result<Box<RawValue>, QueryError> {
        Ok(to_raw_value(&query.contract).unwrap())
    }

    async fn probe(&self) -> Result<(), Cause> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            Err(cause("DOWN"))
        } else {
            Ok(())
        }
    }
}

impl Scripted {
    /// What was held takes effect and is told.
    pub(crate) fn release(&self) {
        while self.release_first() {}
    }

    /// What was held first takes effect and is told, if anything is held.
    pub(crate) fn release_first(&self) -> bool {
        let Some(id) = self.held.lock().unwrap().pop_front() else {
            return false;
        };
        let verdict = self.commit(&id);
        self.verdicts.lock().unwrap().insert(id.clone(), verdict.clone());
        self.told.send_modify(|told| told.push((id, verdict)));
        true
    }

    fn commit(&self, id: &LedgerTxId) -> Outcome {
        *self.effects.lock().unwrap().entry(id.clone()).or_default() += 1;
        Outcome::Committed(Receipt {
            tx_id: id.clone(),
            block: 1,
            code: None,
            result: None,
        })
    }
}
