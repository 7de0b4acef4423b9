//! One peer of one socket: the wire state of its connection and both directions of its pipe.

use std::sync::Arc;

use zring_engine::{ArenaPool, ConnId, Gather, Segment, Shard, TimerId};

use super::{ConnectorKey, SocketKey, flush::outbox::Outbox, inbound::Inbound};
use crate::inproc::link::{Freight, Link};
use crate::{
    monitor::{DisconnectReason, HandshakeFault, PeerStats},
    options::Options,
    route::PipeId,
    wire::{Handshake, Heartbeat, PeerInfo},
};

/// The phase of a peer.
///
/// ```text
/// Handshaking ──▶ Ready ──▶ Closing ──▶ Gone ──▶ (removed once its messages were taken)
///      └────────────────────────┘
/// ```
#[derive(Debug)]
pub(crate) enum Phase {
    /// Greeting and mechanism.
    Handshaking(Box<Handshake>),
    /// Messages flow.
    Ready,
    /// The connection is being closed; sends may still complete.
    Closing(Ending),
    /// The connection is gone; received messages wait to be taken.
    Gone,
}

/// Why a connection ends, kept until its last send has ended.
#[derive(Debug)]
pub(crate) enum Ending {
    Handshake(HandshakeFault),
    Ready(DisconnectReason),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The socket that the peer belongs to.
    pub(crate) socket: SocketKey,
    /// The peer's slot among the peers of that socket.
    pub(crate) slot: PipeId,
    /// The connection to the peer, unless the peer is within the process.
    pub(crate) conn: Option<ConnId>,
    /// The link to the peer, if the peer is within the process.
    pub(crate) link: Option<Box<Link>>,
    /// The connector that made the connection, if this side connected.
    pub(crate) connector: Option<ConnectorKey>,
    pub(crate) phase: Phase,
    pub(crate) inbound: Inbound,
    pub(crate) outbox: Outbox,
    /// A send that ended before the kernel had taken all of it, and how many bytes the kernel took.
    pub(crate) cut: Option<(Gather, usize)>,
    /// The peer is in the hub's list of peers to flush.
    pub(crate) is_dirty: bool,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) heartbeats: bool,
    /// The peer's progress ([`Shard::progress`]) as last read for a PING that it has to answer.
    pub(crate) taken: u64,
    pub(crate) timer: Option<TimerId>,
    /// 0 for a ZMTP 3.0 peer.
    pub(crate) minor: u8,
    pub(crate) stats: PeerStats,
    /// Handshake bytes that go out before anything else.
    pub(crate) hello: Vec<u8>,
    /// Messages for the peer are being dropped because its queue is full.
    pub(crate) is_stalled: bool,
    /// Room for one more message is reserved; the first frames of that message wait at the socket.
    pub(crate) is_reserved: bool,
}

