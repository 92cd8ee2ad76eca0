//! Sends a load, by a schedule or as answers come.
//!
//! An open loop never waits for an answer before the next transaction is due. What has to be sent late, because the
//! answers before it took so long, keeps the moment at which it was due, and its latency counts from there: a server
//! that stalls for a second shows with every transaction that it kept waiting, not with one (no coordinated omission).
//! A closed loop sends nothing while its answers are out; that is in its nature, and the reports say so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::load::{Arrivals, Load, Pace};
use super::recorder::Recorder;

/// One transaction that is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    /// The first has 1; unique within the run.
    pub(super) number: u64,
    /// Which of the load's calls.
    pub(super) call: usize,
    pub(super) key: u32,
    /// Latencies count from here.
    pub(super) due: Instant,
    /// It is not part of the warm-up.
    pub(super) measured: bool,
}

/// Whatever takes transactions.
pub(super) trait Target: Send + Sync + 'static {
    /// Sends one, and records what became of it.
    fn send(&self, order: Order) -> impl Future<Output = ()> + Send;
}

/// Sends the whole load. The warm-up begins at once and ends when the recorder starts. What could not be sent, or has
/// no answer, so long (`patience`) after the end of the load, is left to the recorder as unfinished.
pub(super) async fn drive<T: Target>(
    load: &Arc<Load>,
    target: &Arc<T>,
    recorder: &Arc<Recorder>,
    patience: Duration,
) {
    let start = recorder.start();
    let end = start + load.duration;
    let sending = async {
        match load.pace {
            Pace::Open { max_in_flight, .. } => open(load, target, recorder, max_in_flight).await,
            Pace::Closed { connections } => closed(load, target, recorder, connections, end).await,
        }
    };
    // Whoever is cut off is counted as unfinished.
    let _cut_off = tokio::time::timeout_at((end + patience).into(), sending).await;
}

async fn open<T: Target>(load: &Arc<Load>, target: &Arc<T>, recorder: &Arc<Recorder>, max_in_flight: u32) {
    let (send, mut due) = mpsc::unbounded_channel();
    let pacer = Pacer {
        orders: Orders::new(load, 0, Arc::default()),
        schedule: Schedule::new(load),
        begin: recorder.start() - load.warm_up,
        recorder: recorder.clone(),
    };
    // A thread sleeps to some 50 µs; a runtime's timer ticks in milliseconds, which would show in every latency.
    std::thread::spawn(move || pacer.run(&send));
    let places = Arc::new(Semaphore::new(max_in_flight as usize));
    let mut under_way = JoinSet::new();
    while let Some(order) = due.recv().await {
        let place = match places.clone().try_acquire_owned() {
            Ok(place) => Ok(place),
            Err(_) => {
                recorder.held_back(&order);
                places.clone().acquire_owned().await
            }
        };
        // Nobody closes it.
        let Ok(place) = place else { return };
        let (target, recorder) = (target.clone(), recorder.clone());
        under_way.spawn(async move {
            recorder.sent(&order, Instant::now());
            target.send(order).await;
            drop(place);
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

async fn closed<T: Target>(
    load: &Arc<Load>,
    target: &Arc<T>,
    recorder: &Arc<Recorder>,
    connections: u32,
    end: Instant,
) {
    let numbers = Arc::<AtomicU64>::default();
    let mut callers = JoinSet::new();
    for caller in 0..connections {
        let mut orders = Orders::new(load, caller.into(), numbers.clone());
        let (target, recorder) = (target.clone(), recorder.clone());
        callers.spawn(async move {
            loop {
                let now = Instant::now();
                if now >= end {
                    return;
                }
                let order = orders.next(now, recorder.start());
                recorder.arrived(&order);
                target.send(order).await;
            }
        });
    }
    while callers.join_next().await.is_some() {}
}

/// Makes the transactions of a load, as its seed has it.
struct Orders {
    load: Arc<Load>,
    weights: u32,
    rng: StdRng,
    numbers: Arc<AtomicU64>,
}

impl Orders {
    fn new(load: &Arc<Load>, caller: u64, numbers: Arc<AtomicU64>) -> Self {
        Self {
            weights: load.calls.iter().map(|call| call.weight).sum(),
            rng: StdRng::seed_from_u64(load.seed.wrapping_add(caller)),
            load: load.clone(),
            numbers,
        }
    }

    fn next(&mut self, due: Instant, start: Instant) -> Order {
        let mut drawn = self.rng.random_range(0..self.weights);
        let call = self.load.calls.iter().position(|call| {
            let hit = drawn < call.weight;
            drawn = drawn.saturating_sub(call.weight);
            hit
        });
        Order {
            number: self.numbers.fetch_add(1, Ordering::Relaxed) + 1,
            call: call.unwrap_or_default(),
            key: self.load.keys.draw(&mut self.rng),
            due,
            measured: due >= start,
        }
    }
}

/// Says when what is due.
struct Pacer {
    orders: Orders,
    schedule: Schedule,
    begin: Instant,
    recorder: Arc<Recorder>,
}

impl Pacer {
    fn run(mut self, send: &mpsc::UnboundedSender<Order>) {
        for offset in self.schedule {
            let due = self.begin + offset;
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                std::thread::sleep(left);
            }
            let order = self.orders.next(due, self.recorder.start());
            self.recorder.arrived(&order);
            if send.send(order).is_err() {
                // The run has been ended.
                return;
            }
        }
    }
}

/// The moments at which the transactions of an open loop are due, counted from its begin.
struct Schedule {
    per_second: f64,
    poisson: Option<StdRng>,
    end: f64,
    number: u64,
    at: f64,
}

impl Schedule {
    fn new(load: &Load) -> Self {
        let (per_second, arrivals) = match load.pace {
            Pace::Open {
                per_second, arrivals, ..
            } => (per_second, arrivals),
            Pace::Closed { .. } => (0.0, Arrivals::Even),
        };
        Self {
            per_second,
            poisson: (arrivals == Arrivals::Poisson).then(|| StdRng::seed_from_u64(!load.seed)),
            end: (load.warm_up + load.duration).as_secs_f64(),
            number: 0,
            at: 0.0,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = match &mut self.poisson {
            // Counted, not summed, so that rounding does not add up.
            None => self.number as f64 / self.per_second,
            Some(rng) => {
                // The time between two independent arrivals is distributed exponentially.
                self.at -= (1.0 - rng.random::<f64>()).ln() / self.per_second;
                self.at
            }
        };
        self.number += 1;
        (at < self.end).then(|| Duration::from_secs_f64(at))
    }
}

#[cfg(test)]
#[path = "drive_tests.rs"]
mod tests;
