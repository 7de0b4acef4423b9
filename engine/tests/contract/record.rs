//! A handler that records its callbacks, and fails at once on an impossible one.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    io,
    net::SocketAddr,
};

use zring_engine::{
    Chunk, ConnId, Direct, FileFault, Gather, Handler, Lease, ListenerId, ReceiveEnd, ResolveError,
    Segment, Shard,
};

/// How received chunks are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Take {
    /// Copied and released at once.
    #[default]
    Copy,
    /// Kept, unreleased.
    Keep,
    /// Copied; a lease on the whole chunk is kept when the pool gives one.
    Lease,
}

/// Why a receive ended; an error as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Stopped,
    Closed,
    Failed(i32),
}

/// The result of one send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) total: usize,
    pub(crate) bytes: usize,
    pub(crate) error: Option<i32>,
}

/// All that one connection saw.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) take: Take,
    /// Sends back all received bytes: copied, or as leases.
    pub(crate) echo: bool,
    /// Asks for the end of the receive after each chunk.
    pub(crate) stop_each: bool,
    /// Closes the connection in the next callback about it.
    pub(crate) close_next: bool,
    pub(crate) received: Vec<u8>,
    pub(crate) chunks: VecDeque<Chunk>,
    /// Leases with their place in the stream.
    pub(crate) leases: Vec<(usize, Lease)>,
    pub(crate) directs: VecDeque<Direct>,
    pub(crate) ends: Vec<(End, Option<Direct>)>,
    pub(crate) sent: Vec<Sent>,
    pub(crate) out: VecDeque<Segment>,
    /// How often the connection was reported readable.
    pub(crate) readable: u32,
    pub(crate) is_sending: bool,
    pub(crate) connected: Option<Result<(), i32>>,
    /// The close was requested: no more sends.
    pub(crate) closing: bool,
    pub(crate) closed: bool,
}

impl Side {
    pub(crate) fn end_kinds(&self) -> Vec<End> {
        self.ends.iter().map(|(end, _)| *end).collect()
    }
}

/// # Invariants (checked)
/// - No callback comes for a closed connection.
/// - A connection is accepted once and closed once.
/// - `on_receive_end` comes when nothing is armed, `on_sent` for a send in flight.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) sides: HashMap<ConnId, Side>,
    pub(crate) accepted: VecDeque<ConnId>,
    pub(crate) ever: HashSet<u64>,
    pub(crate) accept_failures: Vec<(i32, bool)>,
    pub(crate) starved: u32,
    pub(crate) timers: Vec<u64>,
    pub(crate) resolved: Vec<(u64, Result<Vec<SocketAddr>, ResolveError>)>,
    /// When the pool asks for room, kept chunks are copied out and released.
    pub(crate) relieve: bool,
    /// The initial `echo` of accepted connections.
    pub(crate) echo_accepted: bool,
}

/// Stands for a fault of the file.
pub(crate) const FILE_FAULT: i32 = -1;

fn number(error: &io::Error) -> i32 {
    if FileFault::within(error).is_some() {
        return FILE_FAULT;
    }
    error.raw_os_error().expect("errors come from the system")
}

impl Recorder {
    #[track_caller]
    pub(crate) fn side(&mut self, conn: ConnId) -> &mut Side {
        self.sides.get_mut(&conn).expect("a known connection")
    }

    /// A connection that is open according to the callbacks so far.
    fn open(&mut self, conn: ConnId) -> &mut Side {
        let side = self.sides.get_mut(&conn).expect("only known connections are spoken of");
        assert!(!side.closed, "{conn:?} was closed before");
        side
    }

    pub(crate) fn adopt(&mut self, conn: ConnId) {
        assert!(self.ever.insert(conn.to_u64()), "{conn:?} was given out before");
        self.sides.insert(conn, Side::default());
    }

    /// Sends the queued segments, unless a send is in flight.
    pub(crate) fn pump(&mut self, shard: &mut Shard, conn: ConnId) {
        let side = self.side(conn);
        if side.is_sending || side.out.is_empty() || side.closing {
            return;
        }
        let mut gather = Gather::new();
        let count = side.out.len().min(zring_engine::SEGMENTS_PER_SEND_MAX);
        side.out.drain(..count).for_each(|segment| gather.push(segment));
        side.is_sending = true;
        shard.send(conn, gather).expect("an open connection");
    }

    fn close_if_told(&mut self, shard: &mut Shard, conn: ConnId) -> bool {
        let told = std::mem::take(&mut self.side(conn).close_next);
        if told {
            self.close(shard, conn);
        }
        told
    }

    pub(crate) fn close(&mut self, shard: &mut Shard, conn: ConnId) {
        self.side(conn).closing = true;
        shard.close(conn);
    }

