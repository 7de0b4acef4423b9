//! A socket's own state: its options, its room, its peers and what waits for one of them.

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
    error::{Error, Refusal},
    frame::Frame,
    lock::lock,
    message::Message,
    monitor::{Event, EventKind, EventQueue, PeerStats, SocketStats},
    options::Options,
    pattern::{Any, Facts, Misuse, Sends, Takes},
    route::{FairQueue, LoadBalance, Slot},
    socket_type::SocketType,
};

/// The events of a socket, of all its shares if it has several.
pub(crate) type Events = Arc<Mutex<EventQueue>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct SocketState {
    /// A message of one frame goes to the peer whose turn it is, and nothing has to be asked: the type sends by turn,
    /// and no message in frames has been begun.
    pub(crate) sends_plainly: bool,
    /// A message that is there may be taken, and nothing has to be asked: the type takes freely or by topic, no message
    /// is being read frame by frame, and no body waits for a caller's memory.
    pub(crate) takes_plainly: bool,
    pub(crate) takes: Takes,
    pub(crate) facts: &'static Facts,
    pub(crate) room: Any,
    pub(crate) options: Options,
    /// Ready peers with room, if the type rotates.
    pub(crate) sending: LoadBalance,
    /// Peers with something to take.
    pub(crate) receiving: FairQueue,
    /// Messages for whichever peer has room first.
    pub(crate) pending: Pending,
    pub(crate) peers: Roster,
    /// The message that is being sent frame by frame.
    pub(crate) partial: Partial,
    pub(crate) reading: Reading,
    pub(crate) endpoints: Endpoints,
    /// The socket's place, if it is one share of several.
    pub(crate) member: Option<Membership>,
    pub(crate) events: Option<Events>,
    /// Counters of ended connections. Those of live ones are added for a snapshot.
    pub(crate) stats: SocketStats,
    pub(crate) closing: Closing,
    /// The socket has, or had, a peer within the process. Such a peer takes messages as they are.
    pub(crate) has_links: bool,
    /// How far the socket stays behind such a peer.
    pub(crate) lag: Lag,
    pub(crate) watchers: Watchers,
}

/// The peers of one socket. A slot is used again when its peer was removed.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    slots: Slab<PeerKey>,
    /// Peers whose handshake is done.
    pub(crate) ready: usize,
}

impl Roster {
    pub(crate) fn add(&mut self, key: PeerKey) -> Slot {
        Slot(self.slots.insert(key) as u32)
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        self.slots.remove(slot.0 as usize);
        if self.slots.capacity() > 16.max(4 * self.slots.len()) {
            self.slots.shrink_to_fit();
        }
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

/// The frames of a message that is being sent frame by frame, and what was reserved for it with the first one.
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
    /// At this peer, as long as it has this connection.
    Peer { key: PeerKey, connection: u64 },
    /// Among the messages that wait for a peer.
    Pending,
}

impl Partial {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// How messages are being received in other ways than whole.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Frames that were not taken yet of a message that is being received frame by frame.
    pub(crate) rest: VecDeque<Frame>,
    /// Large bodies wait for a caller who says where they are to go.
    pub(crate) holds: bool,
    /// Peers that have such a body, the next to be served in front.
    pub(crate) held: VecDeque<PeerKey>,
}

/// Listeners by endpoint in canonical form, and connectors.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    pub(crate) listeners: BTreeMap<Arc<str>, ListenerKey>,
    pub(crate) connectors: Vec<ConnectorKey>,
    pub(crate) last: Option<Arc<str>>,
}

/// How far a closed socket has come.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    /// The user has closed the socket. It goes when everything is sent or its time is up.
    pub(crate) is_lingering: bool,
    pub(crate) timer: Option<TimerId>,
    /// The socket lingers no more: its connections are being closed.
    pub(crate) has_ended: bool,
    /// The linger time is up: nothing is requeued any more.
    pub(crate) gave_up: bool,
    /// Messages that were given up.
    pub(crate) unsent: u64,
}

/// The waiters that are told when something about the socket changes.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// Callers and tasks that wait, with their numbers.
    pub(crate) waiters: Vec<(u64, Waker)>,
    /// The descriptor that shows changes to a foreign event loop, and whether it is readable.
    pub(crate) shown: Option<(EventFd, bool)>,
}

impl SocketState {
    /// `None`: sockets of this type cannot be opened.
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

    /// The peer whose turn it is to be sent a message. The one question about room: nothing waits for a peer already,
    /// and this one has room.
    #[inline(always)]
    pub(crate) fn turn(&self) -> Option<PeerKey> {
        if self.pending.is_empty() { self.sending.current_tag().map(PeerKey) } else { None }
    }

    /// Whether one more message may wait for a peer.
    pub(crate) fn may_wait(&self) -> bool {
        self.pending.len() < self.pending_max()
    }

    /// How many messages may wait without a peer: as many as the pipes of connections that are on
    /// their way would hold. A bound socket without peers has none.
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

    /// Whether a message could be sent now: the type and its state allow it, and there is room.
    #[inline]
    pub(crate) fn check_send(&self) -> Result<(), Refusal> {
        if let Err(misuse) = self.room.can_send(&self.options) {
            return Err(self.misuse(misuse).into());
        }
        let has_room = !self.facts.rotates || self.turn().is_some() || self.may_keep();
        if has_room { Ok(()) } else { Err(Refusal::WouldBlock) }
    }

    /// Whether the message has a place without a peer that has room.
    #[cold]
    fn may_keep(&self) -> bool {
        self.partial.reserved != Reserved::Nothing || self.may_wait()
    }

    #[cold]
    pub(crate) fn misuse(&self, misuse: &Misuse) -> Error {
        misuse.of(self.facts.socket_type)
    }

    /// Whether messages from peers are for the user.
    pub(crate) fn takes_messages(&self) -> bool {
        self.takes != Takes::Never
    }

    /// The part of reading that decides which way is taken has changed.
    pub(crate) fn note_reading(&mut self) {
        let is_free = matches!(self.takes, Takes::Freely | Takes::Matching);
        self.takes_plainly = is_free && !self.reading.holds && self.reading.rest.is_empty();
    }

    /// Whether large bodies are to wait for a caller who says where they go.
    pub(crate) fn set_holds(&mut self, holds: bool) {
        self.reading.holds = holds;
        self.note_reading();
    }

    /// A message that waited cannot be read from its file, and is lost.
    pub(crate) fn drop_unreadable(&mut self) {
        self.stats.messages_dropped += 1;
        self.stats.file_faults += 1;
        self.room.spoiled(None);
    }

    /// Records an event about an endpoint, and wakes the waiters of the socket.
    pub(crate) fn emit(&mut self, waiting: &mut Waiting, endpoint: &Arc<str>, kind: EventKind) {
        if let Some(events) = &self.events {
            let (endpoint, time) = (endpoint.clone(), SystemTime::now());
            lock(events).push(Event { endpoint, connection: None, peer: None, time, kind });
            waiting.touch(self);
        }
    }

    /// Records an event about a connection, and wakes the waiters of the socket.
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
            // Of several shares the first reports for all.
            Some(events) if self.member.as_ref().is_none_or(|member| member.share == 0) => {
                lock(events).lost()
            }
            _ => 0,
        }
    }

    /// The rest of a message that is being received frame by frame.
    pub(crate) fn take_rest(&mut self) -> Option<Message> {
        if self.reading.rest.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.reading.rest);
        self.note_reading();
        Message::from_frames(rest)
    }
}
