//! Sends of cold files while the reader is held up: all other sends go on.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    os::unix::{fs::FileExt, net::UnixStream},
    sync::{Condvar, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    buf::{Chunk, FileFault, FileRegion, Gather, Segment},
    config::{Config, DriverChoice},
    conn::{ConnId, ListenerId},
    driver::Direct,
    handler::{Handler, ReceiveEnd},
    resolver::ResolveError,
    shard::{Shard, TurnWait},
    sync::{Arc, Mutex},
    sys::file::BLINDNESS,
};

const PATIENCE: Duration = Duration::from_secs(60);
const PAGE_BYTES: usize = 4096;

static IS_HELD: Mutex<bool> = Mutex::new(false);
static RELEASED: Condvar = Condvar::new();
/// The process has one reader, so only one test of it runs at a time.
static TURNS: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reader passes this gate before each request.
pub(super) fn pass_gate() {
    let held = RELEASED.wait_while(lock(&IS_HELD), |held| *held);
    drop(held.unwrap_or_else(PoisonError::into_inner));
}

/// While this value lives, the disk does not answer.
struct Hold;

impl Hold {
    fn new() -> Self {
        *lock(&IS_HELD) = true;
        Self
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *lock(&IS_HELD) = false;
        RELEASED.notify_all();
    }
}

#[derive(Debug, Default)]
struct Ends {
    sent: HashMap<ConnId, (usize, usize, Option<io::Error>)>,
    closed: Vec<ConnId>,
}

impl Handler for Ends {
    fn on_accepted(&mut self, _: &mut Shard, _: ListenerId, _: ConnId) {}
    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, _: io::Error, _: bool) {}
    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {}
    fn on_received(&mut self, shard: &mut Shard, _: ConnId, chunk: Chunk) {
        shard.release(chunk);
    }
    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {}
    fn on_receive_end(&mut self, _: &mut Shard, _: ConnId, _: Option<Direct>, _: ReceiveEnd) {}
    fn on_starved(&mut self, _: &mut Shard) {}
    fn on_sent(
        &mut self,
        _: &mut Shard,
        conn: ConnId,
        gather: Gather,
        bytes: usize,
        error: Option<io::Error>,
    ) {
        assert!(self.sent.insert(conn, (bytes, gather.bytes(), error)).is_none(), "ended twice");
    }
    fn on_closed(&mut self, _: &mut Shard, conn: ConnId) {
        self.closed.push(conn);
    }
    fn on_timer(&mut self, _: &mut Shard, _: u64) {}
    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

struct World {
    shard: Shard,
    ends: Ends,
}

impl World {
    fn new(driver: DriverChoice) -> Self {
        let shard = Shard::open(Config { driver, ..Config::default() }).unwrap();
        Self { shard, ends: Ends::default() }
    }

    fn connect(&mut self) -> (ConnId, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(self.shard.driver() == crate::driver::Kind::Ready).unwrap();
        theirs.set_read_timeout(Some(PATIENCE)).unwrap();
        (self.shard.adopt(ours.into()), theirs)
    }

    fn turn(&mut self) {
        let until_ns = self.shard.now_ns() + 2_000_000;
        self.shard.turn(&mut self.ends, TurnWait::Until(Some(until_ns))).unwrap();
    }

    #[track_caller]
    fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "still waiting for: {what}");
            self.turn();
        }
    }

    fn send(&mut self, conn: ConnId, segments: impl IntoIterator<Item = Segment>) {
        let mut gather = Gather::new();
        segments.into_iter().for_each(|segment| gather.push(segment));
        self.shard.send(conn, gather).unwrap();
    }

    /// Waits for the outcome of a send: all was taken, or the error.
    fn outcome(&mut self, conn: ConnId) -> Result<(), io::Error> {
        self.turn_until("a send", |world| world.ends.sent.contains_key(&conn));
        let (bytes, total, error) = self.ends.sent.remove(&conn).unwrap();
        match error {
            None => {
                assert_eq!(bytes, total);
                Ok(())
            }
            Some(error) => {
                assert!(bytes < total);
                Err(error)
            }
        }
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ at >> 8 ^ at >> 17) as u8).collect()
}

/// A file whose pages are not in the page cache; `None` where files live in memory.
fn cold_file(bytes: usize) -> Option<Arc<File>> {
    let file = tempfile::tempfile_in("/tmp").unwrap();
    file.write_all_at(&content(bytes), 0).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let is_cold = super::file::is_cached(&file, 0, bytes, &mut Vec::new());
    let is_cold = is_cold != super::Cached::Whole;
    if !is_cold {
        println!("skipped: files in /tmp are always in memory");
    }
    is_cold.then(|| Arc::new(file))
}

fn region(file: &Arc<File>, offset: usize, len: usize) -> Segment {
    Segment::File(FileRegion::new(file.clone(), offset as u64, len as u64).unwrap())
}

fn read(mut from: UnixStream, bytes: usize) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = vec![0; bytes];
        from.read_exact(&mut all).unwrap();
        all
    })
}

fn on_both(test: fn(World)) {
    let _turn = lock(&TURNS);
    for driver in [DriverChoice::Uring, DriverChoice::Ready] {
        println!("{driver:?}");
        test(World::new(driver));
    }
}

