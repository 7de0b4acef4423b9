//! One peer of one socket: the wire state of its connection and both directions of its pipe.

use std::sync::Arc;

use zring_engine::{ArenaPool, ConnId, Gather, Segment, Shard, TimerId};

use super::{ConnectorKey, SocketKey, flush::outbox::Outbox, inbound::Inbound};
use crate::inproc::link::{Freight, Link};
use crate::{
    monitor::{DisconnectReason, HandshakeFault, PeerStats},
    options::Options,
    route::Slot,
    wire::{Handshake, Heartbeat, PeerInfo},
};

/// How far a peer has come.
///
/// ```text
/// Handshaking ──▶ Ready ──▶ Closing ──▶ Gone ──▶ (removed once what it sent was taken)
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
    /// No connection any more; received messages wait to be taken.
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
    /// The socket it belongs to.
    pub(crate) socket: SocketKey,
    /// Its slot among the peers of that socket.
    pub(crate) slot: Slot,
    /// The connection to it, unless it is within the process.
    pub(crate) conn: Option<ConnId>,
    /// The link to it, if it is within the process.
    pub(crate) link: Option<Box<Link>>,
    /// The connector that made it, if this side connected.
    pub(crate) connector: Option<ConnectorKey>,
    pub(crate) phase: Phase,
    pub(crate) inbound: Inbound,
    pub(crate) outbox: Outbox,
    /// A send that ended before all was taken.
    pub(crate) cut: Option<(Gather, usize)>,
    /// Queued in the hub's list of peers to flush.
    pub(crate) is_dirty: bool,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) heartbeats: bool,
    /// How far it had come when its answer to a PING was last waited for.
    pub(crate) taken: u64,
    pub(crate) timer: Option<TimerId>,
    /// 0 for a ZMTP 3.0 peer.
    pub(crate) minor: u8,
    pub(crate) stats: PeerStats,
    /// Handshake bytes that go out before anything else.
    pub(crate) hello: Vec<u8>,
    /// Messages for it are being dropped because its queue is full.
    pub(crate) is_stalled: bool,
    /// Room for one more message is reserved: its first frames wait at the socket.
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
            slot: Slot(u32::MAX),
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

    /// The handshake told who the peer is.
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

    /// Whether something arrived that is not decoded yet.
    #[inline]
    pub(crate) fn has_undecoded(&self) -> bool {
        self.inbound.has_undecoded() || self.link.as_ref().is_some_and(|link| link.has_parcel())
    }

    /// Whether one more message would go beyond what may be queued for the peer.
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

    /// As [`Peer::flush`], beginning at once. What the kernel takes whole is done with right here, so nothing
    /// needs to be turned for it.
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

    /// Whether a body may go out right away: nothing is in front of it.
    pub(crate) fn may_send_unqueued(&self) -> bool {
        self.conn.is_some() && self.may_send_now() && self.outbox.is_idle()
    }

    /// Sends a body right from where it lies, with what stands in front of it. Returns how much of both the kernel took.
    pub(crate) fn send_unqueued(&self, shard: &mut Shard, head: &[u8], body: &[u8]) -> usize {
        self.conn.map_or(0, |conn| shard.try_send_behind(conn, head, body))
    }

    /// The one message that is queued was begun: so many bytes of it are sent.
    pub(crate) fn send_rest(&mut self, shard: &mut Shard, sent: usize) {
        if let Some(gather) = self.outbox.take_batch(&mut shard.arena) {
            self.start_send(shard, gather, sent);
        }
    }

    fn may_send_now(&self) -> bool {
        !self.outbox.is_in_flight() && self.is_ready() && self.hello.is_empty()
    }

    /// As [`Peer::flush_now`], and leaves the block that is being filled.
    pub(crate) fn flush_full_blocks_now(&mut self, shard: &mut Shard) {
        if !self.may_send_now() {
            return self.flush(shard);
        }
        self.flush_lists_now(shard, Outbox::take_full_blocks);
    }

    /// Of more than one list can hold, what follows goes the same way: without an operation under way no completion would
    /// send it.
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

    /// Bytes that a closing connection refuses count as cut off at that point.
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
