//! The lane against a ledger that does what a test tells it to.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluicegate::app::{self, App};
use sluicegate::clock::{Clock, ManualClock, SystemClock};
use sluicegate::config::{Settings, StoreSettings};
use sluicegate::domain::{
    AttemptOutcome, FailureCode, LedgerName, Request, State, Transaction, TransactionId,
};
use sluicegate::gateway::{Caller, Gateway};
use sluicegate::kv::{self, Batch, EngineKind};
use sluicegate::ledger::LedgerBackend;
use tokio_util::sync::CancellationToken;

use crate::support::eventually;
use crate::support::scripted::{Act, Scripted};

/// A gateway whose only ledger is scripted.
pub(crate) struct Lab {
    pub(crate) gateway: Arc<Gateway>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
    folder: tempfile::TempDir,
}

pub(crate) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.http.listen.set_port(0);
    settings.shutdown.drain = Duration::from_millis(100);
    let main = settings.ledgers.get_mut("main").expect("main");
    main.worker.rate_per_second = 10_000.0;
    main.worker.check_after = Duration::from_millis(50);
    main.worker.lease = Duration::from_millis(200);
    main.retry.conflict.min = Duration::from_millis(1);
    main.retry.conflict.max = Duration::from_millis(5);
    main.retry.outage.min = Duration::from_millis(1);
    main.retry.outage.max = Duration::from_millis(5);
    settings
}

impl Lab {
    pub(crate) async fn start(ledger: &Arc<Scripted>, settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        Self::reopen(ledger, settings, folder, Arc::new(SystemClock)).await
    }

