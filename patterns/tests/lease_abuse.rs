//! Received messages that are kept far longer than the receive ring can afford, and dropped on other threads.

mod common;

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use common::content::body;
use common::raw::{MORE, Raw, frame, header};
use common::{
    Context, PATIENCE, Socket, Way, bind_tcp, in_ways, open, pair, setting, turn_for, turn_until,
    turning,
};
use zring::{Config, EngineConfig, Message, PoolConfig, PoolStats, SocketType};

const LIMIT: Duration = Duration::from_secs(120);

/// More than any receive ring holds, some 16 MB; fewer on slow machinery.
fn messages() -> usize {
    setting("ZRING_LEASE_MESSAGES").map_or(12_000, |count| count as usize)
}

/// Cycles through sizes of inline bodies, leases and bodies that straddle buffers.
fn size(number: usize) -> usize {
    match number % 16 {
        15 => 9_000 + number % 1000,
        remainder => remainder * 97 + number % 64,
    }
}

fn is_intact(message: &Message, number: usize) {
    assert!(
        message.body() == body(number as u64, size(number)),
        "message {number} ({} bytes) changed",
        size(number)
    );
}

/// Sends the messages `0..count` from a thread of its own.
fn sender(way: Way, endpoint: String, count: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let ctx = way.context();
        let push = open(&ctx, SocketType::Push);
        push.connect(&endpoint).expect("connect");
        for number in 0..count {
            push.send(body(number as u64, size(number))).expect("send");
        }
        assert_eq!(push.close().unsent_messages, 0);
    })
}

/// A PULL and a thread that sends it `count` messages, in every way.
fn receiving(count: usize, test: fn(Context, Socket)) {
    in_ways(Way::every(), LIMIT, move |way| {
        let ctx = way.context();
        let pull = open(&ctx, SocketType::Pull);
        let sender = sender(way, bind_tcp(&pull), count);
        test(ctx, pull);
        sender.join().expect("the sender");
    });
}

#[test]
fn every_message_is_kept() {
    receiving(messages(), |_ctx, pull| {
        let kept: Vec<Message> = (0..messages()).map(|_| pull.recv().expect("a message")).collect();
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
    });
}

#[test]
fn one_message_is_kept_for_ever() {
    receiving(messages(), |_ctx, pull| {
        let mut kept = Vec::new();
        for number in 0..messages() {
            let message = pull.recv().expect("a message");
            is_intact(&message, number);
            // The first of each kind: small, medium and large.
            if number < 16 {
                kept.push(message);
            }
        }
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
    });
}

#[test]
fn clones_keep_a_message_alive() {
    receiving(1000, |_ctx, pull| {
        let kept: Vec<Message> = (0..1000)
            .map(|_| {
                let message = pull.recv().expect("a message");
                let clone = message.clone();
                drop(message);
                clone
            })
            .collect();
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
    });
}

#[test]
fn messages_outlive_their_socket_and_context() {
    receiving(2000, |ctx, pull| {
        let kept: Vec<Message> = (0..2000).map(|_| pull.recv().expect("a message")).collect();
        drop(pull);
        drop(ctx);
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
        // Half of them dropped here, half on a thread that never had a context.
        let (mut here, mut elsewhere) = (kept, Vec::new());
        elsewhere.extend(here.drain(1000..));
        drop(here);
        thread::spawn(move || {
            is_intact(&elsewhere[999], 1999);
            drop(elsewhere);
        })
        .join()
        .expect("the other thread");
    });
}

/// The receiver may be parked without buffers when another thread drops the messages that pin them.
#[test]
fn drops_on_another_thread_wake_a_starved_receiver() {
    receiving(messages(), |_ctx, pull| {
        let (keep, kept) = channel::<Message>();
        let dropper = thread::spawn(move || {
            let mut pinned = Vec::new();
            let mut number = 0;
            loop {
                // Keeps messages while they arrive, and drops all when the receiver has stalled.
                match kept.recv_timeout(Duration::from_millis(20)) {
                    Ok(message) => {
                        is_intact(&message, number);
                        pinned.push(message);
                        number += 1;
                    }
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => pinned.clear(),
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return number,
                }
            }
        });
        for _ in 0..messages() {
            keep.send(pull.recv().expect("a message: the receiver was woken"))
                .expect("the dropper lives");
        }
        drop(keep);
        assert_eq!(dropper.join().expect("the dropper"), messages());
    });
}

/// Messages are dropped in an order unrelated to their buffers.
#[test]
fn drops_in_any_order() {
    receiving(messages(), |_ctx, pull| {
        let mut kept: Vec<(usize, Message)> = Vec::new();
        for number in 0..messages() {
            kept.push((number, pull.recv().expect("a message")));
            if kept.len() > 700 {
                let (number, message) = kept.swap_remove(number * 7919 % kept.len());
                is_intact(&message, number);
            }
        }
        for (number, message) in &kept {
            is_intact(message, *number);
        }
    });
}

