//! Older and newer versions of ZMTP at the other end.

mod common;

use std::time::Duration;

use common::events::{NO_FAULTS, Seen, await_event, await_fault, faults};
use common::raw::{COMMAND, Raw, frame, greeting, listen};
use common::{PATIENCE, Way, bind_tcp, in_ways, is_quiet, open, turning};
use zring::SocketType;

const LIMIT: Duration = Duration::from_secs(30);

/// A peer that greets with `bytes` is turned away, and reported and counted as such.
fn is_turned_away(bytes: &'static [u8]) {
    in_ways(Way::all(), LIMIT, move |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        pull.set_handshake_ivl(Some(Duration::from_millis(500)));
        pull.monitor(100);
        let endpoint = bind_tcp(&pull);
        assert!(turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.say(bytes);
            raw.is_closed()
        }));
        await_fault(&ctx, &pull, NO_FAULTS);
    });
}

#[test]
fn zmtp_1_is_turned_away() {
    // An anonymous identity, and a message.
    is_turned_away(b"\x01\x00\x06\x00hello");
}

#[test]
fn zmtp_2_is_turned_away() {
    // Signature, revision 1, socket type PUSH, an anonymous identity.
    is_turned_away(b"\xFF\0\0\0\0\0\0\0\x01\x7F\x01\x08\0\0");
}

#[test]
fn a_later_version_is_spoken_to_as_ours() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let mut greeting = greeting(7);
        greeting[10] = 4;
        let (theirs, _raw) = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.say(&greeting);
            let theirs = raw.read(64);
            raw.say(&[common::raw::ready("PUSH"), frame(0, b"from the future")].concat());
            (theirs, raw)
        });
        assert_eq!(theirs[10..12], [3, 1]);
        assert_eq!(pull.recv_bytes().expect("a message"), b"from the future");
    });
}

#[test]
fn a_3_0_subscriber_subscribes_by_message() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let publisher = open(&ctx, SocketType::Pub);
        publisher.monitor(100);
        let endpoint = bind_tcp(&publisher);
        let mut raw = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(0, "SUB");
            raw.say(&frame(0, b"\x01a"));
            raw.say(&frame(0, b"\x01b"));
            raw
        });
        publisher.wait_for_subscribers(b"b", 1, Some(PATIENCE)).expect("a subscriber");
        for text in ["a1", "c", "b1"] {
            publisher.send(text).expect("send");
        }
        assert_eq!(turning(&ctx, || [raw.data().1, raw.data().1]), [b"a1", b"b1"]);
        // Cancel `a`. Once `c` is in place, the cancellation is too.
        turning(&ctx, || raw.say(&[frame(0, b"\x00a"), frame(0, b"\x01c")].concat()));
        publisher.wait_for_subscribers(b"c", 1, Some(PATIENCE)).expect("a subscriber");
        for text in ["a2", "c2"] {
            publisher.send(text).expect("send");
        }
        assert_eq!(turning(&ctx, || raw.data().1), b"c2");
        assert_eq!(faults(&publisher), NO_FAULTS);
    });
}

/// A frame: flags and body.
type Said = (u8, &'static [u8]);

/// When it subscribes and unsubscribes, our SUB sends `wanted` to a publisher of version 3.`minor`.
fn says_subscribing(minor: u8, wanted: [Said; 2]) {
    in_ways(Way::all(), LIMIT, move |way| {
        let ctx = way.context();
        let sub = open(&ctx, SocketType::Sub);
        sub.monitor(100);
        sub.subscribe(b"topic").expect("subscribe");
        let (listener, endpoint) = listen().expect("listen");
        sub.connect(&endpoint).expect("connect");
        let (first, mut raw) = turning(&ctx, || {
            let mut raw = Raw::accept(&listener);
            raw.handshake(minor, "PUB");
            let first = raw.frame();
            raw.say(&frame(0, b"topic!"));
            (first, raw)
        });
        await_event(&ctx, &sub, Seen::HandshakeDone);
        assert_eq!(sub.recv_bytes().expect("a message"), b"topic!");
        sub.unsubscribe(b"topic").expect("unsubscribe");
        let second = turning(&ctx, || {
            let second = raw.frame();
            raw.say(&frame(0, b"topic?"));
            second
        });
        assert!(is_quiet(&sub));
        let said = [first, second];
        assert_eq!(said.each_ref().map(|(flags, body)| (*flags, &body[..])), wanted);
    });
}

#[test]
fn our_sub_subscribes_by_message_to_a_3_0_publisher() {
    says_subscribing(0, [(0, b"\x01topic"), (0, b"\x00topic")]);
}

#[test]
fn our_sub_subscribes_by_command_to_a_3_1_publisher() {
    says_subscribing(1, [(COMMAND, b"\x09SUBSCRIBEtopic"), (COMMAND, b"\x06CANCELtopic")]);
}
