//! The three patterns between two processes over TCP. One process runs our `examples/peer.rs`, the other runs the same
//! program or libzmq.
//!
//! `ZRING_TEST_PEER` replaces our command: a program built for another system, with the command that runs it.
//! scripts/windows tests a Windows build under Wine against Linux in this way.

mod common;

use std::collections::HashMap;

use common::content::plan;
use common::peer::Peer;

const BIND: [&str; 2] = ["--bind", "tcp://127.0.0.1:*"];

/// Which program plays a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// The program under test.
    Ours,
    /// Ours, built for this system.
    Native,
    Libzmq,
}

impl Whose {
    fn start(self, role: &str, args: &[&str]) -> Peer {
        match self {
            Self::Ours => Peer::under_test(role, args),
            Self::Native => Peer::native(role, args),
            Self::Libzmq => Peer::spawn(role, args),
        }
    }
}

/// Lets the program under test play `role` against each of the others, bound and connected.
fn plays(role: &str, opposite: &str) {
    for other in [Whose::Native, Whose::Libzmq] {
        // Python's virtual environment has this layout on Unix only.
        if other == Whose::Libzmq && !cfg!(unix) {
            println!("skipped: libzmq is met from Unix");
            continue;
        }
        exchange((role, Whose::Ours), (opposite, other), "sizes");
        exchange((role, Whose::Ours), (opposite, other), "burst");
        exchange((opposite, other), (role, Whose::Ours), "sizes");
    }
}

fn exchange(bound: (&str, Whose), connected: (&str, Whose), plan_name: &str) {
    println!("{bound:?} waits for {connected:?}, {plan_name}");
    let start = |(role, whose): (&str, Whose), end: &[&str]| {
        whose.start(role, &[end, &["--plan", plan_name]].concat())
    };
    let mut first = start(bound, &BIND);
    let endpoint = first.says("endpoint");
    first.says("ready");
    let mut second = start(connected, &["--connect", &endpoint]);
    second.says("ready");

    let mut peers = HashMap::from([(bound.0, first), (connected.0, second)]);
    // libzmq's publisher sends ticks until it is told that the subscriber has seen one.
    if [bound, connected].contains(&("publish", Whose::Libzmq)) {
        peers.get_mut("subscribe").expect("one of two").says("synced");
        peers.get_mut("publish").expect("one of two").tell("go");
    }
    let messages = plan(plan_name).len() as u64;
    for (role, mut peer) in peers {
        if role == "push" {
            peer.says("sent");
        }
        let copies = match role {
            "publish" => 3,
            "subscribe" => 2,
            _ => 1,
        };
        assert_eq!(peer.finished(), copies * messages, "what {role} counted");
    }
}

#[test]
fn req_asks() {
    plays("ask", "answer");
}

#[test]
fn rep_answers() {
    plays("answer", "ask");
}

#[test]
fn push_sends() {
    plays("push", "pull");
}

#[test]
fn pull_takes() {
    plays("pull", "push");
}

#[test]
fn pub_publishes() {
    plays("publish", "subscribe");
}

#[test]
fn sub_follows() {
    plays("subscribe", "publish");
}
