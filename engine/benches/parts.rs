//! Parts of the engine, measured alone: a hop through a queue, a lease, a wake-up.
//!
//! `cargo bench -p zring-engine --bench parts -- --quick`

use std::hint::black_box;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use zring_engine::queue::{mailbox, spsc};
use zring_engine::sys::net::SocketOptions;
use zring_engine::{
    Chunk, Config, ConnId, Direct, Gather, Handler, ListenerId, Parker, ReceiveEnd, ResolveError,
    Shard, TurnWait,
};

/// Values in a queue whose producer and consumer take turns, as between two turns of a shard.
const BURST: u64 = 64;

/// The size of a value in an inproc pipe.
type Value = [u8; 96];

fn queues(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue hop");
    group.throughput(Throughput::Elements(BURST));
    group.bench_function("spsc, one thread", |b| {
        let (mut producer, mut consumer) = spsc::channel::<Value>();
        b.iter(|| {
            for n in 0..BURST {
                producer.push(black_box([n as u8; 96]));
            }
            while let Some(value) = consumer.pop() {
                black_box(value);
            }
        });
    });
    group.bench_function("mailbox, one thread", |b| {
        let (postbox, mut mailbox) = mailbox::mailbox::<u64>(Waker::noop().clone());
        let mut mail = Vec::with_capacity(BURST as usize);
        b.iter(|| {
            (0..BURST).for_each(|n| postbox.post(black_box(n)));
            mailbox.drain(&mut mail);
            black_box(mail.drain(..).sum::<u64>())
        });
    });
    group.finish();
    c.bench_function("queue hop/spsc, there and back between two spinning threads", |b| {
        b.iter_custom(there_and_back);
    });
}

/// Time for `iterations` round trips. The other thread yields now and then, so that this ends on a single core too.
fn there_and_back(iterations: u64) -> Duration {
    let (mut out, mut other_in) = spsc::channel::<u64>();
    let (mut other_out, mut inward) = spsc::channel::<u64>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..iterations {
                other_out.push(wait_for(&mut other_in));
            }
        });
        let started = Instant::now();
        for n in 0..iterations {
            out.push(n);
            assert_eq!(wait_for(&mut inward), n);
        }
        started.elapsed()
    })
}

fn wait_for(queue: &mut spsc::Consumer<u64>) -> u64 {
    loop {
        for _ in 0..1000 {
            if let Some(value) = queue.pop() {
                return value;
            }
            std::hint::spin_loop();
        }
        thread::yield_now();
    }
}

/// Keeps the first chunk that arrives.
#[derive(Default)]
struct Keeper {
    chunk: Option<Chunk>,
}

impl Handler for Keeper {
    fn on_accepted(&mut self, shard: &mut Shard, _listener: ListenerId, conn: ConnId) {
        shard.receive_ring(conn);
    }

    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, error: io::Error, _: bool) {
        panic!("accept: {error}");
    }

    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {}

    fn on_received(&mut self, shard: &mut Shard, _: ConnId, chunk: Chunk) {
        match self.chunk {
            None => self.chunk = Some(chunk),
            Some(_) => shard.release(chunk),
        }
    }

    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {}

    fn on_receive_end(&mut self, _: &mut Shard, _: ConnId, _: Option<Direct>, _: ReceiveEnd) {}

    fn on_starved(&mut self, _: &mut Shard) {}

    fn on_sent(&mut self, _: &mut Shard, _: ConnId, _: Gather, _: usize, _: Option<io::Error>) {}

    fn on_closed(&mut self, _: &mut Shard, _: ConnId) {}

    fn on_timer(&mut self, _: &mut Shard, _: u64) {}

    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

fn leases(c: &mut Criterion) {
    let mut shard = Shard::open(Config::default()).expect("a shard can be opened");
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let (_, address) =
        shard.listen_tcp(local, 1, &SocketOptions::default()).expect("loopback can be bound");
    let mut peer = TcpStream::connect(address).expect("the backlog takes it");
    peer.write_all(&[7; 4096]).expect("the socket's buffer takes it");
    let mut keeper = Keeper::default();
    while keeper.chunk.is_none() {
        shard.turn(&mut keeper, TurnWait::Until(None)).expect("the shard turns");
    }
    let chunk = keeper.chunk.take().expect("just seen");
    let mut group = c.benchmark_group("lease");
    group.bench_function("take and drop", |b| {
        b.iter(|| black_box(shard.pool().lease(black_box(&chunk), 0..64)));
    });
    group.bench_function("take, drop elsewhere", |b| {
        // Only the other thread's time counts: the cost of dropping a lease away from its shard.
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let count = left.min(1024);
                let leases: Vec<_> =
                    (0..count).map(|_| shard.pool().lease(&chunk, 0..64)).collect();
                let dropped = thread::spawn(move || {
                    let started = Instant::now();
                    drop(leases);
                    started.elapsed()
                });
                spent += dropped.join().expect("dropping does not panic");
                left -= count;
            }
            spent
        });
    });
    group.finish();
    shard.release(chunk);
}

/// Counts wakes.
struct Count(AtomicU64);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn wake_ups(c: &mut Criterion) {
    let mut group = c.benchmark_group("wake-up");
    group.bench_function("waker of an awake thread", |b| {
        let parker = Parker::current();
        let waker = parker.waker();
        b.iter(|| {
            waker.wake_by_ref();
            parker.park(Some(0))
        });
    });
    group.bench_function("armed mailbox", |b| {
        let count = Arc::new(Count(AtomicU64::new(0)));
        let (postbox, mut mailbox) = mailbox::mailbox::<u64>(Arc::clone(&count).into());
        let mut mail = Vec::new();
        b.iter(|| {
            let _has_mail = mailbox.arm();
            postbox.post(1);
            mailbox.drain(&mut mail);
            mail.clear();
        });
        assert!(count.0.load(Ordering::Relaxed) > 0);
    });
    group.bench_function("two sleeping threads, there and back", |b| b.iter_custom(sleep_in_turn));
    group.finish();
}

/// Time for `iterations` round trips of wakes between two threads that sleep in between.
fn sleep_in_turn(iterations: u64) -> Duration {
    let here = Parker::current();
    let waker = here.waker();
    let turn = AtomicU64::new(0);
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let turn = &turn;
        scope.spawn(move || {
            let parker = Parker::current();
            tell.send(parker.waker()).expect("the other thread waits for it");
            for n in 0..iterations {
                sleep_until(&parker, turn, 2 * n + 1);
                turn.store(2 * n + 2, Ordering::Release);
                waker.wake_by_ref();
            }
        });
        let other: Waker = told.recv().expect("the other thread tells it first");
        let started = Instant::now();
        for n in 0..iterations {
            turn.store(2 * n + 1, Ordering::Release);
            other.wake_by_ref();
            sleep_until(&here, turn, 2 * n + 2);
        }
        started.elapsed()
    })
}

fn sleep_until(parker: &Parker, turn: &AtomicU64, value: u64) {
    while turn.load(Ordering::Acquire) != value {
        parker.park(None);
    }
}

criterion_group!(parts, queues, leases, wake_ups);
criterion_main!(parts);
