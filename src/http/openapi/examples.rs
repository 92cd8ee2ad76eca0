//! What the examples of the document are made of.

use serde_json::{Value, json};

const ID: &str = "01956f3e-8c1b-7e02-9b1d-0f6a2c3d4e5f";
const TX_ID: &str = "4d1c0a86ba67e01c6ea28f01a2a8e0b3c6b6ce1a2a6f8f2d1b4e7f5f3f1d9a77";

/// A submission.
pub(crate) fn submission() -> Value {
    json!({
        "ledger": "main",
        "contract": "token",
        "function": "Transfer",
        "args": ["tomoko", "max", "12.50"],
        "metadata": {"order": "4711"},
    })
}

/// A transaction that was just accepted.
pub(crate) fn pending() -> Value {
    json!({
        "id": ID,
        "status": "pending",
        "stage": "queued",
        "tx_id": null,
        "error": null,
        "version": 1,
        "ledger": "main",
        "contract": "token",
        "function": "Transfer",
        "args": ["tomoko", "max", "12.50"],
        "attempts": 0,
        "created_at": "2026-01-31T12:00:00.000Z",
        "updated_at": "2026-01-31T12:00:00.000Z",
        "finished_at": null,
        "expires_at": null,
        "block": null,
        "ledger_code": null,
        "result": null,
        "metadata": {"order": "4711"},
        "tenant": "default",
        "not_before": null,
        "callback_url": null,
        "retry_of": null,
        "submitted_by": {"by": "key:ab12cd34", "from": "10.0.0.7"},
        "actions": [],
    })
}

/// One that took effect.
pub(crate) fn done() -> Value {
    changed(json!({
        "status": "done",
        "stage": null,
        "tx_id": TX_ID,
        "version": 4,
        "attempts": 1,
        "updated_at": "2026-01-31T12:00:00.740Z",
        "finished_at": "2026-01-31T12:00:00.740Z",
        "block": 7,
        "ledger_code": "VALID",
        "result": {"tomoko": "87.50", "max": "12.50"},
    }))
}

/// One that the contract refused.
pub(crate) fn failed() -> Value {
    changed(json!({
        "status": "failed",
        "stage": null,
        "error": {
            "code": "rejected",
            "message": "CHAINCODE_ERROR: tomoko has 3.00, which is less than 12.50",
            "retryable": false,
            "ledger_code": "CHAINCODE_ERROR",
        },
        "version": 3,
        "attempts": 1,
        "updated_at": "2026-01-31T12:00:00.031Z",
        "finished_at": "2026-01-31T12:00:00.031Z",
    }))
}

/// One that was cancelled in time.
pub(crate) fn cancelled() -> Value {
    changed(json!({
        "status": "failed",
        "stage": null,
        "error": {
            "code": "cancelled",
            "message": "cancelled by key:ab12cd34 before anything was sent",
            "retryable": false,
            "ledger_code": null,
        },
        "version": 2,
        "updated_at": "2026-01-31T12:00:00.003Z",
        "finished_at": "2026-01-31T12:00:00.003Z",
        "actions": [action("cancel", None)],
    }))
}

/// One that does a failed one again.
pub(crate) fn retry() -> Value {
    changed(json!({
        "retry_of": "01956f3e-0000-7e02-9b1d-0f6a2c3d4e5f",
        "actions": [action("retry", None)],
    }))
}

/// One of which an operator said that it took effect.
pub(crate) fn settled() -> Value {
    changed(json!({
        "status": "done",
        "stage": null,
        "tx_id": TX_ID,
        "version": 5,
        "attempts": 1,
        "updated_at": "2026-01-31T12:07:00.000Z",
        "finished_at": "2026-01-31T12:07:00.000Z",
        "block": 7,
        "ledger_code": "SETTLED_BY_OPERATOR",
        "actions": [action("settle", Some("seen in block 7 with the ledger's explorer"))],
    }))
}

fn action(action: &str, note: Option<&str>) -> Value {
    json!({"action": action, "by": "key:ab12cd34", "at": "2026-01-31T12:00:00.003Z", "note": note})
}

/// What became of a batch.
pub(crate) fn batch() -> Value {
    let problem = json!({
        "type": "urn:sluicegate:error:SG-0002",
        "title": "Fields are not acceptable",
        "status": 422,
        "code": "SG-0002",
        "detail": "/function: is missing",
        "errors": [{"pointer": "/function", "detail": "is missing"}],
    });
    json!({
        "items": [
            {"status": 202, "id": pending()["id"], "transaction": pending(), "repeated": false},
            {"status": 422, "problem": problem},
        ],
        "accepted": 1,
        "repeated": 0,
        "refused": 1,
    })
}

