//! Messages that are sent and taken frame by frame.

mod common;

use std::{thread, time::Duration};

use common::{
    PATIENCE, Way, bind_tcp, in_ways, is_quiet, narrow_worker, open, pair, scratch, turn_until,
    wires,
};
use zring::{Error, FrameBuf, SocketType};

const LIMIT: Duration = Duration::from_secs(40);

fn frames(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The frame of a request that may not be sent yet is not kept for the next one.
#[test]
fn a_request_out_of_turn_is_refused_at_its_first_frame() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (rep, req) = pair(&ctx, SocketType::Rep, SocketType::Req);
        assert!(matches!(rep.send_more("x"), Err(Error::State { .. })));
        req.send("1").expect("a request");
        assert!(matches!(req.send_more("2"), Err(Error::State { .. })));
        assert!(matches!(req.try_send_more("2"), Err(Error::State { .. })));
        assert_eq!(rep.recv_multipart().expect("a request"), frames(&["1"]));
        rep.send_more("a").expect("a frame");
        rep.send("b").expect("a reply");
        assert_eq!(req.recv_multipart().expect("a reply"), frames(&["a", "b"]));
        req.send("3").expect("a request");
        assert_eq!(rep.recv_multipart().expect("a request"), frames(&["3"]));
    });
}

#[test]
fn sockets_that_only_receive_refuse_the_first_frame() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        for kind in [SocketType::Pull, SocketType::Sub] {
            let refused = open(&ctx, kind).send_more("x");
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{kind}: {refused:?}");
        }
    });
}

/// Room is asked for with the first frame, and is there for the last one.
#[test]
fn the_first_frame_finds_room_for_the_message() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        push.set_linger(Some(Duration::ZERO));
        assert!(matches!(push.try_send_more("x"), Err(Error::WouldBlock)), "nobody is expected");
        push.set_sndhwm(3);
        let (_, _raw) = narrow_worker(&ctx, &push);
        let body = vec![7; 64 << 10];
        let mut sent = 0;
        while push.try_send_more("head").is_ok() {
            push.try_send(&body[..]).expect("its room is reserved");
            sent += 1;
            assert!(sent < 1000, "never full");
            let queued = push.peers()[0].messages_queued;
            assert!(queued <= 3, "{queued} messages at a high-water mark of 3");
        }
        let refused = push.try_send("x").expect_err("no room for this either");
        assert!(refused.error.is_would_block());
    });
}

/// What was reserved for a message that is dropped on purpose is there for the next one.
#[test]
fn a_partial_message_can_be_dropped() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        push.set_sndhwm(1);
        for _ in 0..3 {
            push.send_more("1").expect("a frame");
            push.send_more("2").expect("a frame");
            assert_eq!(push.drop_partial(), 2);
            assert_eq!(push.drop_partial(), 0);
            push.send("whole").expect("there is room");
            assert_eq!(pull.recv_multipart().expect("a message"), frames(&["whole"]));
        }
        assert!(is_quiet(&pull));
        let (subscriber, publisher) = pair(&ctx, SocketType::Sub, SocketType::Pub);
        subscriber.subscribe("").expect("subscribe");
        publisher.wait_for_subscribers("x", 1, Some(PATIENCE)).expect("a subscriber");
        publisher.send_more("1").expect("a frame");
        assert_eq!(publisher.drop_partial(), 1);
        publisher.send("2").expect("send");
        assert_eq!(subscriber.recv_multipart().expect("a message"), frames(&["2"]));
    });
}

/// The first frame waits for room as a message does.
#[test]
fn the_first_frame_waits_for_room() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        push.set_sndtimeo(Some(Duration::from_millis(30)));
        assert!(matches!(push.send_more("x"), Err(Error::WouldBlock)));
        push.set_sndtimeo(Some(PATIENCE));
        let endpoint = bind_tcp(&push);
        let foreign = zring::Context::new().expect("a context");
        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            let pull = foreign.socket(SocketType::Pull).expect("a socket");
            pull.set_rcvtimeo(Some(PATIENCE));
            pull.connect(&endpoint).expect("connect");
            pull.recv_multipart().expect("a message")
        });
        push.send_more("1").expect("a peer comes");
        push.send("2").expect("the last frame");
        turn_until(&ctx, "it is received", || late.is_finished());
        assert_eq!(late.join().expect("no panic"), frames(&["1", "2"]));
    });
}

