//! PUB and SUB with each other, and with raw peers that see the bytes on the wire.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::events::peers;
use common::raw::{MORE, Raw, frame, listen, subscribe};
use common::{PATIENCE, Socket, Way, bind_tcp, in_ways, is_quiet, open, pair, turn_until, turning};
use zring::{Error, SocketType};

const LIMIT: Duration = Duration::from_secs(60);

fn texts(sub: &Socket, count: usize) -> Vec<String> {
    (0..count).map(|_| sub.recv_string().expect("a message").expect("text")).collect()
}

#[test]
fn a_prefix_decides_what_arrives() {
    in_ways(Way::every(), LIMIT, move |way| {
        let ctx = way.context();
        let (publisher, sub) = pair(&ctx, SocketType::Pub, SocketType::Sub);
        sub.subscribe(b"ab").expect("subscribe");
        sub.subscribe(b"x").expect("subscribe");
        publisher.wait_for_subscribers(b"x", 1, Some(PATIENCE)).expect("a subscriber");
        for text in ["a", "ab", "abc", "b", "", "x", "yx", "ABC"] {
            publisher.send(text).expect("send");
        }
        assert_eq!(texts(&sub, 3), ["ab", "abc", "x"]);
        assert!(is_quiet(&sub));
    });
}

#[test]
fn the_empty_prefix_takes_everything() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (publisher, sub) = pair(&ctx, SocketType::Pub, SocketType::Sub);
        sub.subscribe(b"").expect("subscribe");
        publisher.wait_for_subscribers(b"", 1, Some(PATIENCE)).expect("a subscriber");
        publisher.send("").expect("send");
        publisher.send_multipart(["topic".as_bytes(), b"body", b""]).expect("send");
        assert_eq!(sub.recv_multipart().expect("a message"), [b""]);
        assert_eq!(sub.recv_multipart().expect("a message"), [&b"topic"[..], b"body", b""]);
    });
}

#[test]
fn subscriptions_are_counted() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (publisher, sub) = pair(&ctx, SocketType::Pub, SocketType::Sub);
        sub.subscribe(b"a").expect("subscribe");
        sub.subscribe(b"a").expect("subscribe twice");
        sub.unsubscribe(b"a").expect("unsubscribe once");
        sub.subscribe(b"first").expect("subscribe");
        publisher.wait_for_subscribers(b"first", 1, Some(PATIENCE)).expect("a subscriber");
        publisher.send("a still").expect("send");
        assert_eq!(texts(&sub, 1), ["a still"]);
        sub.unsubscribe(b"a").expect("unsubscribe twice");
        sub.subscribe(b"second").expect("subscribe");
        publisher.wait_for_subscribers(b"second", 1, Some(PATIENCE)).expect("a subscriber");
        publisher.send("a no more").expect("send");
        publisher.send("second").expect("send");
        assert_eq!(texts(&sub, 1), ["second"]);
    });
}

#[test]
fn waiting_for_subscribers_has_an_end() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let publisher = open(&ctx, SocketType::Pub);
        let endpoint = bind_tcp(&publisher);
        let short = Some(Duration::from_millis(50));
        assert!(matches!(
            publisher.wait_for_subscribers(b"t", 1, short),
            Err(Error::TooFew { .. })
        ));
        let subs: Vec<_> = (0..2).map(|_| open(&ctx, SocketType::Sub)).collect();
        for sub in &subs {
            sub.subscribe(b"t").expect("subscribe");
            sub.connect(&endpoint).expect("connect");
        }
        publisher.wait_for_subscribers(b"t", 2, Some(PATIENCE)).expect("two subscribers");
        assert!(matches!(
            publisher.wait_for_subscribers(b"t", 3, short),
            Err(Error::TooFew { .. })
        ));
        publisher.send("tick").expect("send");
        for sub in &subs {
            assert_eq!(texts(sub, 1), ["tick"]);
        }
    });
}

