//! Ends of every sort: closes, resets, stale names, and a shard dropped with operations in flight.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read, Write},
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;
use zring_engine::{
    Clock, ConnId, Direct, Gather, Segment, Shard, SharedMut,
    sys::{BorrowedSocket, OwnedSocket, net::SocketOptions, raw},
};

use crate::{
    case::{Case, Net},
    content::{content, read_up_to},
    errno,
    record::End,
    world::World,
};

#[cfg(target_os = "linux")]
fn target(fd: i32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// The name of a socket among the open files of the process; never reused during its life.
#[cfg(target_os = "linux")]
fn name(fd: BorrowedSocket<'_>) -> String {
    let name = target(raw(&fd)).expect("an open descriptor");
    assert!(name.starts_with("socket:"), "{name}");
    name
}

/// Which of `names` are still open in this process.
#[cfg(target_os = "linux")]
fn open_still(names: &HashSet<String>) -> Vec<String> {
    let fds = std::fs::read_dir("/proc/self/fd").expect("/proc");
    let fds = fds.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    fds.filter_map(target).filter(|name| names.contains(name)).collect()
}

/// Windows reuses socket numbers, so neither the sockets still open nor their count can be determined.
#[cfg(windows)]
fn name(fd: BorrowedSocket<'_>) -> String {
    format!("{}", raw(&fd))
}

#[cfg(windows)]
fn open_still(_names: &HashSet<String>) -> Vec<String> {
    Vec::new()
}

fn direct(rest: usize) -> Direct {
    Direct { body: Some(SharedMut::with_expected(rest)), rest, spill: Vec::with_capacity(10) }
}

/// Connects that do not finish, because no one accepts and the backlog is full.
fn hanging_connects(world: &mut World<'_>, listener: &zring_engine::SockAddr) -> Vec<ConnId> {
    let conns: Vec<_> = (0..8).map(|_| world.connect(listener)).collect();
    world.turn_quietly();
    let outcomes: Vec<_> = conns.iter().map(|&conn| world.side(conn).connected).collect();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, None | Some(Ok(())))), "{outcomes:?}");
    assert!(outcomes.contains(&None), "a full backlog");
    conns
}

struct Busy {
    conns: Vec<ConnId>,
    peers: Vec<Socket>,
    _listener: OwnedSocket,
}

/// Connections with every kind of operation in flight.
fn busy(world: &mut World<'_>) -> Busy {
    let (listener, address) = world.case.listen(0, &SocketOptions::default());
    let mut conns = hanging_connects(world, &address);
    let mut peers = Vec::new();
    let large = content(1, 0, 8 << 20);
    for kind in 0..12 {
        let (conn, peer) = world.remote();
        match kind % 4 {
            0 => world.shard.receive_ring(conn),
            1 => world.shard.receive_direct(conn, direct(1000)),
            2 => {}
            _ => {
                let _ = (&peer).write(&content(1, 0, 500)).expect("write");
                world.shard.receive_ring(conn);
            }
        }
        if kind >= 4 {
            // More than the kernel takes, because the peer does not read.
            world.send_bytes(conn, &large);
        }
        if kind >= 8 {
            world.turn();
        }
        conns.push(conn);
        peers.push(peer);
    }
    Busy { conns, peers, _listener: listener }
}

pub(crate) fn a_close_ends_everything_in_flight(case: &Case) {
    let mut world = World::new(case);
    let busy = busy(&mut world);
    for (at, &conn) in busy.conns.iter().enumerate() {
        world.recorder.close(&mut world.shard, conn);
        if at % 3 == 0 {
            world.shard.close(conn);
        }
    }
    world.turn_until("all closes", |world| busy.conns.iter().all(|&conn| world.side(conn).closed));
    assert_eq!(world.shard.in_flight(), 0);
    for (&conn, peer) in busy.conns[8..].iter().zip(&busy.peers) {
        let sent = world.side(conn).sent.clone();
        let got = read_up_to(peer, 8 << 20).len();
        match sent[..] {
            [] => assert_eq!(got, 0),
            [sent] => assert!(got <= sent.bytes && sent.bytes < sent.total, "{got} of {sent:?}"),
            _ => panic!("one send each: {sent:?}"),
        }
    }
}

