//! The hub: the shard's handler. It owns the wire state of each connection and the far end of its pipe, and joins
//! `wire`, `route` and the engine, which do not know each other.

mod connections;
pub(crate) mod flush;
pub(crate) mod inbound;
mod keys;
pub(crate) mod peer;
mod pipes;
pub(crate) mod receive;
mod send;
pub(crate) mod socket;
pub(crate) mod spread;
mod subscribe;
mod waiting;

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    io,
    net::SocketAddr,
    sync::Arc,
};

use zring_engine::{
    Chunk, ConnId, Direct, Gather, Handler, ListenerId, ReceiveEnd, ResolveError, Shard, TimerId,
    copies::{Site, note},
    sys::unix::BoundPath,
};

use self::{
    flush::Flushing,
    inbound::{Inbound, arm::Arm},
    keys::{ConnectorKey, ListenerKey, PeerKey, Table},
    peer::{Peer, Phase},
    pipes::{Offer, Pipes},
    receive::Delivery,
    socket::SocketState,
    waiting::Waiting,
};
pub(crate) use self::{keys::SocketKey, send::load_topic};
use crate::{
    endpoint::ConnectTarget,
    error::Error,
    inproc::{Bound, Inproc},
    monitor::{DisconnectReason, EventKind, HandshakeFault, IoFault, PeerStats, SocketStats},
    options::Options,
    reconnect::Backoff,
    route::PipeId,
    socket_type::SocketType,
};

/// Pause of a listener after an accept failed, usually for lack of descriptors.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;

/// The owner of a connection or a listener of the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Peer(PeerKey),
    Connector(ConnectorKey),
    Listener(ListenerKey),
}

#[derive(Debug)]
struct Listener {
    kind: ListenerKind,
    socket: SocketKey,
    endpoint: Arc<str>,
}

impl Listener {
    fn stream_id(&self) -> Option<ListenerId> {
        match self.kind {
            ListenerKind::Stream { id, .. } => Some(id),
            ListenerKind::Inproc { .. } => None,
        }
    }
}

enum ListenerKind {
    Stream { id: ListenerId, is_tcp: bool, path: Option<BoundPath> },
    Inproc { name: Arc<str>, bound: Arc<Bound>, token: u64 },
}

impl fmt::Debug for ListenerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream { id, .. } => f.debug_tuple("Stream").field(id).finish(),
            Self::Inproc { name, .. } => f.debug_tuple("Inproc").field(name).finish(),
        }
    }
}

/// The state of a connector.
///
/// ```text
/// Idle ──▶ Waiting ──timer──▶ Resolving ──▶ Connecting ──▶ Up(peer)
///             ▲                   │             │             │
///             └───────────────────┴─────────────┴─────────────┘
/// within the process: Idle ──▶ Unbound ──the name is bound──▶ Offered ──▶ Up(peer)
/// ```
#[derive(Debug)]
enum Stage {
    /// Between two stages.
    Idle,
    Waiting(TimerId),
    /// The resolver's answer carries this number; an answer with an older number is ignored.
    Resolving(u32),
    Connecting {
        conn: ConnId,
        others: Vec<SocketAddr>,
    },
    Up(PeerKey),
    /// No socket is bound to the name; the token is posted when a socket binds it.
    Unbound(u64),
    Offered(Box<Offer>),
}

#[derive(Debug)]
struct Connector {
    socket: SocketKey,
    endpoint: Arc<str>,
    target: ConnectTarget,
    backoff: Backoff,
    stage: Stage,
    /// The connector was told to stop: it never connects again.
    stopped: bool,
}

/// The purpose of a timer of the shard, packed into the timer's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    /// Handshake deadline before a peer is ready, heartbeat after.
    Peer(PeerKey),
    Reconnect(ConnectorKey),
    Linger(SocketKey),
    Accept(ListenerKey),
    /// The end of a burst's next slice, on a shard that several threads use.
    Burst,
}

impl Timer {
    fn token(self) -> u64 {
        let (kind, key) = match self {
            Self::Peer(PeerKey(key)) => (0, key),
            Self::Reconnect(ConnectorKey(key)) => (1, key),
            Self::Linger(SocketKey(key)) => (2, key),
            Self::Accept(ListenerKey(key)) => (3, key),
            Self::Burst => (4, 0),
        };
        kind << 32 | u64::from(key)
    }

    fn from_token(token: u64) -> Self {
        let key = token as u32;
        match token >> 32 {
            0 => Self::Peer(PeerKey(key)),
            1 => Self::Reconnect(ConnectorKey(key)),
            2 => Self::Linger(SocketKey(key)),
            3 => Self::Accept(ListenerKey(key)),
            _ => Self::Burst,
        }
    }
}

