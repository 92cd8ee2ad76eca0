//! Every metric there is, in one file.
//!
//! Handles are made once and passed to those who count, so counting takes no look-up, and two gateways in
//! one process (tests) do not share numbers. Labels come from bounded sets: ledgers, routes, codes.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use metrics::{
    Counter, Gauge, Histogram, Recorder, SharedString, counter, gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_opentelemetry::{OpenTelemetryMetrics, OpenTelemetryRecorder};
use metrics_util::layers::FanoutBuilder;
use opentelemetry::metrics::Meter;

use super::help;
use super::history::LaneHistory;
use crate::domain::{FailureCode, LedgerName, Timestamp};

const SECONDS: [f64; 16] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0,
];
const SIZES: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];

/// Where handles come from: the registry behind `/metrics`, and what is pushed.
type SharedRecorder = Arc<dyn Recorder + Send + Sync>;

/// The registry of one gateway.
#[derive(Clone)]
pub struct Metrics {
    prometheus: PrometheusHandle,
    recorder: SharedRecorder,
    store: StoreMetrics,
    event_streams: Gauge,
    requests: Arc<RwLock<RequestHandles>>,
}

impl Metrics {
    /// An empty registry.
    ///
    /// # Errors
    /// If the bucket bounds above are not accepted.
    pub fn new() -> Result<Self, BuildError> {
        Self::pushed(None)
    }

    /// An empty registry, of which `push`, if there is one, gets all that is counted.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pushed(push: Option<Meter>) -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
            .build_recorder();
        let prometheus = recorder.handle();
        let recorder: SharedRecorder = match push {
            None => Arc::new(recorder),
            Some(meter) => {
                let push = OpenTelemetryRecorder::new(OpenTelemetryMetrics::new(meter));
                push.set_histogram_bounds(help::histograms("_seconds"), &SECONDS);
                push.set_histogram_bounds(help::histograms("_size"), &SIZES);
                let both = FanoutBuilder::default().add_recorder(recorder);
                // It may not be moved to another thread, but shared; a gateway that pushes lasts as long as its process.
                Arc::new(&*Box::leak(Box::new(both.add_recorder(push).build())))
            }
        };
        help::give(&*recorder);
        let store = with_local_recorder(&*recorder, || StoreMetrics {
            size: histogram!("sluicegate_store_commit_size"),
            seconds: histogram!("sluicegate_store_commit_seconds"),
            failures: counter!("sluicegate_store_commit_failures_total"),
        });
        let event_streams = with_local_recorder(&*recorder, || {
            gauge!("sluicegate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            gauge!("sluicegate_event_streams")
        });
        Ok(Self {
            prometheus,
            recorder,
            store,
            event_streams,
            requests: Arc::default(),
        })
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        self.prometheus.render()
    }

    /// Folds samples into their buckets. To be called about once a second: samples are kept one by one
    /// until then.
    pub fn fold_samples(&self) {
        self.prometheus.run_upkeep();
    }

    /// The store's metrics.
    pub fn store(&self) -> StoreMetrics {
        self.store.clone()
    }

    /// Notes how many event streams are open.
    pub fn event_streams(&self, open: usize) {
        self.event_streams.set(open as f64);
    }

    /// Notes when the certificate ends that the setting `setting` names, such as `http.tls_cert`.
    pub fn certificate(&self, setting: impl Into<SharedString>, ends: Timestamp) {
        with_local_recorder(&*self.recorder, || {
            let name = "sluicegate_certificate_end_timestamp_seconds";
            let seconds = Duration::from_millis(ends.as_millis()).as_secs_f64();
            gauge!(name, "setting" => setting.into()).set(seconds);
        });
    }

    /// The metrics of one ledger's lane. Whatever may be counted is there from now on, at zero: what appears with its first
    /// value seems to have had it for ever, and is not seen to grow.
    pub fn lane(&self, ledger: &LedgerName) -> LaneMetrics {
        let ledger = ledger.to_string();
        let count = |name: &'static str| counter!(name, "ledger" => ledger.clone());
        let gauge = |name: &'static str| gauge!(name, "ledger" => ledger.clone());
        let lane = with_local_recorder(&*self.recorder, || LaneMetrics {
            accepted: count("sluicegate_accepted_total"),
            repeated: count("sluicegate_idempotent_repeats_total"),
            submissions: count("sluicegate_submissions_total"),
            resends: count("sluicegate_resends_total"),
            conflicts: count("sluicegate_conflicts_total"),
            parked: count("sluicegate_parked_total"),
            rejected_deliveries: count("sluicegate_rejected_deliveries_total"),
            backlog: gauge("sluicegate_backlog"),
            backlog_age: gauge("sluicegate_backlog_age_seconds"),
            in_flight: gauge("sluicegate_in_flight"),
            rate_limit: gauge("sluicegate_rate_limit_per_second"),
            paused: gauge("sluicegate_paused"),
            commit_latency: histogram!("sluicegate_commit_latency_seconds", "ledger" => ledger.clone()),
            end_to_end: histogram!("sluicegate_end_to_end_seconds", "ledger" => ledger.clone()),
            recorder: self.recorder.clone(),
            ledger: ledger.clone(),
            history: Arc::default(),
            oldest: Arc::default(),
        });
        for outcome in FailureCode::ALL
            .map(FailureCode::as_str)
            .into_iter()
            .chain(["done"])
        {
            lane.counter("sluicegate_settled_total", "outcome", outcome)
                .increment(0);
        }
        for reason in ["conflict", "outage", "lease_lost"] {
            lane.counter("sluicegate_retries_total", "reason", reason)
                .increment(0);
        }
        lane
    }

