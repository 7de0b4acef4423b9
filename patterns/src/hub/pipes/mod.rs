//! Links, the pipes between sockets of one process: how they are made, rung and ended.

use std::sync::{
    Arc, OnceLock,
    atomic::{Ordering, fence},
};

use zring_engine::{
    Shard,
    queue::{
        mailbox::{Mailbox, Postbox, mailbox},
        notice::Notice,
    },
};

mod lag;

pub(crate) use self::lag::Lag;
use super::{
    Connector, ConnectorKey, Hub, Listener, ListenerKey, ListenerKind, PeerKey, SocketKey, Stage,
    connections::Opened,
    peer::{Peer, Phase},
    spread::Place,
};
use crate::inproc::link::{Link, Queues, Resting};
use crate::{
    error::Error,
    inproc::{Acceptance, Arrival, Bound, Inproc, Introduction},
    monitor::{DisconnectReason, EventKind, HandshakeFault},
    options::Options,
    socket_type::SocketType,
    wire::{PeerInfo, Violation},
};

/// The purpose of a bell's token. A token is `kind << 62 | serial << 32 | key`; a token with an old serial is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Peer,
    Connector,
    Listener,
    /// One share of a socket that is spread over shards.
    Share,
}

const SERIAL_MASK: u32 = (1 << 30) - 1;

fn token(kind: Kind, serial: u32, key: u32) -> u64 {
    let kind = match kind {
        Kind::Peer => 0,
        Kind::Connector => 1,
        Kind::Listener => 2,
        Kind::Share => 3,
    };
    kind << 62 | u64::from(serial & SERIAL_MASK) << 32 | u64::from(key)
}

fn kind(token: u64) -> Kind {
    match token >> 62 {
        0 => Kind::Peer,
        1 => Kind::Connector,
        2 => Kind::Listener,
        _ => Kind::Share,
    }
}

/// At most this many links are polled; the other links ring each time.
const POLLED_MAX: usize = 8;

/// The mailbox through which other threads tell a hub to look. The mailbox is made when a link or a share first needs
/// it.
pub(crate) struct Mail {
    mailbox: Mailbox<u64>,
    postbox: Postbox<u64>,
    /// The next mail has to wake the shard.
    is_armed: bool,
    scratch: Vec<u64>,
}

impl Mail {
    /// At the end of a turn: if a thread is still parked, because another thread took this turn, the next mail has to
    /// wake the parked thread.
    fn settle(&mut self, shard: &Shard) {
        if shard.is_parked() {
            self.is_armed = self.mailbox.arm();
            if !self.is_armed {
                shard.waker().wake();
            }
        } else if std::mem::take(&mut self.is_armed) {
            self.mailbox.disarm();
        }
    }
}

impl std::fmt::Debug for Mail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mail").field("is_armed", &self.is_armed).finish_non_exhaustive()
    }
}

/// The state that a hub keeps for its links.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) inproc: Inproc,
    mail: Option<Mail>,
    /// Peers whose link has ended, to be closed in the next turn.
    ended: Vec<PeerKey>,
    /// Peers whose bell was rung and left unanswered: their links are polled.
    unanswered: Vec<PeerKey>,
    /// Serial number of the last token, so that an old token is not taken for a newer one.
    serial: u32,
    /// How many links were made so far.
    links: u64,
    /// Memory of outgoing queues that is not in use.
    resting: Resting,
    /// The hub has links, or may get some at any time.
    expects_links: bool,
    /// How often messages were taken out of links.
    pub(crate) refills: u64,
}

impl Pipes {
    pub(crate) fn new(inproc: Inproc) -> Self {
        Self {
            inproc,
            mail: None,
            ended: Vec::new(),
            unanswered: Vec::new(),
            serial: 0,
            links: 0,
            resting: Resting::new(),
            expects_links: false,
            refills: 0,
        }
    }
}

/// A connecting end that waits for the bound end to accept the link.
pub(crate) struct Offer {
    queues: Option<Queues>,
    here: Arc<Notice>,
    acceptance: Acceptance,
    bound: Arc<Bound>,
}

