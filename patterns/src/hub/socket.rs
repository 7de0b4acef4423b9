//! A socket's own state: its options, its room, its peers, and the messages that wait for a peer.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    task::Waker,
    time::SystemTime,
};

use slab::Slab;
use zring_engine::{TimerId, sys::eventfd::EventFd};

use super::{
    ConnectorKey, ListenerKey, PeerKey,
    pipes::Lag,
    spread::{Membership, Pending},
    waiting::Waiting,
};
use crate::{
    error::Error,
    frame::Frame,
    lock::lock,
    message::Message,
    monitor::{Event, EventKind, EventQueue, PeerStats, SocketStats},
    options::Options,
    pattern::{Any, Facts, Misuse, Sends, Takes},
    route::{FairQueue, LoadBalance, PipeId},
    socket_type::SocketType,
};

/// The events of a socket; all shares of a spread socket have one queue in common.
pub(crate) type Events = Arc<Mutex<EventQueue>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct SocketState {
    /// A message of one frame may go to the peer whose turn it is, without asking the room: the type sends by turn, and
    /// no message in frames has been begun.
    pub(crate) sends_plainly: bool,
    /// A message that is there may be taken without asking the room: the type takes freely or by topic, no message is
    /// being read frame by frame, and no body waits for a caller's memory.
    pub(crate) takes_plainly: bool,
    pub(crate) takes: Takes,
    pub(crate) facts: &'static Facts,
    pub(crate) room: Any,
    pub(crate) options: Options,
    /// Ready peers with room for a message, if the type rotates.
    pub(crate) sending: LoadBalance,
    /// Peers with messages to take.
    pub(crate) receiving: FairQueue,
    /// Messages that wait for the first peer with room.
    pub(crate) pending: Pending,
    pub(crate) peers: Roster,
    /// The message that is being sent frame by frame.
    pub(crate) partial: Partial,
    pub(crate) reading: Reading,
    pub(crate) endpoints: Endpoints,
    /// The socket's place among the shares, if it is a share of a spread socket.
    pub(crate) member: Option<Membership>,
    pub(crate) events: Option<Events>,
    /// Counters of ended connections. A snapshot adds the counters of live connections.
    pub(crate) stats: SocketStats,
    pub(crate) closing: Closing,
    /// The socket has, or had, a peer within the process. Such a peer takes messages as they are.
    pub(crate) has_links: bool,
    /// How long the socket pauses between two looks at such a peer.
    pub(crate) lag: Lag,
    pub(crate) watchers: Watchers,
}

/// The peers of one socket. The slot of a removed peer is reused.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    slots: Slab<PeerKey>,
    /// Peers whose handshake is done.
    pub(crate) ready: usize,
}

impl Roster {
    pub(crate) fn add(&mut self, key: PeerKey) -> PipeId {
        PipeId(self.slots.insert(key) as u32)
    }

    pub(crate) fn remove(&mut self, slot: PipeId) {
        self.slots.remove(slot.0 as usize);
        if self.slots.capacity() > 16.max(4 * self.slots.len()) {
            self.slots.shrink_to_fit();
        }
    }

    #[inline]
    pub(crate) fn get(&self, slot: PipeId) -> Option<PeerKey> {
        self.slots.get(slot.0 as usize).copied()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = PeerKey> {
        self.slots.iter().map(|(_, &key)| key)
    }

    pub(crate) fn to_keys(&self) -> Vec<PeerKey> {
        self.keys().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// The frames of a message that is being sent frame by frame, and the room that was reserved with the first frame.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    pub(crate) frames: Vec<Frame>,
    pub(crate) reserved: Reserved,
}

/// Room for one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Reserved {
    #[default]
    Nothing,
    /// At this peer, as long as the peer has this connection.
    Peer { key: PeerKey, connection: u64 },
    /// Among the messages that wait for a peer.
    Pending,
}

impl Partial {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// The state of receives that do not take messages whole.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// The frames not taken yet of a message that is being received frame by frame.
    pub(crate) rest: VecDeque<Frame>,
    /// Large bodies are held until a caller says where they are to go.
    pub(crate) holds: bool,
    /// Peers with a held body; the peer in front is served next.
    pub(crate) held: VecDeque<PeerKey>,
}

/// Listeners by endpoint in canonical form, and connectors.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    pub(crate) listeners: BTreeMap<Arc<str>, ListenerKey>,
    pub(crate) connectors: Vec<ConnectorKey>,
    pub(crate) last: Option<Arc<str>>,
}

/// How far the closing of a socket has come.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// The user has closed the socket. The socket ends when everything is sent or the linger time is up.
    pub(crate) is_lingering: bool,
    pub(crate) timer: Option<TimerId>,
    /// The linger is over: the socket's connections are being closed.
    pub(crate) has_ended: bool,
    /// The linger time is up: nothing is requeued any more.
    pub(crate) gave_up: bool,
    /// Messages that were given up.
    pub(crate) unsent: u64,
}

