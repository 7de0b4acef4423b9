//! The memory of receive pools on the real system: the kernel's numbers in `/proc` match those of the shard, errors
//! name the limit in the way, and no memory stays mapped or locked.
//!
//! Each body runs in a process of its own, because limits, locked memory and huge pages are counted per process or
//! machine. A user who may not reserve huge pages tests the refusal instead.
#![cfg(target_os = "linux")]

use std::{
    fs, io,
    io::Write,
    net::{SocketAddr, TcpStream},
    process::Command,
};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use zring_engine::{
    Chunk, Config, ConnId, Direct, DriverChoice, Error, Gather, Handler, HugePages, Lease,
    ListenerId, Need, PoolConfig, PoolMemory, PoolMemoryError, ReceiveEnd, ResolveError, Shard,
    TurnWait,
    sys::net::{SocketOptions, listen_tcp},
};

const CHILD: &str = "ZRING_TEST_CHILD";
const MIB: usize = 1 << 20;
const SMALL: PoolConfig = PoolConfig { buffers: 4, buffer_bytes: 4096, with_kernel: 2, reserve: 1 };

/// Runs `body` in a child process, which is this test once more.
fn in_child(test: &str, body: fn()) {
    if std::env::var_os(CHILD).is_some_and(|name| name == test) {
        return body();
    }
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, test)
        .output()
        .expect("a child");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&child.stdout), text(&child.stderr));
    assert!(child.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

/// Leases the first bytes that arrive and keeps the lease.
#[derive(Default)]
struct Keeper(Option<Lease>);

impl Handler for Keeper {
    fn on_accepted(&mut self, shard: &mut Shard, _: ListenerId, conn: ConnId) {
        shard.receive_ring(conn);
    }
    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, error: io::Error, _: bool) {
        panic!("accept: {error}");
    }
    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {}
    fn on_received(&mut self, shard: &mut Shard, _: ConnId, chunk: Chunk) {
        self.0 = shard.pool().lease(&chunk, 0..chunk.len());
        shard.release(chunk);
    }
    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {}
    fn on_receive_end(&mut self, _: &mut Shard, _: ConnId, _: Option<Direct>, _: ReceiveEnd) {}
    fn on_starved(&mut self, _: &mut Shard) {}
    fn on_sent(&mut self, _: &mut Shard, _: ConnId, _: Gather, _: usize, _: Option<io::Error>) {}
    fn on_closed(&mut self, _: &mut Shard, _: ConnId) {}
    fn on_timer(&mut self, _: &mut Shard, _: u64) {}
    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

fn open(
    driver: DriverChoice,
    geometry: Option<PoolConfig>,
    wanted: PoolMemory,
) -> Result<Shard, Error> {
    let defaults = Config::default();
    Shard::open(Config {
        driver,
        pool: geometry.unwrap_or(defaults.pool),
        pool_whole: geometry.unwrap_or(defaults.pool_whole),
        pool_memory: wanted,
        ..defaults
    })
}

/// A lease on bytes that the kernel has written into the shard's pool.
fn receive(shard: &mut Shard) -> Lease {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let (fd, address) = listen_tcp(any_port, 8, &SocketOptions::default()).expect("listen");
    shard.listen(fd);
    let mut peer = TcpStream::connect(address).expect("connect");
    peer.write_all(b"hello").expect("write");
    let mut keeper = Keeper::default();
    while keeper.0.is_none() {
        shard.turn(&mut keeper, TurnWait::Until(None)).expect("turn");
    }
    keeper.0.take().expect("just looked")
}

/// A field in KiB of the mapping that a lease lies in; `None` without such a mapping.
fn field_kib(address: usize, name: &str) -> Option<usize> {
    let smaps = fs::read_to_string("/proc/self/smaps").expect("/proc");
    let range = |line: &str| -> Option<(usize, usize)> {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
    };
    let mut lines = smaps.lines();
    lines.find(|line| range(line).is_some_and(|(from, to)| (from..to).contains(&address)))?;
    let line = lines.find(|line| line.split(':').next() == Some(name)).expect("a field");
    line.split_whitespace().nth(1).expect("a number").parse().ok()
}

fn locked_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmLck:")).expect("VmLck");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

const DRIVERS: [DriverChoice; 2] = [DriverChoice::Uring, DriverChoice::Ready];

#[test]
fn the_default_is_ordinary_memory() {
    in_child("the_default_is_ordinary_memory", || {
        for driver in DRIVERS {
            let mut shard = open(driver, None, PoolMemory::default()).expect("a shard");
            let got = shard.stats().pool_backing;
            assert_eq!((got.bytes, got.page_bytes, got.locked_bytes), (4 * MIB, 4096, 0));
            assert!(!got.prefaulted);
            assert_eq!(&receive(&mut shard)[..], b"hello");
            assert_eq!(locked_kib(), 0);
        }
    });
}

#[test]
fn a_prefaulted_pool_is_resident() {
    in_child("a_prefaulted_pool_is_resident", || {
        let wanted = PoolMemory { prefault: true, ..PoolMemory::default() };
        for driver in DRIVERS {
            let mut shard = open(driver, None, wanted).expect("a shard");
            let got = shard.stats().pool_backing;
            assert!(got.prefaulted && got.page_bytes == 4096 && got.locked_bytes == 0);
            let lease = receive(&mut shard);
            let resident = field_kib(lease.as_ptr().addr(), "Rss").expect("mapped");
            assert!(resident >= 4096, "{resident} KiB");
        }
    });
}

#[test]
fn a_locked_pool_is_locked_until_its_last_lease_is_gone() {
    in_child("a_locked_pool_is_locked_until_its_last_lease_is_gone", || {
        let wanted = PoolMemory { lock: Some(Need::Required), ..PoolMemory::default() };
        for driver in DRIVERS {
            let mut shard = open(driver, Some(SMALL), wanted).expect("within any usual limit");
            let got = shard.stats().pool_backing;
            assert_eq!((got.locked_bytes, got.prefaulted), (4 * 4096, true));
            assert_eq!(locked_kib(), 16);
            let lease = receive(&mut shard);
            let address = lease.as_ptr().addr();
            assert!(field_kib(address, "Locked").expect("mapped") >= 16);
            let again = lease.slice(1..3);
            drop((shard, lease));
            assert_eq!((&again[..], locked_kib()), (&b"el"[..], 16), "a lease is out");
            std::thread::spawn(move || drop(again)).join().expect("a thread");
            assert_eq!(locked_kib(), 0);
            assert_eq!(field_kib(address, "Size"), None, "unmapped");
        }
    });
}

/// Drops the privilege that exempts from the lock limit, as for an ordinary user.
fn give_up_privilege() {
    let mut own = capabilities(None).expect("capabilities");
    own.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, own).expect("giving up is always allowed");
}