#[test]
fn a_message_received_is_sent_on_after_its_context_is_gone() {
    in_ways(Way::all(), LIMIT, |way| {
        let first = way.context();
        let pull = open(&first, SocketType::Pull);
        let sender = sender(way, bind_tcp(&pull), 100);
        let kept: Vec<Message> = (0..100).map(|_| pull.recv().expect("a message")).collect();
        sender.join().expect("the sender");
        drop((pull, first));

        let second = way.context();
        let (pull, push) = common::pair(&second, SocketType::Pull, SocketType::Push);
        push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
        for message in kept {
            push.send(message).expect("send");
        }
        for number in 0..100 {
            is_intact(&pull.recv().expect("a message"), number);
        }
    });
}

/// The statistics of the pools, summed over all shards.
fn pools(ctx: &Context) -> PoolStats {
    let mut sum = PoolStats::default();
    for shard in ctx.engine_stats() {
        sum.copies_forced += shard.pool.copies_forced;
        sum.exhausted += shard.pool.exhausted;
        sum.leases_out += shard.pool.leases_out;
        sum.buffers_pinned += shard.pool.buffers_pinned;
        sum.bytes_pinned += shard.pool.bytes_pinned;
    }
    sum
}

fn leased_frames(messages: &[Message]) -> u64 {
    messages.iter().flat_map(Message::frames).filter(|frame| frame.is_leased()).count() as u64
}

/// Waits until no lease is out and no buffer is pinned.
fn all_is_back(ctx: &Context) {
    turn_until(ctx, "the last leases", || {
        let pool = pools(ctx);
        (pool.leases_out, pool.buffers_pinned, pool.bytes_pinned) == (0, 0, 0)
    });
}

/// Two connected sockets on the same shards as the abused ones.
struct Neighbour {
    pull: Socket,
    push: Socket,
    round: u64,
}

impl Neighbour {
    fn new(ctx: &Context) -> Self {
        let (pull, push) = pair(ctx, SocketType::Pull, SocketType::Push);
        Self { pull, push, round: 0 }
    }

    /// A small and a large message pass in time.
    fn is_served(&mut self) {
        for size in [10, 300, 50_000] {
            self.round += 1;
            let start = Instant::now();
            self.push.send(body(self.round, size)).expect("send");
            assert!(self.pull.recv().expect("a message").body() == body(self.round, size));
            let limit = Duration::from_secs(5) * setting("ZRING_PATIENCE_FACTOR").unwrap_or(1);
            assert!(start.elapsed() < limit, "starved for {:?}", start.elapsed());
        }
    }
}

#[test]
fn who_keeps_everything_starves_nobody_and_pins_no_more_than_the_pool() {
    receiving(messages(), |ctx, pull| {
        let mut neighbour = Neighbour::new(&ctx);
        let mut kept = Vec::new();
        for number in 0..messages() {
            kept.push(pull.recv().expect("a message"));
            if number % 1000 == 999 {
                neighbour.is_served();
                let engine = EngineConfig::default();
                let pool_bytes = engine.pool.buffers as u64 * u64::from(engine.pool.buffer_bytes);
                let most = pool_bytes * ctx.engine_stats().len() as u64;
                assert!(pools(&ctx).bytes_pinned <= most);
            }
        }
        let (leased, pool) = (leased_frames(&kept), pools(&ctx));
        assert_eq!(pool.leases_out, leased, "nothing else is out");
        // Some 8 MB, more than any pool holds.
        if messages() >= 6000 {
            assert!(pool.copies_forced > 0 && leased < kept.len() as u64, "{pool:?}");
        }
        for (number, message) in kept.iter().enumerate() {
            is_intact(message, number);
        }
        drop(kept);
        all_is_back(&ctx);
        neighbour.is_served();
    });
}

#[test]
fn leases_that_are_kept_are_counted_while_traffic_goes_on() {
    receiving(3000, |ctx, pull| {
        let mut kept = Vec::new();
        for number in 0..3000 {
            let message = pull.recv().expect("a message");
            is_intact(&message, number);
            if number % 250 == 14 {
                kept.push(message);
            }
        }
        let leased = leased_frames(&kept);
        assert!(leased > 0);
        let pool = pools(&ctx);
        assert_eq!(pool.leases_out, leased);
        assert!((1..=leased).contains(&pool.buffers_pinned), "{pool:?}");
        // A clone and a slice are leases, too, and each pins the buffer.
        let one = kept.iter().position(|message| leased_frames(std::slice::from_ref(message)) > 0);
        let message = kept.swap_remove(one.expect("some are leased"));
        kept.clear();
        let bytes = message.body().to_vec();
        let frame = message.frames().next().expect("a frame").clone();
        let slice = frame.slice(10..bytes.len() - 10);
        assert!(slice.is_leased());
        assert_eq!((pools(&ctx).leases_out, pools(&ctx).buffers_pinned), (3, 1));
        drop((message, frame));
        assert_eq!((pools(&ctx).leases_out, slice.bytes()), (1, &bytes[10..bytes.len() - 10]));
        thread::spawn(move || drop(slice)).join().expect("the other thread");
        all_is_back(&ctx);
    });
}

