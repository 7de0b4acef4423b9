//! Messages written in place: their contents, their order, and all ways around that path.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::content::body;
use common::{
    PATIENCE, Socket, Way, bind_tcp, in_ways, narrow_worker, open, pair, scratch, turn_until, wires,
};
use zring::{Error, Frame, SocketType};

const LIMIT: Duration = Duration::from_secs(90);

/// Sends message `number`, written in place.
fn write(push: &Socket, number: usize, len: usize) {
    let sent = push.send_with(len, |out| {
        assert!(out.len() == len && out.iter().all(|&byte| byte == 0), "zeros");
        out.copy_from_slice(&body(number as u64, len));
    });
    sent.expect("sent");
}

fn take(pull: &Socket, number: usize, len: usize) {
    let message = pull.recv().expect("a message");
    let is_single = message.frame_count() == 1;
    assert!(is_single && message.body() == body(number as u64, len), "message {number}");
}

/// Short sizes, sizes around every bound, and some that are sent by reference.
fn size(number: usize) -> usize {
    const SIZES: &[usize] =
        &[64, 0, 1, 16, 63, 65, 80, 81, 128, 254, 255, 256, 257, 1000, 4095, 4096, 4097, 70_000];
    if number.is_multiple_of(3) { SIZES[number / 3 % SIZES.len()] } else { number % 200 }
}

#[test]
fn all_sizes_arrive_in_order() {
    const MESSAGES: usize = 3000;
    in_ways(Way::every(), LIMIT, |way| {
        let dir = scratch();
        for endpoint in wires(&dir).into_iter().chain(["inproc://here".to_owned()]) {
            let ctx = way.context();
            let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
            pull.bind(&endpoint).expect("bind");
            push.connect(&pull.last_endpoint().expect("bound")).expect("connect");
            let mut taken = 0;
            for burst in 0..MESSAGES / 100 {
                let batch = ctx.batch();
                for number in burst * 100..(burst + 1) * 100 {
                    write(&push, number, size(number));
                }
                drop(batch);
                while taken < (burst + 1) * 100 {
                    take(&pull, taken, size(taken));
                    taken += 1;
                }
            }
            // And one at a time.
            for number in 0..50 {
                write(&push, number, size(number));
                take(&pull, number, size(number));
            }
            let stats = push.stats();
            assert_eq!(stats.messages_out, (MESSAGES + 50) as u64);
        }
    });
}

/// Whatever other operation happens inside a scope, later messages stay behind it.
#[test]
fn everything_else_may_come_between() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        let (other_pull, other) = pair(&ctx, SocketType::Pull, SocketType::Push);
        let mut due: Vec<Vec<Vec<u8>>> = Vec::new();
        for round in 0..40 {
            let batch = ctx.batch();
            for at in 0..30 {
                let number = round * 30 + at;
                let bytes = body(number as u64, 40 + at);
                match (round + at) % 10 {
                    0 => {
                        push.send_more("part").expect("a part");
                        write(&push, number, bytes.len());
                        due.push(vec![b"part".to_vec(), bytes]);
                        continue;
                    }
                    1 => push.send(&bytes[..]).expect("sent"),
                    2 => push.send(Frame::from(bytes.clone())).expect("sent"),
                    3 => {
                        write(&other, number, bytes.len());
                        take(&other_pull, number, bytes.len());
                        continue;
                    }
                    4 => {
                        push.send_multipart([&bytes[..], b"", &[7; 5000]]).expect("sent");
                        due.push(vec![bytes, Vec::new(), vec![7; 5000]]);
                        continue;
                    }
                    5 => {
                        let _ = ctx.turn();
                        write(&push, number, bytes.len());
                    }
                    6 => {
                        let _inner = ctx.batch();
                        write(&push, number, bytes.len());
                    }
                    7 => {
                        push.set_sndhwm(1000 + at as u32);
                        write(&push, number, bytes.len());
                    }
                    _ => write(&push, number, bytes.len()),
                }
                due.push(vec![bytes]);
            }
            drop(batch);
            for due in due.drain(..) {
                assert!(pull.recv().expect("a message").to_vecs() == due, "round {round}");
            }
        }
    });
}

#[test]
fn peers_take_turns() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        let endpoint = bind_tcp(&push);
        let pulls: Vec<_> = (0..3).map(|_| open(&ctx, SocketType::Pull)).collect();
        for (at, pull) in pulls.iter().enumerate() {
            pull.connect(&endpoint).expect("connect");
            push.wait_for_peers(at + 1, Some(PATIENCE)).expect("peers");
            // Peers that came later get their share from here on.
            let batch = ctx.batch();
            (0..60).for_each(|number| write(&push, number, 50));
            drop(batch);
            let mut counts = Vec::new();
            for pull in &pulls[..=at] {
                let mut count = 0;
                while count < 60 / (at + 1) {
                    pull.recv().expect("a share");
                    count += 1;
                }
                counts.push(count);
            }
            assert_eq!(counts.iter().sum::<usize>(), 60);
        }
    });
}