/// Rings the bound end if it has accepted the link in the meantime, so that it sees that this end is gone.
impl Drop for Offer {
    fn drop(&mut self) {
        if self.queues.take().is_some() {
            // With the fence in `accept_arrivals`: either this end sees the acceptance, or the bound end sees that the
            // link has ended.
            fence(Ordering::SeqCst);
            self.acceptance.get().into_iter().for_each(|there| there.ring());
        }
    }
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer").finish_non_exhaustive()
    }
}

impl Hub {
    fn mail(&mut self, shard: &Shard) -> &mut Mail {
        self.pipes.mail.get_or_insert_with(|| {
            let (postbox, mailbox) = mailbox(shard.waker());
            // A thread may be parked since before there was a mailbox.
            let is_armed = shard.is_parked() && mailbox.arm();
            Mail { mailbox, postbox, is_armed, scratch: Vec::new() }
        })
    }

    fn next_serial(&mut self) -> u32 {
        self.pipes.serial = self.pipes.serial.wrapping_add(1);
        self.pipes.serial & SERIAL_MASK
    }

    fn introduce(&self, socket: SocketKey) -> Introduction {
        let state = &self.sockets[socket];
        Introduction::new(state.facts.socket_type, &state.options)
    }

    /// Whether [`Hub::handle_mail`] has mail or ended links to handle.
    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        !self.pipes.ended.is_empty()
            || self.pipes.mail.as_ref().is_some_and(|mail| !mail.mailbox.is_empty())
    }

    /// Whether messages may come from other threads.
    #[inline]
    pub(crate) fn has_links(&self) -> bool {
        self.pipes.expects_links
    }

    /// The means by which the other shares reach a socket that is to be one share of several.
    pub(crate) fn share_place(&mut self, shard: &Shard, socket: SocketKey) -> Place {
        let token = token(Kind::Share, self.next_serial(), socket.0);
        Place::new(self.mail(shard).postbox.clone(), token)
    }

    /// Before a sleep: from now on mail wakes the shard. Returns `false` if there is something to do already.
    pub(crate) fn arm_mail(&mut self) -> bool {
        if !self.pipes.ended.is_empty() || !self.answer_all() {
            return false;
        }
        let Some(mail) = &mut self.pipes.mail else { return true };
        mail.is_armed = mail.mailbox.arm();
        mail.is_armed
    }

    /// Answers every bell that was left unanswered, so that it rings again. Returns `false` if one of the links has
    /// something already; its socket was told.
    fn answer_all(&mut self) -> bool {
        let mut is_quiet = true;
        while let Some(key) = self.pipes.unanswered.pop() {
            let Some(peer) = self.peers.get_mut(key) else { continue };
            let Some(link) = peer.link.as_mut().filter(|link| link.is_polled) else { continue };
            link.is_polled = false;
            link.answer();
            let is_news = link.has_parcel() || link.is_closed();
            let state = &mut self.sockets[peer.socket];
            if is_news && state.receiving.activate(peer.slot) {
                self.waiting.touch(state);
                is_quiet = false;
            }
        }
        is_quiet
    }

    /// Looks at the links whose bells were left unanswered.
    #[inline]
    pub(crate) fn poll_links(&mut self, shard: &mut Shard) {
        if !self.pipes.unanswered.is_empty() {
            let keys = std::mem::take(&mut self.pipes.unanswered);
            for &key in &keys {
                self.look_at_link(shard, key);
            }
            let more = std::mem::replace(&mut self.pipes.unanswered, keys);
            self.pipes.unanswered.extend(more);
        }
    }

    /// Handles bells that were rung and links that have ended, and polls the links whose bells were left unanswered.
    #[inline]
    pub(crate) fn handle_mail(&mut self, shard: &mut Shard) -> usize {
        let handled = if self.has_mail() { self.handle_letters(shard) } else { 0 };
        self.poll_links(shard);
        if shard.is_parked() {
            self.answer_all();
        }
        if let Some(mail) = &mut self.pipes.mail {
            mail.settle(shard);
        }
        handled
    }

    fn handle_letters(&mut self, shard: &mut Shard) -> usize {
        let mut handled = self.pipes.ended.len();
        for key in std::mem::take(&mut self.pipes.ended) {
            self.closed(shard, key);
        }
        let Some(mail) = &mut self.pipes.mail else { return handled };
        let mut letters = std::mem::take(&mut mail.scratch);
        mail.mailbox.drain(&mut letters);
        handled += letters.len();
        for token in letters.drain(..) {
            self.rung(shard, token);
        }
        if let Some(mail) = &mut self.pipes.mail {
            mail.scratch = letters;
        }
        handled
    }

    /// The bell with this token was rung.
    fn rung(&mut self, shard: &mut Shard, token: u64) {
        let index = token as u32;
        match kind(token) {
            Kind::Peer => self.peer_rung(shard, PeerKey(index), token),
            Kind::Listener => self.accept_arrivals(shard, ListenerKey(index), token),
            Kind::Share => self.share_rung(shard, SocketKey(index), token),
            Kind::Connector => {
                let key = ConnectorKey(index);
                let Some(connector) = self.connectors.get(key) else { return };
                match &connector.stage {
                    Stage::Unbound(waited) if *waited == token => self.try_connect(shard, key),
                    Stage::Offered(offer) if offer.here.token() == token => {
                        self.offer_answered(shard, key);
                    }
                    Stage::Up(peer) => self.peer_rung(shard, *peer, token),
                    _ => {}
                }
            }
        }
    }

    /// A link has something to take, has room again, or has ended. While no thread sleeps, the bell of a link that
    /// brings messages is left unanswered: the other end then does not ring for each message, and this end polls.
    fn peer_rung(&mut self, shard: &mut Shard, key: PeerKey, token: u64) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let Some(link) = peer.link.as_mut().filter(|link| link.token() == token) else { return };
        let takes_messages = self.sockets[peer.socket].takes_messages();
        let polls = takes_messages && !link.is_local && !shard.is_parked();
        if polls && (link.is_polled || self.pipes.unanswered.len() < POLLED_MAX) {
            if !std::mem::replace(&mut link.is_polled, true) {
                self.pipes.unanswered.push(key);
            }
        } else {
            link.is_polled = false;
            link.answer();
        }
        self.look_at_link(shard, key);
    }

    fn look_at_link(&mut self, shard: &mut Shard, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        let Some(link) = peer.link.as_mut() else { return };
        let has_parcel = link.has_parcel();
        let is_closed = link.is_closed();
        let state = &mut self.sockets[peer.socket];
        let takes_messages = state.takes_messages();
        let is_new = has_parcel && takes_messages && state.receiving.activate(peer.slot);
        let has_room = super::send::regain_credit(state, peer);
        if is_new || has_room || is_closed {
            self.waiting.touch(state);
        }
        let (socket, waits) = (peer.socket, !state.pending.is_empty());
        // Commands are for the hub, not for the user. If the type does not receive, no call of the user takes them.
        if has_parcel && !takes_messages {
            self.refill(shard, key);
            self.touch(socket);
        }
        if is_closed {
            self.disconnect(shard, key, DisconnectReason::PeerClosed);
        } else if waits {
            self.drain_pending(shard, socket);
        }
    }

    /// Rings the other end of a peer's link. An end in the same hub looks at once.
    #[inline]
    pub(crate) fn ring(&mut self, shard: &mut Shard, key: PeerKey) {
        let Some(link) = &self.peers[key].link else { return };
        if link.is_local {
            let token = link.their_token();
            self.rung(shard, token);
        } else {
            link.ring();
        }
    }

    /// Takes messages and commands out of a link, as far as there is room.
    pub(crate) fn refill_link(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        let state = &mut self.sockets[peer.socket];
        let Some(mut link) = peer.link.take() else { return };
        self.pipes.refills += 1;
        let clock = shard.clock();
        let (inbound, mut delivery) = peer.receiving(key, state, &mut shard.arena, clock);
        let before = inbound.messages();
        let refilled = inbound.handle_parcels(&mut link, &mut delivery);
        let taken = inbound.messages() - before;
        state.lag.note(taken);
        link.popped();
        let is_closed = link.is_closed();
        peer.link = Some(link);
        match refilled {
            Err(reason) => self.disconnect(shard, key, reason),
            Ok(()) if is_closed => self.disconnect(shard, key, DisconnectReason::PeerClosed),
            Ok(()) => {}
        }
    }

    pub(crate) fn bind_inproc(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        name: &Arc<str>,
        endpoint: Arc<str>,
    ) -> Result<ListenerKey, Error> {
        self.pipes.expects_links = true;
        let introduction = self.introduce(socket);
        let key = self.listeners.vacant_key();
        let token = token(Kind::Listener, self.next_serial(), key.0);
        let postbox = self.mail(shard).postbox.clone();
        let bound = self.pipes.inproc.bind(name, introduction, postbox, token);
        let bound = bound.ok_or_else(|| Error::AddressInUse(endpoint.to_string()))?;
        let kind = ListenerKind::Inproc { name: name.clone(), bound, token };
        Ok(self.add_listener(Listener { kind, socket, endpoint }))
    }

    fn accept_arrivals(&mut self, shard: &mut Shard, key: ListenerKey, token: u64) {
        let Some(Listener { kind, socket, endpoint }) = self.listeners.get(key) else {
            return;
        };
        let ListenerKind::Inproc { bound, token: ours, .. } = kind else { return };
        if *ours != token {
            return;
        }
        let (bound, socket, endpoint) = (bound.clone(), *socket, endpoint.clone());
        for arrival in bound.take_arrivals() {
            let Arrival { introduction, queues, notice, acceptance } = arrival;
            let key = self.peers.vacant_key();
            let serial = self.next_serial();
            let here = self::token(Kind::Peer, serial, key.0);
            let postbox = self.mail(shard).postbox.clone();
            let here = Arc::new(Notice::new(postbox, here));
            let room = bound.introduction.room_towards(&introduction);
            let is_local = self.is_ours(&notice);
            let link = Link::new(
                queues,
                &self.pipes.resting,
                here.clone(),
                notice.clone(),
                room,
                is_local,
            );
            // From here on the other end knows the bell to ring. Its tokens wait in the mailbox until this peer exists;
            // an end in the same hub is rung by the peer itself.
            let _ = acceptance.set(here);
            fence(Ordering::SeqCst);
            notice.ring();
            self.start_link(shard, socket, Opened::Accepted, endpoint.clone(), link, &introduction);
        }
    }

    fn is_ours(&self, notice: &Notice) -> bool {
        self.pipes.mail.as_ref().is_some_and(|mail| notice.posts_to(&mail.mailbox))
    }

    /// Offers a link to the socket that is bound to the name, or waits until a socket binds the name.
    pub(crate) fn connect_inproc(&mut self, shard: &mut Shard, key: ConnectorKey, name: &Arc<str>) {
        self.pipes.expects_links = true;
        let token = token(Kind::Connector, self.next_serial(), key.0);
        let postbox = self.mail(shard).postbox.clone();
        let socket = self.connectors[key].socket;
        let Some(bound) = self.pipes.inproc.find(name, &postbox, token) else {
            self.connectors[key].stage = Stage::Unbound(token);
            return;
        };
        let introduction = self.introduce(socket);
        let (ours, theirs) = (introduction.socket_type, bound.introduction.socket_type);
        if !ours.is_compatible_with(theirs) {
            let state = &mut self.sockets[socket];
            state.stats.handshakes_failed += 1;
            state.stats.violations += 1;
            let why = HandshakeFault::Violation(Violation::SocketTypeIncompatible { ours, theirs });
            let endpoint = self.connectors[key].endpoint.clone();
            state.emit(&mut self.waiting, &endpoint, EventKind::HandshakeFailed { why });
            return self.retry(shard, key);
        }
        let (mine, queues) = Queues::pair();
        let here = Arc::new(Notice::new(postbox, token));
        let acceptance: Acceptance = Arc::new(OnceLock::new());
        let offer = Offer {
            queues: Some(mine),
            here: here.clone(),
            acceptance: acceptance.clone(),
            bound: bound.clone(),
        };
        self.connectors[key].stage = Stage::Offered(Box::new(offer));
        bound.offer(Arrival { introduction, queues, notice: here, acceptance });
    }

    fn offer_answered(&mut self, shard: &mut Shard, key: ConnectorKey) {
        let Connector { stage, socket, endpoint, .. } = &mut self.connectors[key];
        let Stage::Offered(offer) = stage else { return };
        offer.here.answer();
        let Some(there) = offer.acceptance.get().cloned() else {
            // The offer was not accepted: the name is not bound any more.
            return self.retry(shard, key);
        };
        let Some(queues) = offer.queues.take() else { return };
        let (here, bound) = (offer.here.clone(), offer.bound.clone());
        let (socket, endpoint) = (*socket, endpoint.clone());
        let room = self.introduce(socket).room_towards(&bound.introduction);
        let is_local = self.is_ours(&there);
        let link = Link::new(queues, &self.pipes.resting, here, there, room, is_local);
        let peer = &bound.introduction;
        self.start_link(shard, socket, Opened::Connected(key), endpoint, link, peer);
    }

    fn start_link(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        opened: Opened,
        endpoint: Arc<str>,
        link: Link,
        there: &Introduction,
    ) {
        let state = &mut self.sockets[socket];
        state.has_links = true;
        self.pipes.links += 1;
        // Links are numbered from the top down, connections from the other end.
        let connection = u64::MAX - self.pipes.links;
        let token = link.token();
        let mut peer =
            Peer::over_link(socket, opened.connector(), endpoint, link, connection, &state.options);
        peer.stats.address = "inproc".into();
        state.emit_of(&mut self.waiting, &peer.stats, opened.event(&peer.stats.address));
        let key = self.add_peer(peer);
        self.established(shard, key, PeerInfo::of_link(there.socket_type, &there.routing_id));
        // The other end may have used the link before this end knew of it.
        self.peer_rung(shard, key, token);
    }

    /// Ends a peer's link; [`Hub::handle_mail`] closes the peer.
    pub(crate) fn end_link(&mut self, key: PeerKey) {
        self.peers[key].link = None;
        self.pipes.ended.push(key);
    }

    /// A connecting end stops waiting for its name to be bound.
    pub(crate) fn withdraw(&mut self, key: ConnectorKey) {
        let connector = &self.connectors[key];
        if let (Stage::Unbound(token), Some(mail)) = (&connector.stage, &self.pipes.mail)
            && let Some(name) = connector.target.inproc_name()
        {
            self.pipes.inproc.forget(name, *token, |postbox| postbox.leads_to(&mail.mailbox));
        }
    }
}

impl Peer {
    fn over_link(
        socket: SocketKey,
        connector: Option<ConnectorKey>,
        endpoint: Arc<str>,
        link: Link,
        connection: u64,
        options: &Options,
    ) -> Self {
        let mut peer = Self::new(socket, connector, Phase::Ready, connection, endpoint, options);
        peer.link = Some(Box::new(link));
        peer.heartbeats = false;
        peer
    }
}

impl PeerInfo {
    fn of_link(socket_type: SocketType, routing_id: &[u8]) -> Self {
        Self { socket_type, routing_id: routing_id.to_vec(), properties: Vec::new(), minor: 1 }
    }
}

/// Frees the hub's names, which rings the ends whose offers are not accepted yet, and stops waiting for other names.
impl Drop for Hub {
    fn drop(&mut self) {
        for listener in self.listeners.values() {
            if let ListenerKind::Inproc { name, .. } = &listener.kind {
                self.pipes.inproc.unbind(name);
            }
        }
        for key in self.connectors.keys() {
            self.withdraw(key);
        }
    }
}