/// See the module. A timer or an owner entry is removed before the key in it is reused.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) sockets: Table<SocketKey, SocketState>,
    peers: Table<PeerKey, Peer>,
    listeners: Table<ListenerKey, Listener>,
    connectors: Table<ConnectorKey, Connector>,
    /// By index of the connection or the listener.
    owners: Vec<Owner>,
    pub(crate) flushing: Flushing,
    /// The waiters of all sockets.
    waiting: Waiting,
    pub(crate) pipes: Pipes,
    scratch: Scratch,
    /// Number of the last claim.
    claims: u64,
    /// Number of the last request to the resolver.
    resolve_number: u32,
    random: u64,
}

/// Lists kept for the reuse of their memory.
#[derive(Debug, Default)]
struct Scratch {
    /// Subscribers of the message being published.
    matched: Vec<PipeId>,
    /// Peers that were given waiting messages.
    touched: Vec<PeerKey>,
}

impl Hub {
    pub(crate) fn new(inproc: Inproc) -> Self {
        Self {
            sockets: Table::new(),
            peers: Table::new(),
            listeners: Table::new(),
            connectors: Table::new(),
            owners: Vec::new(),
            flushing: Flushing::default(),
            waiting: Waiting::default(),
            pipes: Pipes::new(inproc),
            scratch: Scratch::default(),
            claims: 0,
            resolve_number: 0,
            random: RandomState::new().hash_one(()) | 1,
        }
    }

    fn owner(&self, conn: ConnId) -> Owner {
        self.owner_at(conn.index())
    }

    fn set_owner(&mut self, conn: ConnId, owner: Owner) {
        self.set_owner_at(conn.index(), owner);
    }

    fn owner_at(&self, index: usize) -> Owner {
        self.owners.get(index).copied().unwrap_or(Owner::Nobody)
    }

    fn set_owner_at(&mut self, index: usize, owner: Owner) {
        if self.owners.len() <= index {
            self.owners.resize(index + 1, Owner::Nobody);
        }
        self.owners[index] = owner;
    }

    fn peer_of(&self, conn: ConnId) -> Option<PeerKey> {
        match self.owner(conn) {
            Owner::Peer(key) if self.peers[key].conn == Some(conn) => Some(key),
            _ => None,
        }
    }

    /// Seeds the random numbers that spread reconnects, so that a run can be repeated.
    #[cfg(feature = "sim")]
    pub(crate) fn seed(&mut self, seed: u64) {
        self.random = seed | 1;
    }

    /// xorshift64*, used only to spread reconnects.
    fn random(&mut self) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// Starts the receive that suits the message under way, unless too much waits to be taken or a body is to be held.
    fn arm(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        let is_open = matches!(peer.phase, Phase::Handshaking(_) | Phase::Ready);
        let Some(conn) = peer.conn.filter(|&conn| is_open && !shard.is_receiving(conn)) else {
            return;
        };
        let was_stalled = peer.inbound.is_stalled;
        let state = &mut self.sockets[peer.socket];
        let arm = peer.inbound.arm(state.reading.holds);
        if let Arm::Stalled | Arm::Held = arm
            && !was_stalled
        {
            peer.inbound.is_stalled = true;
            peer.stats.stalls_in += u64::from(matches!(arm, Arm::Stalled));
            peer.heartbeat.pause();
        }
        match arm {
            Arm::Stalled => return,
            Arm::Held => return self.hold(key),
            Arm::Ring => shard.receive_ring(conn),
            Arm::Direct(direct) => shard.receive_direct(conn, direct),
        }
        if was_stalled {
            peer.inbound.is_stalled = false;
            if peer.heartbeats {
                peer.heartbeat.resume(shard.now_ns());
                self.watch_heartbeat(shard, key);
            }
        }
    }

    /// Handles the bytes of a peer whose handshake is not done.
    fn handle_handshake_chunk(&mut self, shard: &mut Shard, key: PeerKey, chunk: Chunk) {
        let mut at = 0;
        while at < chunk.len() && matches!(self.peers[key].phase, Phase::Handshaking(_)) {
            // A handshake takes at most a few short reads per connection: copying them keeps the code simple.
            let bytes = shard.pool().bytes(&chunk)[at..].to_vec();
            at += self.handle_handshake(shard, key, &bytes);
        }
        let peer = &mut self.peers[key];
        if at == chunk.len() || !peer.is_ready() {
            shard.release(chunk);
            return;
        }
        note(Site::Undecoded, chunk.len() - at);
        let rest = shard.pool().bytes(&chunk)[at..].to_vec();
        shard.release(chunk);
        let socket = &mut self.sockets[peer.socket];
        let clock = shard.clock();
        let (inbound, mut delivery) = peer.receiving(key, socket, &mut shard.arena, clock);
        let handled = inbound.handle_bytes(rest, &mut delivery);
        let answered = delivery.answered;
        self.after_decode(shard, key, handled, answered);
    }

