//! Sends with files in them: every byte once, in order, whatever happens to the file or the peer.

use std::{
    fs::File,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use zring_engine::{
    FileRegion, Gather, Segment, Shared,
    sys::{file::write_all_at, net::SocketOptions},
};

use crate::{
    case::{Case, patience},
    content::{Random, check, content, read_up_to},
    errno,
    record::FILE_FAULT,
    world::World,
};

/// A file that holds `bytes` bytes of stream `seed` after `lead` other bytes.
fn file_of(seed: u64, lead: usize, bytes: usize) -> Arc<File> {
    let file = tempfile::tempfile().expect("a file");
    write_all_at(&file, &content(seed, 0, bytes), lead as u64).expect("write");
    Arc::new(file)
}

fn region(file: &Arc<File>, offset: usize, len: usize) -> Segment {
    let region = FileRegion::new(file.clone(), offset as u64, len as u64);
    Segment::File(region.expect("a part of the file"))
}

pub(crate) fn files_of_every_size(case: &Case) {
    let mut world = World::new(case);
    let (first, second) = world.pair();
    world.shard.receive_ring(second);
    let total = 3 << 20;
    let file = file_of(21, 13, total);
    let mut at = 0;
    for size in [1, 2, 255, 256, 4095, 4096, 65_536, 65_537, 262_144, 262_145, 1 << 20] {
        world.send(first, region(&file, 13 + at, size));
        check(21, at, &world.receive(second, size));
        at += size;
    }
    assert!(world.side(first).sent.iter().all(|sent| sent.bytes == sent.total));
    assert_eq!(world.shard.in_flight(), 1, "the receive is all that is left");
}

pub(crate) fn files_among_other_segments_reach_a_slow_reader(case: &Case) {
    let mut world = World::new(case);
    let options = SocketOptions { sndbuf_bytes: Some(16 << 10), ..Default::default() };
    let (conn, peer) = world.remote_with(&options);
    let total = 3 << 20;
    let file = file_of(22, 0, total);
    let (mut at, mut random) = (0, Random(22));
    while at < total {
        let size = match random.below(4) {
            0 => 1 + random.below(20),
            1 => 1 + random.below(700_000),
            _ => 1 + random.below(20_000),
        };
        let size = size.min(total - at);
        let bytes = || content(22, at, size);
        let segment = match random.below(3) {
            0 => Segment::Arena(bytes()),
            1 => Segment::Shared(Shared::from_vec(bytes())),
            _ => region(&file, at, size),
        };
        world.side(conn).out.push_back(segment);
        at += size;
    }
    let reader = thread::spawn(move || read_up_to(&peer, total));
    world.recorder.pump(&mut world.shard, conn);
    world.turn_until("all sends", |world| {
        world.side(conn).out.is_empty() && !world.side(conn).is_sending
    });
    check(22, 0, &reader.join().expect("the reader"));
    assert!(world.side(conn).sent.iter().all(|it| it.bytes == it.total && it.error.is_none()));
}

pub(crate) fn a_send_goes_on_from_anywhere(case: &Case) {
    let mut world = World::new(case);
    let file = file_of(23, 0, 100_000);
    let parts = [0, 10, 30_010, 30_020, 60_020, 90_000];
    for sent in [0, 1, 10, 11, 30_009, 30_010, 30_015, 45_000, 60_020, 70_000, 89_999] {
        let (conn, peer) = world.remote();
        let mut gather = Gather::new();
        for (number, ends) in parts.windows(2).enumerate() {
            let (from, len) = (ends[0], ends[1] - ends[0]);
            gather.push(match number % 2 {
                0 => Segment::Arena(content(23, from, len)),
                _ => region(&file, from, len),
            });
        }
        world.side(conn).is_sending = true;
        world.shard.send_rest(conn, gather, sent).expect("an open connection");
        world.turn_until("the send", |world| !world.side(conn).is_sending);
        check(23, sent, &read_up_to(&peer, 90_000 - sent));
        let ended = world.side(conn).sent[0];
        assert_eq!((ended.bytes, ended.total, ended.error), (90_000, 90_000, None));
        world.close(conn);
    }
}

pub(crate) fn a_file_that_is_cut_off_ends_its_send(case: &Case) {
    let mut world = World::new(case);
    let options = SocketOptions { sndbuf_bytes: Some(64 << 10), ..Default::default() };
    let (conn, peer) = world.remote_with(&options);
    let file = file_of(24, 0, 16 << 20);
    world.send(conn, region(&file, 0, 16 << 20));
    world.turn();
    assert!(world.side(conn).is_sending);
    let cut = (9 << 20) + 3;
    file.set_len(cut as u64).expect("cut");
    let reader = thread::spawn(move || read_up_to(&peer, 16 << 20));
    world.turn_until("the end of the send", |world| !world.side(conn).is_sending);
    let ended = world.side(conn).sent[0];
    assert_eq!(ended.error, Some(FILE_FAULT));
    assert!(ended.bytes > 0 && ended.bytes <= cut, "{}", ended.bytes);
    world.close(conn);
    let got = reader.join().expect("the reader");
    assert_eq!(got.len(), ended.bytes);
    check(24, 0, &got);
}

pub(crate) fn a_peer_that_goes_ends_the_send_of_a_file(case: &Case) {
    let mut world = World::new(case);
    let file = file_of(25, 0, 40 << 20);
    let (conn, peer) = world.remote();
    world.send(conn, region(&file, 0, 40 << 20));
    let reader = thread::spawn(move || read_up_to(&peer, 100_000).len());
    world.turn_until("the reader", |_| reader.is_finished());
    assert_eq!(reader.join().expect("the reader"), 100_000);
    world.turn_until("the end of the send", |world| !world.side(conn).is_sending);
    let ended = world.side(conn).sent[0];
    assert!(matches!(ended.error, Some(errno::EPIPE | errno::ECONNRESET)), "{ended:?}");
    assert!(ended.bytes >= 100_000 && ended.bytes < ended.total);
    world.close(conn);
}

pub(crate) fn files_on_their_way_can_be_closed_and_dropped(case: &Case) {
    let file = file_of(26, 0, 40 << 20);
    let mut world = World::new(case);
    let (conn, peer) = world.remote();
    world.send(conn, region(&file, 0, 40 << 20));
    for _ in 0..3 {
        world.turn();
    }
    world.close(conn);
    let ended = world.side(conn).sent[0];
    assert!(ended.bytes < ended.total);
    let got = read_up_to(&peer, 40 << 20);
    assert_eq!(got.len(), ended.bytes, "what the kernel had taken comes, and no more");
    check(26, 0, &got);
    let (conn, _peer) = world.remote();
    world.send(conn, region(&file, 0, 40 << 20));
    world.turn();
    drop(world);
    // The thread that reads files may still be using it.
    let start = Instant::now();
    while Arc::strong_count(&file) > 1 {
        assert!(start.elapsed() < patience(), "nobody holds it any more");
        thread::yield_now();
    }
}

pub(crate) fn large_files_take_turns(case: &Case) {
    let mut world = World::new(case);
    let total = 8 << 20;
    let file = file_of(27, 0, total);
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (conn, peer) = world.remote();
            world.send(conn, region(&file, 0, total));
            (conn, thread::spawn(move || read_up_to(&peer, total)))
        })
        .collect();
    let (first, second) = world.pair();
    world.side(second).echo = true;
    world.shard.receive_ring(first);
    world.shard.receive_ring(second);
    for round in 0..50 {
        world.send_bytes(first, &content(28, round * 8, 8));
        check(28, round * 8, &world.receive(first, 8));
        thread::sleep(Duration::from_micros(100));
    }
    for (conn, reader) in readers {
        world.turn_until("a send", |world| !world.side(conn).is_sending);
        check(27, 0, &reader.join().expect("a reader"));
    }
}
