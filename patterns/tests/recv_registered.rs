//! Receiving into registered memory: the bytes, their path, and the fallback without registration.

mod common;

use std::thread;
use std::time::Duration;

use common::content::{body, frames, send};
use common::raw::{MORE, Raw, frame, header};
use common::{
    PATIENCE, Socket, Way, bind_tcp, in_ways, open, pair, pull_from_raw, recv_in_pieces, scratch,
    turning, wires,
};
use zring::inline::RegisteredBuffer;
use zring::{
    Config, DisconnectReason, DriverKind, EngineError, Error, EventKind, FrameBuf, HugePages, Need,
    PoolMemory, SocketType,
};

const LIMIT: Duration = Duration::from_secs(90);
const LARGE: usize = 300_000;

/// Every receive path, and io_uring without registered memory.
fn ways() -> Vec<Way> {
    let mut ways = Way::every_inline();
    if ways.contains(&Way::Uring("")) {
        ways.push(Way::Uring("fixed"));
    }
    ways
}

/// Whether this way registers memory.
fn is_fixed(way: Way) -> bool {
    way.driver() == DriverKind::Uring && way != Way::Uring("fixed")
}

fn register(way: Way, ctx: &common::Context, len: usize) -> RegisteredBuffer {
    let memory = ctx.inline().register(len).expect("memory");
    assert_eq!((memory.len(), memory.is_fixed()), (len, is_fixed(way)));
    assert!(memory.iter().all(|&byte| byte == 0));
    memory
}

/// How many receives used a registration.
fn receives(ctx: &common::Context) -> u64 {
    ctx.engine_stats()[0].registered_receives
}

/// A thread that sends single-frame messages of these sizes in turn.
fn sender(endpoint: String, sizes: &'static [usize], messages: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let ctx = Way::Ready.context();
        let push = open(&ctx, SocketType::Push);
        push.connect(&endpoint).expect("connect");
        for number in 0..messages {
            send(&push, &[], number, &[sizes[number % sizes.len()]]);
        }
        push.close();
    })
}

fn take(pull: &Socket, buffer: &mut [u8], number: usize, bytes: usize) {
    let received = pull.recv_into(buffer).expect("a message");
    assert_eq!((received.len, received.is_truncated, received.more), (bytes, false, false));
    assert!(buffer[..bytes] == frames(number, &[bytes])[0], "message {number}");
}

#[test]
fn bodies_of_all_sizes_go_into_it() {
    const SIZES: &[usize] = &[LARGE, 0, 1, 32_768, 37_000, 1 << 20, LARGE, 65_536, 7, 3 << 20];
    const MESSAGES: usize = 60;
    in_ways(ways(), LIMIT, |way| {
        let dir = scratch();
        for endpoint in wires(&dir) {
            let ctx = way.context();
            let pull = open(&ctx, SocketType::Pull);
            pull.bind(&endpoint).expect("bind");
            let sender = sender(pull.last_endpoint().expect("bound"), SIZES, MESSAGES);
            let mut memory = register(way, &ctx, 4 << 20);
            for number in 0..MESSAGES {
                // At any place in the memory, and without touching the bytes behind.
                let (start, bytes) = (number * 1001, SIZES[number % SIZES.len()]);
                let behind = start + bytes..start + bytes + 5000;
                memory[behind.clone()].fill(0xEE);
                take(&pull, &mut memory[start..], number, bytes);
                assert!(memory[behind].iter().all(|&byte| byte == 0xEE));
            }
            sender.join().expect("sent");
            let (stats, receives) = (pull.stats(), receives(&ctx));
            assert!(stats.bytes_into > 0);
            assert_eq!(receives > 0, is_fixed(way), "{receives} receives");
        }
    });
}

/// Bytes that follow a body, with its end or later, are received as usual.
#[test]
fn a_stream_of_large_bodies_is_the_kernels() {
    const MESSAGES: usize = 200;
    in_ways(ways(), LIMIT, |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let sender = sender(bind_tcp(&pull), &[LARGE], MESSAGES);
        let mut memory = register(way, &ctx, LARGE);
        (0..MESSAGES).for_each(|number| take(&pull, &mut memory, number, LARGE));
        sender.join().expect("sent");
        let stats = pull.stats();
        assert_eq!(stats.bytes_in, (MESSAGES * LARGE) as u64);
        let share = stats.bytes_into as f64 / stats.bytes_in as f64;
        assert!(share > 0.7, "{share} of the bytes went straight in");
        assert_eq!(receives(&ctx) >= MESSAGES as u64, is_fixed(way));
    });
}

#[test]
fn frames_go_into_registered_and_other_memory() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = way.context();
        let (publisher, subscriber) = pair(&ctx, SocketType::Pub, SocketType::Sub);
        subscriber.subscribe("ticks").expect("subscribe");
        publisher.wait_for_subscribers("ticks", 1, Some(PATIENCE)).expect("a subscriber");
        let (mut one, mut two) = (register(way, &ctx, LARGE), register(way, &ctx, 2 * LARGE));
        for round in 0..10 {
            let sent = frames(round, &[LARGE, LARGE, 60_000, 5]);
            send(&publisher, &[b"ticks"], round, &[LARGE, LARGE, 60_000, 5]);
            let (mut topic, mut plain) = ([0; 16], vec![0; LARGE]);
            let (front, behind) = two.split_at_mut(LARGE);
            let buffers = &mut [
                FrameBuf::new(&mut topic),
                FrameBuf::new(&mut one),
                FrameBuf::new(&mut plain),
                FrameBuf::new(behind),
                FrameBuf::new(front),
            ];
            let received = subscriber.recv_into_vectored(buffers).expect("a message");
            assert_eq!((received.frames, received.more), (5, false));
            assert_eq!(buffers[0].bytes(), b"ticks");
            for (buffer, frame) in buffers[1..].iter().zip(&sent) {
                assert!(buffer.bytes() == frame, "round {round}");
            }
        }
        assert_eq!(receives(&ctx) > 0, is_fixed(way));
    });
}

