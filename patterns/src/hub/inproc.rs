//! Pipes between sockets of one process: how they come to be, are rung, and end.

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

use super::{
    Connector, Hub, Link, Listener, ListenerKind,
    peer::{Peer, Phase},
    pipe::{Pipe, Queues},
    spread::Place,
};
use crate::{
    error::Error,
    inproc::{Acceptance, Arrival, Bound, Introduction},
    monitor::{DisconnectReason, EventKind, HandshakeFault},
    options::Options,
    route::PipeId,
    socket_type::SocketType,
    wire::{PeerInfo, Violation},
};

/// What a bell's token is for. A token is `kind << 62 | serial << 32 | key`; one with an old serial is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Peer,
    Connector,
    Listener,
    /// One part of a socket that is spread over shards.
    Part,
}

const SERIAL_MASK: u32 = (1 << 30) - 1;

fn token(kind: Kind, serial: u32, key: u32) -> u64 {
    let kind = match kind {
        Kind::Peer => 0,
        Kind::Connector => 1,
        Kind::Listener => 2,
        Kind::Part => 3,
    };
    kind << 62 | u64::from(serial & SERIAL_MASK) << 32 | u64::from(key)
}

fn kind(token: u64) -> Kind {
    match token >> 62 {
        0 => Kind::Peer,
        1 => Kind::Connector,
        2 => Kind::Listener,
        _ => Kind::Part,
    }
}

/// So many pipes are looked at without being told; the others ring each time.
const POLLED_MAX: usize = 8;

/// Where other threads leave word for a hub; made when its first pipe is.
pub(super) struct Mail {
    mailbox: Mailbox<u64>,
    postbox: Postbox<u64>,
    /// Somebody was promised to be woken.
    is_armed: bool,
    scratch: Vec<u64>,
}

impl Mail {
    /// At the end of a turn: whoever waits all the same, because another thread took this turn, is to be woken by the
    /// next letter.
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

/// A connecting end that waits for the bound one to accept it.
pub(super) struct Offer {
    queues: Option<Queues>,
    here: Arc<Notice>,
    acceptance: Acceptance,
    bound: Arc<Bound>,
}

/// Whoever has accepted it in the meantime learns that nobody is there any more.
impl Drop for Offer {
    fn drop(&mut self) {
        if self.queues.take().is_some() {
            // Either it shows here that the offer was accepted, or there that the pipe has ended.
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
        self.mail.get_or_insert_with(|| {
            let (postbox, mailbox) = mailbox(shard.waker());
            // Somebody may be in the middle of a wait that began before there was a mailbox.
            let is_armed = shard.is_parked() && mailbox.arm();
            Mail { mailbox, postbox, is_armed, scratch: Vec::new() }
        })
    }

    fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial & SERIAL_MASK
    }

    fn introduce(&self, socket: u32) -> Introduction {
        let core = &self.sockets[socket as usize];
        Introduction::new(core.socket_type, &core.options)
    }

    /// Whether something waits for [`Hub::handle_mail`].
    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        !self.ended.is_empty() || self.mail.as_ref().is_some_and(|mail| !mail.mailbox.is_empty())
    }

    /// Whether messages may come from other threads.
    #[inline]
    pub(crate) fn has_pipes(&self) -> bool {
        self.expects_pipes
    }

    /// How the other parts reach a socket that is to be one of several.
    pub(crate) fn part_place(&mut self, shard: &Shard, socket: u32) -> Place {
        let token = token(Kind::Part, self.next_serial(), socket);
        Place::new(self.mail(shard).postbox.clone(), token)
    }

    /// Before a sleep: from now on mail wakes the shard. `false`: there is some already.
    pub(super) fn arm_mail(&mut self) -> bool {
        if !self.ended.is_empty() || !self.answer_all() {
            return false;
        }
        let Some(mail) = &mut self.mail else { return true };
        mail.is_armed = mail.mailbox.arm();
        mail.is_armed
    }

