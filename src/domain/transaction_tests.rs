use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::domain::{Cause, FailureCode, Lease, LedgerName, Prepared, ReadWriteSet, Receipt};

fn now() -> Timestamp {
    Timestamp::from_millis(1_000)
}

fn request() -> Request {
    let ledger = LedgerName::new("main").expect("valid name");
    Request {
        transient: [("price".to_owned(), "MTAw".to_owned())].into(),
        expires_in_seconds: Some(2),
        ..Request::call(ledger, "basic", "CreateAsset", Vec::new())
    }
}

fn prepared(id: &str) -> Prepared {
    Prepared {
        tx_id: LedgerTxId(id.into()),
        envelope: "bytes".into(),
        response: None,
        touched: None,
    }
}

fn events() -> Vec<Event> {
    let cause = || Cause::new("CODE", "message");
    vec![
        Event::Claimed {
            lease: Lease {
                owner: "w".into(),
                until: now(),
            },
        },
        Event::LeaseLost { due_at: now() },
        Event::Expired,
        Event::Prepared {
            sent: prepared("t1"),
            check_at: now(),
        },
        Event::Unavailable {
            cause: cause(),
            retry_at: Some(now()),
        },
        Event::Unavailable {
            cause: cause(),
            retry_at: None,
        },
        Event::CheckClaimed { check_at: now() },
        Event::Committed {
            receipt: Receipt {
                tx_id: LedgerTxId("t1".into()),
                block: 7,
                code: None,
                result: None,
            },
        },
        Event::Conflicted {
            cause: cause(),
            retry_at: Some(now()),
        },
        Event::Conflicted {
            cause: cause(),
            retry_at: None,
        },
        Event::Rejected { cause: cause() },
        Event::Unresolvable { cause: cause() },
        Event::FoundOnLedger {
            tx_id: LedgerTxId("t1".into()),
        },
        Event::Disagreed {
            cause: cause(),
            retry_at: Some(now()),
        },
        Event::Disagreed {
            cause: cause(),
            retry_at: None,
        },
    ]
}

/// Every legal move, written down a second time, independently of the code (I8).
fn table(from: &str, event: &Event) -> Option<&'static str> {
    let retried = |retry: &Option<Timestamp>| Some(if retry.is_some() { "pending" } else { "failed" });
    match (from, event) {
        ("pending", Event::Claimed { .. }) => Some("preparing"),
        ("pending", Event::Expired) => Some("failed"),
        ("preparing", Event::Prepared { .. }) => Some("submitted"),
        ("preparing", Event::LeaseLost { .. }) => Some("pending"),
        ("preparing", Event::Unavailable { retry_at, .. }) => retried(retry_at),
        ("preparing" | "submitted" | "parked", Event::Rejected { .. }) => Some("failed"),
        ("submitted", Event::CheckClaimed { .. }) => Some("submitted"),
        ("submitted", Event::Unresolvable { .. }) => Some("parked"),
        ("preparing", Event::FoundOnLedger { .. }) => Some("preparing"),
        ("preparing", Event::Expired) => Some("failed"),
        ("preparing", Event::Disagreed { retry_at, .. }) => retried(retry_at),
        ("preparing" | "submitted" | "parked", Event::Committed { .. }) => Some("done"),
        ("preparing" | "submitted" | "parked", Event::Conflicted { retry_at, .. }) => retried(retry_at),
        _ => None,
    }
}

proptest! {
    #[test]
    fn i8_only_the_moves_of_the_table_are_made(steps in prop::collection::vec(0_usize..15, 1..60)) {
        let all = events();
        let mut tx = Transaction::accept(request(), None, now());
        for step in steps {
            let event = all[step % all.len()].clone();
            let expected = table(tx.state.name(), &event);
            match tx.apply(event.clone(), now()) {
                Ok(next) => {
                    prop_assert_eq!(Some(next.state.name()), expected);
                    prop_assert_eq!(next.version, tx.version + 1);
                    // I2: a new identifier only after the ledger's word on the one before.
                    let ended = u64::from(matches!(event, Event::Conflicted { .. }));
                    prop_assert_eq!(next.submission().number, tx.submission().number + ended);
                    prop_assert!(next.history.len() <= MAX_HISTORY);
                    prop_assert_eq!(next.is_settled(), next.state.due().is_none() && next.stage().is_none());
                    tx = next;
                }
                Err(_) => prop_assert_eq!(None, expected),
            }
        }
    }
}

