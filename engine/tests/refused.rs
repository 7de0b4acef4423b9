//! A kernel that refuses io_uring: the shard falls back to readiness and logs that once. The refusal is real: a seccomp
//! filter, as a container runtime installs it, in a child process of this test, because filters cannot be removed.
#![cfg(all(target_os = "linux", target_pointer_width = "64", target_endian = "little"))]

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use tracing::{Event, Metadata, Subscriber, field, span};
use zring_engine::{
    Chunk, Config, ConnId, Direct, DriverChoice, Error, Gather, Handler, Kind, ListenerId,
    ReceiveEnd, ResolveError, Segment, Shard, TurnWait,
    sys::net::{SocketOptions, listen_tcp},
};

/// Environment variable of the child: the error number that the filter returns.
const REFUSAL: &str = "ZRING_TEST_REFUSAL";

/// Makes `io_uring_setup(2)` fail with `errno` in this thread and in threads it starts later.
#[allow(unsafe_code)]
fn refuse_io_uring(errno: i32) {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // The first word of `struct seccomp_data` is the number of the system call.
    let mut filter = [
        step(LOAD_WORD, 0, 0, 0),
        step(JUMP_EQUAL, libc::SYS_io_uring_setup as u32, 0, 1),
        step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program =
        libc::sock_fprog { len: filter.len() as libc::c_ushort, filter: filter.as_mut_ptr() };
    // SAFETY: the option takes no pointer; the unused arguments have to be zero.
    let locked = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(locked, 0, "{}", io::Error::last_os_error());
    // SAFETY: the program and its steps live through the call, which copies them.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0)
    };
    assert_eq!(installed, 0, "{}", io::Error::last_os_error());
}

/// Collects the log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl field::Visit for &Lines {
    fn record_debug(&mut self, _: &field::Field, value: &dyn std::fmt::Debug) {
        self.0.lock().expect("lines").push(format!("{value:?}"));
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut { self });
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// Echoes received bytes.
#[derive(Default)]
struct Echo {
    bytes: usize,
}

impl Handler for Echo {
    fn on_accepted(&mut self, shard: &mut Shard, _: ListenerId, conn: ConnId) {
        shard.receive_ring(conn);
    }
    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, error: io::Error, _: bool) {
        panic!("accept: {error}");
    }
    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {}
    fn on_received(&mut self, shard: &mut Shard, conn: ConnId, chunk: Chunk) {
        let mut gather = Gather::new();
        gather.push(Segment::Arena(shard.pool().bytes(&chunk).to_vec()));
        shard.release(chunk);
        self.bytes += gather.bytes();
        shard.send(conn, gather).expect("an open connection");
    }
    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {}
    fn on_receive_end(&mut self, _: &mut Shard, _: ConnId, _: Option<Direct>, end: ReceiveEnd) {
        panic!("the peer stays: {end:?}");
    }
    fn on_starved(&mut self, _: &mut Shard) {}
    fn on_sent(
        &mut self,
        shard: &mut Shard,
        _: ConnId,
        gather: Gather,
        _: usize,
        _: Option<io::Error>,
    ) {
        shard.arena.recycle(gather);
    }
    fn on_closed(&mut self, _: &mut Shard, _: ConnId) {}
    fn on_timer(&mut self, _: &mut Shard, _: u64) {}
    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

fn bytes_are_exchanged(shard: &mut Shard) {
    let any_port = "127.0.0.1:0".parse().expect("an address");
    let (fd, address) = listen_tcp(any_port, 8, &SocketOptions::default()).expect("listen");
    shard.listen(fd);
    let peer = thread::spawn(move || {
        let mut peer = TcpStream::connect(address).expect("connect");
        for word in [&b"first"[..], b"second", &[7; 5000]] {
            peer.write_all(word).expect("write");
            let mut back = vec![0; word.len()];
            peer.read_exact(&mut back).expect("read");
            assert_eq!(back, word);
        }
        peer
    });
    let (mut echo, start) = (Echo::default(), Instant::now());
    while echo.bytes < 5011 || !peer.is_finished() {
        let soon_ns = shard.now_ns() + 1_000_000;
        shard.turn(&mut echo, TurnWait::Until(Some(soon_ns))).expect("a turn");
        assert!(start.elapsed() < Duration::from_secs(20), "{} bytes so far", echo.bytes);
    }
    peer.join().expect("the peer");
}

/// The child's part of the test.
fn under_a_filter(errno: i32) {
    let lines = Lines::default();
    tracing::subscriber::set_global_default(lines.clone()).expect("the first subscriber");
    refuse_io_uring(errno);
    for _ in 0..3 {
        let config = Config { shared: true, ..Config::default() };
        let mut shard = Shard::open(config).expect("a shard");
        assert_eq!(shard.driver(), Kind::Ready);
        assert!(shard.is_mobile());
        bytes_are_exchanged(&mut shard);
    }
    thread::spawn(|| Shard::open(Config::default()).expect("a shard").driver())
        .join()
        .expect("another thread");
    let told = lines.0.lock().expect("lines").clone();
    let cause = io::Error::from_raw_os_error(errno).to_string();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("io_uring_setup") && told[0].contains(&cause), "{told:?}");
    let asked_for = Config { driver: DriverChoice::Uring, ..Config::default() };
    match Shard::open(asked_for) {
        Err(Error::Uring { step: "io_uring_setup", cause }) => {
            assert_eq!(cause.raw_os_error(), Some(errno));
        }
        other => panic!("no silent replacement of what was asked for: {other:?}"),
    }
    assert_eq!(lines.0.lock().expect("lines").len(), 1, "an error is not logged, too");
}

/// Runs the test `test` of this program again, with `variables` in its environment.
fn child(test: &str, variables: &[(&str, &str)]) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    command.env_remove("ZRING_DRIVER").envs(variables.iter().copied());
    let output = command.output().expect("a child");
    let told = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("1 passed"), "{told}{failed}");
}

#[test]
fn a_refusal_leads_to_readiness() {
    match std::env::var(REFUSAL) {
        Ok(errno) => under_a_filter(errno.parse().expect("a number")),
        Err(_) => {
            for errno in [libc::EPERM, libc::ENOSYS] {
                child("a_refusal_leads_to_readiness", &[(REFUSAL, &errno.to_string())]);
            }
        }
    }
}

#[test]
fn the_environment_chooses() {
    let opened = || Shard::open(Config::default()).map(|shard| shard.driver());
    match std::env::var("ZRING_DRIVER").as_deref() {
        Ok("uring") => assert_eq!(opened().expect("a shard"), Kind::Uring),
        Ok("ready") => {
            assert_eq!(opened().expect("a shard"), Kind::Ready);
            let asked_for = Config { driver: DriverChoice::Uring, ..Config::default() };
            assert_eq!(Shard::open(asked_for).expect("a shard").driver(), Kind::Uring);
        }
        Ok(name) => match opened() {
            Err(Error::UnknownDriver(unknown)) => assert_eq!(unknown, name),
            other => panic!("{other:?}"),
        },
        Err(_) => {
            for name in ["uring", "ready", "epoll"] {
                child("the_environment_chooses", &[("ZRING_DRIVER", name)]);
            }
        }
    }
}
