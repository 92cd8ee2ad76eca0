//! What every ledger backend has to do, whatever is behind it.
//!
//! The suite needs a contract with named numbers: one call that reads and changes a number, and a query
//! for it. Where the numbers start does not matter, so it can run against a ledger that has a history; it
//! must be the only one to use its keys.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use super::{LedgerBackend, Outcomes, PrepareError, Query, QueryError, SubmitError};
use crate::domain::{
    Argument, Checkpoint, LedgerName, LedgerTxId, Outcome, Prepared, Request, SubmissionId, TransactionId,
};

/// How long an outcome may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The contract calls the suite makes.
pub(crate) struct Calls {
    /// Reads the number of that name, adds to it, writes it.
    pub(crate) add: fn(name: &str, delta: i64) -> Request,
    /// Asks for the number of that name.
    pub(crate) get: fn(name: &str) -> Query,
    /// A call of a known function that the contract refuses.
    pub(crate) refused: fn() -> Request,
}

impl Calls {
    /// The calls of a contract like the simulator's `counter`.
    pub(crate) const COUNTER: Self = Self {
        add: |name, delta| request("counter", "Add", &[name, &delta.to_string()]),
        get: |name| Query {
            contract: "counter".into(),
            function: "Get".into(),
            args: vec![Argument::text(name)],
        },
        refused: || request("counter", "Add", &["refused", "much"]),
    };
}

/// A request of the ledger `main` with text arguments.
pub(crate) fn request(contract: &str, function: &str, args: &[&str]) -> Request {
    let args = args.iter().map(|arg| Argument::text(arg)).collect();
    Request::call(
        LedgerName::new("main").expect("valid name"),
        contract,
        function,
        args,
    )
}

/// The first submission of a record that nobody else has.
pub(crate) fn fresh() -> SubmissionId {
    SubmissionId {
        record: TransactionId::new(),
        number: 0,
    }
}

/// Collects outcomes from a stream until all of `ids` have one.
pub(crate) async fn outcomes_of(stream: &mut Outcomes, ids: &[&LedgerTxId]) -> HashMap<LedgerTxId, Outcome> {
    let mut found = HashMap::new();
    let collect = async {
        while !ids.iter().all(|id| found.contains_key(*id)) {
            found.extend(stream.next().await.expect("the stream goes on").outcomes);
        }
    };
    tokio::time::timeout(PATIENCE, collect)
        .await
        .expect("outcomes arrive in time");
    found
}

/// A stream of outcomes that is up, which its first group shows.
async fn listen(ledger: &dyn LedgerBackend) -> Outcomes {
    let mut stream = ledger.outcomes(None);
    let first = tokio::time::timeout(PATIENCE, stream.next())
        .await
        .expect("in time");
    let first = first.expect("the stream goes on");
    stream::iter([first]).chain(stream).boxed()
}

/// Runs the whole suite.
pub(crate) async fn run(ledger: &dyn LedgerBackend, calls: &Calls) {
    ledger.probe().await.expect("a ledger that is up says so");
    preparing_has_no_effect(ledger, calls).await;
    a_submission_is_told_looked_up_and_seen(ledger, calls).await;
    the_same_bytes_take_effect_once(ledger, calls).await;
    a_submission_has_one_identifier(ledger, calls).await;
    of_two_that_read_the_same_one_commits(ledger, calls).await;
    strangers_do_not_conflict(ledger, calls).await;
    a_stream_goes_on_where_its_reader_stopped(ledger, calls).await;
    nonsense_is_refused(ledger, calls).await;
}

async fn prepare(ledger: &dyn LedgerBackend, request: &Request) -> Prepared {
    ledger.check(request).expect("acceptable");
    ledger.prepare(fresh(), request).await.expect("prepared")
}

async fn number(ledger: &dyn LedgerBackend, calls: &Calls, name: &str) -> i64 {
    let json = ledger.query(&(calls.get)(name)).await.expect("answered");
    json.get().trim_matches('"').parse().expect("a number")
}

async fn is_absent(ledger: &dyn LedgerBackend, tx_id: &LedgerTxId) {
    let found = ledger.lookup(tx_id).await;
    assert!(
        matches!(found, Outcome::Absent(_) | Outcome::Unknown(_)),
        "{found:?}"
    );
    let found = ledger.search(tx_id).await;
    assert!(matches!(found, Outcome::Absent(_)), "{found:?}");
}

async fn preparing_has_no_effect(ledger: &dyn LedgerBackend, calls: &Calls) {
    let before = number(ledger, calls, "prepared").await;
    let one = prepare(ledger, &(calls.add)("prepared", 1)).await;
    let two = prepare(ledger, &(calls.add)("prepared", 1)).await;
    assert_ne!(one.tx_id, two.tx_id, "every preparation has its own identifier");
    is_absent(ledger, &one.tx_id).await;
    assert_eq!(number(ledger, calls, "prepared").await, before);
}

