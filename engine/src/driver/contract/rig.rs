//! A driver with a record of its completions, and sockets to give to it.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{On, count::live_bytes, patience};
use crate::{
    buf::{Gather, Pool, Segment},
    config::Config,
    driver::{Completion, Driver, Native, OpId, Parking, Received, Submission, Token, Wait, ready},
    lead::Wait as _,
    sys::{RawSocket, raw},
};

/// How long an idle driver has to sleep.
pub(super) const PAUSE: Duration = Duration::from_millis(12);

/// The record of one operation.
#[derive(Debug)]
pub(super) struct Op {
    id: OpId,
    socket: RawSocket,
    pub(super) bytes: Vec<u8>,
    pub(super) sockets: Vec<Socket>,
    pub(super) sent: usize,
    is_cancelled: bool,
    /// The receive ends with the first bytes.
    once: bool,
    /// Its last completion. An orderly end of the peer is no error.
    pub(super) over: Option<io::Result<()>>,
}

impl Op {
    fn end(&mut self, result: io::Result<()>) {
        self.over = Some(result);
    }

    /// The kind of the error that the operation ended with.
    pub(super) fn error_kind(&self) -> Option<io::ErrorKind> {
        match &self.over {
            Some(Err(error)) => Some(error.kind()),
            Some(Ok(())) | None => None,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.over, Some(Ok(())))
    }
}

/// # Invariants (checked)
/// - No completion comes for an operation after its last one.
pub(super) struct Rig {
    driver: Native,
    pool: Pool,
    /// Indexed by token.
    pub(super) ops: Vec<Op>,
    /// Receives that found no buffer, in turn.
    starved: VecDeque<Token>,
    pub(super) woken: usize,
    /// Bytes received in all, and operations that are over.
    pub(super) bytes: usize,
    pub(super) ended: usize,
    pub(super) turns: usize,
    /// How many bytes the driver has allocated and not freed, without the bytes that passed through it.
    pub(super) live_bytes: isize,
    /// Every other wait is made without the driver.
    pub(super) parks_apart: bool,
}

impl Rig {
    pub(super) fn open(on: On) -> Self {
        let (driver, pool) = match on {
            #[cfg(target_os = "linux")]
            On::Uring(mask) => {
                let uring_mask = Some(mask.to_owned());
                Native::open(&Config {
                    driver: crate::config::DriverChoice::Uring,
                    uring_mask,
                    ..Config::default()
                })
                .expect("a ring")
            }
            On::Ready(mode) => {
                let (driver, pool) = ready::tests::open_with(mode, Config::default().pool);
                (Native::Ready(Box::new(driver)), pool)
            }
        };
        Self {
            driver,
            pool,
            ops: Vec::new(),
            starved: VecDeque::new(),
            woken: 0,
            bytes: 0,
            ended: 0,
            turns: 0,
            live_bytes: 0,
            parks_apart: false,
        }
    }

    /// Calls the driver and counts the memory that it keeps.
    fn call<T>(&mut self, what: impl FnOnce(&mut Native, &mut Pool) -> T) -> T {
        let before = live_bytes();
        let result = what(&mut self.driver, &mut self.pool);
        self.live_bytes += live_bytes() - before;
        result
    }

    fn submit(&mut self, socket: &Socket, submission: Submission) -> usize {
        let token = self.ops.len();
        let id = self.call(|driver, _| driver.submit(token as Token, submission));
        self.ops.push(Op {
            id,
            socket: raw(socket),
            bytes: Vec::new(),
            sockets: Vec::new(),
            sent: 0,
            is_cancelled: false,
            once: false,
            over: None,
        });
        token
    }

    pub(super) fn accept(&mut self, socket: &Socket) -> usize {
        self.submit(socket, Submission::Accept { fd: raw(socket) })
    }

    pub(super) fn connect(&mut self, socket: &Socket, address: &SockAddr) -> usize {
        let address = Box::new(address.clone());
        self.submit(socket, Submission::Connect { fd: raw(socket), address })
    }

    pub(super) fn receive(&mut self, socket: &Socket) -> usize {
        self.submit(socket, Submission::Receive { fd: raw(socket), once: false })
    }

    /// Receives only the first bytes.
    pub(super) fn receive_once(&mut self, socket: &Socket) -> usize {
        let op = self.submit(socket, Submission::Receive { fd: raw(socket), once: true });
        self.ops[op].once = true;
        op
    }

    pub(super) fn await_readable(&mut self, socket: &Socket) -> usize {
        self.submit(socket, Submission::AwaitReadable { fd: raw(socket) })
    }

    pub(super) fn send(&mut self, socket: &Socket, bytes: Vec<u8>) -> usize {
        let mut gather = Gather::new();
        gather.push(Segment::Arena(bytes));
        self.submit(socket, Submission::Send { fd: raw(socket), gather, sent: 0 })
    }

