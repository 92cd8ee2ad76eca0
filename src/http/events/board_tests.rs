//! Who is told what, and who is not woken.

use std::sync::Arc;

use futures_util::FutureExt;

use super::{Board, KEPT, Next, Seat, Update};
use crate::domain::{TenantName, Transaction};
use crate::store::conformance::transaction;
use crate::store::{Filter, Position};

fn tell(board: &Board, number: u64, tx: &Transaction) -> usize {
    let concerned = board.concerned(tx);
    let update = Update {
        at: Position(1, number),
        json: Some(Default::default()),
    };
    board.tell(update, &concerned);
    board.told(Position(1, number));
    concerned.len()
}

/// The numbers that one is told, and up to where there was nothing more.
fn heard(seat: &mut Seat) -> (Vec<u64>, Option<u64>) {
    let mut numbers = Vec::new();
    loop {
        match seat.next() {
            Next::Update(update) => numbers.push(update.at.1),
            Next::Nothing(told) => return (numbers, told.map(|told| told.1)),
            Next::Missed => return (numbers, None),
        }
    }
}

fn labelled(order: &str) -> Filter {
    Filter {
        metadata: [("order".to_owned(), order.to_owned())].into(),
        ..Filter::default()
    }
}

#[test]
fn i9_whoever_is_not_concerned_is_neither_told_nor_woken() {
    let board = Arc::<Board>::default();
    let (mut all, first) = board.follow(&Filter::default());
    let (mut wanted, second) = board.follow(&labelled("4711"));
    let (mut other, _) = board.follow(&labelled("4712"));
    let acme = Filter {
        tenant: TenantName::new("acme"),
        ..labelled("4711")
    };
    let (mut tenant, _) = board.follow(&acme);
    assert_eq!((first, second), (true, false), "one sees to the telling");
    let wakes = [wanted.woken(), other.woken()];
    let woken = wakes.each_ref().map(|wake| wake.notified());
    assert_eq!(tell(&board, 1, &transaction("main", None)), 2);
    let woken = woken.map(|woken| woken.now_or_never().is_some());
    assert_eq!(woken, [true, false]);
    let mut of_acme = transaction("main", None);
    of_acme.tenant = TenantName::new("acme").expect("a name");
    assert_eq!(tell(&board, 2, &of_acme), 3);
    assert_eq!(heard(&mut all), (vec![1, 2], Some(2)));
    assert_eq!(heard(&mut wanted), (vec![1, 2], Some(2)));
    assert_eq!(heard(&mut tenant), (vec![2], Some(2)));
    assert_eq!(heard(&mut other), (vec![], Some(2)), "what passed by is known");
}

#[test]
fn i7_whoever_is_behind_what_is_kept_finds_that_out_and_nobody_else() {
    let board = Arc::<Board>::default();
    let (mut lazy, _) = board.follow(&Filter::default());
    let (mut keen, _) = board.follow(&Filter::default());
    let (mut rare, _) = board.follow(&labelled("rare"));
    let (mut idle, _) = board.follow(&labelled("never"));
    let mut one = transaction("main", None);
    let labels = &mut Arc::make_mut(&mut one.request).metadata;
    labels.insert("order".to_owned(), "rare".to_owned());
    tell(&board, 1, &one);
    let kept = KEPT as u64;
    for number in 2..=kept + 1 {
        tell(&board, number, &transaction("main", None));
        assert_eq!(heard(&mut keen).0.last(), Some(&number));
    }
    assert!(matches!(lazy.next(), Next::Missed));
    assert!(matches!(rare.next(), Next::Missed));
    assert_eq!(heard(&mut idle), (vec![], Some(kept + 1)));
    // Who comes now is told what comes now.
    let (mut late, _) = board.follow(&Filter::default());
    tell(&board, kept + 2, &transaction("main", None));
    assert_eq!(heard(&mut late), (vec![kept + 2], Some(kept + 2)));
    assert!(matches!(lazy.next(), Next::Missed), "until it has caught up");
}

#[test]
fn whoever_goes_leaves_nothing_behind() {
    let board = Arc::<Board>::default();
    let seats: Vec<_> = (0..3)
        .map(|n| board.follow(&labelled(&format!("{}", n % 2))).0)
        .collect();
    board.tell_all(Update {
        at: Position(1, 1),
        json: None,
    });
    assert!(!board.ends(false));
    drop(seats);
    let state = board.lock();
    assert_eq!((state.groups.len(), state.places.len()), (0, 0));
    drop(state);
    assert!(board.ends(false));
    assert_eq!(board.lock().kept.len(), 0);
    let (mut next, first) = board.follow(&Filter::default());
    assert!(first, "somebody has to tell anew");
    assert_eq!(heard(&mut next), (vec![], None), "of nothing");
}

#[test]
fn a_board_that_ends_sends_everybody_to_the_store() {
    let board = Arc::<Board>::default();
    let (mut seat, _) = board.follow(&Filter::default());
    tell(&board, 1, &transaction("main", None));
    assert!(board.ends(true));
    assert!(matches!(seat.next(), Next::Missed));
}
