//! The receive pool under pressure: exhaustion, leases, and the wake when a buffer comes back.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;
use zring_engine::{Chunk, ConnId, Direct, Lease, PoolConfig, SharedMut};

use crate::{
    case::{Case, patience},
    content::{Random, check, content, write_stream},
    record::{End, Take},
    world::World,
};

const TINY: PoolConfig = PoolConfig { buffers: 4, buffer_bytes: 4096, with_kernel: 4, reserve: 1 };

/// Writes in the background until the other end closes.
fn flood(peer: Socket, seed: u64) {
    thread::spawn(move || {
        let mut at = 0;
        while (&peer).write_all(&content(seed, at, 1000)).is_ok() {
            at += 1000;
        }
    });
}

/// A connection that keeps every chunk of an endless stream, and the shard that it has starved.
pub(crate) fn starved(case: &Case, seed: u64) -> (World<'_>, ConnId) {
    let mut world = World::with(case, case.with_pool(TINY));
    let (conn, peer) = world.remote();
    world.side(conn).take = Take::Keep;
    world.shard.receive_ring(conn);
    flood(peer, seed);
    world.turn_until("exhaustion", |world| world.recorder.starved > 0);
    (world, conn)
}

/// Leases as many kept chunks as the reserve allows, and releases those chunks. The caller releases the others, which
/// pin their buffers. The bytes are checked as stream `seed`.
pub(crate) fn lease_all(
    world: &mut World<'_>,
    conn: ConnId,
    seed: u64,
    at: &mut usize,
) -> (Vec<Lease>, Vec<Chunk>) {
    let chunks = std::mem::take(&mut world.side(conn).chunks);
    let (mut pool, _) = world.shard.memory();
    let leases: Vec<_> = chunks.iter().map(|chunk| pool.lease(chunk, 0..chunk.len())).collect();
    let (mut leased, mut pinned) = (Vec::new(), Vec::new());
    for (chunk, lease) in chunks.into_iter().zip(leases) {
        check(seed, *at, pool.bytes(&chunk));
        *at += chunk.len();
        match lease {
            Some(lease) => {
                leased.push(lease);
                pool.release(chunk);
            }
            None => pinned.push(chunk),
        }
    }
    assert!(!leased.is_empty());
    (leased, pinned)
}

pub(crate) fn release_all(world: &mut World<'_>, chunks: Vec<Chunk>) {
    chunks.into_iter().for_each(|chunk| world.shard.release(chunk));
}

pub(crate) fn exhaustion_and_recovery(case: &Case) {
    let mut world = World::with(case, case.with_pool(TINY));
    let (conn, peer) = world.remote();
    let total = 200_000;
    let writer = thread::spawn(move || drop(write_stream(peer, 1, total, 2000)));
    world.side(conn).take = Take::Keep;
    world.shard.receive_ring(conn);
    let mut exhausted = 0;
    while world.side(conn).received.len() < total {
        let before = world.recorder.starved;
        world.turn_until("exhaustion or the end", |world| {
            world.recorder.starved > before || !world.side(conn).ends.is_empty()
        });
        exhausted += u32::from(world.recorder.starved > before);
        let kept: usize = world.side(conn).chunks.iter().map(zring_engine::Chunk::len).sum();
        assert!(kept <= 4 * 4096, "no more than the buffers hold");
        world.recorder.release(&mut world.shard, conn);
    }
    assert!(exhausted >= 5 && world.shard.stats().pool.exhausted >= 5, "{exhausted} times");
    check(1, 0, &world.receive(conn, total));
    world.turn_until("the peer's end", |world| !world.side(conn).ends.is_empty());
    assert_eq!(world.side(conn).end_kinds(), [End::Closed]);
    writer.join().expect("the writer");

    // The same with a handler that makes room when the pool asks for it.
    let (conn, peer) = world.remote();
    let writer = thread::spawn(move || drop(write_stream(peer, 2, total, 2000)));
    world.side(conn).take = Take::Keep;
    world.recorder.relieve = true;
    world.shard.receive_ring(conn);
    world.turn_until("the peer's end", |world| !world.side(conn).ends.is_empty());
    world.recorder.release(&mut world.shard, conn);
    check(2, 0, &world.receive(conn, total));
    writer.join().expect("the writer");
}