/// A message whose peer goes between its frames is another's, or waits for one.
#[test]
fn a_message_outlives_the_peer_that_it_was_begun_for() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        for kinds in [(SocketType::Pull, SocketType::Push), (SocketType::Rep, SocketType::Req)] {
            let sender = open(&ctx, kinds.1);
            let endpoint = bind_tcp(&sender);
            let first = open(&ctx, kinds.0);
            first.connect(&endpoint).expect("connect");
            sender.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
            sender.send_more("1").expect("a frame");
            first.close();
            turn_until(&ctx, "the peer is gone", || sender.stats().peers == 0);
            sender.send("2").expect("its room is reserved");
            let heir = open(&ctx, kinds.0);
            heir.connect(&endpoint).expect("connect");
            assert_eq!(heir.recv_multipart().expect("a message"), frames(&["1", "2"]));
        }
    });
}

/// A stranger decides how many frames there are: taking them one by one takes time in proportion. (Where each frame moved
/// the rest, 60,000 took most of a minute.)
#[test]
fn as_many_frames_as_a_message_may_have_are_taken_one_by_one() {
    const FRAMES: usize = 65_536;
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let dir = scratch();
        let wires = wires(&dir);
        for endpoint in wires.iter().map(String::as_str).chain(["inproc://frames"]) {
            let (pull, push) = (open(&ctx, SocketType::Pull), open(&ctx, SocketType::Push));
            pull.bind(endpoint).expect("bind");
            push.connect(&pull.last_endpoint().expect("bound")).expect("connect");
            let message: Vec<[u8; 2]> = (0..FRAMES).map(|at| (at as u16).to_le_bytes()).collect();
            for way_to_take in 0..4 {
                push.send_multipart(message.iter().map(|body| &body[..])).expect("send");
                let mut memory = [0; 8];
                let (mut taken, mut more) = (0, true);
                while more {
                    let body = (taken as u16).to_le_bytes();
                    more = match way_to_take {
                        0 => pull.recv_into(&mut memory).expect("a frame").more,
                        1 => {
                            pull.try_recv_into(&mut memory)
                                .or_else(|_| pull.recv_into(&mut memory))
                                .expect("a frame")
                                .more
                        }
                        2 => {
                            let frame = pull.recv_frame().expect("a frame");
                            memory[..2].copy_from_slice(frame.bytes());
                            pull.more()
                        }
                        _ => {
                            let buffers = &mut [FrameBuf::new(&mut memory)];
                            pull.recv_into_vectored(buffers).expect("a frame").more
                        }
                    };
                    assert_eq!(memory[..2], body);
                    taken += 1;
                }
                assert_eq!(taken, FRAMES);
            }
        }
    });
}

/// After some frames the rest can be taken as a message, or skipped.
#[test]
fn the_rest_of_a_message_is_taken_or_skipped() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        for _ in 0..2 {
            push.send_multipart(["1", "2", "3"]).expect("send");
        }
        push.send("4").expect("send");
        let mut memory = [0; 8];
        assert!(pull.recv_into(&mut memory).expect("a frame").more);
        assert_eq!(pull.recv_multipart().expect("the rest"), frames(&["2", "3"]));
        assert!(!pull.more());
        assert_eq!(pull.recv_frame().expect("a frame").bytes(), b"1");
        assert_eq!((pull.more(), pull.skip_rest(), pull.skip_rest()), (true, 2, 0));
        assert_eq!(pull.recv_multipart().expect("the next"), frames(&["4"]));
    });
}
