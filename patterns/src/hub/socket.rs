//! A socket's own state: its options, its pattern, its routes and what waits for a peer.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    task::Waker,
};

use zring_engine::{TimerId, sys::eventfd::EventFd};

use super::{
    lag::Lag,
    spread::{Membership, Pending},
};
use crate::{
    frame::Frame,
    lock::lock,
    message::Message,
    monitor::{Event, EventKind, EventQueue, SocketStats},
    options::Options,
    route::{FairQueue, LoadBalance, LocalSubscriptions, SubscriptionTrie},
    socket_type::SocketType,
};

/// Where REQ stands: `Idle ─send▶ Waiting ─reply delivered▶ Replied ─recv▶ Idle`.
#[derive(Debug, Default)]
pub(crate) enum Request {
    #[default]
    Idle,
    /// A request is out. `peer` is known once it was given to one.
    Waiting { peer: Option<u32> },
    /// The reply is in the peer's inbound queue.
    Replied,
}

/// Where REP stands: `Idle ─recv▶ Serving ─send▶ Idle`.
#[derive(Debug, Default)]
pub(crate) enum Service {
    #[default]
    Idle,
    /// A request was taken; the reply goes back along the envelope to this connection.
    Serving { connection: u64, peer: u32, envelope: Vec<Frame> },
}

/// What only one pattern has.
#[derive(Debug)]
pub(crate) enum Pattern {
    Push,
    Pull,
    Pub(SubscriptionTrie),
    Sub(LocalSubscriptions),
    Req { request: Request, id: u32 },
    Rep(Service),
}

impl Pattern {
    pub(crate) fn new(socket_type: SocketType) -> Option<Self> {
        Some(match socket_type {
            SocketType::Push => Self::Push,
            SocketType::Pull => Self::Pull,
            SocketType::Pub => Self::Pub(SubscriptionTrie::new()),
            SocketType::Sub => Self::Sub(LocalSubscriptions::new()),
            SocketType::Req => Self::Req { request: Request::Idle, id: 0 },
            SocketType::Rep => Self::Rep(Service::Idle),
            _ => return None,
        })
    }
}

/// The events of a socket, of all its parts if it has several.
pub(crate) type Events = Arc<Mutex<EventQueue>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct SocketCore {
    pub(crate) socket_type: SocketType,
    pub(crate) options: Options,
    pub(crate) pattern: Pattern,
    /// Receiving has no state of its own: whatever is there may be taken (PULL, SUB).
    pub(crate) takes_freely: bool,
    /// Ready peers with room.
    pub(crate) sending: LoadBalance,
    /// Peers with something to take.
    pub(crate) receiving: FairQueue,
    /// Messages for whichever peer has room first.
    pub(crate) pending: Pending,
    /// Its place, if it is one part of several.
    pub(crate) member: Option<Membership>,
    /// Frames of a message that is being sent part by part.
    pub(crate) partial: Vec<Frame>,
    /// What was not taken yet of a message that is being received part by part.
    pub(crate) reading: Option<Message>,
    /// Large bodies wait for a caller who says where they are to go.
    pub(crate) holds: bool,
    /// Peers that have such a body, the next to be served in front.
    pub(crate) held: VecDeque<u32>,
    /// Keys of listeners and connectors by endpoint, in canonical form.
    pub(crate) listeners: BTreeMap<Arc<str>, u32>,
    pub(crate) connectors: Vec<u32>,
    pub(crate) last_endpoint: Option<Arc<str>>,
    pub(crate) ready_peers: usize,
    pub(crate) events: Option<Events>,
    /// What ended connections did; live ones are added for a snapshot.
    pub(crate) stats: SocketStats,
    /// Closed by the user; goes when everything is sent or its time is up.
    pub(crate) lingering: bool,
    pub(crate) linger_timer: Option<TimerId>,
    /// It lingers no more: its connections are being closed.
    pub(crate) ended: bool,
    /// Its linger time is up: nothing is requeued any more.
    pub(crate) gave_up: bool,
    /// Messages that were given up when it went.
    pub(crate) unsent: u64,
    /// It has had a peer in the same process, who takes messages as they are.
    pub(crate) has_pipes: bool,
    /// How far it stays behind such a peer.
    pub(crate) lag: Lag,
    /// Those who wait for anything about it to change, with their numbers.
    pub(crate) waiters: Vec<(u64, Waker)>,
    /// The descriptor that shows changes to a foreign event loop, and whether it is readable.
    pub(crate) shown: Option<(EventFd, bool)>,
}

impl SocketCore {
    pub(crate) fn new(socket_type: SocketType, options: Options) -> Option<Self> {
        Some(Self {
            socket_type,
            options,
            pattern: Pattern::new(socket_type)?,
            takes_freely: matches!(socket_type, SocketType::Pull | SocketType::Sub),
            sending: LoadBalance::new(),
            receiving: FairQueue::new(),
            pending: Pending::new(),
            member: None,
            partial: Vec::new(),
            reading: None,
            holds: false,
            held: VecDeque::new(),
            listeners: BTreeMap::new(),
            connectors: Vec::new(),
            last_endpoint: None,
            ready_peers: 0,
            events: None,
            stats: SocketStats::default(),
            lingering: false,
            linger_timer: None,
            ended: false,
            gave_up: false,
            unsent: 0,
            has_pipes: false,
            lag: Lag::default(),
            waiters: Vec::new(),
            shown: None,
        })
    }

    /// Whether a peer has room now, and nothing waits for that already.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.is_empty() && self.sending.current().is_some()
    }

    /// Whether messages of a dead connection go to another peer.
    pub(crate) fn requeues(&self) -> bool {
        matches!(self.pattern, Pattern::Push | Pattern::Req { .. }) && !self.gave_up
    }

    /// Whether what its peers send is for the user.
    pub(crate) fn takes_messages(&self) -> bool {
        !matches!(self.pattern, Pattern::Push | Pattern::Pub(_))
    }

    /// How many messages may wait without a peer: as many as the pipes of connections that are on
    /// their way would hold. A bound socket without peers has none.
    pub(crate) fn pending_max(&self) -> usize {
        let connectors = self.all_connectors();
        if self.all_ready_peers() > 0 || connectors == 0 {
            return 0;
        }
        match self.options.sndhwm {
            0 => usize::MAX,
            hwm => connectors.saturating_mul(hwm as usize),
        }
    }

    pub(super) fn events_lost(&self) -> u64 {
        match &self.events {
            // Of several parts the first does for all.
            Some(events) if self.member.as_ref().is_none_or(|member| member.part == 0) => {
                lock(events).lost()
            }
            _ => 0,
        }
    }

    pub(crate) fn emit(&mut self, endpoint: &Arc<str>, connection: Option<u64>, kind: EventKind) {
        if let Some(events) = &self.events {
            lock(events).push(Event { endpoint: endpoint.clone(), connection, kind });
        }
    }
}
