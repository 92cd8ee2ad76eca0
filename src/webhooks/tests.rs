//! What crashes, other processes and other tenants must not change: with the real store, without a network.

use std::collections::BTreeSet;

use super::delivery::Verdict;
use super::dispatch::Dispatcher;
use super::*;
use crate::clock::ManualClock;
use crate::domain::{Event, Timestamp, TransactionId};
use crate::kv::EngineKind;
use crate::store::conformance::transaction;
use crate::store::embedded::EmbeddedStore;
use crate::store::{self, Change};
use crate::telemetry::Tracer;
use crate::telemetry::metrics::Metrics;

/// One store, and as many processes on it as are asked for.
struct Site {
    store: Arc<EmbeddedStore>,
    clock: Arc<ManualClock>,
    metrics: Metrics,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let metrics = Metrics::new().expect("metrics");
        let path = folder.path().join("store");
        let store = EmbeddedStore::open(EngineKind::Redb, &path, 1 << 20, metrics.store()).expect("opens");
        Self {
            store: Arc::new(store),
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(1_767_225_600_000))),
            metrics,
            _folder: folder,
        }
    }

    async fn process(&self) -> Arc<Webhooks> {
        let parts = Parts {
            store: self.store.clone(),
            documents: self.store.clone(),
            clock: self.clock.clone(),
            settings: WebhookSettings::default(),
            keep: Some(Duration::from_secs(3_600)),
            show: |_| RawValue::from_string("{}".to_owned()),
            metrics: self.metrics.webhooks(),
            tracer: Tracer::default(),
            tasks: TaskTracker::new(),
        };
        Webhooks::open(parts).await.expect("opens")
    }

    /// A settled transaction of a tenant, which is told to a `callback_url`.
    async fn settled(&self, hooks: &Webhooks, tenant: &TenantName) -> TransactionId {
        hooks.expect_callback(tenant).await.expect("notes");
        let mut tx = transaction("main", None);
        tx.tenant = tenant.clone();
        Arc::make_mut(&mut tx.request).callback_url = Some("https://8.8.8.8/hook".to_owned());
        self.store.insert(&tx).await.expect("inserts");
        let by = "test".to_owned();
        let settled = tx
            .apply(Event::Cancelled { by }, self.clock.now())
            .expect("applies");
        let change = Change {
            old: tx.clone(),
            new: settled,
        };
        let made = store::swap(&*self.store, vec![change]).await.expect("stores");
        assert_eq!(made.len(), 1);
        tx.id
    }
}

fn acme() -> TenantName {
    TenantName::new("acme").expect("a name")
}

fn url(url: &str) -> EndpointChange {
    EndpointChange {
        url: Some(url.to_owned()),
        ..EndpointChange::default()
    }
}

async fn all(hooks: &Webhooks) -> Vec<Delivery> {
    let filter = DeliveryFilter::default();
    hooks
        .deliveries(None, &filter, None, 10_000)
        .await
        .expect("lists")
        .items
}

/// However many follow the changes, and whoever of them dies: each event is queued once.
#[tokio::test(flavor = "multi_thread")]
async fn several_processes_queue_every_event_once() {
    let site = Site::new();
    let (one, other) = (site.process().await, site.process().await);
    one.create(Some(&acme()), url("https://8.8.8.8/"))
        .await
        .expect("makes");
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    for hooks in [&one, &other, &one] {
        tasks.spawn(Dispatcher::new(hooks.clone()).run(stop.clone()));
    }
    let mut wanted = BTreeSet::new();
    for _ in 0..100 {
        let id = site.settled(&one, &acme()).await;
        wanted.extend([(id, true), (id, false)]);
    }
    let found = async || {
        all(&one)
            .await
            .into_iter()
            .map(|one| (one.transaction, one.endpoint == CALLBACK))
    };
    while found().await.len() < wanted.len() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    assert_eq!(found().await.collect::<BTreeSet<_>>(), wanted);
    let (due, _) = one.books.due(None, 1_000).await.expect("reads");
    assert_eq!(due.len(), wanted.len(), "each is due once");
    // Somebody who starts from the same place again finds nothing to do.
    let mut again = Dispatcher::new(other.clone());
    while again.round().await.expect("works") {}
    assert_eq!(all(&one).await.len(), wanted.len());
}

/// What nobody wants is not read, and who wants something is found all the same.
#[tokio::test]
async fn the_first_callback_of_all_is_told() {
    let site = Site::new();
    let hooks = site.process().await;
    let mut dispatcher = Dispatcher::new(hooks.clone());
    for _ in 0..10 {
        assert!(
            !dispatcher.round().await.expect("works"),
            "nobody wants to be told"
        );
    }
    let first = site.settled(&hooks, &acme()).await;
    while dispatcher.round().await.expect("works") {}
    let found: Vec<_> = all(&hooks).await.iter().map(|one| one.transaction).collect();
    assert_eq!(found, [first]);
}

