//! PUSH and PULL among themselves: balance, order, limits, batches.

mod common;

use std::time::{Duration, Instant};

use common::content::{body, check, frames, send};
use common::events::{Seen, seen};
use common::raw::{self, Raw};
use common::{
    Context, PATIENCE, Socket, Way, bind_tcp, has_unix_sockets, in_ways, is_quiet, narrow_worker,
    open, pair, scratch, turn_for, turning,
};
use zring::{Error, SocketType};

const LIMIT: Duration = Duration::from_secs(60);

/// A PUSH whose only peer stopped reading after the handshake.
fn stalled(ctx: &Context, sndhwm: u32) -> (Socket, Raw) {
    let push = open(ctx, SocketType::Push);
    push.set_sndhwm(sndhwm as _);
    push.set_linger(Some(Duration::ZERO));
    let (_, raw) = narrow_worker(ctx, &push);
    (push, raw)
}

/// Sends numbered messages of `bytes` bytes until the socket refuses for good; returns how many it accepted.
fn fill(ctx: &Context, push: &Socket, bytes: usize) -> usize {
    let (mut taken, mut refusals) = (0, 0);
    while refusals < 20 {
        match push.try_send(body(taken as u64, bytes)) {
            Ok(()) => (taken, refusals) = (taken + 1, 0),
            Err(refused) => {
                assert!(matches!(refused.error, Error::WouldBlock));
                assert!(
                    refused.payload == body(taken as u64, bytes),
                    "the refused message comes back"
                );
                refusals += 1;
                turn_for(ctx, Duration::from_millis(5));
            }
        }
        assert!(taken < 100_000, "there is no limit");
    }
    taken
}

const MESSAGES: usize = 6_000;

/// The frame in front of message `at` in a stream of all kinds of frames.
fn is_behind(at: usize) -> Option<&'static str> {
    match at % 50 {
        7 => Some("ping"),
        13 => Some("part"),
        31 if at % 500 == 31 => Some("large"),
        31 => Some("empty"),
        _ => None,
    }
}

fn varied(at: usize) -> Vec<u8> {
    vec![at as u8; [0, 3, 16, 40, 41, 64, 80, 81, 255, 256, 1_000][at * at % 11]]
}

fn large(at: usize) -> Vec<u8> {
    vec![at as u8; 90_000]
}

/// Far more messages than are decoded ahead of the user, in pieces as the kernel delivers them: some are taken directly
/// out of a piece, others in between need more work.
#[test]
fn frames_of_all_kinds_arrive_in_order_behind_a_slow_user() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let mut raw = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PUSH");
            raw
        });
        let peer = std::thread::spawn(move || {
            let mut stream = Vec::new();
            for at in 0..MESSAGES {
                stream.extend(match is_behind(at) {
                    Some("ping") => raw::command("PING", &[0, 0, at as u8]),
                    Some("part") => raw::frame(raw::MORE, &varied(at + 1)),
                    Some("large") => raw::frame(0, &large(at)),
                    Some(_) => raw::frame(0, &[]),
                    None => Vec::new(),
                });
                stream.extend(raw::frame(0, &varied(at)));
            }
            raw.say(&stream);
            for at in (0..MESSAGES).filter(|&at| is_behind(at) == Some("ping")) {
                let (flags, body) = raw.frame();
                assert_eq!(
                    (flags, &body[..5], &body[5..]),
                    (raw::COMMAND, &b"\x04PONG"[..], &[at as u8][..])
                );
            }
            raw
        });
        let mut taken = 0;
        let mut next = || {
            taken += 1;
            pull.recv().expect("a message").to_vecs()
        };
        for at in 0..MESSAGES {
            match is_behind(at) {
                Some("large") => assert!(next() == [large(at)], "{at}"),
                Some("empty") => assert_eq!(next(), [[]], "{at}"),
                Some("part") => {
                    assert_eq!(next(), [varied(at + 1), varied(at)], "{at}");
                    continue;
                }
                _ => {}
            }
            assert_eq!(next(), [varied(at)], "{at}");
        }
        assert!(pull.try_recv().is_err());
        let _raw = turning(&ctx, || peer.join().expect("all PINGs are answered"));
        let stats = pull.stats();
        assert_eq!((stats.messages_in, stats.messages_dropped), (taken, 0));
    });
}

