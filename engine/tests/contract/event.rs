//! The event descriptor: readable whenever a turn would find work.

use std::{io::Write, thread, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zring_engine::{Config, Direct, FileRegion, Segment, SharedMut};

use crate::{
    case::{Case, patience},
    content::check,
    pool::{lease_all, release_all, starved},
    world::{QUIET, World},
};

const MS: u64 = 1_000_000;

fn is_readable(world: &mut World<'_>, within: Duration) -> bool {
    let fd = world.shard.event_fd().expect("an event descriptor");
    let timeout = Timespec::try_from(within).expect("a short time");
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    poll(&mut polled, Some(&timeout)).expect("poll") == 1
}

/// Turns until the descriptor is unreadable.
fn settle(world: &mut World<'_>) {
    let mut turns = 0;
    // One event may show twice, the second time a moment later.
    while is_readable(world, QUIET) {
        world.look();
        turns += 1;
        assert!(turns < 100, "turning makes it unreadable");
    }
}

/// Waits for the descriptor and turns, until `done`.
#[track_caller]
fn follow(world: &mut World<'_>, what: &str, mut done: impl FnMut(&mut World<'_>) -> bool) {
    let mut turns = 0;
    while !done(world) {
        assert!(is_readable(world, patience() / 2), "silent, and yet there is: {what}");
        world.look();
        turns += 1;
        assert!(turns < 10_000, "readable all the time for nothing, waiting for: {what}");
    }
}

pub(crate) fn it_follows_data(case: &Case) {
    let mut world = World::new(case);
    let (listener, address) = world.listen();
    world.look();
    settle(&mut world);
    let mut peer = case.peer(&address);
    follow(&mut world, "a connection", |world| !world.recorder.accepted.is_empty());
    let conn = world.recorder.accepted.pop_front().expect("just seen");
    world.shard.receive_ring(conn);
    world.shard.flush().expect("a flush");
    for round in 1..=20 {
        settle(&mut world);
        peer.write_all(b"data").expect("write");
        follow(&mut world, "data", |world| world.side(conn).received.len() == 4 * round);
    }
    // A send that has to wait for the peer.
    world.send_bytes(conn, &[7; 4 << 20]);
    world.shard.flush().expect("a flush");
    let reader = thread::spawn(move || {
        let got = crate::content::read_up_to(&peer, 4 << 20).len();
        (got, peer)
    });
    follow(&mut world, "a send", |world| world.side(conn).sent.len() == 1);
    let (got, peer) = reader.join().expect("the reader");
    assert_eq!(got, 4 << 20);
    settle(&mut world);
    drop(peer);
    follow(&mut world, "the peer's end", |world| world.side(conn).ends.len() == 1);
    world.shard.close_listener(listener);
}

/// No call polls the ring and thereby submits new operations: the flush alone has to do it.
pub(crate) fn it_follows_receives_into_given_memory(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    for round in 1..=5_u8 {
        settle(&mut world);
        world.shard.await_readable(conn);
        world.shard.flush().expect("a flush");
        peer.write_all(&[round; 30]).expect("write");
        follow(&mut world, "something to receive", |world| {
            world.side(conn).readable == u32::from(round)
        });
        settle(&mut world);
        let (body, spill) = (Some(SharedMut::with_expected(20)), Vec::with_capacity(100));
        world.shard.receive_direct(conn, Direct { body, rest: 20, spill });
        world.shard.flush().expect("a flush");
        follow(&mut world, "a body", |world| !world.side(conn).directs.is_empty());
        let direct = world.side(conn).directs.pop_front().expect("just seen");
        assert_eq!((direct.rest, &direct.spill[..]), (0, &[round; 10][..]));
    }
}

pub(crate) fn it_follows_files(case: &Case) {
    let mut world = World::new(case);
    let (conn, peer) = world.remote();
    let file = tempfile::tempfile().expect("a file");
    file.set_len(5 << 20).expect("grow");
    let file = std::sync::Arc::new(file);
    let reader = thread::spawn(move || crate::content::read_up_to(&peer, (5 << 20) + 50).len());
    // Sends that finish at once, and one that has to wait for the peer.
    for len in [10, 5 << 20, 40] {
        settle(&mut world);
        let region = FileRegion::new(file.clone(), 0, len).expect("in it");
        world.send(conn, Segment::File(region));
        world.shard.flush().expect("a flush");
        follow(&mut world, "a send", |world| !world.side(conn).is_sending);
    }
    assert_eq!(reader.join().expect("the reader"), (5 << 20) + 50);
    assert!(world.side(conn).sent.iter().all(|sent| sent.bytes == sent.total));
}

