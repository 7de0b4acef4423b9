//! Sending a file to a closed peer raises no SIGPIPE, in a program that keeps the signal's default action.
#![cfg(target_os = "linux")]

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{Command, ExitStatus},
    sync::Arc,
    time::{Duration, Instant},
};

use zring_engine::{
    Chunk, Config, ConnId, Direct, DriverChoice, FileRegion, Gather, Handler, ListenerId,
    ReceiveEnd, ResolveError, Segment, Shard, TurnWait,
};

/// Environment variable that selects the child's job.
const VARIABLE: &str = "ZRING_SIGPIPE_CHILD";

/// The child's output when all sends were refused.
const SURVIVED: &str = "still there";

#[derive(Default)]
struct Sends {
    ended: Option<Option<i32>>,
}

impl Handler for Sends {
    fn on_accepted(&mut self, _: &mut Shard, _: ListenerId, _: ConnId) {}
    fn on_accept_failed(&mut self, _: &mut Shard, _: ListenerId, _: io::Error, _: bool) {}
    fn on_connected(&mut self, _: &mut Shard, _: ConnId, _: io::Result<()>) {}
    fn on_received(&mut self, shard: &mut Shard, _: ConnId, chunk: Chunk) {
        shard.release(chunk);
    }
    fn on_received_direct(&mut self, _: &mut Shard, _: ConnId, _: Direct) {}
    fn on_receive_end(&mut self, _: &mut Shard, _: ConnId, _: Option<Direct>, _: ReceiveEnd) {}
    fn on_starved(&mut self, _: &mut Shard) {}
    fn on_sent(&mut self, _: &mut Shard, _: ConnId, _: Gather, _: usize, error: Option<io::Error>) {
        self.ended = Some(error.map(|error| error.raw_os_error().expect("a system error")));
    }
    fn on_closed(&mut self, _: &mut Shard, _: ConnId) {}
    fn on_timer(&mut self, _: &mut Shard, _: u64) {}
    fn on_resolved(&mut self, _: &mut Shard, _: u64, _: Result<Vec<SocketAddr>, ResolveError>) {}
}

/// Sends a file again and again until a send fails; returns the error.
fn send_until_refused(driver: DriverChoice, ours: OwnedFd) -> i32 {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(5000).expect("grow");
    let file = Arc::new(file);
    let mut shard = Shard::open(Config { driver, ..Config::default() }).expect("a shard");
    let conn = shard.adopt(ours);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        let mut gather = Gather::new();
        gather.push(Segment::File(FileRegion::new(file.clone(), 0, 5000).expect("in it")));
        shard.send(conn, gather).expect("an open connection");
        let mut sends = Sends::default();
        while sends.ended.is_none() {
            let until_ns = shard.now_ns() + 10_000_000;
            shard.turn(&mut sends, TurnWait::Until(Some(until_ns))).expect("a turn");
        }
        if let Some(Some(error)) = sends.ended {
            return error;
        }
    }
    panic!("nothing was refused");
}

fn gone_over_unix() -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    drop(theirs);
    ours.set_nonblocking(true).expect("non-blocking");
    ours
}

fn gone_over_tcp() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let ours = TcpStream::connect(listener.local_addr().expect("a name")).expect("connect");
    // Closed with unread bytes: a reset comes first, then a broken pipe.
    let (mut theirs, _) = listener.accept().expect("accept");
    theirs.write_all(b"x").expect("write");
    drop(theirs);
    ours.set_nonblocking(true).expect("non-blocking");
    ours
}

/// Does nothing except in a child process.
#[test]
fn child() {
    let Ok(what) = std::env::var(VARIABLE) else { return };
    // SAFETY: restores the signal's default action, which the test harness has changed; no handler is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let driver = match what.as_str() {
        "uring" => DriverChoice::Uring,
        "ready" => DriverChoice::Ready,
        _ => {
            let (file, socket) = (tempfile::tempfile().expect("a file"), gone_over_unix());
            file.set_len(5000).expect("grow");
            // SAFETY: both descriptors are open; no offset is written back.
            unsafe {
                libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), std::ptr::null_mut(), 5000)
            };
            return;
        }
    };
    assert_eq!(send_until_refused(driver, gone_over_unix().into()), libc::EPIPE);
    let error = send_until_refused(driver, gone_over_tcp().into());
    assert!([libc::EPIPE, libc::ECONNRESET].contains(&error), "{error}");
    println!("{SURVIVED}");
    // The signal still ends the program: this library does not leave it blocked.
    // SAFETY: as above; raises the signal on this thread.
    unsafe { libc::raise(libc::SIGPIPE) };
}

/// The child's exit status, and whether it ran to its end.
fn run_child(what: &str) -> (ExitStatus, bool) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(["--exact", "child", "--nocapture"]).env(VARIABLE, what);
    let output = command.output().expect("a child process");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    (output.status, String::from_utf8_lossy(&output.stdout).contains(SURVIVED))
}

#[test]
fn a_bare_sendfile_would_end_the_program() {
    let (status, has_survived) = run_child("bare");
    assert_eq!((status.signal(), has_survived), (Some(libc::SIGPIPE), false));
}

#[test]
fn ours_does_not() {
    for driver in ["uring", "ready"] {
        let (status, has_survived) = run_child(driver);
        assert!(has_survived, "{driver}: {status}");
        assert_eq!(status.signal(), Some(libc::SIGPIPE), "{driver}: the one that it raises itself");
    }
}
