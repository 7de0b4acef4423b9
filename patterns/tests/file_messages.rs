//! Frames whose body is in a file, through every pattern, also when the file changes or the peer is lost.
//!
//! Longer than 600 lines: all of it is about one kind of frame.

mod common;

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use common::content::body;
use common::events::{Seen, await_event};
#[cfg(unix)]
use common::peer::{Case, in_cases};
use common::raw::Raw;
use common::{
    Context, PATIENCE, Socket, Way, bind_tcp, directory, in_ways, is_quiet, open, read_exact_at,
    scratch, turn_for, turn_until, turning, wires,
};
use zring::{
    DisconnectReason, Error, Event, EventKind, FileError, FileFault, Frame, Message, SocketType,
};
use zring_engine::sys::file::write_all_at;

const LIMIT: Duration = Duration::from_secs(120);

/// An unnamed file on disk with `bytes` bytes of content `seed`.
fn file_of(seed: u64, bytes: usize) -> Arc<File> {
    let file = tempfile::tempfile_in(directory()).expect("a file");
    write_all_at(&file, &body(seed, bytes), 0).expect("write");
    Arc::new(file)
}

fn whole(file: &Arc<File>) -> Frame {
    let len = file.metadata().expect("metadata").len();
    Frame::from_file(file.clone(), 0, len).expect("a frame")
}

/// Not assert_eq!, which would print the megabytes.
#[track_caller]
fn check(got: &[u8], want: &[u8], what: impl std::fmt::Debug) {
    assert_eq!(got.len(), want.len(), "{what:?}");
    assert!(got == want, "{what:?} differs");
}

/// Connected pairs over each transport except inproc.
fn over_wires(
    ctx: &Context,
    bound: SocketType,
    connected: SocketType,
    mut test: impl FnMut(&Socket, &Socket),
) {
    let dir = scratch();
    for endpoint in wires(&dir) {
        let (first, second) = (open(ctx, bound), open(ctx, connected));
        first.bind(&endpoint).expect("bind");
        second.connect(&first.last_endpoint().expect("an endpoint")).expect("connect");
        test(&first, &second);
    }
}

fn file_fault(event: &Event) -> FileFault {
    match &event.kind {
        EventKind::Disconnected { why: DisconnectReason::File(fault), .. } => fault.clone(),
        other => panic!("not the end by a file: {other:?}"),
    }
}

#[test]
fn every_size_from_anywhere_in_a_file() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(1, 4 << 20);
        let file = file_of(1, bytes.len());
        over_wires(&ctx, SocketType::Push, SocketType::Pull, |push, pull| {
            for size in [0, 1, 255, 256, 4095, 4096, 64 << 10, 256 << 10, (3 << 20) + 1] {
                for offset in [0, 1, 4096, 777_777] {
                    let frame = Frame::from_file(file.clone(), offset, size as u64).expect("in it");
                    assert_eq!((frame.len(), frame.is_file()), (size, size > 0));
                    push.send(frame).expect("send");
                    let got = pull.recv().expect("a message");
                    let at = offset as usize;
                    check(got.body(), &bytes[at..at + size], (size, offset));
                    assert_eq!(got.frame_count(), 1);
                }
            }
            assert!(is_quiet(pull));
            assert_eq!(push.stats().messages_dropped + push.stats().file_faults, 0);
        });
    });
}

#[test]
fn a_hundred_mebibytes() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(2, 100 << 20);
        let file = file_of(2, bytes.len());
        over_wires(&ctx, SocketType::Push, SocketType::Pull, |push, pull| {
            push.send(whole(&file)).expect("send");
            push.send("behind it").expect("send");
            check(pull.recv().expect("a message").body(), &bytes, "all of it");
            assert_eq!(pull.recv().expect("a message").body(), b"behind it");
        });
    });
}