#[test]
fn work_is_shared_out_evenly() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        let endpoint = bind_tcp(&push);
        let workers: Vec<_> = (0..3).map(|_| open(&ctx, SocketType::Pull)).collect();
        for worker in &workers {
            worker.connect(&endpoint).expect("connect");
        }
        push.wait_for_peers(3, Some(PATIENCE)).expect("three peers");
        for number in 0..300_u32 {
            push.send(&number.to_le_bytes()[..]).expect("send");
        }
        let mut all = Vec::new();
        for worker in &workers {
            let share: Vec<u32> = (0..100)
                .map(|_| {
                    u32::from_le_bytes(
                        worker.recv_bytes().expect("a task").try_into().expect("four bytes"),
                    )
                })
                .collect();
            assert!(share.is_sorted(), "the order of one worker");
            assert!(is_quiet(worker), "a hundred each");
            all.extend(share);
        }
        all.sort_unstable();
        assert!(all.into_iter().eq(0..300), "each once");
    });
}

#[test]
fn either_end_may_come_first() {
    in_ways(Way::all(), LIMIT, |way| {
        let (ctx, dir) = (way.context(), scratch());
        let mut endpoint = format!("ipc://{}/late", dir.path().display());
        if !has_unix_sockets() {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            endpoint = format!("tcp://{}", listener.local_addr().expect("its address"));
        }
        let push = open(&ctx, SocketType::Push);
        push.set_reconnect_ivl(Duration::from_millis(10));
        push.connect(&endpoint).expect("connect before anybody is bound");
        for number in 0..10_u8 {
            push.send(&[number][..]).expect("queued until then");
        }
        assert_eq!(push.stats().messages_pending, 10);
        turn_for(&ctx, Duration::from_millis(50));
        let pull = open(&ctx, SocketType::Pull);
        pull.bind(&endpoint).expect("bind");
        for number in 0..10_u8 {
            assert_eq!(pull.recv_bytes().expect("a message"), [number]);
        }
        assert_eq!(push.stats().messages_pending, 0);
    });
}

#[test]
fn a_pull_takes_from_all_and_keeps_the_order_of_each() {
    in_ways(Way::every(), LIMIT, move |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let pushing: Vec<_> = (0..3).map(|_| open(&ctx, SocketType::Push)).collect();
        for push in &pushing {
            push.connect(&endpoint).expect("connect");
        }
        for number in 0..200 {
            for (who, push) in pushing.iter().enumerate() {
                send(push, &[&[who as u8]], number, &[number * 13, 5]);
            }
        }
        let mut next = [0; 3];
        for _ in 0..600 {
            let message = pull.recv().expect("a message");
            let who = usize::from(message.body()[0]);
            check(&message, &[&[who as u8]], next[who], &[next[who] * 13, 5]);
            next[who] += 1;
        }
        assert_eq!(next, [200; 3]);
    });
}

#[test]
fn several_endpoints_on_one_socket() {
    in_ways(Way::all(), LIMIT, |way| {
        let (ctx, dir) = (way.context(), scratch());
        let pull = open(&ctx, SocketType::Pull);
        let tcp = bind_tcp(&pull);
        let mut second = "tcp://127.0.0.1:0".to_owned();
        if has_unix_sockets() {
            second = format!("ipc://{}/two", dir.path().display());
        }
        pull.bind(&second).expect("bind a second time");
        let second = pull.last_endpoint().expect("a bound endpoint");
        let push = open(&ctx, SocketType::Push);
        push.connect(&tcp).expect("connect");
        push.connect(&second).expect("connect a second time");
        push.wait_for_peers(2, Some(PATIENCE)).expect("two peers");
        for number in 0..20_u8 {
            push.send(&[number][..]).expect("send");
        }
        let mut got: Vec<u8> = (0..20).map(|_| pull.recv_bytes().expect("a message")[0]).collect();
        got.sort_unstable();
        assert!(got.into_iter().eq(0..20));

        push.disconnect(&tcp).expect("disconnect");
        push.send("by the second").expect("send");
        assert_eq!(pull.recv_bytes().expect("a message"), b"by the second");
        pull.unbind(&second).expect("unbind");
        let late = open(&ctx, SocketType::Push);
        late.set_reconnect_ivl(Duration::from_millis(10));
        late.set_linger(Some(Duration::ZERO));
        late.connect(&second).expect("connect");
        assert!(matches!(
            late.wait_for_peers(1, Some(Duration::from_millis(100))),
            Err(Error::TooFew { .. })
        ));
    });
}

