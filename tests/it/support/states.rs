//! Records in every state there is, carrying everything that a record can carry.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::to_raw_value;
use sluicegate::domain::{
    Argument, Cause, Event, Lease, LedgerName, Prepared, ReadWriteSet, Receipt, Request, Timestamp,
    Transaction,
};
use sluicegate::store::{Change, TransactionStore};

/// A call that the simulator takes: it creates an asset.
pub(crate) fn request(asset: &str) -> Request {
    let main = LedgerName::new("main").expect("a name");
    let args = vec![Argument::text(asset), Argument::text("1")];
    Request {
        transient: BTreeMap::from([("price".to_owned(), "MTAw".to_owned())]),
        conflict_keys: vec![asset.to_owned()],
        expires_in_seconds: Some(4_000_000_000),
        metadata: BTreeMap::from([("order".to_owned(), format!("{asset}-ü\u{1F980}"))]),
        ..Request::call(main, "counter", "Add", args)
    }
}

/// The versions of one record for each state, from the first to the last. What is sent is `sent`; nothing is due
/// before `later`.
pub(crate) fn in_every_state(
    name: &str,
    sent: &Prepared,
    now: Timestamp,
    later: Timestamp,
) -> Vec<Vec<Transaction>> {
    let cause = || Cause::new("MVCC_READ_CONFLICT", "counter/c was changed in block 7");
    let claimed = || Event::Claimed {
        lease: Lease {
            owner: "worker-1".to_owned(),
            until: later,
        },
    };
    let prepared = || Event::Prepared {
        sent: Prepared {
            touched: Some(ReadWriteSet::new(
                ["counter/c".to_owned()],
                ["counter/c".to_owned()],
            )),
            ..sent.clone()
        },
        check_at: later,
    };
    let conflicted = || Event::Conflicted {
        cause: cause(),
        retry_at: Some(later),
    };
    let committed = || Event::Committed {
        receipt: Receipt {
            tx_id: sent.tx_id.clone(),
            block: 8,
            code: Some("VALID".to_owned()),
            result: Some(to_raw_value(&1).expect("JSON")),
        },
    };
    let rejected = || Event::Rejected { cause: cause() };
    let unresolvable = || Event::Unresolvable { cause: cause() };
    let paths: Vec<Vec<Event>> = vec![
        vec![],
        vec![claimed()],
        vec![claimed(), prepared()],
        vec![claimed(), prepared(), conflicted()],
        vec![claimed(), prepared(), unresolvable()],
        vec![claimed(), prepared(), committed()],
        vec![
            claimed(),
            prepared(),
            conflicted(),
            claimed(),
            prepared(),
            committed(),
        ],
        vec![claimed(), rejected()],
    ];
    let versions = |(number, events): (usize, Vec<Event>)| {
        let key = (number % 2 == 0).then(|| format!("key-{name}-{number}"));
        let mut versions = vec![Transaction::accept(
            request(&format!("{name}-{number}")),
            key,
            now,
        )];
        for (moment, event) in events.into_iter().enumerate() {
            let at = now.plus(Duration::from_millis(moment as u64 + 1));
            let next = versions.last().expect("one").apply(event, at).expect("legal");
            versions.push(next);
        }
        versions
    };
    paths.into_iter().enumerate().map(versions).collect()
}

/// Stores all of them, version by version, as it would have happened.
pub(crate) async fn store(store: &dyn TransactionStore, histories: &[Vec<Transaction>]) {
    for history in histories {
        store.insert(&history[0]).await.expect("inserts");
    }
    let longest = histories.iter().map(Vec::len).max().unwrap_or_default();
    for step in 1..longest {
        let steps = histories.iter().filter(|history| history.len() > step);
        let changes = steps.map(|history| Change {
            old: history[step - 1].clone(),
            new: history[step].clone(),
        });
        let made = store.compare_and_swap(changes.collect()).await.expect("swaps");
        assert!(made.into_iter().all(|made| made));
    }
}
