//! Receiving into memory of the caller's: the bytes, their path, and all ways of interrupting it.

mod common;

use std::thread;
use std::time::Duration;

use common::content::{body, frames, send};
use common::raw::{MORE, Raw, frame, header};
use common::{
    PATIENCE, Socket, Way, bind_tcp, in_ways, open, pair, pull_from_raw, recv_in_pieces, scratch,
    turning, wires,
};
use zring::{DisconnectReason, Error, EventKind, FrameBuf, SocketType};

const LIMIT: Duration = Duration::from_secs(90);
const LARGE: usize = 300_000;

/// Receives one message of one frame and checks it.
fn take(pull: &Socket, buffer: &mut [u8], number: usize, bytes: usize) {
    let received = pull.recv_into(buffer).expect("a message");
    assert_eq!((received.len, received.is_truncated, received.more), (bytes, false, false));
    assert!(buffer[..bytes] == frames(number, &[bytes])[0], "message {number}");
}

/// Two connected sockets and a thread that sends while the caller receives.
fn streaming(
    way: Way,
    endpoint: &str,
    sizes: &'static [usize],
    rounds: usize,
    receive: impl FnOnce(&Socket),
) {
    let ctx = way.context();
    let pull = open(&ctx, SocketType::Pull);
    pull.bind(endpoint).expect("bind");
    let endpoint = pull.last_endpoint().expect("bound");
    let sender = thread::spawn(move || {
        let ctx = Way::Ready.context();
        let push = open(&ctx, SocketType::Push);
        push.connect(&endpoint).expect("connect");
        for number in 0..rounds * sizes.len() {
            send(&push, &[], number, &[sizes[number % sizes.len()]]);
        }
        push.close();
    });
    receive(&pull);
    sender.join().expect("sent");
}

#[test]
fn large_bodies_go_straight_into_it() {
    in_ways(Way::every(), LIMIT, |way| {
        let dir = scratch();
        for endpoint in wires(&dir) {
            streaming(way, &endpoint, &[LARGE], 40, |pull| {
                let mut buffer = vec![0; LARGE];
                (0..40).for_each(|number| take(pull, &mut buffer, number, LARGE));
                let stats = pull.stats();
                assert_eq!(stats.bytes_in, 40 * LARGE as u64);
                // The header arrives with the beginning of the body; the kernel writes the rest in place.
                let share = stats.bytes_into as f64 / stats.bytes_in as f64;
                assert!(share > 0.7, "{share} of the bytes went straight in");
            });
        }
    });
}

#[test]
fn bodies_of_all_sizes_in_turn() {
    const SIZES: &[usize] =
        &[0, 1, 40, 41, 255, 256, 4_095, 32_768, 32_769, 37_000, 65_536, 1 << 20, 7, 100_000];
    in_ways(Way::every(), LIMIT, |way| {
        streaming(way, "tcp://127.0.0.1:*", SIZES, 6, |pull| {
            let mut buffer = vec![0; 1 << 20];
            for number in 0..6 * SIZES.len() {
                take(pull, &mut buffer, number, SIZES[number % SIZES.len()]);
            }
        });
    });
}

#[test]
fn one_socket_is_received_from_in_every_way() {
    const SIZES: &[usize] = &[LARGE, 50, 100_000, LARGE];
    in_ways(Way::all(), LIMIT, |way| {
        streaming(way, "tcp://127.0.0.1:*", SIZES, 30, |pull| {
            let mut buffer = vec![0; LARGE];
            for number in 0..30 * SIZES.len() {
                let bytes = SIZES[number % SIZES.len()];
                match number % 7 {
                    0 | 1 | 4 => take(pull, &mut buffer, number, bytes),
                    2 => {
                        let received = loop {
                            match pull.try_recv_into(&mut buffer) {
                                Err(Error::WouldBlock) => thread::yield_now(),
                                received => break received.expect("a message"),
                            }
                        };
                        assert!(buffer[..received.len] == frames(number, &[bytes])[0]);
                    }
                    3 => {
                        let received = pull.recv_into(&mut buffer[..999]).expect("a message");
                        assert_eq!((received.len, received.is_truncated), (bytes, bytes > 999));
                        let kept = bytes.min(999);
                        assert!(buffer[..kept] == frames(number, &[bytes])[0][..kept]);
                    }
                    _ => {
                        let message = pull.recv().expect("a message");
                        assert!(message.body() == frames(number, &[bytes])[0]);
                    }
                }
            }
        });
    });
}

