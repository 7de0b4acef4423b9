//! PUB and SUB against libzmq's PUB, SUB, XPUB and XSUB.
// The peers run in a virtual environment of Python with the layout it has on Unix.
#![cfg(unix)]

mod common;

use common::content::{check, plan, send};
use common::peer::{Case, Peer, in_cases};
use common::{Context, PATIENCE, Socket, is_quiet, open};
use zring::SocketType;

const TOPICS: [&str; 3] = ["10001", "10002", "2"];
const CHOSEN: [&str; 2] = ["10001", "2"];

/// Our PUB sends a plan under every topic; `subscribe.py` subscribes to two of the three.
fn we_publish(case: &Case, plan_name: &str, extra: &[&str]) {
    let ctx = case.context();
    let publisher = open(&ctx, SocketType::Pub);
    publisher.set_sndhwm(100_000);
    let peer = case.join(&publisher, "pub", "subscribe", &[&["--plan", plan_name], extra].concat());
    for topic in CHOSEN {
        publisher.wait_for_subscribers(topic.as_bytes(), 1, Some(PATIENCE)).expect("a subscriber");
    }
    publisher.wait_for_subscribers(b"END", 1, Some(PATIENCE)).expect("a subscriber");
    let plan = plan(plan_name);
    for (number, sizes) in plan.iter().enumerate() {
        for topic in TOPICS {
            send(&publisher, &[topic.as_bytes()], number, sizes);
        }
    }
    publisher.send("END").expect("send");
    assert_eq!(peer.done(&ctx), (plan.len() * CHOSEN.len()) as u64);
}

/// Receives the remaining ticks and then each message of the plan under the chosen topics.
fn follow(sub: &Socket, plan_name: &str) {
    let mut next = sub.recv().expect("a message");
    while next.body() == b"sync" {
        next = sub.recv().expect("a message");
    }
    for (number, sizes) in plan(plan_name).iter().enumerate() {
        for topic in CHOSEN {
            check(&next, &[topic.as_bytes()], number, sizes);
            next = sub.recv().expect("a message");
        }
    }
    assert_eq!(next.body(), b"END");
    assert!(is_quiet(sub), "something came after the end");
}

fn subscriber(case: &Case, args: &[&str]) -> (Context, Socket, Peer) {
    let ctx = case.context();
    let sub = open(&ctx, SocketType::Sub);
    sub.set_rcvhwm(100_000);
    for prefix in CHOSEN.iter().chain(&["END"]) {
        sub.subscribe(prefix.as_bytes()).expect("subscribe");
    }
    let peer = case.join(&sub, "sub", "publish", args);
    (ctx, sub, peer)
}

/// Our SUB subscribes to two of the three topics of `publish.py`, a PUB.
fn we_subscribe(case: &Case, plan_name: &str) {
    let (ctx, sub, mut peer) = subscriber(case, &["--plan", plan_name]);
    sub.subscribe(b"sync").expect("subscribe");
    assert_eq!(sub.recv_string().expect("a tick"), Ok("sync".to_owned()));
    peer.tell("go");
    follow(&sub, plan_name);
    peer.done(&ctx);
}

#[test]
fn our_pub_serves_a_libzmq_sub() {
    in_cases(Case::every(), |case| we_publish(case, "sizes", &[]));
}

#[test]
fn our_pub_serves_a_libzmq_xsub() {
    in_cases(Case::rotated(), |case| we_publish(case, "sizes", &["--xsub"]));
}

#[test]
fn our_sub_follows_a_libzmq_pub() {
    in_cases(Case::every(), |case| we_subscribe(case, "sizes"));
}

#[test]
fn our_sub_tells_a_libzmq_xpub_what_it_wants_and_when_it_leaves() {
    in_cases(Case::rotated(), |case| {
        let (ctx, sub, mut peer) = subscriber(case, &["--xpub", "--expect", "10001,2,END"]);
        assert_eq!(peer.says_while(&ctx, "subscribed"), "10001,2,END");
        peer.tell("go");
        follow(&sub, "sizes");
        for prefix in CHOSEN.iter().chain(&["END"]) {
            sub.unsubscribe(prefix.as_bytes()).expect("unsubscribe");
        }
        peer.tell("leave");
        peer.done(&ctx);
    });
}

#[test]
fn bursts_both_ways() {
    in_cases(Case::rotated(), |case| {
        we_publish(case, "burst", &[]);
        we_subscribe(case, "burst");
    });
}

#[test]
fn sixty_four_mebibytes_both_ways() {
    in_cases(Case::per_transport(), |case| {
        we_publish(case, "huge", &[]);
        we_subscribe(case, "huge");
    });
}

#[test]
fn our_client_of_a_libzmq_weather_server() {
    in_cases(Case::rotated(), |case| {
        let ctx = case.context();
        let sub = open(&ctx, SocketType::Sub);
        sub.subscribe(b"10001").expect("subscribe");
        let mut peer = case.join(&sub, "sub", "weather", &[]);
        for _ in 0..100 {
            let update = sub.recv_string().expect("an update").expect("text");
            let words: Vec<&str> = update.split(' ').collect();
            assert_eq!((words.len(), words[0]), (3, "10001"));
            words[1].parse::<i32>().expect("a temperature");
        }
        peer.tell("stop");
        peer.done(&ctx);
    });
}

#[test]
fn our_weather_server_for_a_libzmq_client() {
    in_cases(Case::rotated(), |case| {
        let ctx = case.context();
        let publisher = open(&ctx, SocketType::Pub);
        let peer = case.join(&publisher, "pub", "weather_client", &[]);
        publisher.wait_for_subscribers(b"10001", 1, Some(PATIENCE)).expect("a subscriber");
        for tick in 0..100_u32 {
            for code in 10_000..10_010 {
                publisher
                    .send(format!("{code} {} {}", tick % 215, tick % 50 + 10))
                    .expect("publish");
            }
        }
        assert_eq!(peer.done(&ctx), (0..100).sum());
    });
}
