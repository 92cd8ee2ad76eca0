//! Every transaction is counted once, however answers and events come.

use super::super::report::{Counts, Fairness};
use super::*;

fn order(number: u64, due: Instant, measured: bool) -> Order {
    Order {
        number,
        call: 0,
        key: 1,
        due,
        measured,
    }
}

#[test]
fn counts_add_up_in_whatever_order_things_come() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let recorder = Recorder::new(start, start + Duration::from_secs(2));
    let ids: Vec<_> = (0..5).map(|_| TransactionId::new()).collect();
    for number in 0..8 {
        recorder.arrived(&order(number, at(number), true));
    }
    let warm_up = order(99, start, false);
    recorder.arrived(&warm_up);
    recorder.accepted(&warm_up, TransactionId::new(), at(1));
    recorder.refused(&warm_up, "SG-0001", "", at(1));
    recorder.unanswered(&warm_up, "gone".into(), at(1));
    // The event of the first is faster than its answer, and is told twice.
    recorder.settled(ids[0], Ending::Done, 3, at(1_500));
    recorder.settled(ids[0], Ending::Done, 3, at(1_600));
    assert_eq!(recorder.progress().settled, 0);
    for (number, id) in (0..).zip(&ids[..4]) {
        recorder.accepted(&order(number, at(number), true), *id, at(2_000));
    }
    recorder.settled(ids[0], Ending::Done, 3, at(2_100));
    recorder.settled(ids[1], Ending::Failed("rejected".into()), 1, at(2_500));
    // Parked, then settled by a person; the third stays parked, the fourth pending.
    recorder.settled(ids[1], Ending::Parked, 1, at(2_500));
    recorder.settled(ids[2], Ending::Parked, 1, at(2_500));
    recorder.settled(ids[2], Ending::Parked, 1, at(2_600));
    assert_eq!(recorder.progress().pending, 1);
    recorder.refused(&order(4, at(4), true), "SG-0002", "no such function", at(2_000));
    recorder.unanswered(&order(5, at(5), true), "reset".into(), at(2_000));
    // That one was accepted all the same.
    recorder.settled(ids[4], Ending::Done, 1, at(2_200));

    let measured = recorder.finish();
    let counts = Counts::of(&measured);
    assert_eq!(
        (counts.due, counts.accepted, counts.refused(), counts.unanswered()),
        (8, 4, 1, 1)
    );
    assert_eq!(counts.unfinished, 2);
    assert_eq!(
        (counts.done, counts.failed(), counts.parked, counts.pending),
        (1, 1, 1, 1)
    );
    assert_eq!(counts.unclaimed, 1);
    assert_eq!(counts.refused["SG-0002"].example, "no such function");
    assert_eq!(measured.tries, BTreeMap::from([(1, 1), (3, 1)]));
    // From the moment it was due to the event as it was read, not to when the answer came.
    let fastest = measured.end_to_end.min() / 1_000;
    assert!((1_490..=1_500).contains(&fastest), "{fastest}");
    let series = &measured.series;
    assert_eq!(
        series.iter().map(|second| second.due).collect::<Vec<_>>(),
        [8, 0, 0]
    );
    assert_eq!(
        series.iter().map(|second| second.accepted).collect::<Vec<_>>(),
        [0, 0, 4]
    );
    assert_eq!(
        series.iter().map(|second| second.done).collect::<Vec<_>>(),
        [0, 1, 0]
    );
    assert_eq!(series[2].failed, 1);
    assert!(series[2].accept_ms.is_some() && series[0].accept_ms.is_none());
    assert_eq!(Fairness::of(&measured).expect("some").keys, 1);
}

#[test]
fn each_second_has_its_own_percentiles() {
    let start = Instant::now();
    let recorder = Recorder::new(start, start + Duration::from_secs(2));
    for second in 0..3_u64 {
        for number in 0..10 {
            let due = start + Duration::from_secs(second) + Duration::from_millis(number);
            let took = Duration::from_millis(10 * (second + 1));
            recorder.accepted(&order(number, due, true), TransactionId::new(), due + took);
        }
    }
    let medians: Vec<_> = recorder
        .finish()
        .series
        .iter()
        .map(|second| second.accept_ms.expect("some")[0].round())
        .collect();
    assert_eq!(medians, [10.0, 20.0, 30.0]);
}
