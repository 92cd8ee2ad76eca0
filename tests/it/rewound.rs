//! A store that went back in time: what the ledger has already is found there, and not submitted again (I2).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluicegate::app;
use sluicegate::clock::{Clock, ManualClock, SystemClock};
use sluicegate::config::StoreSettings;
use sluicegate::domain::{
    AttemptOutcome, FailureCode, LedgerName, Request, State, SubmissionId, Transaction, TransactionId,
};
use sluicegate::gateway::Caller;
use sluicegate::kv::EngineKind;
use sluicegate::ledger::LedgerBackend;
use sluicegate::store::embedded::{self, BackupSource, DataFolder, Identities};

use crate::support::eventually;
use crate::support::scripted::{Act, Scripted};
use crate::worker::{Lab, settings};

/// A copy of a stopped gateway's data folder.
fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).expect("copies");
    }
    to
}

/// A record that waits, copied; then brought to its end; then the store is the old copy, and runs on.
async fn gone_back(ledger: &Arc<Scripted>, lags: bool) -> (Transaction, Transaction) {
    ledger.down.store(true, Ordering::SeqCst);
    let lab = Lab::start(ledger, settings()).await;
    let id: TransactionId = lab.accept("Pay").await;
    let folder = lab.stop().await;
    let old = copy(folder.path());

    ledger.down.store(false, Ordering::SeqCst);
    let lab = Lab::reopen(ledger, settings(), folder, Arc::new(SystemClock)).await;
    let before = lab.settled(id).await;
    lab.stop().await;

    ledger.lags.store(lags, Ordering::SeqCst);
    let lab = Lab::reopen(ledger, settings(), old, Arc::new(SystemClock)).await;
    let after = lab.settled(id).await;
    lab.stop().await;
    (before, after)
}

#[tokio::test]
async fn i2_a_store_that_went_back_in_time_finds_what_is_on_the_ledger() {
    let ledger = Scripted::new(&[Act::Conflict, Act::Conflict, Act::Commit], true);
    let (before, after) = gone_back(&ledger, false).await;
    assert_eq!((ledger.sends().len(), ledger.effects()), (3, 1));
    assert!(after.rewound && !before.rewound);
    assert_eq!(after.submission(), before.submission());
    assert_eq!(after.ledger_tx_id(), before.ledger_tx_id());
    // Each submission was looked up by its own name, and each conflict counted.
    let endings = |tx: &Transaction| {
        let ended = tx.history.iter().filter_map(|attempt| {
            let outcome = attempt.ending.as_ref()?.outcome;
            let told = [AttemptOutcome::Conflict, AttemptOutcome::Committed].contains(&outcome);
            told.then(|| (attempt.tx_id.clone(), outcome))
        });
        ended.collect::<Vec<_>>()
    };
    assert_eq!(endings(&after), endings(&before));
    assert_eq!(endings(&after).len(), 3);
}

#[tokio::test]
async fn i2_where_endorsers_lag_the_ledger_takes_the_repeat_for_what_it_is() {
    let ledger = Scripted::new(&[Act::Conflict, Act::Commit], true);
    let (before, after) = gone_back(&ledger, true).await;
    assert_eq!(ledger.effects(), 1);
    assert!(matches!(after.state, State::Done { .. }), "{:?}", after.state);
    assert_eq!(after.ledger_tx_id(), before.ledger_tx_id());
    // Sent again, under the identifiers that they had.
    let sends = ledger.sends();
    assert_eq!(sends[..2], sends[2..]);
}

/// The budget was used up on the way to the submission that took effect.
#[tokio::test]
async fn i2_no_budget_ends_what_may_have_taken_effect() {
    let ledger = Scripted::new(&[Act::Conflict, Act::Conflict, Act::Commit], true);
    ledger.down.store(true, Ordering::SeqCst);
    let lab = Lab::start(&ledger, settings()).await;
    let id = lab.accept("Pay").await;
    let folder = lab.stop().await;
    let old = copy(folder.path());
    ledger.down.store(false, Ordering::SeqCst);
    let lab = Lab::reopen(&ledger, settings(), folder, Arc::new(SystemClock)).await;
    lab.settled(id).await;
    lab.stop().await;

    let mut strict = settings();
    let main = strict.ledgers.get_mut("main").expect("main");
    main.retry.conflict.max_attempts = std::num::NonZeroU32::new(1);
    main.retry.conflict.max = Duration::from_millis(2);
    let lab = Lab::reopen(&ledger, strict, old, Arc::new(SystemClock)).await;
    let tx = lab.settled(id).await;
    assert!(matches!(tx.state, State::Done { .. }), "{:?}", tx.state);
    assert_eq!((ledger.sends().len(), ledger.effects()), (3, 1));
    lab.stop().await;
}

