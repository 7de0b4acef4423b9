//! Receiving into the pool and sending: every byte once, in order, whatever else happens.

use std::{
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use zring_engine::{
    Config, ConnId, Gather, HEAD_BYTES_MAX, SEGMENTS_PER_SEND_MAX, Segment, Shared,
    sys::net::SocketOptions,
};

use crate::{
    case::{Case, Net},
    content::{Random, check, content, read_up_to, write_stream},
    errno,
    record::{End, Sent, Take},
    world::{QUIET, World},
};

pub(crate) fn every_size_both_ways(case: &Case) {
    let mut world = World::new(case);
    let (first, second) = world.pair();
    world.side(second).echo = true;
    world.shard.receive_ring(first);
    world.shard.receive_ring(second);
    let (mut there, mut back) = (0, 0);
    for size in [1, 2, 9, 255, 4095, 4096, 16 << 10, 65_535, 65_536, 65_537, 1 << 20, (5 << 20) + 3]
    {
        world.send_bytes(first, &content(1, there, size));
        // Both directions at once: the echo and a separate stream, one after the other in the queue.
        world.send_bytes(second, &content(2, back, 100));
        world.turn_until("an echo", |world| world.side(first).received.len() >= size + 100);
        let received = world.receive(first, size + 100);
        // The separate stream comes first: its send was queued before the first echo.
        check(2, back, &received[..100]);
        check(1, there, &received[100..]);
        check(1, there, &std::mem::take(&mut world.side(second).received));
        (there, back) = (there + size, back + 100);
    }
    for conn in [first, second] {
        assert!(world.side(conn).sent.iter().all(|sent| sent.bytes == sent.total));
        assert!(world.side(conn).ends.is_empty());
    }
    assert_eq!(world.shard.stats().bytes_in, (2 * there + back) as u64);
}

pub(crate) fn leases_are_sent_on(case: &Case) {
    let mut world = World::new(case);
    let (first, second) = world.pair();
    world.side(second).echo = true;
    world.side(second).take = Take::Lease;
    world.shard.receive_ring(first);
    world.shard.receive_ring(second);
    let size = 3 << 20;
    world.send_bytes(first, &content(3, 0, size));
    check(3, 0, &world.receive(first, size));
    assert!(world.shard.stats().pool.leases + world.shard.stats().pool.copies_forced > 0);
}

pub(crate) fn sends_begun_at_once_go_on_in_order(case: &Case) {
    let mut world = World::new(case);
    let options = SocketOptions { sndbuf_bytes: Some(4096), ..Default::default() };
    let (conn, peer) = world.remote_with(&options);
    let total: usize = 4 << 20;
    let reader = thread::spawn(move || read_up_to(&peer, total));
    let (mut at, mut random, mut whole) = (0, Random(8), 0);
    while at < total {
        world.turn_until("room", |world| !world.side(conn).is_sending);
        let size = (1 + random.below(60_000)).min(total - at);
        let bytes = content(4, at, size);
        let (head, body) = bytes.split_at(random.below(size.min(30)));
        let sent = match head {
            [] => world.shard.try_send(conn, &bytes),
            _ => world.shard.try_send_behind(conn, head, body),
        };
        assert!(sent <= size);
        whole += u32::from(sent == size);
        if sent < size {
            let mut gather = Gather::new();
            // A single segment is sent as it is, several are gathered.
            let cut = if random.below(2) == 0 { 0 } else { random.below(size + 1) };
            gather.push(Segment::Arena(bytes[..cut].to_vec()));
            gather.push(Segment::Shared(Shared::copy_from(&bytes[cut..])));
            world.side(conn).is_sending = true;
            world.shard.send_rest(conn, gather, sent).expect("an open connection");
        }
        at += size;
    }
    world.turn_until("the last send", |world| !world.side(conn).is_sending);
    let queued = &world.side(conn).sent;
    assert!(queued.iter().all(|sent| sent.bytes == sent.total && sent.error.is_none()));
    assert!(whole > 0 && !queued.is_empty(), "both ways were used: {whole}, {}", queued.len());
    check(4, 0, &reader.join().expect("the reader"));
}

/// Every kind of segment, in gathers of the greatest length.
fn gathers(seed: u64, bytes: usize) -> Vec<Segment> {
    static FIXED: [u8; 300] = [0x5a; 300];
    let mut random = Random(seed);
    let mut segments = Vec::new();
    let mut at = 0;
    while at < bytes {
        let kind = random.below(8);
        let size = match kind {
            0 => HEAD_BYTES_MAX,
            1 => 1 + random.below(40_000),
            _ => 1 + random.below(500),
        };
        let piece = content(seed, at, size);
        segments.push(match kind {
            0 => Segment::Head { bytes: piece.try_into().expect("its size"), len: size as u8 },
            1 => Segment::Shared(Shared::from_vec(piece)),
            2 => Segment::Shared(Shared::copy_from(&content(seed, at, size + 7)).slice(0..size)),
            3 => Segment::Static(&FIXED[..size.min(300)]),
            _ => Segment::Arena(piece),
        });
        at += segments.last().expect("just pushed").bytes().len();
    }
    segments
}

pub(crate) fn large_gathers_reach_a_slow_reader(case: &Case) {
    let mut world = World::new(case);
    let options = SocketOptions { sndbuf_bytes: Some(2048), ..Default::default() };
    let (conn, mut peer) = world.remote_with(&options);
    let segments = gathers(5, 1 << 20);
    assert!(segments.len() > SEGMENTS_PER_SEND_MAX * 2);
    let expected: Vec<u8> = segments.iter().flat_map(|part| part.bytes().to_vec()).collect();
    let total = expected.len();
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut part = vec![0; 3000];
        while bytes.len() < total {
            let read = peer.read(&mut part).expect("read");
            assert!(read > 0, "ended after {} of {total}", bytes.len());
            bytes.extend_from_slice(&part[..read]);
            if bytes.len() % 64 == 0 {
                thread::sleep(Duration::from_micros(300));
            }
        }
        bytes
    });
    world.side(conn).out.extend(segments);
    world.recorder.pump(&mut world.shard, conn);
    world.turn_until("all sends", |world| {
        world.side(conn).out.is_empty() && !world.side(conn).is_sending
    });
    let got = reader.join().expect("the reader");
    assert!(got == expected, "the gathered bytes arrive as they were");
    let sent = &world.side(conn).sent;
    assert!(sent.iter().all(|sent| sent.bytes == sent.total && sent.error.is_none()));
    assert_eq!(sent.iter().map(|sent| sent.bytes).sum::<usize>(), total);
}

