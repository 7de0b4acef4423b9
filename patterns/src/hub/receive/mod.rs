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
    error::Refusal,
    frame::Frame,
    message::Message,
    monitor::{DisconnectReason, PeerStats},
    pattern::{Arrived, Dropped, Subscription, Takes, Verdict},
    route::PipeId,
    wire::{Command, Heartbeat, encode_pong},
};

/// Decoded frames of one peer meet the room of its socket here.
pub(crate) struct Delivery<'a> {
    pipe: PipeId,
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
    /// Splits a peer into its inbound half and what takes delivery.
    pub(crate) fn receiving<'a>(
        &'a mut self,
        key: PeerKey,
        socket: &'a mut SocketState,
        arena: &'a mut ArenaPool,
        clock: Clock,
    ) -> (&'a mut Inbound, Delivery<'a>) {
        let Self { inbound, outbox, stats, heartbeat, .. } = self;
        let takes_all = socket.takes == Takes::Freely;
        let (pipe, answered) = (key.pipe(), false);
        let delivery =
            Delivery { pipe, socket, arena, outbox, stats, heartbeat, clock, takes_all, answered };
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

    /// Asks the room what becomes of a message.
    fn judge(&mut self, message: Arrived<'_>) -> Verdict {
        let verdict = self.socket.room.arrive(self.pipe, message, &self.socket.options);
        self.note_subscriptions();
        verdict
    }

    fn judge_single(&mut self, body: &[u8]) -> Result<bool, DisconnectReason> {
        if let Some(wanted) = self.socket.room.wanted() {
            let passes = wanted.matches(body);
            self.count_in(body.len());
            self.stats.messages_dropped += u64::from(!passes);
            return Ok(passes);
        }
        if self.socket.takes_messages() {
            self.count_in(body.len());
        }
        match self.judge(Arrived::Body(body)) {
            Verdict::Deliver { .. } => return Ok(true),
            Verdict::Done => {}
            Verdict::Drop(why) => self.count_dropped(why),
            Verdict::End(reason) => return Err(*reason),
        }
        Ok(false)
    }

    fn subscription(&mut self, command: Subscription<'_>) -> Result<(), DisconnectReason> {
        let verdict = self.socket.room.command(self.pipe, command, &self.socket.options);
        self.note_subscriptions();
        match verdict {
            Verdict::End(reason) => Err(*reason),
            _ => Ok(()),
        }
    }

    /// Only publishers' peers hold subscriptions.
    fn note_subscriptions(&mut self) {
        if !self.socket.takes_messages() {
            self.stats.subscriptions = self.socket.room.subscriptions(self.pipe) as u64;
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
            // PONG has done its work by arriving; a later ZMTP may add commands.
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
        if self.takes_all {
            return Ok(Message::from_frames(frames.drain(..)));
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
            Verdict::End(reason) => Err(*reason),
        }
    }
}

impl SocketState {
    /// Whether the socket's state allows to receive at all.
    #[inline]
    pub(crate) fn check_receive(&self) -> Result<(), Refusal> {
        match self.room.can_receive() {
            Ok(()) => Ok(()),
            Err(misuse) => Err(self.misuse(misuse).into()),
        }
    }
}

impl Hub {
    /// Takes the next message if nothing has to be done for it but that.
    #[inline(always)]
    pub(crate) fn take_at_hand(&mut self, shard: &mut Shard, socket: SocketKey) -> Option<Message> {
        let state = self.sockets.get_mut(socket).filter(|state| state.takes_plainly)?;
        let key = state.receiving.current_tag().map(PeerKey)?;
        let Peer { inbound, stats, .. } = self.peers.get_mut(key)?;
        let message = match (inbound.pop(), state.takes) {
            (Some(message), _) => message,
            (None, Takes::Freely) => inbound.take_plain(&shard.memory().0, stats, |_| true)?,
            (None, _) => {
                let wanted = state.room.wanted()?;
                inbound.take_plain(&shard.memory().0, stats, |topic| wanted.matches(topic))?
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

    /// How long to stay away from the only peer that has something to take, before it is looked at again.
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

    /// A peer with a whole message.
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

    /// The user gets a message: what that means to the socket.
    pub(crate) fn accept(
        &mut self,
        socket: SocketKey,
        key: PeerKey,
        mut message: Message,
    ) -> Message {
        let state = &mut self.sockets[socket];
        if state.facts.has_state {
            let peer = &self.peers[key];
            state.room.take(peer.is_ready().then_some(key.pipe()), message.take_envelope());
            // Another call is possible now than before.
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
        // A caller that waits for a message waits for a whole one.
        is_there || self.release_held(shard, socket) && self.next_readable(shard, socket).is_some()
    }

    /// The peer whose turn it is and that has a whole message; decodes as much as is needed to know.
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

    /// Decodes more of what the peer sent, takes up receiving again, or takes it off the fair queue.
    pub(crate) fn refill(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        let socket = peer.socket;
        if peer.link.is_some() {
            self.refill_link(shard, key);
        } else if peer.inbound.has_undecoded() {
            let state = &mut self.sockets[socket];
            let clock = shard.clock();
            let (pool, arena) = shard.memory();
            let (inbound, mut delivery) = peer.receiving(key, state, arena, clock);
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