async fn a_submission_is_told_looked_up_and_seen(ledger: &dyn LedgerBackend, calls: &Calls) {
    let before = number(ledger, calls, "told").await;
    let mut stream = listen(ledger).await;
    let sent = prepare(ledger, &(calls.add)("told", 5)).await;
    ledger.ready().await.expect("may be sent");
    ledger.submit(&sent).await.expect("taken");
    let told = outcomes_of(&mut stream, &[&sent.tx_id]).await;
    let Outcome::Committed(told) = &told[&sent.tx_id] else {
        panic!("not committed: {told:?}");
    };
    let Outcome::Committed(found) = ledger.lookup(&sent.tx_id).await else {
        panic!("lookup disagrees with the stream");
    };
    assert_eq!(told.tx_id, sent.tx_id);
    assert_eq!((&found.tx_id, found.block), (&told.tx_id, told.block));
    let text =
        |result: &Option<Box<serde_json::value::RawValue>>| result.as_ref().map(|json| json.get().to_owned());
    assert_eq!(text(&found.result), text(&told.result));
    assert_eq!(number(ledger, calls, "told").await, before + 5);
}

/// I2, for ledgers that deduplicate.
async fn the_same_bytes_take_effect_once(ledger: &dyn LedgerBackend, calls: &Calls) {
    if !ledger.deduplicates() {
        return;
    }
    let before = number(ledger, calls, "once").await;
    let mut stream = listen(ledger).await;
    let sent = prepare(ledger, &(calls.add)("once", 1)).await;
    ledger.submit(&sent).await.expect("taken");
    ledger.submit(&sent).await.expect("a resend is no error");
    let told = outcomes_of(&mut stream, &[&sent.tx_id]).await;
    ledger
        .submit(&sent)
        .await
        .expect("a resend after the block is no error");
    // What comes after the resends shows that they are through.
    let later = prepare(ledger, &(calls.add)("later", 1)).await;
    ledger.submit(&later).await.expect("taken");
    let after = outcomes_of(&mut stream, &[&later.tx_id]).await;
    for outcome in [told.get(&sent.tx_id), after.get(&sent.tx_id)]
        .into_iter()
        .flatten()
    {
        assert!(
            matches!(outcome, Outcome::Committed(_)),
            "a resend is no failure: {outcome:?}"
        );
    }
    assert!(matches!(ledger.lookup(&sent.tx_id).await, Outcome::Committed(_)));
    assert_eq!(number(ledger, calls, "once").await, before + 1);
}

/// I2, for a store that went back in time: what is prepared again has the identifier it had, and once the ledger has
/// that, valid or not, it says so, even if the contract would refuse by now.
async fn a_submission_has_one_identifier(ledger: &dyn LedgerBackend, calls: &Calls) {
    let (first, request) = (fresh(), (calls.add)("named", 1));
    let prepare = async |submission| ledger.prepare(submission, &request).await;
    let before = number(ledger, calls, "named").await;
    let one = prepare(first).await.expect("prepared");
    let again = prepare(first).await.expect("prepared");
    let rival = prepare(fresh()).await.expect("prepared");
    assert_eq!((&one.tx_id, &again.tx_id), (&ledger.identify(first), &one.tx_id));
    let second = SubmissionId { number: 1, ..first };
    assert_ne!(ledger.identify(second), one.tx_id);
    assert_ne!(ledger.identify(fresh()), one.tx_id);

    // Two envelopes, one identifier: one effect, and the first one's verdict for both.
    let mut stream = listen(ledger).await;
    for sent in [&one, &again, &rival] {
        ledger.submit(sent).await.expect("taken");
    }
    let told = outcomes_of(&mut stream, &[&one.tx_id, &rival.tx_id]).await;
    let valid = |id: &LedgerTxId| matches!(told[id], Outcome::Committed(_));
    assert!(valid(&one.tx_id) && !valid(&rival.tx_id), "{told:?}");
    assert_eq!(number(ledger, calls, "named").await, before + 1);
    let known = |result: Result<Prepared, PrepareError>| match result {
        Err(PrepareError::AlreadyOnLedger(id)) => id,
        other => panic!("not known: {other:?}"),
    };
    assert_eq!(known(prepare(first).await), one.tx_id);
    let refused = (calls.refused)();
    assert_eq!(known(ledger.prepare(first, &refused).await), one.tx_id);

    // A conflict ends its identifier as well.
    let second = prepare(second).await.expect("prepared");
    let rival = prepare(fresh()).await.expect("prepared");
    for sent in [&rival, &second] {
        ledger.submit(sent).await.expect("taken");
    }
    let told = outcomes_of(&mut stream, &[&second.tx_id, &rival.tx_id]).await;
    assert!(matches!(told[&second.tx_id], Outcome::Conflict(_)), "{told:?}");
    let ended = SubmissionId { number: 1, ..first };
    assert_eq!(known(prepare(ended).await), second.tx_id);
}