    /// The metrics of webhooks.
    pub fn webhooks(&self) -> WebhookMetrics {
        let attempts =
            |outcome: &'static str| counter!("sluicegate_webhook_attempts_total", "outcome" => outcome);
        with_local_recorder(&*self.recorder, || WebhookMetrics {
            queued: counter!("sluicegate_webhook_deliveries_total"),
            received: attempts("received"),
            failed: attempts("failed"),
            given_up: counter!("sluicegate_webhook_given_up_total"),
            overdue: gauge!("sluicegate_webhook_overdue_seconds"),
        })
    }

    /// The metrics of the archive.
    pub fn archive(&self) -> ArchiveMetrics {
        with_local_recorder(&*self.recorder, || ArchiveMetrics {
            records: counter!("sluicegate_archived_records_total"),
            objects: counter!("sluicegate_archive_objects_total"),
            failures: counter!("sluicegate_archive_failures_total"),
            available: gauge!("sluicegate_archive_available"),
        })
    }

    /// The metrics of one ledger's queue.
    pub fn queue(&self, ledger: &LedgerName) -> QueueMetrics {
        let ledger = ledger.to_string();
        let count = |name: &'static str| counter!(name, "ledger" => ledger.clone());
        let gauge = |name: &'static str| gauge!(name, "ledger" => ledger.clone());
        with_local_recorder(&*self.recorder, || QueueMetrics {
            announced: count("sluicegate_queue_announced_total"),
            unconfirmed: count("sluicegate_queue_unconfirmed_total"),
            announced_again: count("sluicegate_queue_announced_again_total"),
            redelivered: count("sluicegate_queue_redelivered_total"),
            duplicates: count("sluicegate_queue_duplicates_total"),
            poison: count("sluicegate_queue_poison_total"),
            depth: gauge("sluicegate_queue_depth"),
            consumers: gauge("sluicegate_queue_consumers"),
            outbox_age: gauge("sluicegate_queue_outbox_age_seconds"),
            connected: gauge("sluicegate_queue_available"),
        })
    }

    /// Counts an answered HTTP request. `route` is the pattern of the route, not the path.
    pub fn http_request(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let handles = self.requests.read().unwrap_or_else(PoisonError::into_inner);
        let known = handles
            .get(&(method, status))
            .and_then(|routes| routes.get(route))
            .cloned();
        drop(handles);
        let (count, seconds) = known.unwrap_or_else(|| self.request_handles(method, route, status));
        count.increment(1);
        seconds.record(took.as_secs_f64());
    }

    fn request_handles(&self, method: &'static str, route: &str, status: u16) -> (Counter, Histogram) {
        let made = with_local_recorder(&*self.recorder, || {
            let (route, status) = (route.to_owned(), status.to_string());
            (
                counter!("sluicegate_http_requests_total",
                    "method" => method, "route" => route.clone(), "status" => status),
                histogram!("sluicegate_http_request_seconds", "method" => method, "route" => route),
            )
        });
        let mut handles = self.requests.write().unwrap_or_else(PoisonError::into_inner);
        handles
            .entry((method, status))
            .or_default()
            .insert(route.to_owned(), made.clone());
        made
    }
}