    pub(super) fn is_over(&self, op: usize) -> bool {
        self.ops[op].over.is_some()
    }

    pub(super) fn are_over(&self, ops: &[usize]) -> bool {
        ops.iter().all(|&op| self.is_over(op))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.driver.in_flight()
    }

    pub(super) fn waker(&self) -> std::task::Waker {
        self.driver.waker()
    }

    /// The first half of a turn.
    pub(super) fn look(&mut self, wait: Wait) {
        self.turns += 1;
        self.pool.collect();
        self.call(Driver::provide);
        // Start as many as there are buffers for: all others would find no buffer, and the same receives would be first
        // every time.
        for _ in 0..self.pool.config().with_kernel {
            let Some(token) = self.starved.pop_front() else { break };
            let fd = self.ops[token as usize].socket;
            let id = self
                .call(|driver, _| driver.submit(token, Submission::Receive { fd, once: false }));
            self.ops[token as usize].id = id;
        }
        let wait = match wait {
            _ if !self.starved.is_empty() => Wait::No,
            Wait::Park(Some(timeout_ns)) if self.parks_apart && self.turns.is_multiple_of(2) => {
                self.park(timeout_ns);
                Wait::No
            }
            wait => wait,
        };
        self.call(|driver, _| driver.poll(wait)).expect("a poll");
    }

    fn park(&mut self, timeout_ns: u64) {
        if let Some(parking) = self.wait_apart(timeout_ns) {
            self.unpark(parking);
        }
    }

    /// Waits without the driver, and does not yet give it the events of the wait.
    pub(super) fn wait_apart(&mut self, timeout_ns: u64) -> Option<Parking> {
        let parking = self.call(|driver, _| driver.park(Some(timeout_ns))).expect("a park");
        let mut parking: Parking = parking?;
        parking.wait().expect("a wait");
        Some(parking)
    }

    pub(super) fn unpark(&mut self, parking: Parking) {
        self.call(|driver, _| driver.unpark(parking));
    }

    /// Takes one completion.
    pub(super) fn step(&mut self) -> bool {
        let Some(completion) = self.call(Driver::next) else { return false };
        self.record(completion);
        true
    }

    fn record(&mut self, completion: Completion) {
        let (Completion::Accepted { token, .. }
        | Completion::Connected { token, .. }
        | Completion::Received { token, .. }
        | Completion::ReceivedDirect { token, .. }
        | Completion::Readable { token, .. }
        | Completion::Sent { token, .. }) = completion
        else {
            self.woken += 1;
            return;
        };
        let op = &mut self.ops[token as usize];
        assert!(op.over.is_none(), "{op:?} was over before {completion:?}");
        match completion {
            Completion::Accepted { result: Ok(socket), more: true, .. } => {
                op.sockets.push(Socket::from(socket));
            }
            Completion::Accepted { result: Err(error), more: false, .. } => op.end(Err(error)),
            Completion::Connected { result, .. } | Completion::Readable { result, .. } => {
                op.end(result);
            }
            Completion::Received { received: Received::Bytes(chunk), more, .. } => {
                op.bytes.extend_from_slice(self.pool.bytes(&chunk));
                self.bytes += chunk.len();
                self.pool.release(chunk);
                if op.once {
                    assert!(!more, "once is not more");
                    op.end(Ok(()));
                } else if !more {
                    self.begin_again(token);
                }
            }
            Completion::Received { received: Received::NoBuffer, more: false, .. } => {
                self.begin_again(token);
            }
            Completion::Received { received: Received::End, more: false, .. } => op.end(Ok(())),
            Completion::Received { received: Received::Failed(error), more: false, .. } => {
                op.end(Err(error));
            }
            Completion::Sent { gather, bytes, error, .. } => {
                op.sent = bytes;
                let is_whole = bytes == gather.bytes();
                assert!(is_whole || op.is_cancelled || error.is_some(), "less, for no reason");
                assert!(!is_whole || error.is_none(), "all, and yet {error:?}");
                let result = if is_whole { Ok(()) } else { Err(error.unwrap_or_else(cut_short)) };
                op.end(result);
            }
            other => panic!("{other:?}"),
        }
        self.ended += usize::from(self.ops[token as usize].over.is_some());
    }

    /// A receive ended too early: starts it again, unless it was cancelled.
    fn begin_again(&mut self, token: Token) {
        let op = &mut self.ops[token as usize];
        if op.is_cancelled {
            op.end(Err(cut_short()));
        } else {
            self.starved.push_back(token);
        }
    }

    pub(super) fn flush(&mut self) {
        self.call(|driver, _| driver.flush()).expect("a flush");
    }

    /// One turn; returns how many completions there were.
    pub(super) fn turn(&mut self, wait: Wait) -> usize {
        self.look(wait);
        let mut completions = 0;
        while self.step() {
            completions += 1;
        }
        self.flush();
        completions
    }