impl Peer {
    pub(crate) fn new(
        socket: SocketKey,
        connector: Option<ConnectorKey>,
        phase: Phase,
        connection: u64,
        endpoint: Arc<str>,
        options: &Options,
    ) -> Self {
        let heartbeat = Heartbeat::new(
            options.heartbeat_ivl_ns(),
            options.heartbeat_timeout_ns(),
            options.heartbeat_ttl_ds(),
        );
        Self {
            socket,
            slot: PipeId(u32::MAX),
            conn: None,
            link: None,
            connector,
            phase,
            inbound: Inbound::new(options),
            outbox: Outbox::default(),
            cut: None,
            is_dirty: false,
            heartbeat,
            heartbeats: options.heartbeat_ivl_ns().is_some(),
            taken: 0,
            timer: None,
            minor: 1,
            stats: PeerStats { connection, endpoint, ..PeerStats::default() },
            hello: Vec::new(),
            is_stalled: false,
            is_reserved: false,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready)
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    /// The handshake is done: notes what it told about the peer.
    pub(crate) fn establish(&mut self, info: PeerInfo) {
        self.phase = Phase::Ready;
        self.minor = info.minor;
        self.stats.socket_type = Some(info.socket_type);
        self.stats.routing_id = info.routing_id.into();
    }

    /// Appends an encoded command. Only between messages.
    pub(crate) fn append_command(&mut self, shard: &mut Shard, encoded: &[u8]) {
        match &mut self.link {
            Some(link) => link.push(Freight::Command(encoded.into())),
            None => self.outbox.append_command(&mut shard.arena, encoded),
        }
    }

    /// Whether bytes or parcels arrived that are not decoded yet.
    #[inline]
    pub(crate) fn has_undecoded(&self) -> bool {
        self.inbound.has_undecoded() || self.link.as_ref().is_some_and(|link| link.has_parcel())
    }

    /// Whether one more message would exceed the limits of the peer's queue.
    #[inline]
    pub(crate) fn is_full(&mut self, options: &Options) -> bool {
        let reserved = u32::from(self.is_reserved);
        if let Some(link) = &mut self.link {
            return link.is_full(reserved.into());
        }
        let messages = self.outbox.messages().saturating_add(reserved);
        (options.sndhwm != 0 && messages >= options.sndhwm)
            || self.outbox.bytes() as u64 >= options.pipe_bytes_max
    }

    /// Hands queued bytes to the engine, unless a send is in flight.
    #[inline]
    pub(crate) fn flush(&mut self, shard: &mut Shard) {
        if self.outbox.is_in_flight() {
            return;
        }
        if !self.hello.is_empty() {
            let mut gather = shard.arena.take_list();
            gather.push(Segment::Arena(std::mem::take(&mut self.hello)));
            self.outbox.start_handshake();
            self.start_send(shard, gather, 0);
        } else if self.is_ready()
            && let Some(gather) = self.outbox.take_batch(&mut shard.arena)
        {
            self.start_send(shard, gather, 0);
        }
    }

    /// As [`Peer::flush`], with a send call at once. If the kernel takes everything, the send is complete right here,
    /// and no turn of the shard is needed for it.
    #[inline]
    pub(crate) fn flush_now(&mut self, shard: &mut Shard) {
        if !self.may_send_now() {
            return self.flush(shard);
        }
        let (Some(bytes), Some(conn)) = (self.outbox.only_block(), self.conn) else {
            return self.flush_lists_now(shard, Outbox::take_batch);
        };
        let sent = shard.try_send(conn, bytes);
        if sent == bytes.len() {
            self.stats.messages_out += u64::from(self.outbox.complete_only_block(&mut shard.arena));
        } else if let Some(gather) = self.outbox.take_batch(&mut shard.arena) {
            self.start_send(shard, gather, sent);
        }
    }

    /// Whether a body may be sent at once, because nothing is queued in front of it.
    pub(crate) fn may_send_unqueued(&self) -> bool {
        self.conn.is_some() && self.may_send_now() && self.outbox.is_idle()
    }

    /// Sends a body from where it lies, behind `head`. Returns how many bytes of both the kernel took.
    pub(crate) fn send_unqueued(&self, shard: &mut Shard, head: &[u8], body: &[u8]) -> usize {
        self.conn.map_or(0, |conn| shard.try_send_behind(conn, head, body))
    }

    /// Sends the rest of the only queued message, of which the kernel has taken `sent` bytes.
    pub(crate) fn send_rest(&mut self, shard: &mut Shard, sent: usize) {
        if let Some(gather) = self.outbox.take_batch(&mut shard.arena) {
            self.start_send(shard, gather, sent);
        }
    }

    fn may_send_now(&self) -> bool {
        !self.outbox.is_in_flight() && self.is_ready() && self.hello.is_empty()
    }

    /// As [`Peer::flush_now`], but leaves the block that is being filled.
    pub(crate) fn flush_full_blocks_now(&mut self, shard: &mut Shard) {
        if !self.may_send_now() {
            return self.flush(shard);
        }
        self.flush_lists_now(shard, Outbox::take_full_blocks);
    }

    /// Sends lists until nothing is left or the kernel does not take a list whole. The lists after the first must be
    /// sent here: with no operation in flight, no completion would send them.
    fn flush_lists_now(
        &mut self,
        shard: &mut Shard,
        take: fn(&mut Outbox, &mut ArenaPool) -> Option<Gather>,
    ) {
        while let Some(gather) = take(&mut self.outbox, &mut shard.arena) {
            let sent = self.conn.map_or(0, |conn| shard.try_send_list(conn, &gather));
            if sent < gather.bytes() {
                return self.start_send(shard, gather, sent);
            }
            self.stats.messages_out += u64::from(self.outbox.complete(&mut shard.arena, gather));
        }
    }

    /// Starts a send of which the kernel has taken `sent` bytes. If the connection is closing, the send counts as cut
    /// off there.
    fn start_send(&mut self, shard: &mut Shard, gather: Gather, sent: usize) {
        let refused = match self.conn {
            Some(conn) => shard.send_rest(conn, gather, sent).err(),
            None => Some(gather),
        };
        self.cut = refused.map(|gather| (gather, sent)).or(self.cut.take());
    }

    /// A snapshot of the counters.
    pub(crate) fn snapshot(&self) -> PeerStats {
        PeerStats { messages_queued: u64::from(self.outbox.messages()), ..self.stats.clone() }
    }
}
