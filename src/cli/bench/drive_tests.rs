//! The schedule is kept whatever the answers do, and latencies count from it.

use std::sync::atomic::AtomicBool;

use super::super::keys::Keys;
use super::super::recorder::Measured;
use super::super::report::{Counts, Latencies};
use super::*;
use crate::domain::{LedgerName, TransactionId};

fn load(pace: Pace, millis: u64) -> Arc<Load> {
    Arc::new(Load {
        pace,
        duration: Duration::from_millis(millis),
        warm_up: Duration::ZERO,
        keys: Keys::Hot,
        ledger: LedgerName::new("main").expect("valid"),
        calls: ["1 c rare []", "3 c usual []"]
            .map(|call| call.parse().expect("valid"))
            .to_vec(),
        timeout: Duration::from_secs(10),
        settle: Duration::ZERO,
        seed: 7,
    })
}

fn recorder_of(load: &Load) -> Recorder {
    let start = Instant::now();
    Recorder::new(start, start + load.duration)
}

fn open(per_second: f64, arrivals: Arrivals, max_in_flight: u32) -> Pace {
    Pace::Open {
        per_second,
        arrivals,
        max_in_flight,
    }
}

/// Answers at once, but once holds back everything that comes within a while.
struct Stalling {
    recorder: Arc<Recorder>,
    from: Duration,
    until: Duration,
    stalled: AtomicBool,
}

impl Target for Stalling {
    async fn send(&self, order: Order) {
        let until = self.recorder.start() + self.until;
        if Instant::now() >= self.recorder.start() + self.from && Instant::now() < until {
            self.stalled.store(true, Ordering::Relaxed);
            tokio::time::sleep_until(until.into()).await;
        }
        self.recorder
            .accepted(&order, TransactionId::new(), Instant::now());
    }
}

async fn stalled(pace: Pace) -> Measured {
    let load = load(pace, 1_000);
    let recorder = Arc::new(recorder_of(&load));
    let target = Arc::new(Stalling {
        recorder: recorder.clone(),
        from: Duration::from_millis(300),
        until: Duration::from_millis(700),
        stalled: AtomicBool::new(false),
    });
    drive(&load, &target, &recorder, load.timeout).await;
    assert!(target.stalled.load(Ordering::Relaxed));
    recorder.finish()
}

fn at_least(measured: &Measured, millis: u64) -> u64 {
    let latencies = Latencies::of(&measured.accept).histogram_us;
    let late = latencies.iter().filter(|(micros, _)| *micros >= millis * 1_000);
    late.map(|(_, count)| count).sum()
}

#[tokio::test]
async fn a_stall_shows_with_every_transaction_that_it_kept_waiting() {
    // 500 a second: of the 200 that are due during the 400 ms of the stall, 150 wait for 100 ms or more. With one place
    // only, most of them are not even sent before the stall is over.
    for places in [1, 1024] {
        let measured = stalled(open(500.0, Arrivals::Even, places)).await;
        assert_eq!(measured.arrived, 500);
        assert_eq!(measured.accepted, 500);
        assert!(
            at_least(&measured, 100) >= 149,
            "{places}: {}",
            at_least(&measured, 100)
        );
        assert!(
            at_least(&measured, 350) >= 24,
            "{places}: {}",
            at_least(&measured, 350)
        );
        assert_eq!(measured.held_back > 100, places == 1, "{}", measured.held_back);
    }
}

#[tokio::test]
async fn a_closed_loop_cannot_see_that() {
    let measured = stalled(Pace::Closed { connections: 1 }).await;
    assert_eq!(measured.accepted, measured.arrived);
    assert_eq!(at_least(&measured, 350), 1);
}

/// Never answers.
struct Silent;

impl Target for Silent {
    async fn send(&self, _: Order) {
        std::future::pending().await
    }
}

#[tokio::test]
async fn what_has_no_answer_in_the_end_is_unfinished() {
    let load = load(open(200.0, Arrivals::Even, 8), 100);
    let recorder = Arc::new(recorder_of(&load));
    drive(&load, &Arc::new(Silent), &recorder, Duration::from_millis(50)).await;
    let counts = Counts::of(&recorder.finish());
    assert_eq!((counts.due, counts.accepted, counts.unfinished), (20, 0, 20));
}

#[test]
fn schedules_keep_to_their_rate() {
    let moments = |arrivals| Schedule::new(&load(open(1_000.0, arrivals, 1), 10_000)).collect::<Vec<_>>();
    let even = moments(Arrivals::Even);
    assert_eq!(even.len(), 10_000);
    assert_eq!(even[5_000], Duration::from_secs(5));
    let random = moments(Arrivals::Poisson);
    assert!((9_700..10_300).contains(&random.len()), "{}", random.len());
    assert!(random.is_sorted());
    // Of exponentially distributed gaps, 1/e are longer than the mean.
    let long = random
        .windows(2)
        .filter(|pair| pair[1] - pair[0] > Duration::from_millis(1))
        .count();
    let share = long as f64 / random.len() as f64;
    assert!((0.34..0.40).contains(&share), "{share}");
}

#[test]
fn orders_follow_the_weights_and_the_seed() {
    let load = load(Pace::Closed { connections: 1 }, 1);
    let now = Instant::now();
    let draw = |seed| {
        let mut orders = Orders::new(&load, seed, Arc::default());
        (0..4_000).map(|_| orders.next(now, now).call).collect::<Vec<_>>()
    };
    let usual = draw(0).iter().sum::<usize>();
    assert!((2_900..3_100).contains(&usual), "{usual}");
    assert_eq!(draw(0), draw(0));
    assert_ne!(draw(0), draw(1));
}