pub(crate) fn a_close_in_each_callback(case: &Case) {
    let mut world = World::new(case);
    let (receiving, mut first) = world.remote();
    let (filling, mut second) = world.remote();
    let (ending, third) = world.remote();
    let (sending, _fourth) = world.remote();
    for conn in [receiving, filling, ending, sending] {
        world.side(conn).close_next = true;
    }
    world.shard.receive_ring(receiving);
    first.write_all(&content(1, 0, 100_000)).expect("write");
    world.shard.receive_direct(filling, direct(10));
    second.write_all(b"123456").expect("write");
    world.shard.receive_ring(ending);
    drop(third);
    world.shard.receive_ring(sending);
    world.send_bytes(sending, b"last");
    let (_listener, address) = world.listen();
    let connecting = world.connect(&address);
    world.side(connecting).close_next = true;
    for conn in [connecting, receiving, filling, ending, sending] {
        world.turn_until("a close", |world| world.side(conn).closed);
    }
    assert_eq!(world.side(filling).directs.len(), 1);
    assert_eq!(world.side(sending).sent.len(), 1);
    assert_eq!(world.shard.in_flight(), 1, "the listener");
}

/// Closes the peer's end abortively.
fn reset(peer: Socket, net: Net) {
    if net == Net::Tcp {
        peer.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
    // Closing a Unix-domain socket with unread bytes resets the other end.
    drop(peer);
}

pub(crate) fn a_reset_peer_ends_the_send(case: &Case) {
    let total = 16 << 20;
    for (read, receives) in [(0, true), (100_000, true), (3 << 20, false)] {
        let mut world = World::new(case);
        let (conn, peer) = world.remote();
        if receives {
            world.shard.receive_ring(conn);
        }
        world.send_bytes(conn, &content(2, 0, total));
        let reader = thread::spawn(move || {
            let got = read_up_to(&peer, read).len();
            thread::sleep(Duration::from_millis(5));
            (got, peer)
        });
        world.turn_until("the reader", |_| reader.is_finished());
        let (got, peer) = reader.join().expect("the reader");
        assert_eq!(got, read);
        reset(peer, case.net);
        world.turn_until("the end of the send", |world| !world.side(conn).sent.is_empty());
        let sent = world.side(conn).sent[0];
        assert!(read <= sent.bytes && sent.bytes < sent.total, "{sent:?}");
        let error = sent.error.expect("a reason");
        assert!([errno::ECONNRESET, errno::EPIPE].contains(&error), "{error}");
        if receives {
            world.turn_until("the end of the receive", |world| !world.side(conn).ends.is_empty());
            let end = world.side(conn).ends[0].0;
            assert!([End::Closed, End::Failed(errno::ECONNRESET)].contains(&end), "{end:?}");
        }
        world.send_bytes(conn, b"too late");
        world.turn_until("the next refusal", |world| world.side(conn).sent.len() == 2);
        assert_eq!(world.side(conn).sent[1].bytes, 0);
        assert!(world.side(conn).sent[1].error.is_some());
        world.close(conn);
    }
}

pub(crate) fn stale_ids_are_ignored(case: &Case) {
    let mut world = World::new(case);
    let (_listener, address) = world.listen();
    let _first = case.peer(&address);
    let old = world.take_accepted();
    world.close(old);
    let mut peer = case.peer(&address);
    let new = world.take_accepted();
    world.shard.receive_ring(new);
    assert_eq!(old.index(), new.index(), "the place is used again");
    assert_ne!(old.to_u64(), new.to_u64());
    let gather = || {
        let mut gather = Gather::new();
        gather.push(Segment::Static(b"for nobody"));
        gather
    };
    world.shard.receive_stop(old);
    world.shard.receive_ring(old);
    world.shard.receive_direct(old, direct(10));
    let back = world.shard.send(old, gather()).expect_err("nobody to send to");
    assert_eq!(back.bytes(), 10, "the list comes back");
    world.shard.close(old);
    assert!(world.shard.fd(old).is_none() && !world.shard.is_receiving(old));
    world.turn_quietly();
    peer.write_all(b"alive").expect("write");
    assert_eq!(world.receive(new, 5), b"alive");
    world.send_bytes(new, b"and well");
    world.turn_until("a send", |world| world.side(new).sent.len() == 1);
    let mut got = [0; 8];
    peer.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"and well", "nothing of the stale sends came along");
    assert!(world.shard.is_receiving(new));
    // Between the close and its completion the id refuses work, too.
    world.recorder.close(&mut world.shard, new);
    assert!(world.shard.send(new, gather()).is_err());
    world.shard.receive_direct(new, direct(10));
    world.turn_until("a close", |world| world.side(new).closed);
    assert_eq!(world.side(new).sent.len(), 1);
}