/// Stops the receive and waits for its end; returns the number of ends so far.
fn stop(world: &mut World<'_>, conn: ConnId) -> usize {
    let before = world.side(conn).ends.len();
    world.shard.receive_stop(conn);
    world.turn_until("a stop", |world| world.side(conn).ends.len() > before);
    assert_eq!(world.side(conn).ends.last().expect("just seen").0, End::Stopped);
    assert!(!world.shard.is_receiving(conn));
    before + 1
}

pub(crate) fn receiving_stops_and_starts(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    peer.write_all(b"early").expect("write");
    world.turn_quietly();
    assert!(world.side(conn).received.is_empty(), "nothing is received unasked");
    for round in 1..=20 {
        world.shard.receive_ring(conn);
        assert!(world.shard.is_receiving(conn));
        assert_eq!(world.receive(conn, 5), b"early");
        assert_eq!(stop(&mut world, conn), round);
        peer.write_all(b"early").expect("write");
        world.turn();
        assert!(world.side(conn).received.is_empty(), "nothing comes behind the end");
    }
    // A stop without an armed receive reports nothing.
    world.shard.receive_stop(conn);
    world.turn_quietly();
    assert_eq!(world.side(conn).ends.len(), 20);
}

pub(crate) fn stops_while_data_arrives(case: &Case) {
    let mut world = World::new(case);
    let (conn, peer) = world.remote();
    let total = 6 << 20;
    let writer = thread::spawn(move || write_stream(peer, 6, total, 30_000));
    let mut random = Random(6);
    while world.side(conn).received.len() < total {
        world.shard.receive_ring(conn);
        let enough = world.side(conn).received.len() + random.below(200_000);
        world.turn_until("bytes", |world| world.side(conn).received.len() >= enough.min(total));
        stop(&mut world, conn);
    }
    let _peer = writer.join().expect("the writer");
    check(6, 0, &world.receive(conn, total));
}

pub(crate) fn a_stop_inside_the_callback_counts(case: &Case) {
    // So few completions that a receive often ends by itself, because there is no room to report its bytes.
    let mut world = World::with(case, Config { submissions: 2, completions: 4, ..case.config() });
    let (conn, peer) = world.remote();
    let total = 512 << 10;
    let writer = thread::spawn(move || write_stream(peer, 7, total, 9_000));
    world.side(conn).stop_each = true;
    let mut rounds = 0;
    while world.side(conn).received.len() < total {
        rounds += 1;
        world.shard.receive_ring(conn);
        world.turn_until("a stop", |world| world.side(conn).ends.len() == rounds);
        assert!(!world.shard.is_receiving(conn));
    }
    let _peer = writer.join().expect("the writer");
    check(7, 0, &world.receive(conn, total));
    assert!(world.side(conn).ends.iter().all(|(end, _)| *end == End::Stopped));
}

