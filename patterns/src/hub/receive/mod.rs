//! What a socket does with frames that arrive, and how the user takes messages.

pub(crate) mod into;
pub(crate) mod stream;

use zring_engine::{ArenaPool, Clock, Shard};

use super::{
    Hub, PeerKey, SocketKey,
    flush::outbox::Outbox,
    inbound::{Inbound, sink::Sink},
    peer::Peer,
    socket::SocketState,
};
use crate::{
    error::{Error, Refusal},
    frame::Frame,
    message::Message,
    monitor::{DisconnectReason, PeerStats},
    pattern::{Arrived, Dropped, Subscription, Takes, Verdict},
    route::PipeId,
    wire::{Command, Heartbeat, encode_pong},
};

/// Gives the decoded frames of one peer to the room of its socket.
pub(crate) struct Delivery<'a> {
    slot: PipeId,
    socket: &'a mut SocketState,
    arena: &'a mut ArenaPool,
    outbox: &'a mut Outbox,
    stats: &'a mut PeerStats,
    heartbeat: &'a mut Heartbeat,
    clock: Clock,
    /// Every single frame is a message for the user.
    takes_all: bool,
    /// A PING was answered: the outbox is to be flushed and the peer's TTL watched.
    pub(crate) answered: bool,
}

impl Peer {
    /// Splits a peer into its inbound half and the sink of its frames.
    pub(crate) fn receiving<'a>(
        &'a mut self,
        socket: &'a mut SocketState,
        arena: &'a mut ArenaPool,
        clock: Clock,
    ) -> (&'a mut Inbound, Delivery<'a>) {
        let Self { inbound, outbox, stats, heartbeat, slot, .. } = self;
        let takes_all = socket.takes == Takes::Freely;
        let (slot, answered) = (*slot, false);
        let delivery =
            Delivery { slot, socket, arena, outbox, stats, heartbeat, clock, takes_all, answered };
        (inbound, delivery)
    }
}

impl Delivery<'_> {
    #[inline]
    fn count_in(&mut self, bytes: usize) {
        self.stats.messages_in += 1;
        self.stats.bytes_in += bytes as u64;
    }

    /// Counts a message that the room drops.
    fn count_dropped(&mut self, why: Dropped) {
        self.stats.messages_dropped += 1;
        self.stats.messages_malformed += u64::from(why == Dropped::Malformed);
    }

    /// Decides what becomes of a message, by the facts or by the room.
    #[inline]
    fn judge(&mut self, message: Arrived<'_>) -> Verdict {
        match self.socket.takes {
            Takes::Freely => Verdict::Deliver { hidden: 0, kept: 0 },
            Takes::Matching | Takes::Decides | Takes::Never => {
                let verdict = self.socket.room.arrive(self.slot, message, &self.socket.options);
                self.note_subscriptions();
                verdict
            }
        }
    }

    #[inline(never)]
    fn judge_single(&mut self, body: &[u8]) -> Result<bool, DisconnectReason> {
        if self.socket.takes_messages() {
            self.count_in(body.len());
        }
        match self.judge(Arrived::Body(body)) {
            Verdict::Deliver { .. } => return Ok(true),
            Verdict::Done => {}
            Verdict::Drop(why) => self.count_dropped(why),
            Verdict::End(reason) => return Err(reason),
        }
        Ok(false)
    }

    fn subscription(&mut self, command: Subscription<'_>) -> Result<(), DisconnectReason> {
        let verdict = self.socket.room.command(self.slot, command, &self.socket.options);
        self.note_subscriptions();
        match verdict {
            Verdict::End(reason) => Err(reason),
            _ => Ok(()),
        }
    }

    /// Only publishers' peers hold subscriptions.
    fn note_subscriptions(&mut self) {
        if !self.socket.takes_messages() {
            self.stats.subscriptions = self.socket.room.subscriptions(self.slot) as u64;
        }
    }
}

impl Sink for Delivery<'_> {
    fn command(&mut self, body: &[u8]) -> Result<(), DisconnectReason> {
        match Command::parse(body)? {
            Command::Ping { ttl_ds, context } => {
                self.heartbeat.handle_ping(ttl_ds, self.clock.now_ns());
                let mut pong = Vec::with_capacity(32);
                encode_pong(&mut pong, context);
                self.outbox.append_command(self.arena, &pong);
                self.answered = true;
                Ok(())
            }
            Command::Subscribe(prefix) => self.subscription(Subscription::Subscribe(prefix)),
            Command::Cancel(prefix) => self.subscription(Subscription::Cancel(prefix)),
            // A PONG has done its work by arriving. Unknown commands are ignored: a later ZMTP may add some.
            _ => Ok(()),
        }
    }

    #[inline(always)]
    fn single(&mut self, body: &[u8]) -> Result<bool, DisconnectReason> {
        if self.takes_all {
            self.count_in(body.len());
            return Ok(true);
        }
        self.judge_single(body)
    }

    fn streamed(&mut self, bytes: u64) {
        self.stats.messages_in += 1;
        self.stats.bytes_in += bytes;
    }

    fn placed(&mut self, bytes: usize) {
        self.stats.bytes_in += bytes as u64;
    }

    fn message(&mut self, frames: &mut Vec<Frame>) -> Result<Option<Message>, DisconnectReason> {
        if self.socket.takes_messages() {
            self.count_in(frames.iter().map(Frame::len).sum());
        }
        match self.judge(Arrived::Frames(frames)) {
            Verdict::Deliver { hidden, kept } => {
                let message = Message::from_frames(frames.drain(hidden..));
                Ok(message.map(|mut message| {
                    message.add_envelope(frames.drain(..kept));
                    message
                }))
            }
            Verdict::Done => Ok(None),
            Verdict::Drop(why) => {
                self.count_dropped(why);
                Ok(None)
            }
            Verdict::End(reason) => Err(reason),
        }
    }
}

