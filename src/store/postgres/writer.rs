//! Group commit: what gathers while statements are under way goes out together in the next one.
//!
//! A writer takes the first job as soon as a slot is free, adds all that wait, and runs them as one statement
//! in a task of its own. Alone, a job waits for nobody; under load, the time of one statement is the time in
//! which the next group gathers. The queue is bounded: further callers wait for a place, each until its own
//! deadline. A job whose caller has gone before it was begun is not begun.
//!
//! Nobody is told `Ok` before the database has confirmed the commit. If that confirmation is lost, everybody in
//! the group is told that it may be stored; nothing is repeated then. Only a statement that was certainly
//! rolled back, as a victim of concurrency, is run again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Memory;
use super::failure::Failure;
use super::session::Sessions;
use crate::failpoint;
use crate::store::StoreError;
use crate::telemetry::metrics::StoreMetrics;

/// So many jobs may wait.
const WAITING: usize = 8_192;
/// A group is closed at so many rows or bytes, which bounds a statement's time and memory.
const MAX_ROWS: usize = 1_024;
const MAX_BYTES: usize = 8 << 20;
/// How often a victim of concurrency is tried in all.
const TRIES: u32 = 5;
const RERUN_AFTER: Duration = Duration::from_millis(5);

/// Something to write, and how to write many of its kind at once.
#[async_trait]
pub(super) trait Job: Sized + Send + Sync + 'static {
    type Answer: Send + 'static;

    /// Whether each is a group of its own.
    const ALONE: bool = false;

    /// How many rows and about how many bytes it writes.
    fn size(&self) -> (usize, usize);

    /// Writes all of a group in one commit and answers each.
    async fn commit(
        group: &[Self],
        sessions: &Sessions,
        memory: &Memory,
    ) -> Result<Vec<Self::Answer>, Failure>;
}

struct Pending<J: Job> {
    job: J,
    reply: oneshot::Sender<Result<J::Answer, StoreError>>,
}

/// Where jobs are handed in.
pub(super) struct Writer<J: Job> {
    queue: mpsc::Sender<Pending<J>>,
    timeout: Duration,
}

struct Shared {
    sessions: Arc<Sessions>,
    memory: Arc<Memory>,
    metrics: StoreMetrics,
}

impl<J: Job> Writer<J> {
    /// Starts a writer that runs up to `slots` statements at a time, until `stop`; what was handed in before
    /// is still written.
    pub(super) fn start(
        sessions: &Arc<Sessions>,
        memory: Arc<Memory>,
        slots: usize,
        metrics: StoreMetrics,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        let shared = Arc::new(Shared {
            sessions: sessions.clone(),
            memory,
            metrics,
        });
        tasks.spawn(dispatch(waiting, shared, slots, tasks.clone(), stop));
        Self {
            queue,
            timeout: sessions.timeout(),
        }
    }

    /// Hands a job in and waits for its commit.
    pub(super) async fn run(&self, job: J) -> Result<J::Answer, StoreError> {
        let deadline = Instant::now() + self.timeout;
        let (reply, answer) = oneshot::channel();
        let closed = || Failure::Closed.into_store_error();
        let late = || Failure::Silent(self.timeout).into_store_error();
        timeout_at(deadline, async {
            let handed_in = self.queue.send(Pending { job, reply }).await;
            handed_in.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        })
        .await
        .unwrap_or_else(|_| Err(late()))
    }
}

async fn dispatch<J: Job>(
    mut waiting: mpsc::Receiver<Pending<J>>,
    shared: Arc<Shared>,
    slots: usize,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(slots));
    loop {
        let first = tokio::select! {
            biased;
            first = waiting.recv() => first,
            () = stop.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        let Some(first) = first else { return };
        // Others gather while all slots are busy. The semaphore is never closed.
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let group = match J::ALONE {
            true => vec![first],
            false => gather(first, &mut waiting).await,
        };
        let shared = shared.clone();
        tasks.spawn(async move {
            write(group, &shared).await;
            drop(slot);
        });
    }
}

/// Adds what waits to the first one.
async fn gather<J: Job>(first: Pending<J>, waiting: &mut mpsc::Receiver<Pending<J>>) -> Vec<Pending<J>> {
    let (mut rows, mut bytes) = first.job.size();
    let mut group = vec![first];
    loop {
        let before = group.len();
        while rows < MAX_ROWS
            && bytes < MAX_BYTES
            && let Ok(next) = waiting.try_recv()
        {
            let (more_rows, more_bytes) = next.job.size();
            rows += more_rows;
            bytes += more_bytes;
            group.push(next);
        }
        // Those who are ready to run now may join before the database is asked. Alone, or when a turn brings
        // nobody, there is nothing to wait for.
        if group.len() <= before.max(1) || rows >= MAX_ROWS || bytes >= MAX_BYTES {
            return group;
        }
        tokio::task::yield_now().await;
    }
}

async fn write<J: Job>(group: Vec<Pending<J>>, shared: &Shared) {
    let group = group.into_iter().filter(|pending| !pending.reply.is_closed());
    let (jobs, replies): (Vec<_>, Vec<_>) = group.map(|pending| (pending.job, pending.reply)).unzip();
    if jobs.is_empty() {
        return;
    }
    match commit(&jobs, shared).await {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                // Whoever asked may have gone; the write stands all the same.
                let _gone = reply.send(Ok(answer));
            }
        }
        // The others must not fail for the one that is at fault: each by itself.
        Err(failure) if failure.blames_a_row() && jobs.len() > 1 => {
            tracing::warn!(%failure, jobs = jobs.len(), "a group was refused; its parts are tried one by one");
            for (reply, job) in replies.into_iter().zip(&jobs) {
                if reply.is_closed() {
                    continue;
                }
                let answer = commit(std::slice::from_ref(job), shared).await;
                let answer = answer.and_then(|mut answers| answers.pop().ok_or(Failure::Closed));
                let _gone = reply.send(answer.map_err(Failure::into_store_error));
            }
        }
        Err(failure) => {
            let error = failure.into_store_error();
            for reply in replies {
                let _gone = reply.send(Err(error.clone()));
            }
        }
    }
}

async fn commit<J: Job>(jobs: &[J], shared: &Shared) -> Result<Vec<J::Answer>, Failure> {
    let rows = jobs.iter().map(|job| job.size().0).sum();
    let mut tries = 1;
    loop {
        let start = Instant::now();
        failpoint::reached("store-before-commit");
        let result = J::commit(jobs, &shared.sessions, &shared.memory).await;
        shared.metrics.note_commit(rows, start.elapsed(), result.is_ok());
        match result {
            Err(failure) if failure.is_rerunnable() && tries < TRIES => {
                tokio::time::sleep(RERUN_AFTER * tries + jitter()).await;
                tries += 1;
            }
            Ok(answers) => {
                failpoint::reached("store-after-commit");
                return Ok(answers);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Two that stood in each other's way shall not come back at the same moment.
fn jitter() -> Duration {
    Duration::from_millis(rand::random_range(0..10))
}
