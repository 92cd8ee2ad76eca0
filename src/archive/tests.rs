//! Records on their way to an archive that works, refuses, or forgets.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::portion::pack;
use super::*;
use crate::clock::{Clock, ManualClock, SystemClock};
use crate::config::{ArchivePlace, ArchiveSettings, RetentionSettings};
use crate::domain::{Argument, Cause, Event, LedgerTxId, Receipt, State, Status, Timestamp, TransactionId};
use crate::kv::EngineKind;
use crate::store::TransactionStore;
use crate::store::conformance::transaction;
use crate::store::documents::DocumentStore;
use crate::store::embedded::EmbeddedStore;
use crate::telemetry::metrics::Metrics;

const WORKS: u8 = 0;
const REFUSES: u8 = 1;
const SPOILS: u8 = 2;

/// A place in memory that does not always do what it is asked.
#[derive(Debug, Default)]
struct Place {
    objects: InMemory,
    mood: AtomicU8,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a place")
    }
}

#[async_trait]
impl ObjectStore for Place {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> object_store::Result<PutResult> {
        let payload = match self.mood.load(Ordering::Relaxed) {
            WORKS => payload,
            REFUSES => {
                return Err(object_store::Error::Generic {
                    store: "a place",
                    source: "it does not want to".into(),
                });
            }
            _ => {
                let mut bytes = payload.iter().flat_map(|part| part.to_vec()).collect::<Vec<_>>();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                bytes.into()
            }
        };
        self.objects.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

struct Scene {
    store: Arc<EmbeddedStore>,
    clock: Arc<ManualClock>,
    place: Arc<Place>,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let metrics = Metrics::new().expect("metrics").store();
        let path = folder.path().join("store");
        let store = EmbeddedStore::open(EngineKind::Redb, &path, 1 << 20, metrics).expect("opens");
        Self {
            store: Arc::new(store),
            clock: Arc::new(ManualClock::new(SystemClock.now())),
            place: Arc::default(),
            _folder: folder,
        }
    }

    fn archive(&self) -> Archive {
        Archive::of(self.place.clone())
    }

    /// One that keeps records for a day and lets them wait for an hour.
    fn archivist(&self, shared: bool) -> Archivist {
        let parts = ArchivistParts {
            store: self.store.clone(),
            shared: shared.then(|| self.store.clone() as Arc<dyn DocumentStore>),
            clock: self.clock.clone(),
            settings: ArchiveSettings {
                place: ArchivePlace::Folder("/nowhere".into()),
                gather: Duration::from_secs(3_600),
            },
            retention: RetentionSettings {
                done: Some(Duration::from_secs(86_400)),
                failed: Some(Duration::from_secs(86_400)),
                ..RetentionSettings::default()
            },
            show: crate::http::show_archived,
            metrics: Metrics::new().expect("metrics").archive(),
        };
        Archivist::with(parts, self.archive())
    }

    /// Stores what has ended now: done, or else failed.
    async fn settled(&self, key: &str, done: bool) -> Transaction {
        let old = transaction("main", Some(key));
        let now = self.clock.now();
        self.store.insert(&old).await.expect("inserts");
        let mut new = old.clone();
        for event in ends(done, key, now) {
            new = new.apply(event, now).expect("legal");
        }
        // The steps between are of no interest here.
        new.version = 2;
        let change = crate::store::Change {
            old,
            new: new.clone(),
        };
        let made = self.store.compare_and_swap(vec![change]).await.expect("writes");
        assert_eq!(made, [true]);
        new
    }

    async fn left(&self) -> BTreeSet<TransactionId> {
        let page = self
            .store
            .list(&crate::store::Filter::default(), None, 10_000)
            .await;
        page.expect("lists").items.into_iter().map(|tx| tx.id).collect()
    }

    fn pass(&self, hours: u64) {
        self.clock.advance(Duration::from_secs(hours * 3_600));
    }

    /// The lines that match, and what is wrong with objects.
    async fn lines(&self, query: &Query) -> (Vec<String>, Vec<String>) {
        let (mut lines, mut damaged) = (Vec::new(), Vec::new());
        let mut tell = |one: Found<'_>| {
            match one {
                Found::Record(line) => lines.push(line.to_owned()),
                Found::Damaged(_, what) => damaged.push(what.to_owned()),
            }
            Ok(true)
        };
        let archive = self.archive();
        search(&archive, query, &mut tell).await.expect("searches");
        (lines, damaged)
    }

    async fn found(&self, query: &Query) -> Vec<serde_json::Value> {
        let (lines, damaged) = self.lines(query).await;
        assert!(damaged.is_empty(), "{damaged:?}");
        let json = |line: &String| serde_json::from_str(line).expect("JSON");
        lines.iter().map(json).collect()
    }

