//! What the parts of a socket share whose connections are spread over several shards.
//!
//! Each part is a socket of its shard's hub like any other. Connections are given to the part that has the fewest: the
//! first part listens and hands on what it accepts. What PUSH has for nobody in particular waits in one place, from
//! where any part with room takes it.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use zring_engine::{ConnId, Shard, queue::mailbox::Postbox, sys::OwnedSocket};

use super::{Hub, socket::SocketCore};
use crate::{lock::lock, message::Message};

/// See the module.
pub(crate) struct Spread {
    parts: Box<[Place]>,
    pending: Mutex<VecDeque<Message>>,
    /// Length of `pending`, for those who only want to know whether there is anything.
    pending_count: AtomicUsize,
    ready_peers: AtomicUsize,
    connectors: AtomicUsize,
}

/// How one part is reached by the others.
pub(crate) struct Place {
    postbox: Postbox<u64>,
    token: u64,
    /// Connections that are its own, connected or accepted.
    load: AtomicUsize,
    arrivals: Mutex<Vec<Accepted>>,
    /// It is closed and has nothing left to send.
    is_clear: AtomicBool,
}

/// A connection on its way from the part that accepted it.
pub(crate) struct Accepted {
    pub(super) fd: OwnedSocket,
    pub(super) is_tcp: bool,
    pub(super) endpoint: Arc<str>,
}

/// A part's place among the others.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) spread: Arc<Spread>,
    pub(crate) part: usize,
}

/// Each part has a byte of a connection's number, between the index and the generation.
const PART_SHIFT: u32 = 24;

impl Place {
    pub(crate) fn new(postbox: Postbox<u64>, token: u64) -> Self {
        Self {
            postbox,
            token,
            load: AtomicUsize::new(0),
            arrivals: Mutex::default(),
            is_clear: AtomicBool::new(false),
        }
    }
}

impl Spread {
    pub(crate) fn new(parts: Vec<Place>) -> Self {
        Self {
            parts: parts.into(),
            pending: Mutex::default(),
            pending_count: AtomicUsize::new(0),
            ready_peers: AtomicUsize::new(0),
            connectors: AtomicUsize::new(0),
        }
    }

    /// The part that has the fewest connections, the first of them.
    pub(crate) fn least_loaded(&self) -> usize {
        let loads = self.parts.iter().map(|part| part.load.load(Ordering::Relaxed));
        loads.enumerate().min_by_key(|&(_, load)| load).map_or(0, |(part, _)| part)
    }

    fn hand_over(&self, part: usize, accepted: Accepted) {
        let place = &self.parts[part];
        lock(&place.arrivals).push(accepted);
        place.postbox.post(place.token);
    }

    /// Has every part but this one look at what they share.
    fn tell_others(&self, part: usize) {
        let others = self.parts.iter().enumerate().filter(|&(other, _)| other != part);
        others.for_each(|(_, place)| place.postbox.post(place.token));
    }

    fn change_pending<T>(&self, change: impl FnOnce(&mut VecDeque<Message>) -> T) -> T {
        let mut pending = lock(&self.pending);
        let outcome = change(&mut pending);
        self.pending_count.store(pending.len(), Ordering::Release);
        outcome
    }
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spread").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

/// Messages that wait for a pipe, in the order they were sent: the socket's own, or those of all its parts.
#[derive(Debug)]
pub(crate) enum Pending {
    Own(VecDeque<Message>),
    Shared(Membership),
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self::Own(VecDeque::new())
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Own(messages) => messages.len(),
            Self::Shared(member) => member.spread.pending_count.load(Ordering::Acquire),
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length as this socket reports it: of several parts the first does for all.
    pub(crate) fn reported(&self) -> u64 {
        match self {
            Self::Shared(member) if member.part > 0 => 0,
            _ => self.len() as u64,
        }
    }

    pub(crate) fn push_back(&mut self, message: Message) {
        match self {
            Self::Own(messages) => messages.push_back(message),
            Self::Shared(member) => {
                member.spread.change_pending(|messages| messages.push_back(message));
                // Another part may have got room since it was asked.
                member.spread.tell_others(member.part);
            }
        }
    }

