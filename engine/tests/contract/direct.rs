//! Receiving into given memory: the rest of a body, then a spill area.

use std::{io::Write, net::Shutdown, thread};

use zring_engine::{ConnId, Direct, SharedMut};

use crate::{
    case::Case,
    content::{Random, check, content, write_stream},
    record::End,
    world::World,
};

fn direct(rest: usize, spill_bytes: usize) -> Direct {
    let body = (rest > 0).then(|| SharedMut::with_expected(rest));
    Direct { body, rest, spill: Vec::with_capacity(spill_bytes) }
}

/// Receives until the body is whole; the spill area of the result holds the other bytes received.
fn receive_whole(world: &mut World<'_>, conn: ConnId, mut wanted: Direct) -> Direct {
    while wanted.rest > 0 {
        let before = wanted.rest;
        world.shard.receive_direct(conn, wanted);
        world.turn_until("a piece", |world| !world.side(conn).directs.is_empty());
        wanted = world.side(conn).directs.pop_front().expect("just seen");
        assert!(wanted.rest < before, "a piece has bytes");
        assert!(wanted.rest == 0 || wanted.spill.is_empty(), "the body is filled first");
        assert!(!world.shard.is_receiving(conn), "a direct receive ends with its bytes");
    }
    wanted
}

pub(crate) fn every_split(case: &Case) {
    const BODY: usize = 24;
    const TAIL: usize = 10;
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    let mut at = 0;
    // A spill area of 4 bytes is smaller than the tail: the rest stays for the next receive.
    for (cut, spill_bytes) in (1..BODY + TAIL).flat_map(|cut| [(cut, 64), (cut, 4), (cut, 0)]) {
        let bytes = content(1, at, BODY + TAIL);
        peer.write_all(&bytes[..cut]).expect("write");
        let mut wanted = direct(BODY, spill_bytes);
        if cut % 2 == 0 {
            // In half of the rounds the first part is received after it has arrived, in the others the receive waits
            // for it.
            world.turn();
        }
        world.shard.receive_direct(conn, wanted);
        world.turn_until("a first piece", |world| !world.side(conn).directs.is_empty());
        peer.write_all(&bytes[cut..]).expect("write");
        wanted = world.side(conn).directs.pop_front().expect("just seen");
        assert_eq!(wanted.rest, BODY - cut.min(BODY));
        assert_eq!(wanted.spill.len(), cut.saturating_sub(BODY).min(spill_bytes));
        let mut done = receive_whole(&mut world, conn, wanted);
        check(1, at, &done.body.take().expect("the body").freeze());
        let mut tail = std::mem::take(&mut done.spill);
        while tail.len() < TAIL {
            world.shard.receive_direct(conn, direct(0, TAIL - tail.len()));
            world.turn_until("the tail", |world| !world.side(conn).directs.is_empty());
            tail.extend(world.side(conn).directs.pop_front().expect("just seen").spill);
        }
        check(1, at + BODY, &tail);
        at += BODY + TAIL;
    }
    assert!(world.side(conn).ends.is_empty());
}

pub(crate) fn a_large_body_grows_with_its_bytes(case: &Case) {
    const BODY: usize = (9 << 20) + 5;
    let mut world = World::new(case);
    let (conn, peer) = world.remote();
    let writer = thread::spawn(move || write_stream(peer, 2, BODY + 100, 300_000));
    let mut done = receive_whole(&mut world, conn, direct(BODY, 100));
    check(2, 0, &done.body.take().expect("the body").freeze());
    let mut tail = done.spill;
    world.shard.receive_ring(conn);
    let missing = 100 - tail.len();
    tail.extend(world.receive(conn, missing));
    check(2, BODY, &tail);
    let _peer = writer.join().expect("the writer");
}