    /// Bytes arrived in given memory, by a direct receive or for a claim: decodes the frames that they complete, and
    /// receives on.
    fn decode_direct<T>(
        &mut self,
        shard: &mut Shard,
        key: PeerKey,
        decode: impl FnOnce(&mut Inbound, &mut Delivery<'_>) -> (T, Result<(), DisconnectReason>),
    ) -> T {
        let peer = &mut self.peers[key];
        if peer.heartbeats {
            peer.heartbeat.handle_traffic(shard.now_ns());
        }
        let socket = &mut self.sockets[peer.socket];
        let clock = shard.clock();
        let (inbound, mut delivery) = peer.receiving(key, socket, &mut shard.arena, clock);
        let (outcome, decoded) = decode(inbound, &mut delivery);
        let answered = delivery.answered;
        self.after_decode(shard, key, decoded, answered);
        self.arm(shard, key);
        outcome
    }

    /// Chooses the way of receiving anew: at once, or when the receive under way has ended.
    fn arm_anew(&mut self, shard: &mut Shard, key: PeerKey) {
        match self.peers[key].conn.filter(|&conn| shard.is_receiving(conn)) {
            Some(conn) => shard.receive_stop(conn),
            None => self.arm(shard, key),
        }
        self.flushing.wants_flush = true;
    }

    /// Finishes a round of decoding: tells the socket of new messages, ends the connection after a fault, stops a
    /// receive whose mode has to change, and sends the answer to a PING.
    #[inline]
    fn after_decode(
        &mut self,
        shard: &mut Shard,
        key: PeerKey,
        decoded: Result<(), DisconnectReason>,
        answered: bool,
    ) {
        let peer = &mut self.peers[key];
        let state = &mut self.sockets[peer.socket];
        if peer.inbound.has_message() || peer.inbound.has_undecoded() {
            state.receiving.activate(peer.slot);
        }
        self.waiting.touch(state);
        if let Err(reason) = decoded {
            peer.inbound.discard_undecoded(shard.memory().0);
            return self.disconnect(shard, key, reason);
        }
        if let Some(conn) = peer.conn.filter(|_| peer.inbound.wants_stop()) {
            shard.receive_stop(conn);
        }
        if answered {
            self.answer(shard, key);
        }
    }
}

impl Handler for Hub {
    #[inline]
    fn on_turn(&mut self, shard: &mut Shard) -> usize {
        self.handle_mail(shard)
    }

    fn on_sleep(&mut self) -> bool {
        self.arm_mail()
    }

    fn on_accepted(&mut self, shard: &mut Shard, listener: ListenerId, conn: ConnId) {
        self.accepted(shard, listener, conn);
    }

    fn on_accept_failed(
        &mut self,
        shard: &mut Shard,
        listener: ListenerId,
        error: io::Error,
        ended: bool,
    ) {
        let Some(key) = self.listener_of(listener) else { return };
        let Listener { socket, endpoint, .. } = &self.listeners[key];
        let kind = EventKind::AcceptFailed { error: IoFault::from(error) };
        self.sockets[*socket].emit(&mut self.waiting, endpoint, kind);
        if ended {
            shard.arm_timer(shard.now_ns() + ACCEPT_PAUSE_NS, Timer::Accept(key).token());
        }
    }

    fn on_connected(&mut self, shard: &mut Shard, conn: ConnId, result: io::Result<()>) {
        if let Owner::Connector(key) = self.owner(conn) {
            self.connected(shard, key, conn, result);
        }
    }

    #[inline]
    fn on_received(&mut self, shard: &mut Shard, conn: ConnId, chunk: Chunk) {
        let Some(key) = self.peer_of(conn) else { return shard.release(chunk) };
        let peer = &mut self.peers[key];
        if peer.heartbeats {
            peer.heartbeat.handle_traffic(shard.now_ns());
        }
        match peer.phase {
            Phase::Ready => {}
            Phase::Handshaking(_) => return self.handle_handshake_chunk(shard, key, chunk),
            Phase::Closing(_) | Phase::Gone => return shard.release(chunk),
        }
        let socket = &mut self.sockets[peer.socket];
        let clock = shard.clock();
        let (pool, arena) = shard.memory();
        let (inbound, mut delivery) = peer.receiving(key, socket, arena, clock);
        let handled = inbound.handle_chunk(pool, chunk, &mut delivery);
        let answered = delivery.answered;
        self.after_decode(shard, key, handled, answered);
    }

