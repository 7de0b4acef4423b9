//! Messages taken while they arrive: frame by frame, into memory, into files, or not at all.

mod common;

use std::fs::File;
use std::thread;
use std::time::Duration;

use common::content::{body, frames, send};
use common::raw::{MORE, frame, header};
use common::{
    PATIENCE, QUIET, Socket, Way, bind_tcp, forget_peak, in_ways, open, pair, peak_bytes,
    pull_from_raw, read_exact_at, resident_bytes, turn_for, turn_until, turning,
};
use tempfile::tempfile;
use zring::{Error, Home, Incoming, SocketType};

const LIMIT: Duration = Duration::from_secs(90);
const LARGE: usize = 300_000;

/// Runs the same code for either kind of socket.
macro_rules! stream {
    ($socket:expr, $incoming:ident => $body:expr) => {
        match $socket {
            Socket::Inline(socket) => {
                let $incoming = socket.recv_streaming().expect("a message");
                $body
            }
            Socket::Background(socket) => {
                let $incoming = socket.recv_streaming().expect("a message");
                $body
            }
        }
    };
}

fn file_bytes(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    read_exact_at(file, &mut bytes, offset);
    bytes
}

/// Takes all frames of a message, each in another way; a skipped frame gives `None`.
fn take_all<C: Home>(mut message: Incoming<'_, C>, turn: usize) -> Vec<Option<Vec<u8>>> {
    let mut taken = Vec::new();
    while let Some(mut frame) = message.next_frame().expect("a frame") {
        let len = frame.len() as usize;
        let body = match (turn + taken.len()) % 5 {
            0 => Some(frame.take().expect("all of it").bytes().to_vec()),
            1 => {
                let mut buffer = vec![0; len + 5];
                let received = frame.read_into(&mut buffer).expect("all of it");
                assert_eq!((received.len, received.is_truncated), (len, false));
                buffer.truncate(len);
                Some(buffer)
            }
            2 => {
                let file = tempfile().expect("a file");
                frame.write_to(&file, 17).expect("all of it");
                let end = if len > 0 { 17 + len as u64 } else { 0 };
                assert_eq!(file.metadata().expect("its length").len(), end);
                Some(file_bytes(&file, 17, len))
            }
            3 => {
                let (mut all, mut part) = (Vec::new(), vec![0; 100_000]);
                loop {
                    match frame.read(&mut part).expect("more of it") {
                        0 => break,
                        bytes => all.extend_from_slice(&part[..bytes]),
                    }
                }
                Some(all)
            }
            _ => {
                frame.skip();
                None
            }
        };
        taken.push(body);
    }
    assert!(message.next_frame().expect("the end").is_none(), "it stays at its end");
    taken
}

#[test]
fn every_frame_goes_where_it_is_wanted() {
    const SIZES: [&[usize]; 6] = [
        &[LARGE],
        &[3, LARGE, 70_000, 0],
        &[LARGE, LARGE, LARGE, LARGE, 5],
        &[],
        &[1 << 20, 10, 1 << 20],
        &[40, 32_768, 32_769],
    ];
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let sender = thread::spawn(move || {
            let ctx = Way::Ready.context();
            let push = open(&ctx, SocketType::Push);
            push.connect(&endpoint).expect("connect");
            for number in 0..60 {
                send(&push, &[b"head"], number, SIZES[number % 6]);
            }
            push.close();
        });
        for number in 0..60 {
            let mut sent = vec![b"head".to_vec()];
            sent.extend(frames(number, SIZES[number % 6]));
            if number % 5 == 4 {
                assert!(pull.recv().expect("a message").to_vecs() == sent, "message {number}");
                continue;
            }
            let taken = stream!(&pull, message => take_all(message, number));
            assert_eq!(taken.len(), sent.len());
            for (taken, sent) in taken.iter().zip(&sent) {
                assert!(taken.as_ref().is_none_or(|taken| taken == sent), "message {number}");
            }
        }
        sender.join().expect("sent");
        let stats = pull.stats();
        let bytes: usize = (0..60).map(|number| 4 + SIZES[number % 6].iter().sum::<usize>()).sum();
        assert_eq!((stats.messages_in, stats.bytes_in), (60, bytes as u64));
    });
}

