//! The lane of one ledger: takes due transactions, and brings each to its end.
//!
//! ```text
//! queue -> slot -> permit -> claim -> prepare -> store -> submit -> (outcome) -> store -> tell
//!          mod.rs            attempt.rs                   check.rs  settle.rs
//! ```
//!
//! - Before anything is sent, the bytes and the ledger's identifier are stored (I2). What is prepared again has the
//!   identifier that it had, and what the ledger has under it already is looked up and not sent.
//! - A slot is held from the claim to the outcome, so `max_in_flight` bounds memory and load (I7); a
//!   transaction in backoff holds none.
//! - A permit is taken for everything that may send, before it is claimed and again at the send (I6).
//! - Nothing is sent by a lane that may have been replaced: it asks its [`Tenure`] at the last moment.
//! - Before anything is sent, the lane listens for outcomes, from where the last one to have it was (`resume.rs`).
//! - A crash leaves records in `Preparing` (the lease runs out: nothing was sent) or `Submitted` (the check
//!   falls due: the ledger is asked, and the same bytes sent again if it has not seen them). The store's due
//!   mark brings both back to this lane.

mod adaptive;
mod attempt;
mod check;
mod gate;
mod in_flight;
mod journal;
mod limiter;
mod pacing;
mod resume;
mod settle;
mod slots;
mod steering;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::adaptive::{Adapted, Reason};
use self::gate::Gate;
use self::in_flight::InFlight;
use self::pacing::Pacing;
use self::resume::Subscription;
use self::slots::Slots;
pub use self::steering::Course;
use self::steering::Steering;
use crate::clock::Clock;
use crate::config::WorkerSettings;
use crate::domain::{Cause, LedgerName, RetryPolicy, TransactionId};
use crate::ledger::LedgerBackend;
use crate::notify::StatusHub;
use crate::queue::{Consumer, Delivery, QueueError, Tenure, WorkQueue};
use crate::store::TransactionStore;
use crate::telemetry::Tracer;
use crate::telemetry::metrics::LaneMetrics;

const QUEUE_PAUSE: Duration = Duration::from_millis(500);

/// Whoever is given nothing for so long may be standing by for another worker.
const STANDBY: Duration = Duration::from_millis(500);

/// How often a paused lane looks for what is overdue.
const LOOK_WHILE_PAUSED: Duration = Duration::from_secs(1);

/// Everything a lane works with.
pub struct LaneParts {
    /// The ledger's name.
    pub name: LedgerName,
    /// The ledger.
    pub ledger: Arc<dyn LedgerBackend>,
    /// The truth.
    pub store: Arc<dyn TransactionStore>,
    /// Where due ids come from.
    pub queue: Arc<dyn WorkQueue>,
    /// Who is told of changes.
    pub hub: Arc<StatusHub>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Rate, batches and bounds, to begin with.
    pub settings: WorkerSettings,
    /// When to try again, to begin with.
    pub retry: RetryPolicy,
    /// What to count.
    pub metrics: LaneMetrics,
    /// What is traced.
    pub tracer: Tracer,
    /// Owns the tasks that the lane starts.
    pub tasks: TaskTracker,
}

/// Where a lane's work comes from.
#[derive(Default)]
struct Intake {
    consumer: Option<Box<dyn Consumer>>,
    /// Delivered and not yet begun.
    carried: VecDeque<Delivery>,
    /// Whether the queue failed and that was told.
    waits: bool,
}

impl Intake {
    /// Lets go of the consumer, and gives back what it delivered.
    fn give_back(&mut self) {
        self.carried.clear();
        self.consumer = None;
    }
}

/// The worker of one ledger.
pub struct Lane {
    parts: LaneParts,
    /// Names this worker in leases.
    owner: String,
    pacing: Pacing,
    gate: Gate,
    steering: Steering,
    slots: Arc<Slots>,
    in_flight: InFlight,
    /// Records that could not be read, told once.
    unreadable: Mutex<HashSet<TransactionId>>,
}

impl Lane {
    /// A lane that does nothing until [`run`](Self::run).
    pub fn new(parts: LaneParts) -> Self {
        Self {
            owner: format!("{}-{}", std::process::id(), uuid::Uuid::now_v7().simple()),
            pacing: Pacing::new(&parts.settings),
            gate: Gate::default(),
            steering: Steering::new(Course {
                paused: false,
                settings: parts.settings,
                retry: parts.retry,
            }),
            slots: Slots::new(parts.settings.max_in_flight),
            in_flight: InFlight::default(),
            unreadable: Mutex::default(),
            parts,
        }
    }

