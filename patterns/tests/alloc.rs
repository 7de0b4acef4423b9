//! The steady state allocates nothing: a counting allocator watches every pattern.

// A global allocator is an unsafe trait; this one only counts and forwards.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Mutex;
use std::time::Duration;

use common::{Context, Socket, Way, bind_tcp, in_ways, open};
use zring::{Message, SocketType};

const LIMIT: Duration = Duration::from_secs(120);

thread_local! {
    /// Allocations of this thread, which runs both contexts of a test.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    // A thread that ends allocates after its locals are gone, which is not the steady state.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every method passes its arguments to `System` unchanged and returns the result.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller upholds the contract of `alloc`, which is the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: `block` came from `System` through this allocator, with this layout.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System` through this allocator, with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Two contexts on one thread, turned alternately; neither may block on the other.
struct Two {
    contexts: [Context; 2],
}

impl Two {
    fn turn(&self) {
        for ctx in &self.contexts {
            ctx.turn().expect("a turn");
        }
    }

    /// Turns both contexts until `attempt` succeeds.
    fn until<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(value) = attempt() {
                return value;
            }
            self.turn();
        }
    }
}

/// The source of messages: a slice of the caller's, or heap messages used in turn.
enum Source {
    Slice(Vec<u8>),
    Rotation(Vec<Message>, usize),
}

impl Source {
    fn new(bytes: usize) -> Source {
        if bytes <= 1024 {
            return Source::Slice(vec![1; bytes]);
        }
        Source::Rotation((0..8).map(|_| Message::with_size(bytes)).collect(), 0)
    }

    fn send(&mut self, two: &Two, socket: &Socket, number: u64) {
        let mark = number.to_le_bytes();
        match self {
            Source::Slice(body) => {
                body[..8].copy_from_slice(&mark);
                two.until(|| socket.try_send(&body[..]).ok());
            }
            Source::Rotation(messages, at) => {
                *at = (*at + 1) % messages.len();
                // The body is unshared again once the send of seven messages ago is complete.
                let message = &mut messages[*at];
                two.until(|| message.get_mut().map(|body| body[..8].copy_from_slice(&mark)));
                two.until(|| socket.try_send(message.clone()).ok());
            }
        }
    }
}

fn receive(two: &Two, socket: &Socket, bytes: usize, number: u64) -> Message {
    let message = two.until(|| socket.try_recv().ok());
    assert_eq!(message.body().len(), bytes);
    assert_eq!(message.body()[..8], number.to_le_bytes());
    message
}

/// Numbers of warm-up messages and counted messages. After the warm-up every pool and cache has reached all its sizes.
fn rounds(bytes: usize) -> (u64, u64) {
    match bytes {
        0..=1024 => (2_000, 10_000),
        1025..=100_000 => (300, 2_000),
        _ => (50, 300),
    }
}

/// Runs `exchange` (one message, numbered) for the warm-up, and then counts.
fn allocates_nothing(what: &str, bytes: usize, mut exchange: impl FnMut(u64)) {
    let (warm_up, counted) = rounds(bytes);
    (0..warm_up).for_each(&mut exchange);
    let before = ALLOCATIONS.get();
    (warm_up..warm_up + counted).for_each(&mut exchange);
    let allocations = ALLOCATIONS.get() - before;
    assert_eq!(
        allocations, 0,
        "{what}: {allocations} allocations in {counted} messages of {bytes} bytes"
    );
}

const SIZES: [usize; 4] = [64, 1 << 10, 64 << 10, 1 << 20];

/// The cache of large blocks belongs to the whole process: a concurrent test would take blocks, which this one would
/// then have to allocate.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `test` for every size and geometry.
fn in_all_sizes(bound: SocketType, connected: SocketType, test: fn(&Two, &Socket, &Socket, usize)) {
    let _alone = ALONE.lock();
    in_ways(Way::every_inline(), LIMIT, move |way| {
        for bytes in SIZES {
            let two = Two { contexts: [way.context(), way.context()] };
            let (first, second) =
                (open(&two.contexts[0], bound), open(&two.contexts[1], connected));
            second.connect(&bind_tcp(&first)).expect("connect");
            if connected == SocketType::Sub {
                second.subscribe(b"").expect("subscribe");
                two.until(|| first.wait_for_subscribers(b"", 1, Some(Duration::ZERO)).ok());
            }
            test(&two, &first, &second, bytes);
        }
    });
}