    /// Answers every bell that was left unanswered, so that it rings again. `false`: one of the pipes has something
    /// already, and its socket was told.
    fn answer_all(&mut self) -> bool {
        let mut is_quiet = true;
        while let Some(key) = self.unanswered.pop() {
            let Some(peer) = self.peers.get_mut(key as usize) else { continue };
            let Some(pipe) = peer.pipe.as_mut().filter(|pipe| pipe.is_polled) else { continue };
            pipe.is_polled = false;
            pipe.answer();
            let is_news = pipe.has_parcel() || pipe.is_closed();
            let core = &mut self.sockets[peer.socket as usize];
            if is_news && core.receiving.activate(PipeId(key)) {
                self.waiting.touch(core);
                is_quiet = false;
            }
        }
        is_quiet
    }

    /// Looks at the pipes whose bells were left unanswered.
    #[inline]
    pub(super) fn poll_pipes(&mut self, shard: &mut Shard) {
        if !self.unanswered.is_empty() {
            let keys = std::mem::take(&mut self.unanswered);
            for &key in &keys {
                self.look_at_pipe(shard, key);
            }
            let more = std::mem::replace(&mut self.unanswered, keys);
            self.unanswered.extend(more);
        }
    }

    /// Looks after everything that was rung, and after pipes that have ended.
    #[inline]
    pub(crate) fn handle_mail(&mut self, shard: &mut Shard) -> usize {
        let handled = if self.has_mail() { self.handle_letters(shard) } else { 0 };
        self.poll_pipes(shard);
        if shard.is_parked() {
            self.answer_all();
        }
        if let Some(mail) = &mut self.mail {
            mail.settle(shard);
        }
        handled
    }

    fn handle_letters(&mut self, shard: &mut Shard) -> usize {
        let mut handled = self.ended.len();
        for key in std::mem::take(&mut self.ended) {
            self.closed(shard, key);
        }
        let Some(mail) = &mut self.mail else { return handled };
        let mut letters = std::mem::take(&mut mail.scratch);
        mail.mailbox.drain(&mut letters);
        handled += letters.len();
        for token in letters.drain(..) {
            self.rung(shard, token);
        }
        if let Some(mail) = &mut self.mail {
            mail.scratch = letters;
        }
        handled
    }

    /// The bell with this token was rung.
    fn rung(&mut self, shard: &mut Shard, token: u64) {
        let key = token as u32;
        match kind(token) {
            Kind::Peer => self.peer_rung(shard, key, token),
            Kind::Listener => self.accept_arrivals(shard, key, token),
            Kind::Part => self.part_rung(shard, key, token),
            Kind::Connector => {
                let Some(connector) = self.connectors.get(key as usize) else { return };
                match &connector.link {
                    Link::Unbound(waited) if *waited == token => self.try_connect(shard, key),
                    Link::Offered(offer) if offer.here.token() == token => {
                        self.offer_answered(shard, key);
                    }
                    Link::Piped(peer) => self.peer_rung(shard, *peer, token),
                    _ => {}
                }
            }
        }
    }

    /// A pipe has something to take, room, or an end. While nobody sleeps, the bell of one that brings messages is left
    /// unanswered: the other end then does not ring for each of them, and this one looks by itself.
    fn peer_rung(&mut self, shard: &mut Shard, key: u32, token: u64) {
        let Some(peer) = self.peers.get_mut(key as usize) else { return };
        let Some(pipe) = peer.pipe.as_mut().filter(|pipe| pipe.token() == token) else { return };
        let takes_messages = self.sockets[peer.socket as usize].takes_messages();
        let polls = takes_messages && !pipe.is_local && !shard.is_parked();
        if polls && (pipe.is_polled || self.unanswered.len() < POLLED_MAX) {
            if !std::mem::replace(&mut pipe.is_polled, true) {
                self.unanswered.push(key);
            }
        } else {
            pipe.is_polled = false;
            pipe.answer();
        }
        self.look_at_pipe(shard, key);
    }

