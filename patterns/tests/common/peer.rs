//! Peers in processes of their own: the scripts in `tests/py`, which run the real libzmq, and this crate's examples.

use std::env::consts::EXE_EXTENSION;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Context, Socket, Way, scratch, setting, turn_until, within};

/// How long a peer may take for its next line.
const PEER_PATIENCE: Duration = Duration::from_secs(45);

/// How long all cases of one test may take together.
const TEST_LIMIT: Duration = Duration::from_secs(400);

/// A process, killed when dropped.
pub(crate) struct Peer {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    complaints: Arc<Mutex<String>>,
}

impl Peer {
    /// Starts `tests/py/{script}.py` with `args`.
    pub(crate) fn spawn(script: &str, args: &[&str]) -> Peer {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/py/{script}.py"));
        let mut command = Command::new(python());
        command.arg("-u").arg(path).args(args).env("PYTHONDONTWRITEBYTECODE", "1");
        Peer::run(&format!("{script}.py {args:?}"), &mut command)
    }

    /// Starts the example `peer` in `role`.
    pub(crate) fn native(role: &str, args: &[&str]) -> Peer {
        Peer::example("peer", &[&[role], args].concat())
    }

    /// As [`native`](Self::native), but runs the command in `ZRING_TEST_PEER`, if set.
    pub(crate) fn under_test(role: &str, args: &[&str]) -> Peer {
        let Ok(line) = std::env::var("ZRING_TEST_PEER") else {
            return Peer::native(role, args);
        };
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("ZRING_TEST_PEER names a program"));
        Peer::run(&format!("{line} {role} {args:?}"), command.args(words).arg(role).args(args))
    }

    /// Starts an example of this crate.
    pub(crate) fn example(name: &str, args: &[&str]) -> Peer {
        Peer::run(&format!("{name} {args:?}"), Command::new(example(name)).args(args))
    }

    fn run(name: &str, command: &mut Command) -> Peer {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        let stdin = child.stdin.take().expect("piped");
        let stdout = child.stdout.take().expect("piped");
        let mut stderr = child.stderr.take().expect("piped");
        let (said, lines) = channel();
        thread::spawn(move || {
            let all = BufReader::new(stdout).lines().map_while(Result::ok);
            let _ = all.into_iter().try_for_each(|line| said.send(line));
        });
        let complaints = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&complaints);
        thread::spawn(move || {
            let mut text = [0; 4096];
            while let Ok(bytes @ 1..) = stderr.read(&mut text) {
                kept.lock()
                    .expect("not poisoned")
                    .push_str(&String::from_utf8_lossy(&text[..bytes]));
            }
        });
        Peer { name: name.to_owned(), child, stdin, lines, complaints }
    }

    /// Waits for a line that begins with `word` and returns the rest of the line. Turns no context meanwhile: only for
    /// output that does not depend on one.
    pub(crate) fn says(&mut self, word: &str) -> String {
        match self.lines.recv_timeout(PEER_PATIENCE) {
            Ok(line) => self.rest(&line, word),
            Err(RecvTimeoutError::Timeout) => self.fail(&format!("did not say `{word}`")),
            Err(RecvTimeoutError::Disconnected) => {
                self.fail(&format!("ended before it said `{word}`"))
            }
        }
    }

    /// As [`says`](Self::says), but turns `ctx` meanwhile.
    pub(crate) fn says_while(&mut self, ctx: &Context, word: &str) -> String {
        let start = Instant::now();
        loop {
            match self.lines.try_recv() {
                Ok(line) => return self.rest(&line, word),
                Err(TryRecvError::Disconnected) => {
                    self.fail(&format!("ended before it said `{word}`"))
                }
                Err(TryRecvError::Empty) if start.elapsed() > PEER_PATIENCE => {
                    self.fail(&format!("did not say `{word}`"))
                }
                Err(TryRecvError::Empty) => self.turn(ctx),
            }
        }
    }

    /// The next line, if one is waiting.
    pub(crate) fn said(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Writes a line to the peer's standard input.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").and_then(|()| self.stdin.flush()).expect("tell the peer");
    }

    /// Turns `ctx` until the peer prints `done` and exits without an error. Returns the count that the peer printed.
    pub(crate) fn done(mut self, ctx: &Context) -> u64 {
        let count = self.says_while(ctx, "done");
        let mut code = None;
        turn_until(ctx, "the end of the peer's process", || {
            code = self.child.try_wait().expect("wait for the peer");
            code.is_some()
        });
        if !code.is_some_and(|code| code.success()) {
            self.fail("failed");
        }
        count.parse().unwrap_or(0)
    }

    /// As [`done`](Self::done), for a peer that is connected to no socket of this process.
    pub(crate) fn finished(mut self) -> u64 {
        let count = self.says("done");
        if !self.child.wait().expect("wait for the peer").success() {
            self.fail("failed");
        }
        count.parse().unwrap_or(0)
    }

    /// Sends the process a signal by name (`STOP`, `CONT`, `KILL`).
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let status =
            Command::new("kill").args([&format!("-{signal}"), &id]).status().expect("run kill");
        assert!(status.success(), "kill -{signal} {id}");
    }

    fn turn(&self, ctx: &Context) {
        if ctx.turn().expect("a turn") == 0 {
            thread::sleep(Duration::from_micros(200));
        }
    }

    fn rest(&mut self, line: &str, word: &str) -> String {
        match line.strip_prefix(word) {
            Some(rest) => rest.trim().to_owned(),
            None => self.fail(&format!("said `{line}` instead of `{word}`")),
        }
    }

    fn fail(&mut self, what: &str) -> ! {
        let _ = self.child.kill();
        let code = self.child.wait();
        // Its standard error closes with the process; the reader thread needs a moment to notice.
        thread::sleep(Duration::from_millis(50));
        panic!("{} {what}; {code:?}\n{}", self.name, self.complaints.lock().expect("not poisoned"));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter with pyzmq. A test without its peer fails; it is never skipped.
fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("ZRING_TEST_PYTHON") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    assert!(path.exists(), "no Python with pyzmq at {}: run scripts/test once", path.display());
    path
}