/// A gateway that was down for so long that the log of changes was cut looks at every record.
#[tokio::test]
async fn what_settled_is_told_even_if_its_change_was_forgotten() {
    let site = Site::new();
    let hooks = site.process().await;
    let mut wanted = BTreeSet::new();
    for _ in 0..300 {
        wanted.insert(site.settled(&hooks, &acme()).await);
    }
    site.clock.advance(Duration::from_secs(60));
    // The records' own clock may be ahead of this one: everything is forgotten.
    let ever = Timestamp::from_millis(u64::MAX);
    while site.store.forget_changes(ever, 100).await.expect("forgets") > 0 {}
    let mut dispatcher = Dispatcher::new(hooks.clone());
    while dispatcher.round().await.expect("works") {}
    let found: BTreeSet<_> = all(&hooks).await.iter().map(|one| one.transaction).collect();
    assert_eq!(found, wanted);
    let later = site.settled(&hooks, &acme()).await;
    while dispatcher.round().await.expect("works") {}
    assert!(all(&hooks).await.iter().any(|one| one.transaction == later));
}

#[tokio::test]
async fn i9_a_tenant_has_its_own_endpoints_secrets_and_deliveries() {
    let site = Site::new();
    let hooks = site.process().await;
    let (acme, other) = (acme(), TenantName::new("acme-2").expect("a name"));
    let (endpoint, _) = hooks
        .create(Some(&acme), url("https://8.8.8.8/"))
        .await
        .expect("makes");
    let transaction = site.settled(&hooks, &acme).await;
    let unseen = site.settled(&hooks, &other).await;
    let mut dispatcher = Dispatcher::new(hooks.clone());
    while dispatcher.round().await.expect("works") {}
    let endpoints = hooks.deliveries_of(None, transaction).await.expect("reads");
    assert_eq!(endpoints.len(), 2, "its callback and its endpoint");
    assert_eq!(
        hooks.deliveries_of(None, unseen).await.expect("reads").len(),
        1,
        "its callback alone"
    );
    let delivery = endpoints[0].id().to_string();
    let missing = |result: Result<(), WebhookRefusal>| matches!(result, Err(WebhookRefusal::Missing));
    for (tenant, sees) in [(Some(&acme), true), (None, true), (Some(&other), false)] {
        assert_eq!(
            hooks.endpoints(tenant).await.expect("lists").len(),
            usize::from(sees)
        );
        let filter = DeliveryFilter::default();
        let listed = hooks
            .deliveries(tenant, &filter, None, 100)
            .await
            .expect("lists")
            .items;
        assert_eq!(listed.iter().any(|one| one.tenant == acme), sees);
        assert_eq!(
            hooks
                .deliveries_of(tenant, transaction)
                .await
                .expect("reads")
                .is_empty(),
            !sees
        );
        let id = &*endpoint.id;
        assert_eq!(missing(hooks.endpoint(tenant, id).await.map(drop)), !sees);
        assert_eq!(
            missing(
                hooks
                    .change(tenant, id, EndpointChange::default())
                    .await
                    .map(drop)
            ),
            !sees
        );
        assert_eq!(missing(hooks.rotate(tenant, id, 0).await.map(drop)), !sees);
        assert_eq!(missing(hooks.delivery(tenant, &delivery).await.map(drop)), !sees);
        assert_eq!(missing(hooks.redeliver(tenant, &delivery).await.map(drop)), !sees);
    }
    assert!(missing(hooks.remove(Some(&other), &endpoint.id).await));
    let (own, foreign) = (
        hooks.callback(&acme).await.expect("reads"),
        hooks.callback(&other).await.expect("reads"),
    );
    assert_ne!(own.value.secrets[0].secret, foreign.value.secrets[0].secret);
    hooks.remove(Some(&acme), &endpoint.id).await.expect("removes");
}

#[tokio::test]
async fn a_delivery_is_claimed_by_one_and_pruned_after_its_end() {
    let site = Site::new();
    let hooks = site.process().await;
    let transaction = site.settled(&hooks, &acme()).await;
    let mut dispatcher = Dispatcher::new(hooks.clone());
    while dispatcher.round().await.expect("works") {}
    let due = hooks.books.due(None, 10).await.expect("reads").0.remove(0);
    assert_eq!(due.lane, "acme/callback/8.8.8.8:443");
    let stored = hooks
        .books
        .delivery(&due.id)
        .await
        .expect("reads")
        .expect("is there");
    let claimed = stored
        .value
        .claimed(site.clock.now(), &hooks.patience)
        .expect("is due");
    let claim = async || {
        hooks
            .books
            .change_deliveries(vec![(stored.clone(), claimed.clone())])
            .await
    };
    let held = claim().await.expect("stores").expect("is first").remove(0);
    assert!(claim().await.expect("reads").is_none(), "the second one loses");
    let now = site.clock.now();
    let outcome = delivery::Outcome {
        attempt: Attempt {
            at: now,
            status: Some(200),
            error: None,
            duration_ms: 1,
        },
        verdict: Verdict::Received,
    };
    let after = held.value.clone().after(outcome, now, &hooks.patience, 0.5);
    hooks
        .books
        .change_delivery(held, after)
        .await
        .expect("stores")
        .expect("is its own");
    assert!(hooks.books.due(None, 10).await.expect("reads").0.is_empty());
    let left = async || hooks.deliveries_of(None, transaction).await.expect("reads").len();
    site.clock.advance(Duration::from_secs(3_599));
    dispatcher.round().await.expect("works");
    assert_eq!(left().await, 1);
    site.clock.advance(Duration::from_secs(11));
    dispatcher.round().await.expect("works");
    assert_eq!(left().await, 0);
}