#[test]
fn a_limit_that_forbids_locking_is_named() {
    in_child("a_limit_that_forbids_locking_is_named", || {
        give_up_privilege();
        let hard = getrlimit(Resource::Memlock).maximum;
        // Enough for rings, which some kernels count as well.
        let limit = Rlimit { current: Some(1 << 20), maximum: hard };
        setrlimit(Resource::Memlock, limit).expect("a lower limit");
        for driver in [DriverChoice::Uring, DriverChoice::Ready, DriverChoice::Auto] {
            let locked = |need| PoolMemory { lock: Some(need), ..PoolMemory::default() };
            let error = open(driver, None, locked(Need::Required)).expect_err("4 MiB are too many");
            let text = error.to_string();
            let Error::PoolMemory(PoolMemoryError::Lock { needed_bytes, limit_bytes, cause }) =
                error
            else {
                panic!("{text}")
            };
            assert_eq!((needed_bytes, limit_bytes), (4 << 20, Some(1 << 20)));
            assert_eq!(cause.raw_os_error(), Some(libc::ENOMEM));
            assert!(text.contains("RLIMIT_MEMLOCK") && text.contains("1048576"), "{text}");
            assert_eq!(locked_kib(), 0, "what was tried is gone");

            let mut shard = open(driver, None, locked(Need::Preferred)).expect("without");
            assert_eq!(shard.stats().pool_backing.locked_bytes, 0);
            assert_eq!(&receive(&mut shard)[..], b"hello");
        }
        // A pool within the limit is locked.
        let wanted = PoolMemory { lock: Some(Need::Required), ..PoolMemory::default() };
        let shard = open(DriverChoice::Uring, Some(SMALL), wanted).expect("16 KiB of 1 MiB");
        assert_eq!(shard.stats().pool_backing.locked_bytes, 16 << 10);
    });
}

