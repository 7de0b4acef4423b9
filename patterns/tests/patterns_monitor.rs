//! Monitor events and counters.

mod common;

use std::{
    thread,
    time::{Duration, Instant, SystemTime},
};

use common::events::{Lives, Seen, await_event, messages, peers, waiting};
use common::raw::listen;
use common::{Way, bind_tcp, in_ways, open, turn_for, turn_until};
use zring::{Error, EventKind, SocketType};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_life_of_a_connection_is_told_in_order() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        pull.monitor(100);
        let endpoint = bind_tcp(&pull);
        let push = open(&ctx, SocketType::Push);
        push.monitor(100);
        push.set_reconnect_ivl(Duration::from_millis(10));
        push.connect(&endpoint).expect("connect");
        for wanted in [Seen::Listening, Seen::Accepted, Seen::HandshakeDone] {
            await_event(&ctx, &pull, wanted);
        }
        for wanted in [Seen::Connected, Seen::HandshakeDone] {
            await_event(&ctx, &push, wanted);
        }
        pull.close();
        for wanted in [Seen::Disconnected, Seen::Retried] {
            await_event(&ctx, &push, wanted);
        }
        let heir = open(&ctx, SocketType::Pull);
        heir.bind(&endpoint).expect("bind again");
        for wanted in [Seen::Connected, Seen::HandshakeDone] {
            await_event(&ctx, &push, wanted);
        }
        push.send("again").expect("send");
        assert_eq!(heir.recv_bytes().expect("a message"), b"again");
    });
}

#[test]
fn reconnects_back_off() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        push.monitor(1000);
        push.set_linger(Some(Duration::ZERO));
        push.set_reconnect_ivl(Duration::from_millis(20));
        push.set_reconnect_ivl_max(Duration::from_millis(160));
        let (listener, endpoint) = listen().expect("listen");
        drop(listener);
        push.connect(&endpoint).expect("connect");
        turn_for(&ctx, Duration::from_millis(1000));
        let retries = waiting(&push).into_iter().filter(|event| *event == Seen::Retried).count();
        // Without back-off there would be about 50; with 160 ms each from the start, 6.
        assert!((5..=25).contains(&retries), "{retries} tries in a second");
    });
}

#[test]
fn a_full_monitor_drops_events_and_nothing_else() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        pull.monitor(2);
        let endpoint = bind_tcp(&pull);
        // They stay until the events are counted: an end would be another event.
        let mut pushing = Vec::new();
        for text in ["one", "two", "three"] {
            let push = open(&ctx, SocketType::Push);
            push.connect(&endpoint).expect("connect");
            push.send(text).expect("send");
            assert_eq!(pull.recv_bytes().expect("a message"), text.as_bytes());
            pushing.push(push);
        }
        assert_eq!(waiting(&pull).len(), 2);
    });
}

#[test]
fn messages_are_counted_by_socket_and_by_peer() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let pushing: Vec<_> = (0..3).map(|_| open(&ctx, SocketType::Push)).collect();
        for (push, count) in pushing.iter().zip([5, 10, 20]) {
            push.connect(&endpoint).expect("connect");
            for _ in 0..count {
                push.send("x").expect("send");
            }
        }
        for _ in 0..35 {
            pull.recv().expect("a message");
        }
        turn_until(&ctx, "the counts", || messages(&pushing[2]).1 == 20);
        assert_eq!(messages(&pull), (35, 0));
        assert_eq!(pushing.iter().map(|push| messages(push).1).collect::<Vec<_>>(), [5, 10, 20]);
        let mut received: Vec<u64> =
            peers(&pull).into_iter().map(|(received, _, _)| received).collect();
        received.sort_unstable();
        assert_eq!(received, [5, 10, 20]);
        assert_eq!(peers(&pushing[1]), [(0, 10, 0)]);
    });
}