    fn on_received_direct(&mut self, shard: &mut Shard, conn: ConnId, direct: Direct) {
        let Some(key) = self.peer_of(conn) else { return };
        self.decode_direct(shard, key, |inbound, delivery| {
            ((), inbound.handle_direct(direct, delivery))
        });
    }

    fn on_readable(&mut self, shard: &mut Shard, conn: ConnId) {
        let Some(key) = self.peer_of(conn) else { return };
        let peer = &mut self.peers[key];
        if peer.inbound.is_claimed() {
            self.waiting.touch(&mut self.sockets[peer.socket]);
        } else {
            self.arm(shard, key);
        }
    }

    fn on_receive_end(
        &mut self,
        shard: &mut Shard,
        conn: ConnId,
        direct: Option<Direct>,
        end: ReceiveEnd,
    ) {
        let Some(key) = self.peer_of(conn) else { return };
        let peer = &mut self.peers[key];
        if let Some(direct) = direct {
            peer.inbound.restore_direct(direct);
        }
        let inside = peer.inbound.is_inside_message();
        match end {
            ReceiveEnd::Stopped => self.arm(shard, key),
            ReceiveEnd::Closed if matches!(peer.phase, Phase::Handshaking(_)) => {
                self.fail_handshake(shard, key, HandshakeFault::PeerClosed);
            }
            ReceiveEnd::Closed if inside => {
                self.disconnect(shard, key, DisconnectReason::PeerClosedInMessage);
            }
            ReceiveEnd::Closed => self.disconnect(shard, key, DisconnectReason::PeerClosed),
            ReceiveEnd::Failed(error) => self.fail(shard, key, &error),
        }
    }

    fn on_starved(&mut self, shard: &mut Shard) {
        for peer in self.peers.values_mut() {
            peer.inbound.release_chunks(shard.memory().0);
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
        match self.peer_of(conn) {
            Some(key) => self.sent(shard, key, gather, bytes, error),
            None => shard.arena.recycle(gather),
        }
    }

    fn on_closed(&mut self, shard: &mut Shard, conn: ConnId) {
        let owner = self.owner(conn);
        self.set_owner(conn, Owner::Nobody);
        match owner {
            Owner::Peer(key) if self.peers[key].conn == Some(conn) => {
                self.closed(shard, key);
            }
            _ => {}
        }
    }

    fn on_timer(&mut self, shard: &mut Shard, token: u64) {
        match Timer::from_token(token) {
            Timer::Peer(key) => self.peer_timer(shard, key),
            Timer::Reconnect(key) => self.try_connect(shard, key),
            Timer::Linger(socket) => self.linger_expired(shard, socket),
            Timer::Burst => self.slice_burst(shard),
            Timer::Accept(key) => {
                let kind = self.listeners.get(key).map(|listener| &listener.kind);
                if let Some(ListenerKind::Stream { id, .. }) = kind {
                    shard.accept(*id);
                }
            }
        }
    }

    fn on_resolved(
        &mut self,
        shard: &mut Shard,
        token: u64,
        result: Result<Vec<SocketAddr>, ResolveError>,
    ) {
        self.resolved(shard, token, result);
    }
}

impl Hub {
    /// Opens a socket. Its key is valid until [`Hub::reap_socket`] removes the socket.
    pub(crate) fn open_socket(
        &mut self,
        socket_type: SocketType,
        options: Options,
    ) -> Result<SocketKey, Error> {
        let state = SocketState::new(socket_type, options)
            .ok_or(Error::Unsupported { socket_type, operation: "exist here yet" })?;
        Ok(self.sockets.insert(state))
    }

    pub(crate) fn stats(&self, socket: SocketKey) -> SocketStats {
        let state = &self.sockets[socket];
        let mut stats = state.stats;
        stats.peers = state.peers.ready as u64;
        stats.messages_pending = state.pending.reported();
        stats.events_lost = state.events_lost();
        for key in state.peers.keys() {
            stats.add(&self.peers[key].snapshot());
        }
        stats
    }

    pub(crate) fn peer_stats(&self, socket: SocketKey) -> Vec<PeerStats> {
        let peers = self.sockets[socket].peers.keys().map(|key| &self.peers[key]);
        peers.filter(|peer| peer.is_ready()).map(Peer::snapshot).collect()
    }
}