#[test]
fn a_frame_is_seen_before_its_body_is_there() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let sent = body(3, LARGE);
        let start = [frame(MORE, b"name"), header(MORE, LARGE as u64), sent[..99].to_vec()];
        turning(&ctx, || raw.say(&start.concat()));
        stream!(&pull, message => {
                let mut message = message;
            let name = message.next_frame().expect("no error").expect("a frame").take();
            assert_eq!(name.expect("its body").bytes(), b"name");
            let mut large = message.next_frame().expect("no error").expect("a frame");
            assert_eq!((large.len(), large.more()), (LARGE as u64, true));
            let rest = [sent[99..].to_vec(), frame(0, b"end")].concat();
            let rest = thread::spawn(move || {
                raw.say(&rest);
                raw
            });
            let mut buffer = vec![0; LARGE];
            assert_eq!(large.read_into(&mut buffer).expect("its body").len, LARGE);
            assert!(buffer == sent);
            assert!(large.take().is_err(), "it was taken");
            let end = message.next_frame().expect("no error").expect("a frame").take();
            assert_eq!(end.expect("its body").bytes(), b"end");
            assert!(message.next_frame().expect("no error").is_none());
            drop(rest.join().expect("sent"));
        });
    });
}

#[test]
fn a_frame_that_has_come_meanwhile_is_not_the_next_one() {
    const SMALL: usize = 4000;
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let (small, large) = (body(5, SMALL), body(6, LARGE));
        let second = [header(MORE, SMALL as u64), small[..99].to_vec()].concat();
        let rest = [&small[99..], &header(0, LARGE as u64), &large[..LARGE / 2]].concat();
        for turn in 0..5 {
            turning(&ctx, || raw.say(&[frame(MORE, b"first"), second.clone()].concat()));
            stream!(&pull, message => {
                let mut message = message;
                drop(message.next_frame().expect("no error").expect("a frame").take());
                let mut begun = message.next_frame().expect("no error").expect("a frame");
                assert_eq!((begun.len(), begun.more()), (SMALL as u64, true));
                // The frame is whole now, and a large one has started behind it.
                turning(&ctx, || raw.say(&rest));
                turn_for(&ctx, QUIET);
                let (file, mut buffer) = (tempfile().expect("a file"), vec![0; SMALL]);
                match turn {
                    0 => buffer = begun.take().expect("all of it").bytes().to_vec(),
                    1 => drop(begun.read_into(&mut buffer).expect("all of it")),
                    2 => assert_eq!(begun.read(&mut buffer).expect("all of it"), SMALL),
                    3 => {
                        begun.write_to(&file, 0).expect("all of it");
                        buffer = file_bytes(&file, 0, SMALL);
                    }
                    _ => {
                        begun.skip();
                        buffer.clone_from(&small);
                    }
                }
                assert!(buffer == small, "{turn}");
                let mut last = message.next_frame().expect("no error").expect("a frame");
                assert_eq!((last.len(), last.more()), (LARGE as u64, false));
                turning(&ctx, || raw.say(&large[LARGE / 2..]));
                let mut buffer = vec![0; LARGE];
                last.read_into(&mut buffer).expect("all of it");
                assert!(buffer == large, "{turn}");
                assert!(message.next_frame().expect("no error").is_none());
            });
        }
    });
}

#[test]
fn nothing_is_lost_where_time_is_up() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let sent = body(8, LARGE);
        turning(&ctx, || raw.say(&frame(MORE, b"first")));
        let brief = Some(Duration::from_millis(20));
        for turn in 0..3 {
            stream!(&pull, message => {
                let mut message = message;
                pull.set_rcvtimeo(brief);
                drop(message.next_frame().expect("no error").expect("a frame").take());
                assert!(matches!(message.next_frame(), Err(Error::WouldBlock)));
                turning(&ctx, || raw.say(&[header(0, LARGE as u64), sent[..9].to_vec()].concat()));
                pull.set_rcvtimeo(Some(PATIENCE));
                let mut large = message.next_frame().expect("no error").expect("a frame");
                pull.set_rcvtimeo(brief);
                let (file, mut buffer) = (tempfile().expect("a file"), vec![0; LARGE]);
                for part in sent[9..].chunks(100_000) {
                    let waits = match turn {
                        0 => large.take().map(drop),
                        1 => large.read_into(&mut buffer).map(drop),
                        _ => large.write_to(&file, 0),
                    };
                    assert!(matches!(waits, Err(Error::WouldBlock)), "{waits:?}");
                    turning(&ctx, || raw.say(part));
                }
                pull.set_rcvtimeo(Some(PATIENCE));
                match turn {
                    0 => buffer = large.take().expect("all of it").bytes().to_vec(),
                    1 => drop(large.read_into(&mut buffer).expect("all of it")),
                    _ => {
                        large.write_to(&file, 0).expect("all of it");
                        buffer = file_bytes(&file, 0, LARGE);
                    }
                }
                assert!(buffer == sent);
                assert!(message.next_frame().expect("no error").is_none());
            });
            turning(&ctx, || raw.say(&frame(MORE, b"first")));
        }
    });
}