    pub(crate) async fn reopen(
        ledger: &Arc<Scripted>,
        settings: Settings,
        folder: tempfile::TempDir,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let backend: Arc<dyn LedgerBackend> = ledger.clone();
        Self::build(settings, folder, clock, &|_| Some(backend.clone())).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own task")]
    async fn build(
        mut settings: Settings,
        folder: tempfile::TempDir,
        clock: Arc<dyn Clock>,
        ledgers: app::LedgerFactory<'_>,
    ) -> Self {
        settings.store = StoreSettings::embedded_at(folder.path().to_owned());
        let app: App = app::build_with(settings, clock, ledgers).await.expect("builds");
        let gateway = app.gateway().clone();
        let stop = CancellationToken::new();
        let running = tokio::spawn(app.run(stop.clone().cancelled_owned()));
        Self {
            gateway,
            stop,
            running,
            folder,
        }
    }

    pub(crate) async fn accept(&self, function: &str) -> TransactionId {
        self.accept_on("main", function).await
    }

    async fn accept_on(&self, ledger: &str, function: &str) -> TransactionId {
        let ledger = LedgerName::new(ledger).expect("valid");
        let request = Request::call(ledger, "any", function, Vec::new());
        self.gateway
            .accept(&Caller::anonymous(), request, None, None)
            .await
            .expect("accepts")
            .transaction
            .id
    }

    pub(crate) async fn settled(&self, id: TransactionId) -> Transaction {
        let tx = self
            .gateway
            .wait(&Caller::anonymous(), id, Duration::from_secs(20))
            .await
            .expect("reads")
            .expect("is there");
        assert!(tx.is_settled(), "I3: still {:?}", tx.state);
        tx
    }

    /// Lets time pass until it is parked.
    pub(crate) async fn parked(&self, id: TransactionId, clock: &ManualClock) -> Transaction {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let tx = self
                .gateway
                .get(&Caller::anonymous(), id)
                .await
                .expect("reads")
                .expect("is there");
            if matches!(tx.state, State::Parked { .. }) {
                return tx;
            }
            assert!(Instant::now() < patience, "never parked: {:?}", tx.state);
            clock.advance(Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.stop.cancel();
        self.running.await.expect("no panic").expect("ends well");
        self.folder
    }
}

fn endings(tx: &Transaction) -> Vec<AttemptOutcome> {
    tx.history
        .iter()
        .filter_map(|attempt| Some(attempt.ending.as_ref()?.outcome))
        .collect()
}

#[tokio::test]
async fn i2_a_lost_reply_is_looked_up_and_not_repeated() {
    for act in [Act::CommitAndLoseReply, Act::CommitSilently] {
        let ledger = Scripted::new(&[act], true);
        let lab = Lab::start(&ledger, settings()).await;
        let tx = lab.settled(lab.accept("Pay").await).await;
        assert!(matches!(tx.state, State::Done { .. }), "{act:?}: {:?}", tx.state);
        assert_eq!((ledger.effects(), tx.attempts), (1, 1), "{act:?}");
        lab.stop().await;
    }
}

#[tokio::test]
async fn i2_what_got_lost_is_sent_again_byte_for_byte() {
    for act in [Act::LoseAll, Act::Refuse] {
        let ledger = Scripted::new(&[act, act, Act::Commit], true);
        let lab = Lab::start(&ledger, settings()).await;
        let tx = lab.settled(lab.accept("Pay").await).await;
        assert!(matches!(tx.state, State::Done { .. }), "{act:?}");
        let sends = ledger.sends();
        assert_eq!(sends.len(), 3, "{act:?}");
        assert!(
            sends.iter().all(|id| *id == sends[0]),
            "{act:?}: a fresh submission was made without evidence"
        );
        assert_eq!(ledger.prepared.load(Ordering::SeqCst), 1, "{act:?}");
        lab.stop().await;
    }
}

/// A ledger that takes more than it can do must not be given the same things again, or it never comes to an end.
#[tokio::test]
async fn what_is_only_late_is_neither_looked_up_nor_sent_again() {
    const COUNT: usize = 12;
    const CHECK_AFTER: Duration = Duration::from_secs(2);
    let ledger = Scripted::new(&[Act::Hold; 2 * COUNT], true);
    let mut patient = settings();
    let worker = &mut patient.ledgers.get_mut("main").expect("main").worker;
    worker.check_after = CHECK_AFTER;
    let lab = Lab::start(&ledger, patient).await;
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        ids.push(lab.accept("Pay").await);
    }
    // Its outcomes come one by one, over three times as long as the gateway waits before it checks.
    for id in ids {
        eventually("the ledger has something to do", async || {
            ledger.release_first().then_some(())
        })
        .await;
        tokio::time::sleep(CHECK_AFTER / 4).await;
        lab.settled(id).await;
    }
    assert_eq!(
        (ledger.lookups.load(Ordering::SeqCst), ledger.sends().len()),
        (0, COUNT)
    );
    assert_eq!(ledger.effects(), COUNT);
    lab.stop().await;
}

#[tokio::test]
async fn what_has_not_left_yet_is_neither_looked_up_nor_sent_again() {
    let ledger = Scripted::new(&[], true);
    let mut patient = settings();
    let main = patient.ledgers.get_mut("main").expect("main");
    (main.worker.lease, main.worker.check_after) = (Duration::from_secs(20), Duration::from_millis(500));
    let until = Instant::now() + main.worker.check_after * 6;
    *ledger.connected_at.lock().unwrap() = until;
    let lab = Lab::start(&ledger, patient).await;
    let tx = lab.settled(lab.accept("Pay").await).await;
    assert!(Instant::now() > until && matches!(tx.state, State::Done { .. }));
    assert_eq!(
        (ledger.lookups.load(Ordering::SeqCst), ledger.sends().len()),
        (0, 1)
    );
    lab.stop().await;
}

#[tokio::test]
async fn what_gets_lost_again_and_again_is_sent_at_growing_distances() {
    let ledger = Scripted::new(&[Act::LoseAll; 5], true);
    let lab = Lab::start(&ledger, settings()).await;
    lab.settled(lab.accept("Pay").await).await;
    let sent = ledger.sent.lock().unwrap().clone();
    // Checked after 50, 100, 200, 400 and 800 ms, instead of every 50.
    let last = sent[5].1 - sent[4].1;
    assert!(last > Duration::from_millis(250), "{last:?}");
    lab.stop().await;
}

#[tokio::test]
async fn a_conflict_makes_a_fresh_attempt_until_the_budget_ends() {
    let ledger = Scripted::new(&[Act::Conflict, Act::Conflict, Act::Commit], true);
    let lab = Lab::start(&ledger, settings()).await;
    let tx = lab.settled(lab.accept("Pay").await).await;
    assert_eq!(
        endings(&tx),
        [
            AttemptOutcome::Conflict,
            AttemptOutcome::Conflict,
            AttemptOutcome::Committed
        ]
    );
    let mut ids = ledger.sends();
    ids.dedup();
    assert_eq!(ids.len(), 3, "each attempt has an identifier of its own");
    lab.stop().await;

    let ledger = Scripted::new(&[Act::Conflict; 9], true);
    let mut limited = settings();
    limited
        .ledgers
        .get_mut("main")
        .expect("main")
        .retry
        .conflict
        .max_attempts = NonZeroU32::new(3);
    let lab = Lab::start(&ledger, limited).await;
    let tx = lab.settled(lab.accept("Pay").await).await;
    let State::Failed { failure } = &tx.state else {
        panic!("{:?}", tx.state)
    };
    assert_eq!((failure.code, tx.attempts), (FailureCode::ConflictsExhausted, 3));
    lab.stop().await;
}

#[tokio::test]
async fn refusals_fail_at_once_wherever_they_come_from() {
    let ledger = Scripted::new(&[Act::Reject], true);
    let lab = Lab::start(&ledger, settings()).await;
    for function in ["Pay", "Nonsense"] {
        let tx = lab.settled(lab.accept(function).await).await;
        let State::Failed { failure } = &tx.state else {
            panic!("{:?}", tx.state)
        };
        assert_eq!(
            (failure.code, tx.attempts),
            (FailureCode::Rejected, 1),
            "{function}"
        );
    }
    assert_eq!(
        ledger.sends().len(),
        1,
        "what is refused while preparing is never sent"
    );
    lab.stop().await;
}

/// Others see that it is being prepared, and may still cancel it.
#[tokio::test]
async fn i2_what_takes_long_to_prepare_is_claimed_first_and_what_does_not_is_stored_once() {
    let ledger = Scripted::new(&[], true);
    let mut settings = settings();
    settings.ledgers.get_mut("main").expect("main").worker.lease = Duration::from_secs(60);
    let lab = Lab::start(&ledger, settings).await;
    *ledger.endorses_for.lock().unwrap() = Duration::from_secs(2);
    let ids = [lab.accept("Pay").await, lab.accept("Pay").await];
    for id in ids {
        eventually("it is being prepared", async || {
            let tx = lab.gateway.get(&Caller::anonymous(), id).await.expect("reads")?;
            matches!(tx.state, State::Preparing { .. }).then_some(())
        })
        .await;
    }
    let cancelled = lab.gateway.cancel(&Caller::anonymous(), ids[1]).await;
    assert!(cancelled.expect("cancels").is_settled());
    let slow = lab.settled(ids[0]).await;
    eventually("both are prepared", async || {
        (ledger.prepared.load(Ordering::SeqCst) == 2).then_some(())
    })
    .await;
    *ledger.endorses_for.lock().unwrap() = Duration::ZERO;
    let quick = lab.settled(lab.accept("Pay").await).await;
    // Accepted, claimed, prepared, done: each move counts, whether it was stored by itself or not.
    let told = [&slow, &quick].map(|tx| (tx.version, tx.attempts, tx.history.len()));
    assert_eq!(told, [(4, 1, 1); 2]);
    assert_eq!(ledger.sends().len(), 2, "what was cancelled is not sent");
    lab.stop().await;
}

#[tokio::test]
async fn an_outage_costs_probes_and_not_tries() {
    let ledger = Scripted::new(&[], true);
    ledger.down.store(true, Ordering::SeqCst);
    let lab = Lab::start(&ledger, settings()).await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(lab.accept("Pay").await);
    }
    let patience = Instant::now() + Duration::from_secs(20);
    while ledger.probes.load(Ordering::SeqCst) < 3 {
        assert!(Instant::now() < patience, "the lane does not probe");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(lab.gateway.lanes()[0].outage.is_some());
    ledger.down.store(false, Ordering::SeqCst);
    let mut tried = 0;
    for id in ids {
        let tx = lab.settled(id).await;
        assert!(matches!(tx.state, State::Done { .. }));
        assert_eq!(tx.conflicts, 0, "an outage spends no conflict budget");
        tried += tx.outages;
    }
    assert!(
        tried <= 100,
        "{tried} tries were spent on a ledger known to be down"
    );
    assert_eq!(ledger.effects(), 200);
    lab.stop().await;
}

#[tokio::test]
async fn i3_what_nobody_can_tell_is_parked_and_never_failed() {
    let ledger = Scripted::new(&[Act::LoseAll], false);
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let folder = tempfile::tempdir().expect("folder");
    let lab = Lab::reopen(&ledger, settings(), folder, clock.clone()).await;
    let id = lab.accept("Pay").await;
    let tx = lab.parked(id, &clock).await;
    assert!(!tx.is_settled());
    assert_eq!(
        ledger.sends().len(),
        1,
        "a ledger that does not deduplicate is not sent anything twice"
    );
    lab.stop().await;
}

#[tokio::test]
async fn i2_a_restart_with_submissions_in_flight_asks_before_it_sends() {
    let ledger = Scripted::new(&[Act::CommitSilently; 20], true);
    let mut slow = settings();
    slow.ledgers.get_mut("main").expect("main").worker.check_after = Duration::from_secs(1);
    let lab = Lab::start(&ledger, slow).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(lab.accept("Pay").await);
    }
    let patience = Instant::now() + Duration::from_secs(20);
    while ledger.sends().len() < 20 {
        assert!(Instant::now() < patience, "not all were sent");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let folder = lab.stop().await;
    let lab = Lab::reopen(&ledger, settings(), folder, Arc::new(SystemClock)).await;
    for id in ids {
        assert!(matches!(lab.settled(id).await.state, State::Done { .. }));
    }
    assert_eq!(
        (ledger.effects(), ledger.prepared.load(Ordering::SeqCst)),
        (20, 20)
    );
    lab.stop().await;
}

#[tokio::test]
async fn i6_submissions_keep_to_the_rate_retries_and_resends_included() {
    let script: Vec<Act> = (0..150)
        .map(|n| [Act::Conflict, Act::LoseAll, Act::Commit][n % 3])
        .collect();
    let ledger = Scripted::new(&script, true);
    let mut limited = settings();
    let worker = &mut limited.ledgers.get_mut("main").expect("main").worker;
    (worker.rate_per_second, worker.burst) = (200.0, NonZeroU32::new(10).expect("not zero"));
    let lab = Lab::start(&ledger, limited).await;
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(lab.accept("Pay").await);
    }
    for id in ids {
        lab.settled(id).await;
    }
    assert!(
        the_rate_was_kept(&ledger, 200.0, 10.0) > 100,
        "there were retries and resends"
    );
    lab.stop().await;
}

