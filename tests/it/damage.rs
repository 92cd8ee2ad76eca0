//! Damaged files, part one: whatever is done to the file of a store that was closed, it is not opened, `store check`
//! says so, and `store repair` keeps what can be read, submits nothing again, and lists the rest. Part two, with
//! the real process, is `damage_cli`.
//!
//! `SLUICEGATE_DAMAGE_CASES` sets how many cases there are for each engine.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sluicegate::clock::{Clock, SystemClock};
use sluicegate::domain::{LedgerTxId, Prepared, Stage, Timestamp, Transaction};
use sluicegate::kv::EngineKind;
use sluicegate::store::embedded::{self, DataFolder, EmbeddedStore, Finding, MaintenanceError};
use sluicegate::store::{Filter, Inserted, StoreError, TransactionStore};
use sluicegate::telemetry::metrics::Metrics;
use tempfile::TempDir;

use crate::support::states;

const CACHE: usize = 1 << 20;
const PLACES: [Damage; 6] = [
    Damage::FlippedBit,
    Damage::ZeroedBlock,
    Damage::Scribble,
    Damage::CutTail,
    Damage::Garbage,
    Damage::Emptied,
];

/// What is done to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    FlippedBit,
    ZeroedBlock,
    /// 64 random bytes.
    Scribble,
    CutTail,
    /// Random bytes all over, of the same length.
    Garbage,
    Emptied,
}

impl Damage {
    /// Does it, and answers whether that changed anything.
    pub(crate) fn strike(self, file: &Path, random: &mut StdRng) -> bool {
        let before = fs::read(file).expect("reads");
        let mut bytes = before.clone();
        let at = random.random_range(0..bytes.len());
        match self {
            Self::FlippedBit => bytes[at] ^= 1 << random.random_range(0..8),
            Self::ZeroedBlock => {
                let block = at / 4_096 * 4_096;
                let end = bytes.len().min(block + 4_096);
                bytes[block..end].fill(0);
            }
            Self::Scribble => {
                let end = bytes.len().min(at + 64);
                random.fill(&mut bytes[at..end]);
            }
            Self::CutTail => bytes.truncate(at),
            Self::Garbage => random.fill(&mut bytes[..]),
            Self::Emptied => bytes.clear(),
        }
        fs::write(file, &bytes).expect("writes");
        bytes != before
    }
}