#[test]
fn without_subscribers_messages_go_nowhere() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let publisher = open(&ctx, SocketType::Pub);
        publisher.set_sndhwm(1);
        let endpoint = bind_tcp(&publisher);
        for _ in 0..100 {
            publisher.send("unheard").expect("PUB never blocks");
        }
        let sub = open(&ctx, SocketType::Sub);
        sub.subscribe(b"").expect("subscribe");
        sub.connect(&endpoint).expect("connect");
        publisher.wait_for_subscribers(b"", 1, Some(PATIENCE)).expect("a subscriber");
        publisher.send("heard").expect("send");
        assert_eq!(texts(&sub, 1), ["heard"]);
    });
}

#[test]
fn a_sub_listens_to_all_its_publishers_fairly() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let sub = open(&ctx, SocketType::Sub);
        sub.subscribe(b"").expect("subscribe");
        let publishers: Vec<_> = (0..3).map(|_| open(&ctx, SocketType::Pub)).collect();
        for publisher in &publishers {
            sub.connect(&bind_tcp(publisher)).expect("connect");
            publisher.wait_for_subscribers(b"", 1, Some(PATIENCE)).expect("a subscriber");
        }
        for (who, publisher) in publishers.iter().enumerate() {
            for tick in 0..100 {
                publisher.send(format!("{who} {tick}")).expect("send");
            }
        }
        common::turn_for(&ctx, Duration::from_millis(100));
        let (mut next, mut early) = ([0; 3], [0; 3]);
        for at in 0..300 {
            let text = sub.recv_string().expect("a message").expect("text");
            let (who, tick) = text.split_once(' ').expect("two words");
            let who: usize = who.parse().expect("a publisher");
            assert_eq!(tick, next[who].to_string(), "order of publisher {who}");
            next[who] += 1;
            early[who] += u32::from(at < 60);
        }
        assert!(early.iter().all(|count| *count >= 10), "one in three each, about: {early:?}");
    });
}

#[test]
fn a_pub_sends_nobody_what_he_did_not_ask_for() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let publisher = open(&ctx, SocketType::Pub);
        let endpoint = bind_tcp(&publisher);
        let mut raw = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "SUB");
            raw.say(&subscribe(b"want"));
            raw
        });
        publisher.wait_for_subscribers(b"want", 1, Some(PATIENCE)).expect("a subscriber");
        for text in ["other", "wan", "wanted 1", "not wanted", "wanted 2"] {
            publisher.send(text).expect("send");
        }
        let got = turning(&ctx, || [raw.data().1, raw.data().1]);
        assert_eq!(got, [b"wanted 1", b"wanted 2"]);
    });
}

#[test]
fn a_sub_filters_what_a_careless_publisher_sends() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let sub = open(&ctx, SocketType::Sub);
        sub.subscribe(b"want").expect("subscribe");
        let (listener, endpoint) = listen().expect("listen");
        sub.connect(&endpoint).expect("connect");
        let _raw = turning(&ctx, || {
            let mut raw = Raw::accept(&listener);
            raw.handshake(1, "PUB");
            raw.say(&frame(0, b"unwanted"));
            raw.say(&[frame(MORE, b"nor this"), frame(0, b"want")].concat());
            raw.say(&[frame(MORE, b"wanted"), frame(0, b"body")].concat());
            raw
        });
        assert_eq!(sub.recv_multipart().expect("a message"), [&b"wanted"[..], b"body"]);
        assert!(is_quiet(&sub));
    });
}

/// As above, with far more messages than are decoded ahead of the user.
#[test]
fn a_sub_filters_a_flood_of_a_careless_publisher() {
    const MESSAGES: u32 = 5_000;
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (listener, endpoint) = listen().expect("listen");
        let sub = open(&ctx, SocketType::Sub);
        sub.subscribe(b"a").expect("subscribe");
        sub.connect(&endpoint).expect("connect");
        let mut raw = turning(&ctx, || {
            let mut raw = Raw::accept(&listener);
            raw.handshake(1, "PUB");
            raw
        });
        let text = |number| format!("{}{number:>60}", if number % 3 == 0 { 'a' } else { 'b' });
        let publisher = std::thread::spawn(move || {
            raw.say(
                &(0..MESSAGES)
                    .flat_map(|number| frame(0, text(number).as_bytes()))
                    .collect::<Vec<_>>(),
            );
            raw
        });
        for number in (0..MESSAGES).step_by(3) {
            assert_eq!(texts(&sub, 1), [text(number)]);
        }
        let dropped = MESSAGES - MESSAGES.div_ceil(3);
        turn_until(&ctx, "the last of them", || {
            sub.try_recv().is_err() && sub.stats().messages_in == u64::from(MESSAGES)
        });
        assert_eq!(sub.stats().messages_dropped, dropped.into());
        publisher.join().expect("all is said");
    });
}