#[test]
fn files_at_any_place_of_a_message() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(3, 1 << 20);
        let file = file_of(3, bytes.len());
        let part = |from: usize, to: usize| {
            Frame::from_file(file.clone(), from as u64, (to - from) as u64).expect("in it")
        };
        over_wires(&ctx, SocketType::Push, SocketType::Pull, |push, pull| {
            // More than one send can hold.
            let many = (0..150).map(|at| if at % 3 == 0 { part(at, 5 * at) } else { part(0, 5) });
            let messages: [Vec<Frame>; 5] = [
                vec![part(0, 300_000), Frame::from("x"), part(300_000, 300_001)],
                vec![Frame::from("x"), part(5, 1000), part(0, 0), Frame::from(vec![7; 9000])],
                vec![part(1, 900_000), part(1, 900_000)],
                vec![Frame::new(), part(0, 1)],
                many.collect(),
            ];
            let sent = || messages.iter().map(|frames| Message::from_frames(frames.clone()));
            for scope in [false, true] {
                let batch = scope.then(|| ctx.batch());
                for message in sent() {
                    push.send(message.expect("frames")).expect("send");
                    push.send("small").expect("send");
                }
                drop(batch);
                for frames in &messages {
                    let got = pull.recv().expect("a message");
                    assert_eq!(got.frame_count(), frames.len());
                    assert!(!got.has_files());
                    for (got, frame) in got.frames().zip(frames) {
                        check(got.bytes(), frame.read().expect("read").bytes(), frame);
                    }
                    assert_eq!(pull.recv().expect("a message").body(), b"small");
                }
            }
            push.send_more(part(3, 5003)).expect("more");
            push.send("end").expect("send");
            let got = pull.recv().expect("a message");
            check(got.body(), &bytes[3..5003], "begun with send_more");
            assert_eq!(got.frame(1), Some(&b"end"[..]));
        });
    });
}

#[test]
fn requests_and_replies() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(4, 1 << 20);
        let file = file_of(4, bytes.len());
        over_wires(&ctx, SocketType::Rep, SocketType::Req, |rep, req| {
            for _ in 0..5 {
                req.send(whole(&file)).expect("a request");
                check(rep.recv().expect("a request").body(), &bytes, "request");
                rep.send_multipart([Frame::from("re"), whole(&file)]).expect("a reply");
                let reply = req.recv().expect("a reply");
                assert_eq!(reply.body(), b"re");
                check(reply.frame(1).expect("a second frame"), &bytes, "reply");
            }
        });
    });
}

#[test]
fn subscribers_choose_by_what_a_file_begins_with() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let file = file_of(5, 300_000);
        write_all_at(&file, b"weather.", 100).expect("write");
        let mut bytes = vec![0; 299_900];
        read_exact_at(&file, &mut bytes, 100);
        let publisher = open(&ctx, SocketType::Pub);
        let endpoint = bind_tcp(&publisher);
        let subscribers: Vec<_> = ["weather.", "weather", "news", ""]
            .into_iter()
            .map(|prefix| {
                let subscriber = open(&ctx, SocketType::Sub);
                subscriber.subscribe(prefix).expect("subscribe");
                subscriber.connect(&endpoint).expect("connect");
                subscriber
            })
            .collect();
        publisher.wait_for_subscribers("weather.", 3, Some(PATIENCE)).expect("subscribers");
        publisher.wait_for_subscribers("news", 2, Some(PATIENCE)).expect("subscribers");
        for _ in 0..3 {
            let frame = Frame::from_file(file.clone(), 100, bytes.len() as u64).expect("in it");
            publisher.send_multipart([frame, Frame::from("end")]).expect("publish");
            publisher.send_multipart([Frame::from("news"), whole(&file)]).expect("publish");
        }
        for _ in 0..3 {
            for at in [0, 1, 3] {
                let got = subscribers[at].recv().expect("a message");
                check(got.body(), &bytes, at);
                if at == 3 {
                    assert_eq!(subscribers[at].recv().expect("news").body(), b"news");
                }
            }
            assert_eq!(subscribers[2].recv().expect("a message").body(), b"news");
        }
        assert!(subscribers.iter().all(is_quiet));
        // A message whose topic cannot be read cannot be published.
        let frame = Frame::from_file(file.clone(), 100, bytes.len() as u64).expect("in it");
        file.set_len(50).expect("cut");
        let refused = publisher.send(frame.clone()).expect_err("no topic");
        assert!(matches!(refused.error, Error::FileRead(_)), "{refused}");
        assert_eq!(refused.payload, frame);
        assert!(is_quiet(&subscribers[3]));
    });
}

