//! All interleavings of a few threads over `cells` and `admission`, by loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p counterfoil-policy --test interleavings`.
#![cfg(loom)]

use counterfoil_policy::admission::{Admission, Wait};
use counterfoil_policy::cells::Cells;
use loom::sync::Arc;
use loom::thread;

/// Admit once, one step at a time, up to a debt of `most`.
fn spend(cells: &Cells, hash: u64, now: u64, most: u64) -> bool {
    cells
        .update(hash, now, |time| if time.max(now) - now < most { Ok(time.max(now) + 1) } else { Err(()) })
        .is_ok()
}

#[test]
fn two_threads_never_spend_the_same_request() {
    loom::model(|| {
        let cells = Arc::new(Cells::new(2));
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let cells = Arc::clone(&cells);
                thread::spawn(move || u64::from(spend(&cells, 1, 10, 3)) + u64::from(spend(&cells, 1, 10, 3)))
            })
            .collect();
        let spent: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(spent, 3);
        assert_eq!((cells.time(1), cells.used()), (13, 1));
    });
}

#[test]
fn who_takes_a_cell_over_is_not_charged_for_who_had_it() {
    loom::model(|| {
        let cells = Arc::new(Cells::new(2));
        // One cell is in debt for long; the other is idle at 10, and its key comes again just when
        // another key needs a cell.
        assert!(cells.update(2, 1, |_| Ok::<_, ()>(1_000)).is_ok());
        assert!(cells.update(1, 1, |_| Ok::<_, ()>(5)).is_ok());
        let other = {
            let cells = Arc::clone(&cells);
            thread::spawn(move || spend(&cells, 9, 10, 3))
        };
        let again = spend(&cells, 1, 10, 3);
        let newcomer = other.join().unwrap();
        assert!(again != newcomer, "one cell is free: exactly one of the two gets it");
        let (winner, loser) = if again { (1, 9) } else { (9, 1) };
        assert_eq!(cells.time(winner), 11);
        assert_eq!(cells.time(loser), 0);
        assert_eq!((cells.time(2), cells.used()), (1_000, 2));
    });
}

#[test]
fn two_newcomers_of_one_key_share_a_cell() {
    loom::model(|| {
        let cells = Arc::new(Cells::new(2));
        let other = {
            let cells = Arc::clone(&cells);
            thread::spawn(move || spend(&cells, 1, 10, 1))
        };
        let here = spend(&cells, 1, 10, 1);
        assert!(here != other.join().unwrap());
        assert_eq!((cells.time(1), cells.used()), (11, 1));
    });
}

/// Enter or wait; how many were woken with a place by that, oneself included.
fn come(admission: &Admission<()>) -> usize {
    if admission.enter() {
        return 1;
    }
    match admission.wait(0, ()) {
        Wait::Admitted => 1,
        Wait::Waits { admitted, .. } => usize::from(admitted.is_some()),
        Wait::Refused => panic!("the queue has room"),
    }
}

#[test]
fn nobody_waits_for_a_place_that_is_free() {
    loom::model(|| {
        let admission = Arc::new(Admission::new(1, 4));
        assert!(admission.enter());
        let leaves = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || usize::from(admission.leave().is_some()))
        };
        let woken = come(&admission) + leaves.join().unwrap();
        assert_eq!((woken, admission.in_flight(), admission.waiting()), (1, 1, 0));
    });
}

#[test]
fn who_gives_up_either_has_a_place_or_leaves_none_behind() {
    loom::model(|| {
        let admission = Arc::new(Admission::new(1, 4));
        assert!(admission.enter());
        let Wait::Waits { ticket, .. } = admission.wait(0, ()) else { panic!("there is no place") };
        let leaves = {
            let admission = Arc::clone(&admission);
            thread::spawn(move || admission.leave().is_some())
        };
        let gave_up = admission.give_up(ticket);
        assert!(leaves.join().unwrap() != gave_up);
        assert_eq!((admission.in_flight(), admission.waiting()), (usize::from(!gave_up), 0));
    });
}