/// The files that an engine keeps a store in; not empty ones.
pub(crate) fn files(store: &Path) -> Vec<PathBuf> {
    if store.is_file() {
        return vec![store.to_owned()];
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(store).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.metadata().expect("there").len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A copy of all that is in a folder.
pub(crate) fn copy(from: &Path) -> TempDir {
    let place = tempfile::tempdir().expect("folder");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(place.path())
        .status();
    assert!(copied.expect("runs").success());
    place
}

fn open(folder: &DataFolder) -> Result<EmbeddedStore, StoreError> {
    let metrics = Metrics::new().expect("metrics").store();
    EmbeddedStore::open(folder.engine(), &folder.store(), CACHE, metrics)
}

fn sent() -> Prepared {
    Prepared {
        tx_id: LedgerTxId("4711".to_owned()),
        envelope: "{}".to_owned(),
        response: None,
        touched: None,
    }
}

/// The last versions of `sets` records in every state.
async fn fill(store: &EmbeddedStore, sets: usize) -> Vec<Transaction> {
    let now = SystemClock.now();
    let histories: Vec<_> = (0..sets)
        .flat_map(|set| states::in_every_state(&format!("n{set}"), &sent(), now, now))
        .collect();
    states::store(store, &histories).await;
    let last = histories
        .into_iter()
        .map(|mut history| history.pop().expect("one"));
    last.collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long it runs is for this test alone"
)]
fn cases() -> usize {
    std::env::var("SLUICEGATE_DAMAGE_CASES").map_or(12, |text| text.parse().expect("a number"))
}

#[tokio::test]
async fn a_damaged_store_is_refused_and_salvaged_on_redb() {
    campaign(EngineKind::Redb, 21).await;
}

#[tokio::test]
async fn a_damaged_store_is_refused_and_salvaged_on_sled() {
    campaign(EngineKind::Sled, 22).await;
}

/// What became of the records of all cases.
#[derive(Debug, Default)]
struct Sums {
    cases: usize,
    kept: usize,
    parked: usize,
    set_aside: usize,
    /// Gone, and not even known to have been there.
    without_a_trace: usize,
    nothing_left: usize,
}

async fn campaign(engine: EngineKind, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let whole = tempfile::tempdir().expect("folder");
    let folder = DataFolder::hold(whole.path(), engine).expect("holds");
    let store = open(&folder).expect("opens");
    let all = fill(&store, 30).await;
    drop(store);
    drop(folder);
    let mut sums = Sums::default();
    for case in 0..cases() {
        let place = copy(whole.path());
        let folder = DataFolder::hold(place.path(), engine).expect("holds");
        let damage = PLACES[case % PLACES.len()];
        let files = files(&folder.store());
        // In the one that holds the data, mostly.
        let file = match random.random_ratio(1, 4) {
            true => &files[random.random_range(0..files.len())],
            false => files
                .iter()
                .max_by_key(|file| file.metadata().expect("there").len())
                .expect("one"),
        };
        if !damage.strike(file, &mut random) {
            continue;
        }
        let what = format!(
            "{engine}, seed {seed}, case {case}: {damage:?} in {}",
            file.display()
        );
        refused(&folder, &what);
        salvaged(&folder, &all, &mut sums, &what).await;
    }
    eprintln!("{engine}, seed {seed}: {} records each: {sums:?}", all.len());
    assert!(sums.cases > cases() / 2 && sums.kept > 0, "{sums:?}");
}

/// Neither the gateway's way to open it nor a check takes it for good, and both tell the remedy.
fn refused(folder: &DataFolder, what: &str) {
    let Err(error) = open(folder) else {
        panic!("{what}: opened");
    };
    let (refusal, gone) = (error.to_string(), matches!(error, StoreError::Unavailable(_)));
    let remedy = if gone {
        "restore it from a backup"
    } else {
        "`sluicegate store repair`"
    };
    assert!(refusal.contains(remedy), "{what}: {refusal}");
    let Err(error) = embedded::check(folder, CACHE) else {
        panic!("{what}: checks well");
    };
    assert!(error.to_string().contains(remedy), "{what}: {error}");
}

async fn salvaged(folder: &DataFolder, all: &[Transaction], sums: &mut Sums, what: &str) {
    let before: Vec<_> = files(&folder.store())
        .iter()
        .map(|file| fs::read(file).expect("reads"))
        .collect();
    sums.cases += 1;
    let report = match embedded::repair(folder, CACHE) {
        Ok(report) => report,
        Err(MaintenanceError::Nothing(_) | MaintenanceError::Store(StoreError::Unavailable(_))) => {
            sums.nothing_left += 1;
            let after: Vec<_> = files(&folder.store())
                .iter()
                .map(|file| fs::read(file).expect("reads"))
                .collect();
            assert_eq!(
                before, after,
                "{what}: nothing could be read, so nothing is touched"
            );
            return;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    let kept_file = report.damaged.expect("a new file was made");
    let kept: Vec<_> = files(&kept_file)
        .iter()
        .map(|file| fs::read(file).expect("reads"))
        .collect();
    assert_eq!(before, kept, "{what}: the damaged file is kept as it is");
    assert_eq!(
        embedded::check(folder, CACHE).expect("opens").findings,
        [],
        "{what}"
    );

    let store = open(folder).expect("opens");
    let ever = Timestamp::from_millis(u64::MAX);
    let due = store.due(&all[0].request.ledger, ever, 9).await.expect("reads");
    assert!(due.marks.is_empty(), "{what}: I2: something would be submitted");
    for tx in all {
        let id = tx.id.to_string();
        let listed = report.findings.iter().any(|finding| match finding {
            Finding::Unsettled { id: listed, .. } | Finding::Unreadable { id: listed, .. } => *listed == id,
            _ => false,
        });
        let mut repeat = repeat_of(tx);
        match store.get(tx.id).await {
            Ok(Some(found)) if found.stage() == Some(Stage::Parked) => {
                sums.parked += 1;
                assert!(
                    listed || tx.stage() == Some(Stage::Parked),
                    "{what}: {id} is not listed"
                );
            }
            Ok(Some(found)) => {
                sums.kept += 1;
                assert!(found.is_settled(), "{what}: {id}");
                assert_eq!(json(&found), json(tx), "{what}: another than there was");
            }
            Err(StoreError::Damaged(_)) => {
                sums.set_aside += 1;
                assert!(listed, "{what}: {id} is not listed");
            }
            Ok(None) => {
                sums.without_a_trace += 1;
                repeat = None;
            }
            Err(error) => panic!("{what}: {error}"),
        }
        // A key whose index entry is lost together with its record is lost.
        if let Some(repeat) = repeat.filter(|_| !lost(&report.findings, &id)) {
            let again = store.insert(&repeat).await;
            assert!(
                !matches!(again, Ok(Inserted::Created)),
                "{what}: I5: the key of {id} is free again"
            );
        }
    }
    let page = store.list(&Filter::default(), None, 9_999).await.expect("lists");
    assert_eq!(
        page.items.len() as u64,
        report.counts.values().sum::<u64>(),
        "{what}"
    );
}

fn lost(findings: &[Finding], id: &str) -> bool {
    let is_lost = |finding: &Finding| matches!(finding, Finding::Unreadable { id: lost, .. } if lost == id);
    findings.iter().any(is_lost)
}

/// The same request under the same key, as a client repeats it.
fn repeat_of(tx: &Transaction) -> Option<Transaction> {
    let (key, _) = tx.idempotency.as_ref()?;
    let request = states::request(&tx.request.args[0].ledger_text());
    Some(Transaction::accept(request, Some(key.clone()), SystemClock.now()))
}

fn json(tx: &Transaction) -> serde_json::Value {
    serde_json::to_value(tx).expect("JSON")
}

/// After a crash nothing was sealed. redb then verifies every page by itself. What it cannot tell from a commit that
/// was cut off by the crash is damage in the pages of the very last commit: that one may be missing.
#[tokio::test]
async fn a_store_that_is_damaged_after_a_crash_is_never_wrong_on_redb() {
    let engine = EngineKind::Redb;
    let whole = tempfile::tempdir().expect("folder");
    let folder = DataFolder::hold(whole.path(), engine).expect("holds");
    let store = open(&folder).expect("opens");
    let all = fill(&store, 30).await;
    store
        .insert(&Transaction::accept(
            states::request("last"),
            None,
            SystemClock.now(),
        ))
        .await
        .expect("inserts");
    let crashed = copy(whole.path());
    drop(store);
    drop(folder);
    let mut random = StdRng::seed_from_u64(23);
    let (mut refused, mut right) = (0, 0);
    for case in 0..cases() {
        let place = copy(crashed.path());
        let folder = DataFolder::hold(place.path(), engine).expect("holds");
        let damage = PLACES[case % PLACES.len()];
        if !damage.strike(&folder.store(), &mut random) {
            continue;
        }
        let Ok(store) = open(&folder) else {
            refused += 1;
            continue;
        };
        right += 1;
        for tx in &all {
            let found = store.get(tx.id).await.expect("reads");
            let found = found.unwrap_or_else(|| panic!("case {case}: {damage:?}: {} is lost", tx.id));
            assert_eq!(json(&found), json(tx), "case {case}: {damage:?}");
        }
        drop(store);
        assert_eq!(
            embedded::check(&folder, CACHE).expect("opens").findings,
            [],
            "case {case}"
        );
    }
    eprintln!("after a crash: {refused} refused, {right} opened with everything as it was");
    assert!(refused > 0 && right > 0, "{refused} refused, {right} right");
}