#[test]
fn peers_within_the_process_get_it_in_memory() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(6, 200_000);
        let file = file_of(6, bytes.len());
        for (sends, receives) in
            [(SocketType::Push, SocketType::Pull), (SocketType::Pub, SocketType::Sub)]
        {
            let (out, into) = (open(&ctx, sends), open(&ctx, receives));
            out.bind("inproc://files").expect("bind");
            if receives == SocketType::Sub {
                into.subscribe("").expect("subscribe");
            }
            into.connect("inproc://files").expect("connect");
            match sends {
                SocketType::Pub => out.wait_for_subscribers("", 1, Some(PATIENCE)),
                _ => out.wait_for_peers(1, Some(PATIENCE)),
            }
            .expect("a peer");
            let small = Frame::from_file(file.clone(), 7, 5).expect("in it");
            out.send(small.clone()).expect("send");
            out.send_multipart([Frame::from("a"), whole(&file)]).expect("send");
            assert_eq!(into.recv().expect("a message").body(), &bytes[7..12]);
            let got = into.recv().expect("a message");
            assert!(!got.has_files());
            check(got.frame(1).expect("two frames"), &bytes, sends);
            // A message that cannot be read is refused, and no part of it is sent.
            let late = whole(&file);
            file.set_len(1000).expect("cut");
            let refused = out.send(late.clone()).expect_err("unreadable");
            assert!(matches!(refused.error, Error::FileRead(_)), "{refused}");
            assert_eq!(refused.payload, late);
            out.send_more(late.clone()).expect("more");
            assert!(matches!(out.send("end").expect_err("unreadable").error, Error::FileRead(_)));
            write_all_at(&file, &bytes, 0).expect("write");
            out.send("end").expect("now it can be read");
            let got = into.recv().expect("a message");
            check(got.body(), &bytes, "kept until then");
            assert_eq!(got.frame(1), Some(&b"end"[..]));
            assert!(is_quiet(&into));
        }
        let (req, rep) = (open(&ctx, SocketType::Req), open(&ctx, SocketType::Rep));
        rep.bind("inproc://asked").expect("bind");
        req.connect("inproc://asked").expect("connect");
        req.send(whole(&file)).expect("a request");
        check(rep.recv().expect("a request").body(), &bytes, "request");
        rep.send(whole(&file)).expect("a reply");
        check(req.recv().expect("a reply").body(), &bytes, "reply");
    });
}

#[test]
fn subscribers_of_both_kinds_get_the_same() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(17, 2 << 20);
        let file = file_of(17, bytes.len());
        let publisher = open(&ctx, SocketType::Pub);
        publisher.bind("inproc://both").expect("bind");
        let endpoints = [bind_tcp(&publisher), "inproc://both".to_owned()];
        let subscribers: Vec<Socket> = endpoints
            .iter()
            .map(|endpoint| {
                let subscriber = open(&ctx, SocketType::Sub);
                subscriber.subscribe(&bytes[..3]).expect("subscribe");
                subscriber.connect(endpoint).expect("connect");
                subscriber
            })
            .collect();
        publisher.wait_for_subscribers(&bytes[..3], 2, Some(PATIENCE)).expect("subscribers");
        publisher.send(whole(&file)).expect("publish");
        publisher.send(&bytes[..5]).expect("publish");
        for subscriber in &subscribers {
            check(subscriber.recv().expect("a message").body(), &bytes, "all of it");
            assert_eq!(subscriber.recv().expect("a message").body(), &bytes[..5]);
        }
    });
}

#[test]
fn what_waited_for_a_peer_within_the_process() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(6, 20_000);
        let file = file_of(6, bytes.len());
        let gone = file_of(7, 100);
        let push = open(&ctx, SocketType::Push);
        push.connect("inproc://late").expect("connect");
        push.send(whole(&file)).expect("it waits");
        push.send(whole(&gone)).expect("it waits");
        push.send("last").expect("it waits");
        gone.set_len(10).expect("cut");
        let pull = open(&ctx, SocketType::Pull);
        pull.bind("inproc://late").expect("bind");
        check(pull.recv().expect("a message").body(), &bytes, "waited");
        assert_eq!(pull.recv().expect("a message").body(), b"last");
        let stats = push.stats();
        assert_eq!((stats.messages_dropped, stats.file_faults), (1, 1));
    });
}

