use super::*;
use crate::domain::{Checkpoint, Event, TenantName, Timestamp, Transaction};
use crate::kv::EngineKind;
use crate::store::conformance::transaction;
use crate::store::documents::{DocumentChange, DocumentStore};
use crate::store::embedded::{EmbeddedStore, STORE_FORMAT};
use crate::store::{Filter, Inserted, TransactionStore};
use crate::telemetry::metrics::Metrics;

const CACHE: usize = 1 << 20;

fn store(folder: &DataFolder) -> EmbeddedStore {
    let metrics = Metrics::new().expect("metrics").store();
    EmbeddedStore::open(folder.engine(), &folder.store(), CACHE, metrics).expect("opens")
}

/// A folder with ten pending transactions.
async fn filled(kind: EngineKind, place: &Path) -> (DataFolder, Vec<Transaction>) {
    let folder = DataFolder::hold(place, kind).expect("holds");
    let store = store(&folder);
    let all: Vec<_> = (0..10)
        .map(|n| transaction("main", Some(&format!("key-{n}"))))
        .collect();
    for tx in &all {
        store.insert(tx).await.expect("inserts");
    }
    drop(store);
    (folder, all)
}

fn tamper(folder: &DataFolder, change: impl FnOnce(&dyn KvEngine, &mut Batch)) {
    let engine = open(folder, CACHE).expect("opens");
    let mut batch = Batch::default();
    change(&*engine, &mut batch);
    engine.commit(batch).expect("commits");
}

#[tokio::test]
async fn everything_that_is_wrong_is_found_and_mended() {
    for kind in EngineKind::ALL {
        let place = tempfile::tempdir().expect("folder");
        let (folder, all) = filled(kind, place.path()).await;
        tamper(&folder, |engine, batch| {
            for (key, _) in keys::index(&all[0]) {
                batch.delete(key);
            }
            let stranger = transaction("main", Some("stranger"));
            for (key, value) in keys::index(&stranger) {
                batch.put(key, value);
            }
            let mut damaged = engine
                .get(&keys::record(all[1].id))
                .expect("reads")
                .expect("is there");
            let middle = damaged.len() / 2;
            damaged[middle] ^= 1;
            batch.put(keys::record(all[1].id), damaged);
        });
        let found = check(&folder, CACHE).expect("checks").findings;
        let count = |wanted: fn(&Finding) -> bool| found.iter().filter(|finding| wanted(finding)).count();
        assert_eq!(
            count(|f| matches!(f, Finding::Missing { .. })),
            3,
            "{kind}: {found:?}"
        );
        assert_eq!(
            count(|f| matches!(f, Finding::Unreadable { .. })),
            1,
            "{kind}: {found:?}"
        );
        // The stranger's three entries, and those of the record that cannot be read, but for its key.
        assert_eq!(
            count(|f| matches!(f, Finding::Stale { .. })),
            5,
            "{kind}: {found:?}"
        );
        assert_eq!(
            count(|f| matches!(f, Finding::Miscounted { .. })),
            1,
            "{kind}: {found:?}"
        );

        let quarantine = repair(&folder, CACHE)
            .expect("repairs")
            .quarantine
            .expect("one was moved away");
        let moved = std::fs::read_to_string(quarantine).expect("reads");
        assert_eq!(moved.lines().count(), 1, "{kind}");
        let report = check(&folder, CACHE).expect("checks");
        assert_eq!(
            (report.findings.as_slice(), report.records()),
            ([].as_slice(), 9),
            "{kind}"
        );

        let store = store(&folder);
        let due = store
            .due(&all[0].request.ledger, Timestamp::from_millis(u64::MAX), 99)
            .await
            .expect("reads");
        let has = |id| due.marks.iter().any(|mark| mark.id == id);
        assert!(has(all[0].id) && !has(all[1].id), "{kind}");
        let repeat = store.insert(&transaction("main", Some("key-1"))).await;
        assert!(
            matches!(repeat, Ok(Inserted::Existing(id)) if id == all[1].id),
            "{kind}: I2: {repeat:?}"
        );
        let aside = store.get(all[1].id).await;
        assert!(matches!(aside, Err(StoreError::Damaged(_))), "{kind}: {aside:?}");
        let found = store.find_by_idempotency_key("key-0").await.expect("reads");
        assert_eq!(found.map(|tx| tx.id), Some(all[0].id), "{kind}");
        assert_eq!(store.backlog()[&all[0].request.ledger], 9, "{kind}");
    }
}

