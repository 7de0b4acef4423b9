//! PAIR against itself.

mod common;

use std::time::Duration;

use common::{
    PATIENCE, Way, bind_tcp,
    events::{Seen, await_event},
    in_ways, is_quiet, open, pair, scratch, turn_until, wires,
};
use zring::{DisconnectReason, EventKind, SocketType};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn messages_go_both_ways_in_any_order() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let dir = scratch();
        let wires = wires(&dir);
        for endpoint in wires.iter().map(String::as_str).chain(["inproc://pair"]) {
            let (here, there) = (open(&ctx, SocketType::Pair), open(&ctx, SocketType::Pair));
            here.bind(endpoint).expect("bind");
            there.connect(&here.last_endpoint().expect("bound")).expect("connect");
            for number in 0..100_u32 {
                there.send(&number.to_le_bytes()[..]).expect("send");
                if number % 3 == 0 {
                    there.send_multipart(["", "x"]).expect("send");
                }
            }
            for number in 0..100_u32 {
                assert_eq!(here.recv().expect("a message").body(), number.to_le_bytes());
                here.send(number.to_le_bytes().to_vec()).expect("send");
                if number % 3 == 0 {
                    let message = here.recv_multipart().expect("a message");
                    assert_eq!(message, [&b""[..], b"x"], "not modified");
                }
            }
            for number in 0..100_u32 {
                assert_eq!(there.recv().expect("a message").body(), number.to_le_bytes());
            }
            assert!(is_quiet(&here) && is_quiet(&there));
        }
    });
}

/// RFC 31: at most one peer.
#[test]
fn a_second_peer_is_refused_until_the_first_is_gone() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        for endpoint in ["tcp://127.0.0.1:*", "inproc://one"] {
            let here = open(&ctx, SocketType::Pair);
            here.monitor(1000);
            here.bind(endpoint).expect("bind");
            let endpoint = here.last_endpoint().expect("bound");
            let first = open(&ctx, SocketType::Pair);
            first.connect(&endpoint).expect("connect");
            first.send("first").expect("send");
            assert_eq!(here.recv_bytes().expect("a message"), b"first");
            let second = open(&ctx, SocketType::Pair);
            second.set_reconnect_ivl(Duration::from_millis(5));
            second.connect(&endpoint).expect("connect");
            let refused = await_event(&ctx, &here, Seen::Disconnected);
            let EventKind::Disconnected { why, .. } = refused.kind else { unreachable!() };
            assert_eq!(why, DisconnectReason::TooManyPeers { max: 1 });
            here.send("still the first").expect("send");
            assert_eq!(first.recv_bytes().expect("a message"), b"still the first");
            assert!(is_quiet(&second));
            first.close();
            second.wait_for_peers(1, Some(PATIENCE)).expect("its turn");
            turn_until(&ctx, "the second is in", || {
                second.try_send("second").is_ok()
                    && here.try_recv().is_ok_and(|it| it.body() == b"second")
            });
        }
    });
}

#[test]
fn a_message_waits_for_the_peer() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let here = open(&ctx, SocketType::Pair);
        here.set_sndhwm(2);
        let refused = here.try_send("x").expect_err("nobody is expected");
        assert!(refused.error.is_would_block());
        let there = open(&ctx, SocketType::Pair);
        let endpoint = bind_tcp(&there);
        here.connect(&endpoint).expect("connect");
        here.send("1").expect("somebody is expected");
        here.send("2").expect("somebody is expected");
        assert_eq!(there.recv_bytes().expect("a message"), b"1");
        assert_eq!(there.recv_bytes().expect("a message"), b"2");
    });
}

/// As PUSH: short messages, batches, messages written in place, large ones into memory of the receiver's.
#[test]
fn the_short_ways_are_open_to_it() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (here, there) = pair(&ctx, SocketType::Pair, SocketType::Pair);
        there.send("meet").expect("send");
        here.recv().expect("a message");
        {
            let _batch = ctx.batch();
            for number in 0..200_u8 {
                there.send_with(8, |body| body.fill(number)).expect("send");
                there.send(&[number; 3][..]).expect("send");
            }
        }
        for number in 0..200_u8 {
            assert_eq!(here.recv().expect("a message").body(), [number; 8]);
            assert_eq!(here.recv().expect("a message").body(), [number; 3]);
        }
        let large: Vec<u8> = (0..300_000).map(|at| at as u8).collect();
        here.send(&large[..]).expect("send");
        let mut memory = vec![0; large.len()];
        let received = there.recv_into(&mut memory).expect("a message");
        assert!(received.len == large.len() && memory == large);
    });
}