#[test]
fn what_cannot_be_sent_is_refused_at_once() {
    let file = file_of(8, 100);
    let refusal = |offset, len| match Frame::from_file(file.clone(), offset, len) {
        Err(Error::File(error)) => error,
        other => panic!("not refused: {other:?}"),
    };
    assert!(matches!(refusal(50, 51), FileError::BeyondEnd { file_bytes: 100, .. }));
    assert!(matches!(refusal(u64::MAX, u64::MAX), FileError::BeyondEnd { .. }));
    // Windows cannot open a directory in this way.
    if let Ok(directory) = File::open(directory()) {
        let refused = Message::from_file(directory, 0, 0);
        assert!(matches!(refused, Err(Error::File(FileError::NotRegular))));
    }
    let path = scratch();
    let write_only = File::create(path.path().join("blind")).expect("create");
    write_only.set_len(10).expect("grow");
    let refused = Message::from_file(write_only, 0, 10);
    assert!(matches!(refused, Err(Error::File(FileError::NotReadable))));
}

/// A PUSH whose only peer has not read anything yet.
fn slow_peer(ctx: &Context, push: &Socket, endpoint: &str) -> Raw {
    let raw = turning(ctx, || {
        let mut raw = Raw::connect_narrow(endpoint);
        raw.handshake(1, "PULL");
        raw
    });
    push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
    raw
}

#[test]
fn a_file_cut_off_on_its_way_ends_its_connection_alone() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let file = file_of(9, 64 << 20);
        let push = open(&ctx, SocketType::Push);
        push.monitor(64);
        let endpoint = bind_tcp(&push);
        let mut raw = slow_peer(&ctx, &push, &endpoint);
        push.send("before").expect("send");
        push.send(whole(&file)).expect("send");
        push.send("behind").expect("send");
        push.send(Frame::from_file(file.clone(), 3, 9).expect("in it")).expect("send");
        turn_for(&ctx, Duration::from_millis(20));
        let cut = (32 << 20) + 5;
        file.set_len(cut).expect("cut");
        let got = turning(&ctx, move || {
            assert_eq!(raw.data().1, b"before");
            assert_eq!(raw.read(9)[0], common::raw::LONG);
            raw.count_until_closed()
        });
        // Fewer bytes may have arrived: a part that is found to be cut off is not sent at all.
        assert!(got > 0 && got <= cut, "{got}");
        let event = await_event(&ctx, &push, Seen::Disconnected);
        assert_eq!(file_fault(&event), FileFault::Truncated { at: cut });
        let EventKind::Disconnected { messages_requeued, messages_dropped, .. } = event.kind else {
            unreachable!("checked above")
        };
        assert_eq!((messages_requeued, messages_dropped), (2, 1));
        let pull = open(&ctx, SocketType::Pull);
        pull.connect(&endpoint).expect("connect");
        assert_eq!(pull.recv().expect("a message").body(), b"behind");
        assert_eq!(pull.recv().expect("a message").len(), 9);
        assert!(is_quiet(&pull));
        let stats = push.stats();
        assert_eq!((stats.file_faults, stats.messages_dropped, stats.messages_out), (1, 1, 3));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_cannot_be_read_ends_its_connection_alone() {
    // A regular file with a length, but with failing reads.
    let path = "/sys/class/net/lo/speed";
    if !std::fs::read(path).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
        println!("skipped: there is no {path} that cannot be read");
        return;
    }
    in_ways(Way::all(), LIMIT, move |way| {
        let ctx = way.context();
        over_wires(&ctx, SocketType::Push, SocketType::Pull, |push, pull| {
            push.monitor(64);
            push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
            let unreadable = Frame::from_file(File::open(path).expect("open"), 1, 8);
            {
                let _batch = ctx.batch();
                push.send("before").expect("send");
                push.send(unreadable.expect("it looks like a file")).expect("send");
                push.send("behind").expect("send");
            }
            assert_eq!(pull.recv().expect("a message").body(), b"before");
            let event = await_event(&ctx, push, Seen::Disconnected);
            assert_eq!(file_fault(&event), FileFault::Unreadable { at: 1, errno: libc::EINVAL });
            // The peer reconnects.
            assert_eq!(pull.recv().expect("a message").body(), b"behind");
            let stats = push.stats();
            assert_eq!((stats.file_faults, stats.messages_dropped), (1, 1));
        });
    });
}

