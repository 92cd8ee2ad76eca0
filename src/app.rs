//! The only place where concrete types meet: picks store, queue and ledgers, owns the tasks and their end.
//!
//! Shutdown has an order: say so to those who share out requests and hand over the lanes (the lame duck's time), stop
//! taking requests, let requests and submissions under way finish within the drain time, stop the ledgers, close the
//! store. Nothing depends on it for safety: SIGKILL is an equally good end, only less polite.

pub mod alone;
mod backup;
mod control;
pub mod devnet;
mod keys;
mod parts;
mod reload;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::select_all;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::backup::read_backup;
use self::backup::{Backups, check_identities};
use self::control::Control;
pub use self::keys::{KeyAnswer, KeyOrder, manage_keys};
use self::parts::{Opened, new_archivist, open_ledger, open_queue, open_store};
pub use self::reload::Reloads;
use crate::archive::Archivist;
use crate::audit::Audit;
use crate::auth::{Authenticator, Keys};
use crate::clock::{Clock, SystemClock};
use crate::config::{QueueSettings, Role, Settings, ShutdownSettings};
use crate::domain::LedgerName;
use crate::failpoint;
use crate::gateway::{Common, Gateway, Parts, Tenants};
use crate::http::{self, Tls};
use crate::ledger::LedgerBackend;
use crate::notify::StatusHub;
use crate::queue::WorkQueue;
use crate::reconciler::Reconciler;
use crate::relay::Relay;
use crate::reread;
use crate::store::TransactionStore;
use crate::store::embedded::DataFolder;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::otlp::Push;
use crate::webhooks::{self, Webhooks};
use crate::worker::{Lane, LaneParts};

/// What is cut off when draining took too long is given this much to unwind.
const UNWIND: Duration = Duration::from_secs(2);

/// What operators set at another node is looked for so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A gateway that is ready to run.
pub struct App {
    settings: Settings,
    address: SocketAddr,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    gateway: Arc<Gateway>,
    metrics: Metrics,
    push: Push,
    lanes: Vec<Arc<Lane>>,
    relays: Vec<Relay>,
    reconciler: Reconciler,
    archivist: Option<Archivist>,
    control: Option<Control>,
    auth: Arc<Authenticator>,
    webhooks: Arc<Webhooks>,
    store: Arc<dyn TransactionStore>,
    queue: Arc<dyn WorkQueue>,
    hub: Arc<StatusHub>,
    tasks: TaskTracker,
    ledgers_stop: CancellationToken,
    /// Kept to the very end: whoever holds it owns the data.
    _folder: Option<DataFolder>,
}

/// Replaces the ledgers of the configuration: tests bring their own.
pub type LedgerFactory<'a> = &'a dyn Fn(&LedgerName) -> Option<Arc<dyn LedgerBackend>>;

/// Builds a gateway from settings, bound to its address, with nothing running yet.
///
/// # Errors
/// If the address is taken, the data folder cannot be used, or the store or a ledger cannot be opened.
pub async fn build(settings: Settings) -> anyhow::Result<App> {
    build_with(settings, Arc::new(SystemClock), &|_| None).await
}