/// In every stretch of time. Answers how many were sent.
fn the_rate_was_kept(ledger: &Scripted, rate: f64, burst: f64) -> usize {
    let moments: Vec<Instant> = ledger.sent.lock().unwrap().iter().map(|(_, at)| *at).collect();
    // A send may be held up between its permit and the moment that the ledger notes.
    let slack = 3.0;
    for (first, start) in moments.iter().enumerate() {
        for (last, end) in moments.iter().enumerate().skip(first) {
            let allowed = rate * (*end - *start).as_secs_f64() + burst + slack;
            let sent = (last - first + 1) as f64;
            assert!(
                sent <= allowed,
                "{sent} sent in {:?}, {allowed:.1} allowed",
                *end - *start
            );
        }
    }
    moments.len()
}

#[tokio::test]
async fn i6_what_waited_for_a_connection_does_not_go_out_all_at_once() {
    let ledger = Scripted::new(&[], true);
    let mut limited = settings();
    let worker = &mut limited.ledgers.get_mut("main").expect("main").worker;
    (worker.rate_per_second, worker.burst) = (100.0, NonZeroU32::new(5).expect("not zero"));
    worker.lease = Duration::from_secs(10);
    *ledger.connected_at.lock().unwrap() = Instant::now() + Duration::from_millis(1_500);
    let lab = Lab::start(&ledger, limited).await;
    let mut ids = Vec::new();
    for _ in 0..150 {
        ids.push(lab.accept("Pay").await);
    }
    for id in ids {
        lab.settled(id).await;
    }
    assert!(the_rate_was_kept(&ledger, 100.0, 5.0) >= 150);
    lab.stop().await;
}