#[test]
fn a_request_whose_file_is_cut_off_has_no_reply() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let file = file_of(10, 64 << 20);
        let req = open(&ctx, SocketType::Req);
        let endpoint = bind_tcp(&req);
        let mut raw = turning(&ctx, || {
            let mut raw = Raw::connect_narrow(&endpoint);
            raw.handshake(1, "REP");
            raw
        });
        req.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        req.send(whole(&file)).expect("send");
        file.set_len(16 << 20).expect("cut");
        turning(&ctx, move || assert!(raw.is_closed()));
        let answer = req.recv();
        assert!(matches!(answer, Err(Error::State { .. })), "{answer:?}");
        assert_eq!(req.stats().file_faults, 1);
        let rep = open(&ctx, SocketType::Rep);
        rep.connect(&endpoint).expect("connect");
        req.send("again").expect("another request");
        assert_eq!(rep.recv().expect("it").body(), b"again");
        rep.send("yes").expect("a reply");
        assert_eq!(req.recv().expect("it").body(), b"yes");
    });
}

#[test]
fn a_message_of_a_lost_peer_goes_to_another_from_its_beginning() {
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(11, 24 << 20);
        let file = file_of(11, bytes.len());
        for resets in [false, true] {
            let push = open(&ctx, SocketType::Push);
            push.monitor(64);
            let endpoint = bind_tcp(&push);
            let mut raw = slow_peer(&ctx, &push, &endpoint);
            let message = [Frame::from("head"), whole(&file), Frame::from("tail")];
            push.send_multipart(message).expect("send");
            push.send("behind").expect("send");
            turning(&ctx, move || {
                assert_eq!(raw.frame().1, b"head");
                raw.read(1 << 20);
                if resets {
                    raw.reset();
                }
            });
            let event = await_event(&ctx, &push, Seen::Disconnected);
            assert!(!matches!(
                event.kind,
                EventKind::Disconnected { why: DisconnectReason::File(_), .. }
            ));
            let pull = open(&ctx, SocketType::Pull);
            pull.connect(&endpoint).expect("connect");
            let got = pull.recv().expect("a message");
            assert_eq!((got.frame_count(), got.frame(2)), (3, Some(&b"tail"[..])));
            check(got.frame(1).expect("a second frame"), &bytes, "all of it");
            assert_eq!(pull.recv().expect("a message").body(), b"behind");
            assert_eq!(push.stats().messages_requeued, 2);
        }
    });
}

#[test]
fn a_file_counts_for_the_limits_of_its_pipe() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let file = file_of(12, 24 << 20);
        let push = open(&ctx, SocketType::Push);
        let mut options = push.options();
        options.pipe_bytes_max = 1 << 20;
        push.set_options(options).expect("options");
        push.set_linger(Some(Duration::ZERO));
        let endpoint = bind_tcp(&push);
        let mut raw = slow_peer(&ctx, &push, &endpoint);
        // One message of any size is accepted, and then no other.
        push.try_send(whole(&file)).expect("send");
        turn_for(&ctx, Duration::from_millis(20));
        let refused = push.try_send(whole(&file)).expect_err("no room");
        assert!(refused.error.is_would_block());
        assert_eq!(refused.payload, whole(&file));
        turning(&ctx, || {
            let (_, got) = raw.data();
            check(&got, &body(12, 24 << 20), "the first");
        });
        push.send(whole(&file)).expect("room again");
    });
}