#[test]
fn the_high_water_mark_refuses_and_returns_the_message() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (push, mut raw) = stalled(&ctx, 10);
        let taken = fill(&ctx, &push, 64 << 10);
        assert!(taken >= 10, "the mark itself: {taken}");
        push.set_sndtimeo(Some(Duration::from_millis(100)));
        let start = Instant::now();
        let refused = push.send(body(0, 100)).expect_err("full");
        assert!(matches!(refused.error, Error::WouldBlock));
        assert!(start.elapsed() >= Duration::from_millis(95), "sndtimeo is waited out");
        assert!(refused.payload == body(0, 100));
        for number in 0..taken {
            let (_, got) = turning(&ctx, || raw.data());
            assert!(got == body(number as u64, 64 << 10), "message {number}");
        }
        push.send("room again").expect("send");
        assert_eq!(turning(&ctx, || raw.data().1), b"room again");
    });
}

#[test]
fn without_peers_a_bound_push_refuses() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        bind_tcp(&push);
        let refused = push.try_send("nobody").expect_err("no peer");
        assert!(matches!(refused.error, Error::WouldBlock));
        assert_eq!(refused.payload, "nobody");
    });
}

#[test]
fn a_pull_that_is_not_read_pushes_back_and_loses_nothing() {
    in_ways(Way::every(), LIMIT, move |way| {
        let ctx = way.context();
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        pull.set_rcvhwm(10);
        push.set_sndhwm(10);
        push.connect(&bind_tcp(&pull)).expect("connect");
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        let taken = fill(&ctx, &push, 32 << 10);
        for number in 0..taken {
            let message = pull.recv().expect("a message");
            assert!(message.body() == body(number as u64, 32 << 10), "message {number}");
        }
        assert!(is_quiet(&pull));
    });
}

#[test]
fn multipart_messages_arrive_whole() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let pushing: Vec<_> = (0..2).map(|_| open(&ctx, SocketType::Push)).collect();
        for push in &pushing {
            push.connect(&endpoint).expect("connect");
        }
        let sizes: Vec<usize> = (0..100).map(|frame| frame * 3).collect();
        // Frame by frame, so that both messages are under way at the same time.
        for number in 0..20 {
            let frames = frames(number, &sizes);
            let (last, first) = frames.split_last().expect("a hundred frames");
            for frame in first {
                for push in &pushing {
                    push.send_more(frame).expect("a frame");
                }
            }
            for push in &pushing {
                push.send(last).expect("the last frame");
            }
        }
        let mut seen = [0; 20];
        for _ in 0..40 {
            let message = pull.recv().expect("a message");
            let number =
                (0..20).find(|number| message.frame(1) == Some(&frames(*number, &sizes)[1][..]));
            let number = number.expect("a message of ours");
            check(&message, &[], number, &sizes);
            seen[number] += 1;
        }
        assert_eq!(seen, [2; 20]);
    });
}

#[test]
fn half_a_multipart_message_is_never_sent() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        push.send("whole").expect("send");
        push.send_more("half").expect("a frame");
        assert_eq!(pull.recv_multipart().expect("a message"), [b"whole"]);
        assert!(is_quiet(&pull));
        push.send("other half").expect("the last frame");
        assert_eq!(pull.recv_multipart().expect("a message"), [&b"half"[..], b"other half"]);
    });
}

#[test]
fn a_batch_goes_out_when_its_guard_drops() {
    in_ways(Way::inline(), LIMIT, |way| {
        let (sending, receiving) = (way.context(), way.context());
        let (pull, push) = (open(&receiving, SocketType::Pull), open(&sending, SocketType::Push));
        push.monitor(10);
        push.connect(&bind_tcp(&pull)).expect("connect");
        // Both contexts are on this thread, so neither may block on the other.
        while !push.next_event().is_some_and(|event| seen(&event) == Seen::HandshakeDone) {
            sending.turn().expect("a turn");
            receiving.turn().expect("a turn");
        }
        let batch = sending.batch();
        for text in ["one", "two", "three"] {
            push.send(text).expect("send");
        }
        assert!(is_quiet(&pull), "the batch is still open");
        drop(batch);
        for text in ["one", "two", "three"] {
            assert_eq!(pull.recv_string().expect("a message"), Ok(text.to_owned()));
        }
    });
}

#[test]
fn a_batch_larger_than_the_arena_loses_nothing() {
    in_ways(Way::every(), LIMIT, move |way| {
        let ctx = way.context();
        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        push.set_sndhwm(50_000);
        pull.set_rcvhwm(50_000);
        push.connect(&bind_tcp(&pull)).expect("connect");
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        {
            let _batch = ctx.batch();
            for number in 0..20_000_usize {
                push.send(body(number as u64, number % 200)).expect("send");
            }
        }
        for number in 0..20_000_usize {
            assert_eq!(
                pull.recv().expect("a message").body(),
                body(number as u64, number % 200),
                "message {number}"
            );
        }
    });
}