#[test]
fn subscriptions_are_told_again_after_a_reconnect() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let sub = open(&ctx, SocketType::Sub);
        sub.set_reconnect_ivl(Duration::from_millis(10));
        sub.subscribe(b"topic").expect("subscribe");
        let (listener, endpoint) = listen().expect("listen");
        sub.connect(&endpoint).expect("connect");
        for _ in 0..3 {
            let told = turning(&ctx, || {
                let mut raw = Raw::accept(&listener);
                raw.handshake(1, "PUB");
                raw.frame().1
            });
            assert_eq!(told, b"\x09SUBSCRIBEtopic");
        }
    });
}

/// A subscriber that never reads does not delay the others, and its lost messages are counted.
#[test]
fn a_slow_subscriber_stalls_nobody_and_its_losses_are_counted() {
    const MESSAGES: u64 = 20_000;
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let publisher = open(&ctx, SocketType::Pub);
        publisher.set_sndhwm(500);
        let endpoint = bind_tcp(&publisher);
        let mut slow = turning(&ctx, || {
            let mut raw = Raw::connect_narrow(&endpoint);
            raw.handshake(1, "SUB");
            raw.say(&subscribe(b""));
            raw
        });
        publisher.wait_for_subscribers(b"", 1, Some(PATIENCE)).expect("the slow one");
        let sub = open(&ctx, SocketType::Sub);
        sub.subscribe(b"").expect("subscribe");
        sub.connect(&endpoint).expect("connect");
        publisher.wait_for_subscribers(b"", 2, Some(PATIENCE)).expect("the quick one");

        let (body, start) = ([7; 1024], Instant::now());
        for number in 0..MESSAGES {
            publisher.send(&body[..]).expect("PUB never blocks");
            let message = sub.recv().unwrap_or_else(|error| panic!("message {number}: {error}"));
            assert_eq!(message.body(), body);
        }
        println!("{MESSAGES} messages beside a stalled peer in {:?}", start.elapsed());
        let losses: Vec<u64> = peers(&publisher).iter().map(|(_, _, dropped)| *dropped).collect();
        assert_eq!(
            losses.iter().filter(|dropped| **dropped == 0).count(),
            1,
            "only the slow one loses: {losses:?}"
        );
        let read = turning(&ctx, || slow.count_until_silent(Duration::from_millis(500)));
        let dropped: u64 = losses.iter().sum();
        assert_eq!(read + dropped, MESSAGES, "{read} read and {dropped} dropped");
        assert_eq!(common::events::dropped(&publisher), dropped);
    });
}

#[test]
fn a_subscription_on_a_live_connection_takes_effect() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (publisher, sub) = pair(&ctx, SocketType::Pub, SocketType::Sub);
        let mut heard = BTreeMap::new();
        for topic in ["red", "green", "blue"] {
            sub.subscribe(topic.as_bytes()).expect("subscribe");
            publisher
                .wait_for_subscribers(topic.as_bytes(), 1, Some(PATIENCE))
                .expect("a subscriber");
            for every in ["red", "green", "blue"] {
                publisher.send(every).expect("send");
            }
            turn_until(&ctx, "the colours", || {
                while let Ok(colour) = sub.try_recv() {
                    *heard
                        .entry(String::from_utf8_lossy(colour.body()).into_owned())
                        .or_insert(0) += 1;
                }
                heard.contains_key(topic)
            });
        }
        assert!(is_quiet(&sub));
        let counts: Vec<_> =
            heard.iter().map(|(colour, count)| (colour.as_str(), *count)).collect();
        assert_eq!(counts, [("blue", 1), ("green", 2), ("red", 3)]);
    });
}
