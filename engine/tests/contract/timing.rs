//! Time: timers, parks, wakes, and answers from the resolver.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    case::{Case, patience},
    content::{Random, check, content},
    world::World,
};

const MS: u64 = 1_000_000;

pub(crate) fn timers_come_in_order(case: &Case) {
    let mut world = World::new(case);
    let start_ns = world.shard.now_ns();
    let mut random = Random(1);
    let mut expected = Vec::new();
    for token in 0..200 {
        let deadline_ns = start_ns + random.below(30) as u64 * MS;
        let timer = world.shard.arm_timer(deadline_ns, token);
        if random.below(4) == 0 {
            world.shard.cancel_timer(timer);
            world.shard.cancel_timer(timer);
        } else {
            expected.push((deadline_ns, token));
        }
    }
    // A stable sort: equal deadlines stay in the order they were armed.
    expected.sort_by_key(|&(deadline_ns, _)| deadline_ns);
    let mut seen = 0;
    world.turn_until("all timers", |world| {
        let now_ns = world.shard.now_ns();
        let fired = world.recorder.timers.len();
        for &(deadline_ns, token) in &expected[seen..fired] {
            assert!(now_ns >= deadline_ns, "timer {token} came early");
        }
        seen = fired;
        fired == expected.len()
    });
    let order: Vec<_> = expected.into_iter().map(|(_, token)| token).collect();
    assert_eq!(world.recorder.timers, order);
    assert_eq!(world.shard.next_deadline_ns(), None);
}

pub(crate) fn a_park_ends_in_time(case: &Case) {
    let mut world = World::new(case);
    let start = Instant::now();
    let until_ns = world.shard.now_ns() + 30 * MS;
    world.wait(Some(until_ns));
    while world.shard.now_ns() < until_ns {
        // The first turn may see the wake of the shard's start.
        world.wait(Some(until_ns));
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(29) && took < patience(), "{took:?}");
    assert!(!case.parks() || world.shard.stats().turns < 4, "{:?}", world.shard.stats());
    let long_ns = world.shard.now_ns() + patience().as_nanos() as u64;
    for until_ns in [Some(long_ns), None] {
        let start = Instant::now();
        world.shard.arm_timer(world.shard.now_ns() + 20 * MS, 8);
        while world.recorder.timers.is_empty() {
            world.wait(until_ns);
        }
        assert!(start.elapsed() < patience() / 2, "a timer ends a longer park");
        world.recorder.timers.clear();
    }
    // A deadline in the past ends the wait at once.
    world.wait(Some(0));
}

pub(crate) fn a_waker_ends_a_park(case: &Case) {
    let mut world = World::new(case);
    for _ in 0..5 {
        let waker = world.shard.waker();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            waker.wake();
        });
        let start = Instant::now();
        world.wait(None);
        assert!(start.elapsed() < patience() / 2);
        other.join().expect("the other thread");
        world.look();
    }
    // An earlier wake is not forgotten; a wake that was seen does not come again.
    world.shard.waker().wake_by_ref();
    world.wait(None);
    let seen = world.shard.stats().completions;
    world.turn_quietly();
    assert_eq!(world.shard.stats().completions, seen, "woken for nothing");
    let waker = world.shard.waker();
    drop(world);
    waker.wake();
}

pub(crate) fn wakes_are_never_lost(case: &Case) {
    use std::sync::atomic::{AtomicU64, Ordering};
    let mut world = World::new(case);
    let waker = world.shard.waker();
    // Spinning threads that share a core hand over at the pace of the scheduler.
    let rounds = if case.parks() { 2000 } else { 200 };
    let (asked, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                asked.store(round, Ordering::SeqCst);
                waker.wake_by_ref();
                let start = Instant::now();
                while answered.load(Ordering::SeqCst) < round {
                    if start.elapsed() > patience() {
                        // Unblocks the shard, which then fails.
                        waker.wake_by_ref();
                        return;
                    }
                    thread::yield_now();
                }
            }
        });
        let start = Instant::now();
        while answered.load(Ordering::SeqCst) < rounds {
            world.wait(None);
            answered.store(asked.load(Ordering::SeqCst), Ordering::SeqCst);
            assert!(start.elapsed() < patience(), "stuck at {answered:?}");
        }
    });
}

pub(crate) fn names_are_resolved(case: &Case) {
    let mut world = World::new(case);
    world.shard.resolve("127.0.0.1", 5, false, 11).expect("a lookup");
    world.shard.resolve("localhost", 6, false, 12).expect("a lookup");
    world.shard.resolve("no such name", 7, false, 13).expect("a lookup");
    // The answers end parks, even those without a deadline.
    while world.recorder.resolved.len() < 3 {
        world.wait(None);
    }
    world.recorder.resolved.sort_by_key(|(token, _)| *token);
    let [(11, Ok(plain)), (12, Ok(local)), (13, Err(_))] = &world.recorder.resolved[..] else {
        panic!("three answers: {:?}", world.recorder.resolved);
    };
    assert_eq!(plain[..], ["127.0.0.1:5".parse().expect("an address")]);
    assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 6));
}

pub(crate) fn a_shard_serves_and_keeps_time(case: &Case) {
    let mut world = World::new(case);
    let (first, second) = world.pair();
    world.side(second).echo = true;
    world.shard.receive_ring(first);
    world.shard.receive_ring(second);
    for size in [1, 1000, 300_000] {
        world.send_bytes(first, &content(2, 0, size));
        check(2, 0, &world.receive(first, size));
    }
    world.shard.arm_timer(world.shard.now_ns() + 5 * MS, 1);
    world.turn_until("a timer", |world| world.recorder.timers == [1]);
    let waker = world.shard.waker();
    thread::spawn(move || waker.wake());
    let before = world.shard.stats().completions;
    world.turn_until("a wake", |world| world.shard.stats().completions > before);
}