#[test]
fn push_and_pull() {
    in_all_sizes(SocketType::Pull, SocketType::Push, |two, pull, push, bytes| {
        let mut source = Source::new(bytes);
        allocates_nothing("PUSH/PULL", bytes, |number| {
            source.send(two, push, number);
            receive(two, pull, bytes, number);
        });
    });
}

/// Both ways in turn.
#[test]
fn pair_and_pair() {
    in_all_sizes(SocketType::Pair, SocketType::Pair, |two, here, there, bytes| {
        let mut source = Source::new(bytes);
        allocates_nothing("PAIR/PAIR", bytes, |number| {
            source.send(two, there, number);
            receive(two, here, bytes, number);
            source.send(two, here, number);
            receive(two, there, bytes, number);
        });
    });
}

#[test]
fn pub_and_sub() {
    in_all_sizes(SocketType::Pub, SocketType::Sub, |two, publisher, sub, bytes| {
        let mut source = Source::new(bytes);
        allocates_nothing("PUB/SUB", bytes, |number| {
            source.send(two, publisher, number);
            receive(two, sub, bytes, number);
        });
    });
}

#[test]
fn req_and_rep() {
    in_all_sizes(SocketType::Rep, SocketType::Req, |two, rep, req, bytes| {
        let mut source = Source::new(bytes);
        allocates_nothing("REQ/REP", bytes, |number| {
            source.send(two, req, number);
            // The reply is the received message itself.
            let mut request = Some(receive(two, rep, bytes, number));
            two.until(|| match rep.try_send(request.take()?) {
                Ok(()) => Some(()),
                Err(refused) => {
                    request = Some(refused.payload);
                    None
                }
            });
            receive(two, req, bytes, number);
        });
    });
}

#[test]
fn bursts_in_a_batch() {
    in_all_sizes(SocketType::Pull, SocketType::Push, |two, pull, push, bytes| {
        if bytes > 1024 {
            return;
        }
        let body = vec![2; bytes];
        allocates_nothing("a batch of PUSH", bytes, |_| {
            {
                let _batch = two.contexts[1].batch();
                (0..10).for_each(|_| two.until(|| push.try_send(&body[..]).ok()));
            }
            for _ in 0..10 {
                assert_eq!(two.until(|| pull.try_recv().ok()).body(), body);
            }
        });
    });
}

#[test]
fn into_memory_of_the_callers() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    in_ways(Way::every_inline(), LIMIT, |way| {
        for bytes in SIZES {
            let (warm_up, counted) = rounds(bytes);
            let ctx = way.context();
            let pull = open(&ctx, SocketType::Pull);
            let endpoint = bind_tcp(&pull);
            // On another thread, so that the receiver may block; that thread's allocations are not counted.
            let sender = std::thread::spawn(move || {
                let ctx = way.context();
                let push = open(&ctx, SocketType::Push);
                push.connect(&endpoint).expect("connect");
                let body = Message::with_size(bytes);
                for _ in 0..warm_up + counted {
                    push.send_multipart([
                        zring::Frame::from("head"),
                        body.frames().next().expect("one").clone(),
                    ])
                    .expect("send");
                }
                push.close();
            });
            let (mut head, mut buffer) = ([0; 8], vec![0; bytes]);
            let mut receive = || {
                let frames =
                    &mut [zring::FrameBuf::new(&mut head), zring::FrameBuf::new(&mut buffer)];
                let received = pull.recv_into_vectored(frames).expect("a message");
                assert_eq!((received.frames, frames[1].len()), (2, bytes));
            };
            (0..warm_up).for_each(|_| receive());
            let before = ALLOCATIONS.get();
            (0..counted).for_each(|_| receive());
            let allocations = ALLOCATIONS.get() - before;
            // When the sender gets further ahead than ever before, queues grow, and more small messages are decoded at
            // a time: up to 128, each of which keeps the memory it once needed.
            let ahead = if bytes <= 1024 { 4 * 128 } else { 0 };
            assert!(
                allocations <= ahead + 16,
                "{allocations} allocations for {counted} times {bytes} bytes"
            );
            sender.join().expect("sent");
        }
    });
}