    /// Copies and releases all kept chunks of `conn`.
    pub(crate) fn release(&mut self, shard: &mut Shard, conn: ConnId) {
        let side = self.side(conn);
        while let Some(chunk) = side.chunks.pop_front() {
            side.received.extend_from_slice(shard.pool().bytes(&chunk));
            shard.release(chunk);
        }
    }
}

impl Handler for Recorder {
    fn on_accepted(&mut self, shard: &mut Shard, _listener: ListenerId, conn: ConnId) {
        assert!(shard.fd(conn).is_some() && !shard.is_receiving(conn));
        self.adopt(conn);
        self.accepted.push_back(conn);
        if self.echo_accepted {
            self.side(conn).echo = true;
            shard.receive_ring(conn);
        }
    }

    fn on_accept_failed(
        &mut self,
        _shard: &mut Shard,
        _listener: ListenerId,
        error: io::Error,
        ended: bool,
    ) {
        self.accept_failures.push((number(&error), ended));
    }

    fn on_connected(&mut self, shard: &mut Shard, conn: ConnId, result: io::Result<()>) {
        let side = self.open(conn);
        let previous = side.connected.replace(result.map_err(|error| number(&error)));
        assert_eq!(previous, None, "a connect ends once");
        self.close_if_told(shard, conn);
    }

    fn on_received(&mut self, shard: &mut Shard, conn: ConnId, chunk: Chunk) {
        assert!(!chunk.is_empty(), "an empty chunk");
        assert!(shard.is_receiving(conn), "bytes without a receive");
        let side = self.open(conn);
        match side.take {
            Take::Keep => side.chunks.push_back(chunk),
            Take::Copy | Take::Lease => {
                let at = side.received.len();
                side.received.extend_from_slice(shard.pool().bytes(&chunk));
                let lease = (side.take == Take::Lease)
                    .then(|| shard.pool().lease(&chunk, 0..chunk.len()))
                    .flatten();
                match (lease, side.echo) {
                    (Some(lease), true) => side.out.push_back(Segment::Lease(lease)),
                    (Some(lease), false) => side.leases.push((at, lease)),
                    (None, true) => {
                        side.out.push_back(Segment::Arena(shard.pool().bytes(&chunk).to_vec()));
                    }
                    (None, false) => {}
                }
                shard.release(chunk);
            }
        }
        if side.stop_each {
            shard.receive_stop(conn);
        }
        if !self.close_if_told(shard, conn) {
            self.pump(shard, conn);
        }
    }

    fn on_received_direct(&mut self, shard: &mut Shard, conn: ConnId, direct: Direct) {
        self.open(conn).directs.push_back(direct);
        self.close_if_told(shard, conn);
    }

    fn on_readable(&mut self, shard: &mut Shard, conn: ConnId) {
        assert!(!shard.is_receiving(conn), "something to receive, and still awaited");
        self.open(conn).readable += 1;
        self.close_if_told(shard, conn);
    }

    fn on_receive_end(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        direct: Option<Direct>,
        end: ReceiveEnd,
    ) {
        assert!(!shard.is_receiving(conn), "the end of a receive that goes on");
        let end = match end {
            ReceiveEnd::Stopped => End::Stopped,
            ReceiveEnd::Closed => End::Closed,
            ReceiveEnd::Failed(error) => End::Failed(number(&error)),
        };
        self.open(conn).ends.push((end, direct));
        self.close_if_told(shard, conn);
    }

    fn on_starved(&mut self, shard: &mut Shard) {
        self.starved += 1;
        if self.relieve {
            let conns: Vec<ConnId> = self.sides.keys().copied().collect();
            conns.into_iter().for_each(|conn| self.release(shard, conn));
        }
    }

    fn on_sent(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        gather: Gather,
        bytes: usize,
        error: Option<io::Error>,
    ) {
        let side = self.open(conn);
        assert!(std::mem::take(&mut side.is_sending), "no send was in flight");
        let total = gather.bytes();
        assert!(bytes <= total, "{bytes} of {total} bytes");
        assert!(bytes < total || error.is_none(), "all was sent, and yet {error:?}");
        side.sent.push(Sent { total, bytes, error: error.as_ref().map(number) });
        shard.arena.recycle(gather);
        if !self.close_if_told(shard, conn) {
            self.pump(shard, conn);
        }
    }

    fn on_closed(&mut self, shard: &mut Shard, conn: ConnId) {
        let side = self.open(conn);
        assert!(!side.is_sending, "the send in flight has not come back");
        side.closed = true;
        assert!(shard.fd(conn).is_none(), "a closed connection has no descriptor");
    }

    fn on_timer(&mut self, _shard: &mut Shard, token: u64) {
        self.timers.push(token);
    }

    fn on_resolved(
        &mut self,
        _shard: &mut Shard,
        token: u64,
        result: Result<Vec<SocketAddr>, ResolveError>,
    ) {
        self.resolved.push((token, result));
    }
}
