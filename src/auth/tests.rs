//! Keys over time and over several processes, on a real store.

use std::num::NonZeroU32;
use std::time::Duration;

use super::*;
use crate::clock::ManualClock;
use crate::gateway::{Scope, Scopes};
use crate::kv::EngineKind;
use crate::store::documents::DocumentStore;
use crate::store::embedded::EmbeddedStore;
use crate::telemetry::metrics::Metrics;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A store that several processes share, and their clock.
struct Site {
    store: Arc<EmbeddedStore>,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let metrics = Metrics::new().expect("metrics");
        let path = folder.path().join("store.redb");
        let store = EmbeddedStore::open(EngineKind::Redb, &path, 1 << 20, metrics.store()).expect("opens");
        Self {
            store: Arc::new(store),
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000))),
            _folder: folder,
        }
    }

    async fn process(&self) -> Authenticator {
        let documents: Arc<dyn DocumentStore> = self.store.clone();
        let keys = Keys::open(documents, self.clock.clone()).await.expect("reads");
        let settings = AuthSettings {
            max_failed_tries_per_minute: NonZeroU32::new(1_000).expect("not zero"),
            ..AuthSettings::default()
        };
        let opened = Authenticator::open(&settings, Arc::new(keys), self.clock.clone());
        opened.await.expect("opens")
    }
}

async fn make(process: &Authenticator, lasts: Option<Duration>) -> (ApiKey, String) {
    let new = NewKey {
        name: "erp".to_owned(),
        tenant: None,
        scopes: [Scope::Read].into_iter().collect(),
        lasts,
    };
    process
        .keys()
        .create(&Caller::anonymous(), new)
        .await
        .expect("is made")
}

async fn caller(process: &Authenticator, key: &str) -> Result<Caller, Denied> {
    process
        .caller(Some(key), Some(IpAddr::from([127, 0, 0, 1])))
        .await
}

#[tokio::test]
async fn a_key_ends_when_it_was_said_to() {
    let site = Site::new();
    let process = site.process().await;
    let (key, token) = make(&process, Some(DAY)).await;
    site.clock.advance(DAY - Duration::from_millis(1));
    let who = caller(&process, &token).await.expect("is valid");
    assert_eq!((who.subject, who.tenant), (format!("key:{}", key.id), None));
    assert_eq!(who.scopes, [Scope::Read].into_iter().collect::<Scopes>());
    site.clock.advance(Duration::from_millis(1));
    let denied = caller(&process, &token).await.expect_err("is over");
    assert!(
        matches!(&denied, Denied::ExpiredKey { id, .. } if *id == key.id),
        "{denied}"
    );
    assert!(
        denied.to_string().contains("2027-01-16T08:00:00.000Z"),
        "{denied}"
    );
}

#[tokio::test]
async fn processes_heed_each_others_keys() {
    let site = Site::new();
    let (here, there) = (site.process().await, site.process().await);
    assert!(here.is_open() && there.is_open());
    let (key, token) = make(&here, None).await;
    caller(&there, &token).await.expect("a new key is looked up");
    assert!(!there.is_open(), "nor is it open any more");
    here.keys()
        .revoke(&Caller::anonymous(), &key.id)
        .await
        .expect("is revoked");
    assert!(
        matches!(caller(&here, &token).await, Err(Denied::RevokedKey { .. })),
        "at once where it was made"
    );

    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let there = Arc::new(there);
    there.look_after(&tasks, &stop);
    let told = async {
        while caller(&there, &token).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), told)
        .await
        .expect("in two seconds everywhere");
    stop.cancel();
}

#[tokio::test]
async fn a_secret_is_in_no_document() {
    let site = Site::new();
    let process = site.process().await;
    let (_, token) = make(&process, None).await;
    for kind in ["key", "audit"] {
        let documents = site
            .store
            .documents(kind, "".."", false, 100)
            .await
            .expect("reads");
        assert_eq!(documents.len(), 1, "{kind}");
        for document in documents {
            assert!(
                !document.body.get().contains(&token[12..]),
                "{kind}: {}",
                document.body
            );
        }
    }
    let Err(denied) = caller(&process, &format!("{token}x")).await else {
        panic!("is no key")
    };
    assert!(!denied.to_string().contains(&token[12..]));
}