/// The path of an example. `cargo test` builds all examples beside the tests, `cargo test --test NAME` does not.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    let profile = test.ancestors().nth(2).expect("above `deps`");
    let path = profile.join("examples").join(name).with_extension(EXE_EXTENSION);
    assert!(path.exists(), "no {}: run `cargo build -p zring --examples`", path.display());
    path
}

/// The transport of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Ipc,
}

/// Which end is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binds {
    Ours,
    Theirs,
}

/// One way to run a test against a foreign peer.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) transport: Transport,
    pub(crate) binds: Binds,
    pub(crate) way: Way,
    dir: TempDir,
}

impl Case {
    fn new(transport: Transport, binds: Binds, way: Way) -> Case {
        Case { transport, binds, way, dir: scratch() }
    }

    fn all(cases: impl IntoIterator<Item = ((Transport, Binds), Way)>) -> Vec<Case> {
        cases
            .into_iter()
            .map(|((transport, binds), way)| Case::new(transport, binds, way))
            .collect()
    }

    /// Each of all ways with every transport and either end bound; the receive paths of io_uring take turns. With
    /// `ZRING_TEST_FULL=1` every receive path is used each time.
    pub(crate) fn every() -> Vec<Case> {
        let all = Way::all().len();
        Case::all(ENDS.into_iter().enumerate().flat_map(|(at, ends)| {
            let ways = if is_full() { Way::every() } else { Way::rotated(at * all, all) };
            ways.into_iter().map(move |way| (ends, way))
        }))
    }

    /// Each of all ways once, and each transport with either end bound once, in another combination for each test: for
    /// tests that gain nothing from the cross product.
    pub(crate) fn rotated() -> Vec<Case> {
        if is_full() {
            return Case::every();
        }
        let offset = test_name().bytes().map(usize::from).sum::<usize>() % 16;
        Case::all(ENDS.into_iter().zip(Way::rotated(offset, ENDS.len())))
    }

    /// Each of all ways once, each transport with one end bound.
    pub(crate) fn per_transport() -> Vec<Case> {
        let ends = [(Transport::Tcp, Binds::Ours), (Transport::Ipc, Binds::Theirs)];
        let all = Way::all();
        // Both drivers run with both transports.
        let shift = |at: usize| ends[(at + at / 2) % 2];
        Case::all(all.into_iter().enumerate().map(|(at, way)| (shift(at), way)))
    }

    /// A context of this case's way.
    pub(crate) fn context(&self) -> Context {
        self.way.context()
    }

    /// Binds or connects `socket` and starts `script` at the other end. `name` distinguishes the endpoints of one case.
    pub(crate) fn join(&self, socket: &Socket, name: &str, script: &str, args: &[&str]) -> Peer {
        match self.binds {
            Binds::Ours => {
                let endpoint = self.bind(socket, name);
                self.start(script, "--connect", &endpoint, args)
            }
            Binds::Theirs => {
                let mut peer = Peer::spawn(
                    script,
                    &[&["--bind", self.wildcard(name).as_str()], args].concat(),
                );
                let endpoint = peer.says("endpoint");
                peer.says("ready");
                socket.connect(&endpoint).expect("connect");
                peer
            }
        }
    }

    /// Binds `socket` in any case and returns the endpoint.
    pub(crate) fn bind(&self, socket: &Socket, name: &str) -> String {
        socket.bind(&self.wildcard(name).replace('*', "0")).expect("bind");
        socket.last_endpoint().expect("a bound endpoint")
    }

    fn start(&self, script: &str, role: &str, endpoint: &str, args: &[&str]) -> Peer {
        let mut peer = Peer::spawn(script, &[&[role, endpoint], args].concat());
        peer.says("ready");
        peer
    }

    fn wildcard(&self, name: &str) -> String {
        match self.transport {
            Transport::Tcp => "tcp://127.0.0.1:*".to_owned(),
            Transport::Ipc => format!("ipc://{}/{name}", self.dir.path().display()),
        }
    }
}

const ENDS: [(Transport, Binds); 4] = [
    (Transport::Tcp, Binds::Ours),
    (Transport::Tcp, Binds::Theirs),
    (Transport::Ipc, Binds::Ours),
    (Transport::Ipc, Binds::Theirs),
];

/// Runs `test` in each of `cases`; the case printed last is the one that failed.
pub(crate) fn in_cases(cases: Vec<Case>, test: fn(&Case)) {
    within(TEST_LIMIT, move || {
        for case in &cases {
            println!(
                "{} over {:?}, bound: {:?}, {:?}",
                test_name(),
                case.transport,
                case.binds,
                case.way
            );
            test(case);
        }
    });
}

/// Whether the full matrices are run, as scripts/full requests.
fn is_full() -> bool {
    setting("ZRING_TEST_FULL") == Some(1)
}

fn test_name() -> String {
    thread::current().name().unwrap_or("test").to_owned()
}