#[test]
fn frames_are_read_into_it_as_they_arrive() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let sent = body(3, LARGE);
        let speaker = thread::spawn({
            let sent = sent.clone();
            move || {
                raw.say(&frame(MORE, b"head"));
                raw.say(&header(0, LARGE as u64));
                for part in sent.chunks(100_000) {
                    raw.say(part);
                    thread::sleep(Duration::from_millis(20));
                }
                raw
            }
        });
        let mut memory = register(way, &ctx, LARGE);
        let Socket::Inline(pull) = &pull else { panic!("an inline context's") };
        let mut incoming = pull.recv_streaming().expect("a message");
        let mut head = incoming.next_frame().expect("a frame").expect("the first");
        assert_eq!(head.take().expect("a head").bytes(), b"head");
        let mut large = incoming.next_frame().expect("a frame").expect("the second");
        let mut filled = 0;
        while filled < LARGE {
            let bytes = large.read(&mut memory[filled..]).expect("more of it");
            assert!(bytes > 0, "{filled} of it");
            filled += bytes;
        }
        assert!(memory[..] == sent);
        drop(speaker.join().expect("said"));
        assert_eq!(receives(&ctx) > 0, is_fixed(way));
    });
}

#[test]
fn what_comes_in_pieces_or_is_cut_is_told_as_ever() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, mut raw) = pull_from_raw(&ctx);
        let endpoint = pull.last_endpoint().expect("bound");
        let sent = body(7, LARGE);
        let mut memory = register(way, &ctx, LARGE);
        recv_in_pieces(&ctx, &pull, &mut raw, &sent, &mut memory);
        assert!(memory[..] == sent);

        let ender = thread::spawn(move || {
            raw.say(&header(0, LARGE as u64));
            raw.say(&body(1, 150_000));
            thread::sleep(Duration::from_millis(50));
            drop(raw);
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PUSH");
            // The stream ends right after a body.
            raw.say(&frame(0, &body(2, LARGE)));
        });
        assert_eq!(pull.recv_into(&mut memory).expect("the second peer's").len, LARGE);
        assert!(memory[..] == body(2, LARGE));
        ender.join().expect("ended");
        let mut lost = Vec::new();
        while lost.len() < 2 {
            turning(&ctx, || thread::sleep(Duration::from_millis(5)));
            lost.extend(std::iter::from_fn(|| pull.next_event()).filter_map(
                |event| match event.kind {
                    EventKind::Disconnected { why, .. } => Some(why),
                    _ => None,
                },
            ));
        }
        assert_eq!(lost, [DisconnectReason::PeerClosedInMessage, DisconnectReason::PeerClosed]);
    });
}

#[test]
fn it_comes_and_goes() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, push) = pair(&ctx, SocketType::Pull, SocketType::Push);
        let memory: Vec<_> = (0..3).map(|_| register(way, &ctx, 40_000)).collect();
        drop(memory);
        // More than may exist at a time; most at an address that was registered before.
        for number in 0..1500 {
            let mut memory = register(way, &ctx, 40_000);
            if number % 50 == 0 {
                send(&push, &[], number, &[LARGE / 8]);
                take(&pull, &mut memory, number, LARGE / 8);
            }
        }
        // The memory outlives the sockets and the handle.
        let mut memory = register(way, &ctx, 100);
        drop((pull, push, ctx));
        memory.fill(7);
        assert!(memory.iter().all(|&byte| byte == 7));
    });
}

#[test]
fn memory_of_another_context_is_memory_like_any_other() {
    in_ways(ways(), LIMIT, |way| {
        let (ctx, other) = (way.context(), way.context());
        let pull = open(&ctx, SocketType::Pull);
        let sender = sender(bind_tcp(&pull), &[LARGE], 10);
        let mut memory = register(way, &other, LARGE);
        (0..10).for_each(|number| take(&pull, &mut memory, number, LARGE));
        sender.join().expect("sent");
        assert_eq!((receives(&ctx), receives(&other)), (0, 0));
    });
}

#[test]
fn lengths_have_bounds() {
    in_ways(ways(), LIMIT, |way| {
        let ctx = way.context();
        for len in [0, (1 << 30) + 1, usize::MAX] {
            let refused = ctx.inline().register(len).expect_err("out of bounds");
            assert!(matches!(refused, Error::Engine(EngineError::Config(_))), "{refused}");
        }
        if is_fixed(way) {
            let memory: Vec<_> = (0..1024).map(|_| register(way, &ctx, 1)).collect();
            let refused = ctx.inline().register(1).expect_err("one too many");
            let Error::Engine(EngineError::Register { bytes: 1, cause, .. }) = &refused else {
                panic!("{refused}")
            };
            assert_eq!(cause.kind(), std::io::ErrorKind::QuotaExceeded);
            drop(memory);
            register(way, &ctx, 1);
        }
    });
}

#[test]
fn its_pages_are_as_configured() {
    let wanted = PoolMemory {
        prefault: true,
        lock: Some(Need::Preferred),
        huge_pages: HugePages::Transparent(Need::Preferred),
    };
    in_ways(ways(), LIMIT, move |way| {
        let ctx = way.context_with(Config { pool_memory: wanted, ..way.config() });
        let memory = register(way, &ctx, 3 << 20);
        let backing = memory.backing();
        assert!(backing.bytes >= 3 << 20);
        assert_eq!(backing.prefaulted, cfg!(target_os = "linux"));
    });
}
