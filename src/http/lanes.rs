//! Lanes, and what can be set while the gateway runs, as clients see them.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::dto::{rfc3339, rfc3339_or_null};
use super::openapi::schemas::{AnyJson, StrategyName};
use crate::domain::{RetryPolicy, RetrySettings, Timestamp};
use crate::gateway::{Caller, LaneStatus, Overrides, RetryOverrides, Setting};
use crate::telemetry::history::{INTERVAL, Point};

/// A ledger's lane.
#[derive(Serialize, ToSchema)]
#[schema(as = Lane)]
pub(crate) struct LaneView {
    name: String,
    /// The kind of ledger.
    kind: &'static str,
    /// `running`, `unavailable` (see `outage`), or `elsewhere` if another process submits to it.
    state: &'static str,
    /// Why the ledger is unavailable.
    #[schema(required)]
    outage: Option<String>,
    /// Transactions not settled.
    backlog: u64,
    /// Of those, the ones between claim and outcome.
    in_flight: usize,
    rate_per_second: f64,
    burst: u32,
    max_in_flight: u32,
    batch_size: u32,
    batch_timeout_ms: u64,
    /// So long after it was sent the ledger is asked for an outcome that did not come.
    check_after_ms: u64,
    /// When it tries again.
    retry: RetryView,
    paused: bool,
    /// What operators have set over the configuration. It is kept in the store: it holds on every node, and after a restart.
    overrides: OverridesView,
    /// All that can be set while it runs, by name, such as `retry.min_ms`.
    settings: BTreeMap<&'static str, SettingView>,
    /// The rate that follows what the ledger bears, if that is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    adaptive: Option<AdaptiveView>,
    /// Counts of this process since it began.
    accepted: u64,
    done: u64,
    failed: u64,
    conflicts: u64,
    submissions: u64,
    conflict_share: f64,
    history: HistoryView,
}

/// The rate that follows what the ledger bears, up to `rate_per_second`.
#[derive(Serialize, ToSchema)]
#[schema(as = Adaptive)]
struct AdaptiveView {
    rate_per_second: f64,
    /// Why it is what it is: lowered for an `outage`, for `latency` or for `conflicts`, `recovering` from that, or at the `limit`.
    #[schema(value_type = String, pattern = "^(limit|outage|latency|conflicts|recovering)$")]
    reason: &'static str,
}

/// What lies over the configuration.
#[derive(Serialize, ToSchema)]
#[schema(as = Overrides)]
struct OverridesView {
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryOverridesView>,
}

/// What lies over the configured retries.
#[derive(Serialize, ToSchema)]
#[schema(as = RetryOverrides)]
struct RetryOverridesView {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<StrategyName>)]
    strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outage_min_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outage_max_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outage_max_attempts: Option<u32>,
}

impl From<Overrides> for OverridesView {
    fn from(set: Overrides) -> Self {
        let any = !set.retry.is_empty();
        let RetryOverrides {
            strategy,
            min_ms,
            max_ms,
            max_attempts,
            outage_min_ms,
            outage_max_ms,
            outage_max_attempts,
        } = set.retry;
        let retry = RetryOverridesView {
            strategy,
            min_ms,
            max_ms,
            max_attempts,
            outage_min_ms,
            outage_max_ms,
            outage_max_attempts,
        };
        Self {
            rate_per_second: set.rate_per_second,
            burst: set.burst,
            max_in_flight: set.max_in_flight,
            batch_size: set.batch_size,
            batch_timeout_ms: set.batch_timeout_ms,
            check_after_ms: set.check_after_ms,
            retry: any.then_some(retry),
        }
    }
}

/// When a transaction is tried again: after a conflict, and, in an outage, while the ledger cannot be reached.
#[derive(Serialize, ToSchema)]
#[schema(as = Retry)]
struct RetryView {
    #[schema(value_type = StrategyName)]
    strategy: &'static str,
    min_ms: u64,
    max_ms: u64,
    /// 0 never gives up.
    max_attempts: u32,
    outage_min_ms: u64,
    outage_max_ms: u64,
    /// 0 never gives up.
    outage_max_attempts: u32,
}

