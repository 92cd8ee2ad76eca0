//! A check that cannot fail is no check: each promise, broken in every way that it is to notice.

use super::*;

fn accepted(id: &str, counter: Option<&str>) -> Accepted {
    Accepted {
        id: id.to_owned(),
        counter: counter.map(str::to_owned),
        at: 0,
        took: Duration::ZERO,
        tries: 1,
        refused: 0,
    }
}

fn record(status: &str, tx_id: Option<&str>) -> Record {
    let is_done = status == "done";
    Record {
        status: status.to_owned(),
        tx_id: tx_id.map(str::to_owned),
        block: is_done.then_some(1),
        counter: tx_id.filter(|id| *id != "tx").map(|_| "c1".to_owned()),
        // The n-th attempt of the n-th: `ta` is told 1, `tb2` 2.
        result: tx_id
            .filter(|_| is_done)
            .map(|id| if id.contains('b') { 2 } else { 1 }),
    }
}

fn sent(id: &str, code: &str, arrived_at: u64) -> Sent {
    Sent {
        block: 1,
        id: id.to_owned(),
        code: code.to_owned(),
        arrived_at,
    }
}

/// Two that took effect, one of them after a conflict and with a repeat, and one that was refused.
fn good() -> (Vec<Accepted>, Records, Vec<Sent>) {
    let accepted = vec![
        accepted("a", Some("c1")),
        accepted("b", Some("c1")),
        accepted("x", None),
    ];
    let records = [
        ("a", record("done", Some("ta"))),
        ("b", record("done", Some("tb2"))),
        ("x", record("failed", None)),
    ];
    let chain = vec![
        sent("tb1", "MVCC_READ_CONFLICT", 1_000),
        sent("ta", "VALID", 1_010),
        sent("tb2", "VALID", 1_020),
        sent("ta", "DUPLICATE_TXID", 1_030),
    ];
    let records = records.map(|(id, record)| (id.to_owned(), record));
    (accepted, records.into(), chain)
}

fn all(accepted: &[Accepted], records: &Records, chain: &[Sent]) -> Promise {
    every_acknowledged_is_there(accepted, records)?;
    every_record_is_settled(accepted, records)?;
    every_record_is_what_was_asked(accepted, records)?;
    one_record_each(accepted, records)?;
    one_valid_transaction_each(records, chain)?;
    answers_are_exact(records, false)
}

#[track_caller]
fn breaks(promise: &str, change: impl FnOnce(&mut Vec<Accepted>, &mut Records, &mut Vec<Sent>)) {
    let (mut accepted, mut records, mut chain) = good();
    assert_eq!(all(&accepted, &records, &chain), Ok(()));
    change(&mut accepted, &mut records, &mut chain);
    let breach = all(&accepted, &records, &chain).expect_err("a breach");
    assert!(breach.starts_with(promise), "{breach}");
}

#[test]
fn what_is_lost_is_noticed() {
    breaks("I1", |_, records, _| drop(records.remove("a")));
    breaks("I1", |_, records, _| drop(records.remove("x")));
    breaks("I1", |accepted, _, _| accepted[0].counter = Some("c2".to_owned()));
}

fn change(records: &mut Records, id: &str, change: impl FnOnce(&mut Record)) {
    change(records.get_mut(id).expect("a record"));
}

#[test]
fn a_wrong_answer_or_block_is_noticed() {
    for wrong in [None, Some(0), Some(1), Some(3)] {
        breaks("I2", |_, records, _| change(records, "b", |b| b.result = wrong));
    }
    breaks("I2", |_, records, _| change(records, "b", |b| b.block = Some(2)));
    let (_, mut records, _) = good();
    change(&mut records, "b", |b| b.result = None);
    assert_eq!(answers_are_exact(&records, true), Ok(()));
    change(&mut records, "b", |b| b.result = Some(1));
    answers_are_exact(&records, true).expect_err("the answer of another");
}

#[test]
fn a_defect_in_the_log_is_noticed() {
    assert_eq!(
        no_defect_was_told("INFO all is well\nWARN the lane waits"),
        Ok(())
    );
    for words in [
        "thread 'tokio' panicked at src/x.rs",
        "ERROR illegal move error=…",
    ] {
        no_defect_was_told(&format!("INFO well\n{words}\nINFO well")).expect_err("a defect");
    }
}

