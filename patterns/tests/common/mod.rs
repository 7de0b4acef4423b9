//! What the integration tests share: the ways to drive a socket ([`way`]), endpoints, time limits,
//! and the peers in the sub-modules (Python in [`peer`], bare ZMTP bytes in [`raw`]).

// Every test crate compiles this module and uses its own part of it.
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

/// How long a blocking call of ours may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a socket stays silent before a test believes that nothing comes.
pub(crate) const QUIET: Duration = Duration::from_millis(60);

/// A socket that fails rather than waits for ever.
pub(crate) fn open(ctx: &Context, kind: SocketType) -> Socket {
    let socket = ctx.socket(kind).expect("a socket");
    socket.set_rcvtimeo(Some(PATIENCE));
    socket.set_sndtimeo(Some(PATIENCE));
    socket.set_linger(Some(PATIENCE));
    socket
}

/// Binds to a free loopback port and returns the real endpoint.
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

/// A PULL, with its events kept, and a peer that sends whatever it is told.
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

/// A short directory for the paths of unix sockets (their limit is 107 bytes).
pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("zr").tempdir_in("/tmp").expect("a directory in /tmp")
}

/// A number from the environment, for the tiers that take more time or more of something.
pub(crate) fn setting(name: &str) -> Option<u32> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `body` on a thread of its own and fails when it takes longer than `limit` (times
/// `ZRING_PATIENCE_FACTOR`). A context cannot move between threads, so `body` makes its own.
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

/// Turns the context (in the background: leaves it to its thread) until `done` says so; panics
/// with `what` after [`PATIENCE`].
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

/// Runs `foreign` (a peer that blocks) on another thread and turns the context meanwhile.
pub(crate) fn turning<T: Send>(ctx: &Context, foreign: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let peer = scope.spawn(foreign);
        turn_until(ctx, "the foreign peer", || peer.is_finished());
        peer.join().unwrap_or_else(|panicked| resume_unwind(panicked))
    })
}

/// Whether nothing arrives at `socket` for a while.
pub(crate) fn is_quiet(socket: &Socket) -> bool {
    socket.set_rcvtimeo(Some(QUIET));
    let answer = matches!(socket.recv(), Err(Error::WouldBlock));
    socket.set_rcvtimeo(Some(PATIENCE));
    answer
}

/// Resident memory of this process in bytes.
pub(crate) fn resident_bytes() -> u64 {
    status_bytes("VmRSS:")
}

/// The most that was resident since [`forget_peak`].
pub(crate) fn peak_bytes() -> u64 {
    status_bytes("VmHWM:")
}

/// From here on the peak is counted anew (proc(5), `clear_refs`).
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