#[test]
fn a_limit_that_forbids_registering_is_named() {
    in_child("a_limit_that_forbids_registering_is_named", || {
        give_up_privilege();
        let hard = getrlimit(Resource::Memlock).maximum;
        let limit = Rlimit { current: Some(1 << 20), maximum: hard };
        setrlimit(Resource::Memlock, limit).expect("a lower limit");
        let ordinary = PoolMemory::default();
        let mut shard = open(DriverChoice::Uring, Some(SMALL), ordinary).expect("a shard");
        for _ in 0..20 {
            let error = shard.register(4 << 20).expect_err("4 MiB are too many");
            let text = error.to_string();
            let Error::Register { bytes, limit_bytes, cause } = error else { panic!("{text}") };
            assert_eq!((bytes, limit_bytes), (4 << 20, Some(1 << 20)));
            assert_eq!(cause.raw_os_error(), Some(libc::ENOMEM));
            assert!(text.contains("RLIMIT_MEMLOCK") && text.contains("1048576"), "{text}");
            // Unregistered memory no longer counts; registrations of the user's other processes do.
            let memory = shard.register(64 << 10).expect("a part of the limit");
            assert!(memory.is_fixed());
            shard.unregister(&memory);
        }
        let mut shard = open(DriverChoice::Ready, Some(SMALL), ordinary).expect("a shard");
        let memory = shard.register(4 << 20).expect("it is memory like any other");
        assert!(!memory.is_fixed());
    });
}

/// The kernel decides about transparent huge pages: where its setting is `never`, only the refusal can be tested.
#[test]
fn transparent_huge_pages_are_there_or_missed() {
    in_child("transparent_huge_pages_are_there_or_missed", || {
        let path = "/sys/kernel/mm/transparent_hugepage/enabled";
        let setting = fs::read_to_string(path).unwrap_or_default();
        let wanted = |need| PoolMemory {
            huge_pages: HugePages::Transparent(need),
            lock: Some(Need::Preferred),
            ..PoolMemory::default()
        };
        for driver in DRIVERS {
            match open(driver, None, wanted(Need::Required)) {
                Ok(mut shard) => {
                    let got = shard.stats().pool_backing;
                    assert_eq!((got.bytes, got.page_bytes), (4 * MIB, 2 * MIB));
                    assert!(got.prefaulted);
                    let lease = receive(&mut shard);
                    let address = lease.as_ptr().addr();
                    assert_eq!(field_kib(address, "AnonHugePages"), Some(4096));
                    assert_eq!(field_kib(address, "Size"), Some(4096));
                    assert_eq!(locked_kib() << 10, got.locked_bytes);
                    drop(shard);
                    assert_eq!(&lease[..], b"hello");
                    drop(lease);
                    assert_eq!((field_kib(address, "Size"), locked_kib()), (None, 0));
                }
                Err(Error::PoolMemory(PoolMemoryError::TransparentHugePages {
                    needed_bytes,
                    huge_bytes,
                    ..
                })) => {
                    // Memory may be too fragmented. If it is plentiful, only the setting `never` excuses a failure.
                    assert!(huge_bytes < needed_bytes && needed_bytes == 4 << 20);
                    println!(
                        "skipped in part: no transparent huge pages here ({})",
                        setting.trim()
                    );
                }
                Err(error) => panic!("{error}"),
            }
            let mut shard = open(driver, None, wanted(Need::Preferred)).expect("in any case");
            assert_eq!(&receive(&mut shard)[..], b"hello");
        }
    });
}

