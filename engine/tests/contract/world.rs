//! A shard with its recorder, and the first steps of most tests.

use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};
use zring_engine::{
    Config, ConnId, ListenerId, Segment, Shard, SockAddr, TurnWait, sys::net::SocketOptions,
};

use crate::{
    case::{Case, patience},
    record::{Recorder, Side},
};

/// How long a test watches to see that nothing happens.
pub(crate) const QUIET: Duration = Duration::from_millis(30);

pub(crate) struct World<'a> {
    pub(crate) case: &'a Case,
    pub(crate) shard: Shard,
    pub(crate) recorder: Recorder,
}

impl<'a> World<'a> {
    pub(crate) fn new(case: &'a Case) -> Self {
        Self::with(case, case.config())
    }

    pub(crate) fn with(case: &'a Case, config: Config) -> Self {
        let shard = Shard::open(config).expect("a shard");
        Self { case, shard, recorder: Recorder::default() }
    }

    /// One turn with a short wait.
    pub(crate) fn turn(&mut self) -> usize {
        let until_ns = self.shard.now_ns() + 2_000_000;
        self.shard.turn(&mut self.recorder, TurnWait::Until(Some(until_ns))).expect("a turn")
    }

    /// Waits for work or until `until_ns`; a parking shard does so in one turn.
    pub(crate) fn wait(&mut self, until_ns: Option<u64>) {
        loop {
            let wait = TurnWait::Until(until_ns);
            let work = self.shard.turn(&mut self.recorder, wait).expect("a turn");
            let is_over = until_ns.is_some_and(|at_ns| self.shard.now_ns() >= at_ns);
            if work > 0 || is_over || self.case.parks() {
                return;
            }
        }
    }

    pub(crate) fn look(&mut self) -> usize {
        self.shard.turn(&mut self.recorder, TurnWait::No).expect("a turn")
    }

    /// Turns until `done`; fails with `what` when it takes too long.
    #[track_caller]
    pub(crate) fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < patience(), "still waiting for: {what}");
            self.turn();
        }
    }

    /// Turns for a while, so that the caller can check that nothing happened.
    pub(crate) fn turn_quietly(&mut self) {
        let start = Instant::now();
        while start.elapsed() < QUIET {
            self.turn();
        }
    }

    pub(crate) fn side(&mut self, conn: ConnId) -> &mut Side {
        self.recorder.side(conn)
    }

    pub(crate) fn listen(&mut self) -> (ListenerId, SockAddr) {
        self.listen_with(&SocketOptions::default())
    }

    pub(crate) fn listen_with(&mut self, options: &SocketOptions) -> (ListenerId, SockAddr) {
        let (fd, address) = self.case.listen(128, options);
        (self.shard.listen(fd), address)
    }

    /// Starts a connect to `address`.
    pub(crate) fn connect(&mut self, address: &SockAddr) -> ConnId {
        let conn = self.shard.connect(self.case.socket(), address.clone());
        self.recorder.adopt(conn);
        conn
    }

    pub(crate) fn take_accepted(&mut self) -> ConnId {
        self.turn_until("an accepted connection", |world| !world.recorder.accepted.is_empty());
        self.recorder.accepted.pop_front().expect("just seen")
    }

    /// Both ends of one connection on this shard: the connecting end, the accepting end.
    pub(crate) fn pair(&mut self) -> (ConnId, ConnId) {
        let (listener, address) = self.listen();
        let first = self.connect(&address);
        let second = self.take_accepted();
        self.turn_until("a connect", |world| world.side(first).connected.is_some());
        assert_eq!(self.side(first).connected, Some(Ok(())));
        self.shard.close_listener(listener);
        (first, second)
    }

    /// A connection whose other end is a blocking socket of the test.
    pub(crate) fn remote(&mut self) -> (ConnId, Socket) {
        self.remote_with(&SocketOptions::default())
    }

    /// As [`World::remote`], with `options` for the shard's end.
    pub(crate) fn remote_with(&mut self, options: &SocketOptions) -> (ConnId, Socket) {
        let (listener, address) = self.listen_with(options);
        let peer = self.case.peer(&address);
        let conn = self.take_accepted();
        if let Some(bytes) = options.sndbuf_bytes {
            let fd = self.shard.fd(conn).expect("open");
            SockRef::from(&fd).set_send_buffer_size(bytes).expect("SO_SNDBUF");
        }
        self.shard.close_listener(listener);
        (conn, peer)
    }

    /// Appends a segment to the data that `conn` sends.
    pub(crate) fn send(&mut self, conn: ConnId, segment: Segment) {
        self.side(conn).out.push_back(segment);
        self.recorder.pump(&mut self.shard, conn);
    }

    pub(crate) fn send_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        self.send(conn, Segment::Arena(bytes.to_vec()));
    }

    /// Waits for `len` received bytes in all and checks that no more came.
    #[track_caller]
    pub(crate) fn receive(&mut self, conn: ConnId, len: usize) -> Vec<u8> {
        self.turn_until("bytes", |world| world.side(conn).received.len() >= len);
        let received = std::mem::take(&mut self.side(conn).received);
        assert_eq!(received.len(), len, "more bytes than were sent");
        received
    }

    /// Closes and waits for the end of the close.
    pub(crate) fn close(&mut self, conn: ConnId) {
        self.recorder.close(&mut self.shard, conn);
        self.turn_until("a close", |world| world.side(conn).closed);
    }
}