/// Handles by method and status, then route.
type RequestHandles = HashMap<(&'static str, u16), HashMap<String, (Counter, Histogram)>>;

/// Group commits of the store.
#[derive(Clone)]
pub struct StoreMetrics {
    size: Histogram,
    seconds: Histogram,
    failures: Counter,
}

impl StoreMetrics {
    /// Runs a commit of `mutations` changes, taking its time and noting whether it failed.
    pub fn time_commit<T, E>(&self, mutations: usize, commit: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let start = Instant::now();
        let result = commit();
        self.note_commit(mutations, start.elapsed(), result.is_ok());
        result
    }

    /// Counts a commit of `mutations` changes.
    pub fn note_commit(&self, mutations: usize, took: Duration, succeeded: bool) {
        if succeeded {
            self.size.record(mutations as f64);
            self.seconds.record(took.as_secs_f64());
        } else {
            self.failures.increment(1);
        }
    }
}

/// What happens between the store and the worker of one ledger, where a broker is between them.
#[derive(Clone)]
pub struct QueueMetrics {
    /// Announcements that the broker confirmed.
    pub announced: Counter,
    /// Announcements that it did not, in time; they are repeated.
    pub unconfirmed: Counter,
    /// Transactions announced again because their message was lost.
    pub announced_again: Counter,
    /// Messages that the broker delivered once more.
    pub redelivered: Counter,
    /// Messages for a transaction that was in hand already.
    pub duplicates: Counter,
    /// Messages that hold no transaction's id.
    pub poison: Counter,
    /// Messages that wait in the broker.
    pub depth: Gauge,
    /// Workers that consume from it, those that stand by included.
    pub consumers: Gauge,
    /// How long the oldest transaction has waited to be announced, in seconds.
    pub outbox_age: Gauge,
    /// 1 while announcements are confirmed, else 0.
    pub connected: Gauge,
}

/// What happens on the way to those who want to be told.
#[derive(Clone)]
pub struct WebhookMetrics {
    /// Deliveries made.
    pub queued: Counter,
    /// Attempts that were answered with 2xx.
    pub received: Counter,
    /// Attempts that were not.
    pub failed: Counter,
    /// Deliveries given up.
    pub given_up: Counter,
    /// How long the delivery that has been due for longest has been so, in seconds.
    pub overdue: Gauge,
}

/// What retention moves to the archive.
#[derive(Clone)]
pub struct ArchiveMetrics {
    /// Records that are in the archive and no longer in the store.
    pub records: Counter,
    /// Objects written and read back.
    pub objects: Counter,
    /// Rounds that failed.
    pub failures: Counter,
    /// 1 while rounds succeed, else 0.
    pub available: Gauge,
}

/// What happens on the way to one ledger.
#[derive(Clone)]
pub struct LaneMetrics {
    accepted: Counter,
    /// Repeats of an accepted request, recognised by their idempotency key.
    pub repeated: Counter,
    submissions: Counter,
    /// Submissions sent again, byte for byte.
    pub resends: Counter,
    conflicts: Counter,
    /// Transactions left to a person.
    pub parked: Counter,
    /// Deliveries that led to no readable record.
    pub rejected_deliveries: Counter,
    /// Transactions not settled.
    pub backlog: Gauge,
    /// How long ago the oldest of them was accepted, in seconds; 0 if there is none.
    pub backlog_age: Gauge,
    /// Submissions whose outcome is awaited.
    pub in_flight: Gauge,
    /// Submissions per second that are allowed now.
    pub rate_limit: Gauge,
    /// 1 while an operator has paused it, else 0.
    pub paused: Gauge,
    /// From sending to the ledger's verdict.
    pub commit_latency: Histogram,
    /// From acceptance to done or failed.
    pub end_to_end: Histogram,
    recorder: SharedRecorder,
    ledger: String,
    /// What the last minutes were like.
    pub history: Arc<LaneHistory>,
    /// When the oldest of what is not settled was accepted, as far as is known.
    pub oldest: Arc<Moment>,
}

/// A moment that may not be known. In memory only.
#[derive(Default)]
pub struct Moment(Mutex<Option<Timestamp>>);

impl Moment {
    /// What was set last.
    pub fn get(&self) -> Option<Timestamp> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets it, or says that there is none.
    pub fn set(&self, moment: Option<Timestamp>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }
}

impl LaneMetrics {
    /// Counts a transaction that was accepted.
    pub fn accepted(&self) {
        self.accepted.increment(1);
        self.history.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a submission that is sent for the first time.
    pub fn submitted(&self) {
        self.submissions.increment(1);
        self.history.submissions.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a submission that the ledger called invalid because of a conflict.
    pub fn conflicted(&self) {
        self.conflicts.increment(1);
        self.history.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a transaction that was settled so long after its acceptance: `outcome` is `done` or a failure code.
    pub fn settled(&self, outcome: &'static str, end_to_end: Duration) {
        self.counter("sluicegate_settled_total", "outcome", outcome)
            .increment(1);
        let kind = if outcome == "done" {
            &self.history.done
        } else {
            &self.history.failed
        };
        kind.fetch_add(1, Ordering::Relaxed);
        self.end_to_end.record(end_to_end.as_secs_f64());
    }

    /// Counts a change of the rate that follows what the ledger bears.
    pub fn adapted(&self, reason: &'static str) {
        self.counter("sluicegate_rate_adaptations_total", "reason", reason)
            .increment(1);
    }

    /// Sets the rate that follows what the ledger bears.
    pub fn adapted_rate(&self, rate_per_second: f64) {
        with_local_recorder(&*self.recorder, || {
            gauge!("sluicegate_adapted_rate_per_second", "ledger" => self.ledger.clone())
                .set(rate_per_second);
        });
    }

    /// Counts another try: `reason` is `conflict`, `outage` or `lease_lost`.
    pub fn retried(&self, reason: &'static str) {
        self.counter("sluicegate_retries_total", "reason", reason)
            .increment(1);
    }

    /// Notes whether the ledger answers. Who does not ask it says nothing.
    pub fn available(&self, answers: bool) {
        let gauge = with_local_recorder(
            &*self.recorder,
            || gauge!("sluicegate_ledger_available", "ledger" => self.ledger.clone()),
        );
        gauge.set(if answers { 1.0 } else { 0.0 });
    }

    fn counter(&self, name: &'static str, label: &'static str, value: &'static str) -> Counter {
        with_local_recorder(
            &*self.recorder,
            || counter!(name, "ledger" => self.ledger.clone(), label => value),
        )
    }
}
