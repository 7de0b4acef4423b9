//! Storms of wakes.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    On, patience,
    rig::{NETS, Rig, pair},
};
use crate::{
    driver::Wait,
    sync::{AtomicBool, AtomicUsize, Ordering},
};

const THREADS: usize = 4;

/// Sends `count` messages between two ends, back and forth, one after the other.
fn converse(rig: &mut Rig, count: usize) {
    for &net in NETS {
        let (first, second) = pair(net);
        second.set_nonblocking(true).expect("non-blocking");
        let ends = [rig.receive(&first), rig.receive(&second)];
        for at in 0..count {
            let from = if at % 2 == 0 { &first } else { &second };
            let send = rig.send(from, vec![at as u8; 3]);
            assert_eq!(rig.take(ends[1 - at % 2], 3), [at as u8; 3]);
            rig.turn_until("a send", |rig| rig.is_over(send));
        }
        ends.into_iter().for_each(|op| rig.cancel_and_reap(op));
        rig.close(first);
        rig.close(second);
    }
}

pub(super) fn a_storm_of_wakes_stops_nobody(on: On) {
    const MESSAGES: usize = 600;
    let mut rig = Rig::open(on);
    rig.parks_apart = true;
    let (is_over, wakes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let wakers = [rig.waker(), rig.waker()];
    thread::scope(|scope| {
        for at in 0..THREADS {
            let (waker, is_over, wakes) = (&wakers[at % 2], &is_over, &wakes);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    waker.wake_by_ref();
                    if wakes.fetch_add(1, Ordering::Relaxed) % 50 == at {
                        thread::yield_now();
                    }
                }
            });
        }
        converse(&mut rig, MESSAGES);
        is_over.store(true, Ordering::Relaxed);
    });
    let (turns, wakes) = (rig.turns, wakes.into_inner());
    // Bytes are received however often other threads wake the driver, and all wakes between two turns count as one.
    assert!(turns < MESSAGES * NETS.len() * 40, "{turns} turns for {MESSAGES} messages");
    assert!(rig.woken > 0 && wakes > rig.woken, "{} of {wakes}", rig.woken);
    assert!(rig.woken <= 2 * turns + 2, "{} in {turns} turns", rig.woken);
    // Next to no wake is left over.
    let before = rig.woken;
    rig.turn_for(Duration::from_millis(3));
    assert!(rig.woken - before <= 8, "{}", rig.woken - before);
    rig.assert_idle();
    for round in 0..20 {
        let before = rig.woken;
        rig.waker().wake();
        rig.turn_until("the last wake", |rig| rig.woken > before);
        if round % 10 == 0 {
            rig.assert_silent();
        }
    }
    converse(&mut rig, 4);
    rig.assert_idle();
}

pub(super) fn wakes_of_many_threads_are_never_lost(on: On) {
    const ROUNDS: usize = 300;
    let mut rig = Rig::open(on);
    rig.parks_apart = true;
    let asked: [_; THREADS] = std::array::from_fn(|_| AtomicUsize::new(0));
    let answered: [_; THREADS] = std::array::from_fn(|_| AtomicUsize::new(0));
    let waker = rig.waker();
    let is_stuck = AtomicBool::new(false);
    thread::scope(|scope| {
        for (asked, answered) in asked.iter().zip(&answered) {
            let (waker, is_stuck) = (&waker, &is_stuck);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    asked.store(round, Ordering::SeqCst);
                    waker.wake_by_ref();
                    while answered.load(Ordering::SeqCst) < round {
                        if is_stuck.load(Ordering::Relaxed) {
                            return;
                        }
                        thread::yield_now();
                    }
                }
            });
        }
        let mut longest = Duration::ZERO;
        while answered.iter().any(|answered| answered.load(Ordering::SeqCst) < ROUNDS) {
            let start = Instant::now();
            let before = rig.woken;
            // The timeout is longer than anything may take: a lost wake shows as a sleep.
            rig.turn(Wait::Park(Some(patience().as_nanos() as u64)));
            longest = longest.max(start.elapsed());
            if longest > patience() / 2 {
                break;
            }
            // Only the completion counts as an answer, not the end of the sleep.
            if rig.woken > before {
                for (asked, answered) in asked.iter().zip(&answered) {
                    answered.store(asked.load(Ordering::SeqCst), Ordering::SeqCst);
                }
            }
        }
        is_stuck.store(longest > patience() / 2, Ordering::Relaxed);
        assert!(longest <= patience() / 2, "a wake was lost: {longest:?} asleep");
    });
    rig.turn_for(Duration::from_millis(2));
    rig.assert_idle();
}
