//! Code shared by the integration tests: the ways to drive a socket ([`way`]), endpoints, time limits, and the peers in
//! the sub-modules (Python in [`peer`], bare ZMTP bytes in [`raw`]).

// Every test crate compiles this module and uses only a part of it.
#![allow(dead_code, unused_imports)]

pub(crate) mod content;
pub(crate) mod either;
pub(crate) mod events;
pub(crate) mod peer;
pub(crate) mod raw;
pub(crate) mod seccomp;
pub(crate) mod way;

use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use zring::{Error, SocketType};

pub(crate) use either::{Context, Socket};
pub(crate) use way::{Way, in_ways};

/// Limit of a blocking call before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a socket must be silent until a test concludes that nothing comes.
pub(crate) const QUIET: Duration = Duration::from_millis(60);

/// A socket whose calls fail instead of waiting for ever.
pub(crate) fn open(ctx: &Context, kind: SocketType) -> Socket {
    let socket = ctx.socket(kind).expect("a socket");
    socket.set_rcvtimeo(Some(PATIENCE));
    socket.set_sndtimeo(Some(PATIENCE));
    socket.set_linger(Some(PATIENCE));
    socket
}

/// Binds to a free loopback port and returns the actual endpoint.
pub(crate) fn bind_tcp(socket: &Socket) -> String {
    socket.bind("tcp://127.0.0.1:0").expect("bind");
    socket.last_endpoint().expect("a bound endpoint")
}

/// Two connected sockets of one context, over TCP. The first one is bound.
pub(crate) fn pair(ctx: &Context, bound: SocketType, connected: SocketType) -> (Socket, Socket) {
    let (first, second) = (open(ctx, bound), open(ctx, connected));
    second.connect(&bind_tcp(&first)).expect("connect");
    (first, second)
}

/// A PULL that records its events, and a raw peer.
pub(crate) fn pull_from_raw(ctx: &Context) -> (Socket, raw::Raw) {
    let pull = open(ctx, SocketType::Pull);
    pull.monitor(100);
    let endpoint = bind_tcp(&pull);
    let raw = turning(ctx, || {
        let mut raw = raw::Raw::connect(&endpoint);
        raw.handshake(1, "PUSH");
        raw
    });
    (pull, raw)
}

/// Sends a body piece by piece; a `recv_into` times out before each piece, and the last one receives the whole body.
pub(crate) fn recv_in_pieces(
    ctx: &Context,
    pull: &Socket,
    raw: &mut raw::Raw,
    sent: &[u8],
    buffer: &mut [u8],
) {
    pull.set_rcvtimeo(Some(Duration::from_millis(30)));
    turning(ctx, || raw.say(&raw::header(0, sent.len() as u64)));
    for part in sent.chunks(70_000) {
        assert!(matches!(pull.recv_into(buffer), Err(zring::Error::WouldBlock)));
        turning(ctx, || raw.say(part));
    }
    pull.set_rcvtimeo(Some(PATIENCE));
    assert_eq!(pull.recv_into(buffer).expect("all of it").len, sent.len());
}

/// Binds a PUSH and gives it one peer, which reads nothing after the handshake and has little room. Returns the
/// endpoint and the peer.
pub(crate) fn narrow_worker(ctx: &Context, push: &Socket) -> (String, raw::Raw) {
    let endpoint = bind_tcp(push);
    let raw = turning(ctx, || {
        let mut raw = raw::Raw::connect_narrow(&endpoint);
        raw.handshake(1, "PULL");
        raw
    });
    push.wait_for_peers(1, Some(PATIENCE)).expect("a peer");
    (endpoint, raw)
}

/// Directory for the tests' files. On Unix not `TMPDIR`, which may be long or in memory.
pub(crate) fn directory() -> std::path::PathBuf {
    if cfg!(unix) { "/tmp".into() } else { std::env::temp_dir() }
}

/// A short directory for the paths of unix sockets (their limit is 107 bytes).
pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("zr").tempdir_in(directory()).expect("a directory")
}

/// Whether this system has Unix-domain sockets, and so `ipc://`; Windows before 10 (1809) and Wine do not.
pub(crate) fn has_unix_sockets() -> bool {
    let has = zring_engine::sys::unix::check().is_ok();
    if !has {
        println!("skipped: no AF_UNIX here");
    }
    has
}

/// A TCP endpoint to bind to, and one over a Unix-domain socket in `dir` if the system has them.
pub(crate) fn wires(dir: &TempDir) -> Vec<String> {
    let ipc = format!("ipc://{}", dir.path().join("wire").display());
    let ipc = has_unix_sockets().then_some(ipc);
    std::iter::once("tcp://127.0.0.1:0".to_owned()).chain(ipc).collect()
}