pub(crate) fn a_full_completion_queue_loses_nothing(case: &Case) {
    let config =
        Config { submissions: 4, completions: 8, completions_per_turn: 3, ..case.config() };
    let mut world = World::with(case, config);
    let total = 40_000;
    let mut writers = Vec::new();
    let conns: Vec<_> = (0..24)
        .map(|seed| {
            let (conn, peer) = world.remote();
            writers.push(thread::spawn(move || drop(write_stream(peer, seed, total, 700))));
            world.shard.receive_ring(conn);
            conn
        })
        .collect();
    for (seed, &conn) in conns.iter().enumerate() {
        world.turn_until("a stream", |world| world.side(conn).received.len() >= total);
        check(seed as u64, 0, &world.receive(conn, total));
        world.turn_until("the peer's end", |world| !world.side(conn).ends.is_empty());
        assert_eq!(world.side(conn).end_kinds(), [End::Closed]);
    }
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    world.turn_until("the last completions", |world| world.shard.in_flight() == 0);
}

/// Turns `turns` times over `count` connections, each of which has its next `bytes` as soon as it was served. Every
/// connection is served, and none gets less than a quarter of the mean.
fn take_turns(world: &mut World<'_>, (count, bytes, turns): (usize, usize, usize)) {
    let mut remotes: Vec<_> = (0..count).map(|_| world.remote()).collect();
    let piece = vec![b'x'; bytes];
    for (conn, peer) in &mut remotes {
        world.shard.receive_ring(*conn);
        peer.write_all(&piece).expect("write");
    }
    let mut served = vec![0; count];
    let mut missing = vec![bytes; count];
    for _ in 0..turns {
        world.turn();
        for (at, (conn, peer)) in remotes.iter_mut().enumerate() {
            let received = std::mem::take(&mut world.side(*conn).received);
            served[at] += usize::from(!received.is_empty());
            missing[at] -= received.len();
            if missing[at] == 0 {
                peer.write_all(&piece).expect("write");
                missing[at] = bytes;
            }
        }
    }
    let (least, all) = (*served.iter().min().expect("some"), served.iter().sum::<usize>());
    assert!(least > 0 && least * count * 4 >= all, "{least} at least, {all} in all: {served:?}");
}

pub(crate) fn connections_that_always_have_something_take_turns(case: &Case) {
    // More connections than the kernel has buffers.
    take_turns(&mut World::new(case), (100, 1, 150));
    // If a program waits on the descriptor, the shard prepares for that at the end of each turn.
    if cfg!(target_os = "linux") {
        let mut world = World::new(case);
        world.shard.event_fd().expect("an event descriptor");
        take_turns(&mut world, (100, 1, 150));
    }
}

pub(crate) fn many_connections_that_always_have_something_take_turns(case: &Case) {
    // More connections than a submission queue holds.
    take_turns(&mut World::new(case), (700, 1, 150));
}

pub(crate) fn connections_that_always_have_a_lot_take_turns(case: &Case) {
    // A buffer holds several of these pieces, or no whole one.
    take_turns(&mut World::new(case), (100, 20_000, 150));
}

pub(crate) fn a_half_closed_peer_still_receives(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    world.shard.receive_ring(conn);
    peer.write_all(b"the last words").expect("write");
    peer.shutdown(Shutdown::Write).expect("shutdown");
    world.turn_until("the peer's end", |world| !world.side(conn).ends.is_empty());
    assert_eq!(world.side(conn).end_kinds(), [End::Closed]);
    assert_eq!(world.side(conn).received, b"the last words");
    world.send_bytes(conn, &content(9, 0, 100_000));
    let reader = thread::spawn(move || read_up_to(&peer, 100_001));
    world.turn_until("a send", |world| world.side(conn).sent.len() == 1);
    assert_eq!(world.side(conn).sent[0], Sent { total: 100_000, bytes: 100_000, error: None });
    world.close(conn);
    let got = reader.join().expect("the reader");
    assert_eq!(got.len(), 100_000, "and then the end, seen by the peer too");
    check(9, 0, &got);
}

pub(crate) fn an_urgent_byte_disturbs_nobody(case: &Case) {
    let mut world = World::new(case);
    let (conn, mut peer) = world.remote();
    world.shard.receive_ring(conn);
    world.turn_quietly();
    for round in 1..=5 {
        if let Err(refused) = peer.send_out_of_band(b"!") {
            assert_eq!((case.net, refused.raw_os_error()), (Net::Unix, Some(errno::EOPNOTSUPP)));
        }
        let (turns, start) = (world.shard.stats().turns, Instant::now());
        while start.elapsed() < QUIET {
            world.wait(Some(world.shard.now_ns() + 5_000_000));
        }
        let turns = world.shard.stats().turns - turns;
        assert!(!case.parks() || turns < 20, "{turns} turns for one byte");
        peer.write_all(b"data").expect("write");
        let bytes = |world: &mut World<'_>| world.side(conn).received.clone();
        world.turn_until("data", |world| {
            bytes(world).windows(4).filter(|part| part == b"data").count() == round
        });
    }
}