/// The waiters of a socket and the descriptor that shows its changes.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// Waiting callers and tasks: the number and the waker of each.
    pub(crate) waiters: Vec<(u64, Waker)>,
    /// The descriptor that shows changes to a foreign event loop, and whether it is readable.
    pub(crate) shown: Option<(EventFd, bool)>,
}

impl SocketState {
    /// Returns `None` if sockets of this type cannot be opened.
    pub(crate) fn new(socket_type: SocketType, options: Options) -> Option<Self> {
        let (room, facts) = Any::new(socket_type)?;
        Some(Self {
            sends_plainly: facts.sends == Sends::ByTurn,
            takes_plainly: matches!(facts.takes, Takes::Freely | Takes::Matching),
            takes: facts.takes,
            facts,
            room,
            options,
            sending: LoadBalance::new(),
            receiving: FairQueue::new(),
            pending: Pending::new(),
            peers: Roster::default(),
            partial: Partial::default(),
            reading: Reading::default(),
            endpoints: Endpoints::default(),
            member: None,
            events: None,
            stats: SocketStats::default(),
            closing: Closing::default(),
            has_links: false,
            lag: Lag::default(),
            watchers: Watchers::default(),
        })
    }

    /// The peer whose turn it is to be sent a message; `None` if no peer has room, or if messages already wait for a
    /// peer. All sends by turn decide about room here.
    #[inline(always)]
    pub(crate) fn turn(&self) -> Option<PeerKey> {
        if self.pending.is_empty() { self.sending.current_tag().map(PeerKey) } else { None }
    }

    /// Whether one more message may wait for a peer.
    pub(crate) fn may_wait(&self) -> bool {
        self.pending.len() < self.pending_max()
    }

    /// How many messages may wait for a peer: as many as the pipes of the connectors would hold, as long as no peer is
    /// ready. A bound socket without connectors has none.
    fn pending_max(&self) -> usize {
        let connectors = self.all_connectors();
        if self.all_ready_peers() > 0 || connectors == 0 {
            return 0;
        }
        match self.options.sndhwm {
            0 => usize::MAX,
            hwm => connectors.saturating_mul(hwm as usize),
        }
    }

    /// Whether the type and its state allow a message to be sent now; [`Error::WouldBlock`] if there is no room for
    /// one.
    pub(crate) fn check_send(&self) -> Result<(), Error> {
        self.room.can_send(&self.options).map_err(|misuse| self.misuse(misuse))?;
        let has_room = !self.facts.rotates
            || self.partial.reserved != Reserved::Nothing
            || self.turn().is_some()
            || self.may_wait();
        if has_room { Ok(()) } else { Err(Error::WouldBlock) }
    }

    pub(crate) fn misuse(&self, misuse: Misuse) -> Error {
        misuse.of(self.facts.socket_type)
    }

    /// Whether the type delivers messages from peers to the user.
    pub(crate) fn takes_messages(&self) -> bool {
        self.takes != Takes::Never
    }

    /// Updates `takes_plainly` after a change of `reading`.
    pub(crate) fn note_reading(&mut self) {
        let is_free = matches!(self.takes, Takes::Freely | Takes::Matching);
        self.takes_plainly = is_free && !self.reading.holds && self.reading.rest.is_empty();
    }

    /// Sets whether large bodies are held until a caller says where they are to go.
    pub(crate) fn set_holds(&mut self, holds: bool) {
        self.reading.holds = holds;
        self.note_reading();
    }

    /// Counts a waiting message that is lost because its file cannot be read, and tells the room.
    pub(crate) fn drop_unreadable(&mut self) {
        self.stats.messages_dropped += 1;
        self.stats.file_faults += 1;
        self.room.spoiled(None);
    }

    /// Records an event about an endpoint, and wakes the socket's waiters.
    pub(crate) fn emit(&mut self, waiting: &mut Waiting, endpoint: &Arc<str>, kind: EventKind) {
        if let Some(events) = &self.events {
            let (endpoint, time) = (endpoint.clone(), SystemTime::now());
            lock(events).push(Event { endpoint, connection: None, peer: None, time, kind });
            waiting.touch(self);
        }
    }

    /// Records an event about a connection, and wakes the socket's waiters.
    pub(crate) fn emit_of(&mut self, waiting: &mut Waiting, peer: &PeerStats, kind: EventKind) {
        if let Some(events) = &self.events {
            let time = SystemTime::now();
            let (connection, address) = (Some(peer.connection), Some(peer.address.clone()));
            let endpoint = peer.endpoint.clone();
            lock(events).push(Event { endpoint, connection, peer: address, time, kind });
            waiting.touch(self);
        }
    }

    pub(crate) fn events_lost(&self) -> u64 {
        match &self.events {
            // The first share of a spread socket reports for all shares.
            Some(events) if self.member.as_ref().is_none_or(|member| member.share == 0) => {
                lock(events).lost()
            }
            _ => 0,
        }
    }

    /// Takes the rest of a message that is being received frame by frame.
    pub(crate) fn take_rest(&mut self) -> Option<Message> {
        let rest = std::mem::take(&mut self.reading.rest);
        if rest.is_empty() {
            return None;
        }
        self.note_reading();
        Message::from_frames(rest)
    }
}
