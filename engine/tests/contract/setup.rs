//! Accepting and connecting.

use std::{
    collections::HashSet,
    sync::mpsc::{TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;
use zring_engine::{Config, sys::net::SocketOptions};

use crate::{
    case::{Case, Net, patience},
    errno,
    record::End,
    world::World,
};

pub(crate) fn connections_are_accepted(case: &Case) {
    let mut world = World::new(case);
    let (_listener, address) = world.listen();
    let connecting: Vec<_> = (0..40).map(|_| world.connect(&address)).collect();
    world.turn_until("all connections", |world| world.recorder.accepted.len() == 40);
    world.turn_until("all connects", |world| {
        connecting.iter().all(|&conn| world.side(conn).connected.is_some())
    });
    assert!(connecting.iter().all(|&conn| world.side(conn).connected == Some(Ok(()))));
    let all: Vec<_> = world.recorder.accepted.drain(..).chain(connecting).collect();
    let places: HashSet<_> = all.iter().map(|conn| conn.index()).collect();
    assert_eq!(places.len(), 80, "each has a place of its own");
    assert_eq!(world.shard.in_flight(), 1, "only the listener waits for something");
    all.iter().for_each(|&conn| world.shard.close(conn));
    world.turn_until("all closes", |world| all.iter().all(|&conn| world.side(conn).closed));
}

pub(crate) fn an_accepted_connection_moves_to_another_shard(case: &Case) {
    let (mut here, mut there) = (World::new(case), World::new(case));
    let (listener, address) = here.listen();
    for round in 0..3 {
        let far = here.connect(&address);
        let accepted = here.take_accepted();
        // Bytes sent before the first receive wait in the socket.
        here.turn_until("a connect", |world| world.side(far).connected == Some(Ok(())));
        here.send_bytes(far, b"early ");
        here.turn_until("a send", |world| world.side(far).sent.len() == 1);
        let fd = here.shard.give_up(accepted).expect("nothing was asked of it yet");
        assert!(here.shard.give_up(accepted).is_none(), "it is gone");
        assert!(here.shard.fd(accepted).is_none());
        let adopted = there.shard.adopt(fd);
        there.recorder.adopt(adopted);
        there.shard.receive_ring(adopted);
        assert!(there.shard.give_up(adopted).is_none(), "something is under way");
        assert_eq!(there.receive(adopted, 6), b"early ");
        here.send_bytes(far, b"late");
        here.turn_until("both sends", |world| world.side(far).sent.len() == 2);
        assert_eq!(there.receive(adopted, 4), b"late");
        there.send_bytes(adopted, b"back");
        there.turn_until("a send", |world| world.side(adopted).sent.len() == 1);
        here.shard.receive_ring(far);
        assert_eq!(here.receive(far, 4), b"back");
        there.close(adopted);
        here.turn_until("the end", |world| world.side(far).end_kinds() == [End::Closed]);
        here.close(far);
        assert_eq!((here.shard.in_flight(), there.shard.in_flight()), (1, 0), "round {round}");
    }
    // A listener cannot be given up, nor can a connection that is being closed.
    let far = here.connect(&address);
    let accepted = here.take_accepted();
    here.shard.close(accepted);
    assert!(here.shard.give_up(accepted).is_none());
    here.turn_until("a close", |world| world.side(accepted).closed);
    here.close(far);
    here.shard.close_listener(listener);
}

pub(crate) fn a_refused_connect_is_reported(case: &Case) {
    let mut world = World::new(case);
    let address = case.dead_address();
    for _ in 0..10 {
        let conn = world.connect(&address);
        world.turn_until("a refusal", |world| world.side(conn).connected.is_some());
        assert_eq!(world.side(conn).connected, Some(Err(errno::ECONNREFUSED)));
        world.close(conn);
    }
    assert_eq!(world.shard.in_flight(), 0);
}

pub(crate) fn a_closed_listener_is_gone(case: &Case) {
    let mut world = World::new(case);
    let (listener, address) = world.listen();
    let conn = world.connect(&address);
    world.turn_until("a connection", |world| !world.recorder.accepted.is_empty());
    world.shard.close_listener(listener);
    world.turn_until("the end of accepting", |world| {
        world.side(conn).connected.is_some() && world.shard.listener_fd(listener).is_none()
    });
    let late = world.connect(&address);
    world.turn_until("a refusal", |world| world.side(late).connected.is_some());
    assert_eq!(world.side(late).connected, Some(Err(errno::ECONNREFUSED)));
    // A connection that was accepted before continues.
    let accepted = world.recorder.accepted.pop_front().expect("seen above");
    world.shard.receive_ring(accepted);
    world.send_bytes(conn, b"still here");
    assert_eq!(world.receive(accepted, 10), b"still here");
    world.shard.accept(listener);
    world.turn_quietly();
    assert_eq!(world.recorder.accept_failures, []);
}

#[cfg(target_os = "linux")]
pub(crate) fn accepting_resumes_after_a_failure(case: &Case) {
    let mut world = World::new(case);
    // A socket that is bound but does not listen yet.
    let (fd, address) = case.bind();
    let again = fd.try_clone().expect("dup");
    let listener = world.shard.listen(fd);
    world.turn_until("a failure", |world| !world.recorder.accept_failures.is_empty());
    assert_eq!(world.recorder.accept_failures, [(libc::EINVAL, true)]);
    world.turn_quietly();
    assert_eq!(world.recorder.accept_failures.len(), 1, "silent until asked again");
    world.shard.accept(listener);
    world.turn_until("the next failure", |world| world.recorder.accept_failures.len() == 2);
    socket2::SockRef::from(&again).listen(16).expect("listen");
    world.shard.accept(listener);
    world.shard.accept(listener);
    let conn = world.connect(&address);
    world.turn_until("a connection", |world| !world.recorder.accepted.is_empty());
    world.turn_until("a connect", |world| world.side(conn).connected == Some(Ok(())));
    assert_eq!(world.shard.in_flight(), 1, "asked twice, it accepts once");
}

pub(crate) fn more_operations_than_the_queue_holds(case: &Case) {
    let mut world = World::with(case, Config { submissions: 4, ..case.config() });
    let (_listener, address) = world.listen();
    let pairs: Vec<_> = (0..60).map(|_| world.connect(&address)).collect();
    world.turn_until("all connections", |world| world.recorder.accepted.len() == 60);
    let accepted: Vec<_> = world.recorder.accepted.drain(..).collect();
    // Everything at once: receives on both ends, then sends, then stops.
    for &conn in pairs.iter().chain(&accepted) {
        world.shard.receive_ring(conn);
        world.send_bytes(conn, &conn.to_u64().to_le_bytes());
    }
    for &conn in pairs.iter().chain(&accepted) {
        world.turn_until("a number", |world| world.side(conn).received.len() == 8);
    }
    for &conn in pairs.iter().chain(&accepted) {
        world.shard.receive_stop(conn);
    }
    for &conn in pairs.iter().chain(&accepted) {
        world.turn_until("a stop", |world| world.side(conn).end_kinds() == [End::Stopped]);
    }
    assert_eq!(world.shard.in_flight(), 1);
}

pub(crate) fn a_full_backlog_is_waited_for(case: &Case) {
    let mut world = World::new(case);
    let (listener, address) = case.listen(0, &SocketOptions::default());
    let conns: Vec<_> = (0..4).map(|_| world.connect(&address)).collect();
    world.turn_quietly();
    assert!(conns.iter().any(|&conn| world.side(conn).connected.is_none()), "the backlog is full");
    // Closing a connect that hangs is reported at once.
    let hanging = conns.iter().rev().find(|&&conn| world.side(conn).connected.is_none());
    let given_up = *hanging.expect("just seen");
    let start = Instant::now();
    world.close(given_up);
    assert!(start.elapsed() < patience() / 4);
    let stays = world.shard.in_flight();
    world.turn_quietly();
    assert_eq!((world.shard.in_flight(), stays > 0), (stays, true), "the others go on waiting");
    if case.net == Net::Tcp {
        // From here on retransmissions set the pace, over seconds.
        return;
    }
    let (done, is_done) = channel();
    let accepter = thread::spawn(move || {
        let listener = Socket::from(listener);
        let mut peers = Vec::new();
        while is_done.try_recv() == Err(TryRecvError::Empty) {
            match listener.accept() {
                Ok((peer, _)) => peers.push(peer),
                Err(_) => thread::sleep(Duration::from_millis(3)),
            }
            let _ = peers.last().map(|peer| peer.send(b"x"));
        }
    });
    for &conn in conns.iter().filter(|&&conn| conn != given_up) {
        world.turn_until("room in the backlog", |world| world.side(conn).connected.is_some());
        assert_eq!(world.side(conn).connected, Some(Ok(())));
        world.shard.receive_ring(conn);
        world.turn_until("bytes", |world| !world.side(conn).received.is_empty());
    }
    done.send(()).expect("the accepter");
    accepter.join().expect("the accepter");
}