impl SocketState {
    /// Whether the socket's state allows to receive at all.
    pub(crate) fn check_receive(&self) -> Result<(), Error> {
        self.room.can_receive().map_err(|misuse| self.misuse(misuse))
    }
}

impl Hub {
    /// Takes the next message if nothing else has to be done for it.
    #[inline(always)]
    pub(crate) fn take_at_hand(&mut self, shard: &mut Shard, socket: SocketKey) -> Option<Message> {
        let state = self.sockets.get_mut(socket).filter(|state| state.takes_plainly)?;
        let key = state.receiving.current_tag().map(PeerKey)?;
        let Peer { inbound, stats, .. } = self.peers.get_mut(key)?;
        let message = match (inbound.pop(), state.takes) {
            (Some(message), _) => message,
            (None, Takes::Freely) => inbound.take_plain(&shard.memory().0, stats, |_| true)?,
            (None, _) => {
                let room = &state.room;
                inbound.take_plain(&shard.memory().0, stats, |topic| room.filter(topic))?
            }
        };
        state.receiving.advance();
        Some(message)
    }

    /// Takes the next message where [`Hub::take_at_hand`] had none. If the caller `waits` anyway, it may be told to
    /// spin briefly first.
    pub(crate) fn try_recv(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        waits: bool,
    ) -> Result<Message, Refusal> {
        if waits && let pauses @ 1.. = self.lag(socket) {
            return Err(Refusal::Rest(pauses));
        }
        self.try_recv_slowly(shard, socket)
    }

    /// How long to pause before the next look, if only one peer has messages to take.
    #[inline]
    fn lag(&self, socket: SocketKey) -> u32 {
        let state = &self.sockets[socket];
        if state.receiving.active_len() == 1 { state.lag.pauses() } else { 0 }
    }

    #[inline(never)]
    fn try_recv_slowly(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
    ) -> Result<Message, Refusal> {
        let state = &mut self.sockets[socket];
        if let Some(rest) = state.take_rest() {
            return Ok(rest);
        }
        state.check_receive()?;
        self.release_held(shard, socket);
        match self.find_readable(shard, socket) {
            Some(key) => Ok(self.take_message(socket, key)),
            None => Err(Refusal::WouldBlock),
        }
    }

    /// Finds a peer that has a whole message; polls the links if there is none.
    pub(crate) fn find_readable(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
    ) -> Option<PeerKey> {
        self.next_readable(shard, socket).or_else(|| {
            self.poll_links(shard);
            self.next_readable(shard, socket)
        })
    }

    /// Takes a message of a peer that has one.
    pub(crate) fn take_message(&mut self, socket: SocketKey, key: PeerKey) -> Message {
        self.sockets[socket].receiving.advance();
        let message = self.peers[key].inbound.pop().expect("readable");
        self.accept(socket, key, message)
    }

    /// The user gets a message: updates the socket's state.
    pub(crate) fn accept(
        &mut self,
        socket: SocketKey,
        key: PeerKey,
        mut message: Message,
    ) -> Message {
        let state = &mut self.sockets[socket];
        if state.facts.has_state {
            let peer = &self.peers[key];
            state.room.take(peer.is_ready().then_some(peer.slot), message.take_envelope());
            // Other calls may be possible now.
            self.waiting.touch(state);
        }
        message
    }

    /// Whether [`Hub::try_recv`] would give a message now.
    pub(crate) fn is_readable(&mut self, shard: &mut Shard, socket: SocketKey) -> bool {
        if self.has_more(socket) {
            return true;
        }
        if self.sockets[socket].check_receive().is_err() {
            return false;
        }
        let is_there = self.next_readable(shard, socket).is_some();
        // A caller that waits here waits for a whole message, so held bodies are received.
        is_there || self.release_held(shard, socket) && self.next_readable(shard, socket).is_some()
    }

    /// The first peer in turn that has a whole message; decodes as much as is needed to know.
    #[inline]
    fn next_readable(&mut self, shard: &mut Shard, socket: SocketKey) -> Option<PeerKey> {
        loop {
            let key = self.sockets[socket].receiving.current_tag().map(PeerKey)?;
            if self.peers[key].inbound.has_message() {
                return Some(key);
            }
            self.refill(shard, key);
        }
    }

    /// Decodes more of the peer's bytes, starts a stalled receive again, and takes a peer without messages off the fair
    /// queue.
    pub(crate) fn refill(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        let socket = peer.socket;
        if peer.link.is_some() {
            self.refill_link(shard, key);
        } else if peer.inbound.has_undecoded() {
            let state = &mut self.sockets[socket];
            let clock = shard.clock();
            let (pool, arena) = shard.memory();
            let (inbound, mut delivery) = peer.receiving(state, arena, clock);
            let refilled = inbound.refill(pool, &mut delivery);
            let answered = delivery.answered;
            if let Err(reason) = refilled {
                peer.inbound.discard_undecoded(shard.memory().0);
                self.disconnect(shard, key, reason);
            } else if answered {
                self.answer(shard, key);
            }
        }
        let peer = &mut self.peers[key];
        if !peer.inbound.has_undecoded() && peer.inbound.is_stalled {
            self.arm(shard, key);
        }
        let peer = &mut self.peers[key];
        if !peer.inbound.has_message() && !peer.has_undecoded() {
            self.sockets[socket].receiving.deactivate(peer.slot);
            self.remove_if_done(shard, key);
        }
    }
}