fn changed(changes: Value) -> Value {
    let mut record = pending();
    if let (Some(record), Value::Object(changes)) = (record.as_object_mut(), changes) {
        record.extend(changes);
    }
    record
}

/// A page of records.
pub(crate) fn page() -> Value {
    json!({"items": [done(), failed()], "next_cursor": "AZVvPowbfgKbHQ9qLD1OX2h0dHBzOi8v"})
}

/// One event of a stream.
pub(crate) fn event() -> Value {
    json!({"event": "transaction", "id": "4", "data": done().to_string()})
}

/// What became of each try.
pub(crate) fn attempts() -> Value {
    json!({
        "attempts": 1,
        "items": [{
            "number": 1,
            "started_at": "2026-01-31T12:00:00.021Z",
            "tx_id": TX_ID,
            "sent_at": "2026-01-31T12:00:00.024Z",
            "settled_at": "2026-01-31T12:00:00.740Z",
            "outcome": "committed",
            "code": "VALID",
            "message": null,
            "touched": {
                "reads": ["token/tomoko", "token/max"],
                "writes": ["token/tomoko", "token/max"],
                "truncated": false,
            },
        }],
    })
}

/// A lane.
pub(crate) fn lane() -> Value {
    json!({
        "name": "main",
        "kind": "simulator",
        "state": "running",
        "outage": null,
        "backlog": 17,
        "in_flight": 12,
        "rate_per_second": 100.0,
        "burst": 20,
        "max_in_flight": 256,
        "batch_size": 50,
        "batch_timeout_ms": 20,
        "check_after_ms": 5000,
        "retry": {
            "strategy": "jitter", "min_ms": 50, "max_ms": 500, "max_attempts": 20,
            "outage_min_ms": 250, "outage_max_ms": 10_000, "outage_max_attempts": 0,
        },
        "paused": false,
        "overrides": {"rate_per_second": 100.0},
        "settings": {
            "rate_per_second": overridden(json!(100.0), json!(50.0)),
            "retry.min_ms": configured(json!(50)),
        },
        "accepted": 5210,
        "done": 5180,
        "failed": 13,
        "conflicts": 402,
        "submissions": 5600,
        "conflict_share": 0.07,
        "history": {"interval_seconds": 5, "points": [{
            "at": "2026-01-31T12:00:00.000Z",
            "backlog": 17,
            "accepted": 412,
            "done": 398,
            "failed": 1,
            "conflicts": 31,
            "submissions": 430,
        }]},
    })
}

fn overridden(value: Value, configured: Value) -> Value {
    json!({
        "value": value,
        "configured": configured,
        "source": "override",
        "survives_restart": true,
        "set_by": "key:ab12cd34",
        "set_at": "2026-01-31T11:58:20.100Z",
    })
}

fn configured(value: Value) -> Value {
    json!({
        "value": value.clone(),
        "configured": value,
        "source": "configuration",
        "survives_restart": true,
        "set_by": null,
        "set_at": null,
    })
}

/// What is not one lane's.
pub(crate) fn settings() -> Value {
    json!({"settings": {
        "backpressure.max_pending": overridden(json!(50_000), json!(1_000_000)),
        "backpressure.mode": overridden(json!("drop"), json!("buffer")),
        "log.level": configured(json!("info")),
    }})
}

/// A key, with its token or without.
pub(crate) fn key(token: bool) -> Value {
    let mut key = json!({
        "id": "ab12cd34",
        "name": "erp",
        "tenant": "acme",
        "scopes": ["submit", "read"],
        "created_at": "2026-01-31T12:00:00.000Z",
        "expires_at": "2026-05-01T12:00:00.000Z",
        "revoked_at": null,
        "created_by": "key:operator1",
    });
    if token {
        key["key"] = "sg_ab12cd34_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo".into();
    }
    key
}

/// A page of the audit log.
pub(crate) fn audit() -> Value {
    json!({
        "items": [{
            "at": "2026-01-31T12:00:00.000Z",
            "who": "key:operator1",
            "tenant": null,
            "from": "10.0.0.7",
            "action": "POST /v1/transactions/{id}/cancel",
            "target": format!("/v1/transactions/{ID}/cancel"),
            "detail": null,
        }],
        "next_cursor": null,
    })
}

/// A call that changes nothing.
pub(crate) fn query() -> Value {
    json!({"ledger": "main", "contract": "token", "function": "BalanceOf", "args": ["tomoko"]})
}