#[tokio::test]
async fn compaction_keeps_every_record_and_checkpoint_and_gives_back_space() {
    for kind in EngineKind::ALL {
        let place = tempfile::tempdir().expect("folder");
        let (folder, all) = filled(kind, place.path()).await;
        tamper(&folder, |_, batch| {
            for n in 0_u32..2_000 {
                batch.put([b"z", n.to_be_bytes().as_slice()].concat(), vec![7; 2_000]);
            }
        });
        tamper(&folder, |_, batch| {
            for n in 0_u32..2_000 {
                batch.delete([b"z", n.to_be_bytes().as_slice()].concat());
            }
        });
        let ledger = &all[0].request.ledger;
        let checkpoint = Some(Checkpoint(7));
        let opened = store(&folder);
        opened
            .advance_checkpoint(ledger, Checkpoint(7))
            .await
            .expect("notes");
        drop(opened);
        let (before, after) = compact(&folder, CACHE).expect("compacts");
        assert!(after < before, "{kind}: {before} before, {after} after");
        assert_eq!(repair(&folder, CACHE).expect("repairs").findings, [], "{kind}");
        let opened = store(&folder);
        let page = opened.list(&Filter::default(), None, 99).await.expect("lists");
        assert_eq!(page.items.len(), all.len(), "{kind}");
        assert_eq!(
            opened.checkpoint(ledger).await.expect("reads"),
            checkpoint,
            "{kind}"
        );
        drop(opened);

        // One that cannot be read is as good as none: outcomes are looked up.
        tamper(&folder, |_, batch| batch.put(keys::checkpoint(ledger), vec![1]));
        let found = check(&folder, CACHE).expect("checks").findings;
        assert!(
            matches!(found.as_slice(), [Finding::Stale { .. }]),
            "{kind}: {found:?}"
        );
        repair(&folder, CACHE).expect("repairs");
        assert_eq!(check(&folder, CACHE).expect("checks").findings, [], "{kind}");
    }
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused_with_the_remedy() {
    for kind in EngineKind::ALL {
        let place = tempfile::tempdir().expect("folder");
        let (folder, _) = filled(kind, place.path()).await;
        tamper(&folder, |_, batch| {
            batch.put(keys::FORMAT.to_vec(), (STORE_FORMAT + 1).to_be_bytes().to_vec())
        });
        let refusal = check(&folder, CACHE).expect_err("is newer").to_string();
        assert!(
            refusal.contains("start the newer sluicegate"),
            "{kind}: {refusal}"
        );
        let metrics = Metrics::new().expect("metrics").store();
        let opened = EmbeddedStore::open(kind, &folder.store(), CACHE, metrics);
        assert!(matches!(opened, Err(StoreError::Damaged(_))), "{kind}");
    }
}

#[tokio::test]
async fn i9_a_record_that_cannot_be_read_hides_no_other() {
    for kind in EngineKind::ALL {
        let place = tempfile::tempdir().expect("folder");
        let (folder, all) = filled(kind, place.path()).await;
        tamper(&folder, |_, batch| {
            batch.put(keys::record(all[3].id), b"nonsense".to_vec())
        });
        let store = store(&folder);
        let page = store.list(&Filter::default(), None, 99).await.expect("lists");
        assert_eq!(page.items.len(), all.len() - 1, "{kind}");
        assert!(
            matches!(store.get(all[3].id).await, Err(StoreError::Damaged(_))),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn the_index_of_tenants_is_mended_and_documents_stay() {
    for kind in EngineKind::ALL {
        let place = tempfile::tempdir().expect("folder");
        let (folder, all) = filled(kind, place.path()).await;
        let acme = TenantName::new("acme").expect("valid name");
        let of_acme = |key| Transaction {
            tenant: acme.clone(),
            ..transaction("main", Some(key))
        };
        let (kept, stranger) = (of_acme("key-1"), of_acme("key-2"));
        let opened = store(&folder);
        opened.insert(&kept).await.expect("inserts");
        let document = DocumentChange::create("key", "a", &"body").expect("JSON");
        assert!(opened.change_documents(vec![document]).await.expect("writes"));
        let position = opened.last_change().await.expect("reads");
        drop(opened);
        let entry = |tx: &Transaction| {
            let prefix = keys::tenant_prefix(&acme, tx.status());
            [prefix.as_slice(), tx.id.as_bytes()].concat()
        };
        tamper(&folder, |engine, batch| {
            assert!(engine.get(&entry(&kept)).expect("reads").is_some());
            batch.delete(entry(&kept));
            batch.put(entry(&stranger), Vec::new());
            // Not the tenant's.
            batch.put(entry(&all[0]), Vec::new());
        });
        let found = check(&folder, CACHE).expect("checks").findings;
        assert!(
            matches!(
                found.as_slice(),
                [
                    Finding::Missing { .. },
                    Finding::Stale { .. },
                    Finding::Stale { .. }
                ]
            ),
            "{kind}: {found:?}"
        );
        repair(&folder, CACHE).expect("repairs");
        compact(&folder, CACHE).expect("compacts");
        assert_eq!(check(&folder, CACHE).expect("checks").findings, [], "{kind}");
        let opened = store(&folder);
        let filter = Filter {
            tenant: Some(acme.clone()),
            ..Filter::default()
        };
        let page = opened.list(&filter, None, 9).await.expect("lists");
        assert_eq!(
            page.items.iter().map(|tx| tx.id).collect::<Vec<_>>(),
            [kept.id],
            "{kind}"
        );
        assert_eq!(
            (
                opened.pending_of(&acme),
                opened.pending_of(&TenantName::default())
            ),
            (1, 10),
            "{kind}"
        );
        let document = opened
            .document("key", "a")
            .await
            .expect("reads")
            .expect("is there");
        assert_eq!(document.body.get(), "\"body\"", "{kind}");
        let changes = opened.changes(position, 9).await.expect("reads");
        assert_eq!(changes.expect("is known").items.len(), 0, "{kind}");
    }
}

/// What a bit makes of the id in an index entry names a record that never was.
#[tokio::test]
async fn i5_an_entry_with_a_damaged_id_takes_no_key_from_the_record_that_is_there() {
    for kind in EngineKind::ALL {
        let place = tempfile::tempdir().expect("folder");
        let (folder, all) = filled(kind, place.path()).await;
        let settled = all[0]
            .apply(Event::Expired, all[0].created_at)
            .expect("may expire");
        tamper(&folder, |_, batch| {
            for (key, _) in keys::index(&all[0]) {
                batch.delete(key);
            }
            batch.put(
                keys::record(settled.id),
                record::encode(&settled).expect("encodes"),
            );
            for (key, value) in keys::index(&settled) {
                batch.put(key, value);
            }
            let mut id = *settled.id.as_bytes();
            id[15] ^= 1;
            batch.put(keys::idempotency("key-0"), id.to_vec());
        });
        salvage::salvage(&folder, CACHE).expect("is salvaged");
        assert_eq!(check(&folder, CACHE).expect("checks").findings, [], "{kind}");
        let opened = store(&folder);
        let repeat = transaction("main", Some("key-0"));
        let inserted = opened.insert(&repeat).await.expect("is answered");
        assert!(
            matches!(inserted, Inserted::Existing(id) if id == settled.id),
            "{kind}: {inserted:?}"
        );
    }
}