#[test]
fn others_are_served_while_a_disk_does_not_answer() {
    on_both(|mut world| {
        let bytes = (9 << 20) + 77;
        let Some(file) = cold_file(bytes) else { return };
        let (slow, mut slow_end) = world.connect();
        let (other, mut other_end) = world.connect();
        let hold = Hold::new();
        world.send(slow, [Segment::Static(b"head"), region(&file, 0, bytes)]);
        for _ in 0..100 {
            world.send(other, [Segment::Static(b"ping")]);
            world.outcome(other).unwrap();
            let mut ping = [0; 4];
            other_end.read_exact(&mut ping).unwrap();
        }
        // A warm file overtakes the cold one.
        let warm = tempfile::tempfile().unwrap();
        warm.write_all_at(&content(50_000), 0).unwrap();
        world.send(other, [region(&Arc::new(warm), 1, 49_999)]);
        let warm_reader = read(other_end, 49_999);
        world.outcome(other).unwrap();
        assert!(warm_reader.join().unwrap() == content(50_000)[1..]);
        assert!(world.ends.sent.is_empty());
        let mut head = [0; 10];
        assert_eq!(slow_end.read(&mut head).unwrap(), 4, "only what stands in front of the file");
        assert_eq!(&head[..4], b"head");
        drop(hold);
        let reader = read(slow_end, bytes);
        world.outcome(slow).unwrap();
        assert!(reader.join().unwrap() == content(bytes));
    });
}

#[test]
fn what_waits_for_a_disk_can_be_closed() {
    on_both(|mut world| {
        let Some(file) = cold_file(1 << 20) else { return };
        let hold = Hold::new();
        let (conn, mut end) = world.connect();
        world.send(conn, [region(&file, 0, 1 << 20)]);
        world.turn();
        assert!(world.ends.sent.is_empty());
        end.set_nonblocking(true).unwrap();
        let nothing = end.read(&mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(world.shard.in_flight(), 1);
        world.shard.close(conn);
        let error = world.outcome(conn).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
        world.turn_until("the close", |world| world.ends.closed == [conn]);
        // Another send is in flight when the shard is dropped.
        let (conn, _end) = world.connect();
        world.send(conn, [region(&file, 0, 1 << 20)]);
        world.turn();
        drop(world);
        drop(hold);
        let start = Instant::now();
        while Arc::strong_count(&file) > 1 {
            assert!(start.elapsed() < PATIENCE, "the reader lets go of it");
            thread::sleep(Duration::from_millis(1));
        }
    });
}

#[test]
fn a_file_cut_off_while_it_is_awaited() {
    on_both(|mut world| {
        let Some(file) = cold_file(1 << 20) else { return };
        let hold = Hold::new();
        let (conn, end) = world.connect();
        world.send(conn, [Segment::Static(b"head"), region(&file, 0, 1 << 20)]);
        world.turn();
        file.set_len(100_000).unwrap();
        drop(hold);
        let error = world.outcome(conn).unwrap_err();
        assert_eq!(FileFault::within(&error), Some(&FileFault::Truncated { at: 100_000 }));
        assert_eq!(read(end, 4).join().unwrap(), b"head");
    });
}

#[test]
fn more_wait_than_the_reader_has_room_for() {
    on_both(|mut world| {
        let count = 320;
        let Some(file) = cold_file(count * PAGE_BYTES) else { return };
        let hold = Hold::new();
        let conns: Vec<_> = (0..count).map(|_| world.connect()).collect();
        for (at, (conn, _)) in conns.iter().enumerate() {
            world.send(*conn, [region(&file, at * PAGE_BYTES, PAGE_BYTES)]);
        }
        world.turn();
        assert!(world.ends.sent.is_empty(), "all of them wait");
        drop(hold);
        let all = content(count * PAGE_BYTES);
        for (at, (conn, end)) in conns.into_iter().enumerate() {
            world.outcome(conn).unwrap();
            let got = read(end, PAGE_BYTES).join().unwrap();
            assert!(got == all[at * PAGE_BYTES..][..PAGE_BYTES], "{at}");
        }
    });
}

#[test]
fn kernels_that_tell_less_of_what_they_have() {
    struct Blind;
    impl Drop for Blind {
        fn drop(&mut self) {
            BLINDNESS.set(0);
        }
    }
    on_both(|mut world| {
        let bytes = (7 << 20) + 5;
        let _blind = Blind;
        for blindness in [1, 2] {
            let Some(file) = cold_file(bytes) else { return };
            BLINDNESS.set(blindness);
            for _ in ["cold", "warm"] {
                let (conn, end) = world.connect();
                let reader = read(end, 2 * bytes + 3);
                let tail = Segment::Static(b"end");
                world.send(conn, [region(&file, 0, bytes), region(&file, 0, bytes), tail]);
                world.outcome(conn).unwrap();
                let (got, all) = (reader.join().unwrap(), content(bytes));
                assert!(got[..bytes] == all && got[bytes..2 * bytes] == all);
                assert!(got.ends_with(b"end"));
            }
            BLINDNESS.set(0);
        }
        // Bytes that can be read at once go out without the reader.
        BLINDNESS.set(1);
        let warm = tempfile::tempfile().unwrap();
        warm.write_all_at(&content(50_000), 0).unwrap();
        let _hold = Hold::new();
        let (conn, end) = world.connect();
        world.send(conn, [region(&Arc::new(warm), 7, 40_000)]);
        world.outcome(conn).unwrap();
        assert!(read(end, 40_000).join().unwrap() == content(50_000)[7..40_007]);
    });
}