#[tokio::test]
async fn i9_a_ledger_that_is_down_does_not_slow_another() {
    let (broken, sound) = (Scripted::new(&[], true), Scripted::new(&[], true));
    broken.down.store(true, Ordering::SeqCst);
    let mut both = settings();
    let other = both.ledgers["main"].clone();
    both.ledgers
        .insert(LedgerName::new("broken").expect("valid"), other);
    let folder = tempfile::tempdir().expect("folder");
    let lab = Lab::build(both, folder, Arc::new(SystemClock), &|name| {
        let ledger = if name.as_str() == "broken" {
            &broken
        } else {
            &sound
        };
        Some(ledger.clone() as Arc<dyn LedgerBackend>)
    })
    .await;
    let mut stuck = Vec::new();
    for _ in 0..500 {
        stuck.push(lab.accept_on("broken", "Pay").await);
    }
    for _ in 0..50 {
        let tx = lab.settled(lab.accept("Pay").await).await;
        assert!(matches!(tx.state, State::Done { .. }));
    }
    assert_eq!((sound.effects(), broken.effects()), (50, 0));
    broken.down.store(false, Ordering::SeqCst);
    for id in stuck {
        lab.settled(id).await;
    }
    lab.stop().await;
}

#[tokio::test]
async fn i9_a_record_that_cannot_be_read_holds_up_no_other() {
    let ledger = Scripted::new(&[], true);
    ledger.down.store(true, Ordering::SeqCst);
    let lab = Lab::start(&ledger, settings()).await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(lab.accept("Pay").await);
    }
    let folder = lab.stop().await;
    damage(&folder.path().join("store.redb"), ids.remove(4));
    ledger.down.store(false, Ordering::SeqCst);
    let lab = Lab::reopen(&ledger, settings(), folder, Arc::new(SystemClock)).await;
    for id in ids {
        assert!(matches!(lab.settled(id).await.state, State::Done { .. }));
    }
    lab.stop().await;
}

/// Flips one bit in the middle of a stored record.
fn damage(path: &std::path::Path, id: TransactionId) {
    let engine = kv::open(EngineKind::Redb, path, 1 << 20).expect("opens");
    let key = [b"r", id.as_bytes().as_slice()].concat();
    let mut record = engine.get(&key).expect("reads").expect("is there");
    let middle = record.len() / 2;
    record[middle] ^= 1;
    let mut batch = Batch::default();
    batch.put(key, record);
    engine.commit(batch).expect("commits");
}
