//! Immediate receives into memory of the caller's, and waiting for a socket to become readable.

use std::{io::Write, net::Shutdown, thread};

use socket2::SockRef;
use zring_engine::ConnId;

use crate::{
    case::Case,
    content::{Random, check, content, write_stream},
    record::End,
    world::World,
};

fn await_bytes(world: &mut World<'_>, conn: ConnId) {
    let before = world.side(conn).readable;
    world.shard.await_readable(conn);
    assert!(world.shard.is_receiving(conn));
    world.turn_until("something to receive", |world| world.side(conn).readable > before);
    assert!(!world.shard.is_receiving(conn), "it is told once");
}

/// Receives `bytes` bytes, with as many waits as necessary.
fn take(world: &mut World<'_>, conn: ConnId, bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    let mut filled = 0;
    while filled < bytes {
        match world.shard.try_receive(conn, &mut all[filled..], &mut Vec::new()) {
            Ok(Some(more @ 1..)) => filled += more,
            Ok(None) => await_bytes(world, conn),
            other => panic!("{other:?}"),
        }
    }
    all
}

pub(crate) fn bytes_go_where_they_are_wanted(case: &Case) {
    const BODY: usize = 24;
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    let (mut body, mut spill) = ([0; BODY], Vec::with_capacity(8));
    let nothing = world.shard.try_receive(conn, &mut body, &mut spill);
    assert!(matches!(nothing, Ok(None)) && spill.is_empty());
    let mut at = 0;
    for sent in 1..BODY + 8 {
        peer.write_all(&content(1, at, sent)).expect("write");
        await_bytes(&mut world, conn);
        let received = world.shard.try_receive(conn, &mut body, &mut spill).expect("no error");
        assert_eq!(received, Some(sent));
        check(1, at, &body[..sent.min(BODY)]);
        assert_eq!(spill.len(), sent.saturating_sub(BODY));
        check(1, at + BODY, &spill);
        spill.clear();
        at += sent;
    }
    // Bytes without room stay in the socket. The free room of a spill area that already holds bytes follows those
    // bytes.
    peer.write_all(&content(1, at, 7)).expect("write");
    await_bytes(&mut world, conn);
    let received = world.shard.try_receive(conn, &mut body[..2], &mut Vec::new());
    assert_eq!(received.expect("no error"), Some(2));
    check(1, at, &body[..2]);
    let mut spill = Vec::with_capacity(16);
    spill.extend_from_slice(&content(1, at, 2));
    let received = world.shard.try_receive(conn, &mut [], &mut spill).expect("no error");
    assert_eq!(received, Some(5));
    check(1, at, &spill);
}

pub(crate) fn awaiting_and_the_ring_take_turns(case: &Case) {
    let mut world = World::new(case);
    let (conn, peer) = world.remote();
    let total = 4 << 20;
    let writer = thread::spawn(move || write_stream(peer, 2, total, 60_000));
    let mut random = Random(2);
    let mut bytes = Vec::new();
    while bytes.len() < total {
        world.shard.receive_ring(conn);
        world.turn_until("bytes", |world| !world.side(conn).received.is_empty());
        world.shard.receive_stop(conn);
        world.turn_until("a stop", |world| !world.side(conn).ends.is_empty());
        assert_eq!(world.side(conn).ends.pop().expect("just seen").0, End::Stopped);
        bytes.append(&mut world.side(conn).received);
        let rest = random.below(200_000).min(total - bytes.len());
        bytes.append(&mut take(&mut world, conn, rest));
    }
    check(2, 0, &bytes);
    let _peer = writer.join().expect("the writer");
}

pub(crate) fn awaiting_stops(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    for round in 0..40 {
        if round % 2 == 1 {
            peer.write_all(&content(3, round / 2, 1)).expect("write");
        }
        world.shard.await_readable(conn);
        // A second call during a wait changes nothing.
        world.shard.await_readable(conn);
        if round % 4 < 2 {
            world.turn();
        }
        if !world.shard.is_receiving(conn) {
            continue;
        }
        world.shard.receive_stop(conn);
        world.turn_until("a stop", |world| !world.shard.is_receiving(conn));
        let ends = std::mem::take(&mut world.side(conn).ends);
        assert!(ends.iter().all(|(end, direct)| *end == End::Stopped && direct.is_none()));
    }
    let all = take(&mut world, conn, 20);
    check(3, 0, &all);
}

pub(crate) fn the_end_and_a_reset_are_told(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    world.shard.await_readable(conn);
    world.turn();
    peer.write_all(&content(4, 0, 3)).expect("write");
    peer.shutdown(Shutdown::Write).expect("shutdown");
    world.turn_until("something", |world| world.side(conn).readable == 1);
    let all = take(&mut world, conn, 3);
    check(4, 0, &all);
    await_bytes(&mut world, conn);
    let end = world.shard.try_receive(conn, &mut [0; 8], &mut Vec::new());
    assert!(matches!(end, Ok(Some(0))), "{end:?}");

    let (conn, peer) = world.remote();
    world.shard.await_readable(conn);
    world.turn();
    SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).expect("linger");
    drop(peer);
    world.turn_until("something", |world| world.side(conn).readable == 1);
    // A Unix-domain socket has no resets: its stream ends.
    let broken = world.shard.try_receive(conn, &mut [0; 8], &mut Vec::new());
    assert!(matches!(broken, Err(_) | Ok(Some(0))), "{broken:?}");
}

pub(crate) fn a_close_ends_the_waiting(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    let (other, _silent) = world.remote();
    world.shard.await_readable(conn);
    world.shard.await_readable(other);
    world.turn();
    peer.write_all(b"late").expect("write");
    world.close(conn);
    world.close(other);
    world.turn_until("both closed", |world| world.side(conn).closed && world.side(other).closed);
    let stale = world.shard.try_receive(conn, &mut [0; 8], &mut Vec::new());
    assert!(matches!(stale, Ok(None)));
    world.shard.await_readable(conn);
    assert!(!world.shard.is_receiving(conn), "a stale id is ignored");
    assert_eq!(world.shard.in_flight(), 0);
}
