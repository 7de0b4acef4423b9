//! Large bodies by reference: which sends request zero-copy, and who owns the memory meanwhile.
//!
//! Over loopback the kernel always copies, at the latest when the receiver takes the bytes. A receiver that does not
//! read delays the copy, and with it the notification.

use std::{
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;
use zring_engine::{ConnId, HEAD_BYTES_MAX, Segment, Shared, sys::net::SocketOptions};

use crate::{
    case::{Case, Net, patience},
    content::{check, content, read_up_to},
    world::World,
};

/// More than a receiver takes without reading, less than the sender's buffer.
const BODY_BYTES: usize = 1 << 20;

/// Linux 6.1 supports zero-copy sends, but does not report whether it copied.
fn kernel_reports() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    !release.starts_with("6.1.")
}

/// Whether sends over this kind of socket may be held at all.
fn holds(case: &Case) -> bool {
    case.asks_for_zero_copy() && case.net == Net::Tcp && kernel_reports()
}

pub(crate) fn exactly_one_send_of_each_connection_asks(case: &Case) {
    let mut world = World::new(case);
    let pairs: Vec<_> = (0..6).map(|_| world.pair()).collect();
    for &(_, to) in &pairs {
        world.shard.receive_ring(to);
    }
    let mut at = 0;
    for round in 0..5 {
        let size = (64 << 10) + round * 100_001;
        for (seed, &(from, _)) in (1..).zip(&pairs) {
            let part = |from: usize, len| content(seed, at + from, len);
            let head: [u8; HEAD_BYTES_MAX] =
                part(0, HEAD_BYTES_MAX).try_into().expect("its length");
            let head = Segment::Head { bytes: head, len: HEAD_BYTES_MAX as u8 };
            let body = Segment::Shared(Shared::copy_from(&part(HEAD_BYTES_MAX, size)));
            let tail = Segment::Arena(part(HEAD_BYTES_MAX + size, 5000));
            world.side(from).out.extend([head, body, tail]);
            world.recorder.pump(&mut world.shard, from);
        }
        let len = HEAD_BYTES_MAX + size + 5000;
        for (seed, &(_, to)) in (1..).zip(&pairs) {
            check(seed, at, &world.receive(to, len));
        }
        at += len;
    }
    world.turn_until("all sends", |world| {
        pairs.iter().all(|&(from, _)| !world.side(from).is_sending)
    });
    let asked = pairs.len() as u64;
    let expected = match (case.asks_for_zero_copy(), case.net) {
        (false, _) => (0, 0, 0),
        (true, Net::Unix) if kernel_reports() => (0, 0, asked),
        (true, Net::Tcp) if kernel_reports() => (asked, asked, 0),
        (true, _) => (0, 0, 1),
    };
    let seen = |world: &World<'_>| {
        let stats = world.shard.stats().zero_copy;
        (stats.sends, stats.copied, stats.refused)
    };
    world.turn_until("the reports", |world| seen(world) == expected);
    world.turn_quietly();
    assert_eq!(seen(&world), expected);
    for &(from, _) in &pairs {
        assert!(world.side(from).sent.iter().all(|sent| sent.bytes == sent.total));
    }
}

/// A connection whose peer does not read, and the body sent to it.
fn sent_to_a_slow_peer(world: &mut World<'_>, seed: u64) -> (ConnId, Socket, Shared) {
    let options = SocketOptions { sndbuf_bytes: Some(4 << 20), ..Default::default() };
    let (conn, peer) = world.remote_with(&options);
    let body = Shared::copy_from(&content(seed, 0, BODY_BYTES));
    world.send(conn, Segment::Shared(body.clone()));
    (conn, peer, body)
}

/// Waits for the end of the connection's only send.
fn is_sent(world: &mut World<'_>, conn: ConnId) {
    world.turn_until("the send", |world| !world.side(conn).is_sending);
    let sent = world.side(conn).sent[0];
    assert_eq!((sent.bytes, sent.error), (sent.total, None));
}

fn read_in_background(peer: Socket, len: usize) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || read_up_to(peer, len))
}