impl From<RetryPolicy> for RetryView {
    fn from(RetryPolicy { conflict, outage }: RetryPolicy) -> Self {
        let attempts = |retry: RetrySettings| retry.max_attempts.map_or(0, NonZeroU32::get);
        Self {
            strategy: conflict.strategy.as_str(),
            min_ms: millis(conflict.min),
            max_ms: millis(conflict.max),
            max_attempts: attempts(conflict),
            outage_min_ms: millis(outage.min),
            outage_max_ms: millis(outage.max),
            outage_max_attempts: attempts(outage),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Something that can be set while the gateway runs.
#[derive(Serialize, ToSchema)]
#[schema(as = Setting)]
pub(crate) struct SettingView {
    /// What holds.
    #[schema(value_type = AnyJson)]
    value: Value,
    /// What the configuration of this process says.
    #[schema(value_type = AnyJson)]
    configured: Value,
    /// `override` if it was set through the API, else `configuration`.
    source: &'static str,
    /// Whether the value will hold after a restart: what was set is kept in the store until it is set to `null`.
    survives_restart: bool,
    /// Who set it, if that is known, and the reader belongs to no tenant.
    #[schema(required)]
    set_by: Option<String>,
    /// And when.
    #[schema(required)]
    #[serde(serialize_with = "rfc3339_or_null")]
    set_at: Option<Timestamp>,
}

/// By name.
pub(crate) fn settings_of(settings: Vec<Setting>, caller: &Caller) -> BTreeMap<&'static str, SettingView> {
    let view = |setting: Setting| {
        // What operators are called is not for tenants.
        let mark = setting.mark.filter(|_| caller.tenant.is_none());
        let (set_by, set_at) = mark.map(|mark| (mark.by, mark.at)).unzip();
        let view = SettingView {
            value: setting.value,
            configured: setting.configured,
            source: match setting.overridden {
                true => "override",
                false => "configuration",
            },
            survives_restart: true,
            set_by,
            set_at,
        };
        (setting.name, view)
    };
    settings.into_iter().map(view).collect()
}

/// The last minutes, oldest point first.
#[derive(Serialize, ToSchema)]
#[schema(as = History)]
struct HistoryView {
    interval_seconds: u64,
    points: Vec<PointView>,
}

/// One interval, by its end.
#[derive(Serialize, ToSchema)]
#[schema(as = Point)]
struct PointView {
    #[serde(serialize_with = "rfc3339")]
    at: Timestamp,
    backlog: u64,
    accepted: u64,
    done: u64,
    failed: u64,
    conflicts: u64,
    submissions: u64,
}

impl From<Point> for PointView {
    fn from(Point { at, backlog, tally }: Point) -> Self {
        Self {
            at,
            backlog,
            accepted: tally.accepted,
            done: tally.done,
            failed: tally.failed,
            conflicts: tally.conflicts,
            submissions: tally.submissions,
        }
    }
}

impl LaneView {
    pub(crate) fn of(lane: LaneStatus, caller: &Caller) -> Self {
        Self {
            name: lane.name.to_string(),
            kind: lane.kind,
            state: match (lane.works_here, lane.paused, &lane.outage) {
                (_, true, _) => "paused",
                (false, _, _) => "elsewhere",
                (true, _, Some(_)) => "unavailable",
                (true, _, None) => "running",
            },
            outage: lane.outage.map(|cause| cause.to_string()),
            backlog: lane.backlog,
            in_flight: lane.in_flight,
            rate_per_second: lane.settings.rate_per_second,
            burst: lane.settings.burst.get(),
            max_in_flight: lane.settings.max_in_flight.get(),
            batch_size: lane.settings.batch_size.get(),
            batch_timeout_ms: millis(lane.settings.batch_timeout),
            check_after_ms: millis(lane.settings.check_after),
            retry: lane.retry.into(),
            paused: lane.paused,
            overrides: lane.overrides.into(),
            settings: settings_of(lane.steering, caller),
            adaptive: lane.adapted.map(|adapted| AdaptiveView {
                rate_per_second: adapted.rate_per_second,
                reason: adapted.reason.as_str(),
            }),
            accepted: lane.total.accepted,
            done: lane.total.done,
            failed: lane.total.failed,
            conflicts: lane.total.conflicts,
            submissions: lane.total.submissions,
            conflict_share: lane.conflict_share,
            history: HistoryView {
                interval_seconds: INTERVAL.as_secs(),
                points: lane.history.into_iter().map(PointView::from).collect(),
            },
        }
    }
}

/// All lanes.
#[derive(Serialize, ToSchema)]
#[schema(as = Lanes)]
pub(crate) struct LanesView {
    pub(crate) items: Vec<LaneView>,
}
