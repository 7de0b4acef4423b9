//! A worker dies in mid-stream: the tasks it did not get go to the next worker, once and in order.

mod common;

use std::time::Duration;

use common::content::body;
use common::events::{Seen, await_event, handed_over};
#[cfg(unix)]
use common::peer::Peer;
use common::raw::{Raw, listen};
use common::{
    Context, PATIENCE, Socket, Way, bind_tcp, in_ways, is_quiet, narrow_worker, open, turning,
};
use zring::SocketType;

const LIMIT: Duration = Duration::from_secs(60);
const MESSAGES: u64 = 3000;
const BYTES: usize = 8 << 10;

/// Message `number`, which begins with its number.
fn task(number: u64) -> Vec<u8> {
    [&number.to_le_bytes()[..], &body(number, BYTES)].concat()
}

fn number(message: &[u8]) -> u64 {
    let number = u64::from_le_bytes(message[..8].try_into().expect("eight bytes"));
    assert!(message == task(number), "task {number} arrived changed");
    number
}

fn pusher(ctx: &Context) -> Socket {
    let push = open(ctx, SocketType::Push);
    push.set_sndhwm(MESSAGES as _);
    push.set_reconnect_ivl(Duration::from_millis(10));
    push.monitor(1000);
    push
}

/// `pull` gets all tasks from `first` on, none missing and none twice.
fn takes_over(pull: &Socket, first: u64) {
    for expected in first..MESSAGES {
        assert_eq!(number(pull.recv().expect("a task").body()), expected);
    }
    assert!(is_quiet(pull));
}

/// How a worker leaves.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    Closing,
    Resetting,
}

fn leave(raw: Raw, how: Leaves) {
    match how {
        Leaves::Closing => drop(raw),
        Leaves::Resetting => raw.reset(),
    }
}

#[test]
fn a_bound_push_gives_the_rest_to_the_next_worker() {
    for how in [Leaves::Closing, Leaves::Resetting] {
        in_ways(Way::every(), LIMIT, move |way| {
            let ctx = way.context();
            let push = pusher(&ctx);
            let (endpoint, mut raw) = narrow_worker(&ctx, &push);
            for at in 0..MESSAGES {
                push.send(task(at)).expect("send");
            }
            turning(&ctx, || {
                (0..100).for_each(|expected| assert_eq!(number(&raw.data().1), expected));
            });
            leave(raw, how);
            let first = handed_over(&await_event(&ctx, &push, Seen::Disconnected));
            assert!(
                (100..MESSAGES).contains(&first),
                "{first} handed over, with 100 read ({how:?})"
            );

            let pull = open(&ctx, SocketType::Pull);
            pull.set_rcvhwm(MESSAGES as _);
            pull.connect(&endpoint).expect("connect");
            takes_over(&pull, first);
        });
    }
}

#[test]
fn a_connecting_push_goes_on_when_its_worker_is_back() {
    for how in [Leaves::Resetting, Leaves::Closing] {
        in_ways(Way::every(), LIMIT, move |way| {
            let ctx = way.context();
            let push = pusher(&ctx);
            let (listener, endpoint) = listen().expect("listen");
            push.connect(&endpoint).expect("connect");
            for at in 0..MESSAGES {
                push.send(task(at)).expect("send");
            }
            let raw = turning(&ctx, || {
                let mut raw = Raw::accept(&listener);
                raw.handshake(1, "PULL");
                (0..100).for_each(|expected| assert_eq!(number(&raw.data().1), expected));
                raw
            });
            leave(raw, how);
            let first = handed_over(&await_event(&ctx, &push, Seen::Disconnected));
            assert!(
                (100..MESSAGES).contains(&first),
                "{first} handed over, with 100 read ({how:?})"
            );
            turning(&ctx, || {
                let mut raw = Raw::accept(&listener);
                raw.handshake(1, "PULL");
                (first..MESSAGES).for_each(|expected| assert_eq!(number(&raw.data().1), expected));
            });
        });
    }
}

#[test]
fn another_worker_takes_over_what_a_dead_one_had_queued() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = pusher(&ctx);
        let endpoint = bind_tcp(&push);
        let raw = turning(&ctx, || {
            let mut raw = Raw::connect_narrow(&endpoint);
            raw.handshake(1, "PULL");
            raw
        });
        let pull = open(&ctx, SocketType::Pull);
        pull.set_rcvhwm(MESSAGES as _);
        pull.connect(&endpoint).expect("connect");
        push.wait_for_peers(2, Some(PATIENCE)).expect("two workers");
        for at in 0..MESSAGES {
            push.send(task(at)).expect("send");
        }
        leave(raw, Leaves::Resetting);
        let lost = handed_over(&await_event(&ctx, &push, Seen::Disconnected));
        let mut got: Vec<u64> = Vec::new();
        for _ in 0..MESSAGES - lost {
            got.push(number(pull.recv().expect("a task").body()));
        }
        assert!(is_quiet(&pull), "exactly what was not handed over to the dead one");
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len() as u64, MESSAGES - lost, "each once");
    });
}

// Python's virtual environment has this layout on Unix only.
#[cfg(unix)]
#[test]
fn a_killed_libzmq_worker_is_replaced() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = pusher(&ctx);
        let endpoint = bind_tcp(&push);
        let mut doomed =
            Peer::spawn("worker", &["--connect", &endpoint, "--stop-reading-after", "50"]);
        doomed.says_while(&ctx, "ready");
        push.wait_for_peers(1, Some(PATIENCE)).expect("a worker");
        for at in 0..MESSAGES {
            push.send(task(at)).expect("send");
        }
        for expected in 0..50 {
            assert_eq!(doomed.says_while(&ctx, "got"), expected.to_string());
        }
        doomed.signal("KILL");
        let first = handed_over(&await_event(&ctx, &push, Seen::Disconnected));
        assert!((50..MESSAGES).contains(&first), "{first} handed over, with 50 read");
        let last = (MESSAGES - 1).to_string();
        let mut heir = Peer::spawn("worker", &["--connect", &endpoint, "--until", &last]);
        heir.says_while(&ctx, "ready");
        for expected in first..MESSAGES {
            assert_eq!(heir.says_while(&ctx, "got"), expected.to_string());
        }
        assert_eq!(heir.done(&ctx), MESSAGES - first);
    });
}
