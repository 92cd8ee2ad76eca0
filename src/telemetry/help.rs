//! What each metric means, for those who read `/metrics`: the same list as in `docs/OPERATIONS.md`.

use metrics::{KeyName, Recorder};

/// Counters and what they count.
const COUNTERS: &[(&str, &str)] = &[
    ("sluicegate_accepted_total", "Transactions accepted."),
    (
        "sluicegate_idempotent_repeats_total",
        "Repeats recognised by their idempotency key.",
    ),
    (
        "sluicegate_submissions_total",
        "Submissions sent for the first time.",
    ),
    (
        "sluicegate_resends_total",
        "Submissions sent again, byte for byte.",
    ),
    (
        "sluicegate_conflicts_total",
        "Submissions that ended in a conflict.",
    ),
    (
        "sluicegate_retries_total",
        "Transactions put back for another try, by reason.",
    ),
    ("sluicegate_settled_total", "Transactions settled, by outcome."),
    (
        "sluicegate_rate_adaptations_total",
        "Changes of the rate that follows what the ledger bears, by reason.",
    ),
    (
        "sluicegate_parked_total",
        "Transactions whose outcome the ledger cannot tell, left to a person.",
    ),
    (
        "sluicegate_store_commit_failures_total",
        "Group commits of the store that failed.",
    ),
    (
        "sluicegate_rejected_deliveries_total",
        "Deliveries of the queue that led to no readable record.",
    ),
    (
        "sluicegate_queue_announced_total",
        "Announcements that the broker confirmed.",
    ),
    (
        "sluicegate_queue_unconfirmed_total",
        "Announcements that the broker did not confirm; they are repeated.",
    ),
    (
        "sluicegate_queue_announced_again_total",
        "Transactions announced again because their message was lost.",
    ),
    (
        "sluicegate_queue_redelivered_total",
        "Messages that the broker delivered once more.",
    ),
    (
        "sluicegate_queue_duplicates_total",
        "Messages for a transaction that was in hand already.",
    ),
    ("sluicegate_queue_poison_total", "Messages that hold no id."),
    (
        "sluicegate_webhook_deliveries_total",
        "Deliveries made for webhooks.",
    ),
    (
        "sluicegate_webhook_attempts_total",
        "Attempts to deliver webhooks, by outcome.",
    ),
    (
        "sluicegate_webhook_given_up_total",
        "Deliveries of webhooks given up.",
    ),
    (
        "sluicegate_archived_records_total",
        "Records that are in the archive and no longer in the store.",
    ),
    (
        "sluicegate_archive_objects_total",
        "Objects written to the archive and read back.",
    ),
    (
        "sluicegate_archive_failures_total",
        "Rounds of archiving that failed.",
    ),
    (
        "sluicegate_http_requests_total",
        "Requests answered, by method, route and status.",
    ),
];

/// Gauges and what they show.
const GAUGES: &[(&str, &str)] = &[
    (
        "sluicegate_build_info",
        "Always 1; the version of the process is its label.",
    ),
    ("sluicegate_backlog", "Transactions not settled."),
    (
        "sluicegate_backlog_age_seconds",
        "Time since the oldest transaction that is not settled was accepted; 0 if there is none.",
    ),
    ("sluicegate_in_flight", "Transactions between claim and outcome."),
    (
        "sluicegate_ledger_available",
        "1 while the ledger answers, else 0.",
    ),
    (
        "sluicegate_rate_limit_per_second",
        "Submissions per second that the lane may send at most.",
    ),
    (
        "sluicegate_adapted_rate_per_second",
        "Submissions per second that the ledger bears, if the rate is adaptive.",
    ),
    (
        "sluicegate_paused",
        "1 while the lane is paused by an operator, else 0.",
    ),
    ("sluicegate_queue_depth", "Messages that wait in the broker."),
    (
        "sluicegate_queue_consumers",
        "Workers that consume from the queue of the lane: the active one and those that stand by.",
    ),
    (
        "sluicegate_queue_outbox_age_seconds",
        "Time that the oldest transaction has waited to be announced.",
    ),
    (
        "sluicegate_queue_available",
        "1 while announcements are confirmed, else 0.",
    ),
    (
        "sluicegate_webhook_overdue_seconds",
        "Time that the delivery which has been due for longest has been so; 0 if none is due.",
    ),
    (
        "sluicegate_archive_available",
        "1 while rounds of archiving succeed, else 0.",
    ),
    ("sluicegate_event_streams", "Event streams that are open."),
    (
        "sluicegate_certificate_end_timestamp_seconds",
        "When the certificate that a setting names ends, as Unix time.",
    ),
];

/// Histograms and what they measure.
const HISTOGRAMS: &[(&str, &str)] = &[
    (
        "sluicegate_commit_latency_seconds",
        "Time from sending to the verdict of the ledger.",
    ),
    (
        "sluicegate_end_to_end_seconds",
        "Time from acceptance to done or failed.",
    ),
    (
        "sluicegate_store_commit_size",
        "Changes in one group commit of the store.",
    ),
    (
        "sluicegate_store_commit_seconds",
        "Time of one group commit of the store, sync included.",
    ),
    (
        "sluicegate_http_request_seconds",
        "Time to answer a request, waits included.",
    ),
];

/// Tells `recorder` all of it.
/// The histograms whose names end with `ending`.
pub(super) fn histograms(ending: &str) -> impl Iterator<Item = &'static str> {
    let names = HISTOGRAMS.iter().map(|(name, _)| *name);
    names.filter(move |name| name.ends_with(ending))
}

pub(super) fn give(recorder: &dyn Recorder) {
    for (name, help) in COUNTERS {
        recorder.describe_counter(KeyName::from_const_str(name), None, (*help).into());
    }
    for (name, help) in GAUGES {
        recorder.describe_gauge(KeyName::from_const_str(name), None, (*help).into());
    }
    for (name, help) in HISTOGRAMS {
        recorder.describe_histogram(KeyName::from_const_str(name), None, (*help).into());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_metric_has_its_words_here_and_in_the_manual() {
        let source = include_str!("metrics.rs");
        let made: BTreeSet<_> = source
            .split('"')
            .filter(|text| text.starts_with("sluicegate_"))
            .collect();
        let told = [COUNTERS, GAUGES, HISTOGRAMS].concat();
        let names: BTreeSet<_> = told.iter().map(|(name, _)| *name).collect();
        assert_eq!(made, names);
        assert_eq!(names.len(), told.len(), "a name is there twice");
        let manual = include_str!("../../docs/OPERATIONS.md");
        let kinds = [
            (COUNTERS, "counter"),
            (GAUGES, "gauge"),
            (HISTOGRAMS, "histogram"),
        ];
        for (list, kind) in kinds {
            for (name, _) in list {
                let row = format!("| `{name}` | {kind} |");
                assert!(manual.contains(&row), "docs/OPERATIONS.md lacks the row {row}");
            }
        }
    }
}