#[test]
fn a_peer_lost_halfway_is_told() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        for turn in 0..5 {
            let (pull, mut raw) = pull_from_raw(&ctx);
            let start = [header(0, LARGE as u64), body(1, 150_000)].concat();
            let start = if turn == 4 { Vec::new() } else { start };
            turning(&ctx, || raw.say(&[frame(MORE, b"name"), start].concat()));
            stream!(&pull, message => {
                let mut message = message;
                drop(message.next_frame().expect("no error").expect("a frame").take());
                if turn == 4 {
                    drop(raw);
                    assert!(matches!(message.next_frame(), Err(Error::PeerLost)));
                } else {
                    let mut large = message.next_frame().expect("no error").expect("a frame");
                    drop(raw);
                    let file = tempfile().expect("a file");
                    let lost = match turn {
                        0 => large.take().map(drop),
                        1 => large.read_into(&mut vec![0; LARGE]).map(drop),
                        2 => large.read_into(&mut [0; 9]).map(drop),
                        _ => large.write_to(&file, 0),
                    };
                    assert!(matches!(lost, Err(Error::PeerLost)), "{turn}: {lost:?}");
                }
            });
            let push = open(&ctx, SocketType::Push);
            push.connect(&pull.last_endpoint().expect("bound")).expect("connect");
            push.send("whole").expect("send");
            assert_eq!(pull.recv_bytes().expect("of another peer"), b"whole");
        }
    });
}

#[test]
fn what_is_left_is_skipped_without_being_kept() {
    const HUGE: usize = 64 << 20;
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let sender = thread::spawn(move || {
            let ctx = Way::Ready.context();
            let push = open(&ctx, SocketType::Push);
            push.connect(&endpoint).expect("connect");
            let huge = zring::Frame::from(vec![7; HUGE]);
            for number in 0..4_u8 {
                let frames = [zring::Frame::from(&[number][..]), huge.clone(), huge.clone()];
                push.send_multipart(frames).expect("send");
                push.send(&[number][..]).expect("send");
            }
            push.close();
        });
        turn_until(&ctx, "a peer", || pull.stats().peers == 1);
        let mut before = 0;
        for number in 0..4 {
            if number == 1 {
                before = resident_bytes();
                forget_peak();
            }
            stream!(&pull, message => {
                let mut message = message;
                let first = message.next_frame().expect("no error").expect("a frame").take();
                assert_eq!(first.expect("its body").bytes(), [number]);
                // The frame is announced but not taken and then dropped, or not even announced.
                if number % 2 == 0 {
                    let huge = message.next_frame().expect("no error").expect("a frame");
                    assert_eq!(huge.len(), HUGE as u64);
                }
            });
            if number < 3 {
                stream!(&pull, message => {
                    let mut message = message;
                    let next = message.next_frame().expect("the next message").expect("a frame").take();
                    assert_eq!(next.expect("its body").bytes(), [number]);
                });
            }
        }
        // A streaming receiver gets no large body before it has said where the body goes.
        let grown = peak_bytes().saturating_sub(before);
        assert!(grown < 48 << 20, "{grown} bytes of {HUGE} twice");
        // The rest of a dropped message is received and discarded before the next receive of any kind.
        turn_for(&ctx, QUIET);
        assert_eq!(pull.recv_bytes().expect("the next message"), [3]);
        sender.join().expect("sent");
    });
}

