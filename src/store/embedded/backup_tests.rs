use std::io::Cursor;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::{Identities, RestoreError, record, restore, verify_backup};
use super::*;
use crate::domain::{Event, Status, TenantName, Transaction};
use crate::kv::{self, Batch, EngineKind, seal};
use crate::store::conformance::{claimed, committed, now, prepared, runtime, step, transaction};
use crate::store::documents::{DocumentChange, DocumentStore};
use crate::store::{Inserted, TransactionStore};
use crate::telemetry::metrics::Metrics;

fn main_ledger() -> LedgerName {
    LedgerName::new("main").expect("valid")
}

fn identities() -> BTreeMap<LedgerName, LedgerTxId> {
    [(main_ledger(), LedgerTxId("nobody".into()))].into()
}

fn open(folder: &DataFolder) -> EmbeddedStore {
    let metrics = Metrics::new().expect("metrics").store();
    EmbeddedStore::open(folder.engine(), &folder.store(), 1 << 20, metrics).expect("opens")
}

fn hold(place: &Path, engine: EngineKind) -> DataFolder {
    DataFolder::hold(place, engine).expect("holds")
}

/// One of each: waiting (with a deadline and a key), prepared, submitted and announced, done, failed; a checkpoint.
async fn fill(store: &EmbeddedStore) -> Vec<Transaction> {
    let mut waiting = transaction("main", Some("order-1"));
    std::sync::Arc::make_mut(&mut waiting.request).expires_in_seconds = Some(60);
    let all: Vec<_> = (0..4).map(|_| transaction("main", None)).collect();
    for tx in std::iter::once(&waiting).chain(&all) {
        store.insert(tx).await.expect("inserts");
    }
    let later = now().plus(std::time::Duration::from_secs(60));
    let mut moved = vec![waiting];
    for (number, tx) in all.iter().enumerate() {
        let mut tx = step(store, tx, claimed(later)).await;
        if number == 3 {
            let cause = crate::domain::Cause::new("NO", "no");
            tx = step(store, &tx, Event::Rejected { cause }).await;
        } else if number > 0 {
            tx = step(store, &tx, prepared(later)).await;
        }
        if number == 2 {
            tx = step(store, &tx, committed()).await;
        }
        moved.push(tx);
    }
    let mark = crate::store::Mark::of(&moved[2]).expect("due");
    store
        .announced(&main_ledger(), &[mark], now())
        .await
        .expect("noted");
    let checkpoint = crate::domain::Checkpoint(17);
    store
        .advance_checkpoint(&main_ledger(), checkpoint)
        .await
        .expect("advances");
    moved
}

fn backup(store: &EmbeddedStore) -> Vec<u8> {
    let mut bytes = Vec::new();
    store
        .source()
        .write(now(), identities(), &mut bytes)
        .expect("writes");
    bytes
}

fn file(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("file.backup");
    std::fs::write(&path, bytes).expect("writes");
    path
}

fn restored(folder: &DataFolder, file: &Path) -> Result<super::super::Inventory, RestoreError> {
    restore(folder, 1 << 20, file, now(), Identities::MustMatch, &mut |_| {})
}

#[test]
fn a_backup_of_either_engine_is_restored_into_either() {
    for (from, to) in [
        (EngineKind::Redb, EngineKind::Redb),
        (EngineKind::Redb, EngineKind::Sled),
        (EngineKind::Sled, EngineKind::Redb),
        (EngineKind::Sled, EngineKind::Sled),
    ] {
        runtime().block_on(async {
            let (old, new) = (
                tempfile::tempdir().expect("folder"),
                tempfile::tempdir().expect("folder"),
            );
            let store = open(&hold(old.path(), from));
            let records = fill(&store).await;
            let file = file(old.path(), &backup(&store));
            drop(store);
            let folder = hold(new.path(), to);
            let inventory = restored(&folder, &file).expect("restores");
            assert_eq!(
                inventory.counts,
                verify_backup(&file, &mut |_| {}).expect("is whole").counts
            );
            assert_eq!(inventory.counts[&(main_ledger(), Status::Pending)], 3);
            let occupied = restored(&folder, &file).expect_err("is there");
            assert!(
                occupied.to_string().contains("move the data folder away"),
                "{occupied}"
            );
            let report = super::super::check(&folder, 1 << 20).expect("checks");
            assert_eq!((report.findings, report.counts), (Vec::new(), inventory.counts));

            let store = open(&folder);
            assert_eq!(
                store.restored().expect("reads").expect("restored").identities,
                identities()
            );
            assert!(store.has_rewound(&main_ledger()).expect("reads"));
            for old in &records {
                let new = store.get(old.id).await.expect("reads").expect("is there");
                assert_eq!(new.rewound, !old.is_settled());
                let as_json = |tx: &Transaction| {
                    let tx = Transaction {
                        rewound: false,
                        ..tx.clone()
                    };
                    serde_json::to_string(&tx).expect("JSON")
                };
                assert_eq!(as_json(&new), as_json(old));
            }
            let known = store.find_by_idempotency_key("order-1").await.expect("reads");
            assert_eq!(known.expect("known").id, records[0].id);
            let checkpoint = store.checkpoint(&main_ledger()).await.expect("reads");
            assert_eq!(checkpoint, Some(crate::domain::Checkpoint(17)));
            // Nobody delivers what was announced, and nobody fails unasked what the ledger may have.
            let much_later = now().plus(std::time::Duration::from_secs(600));
            assert_eq!(
                store
                    .due(&main_ledger(), much_later, 10)
                    .await
                    .expect("reads")
                    .marks
                    .len(),
                3
            );
            assert!(store.expired(much_later, 10).await.expect("reads").is_empty());
        });
    }
}