/// The peer does not read, so forwarded messages wait in the buffers they were received in, not in copies.
#[test]
fn what_is_forwarded_waits_in_the_buffer_it_came_in() {
    const SIZE: usize = 6000;
    const PLUG_BYTES: usize = 8 << 20;
    in_ways(Way::every(), LIMIT, |way| {
        let ctx = way.context();
        let (pull, source) = pair(&ctx, SocketType::Pull, SocketType::Push);
        let push = open(&ctx, SocketType::Push);
        let endpoint = bind_tcp(&push);
        let mut sink = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PULL");
            raw
        });
        push.wait_for_peers(1, Some(PATIENCE)).expect("the sink");
        push.send(body(0, PLUG_BYTES)).expect("the plug");
        turn_for(&ctx, Duration::from_millis(20));
        assert_eq!(pools(&ctx).leases_out, 0);

        let mut expected = Vec::new();
        let mut leased = 0;
        for round in 0..10 {
            let parts: Vec<Vec<u8>> =
                (0..1 + round % 3).map(|part| body(100 * round + part, SIZE)).collect();
            source.send_multipart(parts.clone()).expect("send");
            let message = pull.recv().expect("a message");
            leased += leased_frames(std::slice::from_ref(&message));
            // A slice of a lease is forwarded in the same way, and so is a clone.
            let cut = message.frames().next().expect("a frame").slice(1000..);
            leased += u64::from(cut.is_leased());
            push.send(message).expect("forward");
            push.send(Message::from_frames([cut]).expect("a frame")).expect("forward");
            expected.push(parts.clone());
            expected.push(vec![parts[0][1000..].to_vec()]);
        }
        assert!(leased > 15, "{leased} leased frames");
        assert_eq!(pools(&ctx).leases_out, leased, "only the outbox has them");

        turning(&ctx, || {
            assert!(sink.data().1 == body(0, PLUG_BYTES));
            for parts in expected {
                let last = parts.len() - 1;
                for (at, part) in parts.into_iter().enumerate() {
                    let (flags, got) = sink.data();
                    assert_eq!((flags & MORE != 0, got == part), (at < last, true));
                }
            }
        });
        all_is_back(&ctx);
    });
}

/// So few buffers that idle sockets hold all of them, while one connection is in the middle of a large frame.
#[test]
fn an_exhausted_ring_ends_no_half_received_frame() {
    const LARGE: usize = 300_000;
    const FLOOD: u64 = 60;
    in_ways(Way::every(), LIMIT, |way| {
        let tiny = PoolConfig { buffers: 4, buffer_bytes: 4096, with_kernel: 2, reserve: 1 };
        let engine = EngineConfig { pool: tiny, pool_whole: tiny, ..EngineConfig::default() };
        let ctx = way.context_with(Config { engine, ..way.config() });
        let mut neighbour = Neighbour::new(&ctx);
        let large = open(&ctx, SocketType::Pull);
        let endpoint = bind_tcp(&large);
        let bytes = body(7, LARGE);
        let mut sender = turning(&ctx, || {
            let mut raw = Raw::connect(&endpoint);
            raw.handshake(1, "PUSH");
            raw.say(&header(0, LARGE as u64));
            raw.say(&bytes[..LARGE / 2]);
            raw
        });
        let idle: Vec<(Socket, Raw)> = (0..8)
            .map(|_| {
                let pull = open(&ctx, SocketType::Pull);
                pull.set_rcvhwm(1);
                let endpoint = bind_tcp(&pull);
                let raw = turning(&ctx, || {
                    let mut raw = Raw::connect(&endpoint);
                    raw.handshake(1, "PUSH");
                    for number in 0..FLOOD {
                        raw.say(&frame(0, &body(number, 1000)));
                    }
                    raw
                });
                (pull, raw)
            })
            .collect();
        turn_until(&ctx, "exhaustion", || pools(&ctx).exhausted > 0);
        for _ in 0..10 {
            neighbour.is_served();
        }
        turning(&ctx, || sender.say(&bytes[LARGE / 2..]));
        let message = large.recv().expect("the large message");
        assert!(message.body() == bytes);
        neighbour.is_served();
        for (pull, _raw) in &idle {
            let kept: Vec<Message> = (0..FLOOD).map(|_| pull.recv().expect("a message")).collect();
            for (number, message) in (0..).zip(kept) {
                assert!(message.body() == body(number, 1000), "{number}");
            }
        }
        neighbour.is_served();
        drop(message);
        all_is_back(&ctx);
    });
}