/// One that may wait for a minute: longer than what a test does until then takes on the slowest machine.
async fn accept_for_a_minute(lab: &Lab) -> TransactionId {
    let main = LedgerName::new("main").expect("valid");
    let request = Request {
        expires_in_seconds: Some(60),
        ..Request::call(main, "any", "Pay", Vec::new())
    };
    let accepted = lab
        .gateway
        .accept(&Caller::anonymous(), request, None, None)
        .await
        .expect("accepts");
    accepted.transaction.id
}

/// Backs up the store of a stopped gateway, and restores that into a folder of its own.
fn restored(ledger: &Scripted, old: &Path, identities: Identities) -> tempfile::TempDir {
    let new = tempfile::tempdir().expect("folder");
    let file = new.path().join("a.backup");
    let main = LedgerName::new("main").expect("valid");
    {
        let folder = DataFolder::hold(old, EngineKind::Redb).expect("holds");
        let source = BackupSource::open(&folder, 1 << 20).expect("opens");
        let identity = [(main, ledger.identify(SubmissionId::NONE))].into();
        let mut to = File::create(&file).expect("creates");
        source
            .write(SystemClock.now(), identity, &mut to)
            .expect("writes");
    }
    let folder = DataFolder::hold(new.path(), EngineKind::Redb).expect("holds");
    let at = SystemClock.now();
    embedded::restore(&folder, 1 << 20, &file, at, identities, &mut |_| {}).expect("restores");
    new
}

/// A record that waits, backed up; then done, if it `runs`; then its deadline passes and the backup is restored.
async fn restored_late(ledger: &Arc<Scripted>, runs: bool) -> Transaction {
    ledger.down.store(true, Ordering::SeqCst);
    let lab = Lab::start(ledger, settings()).await;
    let id = accept_for_a_minute(&lab).await;
    let folder = lab.stop().await;
    let new = restored(ledger, folder.path(), Identities::MustMatch);
    ledger.down.store(false, Ordering::SeqCst);
    if runs {
        let lab = Lab::reopen(ledger, settings(), folder, Arc::new(SystemClock)).await;
        let tx = lab.settled(id).await;
        assert!(matches!(tx.state, State::Done { .. }), "{:?}", tx.state);
        lab.stop().await;
    }
    let lab = Lab::reopen(ledger, settings(), new, Arc::new(TwoMinutesAhead)).await;
    let tx = lab.settled(id).await;
    lab.stop().await;
    tx
}

struct TwoMinutesAhead;