/// Like [`build`], with another clock, and other ledgers where the factory has one.
///
/// # Errors
/// As [`build`].
pub async fn build_with(
    settings: Settings,
    clock: Arc<dyn Clock>,
    other_ledgers: LedgerFactory<'_>,
) -> anyhow::Result<App> {
    // First, so that a second start by mistake touches nothing.
    let listen = settings.http.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen}; stop the program that does, or set another address with --listen or http.listen")
    })?;
    let address = listener.local_addr().context("read the listening address")?;

    let tls = settings
        .http
        .tls
        .as_ref()
        .map(Tls::open)
        .transpose()?
        .map(Arc::new);
    let push = Push::start(settings.otlp.as_ref()).context("push telemetry (otlp)")?;
    let (metrics, tracer) = (
        Metrics::pushed(push.meter()).context("set up metrics")?,
        push.tracer(),
    );
    if let Some(tls) = &tls {
        show_end(&metrics, tls);
    }
    let hub = Arc::new(StatusHub::default());
    let tasks = TaskTracker::new();
    let ledgers_stop = CancellationToken::new();
    let Opened {
        store,
        documents,
        embedded,
        folder,
    } = open_store(&settings, &metrics, &hub, &tasks, &ledgers_stop).await?;
    let keys = Arc::new(Keys::open(documents.clone(), clock.clone()).await?);
    let auth = Arc::new(Authenticator::open(&settings.auth, keys.clone(), clock.clone()).await?);
    if auth.is_open() && !address.ip().is_loopback() {
        anyhow::bail!(
            "nobody needs a key here, and {address} can be reached from other machines: make a key first with `sluicegate keys create --name NAME`, or listen on 127.0.0.1 (http.listen)"
        );
    }
    for (ledger, count) in &store.backlog() {
        if *count > 0 && !settings.ledgers.contains_key(ledger) {
            tracing::error!(%ledger, count, "pending transactions are for a ledger that is not configured; they wait until it is");
        }
    }
    let queue = open_queue(&settings, &store, &clock, &metrics).await?;
    let mut lanes = BTreeMap::new();
    for (name, ledger) in &settings.ledgers {
        let backend = match other_ledgers(name) {
            Some(other) => other,
            None => open_ledger(name, ledger, folder.as_ref(), &clock, &tasks, &ledgers_stop)?,
        };
        let parts = LaneParts {
            name: name.clone(),
            ledger: backend,
            store: store.clone(),
            queue: queue.clone(),
            hub: hub.clone(),
            clock: clock.clone(),
            settings: ledger.worker,
            retry: ledger.retry,
            metrics: metrics.lane(name),
            tracer: tracer.clone(),
            tasks: tasks.clone(),
        };
        lanes.insert(name.clone(), Arc::new(Lane::new(parts)));
    }
    if let Some(embedded) = &embedded {
        check_identities(embedded, &lanes)?;
    }
    let relays = match settings.queue {
        // It is read off the store; there is nothing to announce.
        QueueSettings::Embedded => Vec::new(),
        QueueSettings::RabbitMq(_) => {
            let relay = |ledger: &LedgerName| Relay {
                ledger: ledger.clone(),
                store: store.clone(),
                queue: queue.clone(),
                clock: clock.clone(),
                metrics: metrics.queue(ledger),
                tracer: tracer.clone(),
            };
            settings.ledgers.keys().map(relay).collect()
        }
    };
    // Whoever holds a folder has the store for itself.
    let shared = folder.is_none().then(|| documents.clone());
    let archivist = new_archivist(&settings, &store, shared, &clock, &metrics);
    let reconciler = Reconciler {
        audit: Audit::new(documents.clone(), clock.clone()),
        store: store.clone(),
        hub: hub.clone(),
        clock: clock.clone(),
        retention: settings.retention,
        archives: archivist.is_some(),
        metrics: metrics.clone(),
        lanes: lanes
            .iter()
            .map(|(name, lane)| (name.clone(), lane.metrics().clone()))
            .collect(),
    };
    let control = embedded.zip(folder.as_ref()).map(|(embedded, folder)| {
        let lanes = lanes.values().cloned().collect();
        let backups = Backups::of(&embedded, lanes, clock.clone());
        Control::of(folder.path(), backups, keys)
    });
    let webhooks = Webhooks::open(webhooks::Parts {
        store: store.clone(),
        documents: documents.clone(),
        clock: clock.clone(),
        settings: settings.webhooks.clone(),
        keep: settings.retention.deliveries,
        show: http::show,
        metrics: metrics.webhooks(),
        tracer: tracer.clone(),
        tasks: tasks.clone(),
    })
    .await
    .context("read how far webhooks are worked off")?;
    let parts = Parts {
        store: store.clone(),
        documents,
        queue: queue.clone(),
        hub: hub.clone(),
        clock,
        lanes: lanes.clone(),
        works: settings.role != Role::Api,
        common: Common::of(&settings),
        metrics: metrics.clone(),
        webhooks: webhooks.clone(),
    };
    let gateway = Arc::new(Gateway::new(parts, Tenants::new(&settings.tenants)));
    // Before anything is submitted: what was paused stays paused.
    gateway.follow_course().await?;
    Ok(App {
        settings,
        address,
        listener,
        tls,
        gateway,
        metrics,
        push,
        lanes: lanes.into_values().collect(),
        relays,
        reconciler,
        archivist,
        control,
        auth,
        webhooks,
        store,
        queue,
        hub,
        tasks,
        ledgers_stop,
        _folder: folder,
    })
}

impl App {
    /// What this process does.
    pub fn role(&self) -> Role {
        self.settings.role
    }