    /// Puts messages in front of everything else, in their order.
    pub(crate) fn push_all_front(&mut self, messages: Vec<Message>) {
        let put = |pending: &mut VecDeque<Message>| {
            messages.into_iter().rev().for_each(|message| pending.push_front(message));
        };
        match self {
            Self::Own(pending) => put(pending),
            Self::Shared(member) => {
                member.spread.change_pending(put);
                member.spread.tell_others(member.part);
            }
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<Message> {
        match self {
            Self::Own(messages) => messages.pop_front(),
            Self::Shared(Membership { spread, part }) => spread.change_pending(|messages| {
                // Before anybody sees that nothing is left here.
                spread.parts[*part].is_clear.store(false, Ordering::Release);
                messages.pop_front()
            }),
        }
    }

    /// Drops everything; returns how many that were.
    pub(crate) fn clear(&mut self) -> usize {
        match self {
            Self::Own(messages) => messages.drain(..).count(),
            Self::Shared(member) => {
                let messages = member.spread.change_pending(std::mem::take);
                member.spread.tell_others(member.part);
                messages.len()
            }
        }
    }
}

impl SocketCore {
    /// Ready peers of all parts.
    pub(super) fn all_ready_peers(&self) -> usize {
        match &self.member {
            None => self.ready_peers,
            Some(member) => member.spread.ready_peers.load(Ordering::Relaxed),
        }
    }

    /// Connectors of all parts.
    pub(super) fn all_connectors(&self) -> usize {
        match &self.member {
            None => self.connectors.len(),
            Some(member) => member.spread.connectors.load(Ordering::Relaxed),
        }
    }

    /// A closed part has nothing left to send, or has again.
    pub(super) fn note_clear(&self, is_clear: bool) {
        if let Some(Membership { spread, part }) = &self.member
            && spread.parts[*part].is_clear.swap(is_clear, Ordering::AcqRel) != is_clear
            && is_clear
        {
            spread.tell_others(*part);
        }
    }

    /// Whether nothing is left to send anywhere.
    pub(super) fn are_parts_clear(&self) -> bool {
        self.pending.is_empty()
            && self.member.as_ref().is_none_or(|member| {
                member.spread.parts.iter().all(|part| part.is_clear.load(Ordering::Acquire))
            })
    }

    /// Whether a part may get, or has, somebody to send to once its endpoints are closed.
    pub(super) fn expects_peers(&self) -> bool {
        let has_load = |place: &Place| place.load.load(Ordering::Relaxed) > 0;
        self.all_connectors() > 0
            || self.all_ready_peers() > 0
            || self.member.as_ref().is_some_and(|member| member.spread.parts.iter().any(has_load))
    }

    pub(super) fn note_ready(&mut self, is_ready: bool) {
        self.ready_peers = if is_ready { self.ready_peers + 1 } else { self.ready_peers - 1 };
        if let Some(member) = &self.member {
            add(&member.spread.ready_peers, is_ready);
        }
    }

    /// A connector was made, or is gone. `is_stream`: it makes connections that the shard drives.
    pub(super) fn note_connector(&self, is_there: bool, is_stream: bool) {
        if let Some(member) = &self.member {
            add(&member.spread.connectors, is_there);
        }
        if is_stream {
            self.note_load(is_there);
        }
    }

    /// A connection is this part's from here on, or is gone.
    pub(super) fn note_load(&self, is_there: bool) {
        if let Some(Membership { spread, part }) = &self.member {
            add(&spread.parts[*part].load, is_there);
        }
    }

    /// What a connection is called in events and statistics. Parts do not call theirs the same.
    pub(super) fn number_of(&self, conn: ConnId) -> u64 {
        let part = self.member.as_ref().map_or(0, |member| member.part as u64);
        conn.to_u64() | part << PART_SHIFT
    }
}

fn add(count: &AtomicUsize, is_more: bool) {
    if is_more {
        count.fetch_add(1, Ordering::Relaxed);
    } else {
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    /// Makes a socket one part of several.
    pub(crate) fn join(&mut self, socket: u32, member: Membership) {
        let core = &mut self.sockets[socket as usize];
        core.pending = Pending::Shared(member.clone());
        core.member = Some(member);
    }

    /// Gives an accepted connection to the part that has the fewest, unless that is this one. Returns whether it went.
    pub(super) fn pass_on(
        &self,
        shard: &mut Shard,
        socket: u32,
        conn: ConnId,
        is_tcp: bool,
        endpoint: &Arc<str>,
    ) -> bool {
        let Some(Membership { spread, part }) = &self.sockets[socket as usize].member else {
            return false;
        };
        let to = spread.least_loaded();
        // Counted at once: more of them may be accepted before it gets there.
        add(&spread.parts[to].load, true);
        if to == *part {
            return false;
        }
        let fd = shard.give_up(conn).expect("accepted just now");
        spread.hand_over(to, Accepted { fd, is_tcp, endpoint: endpoint.clone() });
        true
    }

    /// Another part has left word: connections, messages for whoever has room, or that there are none any more.
    pub(super) fn part_rung(&mut self, shard: &mut Shard, socket: u32, token: u64) {
        let Some(core) = self.sockets.get(socket as usize) else { return };
        let Some(Membership { spread, part }) = core.member.clone() else { return };
        let place = &spread.parts[part];
        if place.token != token {
            return;
        }
        let arrivals = std::mem::take(&mut *lock(&place.arrivals));
        for Accepted { fd, is_tcp, endpoint } in arrivals {
            let conn = shard.adopt(fd);
            self.begin_accepted(shard, socket, conn, is_tcp, endpoint);
        }
        self.drain_pending(shard, socket);
        self.touch(socket);
    }

    /// A part is closed: connections on their way to it end.
    pub(super) fn refuse_arrivals(&mut self, shard: &mut Shard, socket: u32) {
        let Some(Membership { spread, part }) = &self.sockets[socket as usize].member else {
            return;
        };
        for Accepted { fd, .. } in std::mem::take(&mut *lock(&spread.parts[*part].arrivals)) {
            let conn = shard.adopt(fd);
            shard.close(conn);
        }
    }

    /// Nothing is left to send, or nobody to send it to: parts that linger may go.
    pub(super) fn tell_lingering(&self, socket: u32) {
        let Some(core) = self.sockets.get(socket as usize) else { return };
        if let Some(Membership { spread, part }) = &core.member
            && core.lingering
        {
            spread.tell_others(*part);
        }
    }
}