#[test]
fn frames_are_taken_one_by_one() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        for round in 0..4 {
            send(&push, &[], round, &[3, 0, 70_000, 9]);
        }
        let all = |round| frames(round, &[3, 0, 70_000, 9]);
        let mut buffer = vec![0; 70_000];

        for (at, frame) in all(0).iter().enumerate() {
            let received = pull.recv_into(&mut buffer).expect("a frame");
            assert_eq!((received.len, received.more), (frame.len(), at < 3));
            assert!(buffer[..received.len] == *frame);
            assert_eq!(pull.more(), at < 3);
        }

        assert_eq!(pull.recv_frame().expect("a frame").bytes(), all(1)[0]);
        assert_eq!(pull.recv_into(&mut buffer).expect("a frame").len, 0);
        assert_eq!(pull.skip_rest(), 2);
        assert!(!pull.more());

        assert_eq!(pull.recv_frame().expect("a frame").bytes(), all(2)[0]);
        let rest = pull.recv().expect("the rest of it");
        assert!(rest.to_vecs() == all(2)[1..]);
        assert_eq!(pull.skip_rest(), 0);

        assert!(pull.recv().expect("a message").to_vecs() == all(3));
    });
}

#[test]
fn frames_go_into_buffers_of_their_own() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (publisher, subscriber) = pair(&ctx, SocketType::Pub, SocketType::Sub);
        subscriber.subscribe("ticks").expect("subscribe");
        publisher.wait_for_subscribers("ticks", 1, Some(PATIENCE)).expect("a subscriber");
        let sizes: [&[usize]; 4] = [&[LARGE], &[10, LARGE, 70_000], &[], &[5, 60_000, 7, 8]];
        for round in 0..12 {
            let sizes = sizes[round % 4];
            let sent = turning(&ctx, || frames(round, sizes));
            send(&publisher, &[b"other"], round, sizes);
            send(&publisher, &[b"ticks"], round, sizes);
            let (mut topic, mut first) = ([0; 16], vec![0; LARGE]);
            let (mut second, mut third) = (vec![0; 70_000], [0; 3]);
            let buffers = &mut [
                FrameBuf::new(&mut topic),
                FrameBuf::new(&mut first),
                FrameBuf::new(&mut second),
                FrameBuf::new(&mut third),
            ];
            let received = subscriber.recv_into_vectored(buffers).expect("a message");
            assert_eq!(received.frames, (1 + sizes.len()).min(4));
            assert_eq!(received.more, sizes.len() > 3);
            assert_eq!(buffers[0].bytes(), b"ticks");
            for (at, buffer) in buffers[1..].iter().enumerate() {
                let frame = sent.get(at).map_or(&[][..], Vec::as_slice);
                assert_eq!(buffer.len(), frame.len());
                assert!(*buffer.bytes() == frame[..buffer.bytes().len()]);
                assert_eq!(buffer.is_truncated(), frame.len() > [LARGE, 70_000, 3][at]);
            }
            if received.more {
                let rest = subscriber.recv().expect("the rest");
                assert!(rest.to_vecs() == sent[3..]);
            }
        }
        assert!(subscriber.stats().bytes_into > 0);
    });
}