    /// The address it listens on; the port is the real one where the configuration says 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who knows callers.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn auth(&self) -> &Arc<Authenticator> {
        &self.auth
    }

    /// The application behind the API.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Runs until `until` ends, then shuts down in order.
    ///
    /// # Errors
    /// If a part of it stopped by itself, which is a defect: better to end, and be started again, than to go on
    /// accepting what nobody works off.
    pub async fn run(self, until: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            settings,
            listener,
            tls,
            gateway,
            metrics,
            push,
            lanes,
            relays,
            reconciler,
            archivist,
            control,
            auth,
            webhooks,
            store,
            queue,
            hub,
            tasks,
            ledgers_stop,
            ..
        } = self;
        let ShutdownSettings { lame_duck, drain } = settings.shutdown;
        let steered = gateway.clone();
        let leaving = gateway.clone();
        let stop = CancellationToken::new();
        let shown = metrics.clone();
        let telemetry = (metrics, push.tracer());
        // The lanes are first to go, so that other workers have them while this process still answers.
        let stop_lanes = stop.child_token();
        let router = match settings.role {
            Role::All | Role::Api => {
                http::router(gateway, auth.clone(), telemetry, &settings.http, tasks.clone())
            }
            Role::Worker => http::probes(gateway, auth.clone(), telemetry, &settings.http, tasks.clone()),
        };
        let lanes = match settings.role {
            Role::All | Role::Worker => lanes,
            Role::Api => Vec::new(),
        };
        auth.look_after(&tasks, &stop);
        let server = http::serve(
            listener,
            tls.clone(),
            router,
            settings.http.header_timeout,
            stop.clone(),
            drain,
            tasks.clone(),
        );
        if let Some(tls) = tls {
            let look = move || {
                let looked = tls.look();
                show_end(&shown, &tls);
                looked
            };
            tasks.spawn(reread::look_after(
                "the certificate of the API",
                look,
                stop.clone(),
            ));
        }
        let mut vital: Vec<_> = lanes
            .into_iter()
            .map(|lane| tasks.spawn(lane.run(stop_lanes.clone(), drain)))
            .collect();
        vital.extend(
            relays
                .into_iter()
                .map(|relay| tasks.spawn(relay.run(stop.clone()))),
        );
        vital.push(tasks.spawn(reconciler.run(stop.clone())));
        vital.extend(archivist.map(|archivist| tasks.spawn(archivist.run(stop.clone()))));
        vital.extend(control.map(|control| tasks.spawn(control.serve(tasks.clone(), stop.clone()))));
        vital.push(tasks.spawn(follow_course(steered, stop.clone())));
        if settings.role != Role::Api {
            vital.extend(webhooks.start(&stop, drain).context("set up webhooks")?);
        }
        vital.push(tasks.spawn(server));
        let early = tokio::select! {
            () = until => None,
            (ended, _, _) = select_all(&mut vital) => Some(ended),
        };
        if early.is_none() && !lame_duck.is_zero() {
            leaving.leave();
            stop_lanes.cancel();
            tokio::time::sleep(lame_duck).await;
        }
        stop.cancel();
        failpoint::reached("stop-before-drain");
        // In order: the lanes settle what is in flight; then nobody has anything left to wait for; then the
        // server can finish its answers.
        let server = vital.pop();
        for task in vital.into_iter().filter(|task| !task.is_finished()) {
            ended(task).await;
        }
        hub.release_all();
        if let Some(server) = server.filter(|server| !server.is_finished()) {
            ended(server).await;
        }
        failpoint::reached("stop-after-drain");
        queue.close().await;
        store.close().await;
        ledgers_stop.cancel();
        tasks.close();
        if tokio::time::timeout(UNWIND, tasks.wait()).await.is_err() {
            tracing::warn!(
                left = tasks.len(),
                "some tasks did not end; what they had stored is safe"
            );
        }
        push.end().await;
        match early {
            None => Ok(()),
            Some(Ok(())) => anyhow::bail!("a part of the gateway stopped without being told to"),
            Some(Err(error)) => Err(error).context("a part of the gateway failed"),
        }
    }
}

/// Keeps the lanes on the course that operators set, whichever process they asked, until `stop`.
async fn follow_course(gateway: Arc<Gateway>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(LOOK_EVERY))
        .await
        .is_some()
    {
        if let Err(error) = gateway.follow_course().await {
            tracing::debug!(%error, "what operators set cannot be read");
        }
    }
}

/// Tells in the metrics when the certificate of the API ends.
fn show_end(metrics: &Metrics, tls: &Tls) {
    if let Some(ends) = tls.ends() {
        metrics.certificate("http.tls_cert", ends);
    }
}

async fn ended(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(%error, "a part of the gateway ended badly");
    }
}
