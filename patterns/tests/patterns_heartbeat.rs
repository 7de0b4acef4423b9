//! Heartbeats with a slow peer.

mod common;

use std::thread;
use std::time::Duration;

use common::events::{Seen, await_event, seen};
use common::raw::{COMMAND, Raw, command};
use common::{Context, Socket, Way, bind_tcp, in_ways, open, turn_until, turning};
use zring::{DisconnectReason, EventKind, SocketType};

const LIMIT: Duration = Duration::from_secs(90);
const IVL: Duration = Duration::from_millis(40);
const TIMEOUT: Duration = Duration::from_millis(200);
const LARGE: usize = 1 << 20;
/// Many times the time-out in total.
const PIECES: usize = 32;
const PAUSE: Duration = Duration::from_millis(20);

/// A PUSH that expects answers, and a peer with a small buffer. With a small `sndbuf` the PUSH itself holds most of a
/// large message, otherwise the kernel does.
fn slow_peer(ctx: &Context, sndbuf: Option<usize>) -> (Socket, Raw) {
    let push = open(ctx, SocketType::Push);
    push.set_heartbeat_ivl(Some(IVL));
    push.set_heartbeat_timeout(Some(TIMEOUT));
    if let Some(bytes) = sndbuf {
        let mut options = push.options();
        options.sndbuf = Some(bytes);
        push.set_options(options).expect("options");
    }
    push.monitor(1000);
    let endpoint = bind_tcp(&push);
    let peer = turning(ctx, || {
        let mut peer = Raw::connect_narrow(&endpoint);
        peer.handshake(1, "PULL");
        peer
    });
    await_event(ctx, &push, Seen::HandshakeDone);
    (push, peer)
}

#[test]
fn a_large_message_may_take_longer_than_a_peer_may_be_silent() {
    if !cfg!(target_os = "linux") {
        println!("skipped: only Linux tells how much of it the peer has");
        return;
    }
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        for sndbuf in [Some(16 << 10), None] {
            let (push, mut peer) = slow_peer(&ctx, sndbuf);
            push.send(vec![7; LARGE]).expect("send");
            push.send("after it").expect("send");
            turning(&ctx, || {
                // The peer sends no PONG while it reads the body.
                assert_eq!(peer.read(9).len(), 9);
                for _ in 0..PIECES {
                    thread::sleep(PAUSE);
                    assert!(peer.read(LARGE / PIECES).iter().all(|&byte| byte == 7));
                }
                loop {
                    match peer.frame() {
                        (flags, body) if flags & COMMAND == 0 => {
                            break assert_eq!(body, b"after it");
                        }
                        _ => peer.say(&command("PONG", b"")),
                    }
                }
            });
            let events: Vec<Seen> =
                std::iter::from_fn(|| push.next_event()).map(|event| seen(&event)).collect();
            assert_eq!(events, [], "one connection did it all");
        }
    });
}

#[test]
fn who_stops_in_the_middle_is_given_up() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        for sndbuf in [Some(16 << 10), None] {
            let (push, mut peer) = slow_peer(&ctx, sndbuf);
            push.send(vec![7; LARGE]).expect("send");
            turning(&ctx, || peer.read(LARGE / 10));
            let event = await_event(&ctx, &push, Seen::Disconnected);
            let EventKind::Disconnected { why, .. } = &event.kind else { panic!("{event:?}") };
            assert!(matches!(why, DisconnectReason::HeartbeatTimeout), "{event:?}");
            turn_until(&ctx, "nobody", || push.stats().peers == 0);
        }
    });
}

#[test]
fn small_messages_that_nobody_reads_prove_nothing() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (push, _peer) = slow_peer(&ctx, None);
        // The kernel at the other end acknowledges the bytes; the peer does not answer.
        turn_until(&ctx, "a silent peer is given up", || {
            let _ = push.try_send("tick");
            let mut events = std::iter::from_fn(|| push.next_event());
            events.any(|event| seen(&event) == Seen::Disconnected)
        });
    });
}