#[test]
fn requests_and_replies_go_into_it() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let rep = open(&ctx, SocketType::Rep);
        let endpoint = bind_tcp(&rep);
        let asker = thread::spawn(move || {
            let ctx = way.context();
            let req = open(&ctx, SocketType::Req);
            req.connect(&endpoint).expect("connect");
            let mut buffer = vec![0; LARGE];
            for number in 0..20 {
                send(&req, &[], number, &[LARGE]);
                take(&req, &mut buffer, number, LARGE);
                assert!(matches!(req.recv_into(&mut buffer), Err(Error::State { .. })));
            }
            req.stats().bytes_into
        });
        let mut buffer = vec![0; LARGE];
        for number in 0..20 {
            take(&rep, &mut buffer, number, LARGE);
            assert!(matches!(rep.recv_into(&mut buffer), Err(Error::State { .. })));
            rep.send(&buffer[..]).expect("a reply");
        }
        let replied = asker.join().expect("asked");
        assert!(replied > 0 && rep.stats().bytes_into > 0);
    });
}

#[test]
fn what_arrived_before_the_time_was_up_is_kept() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let sent = body(7, LARGE);
        let mut buffer = vec![0; LARGE];
        recv_in_pieces(&ctx, &pull, &mut raw, &sent, &mut buffer);
        assert!(buffer == sent);

        // The same, but with the first frame whole, the second under way, and another kind of receive at the end.
        pull.set_rcvtimeo(Some(Duration::from_millis(30)));
        let (first, second) = sent.split_at(LARGE / 2);
        turning(&ctx, || raw.say(&frame(MORE, first)));
        let (mut one, mut two) = (vec![0; LARGE], vec![0; LARGE]);
        let mut blocks = || {
            let buffers = &mut [FrameBuf::new(&mut one), FrameBuf::new(&mut two)];
            assert!(matches!(pull.recv_into_vectored(buffers), Err(Error::WouldBlock)));
            assert!(buffers[0].is_empty(), "nothing was received");
        };
        blocks();
        turning(&ctx, || raw.say(&header(0, second.len() as u64)));
        blocks();
        turning(&ctx, || raw.say(&second[..100_000]));
        blocks();
        turning(&ctx, || raw.say(&second[100_000..]));
        pull.set_rcvtimeo(Some(PATIENCE));
        assert!(pull.recv().expect("a message").to_vecs() == [first, second]);
    });
}

#[test]
fn a_peer_that_is_lost_halfway_leaves_nothing_behind() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let endpoint = pull.last_endpoint().expect("bound");
        let ender = thread::spawn(move || {
            raw.say(&header(0, LARGE as u64));
            raw.say(&body(1, 150_000));
            thread::sleep(Duration::from_millis(50));
            drop(raw);
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PUSH");
            raw.say(&frame(MORE, &body(2, LARGE)));
            thread::sleep(Duration::from_millis(50));
            drop(raw);
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PUSH");
            raw.say(&frame(0, &body(3, LARGE)));
            raw
        });
        let (mut one, mut two) = (vec![0; LARGE], vec![0; LARGE]);
        let buffers = &mut [FrameBuf::new(&mut one), FrameBuf::new(&mut two)];
        let received = pull.recv_into_vectored(buffers).expect("the third peer's");
        assert_eq!((received.frames, received.more), (1, false));
        assert!(buffers[0].bytes() == body(3, LARGE) && buffers[1].is_empty());
        let events = std::iter::from_fn(|| pull.next_event());
        let lost: Vec<_> = events
            .filter_map(|event| match event.kind {
                EventKind::Disconnected { why, .. } => Some(why),
                _ => None,
            })
            .collect();
        assert_eq!(lost, [const { DisconnectReason::PeerClosedInMessage }; 2]);
        drop(ender.join().expect("ended"));
    });
}

