//! The state that the shares of a spread socket have in common. The connections of such a socket lie on several shards.
//!
//! Each share is a socket of its shard's hub like any other. A new connection goes to the share with the fewest
//! connections: the first share listens, accepts, and hands the connection over. Messages of a type that sends by turn
//! wait for a peer in one common queue, from which any share with room takes them.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use zring_engine::{ConnId, Shard, queue::mailbox::Postbox, sys::OwnedSocket};

use super::{Hub, SocketKey, socket::SocketState};
use crate::{lock::lock, message::Message};

/// See the module.
pub(crate) struct Common {
    shares: Box<[Place]>,
    pending: Mutex<VecDeque<Message>>,
    /// Length of `pending`, readable without the lock.
    pending_count: AtomicUsize,
    ready_peers: AtomicUsize,
    connectors: AtomicUsize,
}

/// One share, as the other shares reach it.
pub(crate) struct Place {
    postbox: Postbox<u64>,
    token: u64,
    /// The share's own connections, connected or accepted.
    load: AtomicUsize,
    arrivals: Mutex<Vec<Accepted>>,
    /// The share is closed and has nothing left to send.
    is_clear: AtomicBool,
}

/// An accepted connection on its way to another share.
pub(crate) struct Accepted {
    pub(crate) fd: OwnedSocket,
    pub(crate) is_tcp: bool,
    pub(crate) endpoint: Arc<str>,
}

/// A share's place among the others.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) common: Arc<Common>,
    pub(crate) share: usize,
}

/// The share has a byte of a connection's number, between the index and the generation.
const SHARE_SHIFT: u32 = 24;

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

impl Common {
    pub(crate) fn new(shares: Vec<Place>) -> Self {
        Self {
            shares: shares.into(),
            pending: Mutex::default(),
            pending_count: AtomicUsize::new(0),
            ready_peers: AtomicUsize::new(0),
            connectors: AtomicUsize::new(0),
        }
    }

    /// The share with the fewest connections; the first, if there are several.
    pub(crate) fn least_loaded(&self) -> usize {
        let loads = self.shares.iter().map(|share| share.load.load(Ordering::Relaxed));
        loads.enumerate().min_by_key(|&(_, load)| load).map_or(0, |(share, _)| share)
    }

    fn hand_over(&self, share: usize, accepted: Accepted) {
        let place = &self.shares[share];
        lock(&place.arrivals).push(accepted);
        place.postbox.post(place.token);
    }

    /// Has every other share look at the common state.
    fn tell_others(&self, share: usize) {
        let others = self.shares.iter().enumerate().filter(|&(other, _)| other != share);
        others.for_each(|(_, place)| place.postbox.post(place.token));
    }

    fn change_pending<T>(&self, change: impl FnOnce(&mut VecDeque<Message>) -> T) -> T {
        let mut pending = lock(&self.pending);
        let outcome = change(&mut pending);
        self.pending_count.store(pending.len(), Ordering::Release);
        outcome
    }
}

impl fmt::Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Common").field("shares", &self.shares.len()).finish_non_exhaustive()
    }
}