pub(crate) fn a_stop_gives_the_memory_back(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    peer.write_all(&content(3, 0, 40)).expect("write");
    world.shard.receive_direct(conn, direct(100, 16));
    world.turn_until("a piece", |world| !world.side(conn).directs.is_empty());
    let part = world.side(conn).directs.pop_front().expect("just seen");
    world.shard.receive_direct(conn, part);
    world.turn();
    world.shard.receive_stop(conn);
    world.turn_until("a stop", |world| !world.side(conn).ends.is_empty());
    let (end, part) = world.side(conn).ends.pop().expect("just seen");
    let part = part.expect("its memory");
    assert_eq!((end, part.rest, part.spill.len()), (End::Stopped, 60, 0));
    // The receive continues where it stopped.
    peer.write_all(&content(3, 40, 60)).expect("write");
    let mut done = receive_whole(&mut world, conn, part);
    check(3, 0, &done.body.take().expect("the body").freeze());

    // Bytes that arrived before the stop may win; an end follows in any case.
    let (mut bytes_won, mut at) = (0, 100);
    for round in 0..40 {
        if round % 2 == 0 {
            peer.write_all(&content(3, at, 8)).expect("write");
        }
        world.shard.receive_direct(conn, direct(8, 0));
        world.shard.receive_stop(conn);
        world.turn_until("a stop", |world| !world.side(conn).ends.is_empty());
        let (end, given_back) = world.side(conn).ends.pop().expect("just seen");
        assert_eq!(end, End::Stopped);
        match (world.side(conn).directs.pop_front(), given_back) {
            (Some(mut won), None) => {
                check(3, at, &won.body.take().expect("the body").freeze());
                bytes_won += 1;
            }
            (None, Some(given_back)) => {
                assert_eq!((given_back.rest, given_back.body.map(|body| body.len())), (8, Some(0)));
                if round % 2 == 0 {
                    let mut late = receive_whole(&mut world, conn, direct(8, 0));
                    check(3, at, &late.body.take().expect("the body").freeze());
                }
            }
            both => panic!("the memory comes back once: {both:?}"),
        }
        at += if round % 2 == 0 { 8 } else { 0 };
    }
    assert!(bytes_won <= 20);
}

pub(crate) fn the_peers_end_gives_the_memory_back(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    world.shard.receive_direct(conn, direct(100, 16));
    world.turn();
    peer.write_all(&content(4, 0, 30)).expect("write");
    peer.shutdown(Shutdown::Write).expect("shutdown");
    world.turn_until("a piece", |world| !world.side(conn).directs.is_empty());
    let part = world.side(conn).directs.pop_front().expect("just seen");
    assert_eq!(part.rest, 70);
    world.shard.receive_direct(conn, part);
    world.turn_until("the end", |world| !world.side(conn).ends.is_empty());
    let (end, part) = world.side(conn).ends.pop().expect("just seen");
    assert_eq!(end, End::Closed);
    check(4, 0, &part.and_then(|part| part.body).expect("the body").freeze());
}

pub(crate) fn alternates_with_the_ring(case: &Case) {
    let mut world = World::new(case);
    let (conn, peer) = world.remote();
    let total = 5 << 20;
    let writer = thread::spawn(move || write_stream(peer, 5, total, 50_000));
    let mut random = Random(5);
    let mut bytes = Vec::new();
    while bytes.len() < total {
        world.shard.receive_ring(conn);
        world.turn_until("bytes", |world| !world.side(conn).received.is_empty());
        world.shard.receive_stop(conn);
        world.turn_until("a stop", |world| !world.side(conn).ends.is_empty());
        assert_eq!(world.side(conn).ends.pop().expect("just seen").0, End::Stopped);
        bytes.append(&mut world.side(conn).received);
        let rest = random.below(100_000).min(total - bytes.len());
        if rest > 0 {
            let mut done = receive_whole(&mut world, conn, direct(rest, 4096));
            bytes.extend_from_slice(&done.body.take().expect("the body").freeze());
            bytes.append(&mut done.spill);
        }
    }
    assert_eq!(bytes.len(), total);
    check(5, 0, &bytes);
    let _peer = writer.join().expect("the writer");
}