pub(crate) fn leases_leave_a_reserve(case: &Case) {
    let geometry = PoolConfig { buffers: 8, buffer_bytes: 4096, with_kernel: 4, reserve: 3 };
    let mut world = World::with(case, case.with_pool(geometry));
    let (greedy, peer) = world.remote();
    let total = 300_000;
    let writer = thread::spawn(move || drop(write_stream(peer, 3, total, 2000)));
    world.side(greedy).take = Take::Lease;
    world.shard.receive_ring(greedy);
    world.turn_until("the whole stream", |world| world.side(greedy).received.len() == total);
    writer.join().expect("the writer");
    assert!(world.shard.stats().pool.copies_forced > 0);
    assert!(world.shard.pool().is_low());
    assert!(world.shard.pool().lent_len() <= 5, "three of eight are never pinned by leases alone");
    // The neighbour uses the remaining buffers.
    let (first, second) = world.pair();
    world.side(second).echo = true;
    world.shard.receive_ring(first);
    world.shard.receive_ring(second);
    for size in [1, 100, 5000, 100_000] {
        world.send_bytes(first, &content(4, 0, size));
        check(4, 0, &world.receive(first, size));
    }
    for (at, lease) in std::mem::take(&mut world.side(greedy).leases) {
        check(3, at, &lease);
    }
    world.turn();
    assert!(!world.shard.pool().is_low(), "the leases are back");
}

pub(crate) fn a_lease_dropped_elsewhere_ends_a_park(case: &Case) {
    let (mut world, conn) = starved(case, 5);
    // A neighbour with its own memory does not wait for the pool.
    let (near, peer) = world.remote();
    let _peer = write_stream(peer, 6, 5000, 5000);
    let body = Some(SharedMut::with_expected(5000));
    world.shard.receive_direct(near, Direct { body, rest: 5000, spill: Vec::new() });
    world.turn_until("a direct receive", |world| !world.side(near).directs.is_empty());
    let mut at = 0;
    for round in 0..60 {
        let before = world.recorder.starved;
        world.turn_until("exhaustion", |world| world.recorder.starved > before);
        let (leases, pinned) = lease_all(&mut world, conn, 5, &mut at);
        // The first drops find the shard asleep, the last ones race with it falling asleep.
        let delay = Duration::from_micros(if round < 5 { 20_000 } else { round * 3 });
        let dropper = thread::spawn(move || {
            thread::sleep(delay);
            drop(leases);
        });
        let start = Instant::now();
        while world.side(conn).chunks.is_empty() {
            let until_ns = world.shard.now_ns() + patience().as_nanos() as u64;
            world.wait(Some(until_ns));
            assert!(start.elapsed() < patience() / 2, "nobody woke the shard in round {round}");
        }
        dropper.join().expect("the dropper");
        release_all(&mut world, pinned);
    }
}

pub(crate) fn a_single_buffer_serves_many(case: &Case) {
    let geometry = PoolConfig { buffers: 4, buffer_bytes: 4096, with_kernel: 1, reserve: 2 };
    let mut world = World::with(case, case.with_pool(geometry));
    let total = 30_000;
    let mut writers = Vec::new();
    let conns: Vec<_> = (0..8)
        .map(|seed| {
            let (conn, peer) = world.remote();
            world.side(conn).take = if seed % 2 == 0 { Take::Copy } else { Take::Lease };
            world.shard.receive_ring(conn);
            writers.push(thread::spawn(move || drop(write_stream(peer, 40 + seed, total, 900))));
            conn
        })
        .collect();
    for (seed, &conn) in (40..).zip(&conns) {
        world.turn_until("a stream", |world| world.side(conn).received.len() == total);
        check(seed, 0, &world.side(conn).received);
    }
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
}

pub(crate) fn leases_from_before_the_exhaustion_end_a_park(case: &Case) {
    let mut world = World::with(case, case.with_pool(TINY));
    let (conn, mut peer) = world.remote();
    world.side(conn).take = Take::Keep;
    world.shard.receive_ring(conn);
    let mut written = 0;
    let mut fill = |world: &mut World<'_>, buffers: usize| {
        let bytes = |world: &mut World<'_>| -> usize {
            world.side(conn).chunks.iter().map(zring_engine::Chunk::len).sum()
        };
        let before = bytes(world);
        for buffer in 1..=buffers {
            peer.write_all(&content(13, written, 4096)).expect("write");
            written += 4096;
            world.turn_until("a buffer", |world| bytes(world) == before + buffer * 4096);
        }
    };
    fill(&mut world, 3);
    let mut at = 0;
    let (leases, pinned) = lease_all(&mut world, conn, 13, &mut at);
    assert!(pinned.is_empty());
    assert_eq!((world.shard.pool().lent_len(), world.recorder.starved), (3, 0));
    fill(&mut world, 1);
    // A receive that was armed while buffers were free asks for one when bytes arrive.
    peer.write_all(&content(13, 4 * 4096, 4096)).expect("write");
    world.turn_until("exhaustion", |world| world.recorder.starved > 0);
    let dropper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        drop(leases);
    });
    let start = Instant::now();
    while world.side(conn).chunks.iter().map(zring_engine::Chunk::len).sum::<usize>() < 8192 {
        let until_ns = world.shard.now_ns() + patience().as_nanos() as u64;
        world.wait(Some(until_ns));
        assert!(start.elapsed() < patience() / 2, "nobody woke the shard");
    }
    dropper.join().expect("the dropper");
    world.recorder.release(&mut world.shard, conn);
    check(13, 3 * 4096, &world.side(conn).received);
}