/// Messages that wait for a peer, in the order they were sent: the socket's own, or those of all shares.
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
            Self::Shared(member) => member.common.pending_count.load(Ordering::Acquire),
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length as this socket reports it. The first share reports it for all shares.
    pub(crate) fn reported(&self) -> u64 {
        match self {
            Self::Shared(member) if member.share > 0 => 0,
            _ => self.len() as u64,
        }
    }

    pub(crate) fn push_back(&mut self, message: Message) {
        match self {
            Self::Own(messages) => messages.push_back(message),
            Self::Shared(member) => {
                member.common.change_pending(|messages| messages.push_back(message));
                // Another share may have got room in the meantime.
                member.common.tell_others(member.share);
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
                member.common.change_pending(put);
                member.common.tell_others(member.share);
            }
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<Message> {
        match self {
            Self::Own(messages) => messages.pop_front(),
            Self::Shared(Membership { common, share }) => common.change_pending(|messages| {
                // Must come before another share sees that the queue is empty.
                common.shares[*share].is_clear.store(false, Ordering::Release);
                messages.pop_front()
            }),
        }
    }

    /// Drops all messages; returns how many they were.
    pub(crate) fn clear(&mut self) -> usize {
        match self {
            Self::Own(messages) => messages.drain(..).count(),
            Self::Shared(member) => {
                let messages = member.common.change_pending(std::mem::take);
                member.common.tell_others(member.share);
                messages.len()
            }
        }
    }
}

impl SocketState {
    /// Ready peers of all shares.
    pub(crate) fn all_ready_peers(&self) -> usize {
        match &self.member {
            None => self.peers.ready,
            Some(member) => member.common.ready_peers.load(Ordering::Relaxed),
        }
    }

    /// Connectors of all shares.
    pub(crate) fn all_connectors(&self) -> usize {
        match &self.member {
            None => self.endpoints.connectors.len(),
            Some(member) => member.common.connectors.load(Ordering::Relaxed),
        }
    }

    /// Notes whether this closed share has nothing left to send, and tells the other shares when it has nothing left.
    pub(crate) fn note_clear(&self, is_clear: bool) {
        if let Some(Membership { common, share }) = &self.member
            && common.shares[*share].is_clear.swap(is_clear, Ordering::AcqRel) != is_clear
            && is_clear
        {
            common.tell_others(*share);
        }
    }

    /// Whether no share has anything left to send.
    pub(crate) fn are_shares_clear(&self) -> bool {
        self.pending.is_empty()
            && self.member.as_ref().is_none_or(|member| {
                member.common.shares.iter().all(|share| share.is_clear.load(Ordering::Acquire))
            })
    }

    /// Whether a share has, or may get, a peer to send to once the socket's endpoints are closed.
    pub(crate) fn expects_peers(&self) -> bool {
        let has_load = |place: &Place| place.load.load(Ordering::Relaxed) > 0;
        self.all_connectors() > 0
            || self.all_ready_peers() > 0
            || self.member.as_ref().is_some_and(|member| member.common.shares.iter().any(has_load))
    }

    pub(crate) fn note_ready(&mut self, is_ready: bool) {
        self.peers.ready = if is_ready { self.peers.ready + 1 } else { self.peers.ready - 1 };
        if let Some(member) = &self.member {
            add(&member.common.ready_peers, is_ready);
        }
    }

    /// A connector was made, or is gone. `is_stream`: the connector makes connections that the shard drives.
    pub(crate) fn note_connector(&self, is_there: bool, is_stream: bool) {
        if let Some(member) = &self.member {
            add(&member.common.connectors, is_there);
        }
        if is_stream {
            self.note_load(is_there);
        }
    }

    /// A connection belongs to this share from here on, or is gone.
    pub(crate) fn note_load(&self, is_there: bool) {
        if let Some(Membership { common, share }) = &self.member {
            add(&common.shares[*share].load, is_there);
        }
    }

    /// The number of a connection in events and statistics, different for connections of different shares.
    pub(crate) fn number_of(&self, conn: ConnId) -> u64 {
        let share = self.member.as_ref().map_or(0, |member| member.share as u64);
        conn.to_u64() | share << SHARE_SHIFT
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
    /// Makes a socket one share of several.
    pub(crate) fn join(&mut self, socket: SocketKey, member: Membership) {
        let state = &mut self.sockets[socket];
        state.pending = Pending::Shared(member.clone());
        state.member = Some(member);
    }

    /// Gives an accepted connection to the share with the fewest connections, unless that is this share. Returns
    /// whether the connection was given away.
    pub(crate) fn pass_on(
        &self,
        shard: &mut Shard,
        socket: SocketKey,
        conn: ConnId,
        is_tcp: bool,
        endpoint: &Arc<str>,
    ) -> bool {
        let Some(Membership { common, share }) = &self.sockets[socket].member else {
            return false;
        };
        let to = common.least_loaded();
        // Counted at once: more connections may be accepted before this one gets there.
        add(&common.shares[to].load, true);
        if to == *share {
            return false;
        }
        let fd = shard.give_up(conn).expect("accepted just now");
        common.hand_over(to, Accepted { fd, is_tcp, endpoint: endpoint.clone() });
        true
    }

    /// Another share has rung: there are connections for this share or messages for any share with room, or nothing is
    /// left to send.
    pub(crate) fn share_rung(&mut self, shard: &mut Shard, socket: SocketKey, token: u64) {
        let Some(state) = self.sockets.get(socket) else { return };
        let Some(Membership { common, share }) = state.member.clone() else { return };
        let place = &common.shares[share];
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

    /// A share is closed: closes the connections that are on their way to the share.
    pub(crate) fn refuse_arrivals(&mut self, shard: &mut Shard, socket: SocketKey) {
        let Some(Membership { common, share }) = &self.sockets[socket].member else {
            return;
        };
        for Accepted { fd, .. } in std::mem::take(&mut *lock(&common.shares[*share].arrivals)) {
            let conn = shard.adopt(fd);
            shard.close(conn);
        }
    }

    /// Nothing is left to send, or no peer to send it to: tells the other shares, which may be able to end their
    /// linger.
    pub(crate) fn tell_lingering(&self, socket: SocketKey) {
        let Some(state) = self.sockets.get(socket) else { return };
        if let Some(Membership { common, share }) = &state.member
            && state.closing.is_lingering
        {
            common.tell_others(*share);
        }
    }
}
