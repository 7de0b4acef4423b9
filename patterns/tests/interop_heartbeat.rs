//! PING, PONG and time-outs with libzmq at the other end.
// The peers run in a virtual environment of Python with the layout it has on Unix.
#![cfg(unix)]

mod common;

use std::time::Duration;

use common::events::{Seen, await_event, waiting};
use common::peer::{Binds, Case, in_cases};
use common::{open, turn_for, turn_until};
use zring::SocketType;

const IVL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_millis(300);

/// Long enough for several time-outs on either side.
const IDLE: Duration = Duration::from_millis(1200);

#[test]
fn we_answer_the_pings_of_libzmq() {
    in_cases(Case::rotated(), |case| {
        let ctx = case.context();
        let pull = open(&ctx, SocketType::Pull);
        let args = ["--kind", "PUSH", "--ivl-ms", "100", "--timeout-ms", "300", "--ttl-ms", "300"];
        let mut peer = case.join(&pull, "idle", "idle", &args);
        peer.says_while(&ctx, "up");
        turn_for(&ctx, IDLE);
        assert_eq!(peer.said(), None, "the connection stays");
        peer.tell("check");
        assert_eq!(pull.recv_bytes().expect("a message"), b"still here");
        peer.done(&ctx);
    });
}

#[test]
fn libzmq_answers_our_pings() {
    in_cases(Case::rotated(), |case| {
        let ctx = case.context();
        let push = open(&ctx, SocketType::Push);
        push.set_heartbeat_ivl(Some(IVL));
        push.set_heartbeat_timeout(Some(TIMEOUT));
        push.monitor(100);
        let mut peer = case.join(&push, "idle", "idle", &["--kind", "PULL"]);
        await_event(&ctx, &push, Seen::HandshakeDone);
        peer.says_while(&ctx, "up");
        turn_for(&ctx, IDLE);
        assert_eq!(waiting(&push), [], "the connection stays");
        assert_eq!(peer.said(), None, "the connection stays");
        peer.tell("check");
        push.send("still here").expect("send");
        peer.done(&ctx);
    });
}

#[test]
fn a_stopped_libzmq_is_noticed_and_found_again() {
    let theirs = Case::rotated().into_iter().filter(|case| case.binds == Binds::Theirs).collect();
    in_cases(theirs, |case| {
        let ctx = case.context();
        let push = open(&ctx, SocketType::Push);
        push.set_heartbeat_ivl(Some(IVL));
        push.set_heartbeat_timeout(Some(TIMEOUT));
        push.monitor(1000);
        let mut peer = case.join(&push, "idle", "idle", &["--kind", "PULL"]);
        await_event(&ctx, &push, Seen::HandshakeDone);
        peer.says_while(&ctx, "up");
        peer.signal("STOP");
        await_event(&ctx, &push, Seen::Disconnected);
        peer.signal("CONT");
        await_event(&ctx, &push, Seen::HandshakeDone);
        peer.tell("check");
        push.send("still here").expect("send");
        turn_until(&ctx, "the peer's report", || peer.said().is_some_and(|line| line == "done"));
    });
}

#[test]
fn libzmq_gives_us_up_after_our_time_to_live() {
    let inline = Case::rotated().into_iter().filter(|case| case.way.is_inline()).collect();
    in_cases(inline, |case| {
        let ctx = case.context();
        let pull = open(&ctx, SocketType::Pull);
        pull.set_heartbeat_ivl(Some(IVL));
        pull.set_heartbeat_ttl(Some(TIMEOUT)).expect("a short time");
        let mut peer = case.join(&pull, "idle", "idle", &["--kind", "PUSH"]);
        peer.says_while(&ctx, "up");
        turn_for(&ctx, TIMEOUT);
        // No code turns our context now, so it sends no more PINGs.
        peer.says("down");
    });
}