async fn of_two_that_read_the_same_one_commits(ledger: &dyn LedgerBackend, calls: &Calls) {
    let before = number(ledger, calls, "hot").await;
    let mut stream = listen(ledger).await;
    let one = prepare(ledger, &(calls.add)("hot", 1)).await;
    let two = prepare(ledger, &(calls.add)("hot", 1)).await;
    ledger.submit(&one).await.expect("taken");
    ledger.submit(&two).await.expect("taken");
    let told = outcomes_of(&mut stream, &[&one.tx_id, &two.tx_id]).await;
    let mut committed = 0;
    for sent in [&one, &two] {
        match (&told[&sent.tx_id], ledger.lookup(&sent.tx_id).await) {
            (Outcome::Committed(_), Outcome::Committed(_)) => committed += 1,
            (Outcome::Conflict(told), Outcome::Conflict(found)) => assert_eq!(*told, found),
            (told, found) => panic!("told {told:?}, found {found:?}"),
        }
    }
    assert_eq!(committed, 1);
    assert_eq!(number(ledger, calls, "hot").await, before + 1);
}

async fn strangers_do_not_conflict(ledger: &dyn LedgerBackend, calls: &Calls) {
    let mut stream = listen(ledger).await;
    let requests: Vec<Request> = (0..32)
        .map(|n| (calls.add)(&format!("stranger-{n}"), 1))
        .collect();
    let sent = join_all(requests.iter().map(|request| prepare(ledger, request))).await;
    for taken in join_all(sent.iter().map(|sent| ledger.submit(sent))).await {
        taken.expect("taken");
    }
    let ids: Vec<&LedgerTxId> = sent.iter().map(|sent| &sent.tx_id).collect();
    let told = outcomes_of(&mut stream, &ids).await;
    for id in ids {
        assert!(matches!(told[id], Outcome::Committed(_)), "{:?}", told[id]);
    }
}

/// For ledgers that resume: what is settled while nobody listens is told to whoever comes with a checkpoint.
async fn a_stream_goes_on_where_its_reader_stopped(ledger: &dyn LedgerBackend, calls: &Calls) {
    let mut stream = listen(ledger).await;
    let before = prepare(ledger, &(calls.add)("resumed", 1)).await;
    ledger.submit(&before).await.expect("taken");
    let mut checkpoint = None;
    let told = async {
        loop {
            let group = stream.next().await.expect("the stream goes on");
            assert!(checkpoint <= group.checkpoint, "it never goes back");
            checkpoint = group.checkpoint;
            if group.outcomes.iter().any(|(id, _)| *id == before.tx_id) {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("in time");
    drop(stream);
    let Some(checkpoint) = checkpoint else {
        return;
    };
    let mut unheard = Vec::new();
    for name in ["unheard-1", "unheard-2", "unheard-3"] {
        let sent = prepare(ledger, &(calls.add)(name, 1)).await;
        ledger.submit(&sent).await.expect("taken");
        let known = async {
            while !matches!(ledger.lookup(&sent.tx_id).await, Outcome::Committed(_)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, known).await.expect("in time");
        unheard.push(sent.tx_id);
    }
    let mut stream = ledger.outcomes(Some(checkpoint));
    let ids: Vec<&LedgerTxId> = unheard.iter().collect();
    let told = outcomes_of(&mut stream, &ids).await;
    for id in ids {
        assert!(matches!(told[id], Outcome::Committed(_)), "{:?}", told[id]);
    }
    assert!(
        !told.contains_key(&before.tx_id),
        "that was told before the checkpoint"
    );
    // Of a ledger that was set up anew, the old checkpoint says nothing.
    let mut stream = ledger.outcomes(Some(Checkpoint(u64::MAX / 2)));
    let sent = prepare(ledger, &(calls.add)("resumed", 1)).await;
    ledger.submit(&sent).await.expect("taken");
    outcomes_of(&mut stream, &[&sent.tx_id]).await;
}

async fn nonsense_is_refused(ledger: &dyn LedgerBackend, calls: &Calls) {
    let never = LedgerTxId("f".repeat(64));
    is_absent(ledger, &never).await;

    let refused = (calls.refused)();
    let error = ledger.prepare(fresh(), &refused).await.expect_err("refused");
    let PrepareError::Rejected(cause) = error else {
        panic!("not rejected: {error}");
    };
    assert!(!cause.code.is_empty() && !cause.message.is_empty());
    let query = Query {
        contract: refused.contract,
        function: refused.function,
        args: refused.args,
    };
    assert!(matches!(ledger.query(&query).await, Err(QueryError::Rejected(_))));

    let mut broken = prepare(ledger, &(calls.add)("broken", 1)).await;
    broken.envelope = "no envelope".into();
    assert!(matches!(
        ledger.submit(&broken).await,
        Err(SubmitError::Rejected(_))
    ));
}