    /// How many objects and records are in the archive, which has to be whole.
    async fn verified(&self) -> (u64, u64) {
        let archive = self.archive();
        let mut tell = |one: Found<'_>| panic!("{one:?}");
        verify(&archive, &mut tell).await.expect("verifies")
    }
}

fn ends(done: bool, key: &str, now: Timestamp) -> Vec<Event> {
    use crate::domain::{Lease, Prepared};
    let lease = Lease {
        owner: "w".into(),
        until: now,
    };
    let mut events = vec![Event::Claimed { lease }];
    match done {
        true => events.extend([
            Event::Prepared {
                sent: Prepared {
                    tx_id: LedgerTxId(format!("on-ledger-{key}")),
                    envelope: String::new(),
                    response: None,
                    touched: None,
                },
                check_at: now,
            },
            Event::Committed {
                receipt: Receipt {
                    tx_id: LedgerTxId(format!("on-ledger-{key}")),
                    block: 7,
                    code: None,
                    result: None,
                },
            },
        ]),
        false => events.push(Event::Rejected {
            cause: Cause::new("NO", "no"),
        }),
    }
    events
}

fn ids(found: &[serde_json::Value]) -> Vec<String> {
    found
        .iter()
        .map(|one| one["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn what_is_due_is_gathered_archived_removed_and_found_again() {
    let scene = Scene::new();
    let mut archivist = scene.archivist(false);
    let mut all = Vec::new();
    for number in 0..450 {
        all.push(scene.settled(&format!("key-{number}"), number % 3 > 0).await);
    }
    scene.pass(24);
    scene.clock.advance(Duration::from_secs(1_800));
    let young = scene.settled("young", true).await;
    let pending = transaction("main", Some("pending"));
    scene.store.insert(&pending).await.expect("inserts");
    archivist.round().await.expect("works");
    assert_eq!(scene.left().await.len(), 452, "they wait for others");
    scene.pass(1);
    archivist.round().await.expect("works");
    assert_eq!(scene.left().await, BTreeSet::from([young.id, pending.id]));
    assert_eq!(scene.verified().await, (2, 450));

    let everything = scene.found(&Query::default()).await;
    let found: BTreeSet<_> = ids(&everything).into_iter().collect();
    assert_eq!(found, all.iter().map(|tx| tx.id.to_string()).collect());
    let one = &all[100];
    let only = |query: Query| {
        let scene = &scene;
        async move { ids(&scene.found(&query).await) }
    };
    let id = vec![one.id.to_string()];
    assert_eq!(
        only(Query {
            id: Some(one.id),
            ..Query::default()
        })
        .await,
        id
    );
    assert_eq!(
        only(Query {
            idempotency_key: Some("key-100".to_owned()),
            ..Query::default()
        })
        .await,
        id
    );
    assert_eq!(
        only(Query {
            tx_id: Some("on-ledger-key-100".to_owned()),
            ..Query::default()
        })
        .await,
        id
    );
    let failed = only(Query {
        status: Some(Status::Failed),
        metadata: [("order".to_owned(), "4711".to_owned())].into(),
        ..Query::default()
    });
    assert_eq!(failed.await.len(), 150);
    for nothing in [
        Query {
            id: Some(young.id),
            ..Query::default()
        },
        Query {
            ledger: crate::domain::LedgerName::new("other"),
            ..Query::default()
        },
        Query {
            tenant: crate::domain::TenantName::new("other"),
            ..Query::default()
        },
        Query {
            created_before: Some(all[0].created_at.minus(Duration::from_secs(1))),
            ..Query::default()
        },
        Query {
            created_from: Some(scene.clock.now().plus(Duration::from_secs(1))),
            ..Query::default()
        },
        Query {
            metadata: [("order".to_owned(), "4712".to_owned())].into(),
            ..Query::default()
        },
    ] {
        assert!(only(nothing.clone()).await.is_empty(), "{nothing:?}");
    }
}

#[tokio::test]
async fn nothing_is_removed_that_did_not_arrive_as_it_was_sent() {
    let scene = Scene::new();
    let mut archivist = scene.archivist(false);
    let tx = scene.settled("one", true).await;
    scene.pass(48);
    for mood in [REFUSES, SPOILS] {
        scene.place.mood.store(mood, Ordering::Relaxed);
        let refused = archivist.round().await;
        assert!(refused.is_err(), "{mood}");
        assert_eq!(scene.left().await, BTreeSet::from([tx.id]), "{mood}");
        archivist = scene.archivist(false);
    }
    scene.place.mood.store(WORKS, Ordering::Relaxed);
    archivist.round().await.expect("works");
    assert!(scene.left().await.is_empty());
    // What had arrived spoilt was overwritten: it is the same portion, with the same name.
    assert_eq!(scene.verified().await, (1, 1));
}

#[tokio::test]
async fn a_record_that_is_in_two_objects_is_told_once() {
    let scene = Scene::new();
    let mut all = Vec::new();
    for number in 0..15 {
        all.push(scene.settled(&format!("key-{number}"), true).await);
    }
    let archive = scene.archive();
    for part in [&all[..10], &all[..10], &all[5..15], &all[12..13]] {
        let packed = pack(part.iter().collect(), crate::http::show_archived).expect("packs");
        archive.put(&packed.expect("some")).await.expect("writes");
    }
    assert_eq!(scene.verified().await, (3, 21));
    let found = scene.found(&Query::default()).await;
    let expected: Vec<_> = all.iter().map(|tx| tx.id.to_string()).collect();
    assert_eq!(ids(&found), expected, "each once, oldest first");
}

#[tokio::test]
async fn one_process_at_a_time_archives_what_several_share() {
    let scene = Scene::new();
    let (mut one, mut other) = (scene.archivist(true), scene.archivist(true));
    scene.settled("first", true).await;
    scene.pass(48);
    one.round().await.expect("works");
    assert!(scene.left().await.is_empty());
    scene.settled("second", true).await;
    scene.pass(48);
    // It took its turn for the first one two days ago.
    other.round().await.expect("works");
    assert!(scene.left().await.is_empty());
    scene.settled("third", true).await;
    let retention = Duration::from_secs(25 * 3_600);
    let third = scene.left().await;
    let ahead = scene.clock.now().plus(retention);
    let turn = super::turn::Turn::new(scene.store.clone());
    assert!(turn.take(ahead).await.expect("takes"));
    scene.clock.advance(retention + Duration::from_secs(10));
    other.round().await.expect("works");
    assert_eq!(scene.left().await, third, "it is another one's turn");
    scene.clock.advance(Duration::from_secs(11));
    other.round().await.expect("works");
    assert!(scene.left().await.is_empty());
    assert_eq!(scene.verified().await, (3, 3));
}

#[tokio::test]
async fn a_line_holds_a_record_as_it_was_written_and_nothing_private() {
    let mut tx = transaction("main", Some("key"));
    let request = Arc::make_mut(&mut tx.request);
    request.args = vec![serde_json::from_str::<Argument>("{\"amount\": 0.10}").expect("an argument")];
    request
        .transient
        .insert("price".to_owned(), "aHVudGVyMg==".to_owned());
    let now = tx.created_at;
    let private = tx.request.clone();
    for event in ends(true, "key", now) {
        tx = tx.apply(event, now).expect("legal");
    }
    // Forgotten by now; it must not be shown even if it were not.
    tx.request = private;
    let State::Done { receipt } = &mut tx.state else {
        panic!("{tx:?}");
    };
    let answer = "{\"balance\":\n 0.10,\r\n\"note\": \"two\\nlines\"}".to_owned();
    receipt.result = Some(RawValue::from_string(answer).expect("JSON"));
    let scene = Scene::new();
    let packed = pack(vec![&tx], crate::http::show_archived)
        .expect("packs")
        .expect("one");
    scene.archive().put(&packed).await.expect("writes");
    let (lines, _) = scene.lines(&Query::default()).await;
    let [line] = &*lines else {
        panic!("{lines:?}");
    };
    assert!(!line.contains("aHVudGVyMg"), "{line}");
    assert!(
        line.contains("{\"balance\":  0.10,  \"note\": \"two\\nlines\"}"),
        "{line}"
    );
    let mut json: serde_json::Value = serde_json::from_str(line).expect("JSON");
    json["id"] = "ID".into();
    for moment in ["created_at", "updated_at", "finished_at"] {
        json[moment] = "MOMENT".into();
    }
    for moment in ["started_at", "sent_at", "settled_at"] {
        json["history"][0][moment] = "MOMENT".into();
    }
    insta::assert_json_snapshot!(json);
}

#[tokio::test]
async fn an_object_that_was_changed_is_told_and_the_others_are_searched() {
    let scene = Scene::new();
    let archive = scene.archive();
    for number in 0..3 {
        let tx = scene.settled(&format!("key-{number}"), true).await;
        let packed = pack(vec![&tx], crate::http::show_archived).expect("packs");
        let mood = if number == 1 { SPOILS } else { WORKS };
        scene.place.mood.store(mood, Ordering::Relaxed);
        archive.put(&packed.expect("one")).await.expect("writes");
    }
    let (records, damaged) = scene.lines(&Query::default()).await;
    assert_eq!(records.len(), 2);
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].contains("SHA-256"), "{damaged:?}");
}