    /// Turns until `done`; fails with `what` when that takes too long.
    #[track_caller]
    pub(super) fn turn_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < patience(), "still waiting for: {what}");
            self.turn(Wait::Park(Some(50_000_000)));
        }
    }

    /// Turns for a while.
    pub(super) fn turn_for(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.turn(Wait::Park(Some(1_000_000)));
        }
    }

    /// Fails if a completion comes, or if every wait is over at once.
    #[track_caller]
    pub(super) fn assert_silent(&mut self) {
        // Events for operations that have ended may end a wait or two.
        let slept = (0..10).any(|_| {
            let start = Instant::now();
            let completions = self.turn(Wait::Park(Some(PAUSE.as_nanos() as u64)));
            assert_eq!(completions, 0, "completions out of the blue, woken: {}", self.woken);
            start.elapsed() >= PAUSE
        });
        assert!(slept, "it has nothing to do and does not sleep");
    }

    /// Asks for the end of an operation. The operation need not be over at the return.
    pub(super) fn cancel(&mut self, op: usize) {
        self.ops[op].is_cancelled = true;
        if let Some(at) = self.starved.iter().position(|&token| token as usize == op) {
            self.starved.remove(at);
            self.ops[op].end(Err(cut_short()));
            self.ended += 1;
        }
        let id = self.ops[op].id;
        self.call(|driver, _| driver.cancel(id));
    }

    /// Takes completions, turning only where there are none yet, until the operation is over.
    pub(super) fn reap(&mut self, op: usize) {
        let start = Instant::now();
        while !self.is_over(op) {
            if !self.step() {
                self.flush();
                self.look(Wait::Park(Some(1_000_000)));
                assert!(start.elapsed() < patience(), "{:?} does not end", self.ops[op]);
            }
        }
    }

    pub(super) fn cancel_and_reap(&mut self, op: usize) {
        self.cancel(op);
        self.reap(op);
    }

    pub(super) fn close(&mut self, socket: Socket) {
        self.call(|driver, _| driver.close(socket.into()));
    }

    /// Waits until the operation has received `len` bytes, and fails if it received more.
    #[track_caller]
    pub(super) fn take(&mut self, op: usize, len: usize) -> Vec<u8> {
        self.turn_until("bytes", |rig| rig.ops[op].bytes.len() >= len || rig.is_over(op));
        let bytes = std::mem::take(&mut self.ops[op].bytes);
        assert_eq!(bytes.len(), len, "{:?}", self.ops[op]);
        bytes
    }

    /// Checks that everything has ended.
    #[track_caller]
    pub(super) fn assert_idle(&mut self) {
        assert_eq!((self.in_flight(), self.pool.lent_len()), (0, 0));
        self.assert_silent();
    }
}

/// The error of an operation that was cancelled when a part of it was done.
fn cut_short() -> io::Error {
    io::Error::other("cut short")
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !self.driver.shut_down(&mut self.pool) {
            self.pool.leak();
        }
    }
}

/// The kind of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Net {
    Tcp,
    #[cfg(unix)]
    Unix,
}

pub(super) const NETS: &[Net] = &[
    Net::Tcp,
    #[cfg(unix)]
    Net::Unix,
];

/// A TCP address with a port of the system's choice.
pub(super) fn any_port() -> SockAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()
}

/// A socket for the driver to connect.
pub(super) fn stream(domain: Domain) -> Socket {
    let socket = Socket::new(domain, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("non-blocking");
    socket
}

/// A listening TCP socket for the driver, and its address.
pub(super) fn listen(backlog: i32) -> (Socket, SockAddr) {
    let listener = stream(Domain::IPV4);
    listener.bind(&any_port()).expect("bind");
    listener.listen(backlog).expect("listen");
    let address = listener.local_addr().expect("a name");
    (listener, address)
}

/// Makes the test's own end of a connection block, though not for ever.
pub(super) fn patient(far: &Socket) {
    far.set_nonblocking(false).expect("blocking");
    far.set_read_timeout(Some(patience())).expect("SO_RCVTIMEO");
    far.set_write_timeout(Some(patience())).expect("SO_SNDTIMEO");
}

/// Two ends of a connection: one for the driver, one for the test.
pub(super) fn pair(net: Net) -> (Socket, Socket) {
    let (near, far) = match net {
        Net::Tcp => {
            let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            listener.bind(&any_port()).expect("bind");
            listener.listen(1).expect("listen");
            let far = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            far.connect(&listener.local_addr().expect("a name")).expect("connect");
            let (near, _) = listener.accept().expect("accept");
            (near, far)
        }
        #[cfg(unix)]
        Net::Unix => Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a pair"),
    };
    near.set_nonblocking(true).expect("non-blocking");
    patient(&far);
    (near, far)
}

/// Bytes that show when a piece is missing, repeated or out of place.
pub(super) fn content(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}