#[async_trait::async_trait]
impl Clock for TwoMinutesAhead {
    fn now(&self) -> sluicegate::domain::Timestamp {
        SystemClock.now().plus(Duration::from_secs(120))
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

#[tokio::test]
async fn i2_a_restored_one_past_its_deadline_is_done_if_the_ledger_has_it() {
    let ledger = Scripted::new(&[Act::Conflict, Act::Commit], true);
    let tx = restored_late(&ledger, true).await;
    assert!(matches!(tx.state, State::Done { .. }), "{:?}", tx.state);
    assert_eq!((ledger.sends().len(), ledger.effects()), (2, 1));
}

#[tokio::test]
async fn a_restored_one_past_its_deadline_expires_if_the_ledger_does_not_have_it() {
    let ledger = Scripted::new(&[], true);
    let tx = restored_late(&ledger, false).await;
    let State::Failed { failure } = &tx.state else {
        panic!("{:?}", tx.state)
    };
    assert_eq!(failure.code, FailureCode::Expired);
    assert!(ledger.lookups.load(Ordering::SeqCst) > 0, "the ledger was asked");
    assert!(ledger.sends().is_empty());
}

/// Nobody answers for a while, which says nothing.
#[tokio::test]
async fn i2_silence_does_not_fail_what_took_effect() {
    let ledger = Scripted::new(&[], true);
    ledger.down.store(true, Ordering::SeqCst);
    let lab = Lab::start(&ledger, settings()).await;
    let id = accept_for_a_minute(&lab).await;
    let folder = lab.stop().await;
    let new = restored(&ledger, folder.path(), Identities::MustMatch);
    ledger.down.store(false, Ordering::SeqCst);
    let lab = Lab::reopen(&ledger, settings(), folder, Arc::new(SystemClock)).await;
    lab.settled(id).await;
    lab.stop().await;
    ledger.silent.store(true, Ordering::SeqCst);
    let lab = Lab::reopen(&ledger, settings(), new, Arc::new(TwoMinutesAhead)).await;
    eventually("it was looked up in vain", async || {
        (ledger.lookups.load(Ordering::SeqCst) > 3).then_some(())
    })
    .await;
    let tx = lab
        .gateway
        .get(&Caller::anonymous(), id)
        .await
        .expect("reads")
        .expect("is there");
    assert!(!tx.is_settled(), "{:?}", tx.state);
    ledger.silent.store(false, Ordering::SeqCst);
    let tx = lab.settled(id).await;
    assert!(matches!(tx.state, State::Done { .. }), "{:?}", tx.state);
    assert_eq!(ledger.effects(), 1);
    lab.stop().await;
}

/// Those who endorse are behind, and the contract refuses what took effect long ago.
#[tokio::test]
async fn i2_a_refusal_does_not_fail_what_took_effect() {
    let ledger = Scripted::new(&[], true);
    ledger.down.store(true, Ordering::SeqCst);
    let lab = Lab::start(&ledger, settings()).await;
    let id = lab.accept("Pay").await;
    let folder = lab.stop().await;
    let new = restored(&ledger, folder.path(), Identities::MustMatch);
    ledger.down.store(false, Ordering::SeqCst);
    let lab = Lab::reopen(&ledger, settings(), folder, Arc::new(SystemClock)).await;
    lab.settled(id).await;
    let new_one = lab.accept("Pay").await;
    lab.settled(new_one).await;
    lab.stop().await;
    ledger.lags.store(true, Ordering::SeqCst);
    ledger.refuses.store(true, Ordering::SeqCst);
    let lab = Lab::reopen(&ledger, settings(), new, Arc::new(SystemClock)).await;
    let tx = lab.settled(id).await;
    assert!(matches!(tx.state, State::Done { .. }), "{:?}", tx.state);
    // One that the ledger has never seen fails as ever.
    let refused = lab.accept("Pay").await;
    let tx = lab.settled(refused).await;
    assert!(matches!(tx.state, State::Failed { .. }), "{:?}", tx.state);
    assert_eq!(ledger.effects(), 2);
    lab.stop().await;
}

#[tokio::test]
async fn i2_a_restored_store_is_not_worked_off_as_somebody_else() {
    let ledger = Scripted::new(&[], true);
    ledger.down.store(true, Ordering::SeqCst);
    let lab = Lab::start(&ledger, settings()).await;
    let id = lab.accept("Pay").await;
    let folder = lab.stop().await;
    let strict = restored(&ledger, folder.path(), Identities::MustMatch);
    let lenient = restored(&ledger, folder.path(), Identities::MayDiffer);
    ledger.down.store(false, Ordering::SeqCst);
    *ledger.identity.lock().unwrap() = "another";

    let mut refused = settings();
    refused.store = StoreSettings::embedded_at(strict.path().to_owned());
    let backend: Arc<dyn LedgerBackend> = ledger.clone();
    let ledgers = |_: &LedgerName| Some(backend.clone());
    let built = app::build_with(refused, Arc::new(SystemClock), &ledgers).await;
    let refusal = built.err().expect("refuses").to_string();
    for words in [
        "ledger main",
        "another identity",
        "certificate of then",
        "--other-identity",
    ] {
        assert!(refusal.contains(words), "{refusal}");
    }
    // The one of then brings it to its end, and then anybody may go on.
    *ledger.identity.lock().unwrap() = "tx";
    let lab = Lab::reopen(&ledger, settings(), strict, Arc::new(SystemClock)).await;
    lab.settled(id).await;
    let strict = lab.stop().await;
    *ledger.identity.lock().unwrap() = "another";
    let lab = Lab::reopen(&ledger, settings(), strict, Arc::new(SystemClock)).await;
    lab.stop().await;
    let lab = Lab::reopen(&ledger, settings(), lenient, Arc::new(SystemClock)).await;
    lab.settled(id).await;
    lab.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_person_keeps_nobody_from_starting_as_somebody_else() {
    let ledger = Scripted::new(&[Act::LoseAll], false);
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let folder = tempfile::tempdir().expect("folder");
    let lab = Lab::reopen(&ledger, settings(), folder, clock.clone()).await;
    let id = lab.accept("Pay").await;
    lab.parked(id, &clock).await;
    let folder = lab.stop().await;
    let new = restored(&ledger, folder.path(), Identities::MustMatch);
    *ledger.identity.lock().unwrap() = "another";
    let lab = Lab::reopen(&ledger, settings(), new, clock.clone()).await;
    let tx = lab.parked(id, &clock).await;
    assert!(tx.rewound);
    assert_eq!(ledger.sends().len(), 1, "it is not sent again");
    lab.stop().await;
}