#[test]
fn what_is_not_settled_as_it_should_be_is_noticed() {
    for status in ["pending", "failed"] {
        breaks("I3", |_, records, _| {
            records.insert("a".into(), record(status, Some("ta")));
        });
    }
    breaks("I3", |_, records, _| {
        records.insert("x".into(), record("done", None));
    });
}

#[test]
fn what_came_of_nothing_is_noticed() {
    breaks("I5", |_, records, _| {
        records.insert("c".into(), record("done", Some("tc")));
    });
    breaks("I5", |accepted, _, _| accepted[1].id = "a".to_owned());
}

#[test]
fn what_took_effect_twice_or_never_is_noticed() {
    breaks("I2", |_, _, chain| chain.push(sent("ta", "VALID", 1_040)));
    breaks("I2", |_, _, chain| chain.push(sent("tc", "VALID", 1_040)));
    // The first attempt of b landed as well.
    breaks("I2", |_, _, chain| chain[0].code = "VALID".to_owned());
    breaks("I2", |_, _, chain| drop(chain.remove(1)));
    breaks("I2", |_, _, chain| {
        chain[1].code = "MVCC_READ_CONFLICT".to_owned()
    });
    breaks("I2", |_, records, chain| {
        records.insert("x".into(), record("failed", Some("tx")));
        chain.push(sent("tx", "VALID", 1_040));
    });
    breaks("I2", |_, records, _| {
        records.insert("b".into(), record("done", Some("ta")));
    });
}

#[test]
fn counters_that_are_off_by_one_are_noticed() {
    let (accepted, ..) = good();
    let expected = effects(&accepted);
    let stands = |at: u64| BTreeMap::from([("c1".to_owned(), at)]);
    assert_eq!(counters_are_exact(&expected, &stands(2)), Ok(()));
    for wrong in [stands(1), stands(3), BTreeMap::new()] {
        counters_are_exact(&expected, &wrong).expect_err("a breach of I2");
    }
}

const LIMIT: Limit = Limit {
    rate: 200.0,
    burst: 20.0,
};

/// `count` arrivals from `from` on, `apart` ms apart.
fn arrivals(from: u64, count: u64, apart: u64) -> Vec<Sent> {
    (0..count).map(|n| sent("t", "VALID", from + n * apart)).collect()
}

#[test]
fn a_rate_that_was_not_kept_is_noticed() {
    // 200 a second are 5 ms apart; 120 at once are what burst and scheduling allow.
    the_rate_was_kept(&arrivals(1_000, 5_000, 5), &[], LIMIT).expect("kept");
    the_rate_was_kept(&arrivals(1_000, 120, 0), &[], LIMIT).expect("kept");
    the_rate_was_kept(&arrivals(1_000, 121, 0), &[], LIMIT).expect_err("a burst too large");
    the_rate_was_kept(&arrivals(1_000, 800, 4), &[], LIMIT).expect_err("too fast for three seconds");
    let two = [arrivals(1_000, 120, 0), arrivals(1_100, 60, 0)].concat();
    the_rate_was_kept(&two, &[], LIMIT).expect_err("two bursts");
}

#[test]
fn a_rate_is_judged_around_what_was_held_up_but_not_within() {
    let held_up = &[(1_000, 2_000), (1_500, 3_000)][..];
    // What was sent over two seconds came at once.
    let late = [
        arrivals(500, 80, 5),
        arrivals(2_900, 400, 0),
        arrivals(3_050, 60, 0),
    ]
    .concat();
    the_rate_was_kept(&late, &[], LIMIT).expect_err("too many at once");
    the_rate_was_kept(&late, held_up, LIMIT).expect("all within the rate");
    let more = [arrivals(2_900, 530, 0)].concat();
    the_rate_was_kept(&more, held_up, LIMIT).expect_err("more than two seconds' worth");
    let after = [arrivals(2_900, 440, 0), arrivals(3_010, 90, 0)].concat();
    the_rate_was_kept(&after, held_up, LIMIT).expect_err("both together are too many");
}

#[test]
fn what_is_left_over_is_noticed() {
    assert_eq!(the_queue_is_empty(0, 3, 3), Ok(()));
    for (messages, dead) in [(1, 3), (0, 2), (0, 4)] {
        the_queue_is_empty(messages, dead, 3).expect_err("a breach of I4");
    }
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(nothing_is_left_over(&names(&["lock", "store.redb"])), Ok(()));
    for left in ["store.redb.new", "store.redb.old", "backup.tmp"] {
        nothing_is_left_over(&names(&["lock", left])).expect_err(left);
    }
}