pub(crate) fn it_follows_wakes(case: &Case) {
    let mut world = World::new(case);
    for _ in 0..10 {
        settle(&mut world);
        let waker = world.shard.waker();
        thread::spawn(move || waker.wake());
        assert!(is_readable(&mut world, patience() / 2));
    }
    settle(&mut world);
    world.shard.resolve("localhost", 1, false, 1).expect("a lookup");
    follow(&mut world, "a name", |world| world.recorder.resolved.len() == 1);
}

pub(crate) fn it_follows_timers(case: &Case) {
    let mut world = World::new(case);
    settle(&mut world);
    // Timers armed between turns, the later one first.
    let now_ns = world.shard.now_ns();
    let late = world.shard.arm_timer(now_ns + 3_600_000 * MS, 1);
    world.shard.arm_timer(now_ns + 60 * MS, 3);
    world.shard.arm_timer(now_ns + 20 * MS, 2);
    follow(&mut world, "a timer", |world| world.recorder.timers.first() == Some(&2));
    follow(&mut world, "the next timer", |world| world.recorder.timers == [2, 3]);
    // Short timers one after another, while a late one waits all the time.
    for round in 0..50 {
        world.shard.arm_timer(world.shard.now_ns() + MS, 10 + round);
        follow(&mut world, "a short timer", |world| {
            world.recorder.timers.last() == Some(&(10 + round))
        });
    }
    world.shard.cancel_timer(late);
    settle(&mut world);
}

pub(crate) fn it_follows_what_a_turn_left_over(case: &Case) {
    let mut world = World::with(case, Config { completions_per_turn: 2, ..case.config() });
    let mut peers = Vec::new();
    let conns: Vec<_> = (0..12)
        .map(|_| {
            let (conn, peer) = world.remote();
            world.shard.receive_ring(conn);
            peers.push(peer);
            conn
        })
        .collect();
    world.turn();
    settle(&mut world);
    peers.iter_mut().for_each(|peer| peer.write_all(b"x").expect("write"));
    follow(&mut world, "completions beyond a turn's bound", |world| {
        conns.iter().all(|&conn| world.side(conn).received.len() == 1)
    });
}

pub(crate) fn it_follows_a_close_between_turns(case: &Case) {
    let mut world = World::new(case);
    let (conn, _peer) = world.remote();
    world.turn();
    settle(&mut world);
    // No operation is in flight on the connection, so no completion comes from the kernel.
    world.recorder.close(&mut world.shard, conn);
    follow(&mut world, "the end of a close", |world| world.side(conn).closed);
}

/// Turns while the event descriptor is readable.
fn follow_to_rest(world: &mut World<'_>) {
    while is_readable(world, Duration::from_millis(20)) {
        world.look();
    }
}

pub(crate) fn a_lease_dropped_elsewhere_signals_the_event_fd(case: &Case) {
    let (mut world, conn) = starved(case, 7);
    let mut at = 0;
    for round in 0..20 {
        follow_to_rest(&mut world);
        let (leases, pinned) = lease_all(&mut world, conn, 7, &mut at);
        if round % 2 == 0 {
            follow_to_rest(&mut world);
        }
        let dropper = thread::spawn(move || {
            thread::sleep(Duration::from_millis(3));
            drop(leases);
        });
        follow(&mut world, "a lease came back", |world| !world.side(conn).chunks.is_empty());
        dropper.join().expect("the dropper");
        release_all(&mut world, pinned);
    }
}

pub(crate) fn a_lease_dropped_here_signals_the_event_fd(case: &Case) {
    let (mut world, conn) = starved(case, 12);
    let mut at = 0;
    for _ in 0..20 {
        follow_to_rest(&mut world);
        let (leases, pinned) = lease_all(&mut world, conn, 12, &mut at);
        drop(leases);
        follow(&mut world, "a lease came back", |world| !world.side(conn).chunks.is_empty());
        release_all(&mut world, pinned);
    }
}

pub(crate) fn a_chunk_released_between_turns_signals_the_event_fd(case: &Case) {
    let (mut world, conn) = starved(case, 8);
    for _ in 0..20 {
        follow_to_rest(&mut world);
        world.recorder.release(&mut world.shard, conn);
        follow(&mut world, "a chunk was released", |world| !world.side(conn).chunks.is_empty());
    }
    check(8, 0, &world.side(conn).received);
}