#[test]
fn a_peer_that_stalls_halfway_starves_nobody() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let sent = body(9, LARGE);
        turning(&ctx, || raw.say(&[header(0, LARGE as u64), sent[..200_000].to_vec()].concat()));
        let push = open(&ctx, SocketType::Push);
        push.connect(&pull.last_endpoint().expect("bound")).expect("connect");
        let mut buffer = vec![0; LARGE];
        for number in 0..20 {
            let bytes = [10, LARGE, 70_000][number % 3];
            // Only the receiver turns the context, so a large message is sent bit by bit.
            send(&push, &[], number, &[bytes]);
            take(&pull, &mut buffer, number, bytes);
        }
        turning(&ctx, || raw.say(&sent[200_000..]));
        assert_eq!(pull.recv_into(&mut buffer).expect("the rest").len, LARGE);
        assert!(buffer == sent);
    });
}

#[test]
fn several_threads_share_a_socket() {
    in_ways(Way::background(), LIMIT, |way| {
        let ctx = way.background_context();
        let pull = ctx.socket(SocketType::Pull).expect("a socket");
        pull.set_rcvtimeo(Some(PATIENCE));
        pull.bind("tcp://127.0.0.1:*").expect("bind");
        let endpoint = pull.last_endpoint().expect("bound");
        const EACH: usize = 60;
        let sums = thread::scope(|scope| {
            for who in 0..3_usize {
                let endpoint = &endpoint;
                scope.spawn(move || {
                    let ctx = Way::BackgroundReady.background_context();
                    let push = ctx.socket(SocketType::Push).expect("a socket");
                    push.connect(endpoint).expect("connect");
                    for number in 0..EACH {
                        let bytes = [LARGE, 30, 90_000][(who + number) % 3];
                        let number = who * EACH + number;
                        let tail =
                            body(number as u64, if number.is_multiple_of(4) { 50_000 } else { 3 });
                        let frames =
                            [&number.to_le_bytes()[..], &body(number as u64, bytes), &tail];
                        push.send_multipart(frames).expect("send");
                    }
                    push.close();
                });
            }
            let receivers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut seen = Vec::new();
                        let (mut id, mut one, mut two) = ([0; 8], vec![0; LARGE], vec![0; 50_000]);
                        for _ in 0..EACH {
                            let buffers = &mut [
                                FrameBuf::new(&mut id),
                                FrameBuf::new(&mut one),
                                FrameBuf::new(&mut two),
                            ];
                            let received = pull.recv_into_vectored(buffers).expect("a message");
                            assert_eq!((received.frames, received.more), (3, false));
                            let bytes = buffers[0].bytes().try_into().expect("a number");
                            let number = usize::from_le_bytes(bytes);
                            for part in &buffers[1..] {
                                assert!(*part.bytes() == body(number as u64, part.len()));
                            }
                            seen.push(number);
                        }
                        seen
                    })
                })
                .collect();
            receivers.into_iter().map(|it| it.join().expect("received")).collect::<Vec<_>>()
        });
        let mut all = sums.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..3 * EACH), "each once");
    });
}

#[test]
fn a_poller_sees_whole_messages_only() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let sent = body(4, LARGE);
        let mut buffer = vec![0; LARGE];
        pull.set_rcvtimeo(Some(Duration::from_millis(20)));
        assert!(matches!(pull.recv_into(&mut buffer), Err(Error::WouldBlock)));
        turning(&ctx, || raw.say(&[header(0, LARGE as u64), sent[..100_000].to_vec()].concat()));
        let is_there =
            |time| common::either::poll(&[(&pull, zring::inline::POLLIN)], Some(time))[0].0;
        assert!(!is_there(Duration::from_millis(30)));
        let rest = thread::spawn(move || {
            raw.say(&sent[100_000..]);
            (raw, sent)
        });
        assert!(is_there(PATIENCE));
        assert_eq!(pull.try_recv_into(&mut buffer).expect("it was there").len, LARGE);
        let (_raw, sent) = rest.join().expect("sent");
        assert!(buffer == sent);
    });
}