const NR_HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn free_huge_pages() -> u64 {
    number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap_or(0)
}

/// Huge pages reserved for a test, and released afterwards.
struct SetAside(u64);

impl SetAside {
    fn pages(more: u64) -> Option<Self> {
        let before = number(NR_HUGE_PAGES)?;
        let this = Self(before);
        fs::write(NR_HUGE_PAGES, (before + more).to_string()).ok()?;
        (number(NR_HUGE_PAGES) == Some(before + more)).then_some(this)
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        let _ = fs::write(NR_HUGE_PAGES, self.0.to_string());
    }
}

/// One test, because it changes a setting of the whole machine.
#[test]
fn explicit_huge_pages_are_had_or_missed() {
    in_child("explicit_huge_pages_are_had_or_missed", || {
        let wanted = |need| PoolMemory {
            huge_pages: HugePages::Explicit(need),
            lock: Some(Need::Required),
            ..PoolMemory::default()
        };
        // More than a machine can spare, so it is refused whatever is reserved.
        let vast =
            PoolConfig { buffers: 32_768, buffer_bytes: 16 << 20, with_kernel: 2, reserve: 1 };
        for driver in DRIVERS {
            let error = open(driver, Some(vast), wanted(Need::Required)).expect_err("512 GiB");
            let text = error.to_string();
            let Error::PoolMemory(PoolMemoryError::ExplicitHugePages { needed_pages, .. }) = error
            else {
                panic!("{text}")
            };
            assert_eq!(needed_pages, 512 << 9);
            assert!(text.contains("/proc/sys/vm/nr_hugepages"), "{text}");
        }

        let free_before = free_huge_pages();
        let Some(set_aside) = SetAside::pages(2) else {
            println!("skipped in part: no huge pages can be set aside here");
            let small = PoolMemory { lock: None, ..wanted(Need::Preferred) };
            for driver in DRIVERS {
                let mut shard = open(driver, None, small).expect("the next best");
                assert_eq!(&receive(&mut shard)[..], b"hello");
            }
            return;
        };
        for driver in DRIVERS {
            let free = free_huge_pages();
            let mut shard = open(driver, None, wanted(Need::Required)).expect("two pages");
            let got = shard.stats().pool_backing;
            assert_eq!((got.bytes, got.page_bytes), (4 * MIB, 2 * MIB));
            assert_eq!((got.locked_bytes, got.prefaulted), (4 * MIB, true));
            let lease = receive(&mut shard);
            let address = lease.as_ptr().addr();
            assert_eq!(field_kib(address, "KernelPageSize"), Some(2048));
            assert_eq!(field_kib(address, "Private_Hugetlb"), Some(4096));
            assert_eq!(free_huge_pages(), free - 2);

            if free == 2 {
                // No huge page is left for a second pool: it fails, or takes the next best.
                let error = open(driver, None, wanted(Need::Required)).expect_err("none left");
                let text = error.to_string();
                let Error::PoolMemory(PoolMemoryError::ExplicitHugePages { free_pages, .. }) =
                    error
                else {
                    panic!("{text}")
                };
                assert_eq!(free_pages, Some(0));
                let second = PoolMemory { lock: None, ..wanted(Need::Preferred) };
                let mut second = open(driver, None, second).expect("the next best");
                let lease = receive(&mut second);
                assert_eq!(field_kib(lease.as_ptr().addr(), "Private_Hugetlb"), Some(0));
            }

            drop(shard);
            assert_eq!((&lease[..], free_huge_pages()), (&b"hello"[..], free - 2));
            drop(lease);
            assert_eq!((field_kib(address, "Size"), free_huge_pages()), (None, free));
        }
        drop(set_aside);
        assert_eq!(free_huge_pages(), free_before, "as it was");
    });
}