/// Tenants and documents come along; the log of changes begins anew.
#[test]
fn a_restored_store_knows_its_tenants_and_documents_and_no_position() {
    for kind in EngineKind::ALL {
        runtime().block_on(async {
            let (old, new) = (
                tempfile::tempdir().expect("folder"),
                tempfile::tempdir().expect("folder"),
            );
            let store = open(&hold(old.path(), EngineKind::Redb));
            let acme = TenantName::new("acme").expect("valid");
            let tx = Transaction {
                tenant: acme.clone(),
                ..transaction("main", Some("order-1"))
            };
            let start = store.last_change().await.expect("reads");
            store.insert(&tx).await.expect("inserts");
            store.insert(&transaction("main", None)).await.expect("inserts");
            let document = DocumentChange::create("key", "a", &"body").expect("JSON");
            assert!(store.change_documents(vec![document]).await.expect("writes"));
            let end = store.last_change().await.expect("reads");
            let file = file(old.path(), &backup(&store));
            drop(store);

            let folder = hold(new.path(), kind);
            restored(&folder, &file).expect("restores");
            let report = super::super::check(&folder, 1 << 20).expect("checks");
            assert_eq!(report.findings, []);
            let store = open(&folder);
            let filter = crate::store::Filter {
                tenant: Some(acme.clone()),
                ..Default::default()
            };
            let page = store.list(&filter, None, 9).await.expect("lists");
            let found: Vec<_> = page.items.iter().map(|tx| tx.id).collect();
            assert_eq!(found, [tx.id]);
            assert_eq!(store.pending_of(&acme), 1);
            let found = store.find_by_idempotency_key(&acme.scoped("order-1")).await;
            assert_eq!(found.expect("reads").map(|tx| tx.id), Some(tx.id));
            let document = store.document("key", "a").await.expect("reads").expect("there");
            assert_eq!((document.version, document.body.get()), (1, "\"body\""));
            for position in [start, end] {
                assert!(store.changes(position, 9).await.expect("reads").is_none());
            }
            let begun = store.last_change().await.expect("reads");
            store.insert(&transaction("main", None)).await.expect("inserts");
            let changes = store.changes(begun, 9).await.expect("reads").expect("is known");
            assert_eq!(changes.items.len(), 1);
        });
    }
}

#[test]
fn a_store_that_was_never_restored_says_so() {
    let place = tempfile::tempdir().expect("folder");
    let store = open(&hold(place.path(), EngineKind::Redb));
    assert_eq!(store.restored().expect("reads"), None);
    assert!(!store.has_rewound(&main_ledger()).expect("reads"));
}

/// What could not be read stays what it is, and its idempotency key stays taken.
#[test]
fn damage_is_carried_along_and_not_spread() {
    runtime().block_on(async {
        let (old, new) = (
            tempfile::tempdir().expect("folder"),
            tempfile::tempdir().expect("folder"),
        );
        let folder = hold(old.path(), EngineKind::Redb);
        let store = open(&folder);
        let records = fill(&store).await;
        drop(store);
        let engine = kv::open(EngineKind::Redb, &folder.store(), 1 << 20).expect("opens");
        let mut bytes = record::encode(&records[0]).expect("encodes");
        bytes[40] ^= 1;
        let mut batch = Batch::default();
        batch.put(keys::record(records[0].id), bytes);
        engine.commit(batch).expect("commits");
        drop(engine);

        let source = BackupSource::open(&folder, 1 << 20).expect("opens");
        let mut bytes = Vec::new();
        source.write(now(), identities(), &mut bytes).expect("writes");
        let file = file(old.path(), &bytes);
        let folder = hold(new.path(), EngineKind::Redb);
        assert_eq!(restored(&folder, &file).expect("restores").unreadable, 1);
        let store = open(&folder);
        let again = transaction("main", Some("order-1"));
        let inserted = store.insert(&again).await.expect("answers");
        assert_eq!(
            inserted,
            Inserted::Existing(records[0].id),
            "I5: its key is taken"
        );
        assert_eq!(
            store
                .list(&Default::default(), None, 10)
                .await
                .expect("lists")
                .items
                .len(),
            4
        );
    });
}

