//! One peer of one socket: the wire state of its connection and both directions of its pipe.

use std::{collections::VecDeque, sync::Arc};

use zring_engine::{ConnId, Gather, Segment, Shard, TimerId};

use super::{inbound::Inbound, outbox::Outbox};
use crate::{
    monitor::{DisconnectReason, HandshakeFault, PeerStats},
    options::Options,
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
    /// Key of the socket it belongs to.
    pub(crate) socket: u32,
    pub(crate) conn: ConnId,
    /// Key of the connector that made it, if this side connected.
    pub(crate) connector: Option<u32>,
    pub(crate) phase: Phase,
    pub(crate) inbound: Inbound,
    pub(crate) outbox: Outbox,
    /// A send that ended before all was taken.
    pub(crate) cut: Option<(Gather, usize)>,
    /// Queued in the hub's list of peers to flush.
    pub(crate) is_dirty: bool,
    pub(crate) heartbeat: Heartbeat,
    pub(crate) heartbeats: bool,
    pub(crate) timer: Option<TimerId>,
    /// 0 for a ZMTP 3.0 peer.
    pub(crate) minor: u8,
    pub(crate) stats: PeerStats,
    /// Handshake bytes that go out before anything else.
    pub(crate) hello: Vec<u8>,
    /// Messages for it are being dropped because its queue is full.
    pub(crate) is_stalled: bool,
}

impl Peer {
    pub(crate) fn new(
        socket: u32,
        conn: ConnId,
        connector: Option<u32>,
        handshake: Handshake,
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
            conn,
            connector,
            phase: Phase::Handshaking(Box::new(handshake)),
            inbound: Inbound::new(options),
            outbox: Outbox::default(),
            cut: None,
            is_dirty: false,
            heartbeat,
            heartbeats: options.heartbeat_ivl_ns().is_some(),
            timer: None,
            minor: 1,
            stats: PeerStats { connection: conn.to_u64(), endpoint, ..PeerStats::default() },
            hello: Vec::new(),
            is_stalled: false,
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

    /// Whether one more message would go beyond what may be queued for the peer.
    #[inline]
    pub(crate) fn is_full(&self, options: &Options) -> bool {
        let messages = self.outbox.messages();
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
        if self.outbox.is_in_flight() || !self.is_ready() || !self.hello.is_empty() {
            return self.flush(shard);
        }
        let Some(bytes) = self.outbox.only_block() else { return self.flush(shard) };
        let sent = shard.try_send(self.conn, bytes);
        if sent == bytes.len() {
            self.stats.messages_out += u64::from(self.outbox.complete_only_block(&mut shard.arena));
        } else if let Some(gather) = self.outbox.take_batch(&mut shard.arena) {
            self.start_send(shard, gather, sent);
        }
    }

    /// What a closing connection does not take counts as cut off right there.
    fn start_send(&mut self, shard: &mut Shard, gather: Gather, sent: usize) {
        if let Err(gather) = shard.send_rest(self.conn, gather, sent) {
            self.cut = Some((gather, sent));
        }
    }

    /// A snapshot of the counters.
    pub(crate) fn snapshot(&self) -> PeerStats {
        PeerStats { messages_queued: u64::from(self.outbox.messages()), ..self.stats.clone() }
    }
}

/// Messages that wait for a pipe, in the order they were sent.
pub(crate) type Pending = VecDeque<crate::message::Message>;