#[test]
fn budgets_are_counted_apart() {
    let all = events();
    let step = |tx: &Transaction, n: usize| tx.apply(all[n].clone(), now()).expect("legal");
    let tx = Transaction::accept(request(), None, now());
    let tx = step(&step(&tx, 0), 4);
    assert_eq!((tx.attempts, tx.conflicts, tx.outages), (1, 0, 1));
    let tx = step(&step(&step(&tx, 0), 3), 8);
    assert_eq!((tx.attempts, tx.conflicts, tx.outages), (2, 1, 1));
    assert_eq!(tx.stage(), Some(Stage::Backoff));
    assert_eq!(tx.ledger_tx_id(), Some(&LedgerTxId("t1".into())));
}

#[test]
fn i2_a_submission_has_one_name_until_the_ledger_has_ended_it() {
    let all = events();
    let step = |tx: &Transaction, n: usize| tx.apply(all[n].clone(), now()).expect("legal");
    let tx = Transaction::accept(request(), None, now());
    let first = tx.submission();
    // A lost lease, an outage, endorsers that disagree: whatever was prepared is prepared again.
    let tx = step(&step(&step(&step(&step(&step(&tx, 0), 1), 0), 4), 0), 13);
    assert_eq!(tx.submission(), first);
    let mut name = tx.id.as_bytes().to_vec();
    name.extend([0; 8]);
    assert_eq!(first.to_bytes().as_slice(), name);
    let tx = step(&step(&step(&tx, 0), 3), 8);
    name[23] = 1;
    assert_eq!(tx.submission().to_bytes().as_slice(), name);
}

#[test]
fn what_is_found_on_the_ledger_decides_and_leaves_its_trace() {
    let all = events();
    let step = |tx: &Transaction, n: usize| tx.apply(all[n].clone(), now()).expect("legal");
    let found = step(&step(&Transaction::accept(request(), None, now()), 0), 12);
    assert!(found.rewound && found.expires_unasked_at().is_none() && found.expires_at().is_some());
    let done = step(&found, 7);
    assert_eq!(done.ledger_tx_id(), Some(&LedgerTxId("t1".into())));
    assert_eq!(done.status(), Status::Done);
    let again = step(&found, 8);
    assert_eq!(
        (again.submission().number, again.stage()),
        (1, Some(Stage::Backoff))
    );
}

#[test]
fn exhausted_conflicts_say_so() {
    let all = events();
    let mut tx = Transaction::accept(request(), None, now());
    for n in [0, 3, 9] {
        tx = tx.apply(all[n].clone(), now()).expect("legal");
    }
    let State::Failed { failure } = &tx.state else {
        panic!("expected a failure, got {:?}", tx.state);
    };
    assert_eq!(failure.code, FailureCode::ConflictsExhausted);
    assert_eq!(failure.ledger_code.as_deref(), Some("CODE"));
    assert!(failure.code.is_retryable());
}

#[test]
fn private_inputs_are_forgotten_once_done() {
    let all = events();
    let mut tx = Transaction::accept(request(), None, now());
    for n in [0, 3, 7] {
        assert!(!tx.request.transient.is_empty());
        tx = tx.apply(all[n].clone(), now()).expect("legal");
    }
    assert!(tx.request.transient.is_empty());
}

