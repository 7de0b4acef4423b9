//! Ten thousand receives that wait for a few buffers. A test program of its own, because it raises the limit on open
//! files, and its connections need most of it.
#![cfg(target_os = "linux")]

use std::{
    io::{self, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Resource, getrlimit, setrlimit};
use zring_engine::{
    Chunk, Config, ConnId, Direct, DriverChoice, Gather, Handler, ListenerId, PoolConfig,
    ReceiveEnd, ResolveError, Shard, TurnWait, WaitStrategy,
};

/// Number of connections; the limit on open files may allow fewer.
const CONNECTIONS: usize = 10_000;
/// Number of files that the rest of the program needs.
const SPARE: usize = 200;
const TINY: PoolConfig = PoolConfig { buffers: 8, buffer_bytes: 4096, with_kernel: 8, reserve: 1 };

/// Keeps chunks or counts their bytes.
#[derive(Default)]
struct Counter {
    keeps: bool,
    kept: Vec<Chunk>,
    bytes: usize,
    closed: usize,
    stopped: usize,
}

impl Handler for Counter {
    fn on_accepted(&mut self, _: &mut Shard, _: ListenerId, _: ConnId) {
        unreachable!("nobody listens");
    }
    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, _: io::Error, _: bool) {
        unreachable!("nobody listens");
    }
    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {
        unreachable!("nobody connects");
    }
    fn on_received(&mut self, shard: &mut Shard, _: ConnId, chunk: Chunk) {
        if self.keeps {
            return self.kept.push(chunk);
        }
        self.bytes += chunk.len();
        shard.release(chunk);
    }
    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {
        unreachable!("nobody receives so");
    }
    fn on_receive_end(&mut self, _: &mut Shard, _: ConnId, _: Option<Direct>, end: ReceiveEnd) {
        assert!(matches!(end, ReceiveEnd::Stopped), "{end:?}");
        self.stopped += 1;
    }
    fn on_starved(&mut self, _: &mut Shard) {}
    fn on_sent(&mut self, _: &mut Shard, _: ConnId, _: Gather, _: usize, _: Option<io::Error>) {}
    fn on_closed(&mut self, _: &mut Shard, _: ConnId) {
        self.closed += 1;
    }
    fn on_timer(&mut self, _: &mut Shard, _: u64) {}
    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

/// How many connections, with two files each, the limit allows.
fn room() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = (CONNECTIONS * 2 + SPARE) as u64;
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = limit.maximum.map_or(Some(wanted), |most| Some(most.min(wanted)));
        setrlimit(Resource::Nofile, limit).expect("a limit below the hard one");
    }
    let files = limit.current.map_or(CONNECTIONS * 2, |most| most as usize - SPARE);
    (files / 2).min(CONNECTIONS)
}

struct World {
    shard: Shard,
    counter: Counter,
    turns: usize,
    conns: Vec<(ConnId, UnixStream)>,
}

impl World {
    fn open(driver: DriverChoice, mask: &str, wait: WaitStrategy) -> Self {
        let count = room();
        if count < CONNECTIONS {
            eprintln!("only {count} connections of {CONNECTIONS}: RLIMIT_NOFILE is low");
        }
        let uring_mask = Some(mask.to_owned());
        let config =
            Config { driver, wait, uring_mask, pool: TINY, pool_whole: TINY, ..Config::default() };
        let mut shard = Shard::open(config).expect("a shard");
        let conns = (0..count)
            .map(|_| {
                let (near, far) = UnixStream::pair().expect("a pair");
                (shard.adopt(near.into()), far)
            })
            .collect();
        Self { shard, counter: Counter::default(), turns: 0, conns }
    }

    fn turn(&mut self) {
        self.turns += 1;
        let until_ns = self.shard.now_ns() + 1_000_000;
        self.shard.turn(&mut self.counter, TurnWait::Until(Some(until_ns))).expect("a turn");
    }

    /// Turns until `done`, at most `turns` times.
    #[track_caller]
    fn turn_until(&mut self, what: &str, turns: usize, mut done: impl FnMut(&mut Self) -> bool) {
        let most = self.turns + turns;
        while !done(self) {
            assert!(self.turns < most, "{what}: not in {turns} turns");
            self.turn();
        }
    }

    fn exhausted(&self) -> u64 {
        self.shard.stats().pool.exhausted
    }