#[test]
fn what_is_no_whole_backup_is_refused_and_leaves_nothing() {
    let place = tempfile::tempdir().expect("folder");
    let bytes = runtime().block_on(async {
        let store = open(&hold(place.path(), EngineKind::Redb));
        fill(&store).await;
        backup(&store)
    });
    let new = tempfile::tempdir().expect("folder");
    let refused = |bytes: &[u8]| {
        let folder = hold(new.path(), EngineKind::Redb);
        let error = restored(&folder, &file(place.path(), bytes)).expect_err("is refused");
        let (left, _) = folder.compacting();
        assert!(!folder.store().exists() && !left.exists(), "something is left");
        error.to_string()
    };
    assert!(refused(b"").contains("is no backup"));
    assert!(refused(&[0; 100]).contains("is no backup"));
    assert!(refused(&bytes[..bytes.len() - 1]).contains("cut short"));
    assert!(refused(&bytes[..bytes.len() / 2]).contains("cut short"));
    assert!(refused(&[&bytes[..], b"x"].concat()).contains("follows its end"));
    let newer = String::from_utf8_lossy(&bytes[..20]).replace('1', "2");
    assert!(refused(&[newer.as_bytes(), &bytes[20..]].concat()).contains("newer format"));
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    assert!(refused(&flipped).contains("cannot be used"));
    let mut given_up = Vec::new();
    refuse_backup(&mut given_up, "the disk refused").expect("writes");
    assert!(refused(&given_up).contains("given up: the disk refused"));
}

/// Something is in the way of the seal, once the store has moved to its place.
#[test]
fn a_restore_that_fails_at_its_last_step_leaves_no_store() {
    for kind in EngineKind::ALL {
        let (old, new) = (
            tempfile::tempdir().expect("folder"),
            tempfile::tempdir().expect("folder"),
        );
        let bytes = runtime().block_on(async {
            let store = open(&hold(old.path(), EngineKind::Redb));
            fill(&store).await;
            backup(&store)
        });
        let file = file(old.path(), &bytes);
        let folder = hold(new.path(), kind);
        let in_the_way = seal::path(&folder.store());
        std::fs::create_dir_all(in_the_way.join("full")).expect("creates");
        let error = restored(&folder, &file).expect_err("cannot be placed");
        assert!(matches!(error, RestoreError::Folder(_)), "{error}");
        let (left, _) = folder.compacting();
        assert!(!folder.store().exists() && !left.exists(), "something is left");
        std::fs::remove_dir_all(in_the_way).expect("removes");
        restored(&folder, &file).expect("restores");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    /// Whatever is changed, and wherever it ends: it is refused, without a panic and without much memory.
    #[test]
    fn any_change_is_noticed(at in 0_usize..10_000, flip in 1_u8.., cut in 0_usize..10_000) {
        let mut bytes = Vec::new();
        let engine = memory();
        let header = BackupHeader { program: "0".into(), made_at: now(), records: 3, identities: identities() };
        write(&engine, &header, &mut bytes).expect("writes");
        let mut flipped = bytes.clone();
        flipped[at % bytes.len()] ^= flip;
        prop_assert!(read(&flipped).is_err());
        prop_assert!(read(&bytes[..cut % bytes.len()]).is_err());
        prop_assert_eq!(read(&bytes).expect("is whole"), 6);
    }
}

fn read(bytes: &[u8]) -> Result<usize, BackupError> {
    let mut reader = BackupReader::open(Cursor::new(bytes))?;
    let mut entries = 0;
    while reader.next()?.is_some() {
        entries += 1;
    }
    Ok(entries)
}

/// Entries of every kind, and some that no backup holds.
fn memory() -> impl KvEngine {
    struct Fixed;
    impl KvEngine for Fixed {
        fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
            Ok(None)
        }

        fn scan(
            &self,
            range: std::ops::Range<&[u8]>,
            _: Order,
            visit: crate::kv::Visit<'_>,
        ) -> Result<(), KvError> {
            for key in [
                "cmain", "imine", "kmain", "mformat", "qone", "rone", "rthree", "rtwo",
            ] {
                if range.contains(&key.as_bytes()) && visit(key.as_bytes(), b"value").is_break() {
                    break;
                }
            }
            Ok(())
        }

        fn commit(&self, _: Batch) -> Result<(), KvError> {
            Ok(())
        }
    }
    Fixed
}