#[test]
fn records_survive_their_own_encoding() {
    let tx = Transaction::accept(request(), Some("key".into()), now());
    let tx = tx.apply(events()[0].clone(), now()).expect("legal");
    let json = serde_json::to_string(&tx).expect("encodes");
    let back: Transaction = serde_json::from_str(&json).expect("decodes");
    assert_eq!(json, serde_json::to_string(&back).expect("encodes"));
    assert_eq!(back.expires_at(), Some(now().plus(Duration::from_secs(2))));
}

#[test]
fn the_keys_touched_are_kept_once_with_the_attempt() {
    let all = events();
    let mut sent = prepared("t1");
    sent.touched = Some(ReadWriteSet::new(["c/b".to_owned()], ["c/a".to_owned()]));
    let touched = sent.touched.clone();
    let tx = Transaction::accept(request(), None, now());
    let tx = tx.apply(all[0].clone(), now()).expect("legal");
    let check_at = now();
    let tx = tx
        .apply(Event::Prepared { sent, check_at }, now())
        .expect("legal");
    assert_eq!(tx.history[0].touched, touched);
    assert_eq!(tx.state.sent().expect("sent").touched, None);
    // It stays with its attempt, when that has ended and another one is prepared.
    let mut tx = tx;
    for n in [8, 0, 3] {
        tx = tx.apply(all[n].clone(), now()).expect("legal");
    }
    assert_eq!(
        (&tx.history[0].touched, &tx.history[1].touched),
        (&touched, &None)
    );
    let json = serde_json::to_string(&tx).expect("encodes");
    let back: Transaction = serde_json::from_str(&json).expect("decodes");
    assert_eq!(back.history, tx.history);
}

#[test]
fn sets_of_keys_are_sorted_and_bounded() {
    let keys = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let few = ReadWriteSet::new(keys(&["c/b", "c/a", "c/b"]), keys(&["c/z"]));
    assert_eq!(few.reads, ["c/a", "c/b"]);
    assert_eq!((few.writes, few.truncated), (keys(&["c/z"]), false));
    let many = |n: usize| (0..n).map(|n| format!("c/{n:05}"));
    let full = ReadWriteSet::new(many(200), many(56));
    assert!(!full.truncated);
    let cut = ReadWriteSet::new(many(100_000), many(57));
    assert_eq!(
        (cut.reads.len(), cut.writes.len(), cut.truncated),
        (199, 57, true)
    );
    let long = ReadWriteSet::new([], ["k".repeat(ReadWriteSet::MAX_BYTES), "l".to_owned()]);
    assert_eq!((long.writes.len(), long.truncated), (1, true));
}

#[test]
fn records_of_before_still_open_and_codes_are_kept_with_the_ending() {
    let all = events();
    let mut tx = Transaction::accept(request(), None, now());
    for n in [0, 3] {
        tx = tx.apply(all[n].clone(), now()).expect("legal");
    }
    // Nothing new is written where there is nothing to say, so this is how a record looked before.
    let json = serde_json::to_string(&tx).expect("encodes");
    for new in ["touched", "submissions_ended", "rewound"] {
        assert!(!json.contains(new), "{json}");
    }
    serde_json::from_str::<Transaction>(&json).expect("decodes");
    let receipt: Receipt =
        serde_json::from_str(r#"{"tx_id":"t1","block":7,"result":null}"#).expect("decodes");
    assert_eq!(receipt.code, None);
    let receipt = Receipt {
        code: Some("VALID".into()),
        ..receipt
    };
    let tx = tx.apply(Event::Committed { receipt }, now()).expect("legal");
    let ending = tx.history[0].ending.as_ref().expect("ended");
    assert_eq!((ending.code.as_deref(), &ending.message), (Some("VALID"), &None));
}

#[test]
fn identifiers_are_ordered_by_time() {
    let (one, two) = (TransactionId::new(), TransactionId::new());
    assert!(one < two);
    let later = Timestamp::from_millis(u64::MAX >> 16);
    assert!(two < TransactionId::lowest_at(later));
    assert!(TransactionId::lowest_at(now()) < one);
}