    fn look_at_pipe(&mut self, shard: &mut Shard, key: u32) {
        let Some(peer) = self.peers.get_mut(key as usize) else { return };
        let Some(pipe) = peer.pipe.as_mut() else { return };
        let has_parcel = pipe.has_parcel();
        let is_closed = pipe.is_closed();
        let core = &mut self.sockets[peer.socket as usize];
        let takes_messages = core.takes_messages();
        let is_new = has_parcel && takes_messages && core.receiving.activate(PipeId(key));
        let has_room = super::send::regain_credit(core, peer, key);
        if is_new || has_room || is_closed {
            self.waiting.touch(core);
        }
        let (socket, waits) = (peer.socket, !core.pending.is_empty());
        // Commands are for us, not for the user: PUB has nobody who would take them.
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

    /// Rings the other end of a peer's pipe; one in the same hub is looked after at once.
    #[inline]
    pub(super) fn ring(&mut self, shard: &mut Shard, key: u32) {
        let Some(pipe) = &self.peers[key as usize].pipe else { return };
        if pipe.is_local {
            let token = pipe.their_token();
            self.rung(shard, token);
        } else {
            pipe.ring();
        }
    }

    /// Takes what a pipe brought, as far as there is room.
    pub(super) fn refill_pipe(&mut self, shard: &mut Shard, key: u32) {
        let peer = &mut self.peers[key as usize];
        let core = &mut self.sockets[peer.socket as usize];
        let Some(mut pipe) = peer.pipe.take() else { return };
        self.refills += 1;
        let clock = shard.clock();
        let (inbound, mut delivery) = peer.receiving(key, core, &mut shard.arena, clock);
        let before = inbound.messages();
        let refilled = inbound.handle_parcels(&mut pipe, &mut delivery);
        let taken = inbound.messages() - before;
        core.lag.note(taken);
        pipe.popped();
        let is_closed = pipe.is_closed();
        peer.pipe = Some(pipe);
        match refilled {
            Err(reason) => self.disconnect(shard, key, reason),
            Ok(()) if is_closed => self.disconnect(shard, key, DisconnectReason::PeerClosed),
            Ok(()) => {}
        }
    }

    pub(super) fn bind_inproc(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        name: &Arc<str>,
        endpoint: Arc<str>,
    ) -> Result<u32, Error> {
        self.expects_pipes = true;
        let introduction = self.introduce(socket);
        let key = self.listeners.vacant_key() as u32;
        let token = token(Kind::Listener, self.next_serial(), key);
        let postbox = self.mail(shard).postbox.clone();
        let bound = self.inproc.bind(name, introduction, postbox, token);
        let bound = bound.ok_or_else(|| Error::AddressInUse(endpoint.to_string()))?;
        let kind = ListenerKind::Inproc { name: name.clone(), bound, token };
        self.listeners.insert(Listener { kind, socket, endpoint });
        Ok(key)
    }

    fn accept_arrivals(&mut self, shard: &mut Shard, key: u32, token: u64) {
        let Some(Listener { kind, socket, endpoint }) = self.listeners.get(key as usize) else {
            return;
        };
        let ListenerKind::Inproc { bound, token: ours, .. } = kind else { return };
        if *ours != token {
            return;
        }
        let (bound, socket, endpoint) = (bound.clone(), *socket, endpoint.clone());
        for arrival in bound.take_arrivals() {
            let kind = EventKind::Accepted { peer: "inproc".into() };
            let Arrival { introduction, queues, notice, acceptance } = arrival;
            let key = self.peers.vacant_key() as u32;
            let serial = self.next_serial();
            let here = self::token(Kind::Peer, serial, key);
            let postbox = self.mail(shard).postbox.clone();
            let here = Arc::new(Notice::new(postbox, here));
            let room = bound.introduction.room_towards(&introduction);
            let is_local = self.is_ours(&notice);
            let pipe =
                Pipe::new(queues, &self.resting, here.clone(), notice.clone(), room, is_local);
            // From here on the other end knows whom to ring. What it posts waits until this peer is there, and one in
            // the same hub is told by the peer itself.
            let _ = acceptance.set(here);
            fence(Ordering::SeqCst);
            notice.ring();
            self.start_pipe(shard, socket, None, endpoint.clone(), pipe, &introduction, kind);
        }
    }

    fn is_ours(&self, notice: &Notice) -> bool {
        self.mail.as_ref().is_some_and(|mail| notice.posts_to(&mail.mailbox))
    }

    /// Offers a pipe to whoever is bound to the name, or waits for somebody to be.
    pub(super) fn connect_inproc(&mut self, shard: &mut Shard, key: u32, name: &Arc<str>) {
        self.expects_pipes = true;
        let token = token(Kind::Connector, self.next_serial(), key);
        let postbox = self.mail(shard).postbox.clone();
        let socket = self.connectors[key as usize].socket;
        let Some(bound) = self.inproc.find(name, &postbox, token) else {
            self.connectors[key as usize].link = Link::Unbound(token);
            return;
        };
        let introduction = self.introduce(socket);
        let (ours, theirs) = (introduction.socket_type, bound.introduction.socket_type);
        if !ours.is_compatible_with(theirs) {
            let core = &mut self.sockets[socket as usize];
            core.stats.handshakes_failed += 1;
            core.stats.violations += 1;
            let why = HandshakeFault::Violation(Violation::SocketTypeIncompatible { ours, theirs });
            let endpoint = self.connectors[key as usize].endpoint.clone();
            core.emit(&endpoint, None, EventKind::HandshakeFailed { why });
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
        self.connectors[key as usize].link = Link::Offered(Box::new(offer));
        bound.offer(Arrival { introduction, queues, notice: here, acceptance });
    }

    fn offer_answered(&mut self, shard: &mut Shard, key: u32) {
        let Connector { link, socket, endpoint, .. } = &mut self.connectors[key as usize];
        let Link::Offered(offer) = link else { return };
        offer.here.answer();
        let Some(there) = offer.acceptance.get().cloned() else {
            // Nobody took it: the name is not bound any more.
            return self.retry(shard, key);
        };
        let Some(queues) = offer.queues.take() else { return };
        let (here, bound) = (offer.here.clone(), offer.bound.clone());
        let (socket, endpoint) = (*socket, endpoint.clone());
        let room = self.introduce(socket).room_towards(&bound.introduction);
        let is_local = self.is_ours(&there);
        let pipe = Pipe::new(queues, &self.resting, here, there, room, is_local);
        self.connectors[key as usize].link = Link::Piped(self.peers.vacant_key() as u32);
        let peer = &bound.introduction;
        self.start_pipe(shard, socket, Some(key), endpoint, pipe, peer, EventKind::Connected);
    }

    #[expect(clippy::too_many_arguments, reason = "what makes up a peer, in one place")]
    fn start_pipe(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        connector: Option<u32>,
        endpoint: Arc<str>,
        pipe: Pipe,
        there: &Introduction,
        kind: EventKind,
    ) {
        let core = &mut self.sockets[socket as usize];
        core.has_pipes = true;
        self.pipes += 1;
        // Connections count from the other end of the numbers.
        let connection = u64::MAX - self.pipes;
        core.emit(&endpoint, Some(connection), kind);
        let token = pipe.token();
        let peer = Peer::over_pipe(socket, connector, endpoint, pipe, connection, &core.options);
        let key = self.peers.insert(peer) as u32;
        self.established(shard, key, PeerInfo::of_pipe(there.socket_type, &there.routing_id));
        // It may have been used before we knew of it.
        self.peer_rung(shard, key, token);
    }

    /// A peer without a connection ends with this turn.
    pub(super) fn end_pipe(&mut self, key: u32) {
        self.peers[key as usize].pipe = None;
        self.ended.push(key);
    }

    /// A connecting end gives up.
    pub(super) fn withdraw(&mut self, key: u32) {
        let connector = &self.connectors[key as usize];
        if let (Link::Unbound(token), Some(mail)) = (&connector.link, &self.mail)
            && let Some(name) = connector.target.inproc_name()
        {
            self.inproc.forget(name, *token, |postbox| postbox.leads_to(&mail.mailbox));
        }
    }
}

impl Peer {
    fn over_pipe(
        socket: u32,
        connector: Option<u32>,
        endpoint: Arc<str>,
        pipe: Pipe,
        connection: u64,
        options: &Options,
    ) -> Self {
        let mut peer = Self::new(socket, connector, Phase::Ready, connection, endpoint, options);
        peer.pipe = Some(Box::new(pipe));
        peer.heartbeats = false;
        peer
    }
}

impl PeerInfo {
    fn of_pipe(socket_type: SocketType, routing_id: &[u8]) -> Self {
        Self { socket_type, routing_id: routing_id.to_vec(), properties: Vec::new(), minor: 1 }
    }
}

/// The name is free again, and whoever was connected to it learns that.
impl Drop for Hub {
    fn drop(&mut self) {
        for (_, listener) in &self.listeners {
            if let ListenerKind::Inproc { name, .. } = &listener.kind {
                self.inproc.unbind(name);
            }
        }
        for key in 0..self.connectors.capacity() {
            if self.connectors.contains(key) {
                self.withdraw(key as u32);
            }
        }
    }
}