pub(crate) fn a_shard_dropped_with_everything_in_flight(case: &Case) {
    for turned in [true, false] {
        let mut world = World::new(case);
        let (listener, _address) = world.listen();
        let busy = busy(&mut world);
        world.shard.arm_timer(world.shard.now_ns() + 1_000_000_000, 1);
        world.shard.resolve("localhost", 1, false, 1).expect("a resolver");
        match world.shard.event_fd() {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
        }
        if turned {
            world.turn();
        } else {
            // Some operations have not been submitted to the kernel yet.
            for &conn in &busy.conns[8..10] {
                world.shard.receive_stop(conn);
                world.shard.close(conn);
            }
            world.listen();
        }
        let names = |shard: &Shard| {
            let fds = busy.conns.iter().filter_map(|&conn| shard.fd(conn));
            fds.chain(shard.listener_fd(listener)).map(name).collect::<HashSet<_>>()
        };
        let names = names(&world.shard);
        assert!(names.len() > 20);
        assert!(cfg!(windows) || open_still(&names).len() == names.len());
        let clock = Clock::new();
        let start_ns = clock.now_ns();
        drop(world);
        assert!(clock.now_ns() - start_ns < 1_000_000_000, "it did not have to give up");
        assert_eq!(open_still(&names), Vec::<String>::new());
        for peer in busy.peers {
            let got = read_up_to(&peer, 9 << 20);
            assert!(got.len() < 8 << 20);
        }
    }
}

pub(crate) fn connections_come_and_go(case: &Case) {
    let mut world = World::new(case);
    world.recorder.echo_accepted = true;
    let (_listener, address) = world.listen();
    let mut names = HashSet::new();
    let start = Instant::now();
    for round in 0..40 {
        let conns: Vec<_> = (0..15).map(|_| world.connect(&address)).collect();
        for (at, &conn) in conns.iter().enumerate() {
            names.extend(world.shard.fd(conn).map(name));
            if at % 5 != 0 {
                world.turn_until("a connect", |world| world.side(conn).connected.is_some());
                world.shard.receive_ring(conn);
                world.send_bytes(conn, &conn.to_u64().to_le_bytes());
            }
        }
        for (at, &conn) in conns.iter().enumerate() {
            assert!(conn.index() < 200, "places are used again");
            if at % 5 > 1 {
                assert_eq!(world.receive(conn, 8), conn.to_u64().to_le_bytes());
            }
        }
        // Close all at once, including connections that have just been started. The other ends notice and follow.
        conns.iter().for_each(|&conn| world.recorder.close(&mut world.shard, conn));
        world.turn_until("all closes", |world| conns.iter().all(|&conn| world.side(conn).closed));
        world.turn_until("the other ends", |world| {
            let accepted: Vec<_> = world.recorder.accepted.iter().copied().collect();
            for conn in accepted {
                names.extend(world.shard.fd(conn).map(name));
                let side = world.side(conn);
                if !side.ends.is_empty() && !side.closing {
                    world.recorder.close(&mut world.shard, conn);
                }
            }
            let recorder = &mut world.recorder;
            recorder.accepted.retain(|conn| !recorder.sides[conn].closed);
            recorder.accepted.is_empty()
        });
        assert_eq!(world.shard.in_flight(), 1, "round {round}");
    }
    let count = names.len();
    assert!(cfg!(windows) || count >= 1100, "{count} connections in {:?}", start.elapsed());
    assert_eq!(open_still(&names), Vec::<String>::new());
    assert_eq!(world.shard.pool().lent_len(), 0);
}