    /// Works until `stop`, then waits for what is in flight, at most `drain` long. What is not settled by
    /// then is stored and goes on at the next start.
    pub async fn run(self: Arc<Self>, stop: CancellationToken, drain: Duration) {
        let (subscribe, subscribed) = mpsc::unbounded_channel();
        let (reached, keeping) = watch::channel(None);
        let lane = Arc::clone(&self);
        let keeper = self
            .parts
            .tasks
            .spawn(async move { lane.keep_checkpoint(keeping).await });
        let drained = CancellationToken::new();
        let mut settling =
            self.parts
                .tasks
                .spawn(Arc::clone(&self).settle_outcomes(subscribed, reached, drained.clone()));
        let mut intake = Intake::default();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                // A lane that settles nothing is no lane; whoever runs it has to know.
                ended = &mut settling => {
                    tracing::error!(ledger = %self.parts.name, ?ended, "settling outcomes ended by itself");
                    return;
                }
                result = self.consume(&mut intake, &subscribe) => {
                    intake.give_back();
                    if let Err(error) = result
                        && !std::mem::replace(&mut intake.waits, true)
                    {
                        tracing::warn!(ledger = %self.parts.name, %error, "the lane waits for its queue");
                    }
                    tokio::time::sleep(QUEUE_PAUSE.mul_f64(0.5 + rand::random::<f64>())).await;
                },
            }
        }
        // Nothing more is begun. The consumer stays until what was begun is at its end: with it would go the
        // right to send.
        intake.carried.clear();
        if timeout(drain, self.slots.all_back()).await.is_err() {
            tracing::info!(
                ledger = %self.parts.name,
                in_flight = self.in_flight(),
                "stopped with submissions in flight; the next start asks the ledger about them"
            );
        }
        drop(intake);
        drained.cancel();
        if let Err(error) = settling.await {
            tracing::error!(ledger = %self.parts.name, %error, "settling outcomes ended badly");
        }
        if let Err(error) = keeper.await {
            tracing::error!(ledger = %self.parts.name, %error, "keeping the checkpoint ended badly");
        }
    }

    /// Consumes until the queue fails, or until ledger or store have been out of reach for so long that another
    /// worker should have the lane. Cancel safe: what was delivered and not yet begun is in `intake`.
    async fn consume(
        self: &Arc<Self>,
        intake: &mut Intake,
        subscribe: &mpsc::UnboundedSender<Subscription>,
    ) -> Result<(), QueueError> {
        let parts = &self.parts;
        let consumer = intake.consumer.insert(parts.queue.consume(&parts.name).await?);
        let carried = &mut intake.carried;
        let tenure = consumer.tenure();
        if std::mem::take(&mut intake.waits) {
            tracing::info!(ledger = %parts.name, "the lane has its queue again");
        }
        if !self.take_charge(&tenure, subscribe, false).await {
            return Ok(());
        }
        let (begun, mut stands_by) = (Instant::now(), true);
        loop {
            if !self.pass().await {
                return Ok(());
            }
            if carried.is_empty() {
                self.fill(&mut **consumer, carried).await?;
                // Of several consumers one is given anything: until now that may have been another.
                if std::mem::take(&mut stands_by)
                    && begun.elapsed() > STANDBY
                    && !self.take_charge(&tenure, subscribe, true).await
                {
                    return Ok(());
                }
            }
            if !self.stand_still(&tenure).await {
                return Ok(());
            }
            let slot = self.slots.take().await;
            let wanted = carried.len().min(1 + self.slots.free());
            let granted = self.pacing.begin(wanted).await;
            if self.steering.course().paused {
                // It was paused while this waited; what was granted is given up.
                continue;
            }
            // Only this loop takes slots; there are fewer than there were only if the limit was lowered just now.
            let more = (1..granted).map_while(|_| self.slots.try_take());
            let slots: Vec<_> = std::iter::once(slot).chain(more).collect();
            let batch: Vec<_> = carried.drain(..slots.len()).collect();
            parts
                .tasks
                .spawn(Arc::clone(self).work_off(batch, slots, tenure.clone()));
        }
    }

    /// While it is paused, begins nothing, and asks the ledger about what is overdue: in the queue that is behind what has to
    /// wait. Answers `false` if ledger or store are out of reach for so long that another worker should have a try. Cancel
    /// safe: a look-up that was begun goes on.
    #[must_use]
    async fn stand_still(self: &Arc<Self>, tenure: &Tenure) -> bool {
        while timeout(LOOK_WHILE_PAUSED, self.steering.running()).await.is_err() {
            if !self.pass().await {
                return false;
            }
            let looked = Arc::clone(self).check_overdue(tenure.clone());
            if let Err(error) = self.parts.tasks.spawn(looked).await {
                tracing::error!(ledger = %self.parts.name, %error, "a look-up ended badly");
            }
        }
        true
    }

    /// Begins where the last one to have the lane ended. Answers `false` if ledger or store are out of reach for so long
    /// that another worker should have a try. Cancel safe.
    #[must_use]
    async fn take_charge(
        &self,
        tenure: &Tenure,
        subscribe: &mpsc::UnboundedSender<Subscription>,
        listens: bool,
    ) -> bool {
        while self.pass().await {
            match self.resume(tenure, listens).await {
                Ok(subscription) => {
                    // Whoever settles outlives the lane's loop.
                    let _settling = subscription.map(|subscription| subscribe.send(subscription));
                    // Another worker may have used the limit up to this moment (I6).
                    self.pacing.empty();
                    return true;
                }
                Err(error) => self.gate.store_failed(self.parts.name.as_str(), &error),
            }
        }
        false
    }

    /// Waits until ledger and store are believed to work; `false` if that takes too long.
    async fn pass(&self) -> bool {
        let parts = &self.parts;
        let patience = parts.settings.lease / 2;
        self.gate
            .pass(parts.name.as_str(), &*parts.ledger, patience)
            .await
    }

    /// Waits for a batch: what is there, and if the lane is busy anyway, what comes within
    /// `batch_timeout`. An idle lane does not wait: there is nothing to share a commit with.
    async fn fill(
        &self,
        consumer: &mut dyn Consumer,
        batch: &mut VecDeque<Delivery>,
    ) -> Result<(), QueueError> {
        let settings = self.steering.course().settings;
        let size = settings.batch_size.get() as usize;
        batch.extend(consumer.next(size).await?);
        if self.in_flight() == 0 {
            return Ok(());
        }
        let closes = tokio::time::Instant::now() + settings.batch_timeout;
        while batch.len() < size {
            match tokio::time::timeout_at(closes, consumer.next(size - batch.len())).await {
                Ok(more) => batch.extend(more?),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// The ledger's name.
    pub fn name(&self) -> &LedgerName {
        &self.parts.name
    }

    /// The ledger, for checks and queries that are not queued.
    pub fn ledger(&self) -> &dyn LedgerBackend {
        &*self.parts.ledger
    }

    /// Rate, batches and bounds, as they are now.
    pub fn settings(&self) -> WorkerSettings {
        self.steering.course().settings
    }

    /// Whether it submits, how fast, and when it tries again.
    pub fn course(&self) -> Course {
        self.steering.course()
    }

    /// Sets it on another course, which holds for whatever is begun from now on; nothing that is under way is dropped.
    /// While it is paused, outcomes that the ledger tells are taken, and it is asked for those that are overdue. The time
    /// of a lease stays as it was: ledgers were opened with bounds that fit to it.
    pub fn steer(&self, mut course: Course) {
        course.settings.lease = self.parts.settings.lease;
        self.steering.set(course, || {
            self.pacing.set(&course.settings);
            self.slots.set(course.settings.max_in_flight);
        });
    }

    /// The rate that follows what the ledger bears, and why it is so; `None` if the rate is simply the limit.
    pub fn adapted(&self) -> Option<Adapted> {
        self.pacing.adapted()
    }

    /// What this lane counts.
    pub fn metrics(&self) -> &LaneMetrics {
        &self.parts.metrics
    }

    /// Transactions from claim to outcome.
    pub fn in_flight(&self) -> usize {
        self.slots.taken()
    }

    /// Why the ledger is unavailable, if it is.
    pub fn outage(&self) -> Option<Cause> {
        self.gate.outage()
    }
}
