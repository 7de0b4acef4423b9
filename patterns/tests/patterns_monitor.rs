//! Monitor events and counters.

mod common;

use std::time::Duration;

use common::events::{Seen, await_event, messages, peers, waiting};
use common::raw::listen;
use common::{Way, bind_tcp, in_ways, open, turn_for, turn_until};
use zring::SocketType;

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
        for text in ["one", "two", "three"] {
            let push = open(&ctx, SocketType::Push);
            push.connect(&endpoint).expect("connect");
            push.send(text).expect("send");
            assert_eq!(pull.recv_bytes().expect("a message"), text.as_bytes());
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