pub(crate) fn a_starved_receive_stops(case: &Case) {
    let (mut world, conn) = starved(case, 9);
    assert!(world.shard.is_receiving(conn), "it waits for a buffer");
    world.shard.receive_stop(conn);
    world.shard.receive_stop(conn);
    world.recorder.release(&mut world.shard, conn);
    let received = world.side(conn).received.len();
    world.turn_until("a stop", |world| !world.side(conn).ends.is_empty());
    world.turn_quietly();
    assert_eq!(world.side(conn).end_kinds(), [End::Stopped]);
    assert_eq!(world.side(conn).chunks.len(), 0);
    world.shard.receive_ring(conn);
    world.side(conn).take = Take::Copy;
    world.turn_until("more", |world| world.side(conn).received.len() > received + 50_000);
    check(9, 0, &world.side(conn).received);
    // Starve, stop and close.
    world.side(conn).take = Take::Keep;
    let before = world.recorder.starved;
    world.turn_until("exhaustion", |world| world.recorder.starved > before);
    world.shard.receive_stop(conn);
    world.close(conn);
    assert_eq!(world.side(conn).ends.len(), 1);
}

pub(crate) fn leases_outlive_the_shard(case: &Case) {
    let mut world = World::new(case);
    let (conn, peer) = world.remote();
    let writer = thread::spawn(move || drop(write_stream(peer, 10, 100_000, 3000)));
    world.side(conn).take = Take::Lease;
    world.shard.receive_ring(conn);
    world.turn_until("the stream", |world| world.side(conn).received.len() == 100_000);
    writer.join().expect("the writer");
    let leases = std::mem::take(&mut world.side(conn).leases);
    let clones: Vec<_> = leases.iter().map(|(at, lease)| (*at, lease.clone())).collect();
    drop(world);
    let other = thread::spawn(move || clones.iter().for_each(|(at, lease)| check(10, *at, lease)));
    leases.iter().for_each(|(at, lease)| check(10, *at, lease));
    drop(leases);
    other.join().expect("the other thread");
}

pub(crate) fn leases_keep_their_bytes_while_buffers_circulate(case: &Case) {
    let geometry = PoolConfig { buffers: 16, buffer_bytes: 4096, with_kernel: 4, reserve: 4 };
    let mut world = World::with(case, case.with_pool(geometry));
    let total = 400_000;
    let mut writers = Vec::new();
    let conns: Vec<_> = (0..6)
        .map(|seed| {
            let (conn, peer) = world.remote();
            world.side(conn).take = Take::Lease;
            world.shard.receive_ring(conn);
            writers.push(thread::spawn(move || drop(write_stream(peer, 20 + seed, total, 1500))));
            conn
        })
        .collect();
    let (sender, elsewhere) = std::sync::mpsc::sync_channel::<(u64, usize, Lease)>(8);
    let checker = thread::spawn(move || {
        elsewhere.iter().for_each(|(seed, at, lease)| check(seed, at, &lease));
    });
    let mut random = Random(11);
    let mut ended = 0;
    while ended < conns.len() {
        let before = world.recorder.starved;
        world.turn();
        ended = 0;
        for (seed, &conn) in (20..).zip(&conns) {
            let side = world.recorder.side(conn);
            ended += side.ends.len();
            let keep = random.below(12);
            while side.leases.len() > keep {
                let (at, lease) = side.leases.swap_remove(random.below(side.leases.len()));
                check(seed, at, &lease);
                if random.below(3) == 0 {
                    sender.send((seed, at, lease)).expect("the checker");
                }
            }
        }
        assert!(world.recorder.starved < before + 2);
    }
    drop(sender);
    checker.join().expect("the checker");
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    for (seed, &conn) in (20..).zip(&conns) {
        check(seed, 0, &world.side(conn).received);
        assert_eq!(world.side(conn).received.len(), total);
        assert_eq!(world.side(conn).end_kinds(), [End::Closed]);
        for (at, lease) in std::mem::take(&mut world.side(conn).leases) {
            check(seed, at, &lease);
        }
    }
    let stats = world.shard.stats().pool;
    assert!(stats.recycled > 100 && stats.leases > 20, "{stats:?}");
    world.turn();
    let pool = world.shard.pool();
    // Buffers that are not ready are with the kernel, or with a shard that fills them itself.
    assert!(pool.lent_len() == 0 && (11..=16).contains(&pool.ready_len()), "{pool:?}");
}