#[test]
fn bodies_go_into_files() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&pull);
        let sender = thread::spawn(move || {
            let ctx = Way::Ready.context();
            let push = open(&ctx, SocketType::Push);
            push.connect(&endpoint).expect("connect");
            send(&push, &[], 0, &[8 << 20]);
            send(&push, &[], 1, &[3]);
            send(&push, &[], 2, &[LARGE, 5, 80_000]);
            send(&push, &[], 3, &[LARGE, LARGE]);
            send(&push, &[], 4, &[LARGE]);
            push.close();
        });
        let file = tempfile().expect("a file");
        let to_file = |file: &File, offset| match &pull {
            Socket::Inline(socket) => socket.recv_to_file(file, offset),
            Socket::Background(socket) => socket.recv_to_file(file, offset),
        };
        let received = to_file(&file, 100).expect("a message");
        assert_eq!((received.len, received.more), (8 << 20, false));
        assert!(file_bytes(&file, 100, 8 << 20) == frames(0, &[8 << 20])[0]);
        let received = to_file(&file, 0).expect("a message");
        assert_eq!((received.len, received.more), (3, false));
        assert!(file_bytes(&file, 0, 3) == frames(1, &[3])[0]);
        let received = to_file(&file, 0).expect("a message");
        assert_eq!((received.len, received.more), (LARGE as u64, true));
        let sent = frames(2, &[LARGE, 5, 80_000]);
        assert!(file_bytes(&file, 0, LARGE) == sent[0]);
        assert!(pull.more() && pull.recv_frame().expect("a frame").bytes() == sent[1]);
        let mut buffer = vec![0; 80_000];
        assert_eq!(pull.recv_into(&mut buffer).expect("a frame").len, 80_000);
        assert!(buffer == sent[2] && !pull.more());
        // A file that cannot be written.
        let read_only = File::open(std::env::current_exe().expect("this program")).expect("a file");
        assert!(matches!(to_file(&read_only, 0), Err(Error::Io(_))));
        assert!(pull.recv_bytes().expect("the next message") == frames(4, &[LARGE])[0]);
        sender.join().expect("sent");
    });
}

#[test]
fn other_patterns_and_inproc() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let rep = open(&ctx, SocketType::Rep);
        let endpoint = bind_tcp(&rep);
        let asker = thread::spawn(move || {
            let ctx = way.context();
            let req = open(&ctx, SocketType::Req);
            req.connect(&endpoint).expect("connect");
            for number in 0..8 {
                send(&req, &[b"q"], number, &[LARGE]);
                let taken = stream!(&req, message => take_all(message, number));
                assert!(taken.into_iter().flatten().all(|it| it == frames(number, &[LARGE])[0]));
            }
        });
        for number in 0..8 {
            let taken = stream!(&rep, message => take_all(message, number));
            assert_eq!(taken.len(), 2);
            assert!(taken[0].as_ref().is_none_or(|first| first == b"q"));
            assert!(taken[1].as_ref().is_none_or(|it| *it == frames(number, &[LARGE])[0]));
            rep.send(frames(number, &[LARGE]).swap_remove(0)).expect("a reply");
        }
        asker.join().expect("asked");

        let (publisher, subscriber) = pair(&ctx, SocketType::Pub, SocketType::Sub);
        subscriber.subscribe("t").expect("subscribe");
        publisher.wait_for_subscribers("t", 1, Some(PATIENCE)).expect("a subscriber");
        for number in 0..8 {
            for topic in [&b"u"[..], b"t"] {
                send(&publisher, &[topic], number, &[LARGE]);
            }
            let taken = stream!(&subscriber, message => take_all(message, 0));
            assert_eq!(taken, [Some(b"t".to_vec()), Some(frames(number, &[LARGE])[0].clone())]);
        }

        let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
        pull.bind("inproc://here").expect("bind");
        push.connect("inproc://here").expect("connect");
        for number in 0..8 {
            send(&push, &[], number, &[5, LARGE, 7]);
            let taken = stream!(&pull, message => take_all(message, number));
            for (taken, sent) in taken.iter().zip(frames(number, &[5, LARGE, 7])) {
                assert!(taken.as_ref().is_none_or(|taken| *taken == sent));
            }
        }
    });
}

/// The rest of a message that is given up is taken off the connection even if no call follows: its sender can finish.
#[test]
fn the_sender_of_a_message_given_up_can_finish() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let options = pull.options().with_rcvbuf(Some(4096));
        let options = options.and_then(|options| options.with_pipe_bytes_max(1000));
        pull.set_options(options.expect("within bounds")).expect("options");
        let push = open(&ctx, SocketType::Push);
        push.connect(&bind_tcp(&pull)).expect("connect");
        push.send_multipart((0..3000).map(|_| vec![7; 3000])).expect("send");
        stream!(&pull, incoming => {
            let mut incoming = incoming;
            incoming.next_frame().expect("a frame").expect("the first").take().expect("all of it");
            // What follows arrives, up to the bounds of what is kept.
            thread::sleep(Duration::from_millis(50));
            incoming.next_frame().expect("a frame").expect("the second").take().expect("all of it");
            drop(incoming);
        });
        turn_until(&ctx, "the message is sent", || push.peers()[0].messages_queued == 0);
        push.send("next").expect("send");
        assert_eq!(pull.recv_bytes().expect("a message"), b"next");
    });
}