/// Drops a file's pages from the page cache. Returns whether they are gone: a file system in memory keeps them.
#[cfg(target_os = "linux")]
fn chill(file: &File) -> bool {
    file.sync_all().expect("sync");
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    let (mut byte, middle) = ([0], file.metadata().expect("metadata").len() / 2);
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    let nowait = rustix::io::ReadWriteFlags::NOWAIT;
    rustix::io::preadv2(file, &mut parts, middle, nowait) == Err(rustix::io::Errno::AGAIN)
}

/// Other systems offer no way to drop them.
#[cfg(not(target_os = "linux"))]
fn chill(_file: &File) -> bool {
    false
}

#[cfg(target_os = "linux")]
#[test]
fn cold_files_arrive_whole() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(13, (20 << 20) + 12_345);
        let file = file_of(13, bytes.len());
        let warm = file_of(14, 5000);
        over_wires(&ctx, SocketType::Push, SocketType::Pull, |push, pull| {
            if !chill(&file) {
                println!("skipped: files in /tmp are always in memory");
                return;
            }
            push.send(whole(&file)).expect("send");
            push.send(whole(&warm)).expect("send");
            check(pull.recv().expect("a message").body(), &bytes, "cold");
            check(pull.recv().expect("a message").body(), &body(14, 5000), "warm");
            // Cold in the middle only, and sent twice at once.
            rustix::fs::fadvise(
                &*file,
                8 << 20,
                std::num::NonZero::new(4 << 20),
                rustix::fs::Advice::DontNeed,
            )
            .expect("advice");
            push.send_multipart([whole(&file), whole(&file)]).expect("send");
            let got = pull.recv().expect("a message");
            got.frames().for_each(|frame| check(frame.bytes(), &bytes, "partly cold"));
            assert_eq!(got.frame_count(), 2);
        });
    });
}

#[test]
fn a_context_that_goes_leaves_nothing_open() {
    in_ways(Way::all(), LIMIT, |way| {
        let file = file_of(15, 24 << 20);
        chill(&file);
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        push.set_linger(Some(Duration::ZERO));
        let endpoint = bind_tcp(&push);
        let raw = slow_peer(&ctx, &push, &endpoint);
        push.send(whole(&file)).expect("send");
        push.send(whole(&file)).expect("send");
        let report = push.close();
        assert_eq!(report.unsent_messages, 2);
        drop((ctx, raw));
        // The thread that reads files may still be using one.
        let start = Instant::now();
        while Arc::strong_count(&file) > 1 {
            assert!(start.elapsed() < PATIENCE, "the file is still held");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn a_closed_socket_sends_its_files_on() {
    in_ways(Way::all(), LIMIT, |way| {
        let ctx = way.context();
        let bytes = body(16, 12 << 20);
        let file = file_of(16, bytes.len());
        let push = open(&ctx, SocketType::Push);
        let endpoint = bind_tcp(&push);
        let mut raw = slow_peer(&ctx, &push, &endpoint);
        push.send(whole(&file)).expect("send");
        drop(push);
        turning(&ctx, || check(&raw.data().1, &bytes, "after the socket's end"));
        turn_until(&ctx, "the file to be let go of", || Arc::strong_count(&file) == 1);
    });
}

#[cfg(unix)]
#[test]
fn libzmq_receives_what_the_files_hold() {
    use common::content::{SIZES, plan};

    in_cases(Case::every(), |case| {
        let ctx = case.context();
        let push = open(&ctx, SocketType::Push);
        let peer = case.join(&push, "push", "pull", &["--plan", "sizes"]);
        let plan = plan("sizes");
        assert!(plan.len() > SIZES.len());
        for (number, sizes) in plan.iter().enumerate() {
            // All frames of a message in one file, one after another.
            let frames = common::content::frames(number, sizes);
            let file = tempfile::tempfile_in(directory()).expect("a file");
            write_all_at(&file, &frames.concat(), 0).expect("write");
            let file = Arc::new(file);
            let mut at = 0;
            let parts: Vec<Frame> = sizes
                .iter()
                .map(|&size| {
                    let part = Frame::from_file(file.clone(), at, size as u64).expect("in it");
                    at += size as u64;
                    part
                })
                .collect();
            push.send_multipart(parts).expect("send");
        }
        assert_eq!(peer.done(&ctx), plan.len() as u64);
    });
}