/// Whatever ends connections, in the handshake or behind it: each that was opened ends once.
#[test]
fn each_connection_ends_once() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        pull.monitor(1000);
        pull.set_handshake_ivl(Some(Duration::from_millis(50)));
        let endpoint = bind_tcp(&pull);
        let mut lives = Lives::default();
        // Strangers that say nothing, that say something else, and peers of a type that does not fit.
        let address = endpoint.trim_start_matches("tcp://").to_owned();
        let silent = std::net::TcpStream::connect(&address).expect("connect");
        let mut loud = std::net::TcpStream::connect(&address).expect("connect");
        std::io::Write::write_all(&mut loud, b"GET / HTTP/1.1\r\n\r\n").expect("write");
        let unfit = open(&ctx, SocketType::Rep);
        unfit.connect(&endpoint).expect("connect");
        turn_until(&ctx, "the strangers are refused", || {
            lives.follow(&pull);
            lives.ended >= 3
        });
        unfit.close();
        drop((silent, loud));
        for number in 0..5 {
            let push = open(&ctx, SocketType::Push);
            push.monitor(100);
            push.connect(&endpoint).expect("connect");
            push.send("x").expect("send");
            pull.recv().expect("a message");
            let mut pushed = Lives::default();
            pushed.follow(&push);
            assert_eq!((pushed.opened, pushed.ended), (1, 0));
            if number % 2 == 0 {
                push.disconnect(&endpoint).expect("disconnect");
                turn_until(&ctx, "its own end", || {
                    pushed.follow(&push);
                    pushed.ended == 1
                });
            }
            push.close();
        }
        turn_until(&ctx, "all connections have ended", || {
            lives.follow(&pull);
            lives.opened == lives.ended && lives.opened >= 8
        });
    });
}

#[test]
fn an_event_names_the_peer_and_the_time() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let before = SystemTime::now();
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        pull.monitor(100);
        push.monitor(100);
        let endpoint = bind_tcp(&pull);
        push.connect(&endpoint).expect("connect");
        let connected = await_event(&ctx, &push, Seen::Connected);
        let peer = connected.peer.expect("a connection has a peer");
        assert_eq!(format!("tcp://{peer}"), endpoint);
        let accepted = await_event(&ctx, &pull, Seen::Accepted);
        let EventKind::Accepted { peer } = &accepted.kind else { unreachable!() };
        assert_eq!(accepted.peer.as_ref(), Some(peer));
        assert_eq!(*accepted.endpoint, *endpoint);
        let done = await_event(&ctx, &pull, Seen::HandshakeDone);
        assert_eq!((done.connection, &done.peer), (accepted.connection, &accepted.peer));
        assert!(before <= accepted.time && accepted.time <= done.time, "{accepted} {done}");
        let addresses: Vec<_> = pull.peers().into_iter().map(|peer| peer.address).collect();
        assert_eq!(addresses.as_slice(), std::slice::from_ref(peer));
    });
}

/// A call that waits for an event is woken by it, and by nothing else.
#[test]
fn an_event_wakes_who_waits_for_it() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        assert!(matches!(pull.recv_event(None), Err(Error::NotMonitored)));
        pull.monitor(100);
        let endpoint = bind_tcp(&pull);
        let listening = pull.recv_event(Some(Duration::ZERO)).expect("it is there");
        assert_eq!(listening.kind, EventKind::Listening);
        let start = Instant::now();
        let nothing = pull.recv_event(Some(Duration::from_millis(30)));
        assert!(matches!(nothing, Err(Error::WouldBlock)), "{nothing:?}");
        assert!(start.elapsed() >= Duration::from_millis(30));
        let address = endpoint.trim_start_matches("tcp://").to_owned();
        let stranger = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            std::net::TcpStream::connect(address).expect("connect")
        });
        let event = pull.recv_event(Some(LIMIT)).expect("an event");
        assert!(matches!(event.kind, EventKind::Accepted { .. }), "{event}");
        drop(stranger.join().expect("no panic"));
        let event = pull.recv_event(Some(LIMIT)).expect("an event");
        assert!(matches!(event.kind, EventKind::HandshakeFailed { .. }), "{event}");
    });
}