/// How many messages of `len` bytes are queued in zring when a peer that does not read makes the socket refuse for
/// good.
fn queued(way: Way, is_in_place: bool, hwm: u32, bytes: u64, len: usize) -> u64 {
    let ctx = way.context();
    let push = open(&ctx, SocketType::Push);
    let mut options = push.options();
    (options.sndhwm, options.pipe_bytes_max, options.sndbuf) = (hwm, bytes, Some(64 << 10));
    (options.linger, options.sndtimeo) = (Some(Duration::ZERO), Some(Duration::from_millis(5)));
    push.set_options(options).expect("options");
    let (_, _raw) = narrow_worker(&ctx, &push);
    let _batch = ctx.batch();
    let (mut sent, mut refusals) = (0, 0);
    while refusals < 8 {
        let refused = if is_in_place {
            let refused = push.send_with(len, |out| out.fill(sent as u8));
            refused.err().map(|refused| {
                assert!(refused.payload.body() == vec![sent as u8; len]);
                refused.error
            })
        } else {
            push.send(&vec![sent as u8; len][..]).err().map(|refused| refused.error)
        };
        match refused {
            None => (sent, refusals) = (sent + 1, 0),
            Some(Error::WouldBlock) => refusals += 1,
            Some(error) => panic!("{error}"),
        }
        assert!(sent < 200_000, "there is no limit");
    }
    sent - push.stats().messages_out
}

#[test]
fn the_bounds_of_the_queue_hold() {
    in_ways(Way::inline(), LIMIT, |way| {
        for is_in_place in [false, true] {
            for hwm in [1, 2, 100] {
                assert_eq!(queued(way, is_in_place, hwm, 10 << 20, 4000), u64::from(hwm));
            }
            let most = queued(way, is_in_place, 10_000, 100_000, 4000) * 4009;
            assert!((100_000..104_009).contains(&most), "{most} bytes");
        }
    });
}

#[test]
fn a_peer_that_goes_takes_nothing_along() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        let endpoint = bind_tcp(&push);
        let first = open(&ctx, SocketType::Pull);
        first.connect(&endpoint).expect("connect");
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        let batch = ctx.batch();
        (0..20).for_each(|number| write(&push, number, 50));
        drop(batch);
        (0..20).for_each(|number| take(&first, number, 50));
        drop(first);
        turn_until(&ctx, "the peer is gone", || push.peers().is_empty());
        let second = open(&ctx, SocketType::Pull);
        second.connect(&endpoint).expect("connect");
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        let batch = ctx.batch();
        (0..20).for_each(|number| write(&push, number, 60));
        drop(batch);
        (0..20).for_each(|number| take(&second, number, 60));
    });
}

#[test]
fn one_that_panics_sends_nothing() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        let batch = ctx.batch();
        for number in 0..10 {
            write(&push, number, 50);
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _ = push.send_with(50, |out| {
                    out.fill(1);
                    std::panic::resume_unwind(Box::new("on purpose"));
                });
            }));
            assert!(panicked.is_err());
        }
        if way.is_inline() {
            let inside = catch_unwind(AssertUnwindSafe(|| {
                let _ = push.send_with(50, |_| drop(ctx.turn()));
            }));
            assert!(inside.is_err(), "the context is in use");
        }
        drop(batch);
        (0..10).for_each(|number| take(&pull, number, 50));
        push.send("last").expect("sent");
        assert_eq!(pull.recv().expect("a message").body(), b"last");
    });
}

#[test]
fn every_sending_type_has_it() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (rep, req) = pair(&ctx, SocketType::Rep, SocketType::Req);
        write(&req, 1, 60);
        take(&rep, 1, 60);
        write(&rep, 2, 3000);
        take(&req, 2, 3000);
        let (publisher, subscriber) = pair(&ctx, SocketType::Pub, SocketType::Sub);
        subscriber.subscribe("").expect("subscribe");
        publisher.wait_for_subscribers("", 1, Some(PATIENCE)).expect("a subscriber");
        write(&publisher, 3, 60);
        take(&subscriber, 3, 60);
        let refused = subscriber.send_with(3, |out| out.fill(9)).expect_err("it receives");
        assert!(matches!(refused.error, Error::Unsupported { .. }));
        assert_eq!(refused.payload.body(), [9; 3]);
    });
}
