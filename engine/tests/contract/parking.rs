//! Waiting without the shard, and shards that go from thread to thread.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use zring_engine::{Config, Parking, TurnWait, lead::Wait};

use crate::{
    case::{Case, patience},
    content::{check, content},
    record::End,
    world::World,
};

const MS: u64 = 1_000_000;

/// Parks without a deadline, once there is no work left.
fn park(world: &mut World<'_>) -> Parking {
    let start = Instant::now();
    loop {
        world.look();
        let parking = world.shard.park(&mut world.recorder, None).expect("a park");
        if let Some(parking) = parking {
            assert!(world.shard.is_parked() && !world.shard.wants_turn());
            return parking;
        }
        assert!(start.elapsed() < patience(), "there is always something to do");
    }
}

fn wait(mut parking: Parking) -> Parking {
    let start = Instant::now();
    parking.wait().expect("a wait");
    assert!(start.elapsed() < patience() / 2, "it slept too long");
    parking
}

/// Waits on a thread that is allowed to wait, while `cause` happens on another.
fn wait_while(world: &mut World<'_>, parking: Parking, cause: impl FnOnce() + Send) {
    let later = || {
        thread::sleep(Duration::from_millis(3));
        cause();
    };
    let parking = thread::scope(|scope| {
        if world.shard.is_mobile() {
            let waiter = scope.spawn(|| wait(parking));
            later();
            waiter.join().expect("the waiter")
        } else {
            scope.spawn(later);
            wait(parking)
        }
    });
    world.shard.unpark(parking);
    assert!(!world.shard.is_parked());
}

pub(crate) fn a_wait_without_the_shard_ends(case: &Case) {
    let mut world = World::with(case, Config { shared: true, ..case.config() });
    let (conn, mut peer) = world.remote();
    world.shard.receive_ring(conn);
    for round in 1..=20 {
        let parking = park(&mut world);
        wait_while(&mut world, parking, || peer.write_all(b"data").expect("write"));
        // The event that ended the wait is available without another wait.
        let start = Instant::now();
        while world.side(conn).received.len() < 4 * round {
            world.look();
            assert!(start.elapsed() < patience(), "woken, and yet no data");
        }
        let parking = park(&mut world);
        let waker = world.shard.waker();
        wait_while(&mut world, parking, || waker.wake());
    }
    // Wakes from before the wait count.
    let parking = park(&mut world);
    world.shard.waker().wake();
    let parking = wait(parking);
    world.shard.unpark(parking);
    // A deadline known before the wait.
    let start = Instant::now();
    world.shard.arm_timer(world.shard.now_ns() + 20 * MS, 1);
    while world.recorder.timers.is_empty() {
        let parking = world.shard.park(&mut world.recorder, None).expect("a park");
        parking.map(wait).into_iter().for_each(|parking| world.shard.unpark(parking));
        world.look();
    }
    assert!(start.elapsed() >= Duration::from_millis(19), "{:?}", start.elapsed());
}

pub(crate) fn what_is_begun_during_a_wait_takes_effect(case: &Case) {
    let mut world = World::with(case, Config { shared: true, ..case.config() });
    let (conn, mut peer) = world.remote();
    for round in 1..=10 {
        // A timer that is due before the wait would end.
        let parking = park(&mut world);
        world.shard.arm_timer(world.shard.now_ns() + MS, round);
        assert!(world.shard.take_early() && !world.shard.is_early(), "it says so once");
        let waker = world.shard.waker();
        wait_while(&mut world, parking, || waker.wake());
        world.turn_until("a timer", |world| world.recorder.timers.len() == round as usize);
        // A receive: either submitted at once, or the shard has to be woken.
        let parking = park(&mut world);
        world.shard.receive_ring(conn);
        world.shard.flush().expect("a flush");
        if world.shard.wants_turn() {
            world.shard.waker().wake();
        }
        wait_while(&mut world, parking, || peer.write_all(b"data").expect("write"));
        assert_eq!(world.receive(conn, 4), b"data");
        // The end of the receive.
        let parking = park(&mut world);
        world.shard.receive_stop(conn);
        assert!(world.shard.wants_turn());
        let waker = world.shard.waker();
        wait_while(&mut world, parking, || waker.wake());
        world.turn_until("a stop", |world| world.side(conn).ends.len() == round as usize);
    }
    assert!(world.side(conn).end_kinds().iter().all(|&end| end == End::Stopped));
    // A send, and a connection that closes during a wait.
    let parking = park(&mut world);
    world.send_bytes(conn, b"bye");
    world.recorder.close(&mut world.shard, conn);
    assert!(world.shard.wants_turn());
    let waker = world.shard.waker();
    wait_while(&mut world, parking, || waker.wake());
    world.turn_until("a close", |world| world.side(conn).closed);
}

pub(crate) fn a_mobile_shard_moves(case: &Case) {
    let mut world = World::with(case, Config { shared: true, ..case.config() });
    let (first, second) = world.pair();
    world.side(second).echo = true;
    world.shard.receive_ring(first);
    world.shard.receive_ring(second);
    if !world.shard.is_mobile() {
        let refused = elsewhere(&mut world, |world| {
            world.listen();
            world.shard.turn(&mut world.recorder, TurnWait::No)
        });
        assert!(refused.is_err(), "a fixed shard does not work elsewhere: {refused:?}");
        return;
    }
    let mut leases = Vec::new();
    for round in 0..40 {
        let size = [1, 100, 70_000, 1 << 20][round % 4];
        // Started here, continued on the other thread, finished here.
        world.send_bytes(first, &content(1, 0, size));
        elsewhere(&mut world, |world| {
            world.turn_until("a first byte", |world| !world.side(first).received.is_empty());
            world.side(first).take = crate::record::Take::Lease;
        });
        check(1, 0, &world.receive(first, size));
        leases.extend(std::mem::take(&mut world.side(first).leases));
        elsewhere(&mut world, |_| leases.clear());
        let parking = park(&mut world);
        let waker = world.shard.waker();
        wait_while(&mut world, parking, || waker.wake());
    }
    elsewhere(&mut world, |world| {
        world.close(first);
        world.close(second);
    });
    world.turn();
    assert_eq!((world.shard.in_flight(), world.shard.pool().lent_len()), (0, 0));
}

fn elsewhere<'a, T: Send>(
    world: &mut World<'a>,
    what: impl FnOnce(&mut World<'a>) -> T + Send,
) -> T {
    thread::scope(|scope| scope.spawn(|| what(world)).join().expect("the other thread"))
}