pub(crate) fn a_body_is_held_until_the_peer_has_it(case: &Case) {
    if case.net == Net::Unix {
        // A Unix-domain socket ends a send only when the peer reads; no memory is held.
        return;
    }
    let mut world = World::new(case);
    let (conn, peer, mut body) = sent_to_a_slow_peer(&mut world, 31);
    is_sent(&mut world, conn);
    world.turn_quietly();
    assert_eq!(world.shard.stats().zero_copy.sends, 0, "not reported on yet");
    assert_eq!(body.try_mut().is_none(), holds(case), "the kernel still reads it");
    // The next send does not wait for that.
    world.send_bytes(conn, &content(31, BODY_BYTES, 1000));
    world.turn_until("the next send", |world| world.side(conn).sent.len() == 2);
    let reader = read_in_background(peer, BODY_BYTES + 1000);
    world.turn_until("the memory back", |_| body.try_mut().is_some());
    assert_eq!(world.shard.stats().zero_copy.sends, u64::from(holds(case)));
    body.try_mut().expect("just seen").fill(0);
    check(31, 0, &reader.join().expect("the reader"));
}

pub(crate) fn a_close_waits_for_no_held_body(case: &Case) {
    if case.net == Net::Unix {
        return;
    }
    let mut world = World::new(case);
    let (conn, peer, mut body) = sent_to_a_slow_peer(&mut world, 32);
    let (other, lost, mut other_body) = sent_to_a_slow_peer(&mut world, 33);
    is_sent(&mut world, conn);
    is_sent(&mut world, other);
    world.close(conn);
    world.close(other);
    world.turn_until("the listeners' ends", |world| world.shard.in_flight() == 0);
    // Their descriptors are reused; reports on their sends must not be taken for the new connections.
    let (first, second) = world.pair();
    world.shard.receive_ring(second);
    drop(lost);
    let reader = read_in_background(peer, 2 * BODY_BYTES);
    world.turn_until("the memory back", |_| {
        body.try_mut().is_some() && other_body.try_mut().is_some()
    });
    let received = reader.join().expect("the reader");
    assert_eq!(received.len(), BODY_BYTES, "a close delivers what was sent");
    check(32, 0, &received);
    let held = 2 * u64::from(holds(case));
    assert_eq!(world.shard.stats().zero_copy.sends, held);
    world.send(first, Segment::Shared(Shared::copy_from(&content(34, 0, BODY_BYTES))));
    check(34, 0, &world.receive(second, BODY_BYTES));
    let asked = held + u64::from(holds(case));
    world.turn_until("its own report", |world| world.shard.stats().zero_copy.sends == asked);
}

pub(crate) fn a_close_in_the_middle_of_a_large_body(case: &Case) {
    let mut world = World::new(case);
    let total = 4 << 20;
    let options = SocketOptions { sndbuf_bytes: Some(256 << 10), ..Default::default() };
    for round in 0..4 {
        let (conn, peer) = world.remote_with(&options);
        let mut body = Shared::copy_from(&content(35, 0, total));
        world.send(conn, Segment::Shared(body.clone()));
        let part = round * 300_000;
        let reader = thread::spawn(move || {
            let mut bytes = read_up_to(&peer, part);
            thread::sleep(Duration::from_millis(20));
            bytes.extend(read_up_to(&peer, total));
            bytes
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(10) {
            world.turn();
        }
        world.close(conn);
        let sent = world.side(conn).sent.clone();
        world.turn_until("the memory back", |_| body.try_mut().is_some());
        // A write into it now changes no sent byte.
        body.try_mut().expect("just seen").fill(0);
        let received = reader.join().expect("the reader");
        check(35, 0, &received);
        if let [sent] = sent[..] {
            assert!(received.len() <= sent.bytes, "{} of {sent:?}", received.len());
        }
        world.turn_until("the listener's end", |world| world.shard.in_flight() == 0);
    }
}

pub(crate) fn a_shard_is_dropped_with_a_body_held(case: &Case) {
    if case.net == Net::Unix {
        return;
    }
    for is_read in [true, false] {
        let mut world = World::new(case);
        let (conn, peer, mut body) = sent_to_a_slow_peer(&mut world, 36);
        is_sent(&mut world, conn);
        let start = Instant::now();
        if is_read {
            let reader = thread::spawn(move || {
                thread::sleep(Duration::from_millis(10));
                read_up_to(peer, 2 * BODY_BYTES)
            });
            drop(world);
            assert!(body.try_mut().is_some(), "the kernel was done in time");
            body.try_mut().expect("just seen").fill(0);
            check(36, 0, &reader.join().expect("the reader"));
        } else {
            drop(world);
            // The memory is leaked rather than changed under the kernel, which is still sending it.
            assert_eq!(body.try_mut().is_none(), holds(case));
            let received = read_up_to(peer, 2 * BODY_BYTES);
            assert_eq!(received.len(), BODY_BYTES);
            check(36, 0, &received);
        }
        assert!(start.elapsed() < patience() / 2);
    }
}