/// Two connected streams that do not belong to zring.
pub(crate) fn foreign_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let here = std::net::TcpStream::connect(listener.local_addr().expect("its address"));
    (here.expect("connect"), listener.accept().expect("accept").0)
}

/// A number from the environment, for test tiers that take more time or other resources.
pub(crate) fn setting(name: &str) -> Option<u32> {
    std::env::var(name).ok()?.parse().ok()
}

/// Fills `into` from `offset` on.
pub(crate) fn read_exact_at(file: &std::fs::File, mut into: &mut [u8], mut offset: u64) {
    while !into.is_empty() {
        let bytes = zring_engine::sys::file::read_at(file, into, offset).expect("read");
        assert!(bytes > 0, "nothing at {offset}");
        into = &mut into[bytes..];
        offset += bytes as u64;
    }
}

/// Runs `body` on a thread of its own and fails if it takes longer than `limit` (times `ZRING_PATIENCE_FACTOR`). A
/// context cannot move between threads, so `body` makes its own.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    body: impl FnOnce() -> T + Send + 'static,
) -> T {
    let limit = limit * setting("ZRING_PATIENCE_FACTOR").unwrap_or(1);
    let (done, outcome) = channel();
    let name = thread::current().name().unwrap_or("test").to_owned();
    let worker = thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let value = body();
            let _ = done.send(value);
        })
        .expect("a thread");
    match outcome.recv_timeout(limit) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("{name}: not finished after {limit:?}"),
        Err(RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panicked) => resume_unwind(panicked),
            Ok(()) => unreachable!("the outcome is sent before the thread ends"),
        },
    }
}

/// Turns the context (a background context turns on its own thread) until `done` returns true; panics with `what` after
/// [`PATIENCE`].
pub(crate) fn turn_until(ctx: &Context, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "still waiting for: {what}");
        if ctx.turn().expect("a turn") == 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Turns the context for `duration`, whatever happens.
pub(crate) fn turn_for(ctx: &Context, duration: Duration) {
    let start = Instant::now();
    turn_until(ctx, "the clock", || start.elapsed() >= duration);
}

/// Runs `foreign` (a blocking peer) on another thread and turns the context meanwhile.
pub(crate) fn turning<T: Send>(ctx: &Context, foreign: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let peer = scope.spawn(foreign);
        turn_until(ctx, "the foreign peer", || peer.is_finished());
        peer.join().unwrap_or_else(|panicked| resume_unwind(panicked))
    })
}

/// Whether `socket` receives nothing for a while.
pub(crate) fn is_quiet(socket: &Socket) -> bool {
    socket.set_rcvtimeo(Some(QUIET));
    let answer = matches!(socket.recv(), Err(Error::WouldBlock));
    socket.set_rcvtimeo(Some(PATIENCE));
    answer
}

#[cfg(windows)]
pub(crate) use memory::resident_bytes as peak_bytes;
pub(crate) use memory::*;

/// The system's numbers on this process's memory.
#[cfg(not(windows))]
mod memory {
    /// Resident memory of this process in bytes.
    pub(crate) fn resident_bytes() -> u64 {
        status_bytes("VmRSS:")
    }

    /// The peak of resident memory since [`forget_peak`].
    pub(crate) fn peak_bytes() -> u64 {
        status_bytes("VmHWM:")
    }

    /// Restarts the measurement of the peak (proc(5), `clear_refs`).
    pub(crate) fn forget_peak() {
        std::fs::write("/proc/self/clear_refs", "5").expect("/proc/self/clear_refs");
    }

    fn status_bytes(field: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
        let kib: u64 =
            line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
        kib * 1024
    }
}

/// Windows cannot restart its peak, so the current value has to do.
#[cfg(windows)]
#[allow(unsafe_code)]
mod memory {
    use windows_sys::Win32::System::{
        ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS},
        Threading::GetCurrentProcess,
    };

    /// Resident memory of this process in bytes.
    pub(crate) fn resident_bytes() -> u64 {
        let mut counters = PROCESS_MEMORY_COUNTERS::default();
        let bytes = size_of_val(&counters) as u32;
        // SAFETY: the call fills the structure, whose length is passed.
        let is_told =
            unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), &raw mut counters, bytes) };
        assert_ne!(is_told, 0, "{}", std::io::Error::last_os_error());
        counters.WorkingSetSize as u64
    }

    pub(crate) fn forget_peak() {}
}