    /// Another connection takes all buffers.
    fn take_all_buffers(&mut self) -> (ConnId, UnixStream) {
        let (near, mut far) = UnixStream::pair().expect("a pair");
        let conn = self.shard.adopt(near.into());
        self.counter.keeps = true;
        self.shard.receive_ring(conn);
        far.set_nonblocking(true).expect("non-blocking");
        let before = self.exhausted();
        self.turn_until("exhaustion", 1000, |world| {
            let _ = far.write(&[0; 8192]);
            world.exhausted() > before
        });
        self.counter.keeps = false;
        (conn, far)
    }

    fn release_all(&mut self) {
        for chunk in self.counter.kept.drain(..) {
            self.shard.release(chunk);
        }
    }
}

/// Runs one test at a time, because they share a limit.
fn alone(body: impl Fn(World)) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for wait in [WaitStrategy::Park, WaitStrategy::Spin] {
        for mask in ["", "inc", "inc,multishot"] {
            body(World::open(DriverChoice::Uring, mask, wait));
        }
        body(World::open(DriverChoice::Ready, "", wait));
    }
}

#[test]
fn receives_that_wait_are_begun_again_about_once_for_each_piece() {
    alone(|mut world| {
        let count = world.conns.len();
        let (conn, far) = world.take_all_buffers();
        for at in 0..count {
            let conn = world.conns[at].0;
            world.shard.receive_ring(conn);
        }
        // All receives wait behind the first, and none is started again without a buffer.
        for _ in 0..20 {
            world.turn();
        }
        let before = world.exhausted();
        assert!(before <= 3, "{before} receives were begun in vain");
        // Now the first has a buffer again, and the bytes sent to the others arrive.
        world.release_all();
        drop(far);
        for (_, far) in &mut world.conns {
            far.write_all(b"abc").expect("write");
        }
        world.counter.bytes = 0;
        world.shard.close(conn);
        world.turn_until("three bytes for each", count, |world| world.counter.bytes == 3 * count);
        // Receives started in vain; the others brought bytes.
        let vain = (world.exhausted() - before) as usize;
        assert!(vain <= count / 2, "{vain} receives were begun in vain for {count} pieces");

        // By now the receives are armed or idle, since there are buffers for all. A connection that is served from the
        // last buffer waits once more.
        world.turn_until("silence", count, |world| {
            let before = world.shard.stats().completions;
            world.turn();
            world.shard.stats().completions == before && world.shard.in_flight() == count
        });
        let before = world.exhausted();
        for round in 2..5 {
            for (_, far) in &mut world.conns {
                far.write_all(b"abc").expect("write");
            }
            world.turn_until("three more for each", count, |world| {
                world.counter.bytes == 3 * count * round
            });
        }
        let vain = (world.exhausted() - before) as usize;
        assert!(vain <= 3 * count * 3 / 2, "{vain} receives were begun in vain in three rounds");
    });
}

#[test]
fn the_queue_is_bounded_by_the_connections_there_are() {
    alone(|mut world| {
        let (_conn, _far) = world.take_all_buffers();
        let before = world.exhausted();
        // Receives stop and start, and connections come and go, while no byte moves.
        for _ in 0..4 {
            for at in 0..world.conns.len() {
                let conn = world.conns[at].0;
                world.shard.receive_ring(conn);
                world.shard.receive_stop(conn);
                if at % 1000 == 0 {
                    world.turn();
                }
            }
            world.turn();
        }
        assert_eq!(world.counter.stopped, world.conns.len() * 4);
        assert!(world.exhausted() - before <= 1, "nobody asked in vain");
        for _ in 0..2 {
            for at in 0..world.conns.len() {
                let (near, far) = UnixStream::pair().expect("a pair");
                let conn = world.shard.adopt(near.into());
                let (old, _) = std::mem::replace(&mut world.conns[at], (conn, far));
                world.shard.receive_ring(conn);
                world.shard.close(old);
                if at % 10 == 0 {
                    world.turn();
                }
            }
            world.turn();
        }
        assert_eq!(world.counter.closed, world.conns.len() * 2);
        for (_, far) in &mut world.conns {
            far.write_all(b"abc").expect("write");
        }
        world.release_all();
        world.counter.bytes = 0;
        let count = world.conns.len();
        world.turn_until("three bytes for each", count, |world| world.counter.bytes >= 3 * count);
    });
}
