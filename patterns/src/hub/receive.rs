//! What a socket does with frames that arrive, and how the user takes messages.

use zring_engine::{ArenaPool, Clock, Shard};

use super::{
    Hub,
    inbound::{Inbound, Sink},
    outbox::Outbox,
    peer::Peer,
    socket::{Pattern, Request, Service, SocketCore},
};
use crate::{
    error::{Error, Refusal},
    frame::Frame,
    message::Message,
    monitor::{DisconnectReason, PeerStats},
    route::PipeId,
    wire::{Command, Heartbeat, encode_pong},
};

/// Longest subscription prefix a peer may ask for: matching and storing it is bounded by this.
pub(crate) const SUBSCRIPTION_BYTES_MAX: usize = 64 << 10;

/// Decoded frames of one peer meet its socket's pattern here.
pub(super) struct Delivery<'a> {
    key: u32,
    socket: &'a mut SocketCore,
    arena: &'a mut ArenaPool,
    outbox: &'a mut Outbox,
    stats: &'a mut PeerStats,
    heartbeat: &'a mut Heartbeat,
    clock: Clock,
    /// Every single frame is a message for the user (PULL).
    takes_all: bool,
    /// A PING was answered: the outbox is to be flushed and the peer's TTL watched.
    pub(super) answered: bool,
}

impl Peer {
    /// Splits a peer into its inbound half and what takes delivery.
    pub(super) fn receiving<'a>(
        &'a mut self,
        key: u32,
        socket: &'a mut SocketCore,
        arena: &'a mut ArenaPool,
        clock: Clock,
    ) -> (&'a mut Inbound, Delivery<'a>) {
        let Self { inbound, outbox, stats, heartbeat, .. } = self;
        let takes_all = matches!(socket.pattern, Pattern::Pull);
        let answered = false;
        let delivery =
            Delivery { key, socket, arena, outbox, stats, heartbeat, clock, takes_all, answered };
        (inbound, delivery)
    }
}

impl Delivery<'_> {
    fn malformed(&mut self) -> Option<Message> {
        self.stats.messages_malformed += 1;
        self.stats.messages_dropped += 1;
        None
    }

    #[inline]
    fn count_in(&mut self, bytes: usize) {
        self.stats.messages_in += 1;
        self.stats.bytes_in += bytes as u64;
    }

    /// SUB: whether a message is one that was asked for. The publisher may not have seen a cancellation yet,
    /// or filter nothing.
    #[inline]
    fn passes_filter(&mut self, topic: &[u8]) -> bool {
        let Pattern::Sub(subscriptions) = &self.socket.pattern else { return true };
        let passes = subscriptions.matches(topic);
        self.stats.messages_dropped += u64::from(!passes);
        passes
    }

    /// REP: what stands up to and including the first empty frame is the way back.
    fn request(&mut self, frames: &mut Vec<Frame>) -> Option<Message> {
        let Some(delimiter) = frames.iter().position(Frame::is_empty) else {
            return self.malformed();
        };
        let Some(mut message) = Message::from_frames(frames.drain(delimiter + 1..)) else {
            return self.malformed();
        };
        message.add_envelope(frames.drain(..delimiter));
        Some(message)
    }

    /// REQ: a reply counts only from the peer that has the request, behind its delimiter (and id).
    fn reply(&mut self, frames: &mut Vec<Frame>) -> Option<Message> {
        let correlate = self.socket.options.req_correlate;
        let Pattern::Req { request, id } = &mut self.socket.pattern else { return None };
        let skip = usize::from(correlate);
        let is_ours = !correlate || frames[0].bytes() == id.to_be_bytes();
        if frames.len() < skip + 2 || !frames[skip].is_empty() {
            return self.malformed();
        }
        if !is_ours || !matches!(request, Request::Waiting { peer: Some(key) } if *key == self.key)
        {
            self.stats.messages_dropped += 1;
            return None;
        }
        *request = Request::Replied;
        Message::from_frames(frames.drain(..).skip(skip + 1))
    }

    fn subscription(&mut self, command: Command<'_>) -> Result<(), DisconnectReason> {
        let pipe = PipeId(self.key);
        let options = &self.socket.options;
        let Pattern::Pub(trie) = &mut self.socket.pattern else { return Ok(()) };
        match command {
            Command::Subscribe(prefix) => {
                let usage = trie.usage(pipe);
                if usage.count as u64 >= u64::from(options.max_subscriptions_per_peer) {
                    let max = options.max_subscriptions_per_peer;
                    return Err(DisconnectReason::TooManySubscriptions { max });
                }
                let bytes_max = options.max_subscription_bytes_per_peer;
                if prefix.len() > SUBSCRIPTION_BYTES_MAX
                    || usage.bytes as u64 + prefix.len() as u64 > bytes_max
                {
                    return Err(DisconnectReason::TooManySubscriptionBytes { bytes_max });
                }
                trie.subscribe(prefix, pipe);
            }
            Command::Cancel(prefix) => {
                trie.cancel(prefix, pipe);
            }
            _ => {}
        }
        self.stats.subscriptions = trie.usage(pipe).count as u64;
        Ok(())
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
            command @ (Command::Subscribe(_) | Command::Cancel(_)) => self.subscription(command),
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
        let bytes = frames.iter().map(Frame::len).sum();
        let message = match &self.socket.pattern {
            Pattern::Pull => Message::from_frames(frames.drain(..)),
            Pattern::Sub(_) => self
                .passes_filter(frames[0].bytes())
                .then(|| Message::from_frames(frames.drain(..)))
                .flatten(),
            Pattern::Req { .. } => self.reply(frames),
            Pattern::Rep(_) => self.request(frames),
            Pattern::Push | Pattern::Pub(_) => return Ok(self.malformed()),
        };
        self.count_in(bytes);
        Ok(message)
    }
}

impl Delivery<'_> {
    fn judge_single(&mut self, body: &[u8]) -> Result<bool, DisconnectReason> {
        match &self.socket.pattern {
            Pattern::Sub(_) => {
                self.count_in(body.len());
                return Ok(self.passes_filter(body));
            }
            Pattern::Pub(_) => {
                if let Some(command) = Command::from_subscription_message(body) {
                    return self.subscription(command).map(|()| false);
                }
            }
            // A request or reply needs its delimiter, and nobody sends to a PUSH.
            Pattern::Pull | Pattern::Push | Pattern::Req { .. } | Pattern::Rep(_) => {}
        }
        self.malformed();
        Ok(false)
    }
}

impl Hub {
    /// Whether the socket's state allows to receive at all.
    pub(super) fn check_receive(&self, socket: u32) -> Result<(), Error> {
        let core = &self.sockets[socket as usize];
        let socket_type = core.socket_type;
        match &core.pattern {
            Pattern::Pull | Pattern::Sub(_) | Pattern::Rep(Service::Idle) => Ok(()),
            Pattern::Req { request: Request::Waiting { .. } | Request::Replied, .. } => Ok(()),
            Pattern::Req { .. } => {
                Err(Error::State { socket_type, turn: "send a request before receiving a reply" })
            }
            Pattern::Rep(_) => {
                Err(Error::State { socket_type, turn: "send the reply before the next request" })
            }
            Pattern::Push | Pattern::Pub(_) => {
                Err(Error::Unsupported { socket_type, operation: "receive" })
            }
        }
    }

    /// Takes the next message if nothing has to be done for it but that.
    #[inline(always)]
    pub(crate) fn take_at_hand(&mut self, shard: &mut Shard, socket: u32) -> Option<Message> {
        let core = self.sockets.get_mut(socket as usize).filter(|core| core.takes_freely)?;
        let PipeId(key) = core.receiving.current()?;
        let Peer { inbound, stats, .. } = self.peers.get_mut(key as usize)?;
        let message = match (inbound.pop(), &core.pattern) {
            (Some(message), _) => message,
            (None, Pattern::Pull) => inbound.take_plain(&shard.memory().0, stats, |_| true)?,
            (None, Pattern::Sub(subscriptions)) => {
                inbound
                    .take_plain(&shard.memory().0, stats, |topic| subscriptions.matches(topic))?
            }
            _ => return None,
        };
        core.receiving.advance();
        Some(message)
    }

    /// Takes the next message where [`Hub::take_at_hand`] had none. For who `waits` anyway it may take a rest first.
    pub(crate) fn try_recv(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        waits: bool,
    ) -> Result<Message, Refusal> {
        if waits && let pauses @ 1.. = self.lag(socket) {
            return Err(Refusal::Rest(pauses));
        }
        self.try_recv_slowly(shard, socket)
    }

    /// How long to stay away from the only peer that has something to take, before it is looked at again.
    #[inline]
    fn lag(&self, socket: u32) -> u32 {
        let core = &self.sockets[socket as usize];
        if core.receiving.active_len() == 1 { core.lag.pauses() } else { 0 }
    }

    #[inline(never)]
    fn try_recv_slowly(&mut self, shard: &mut Shard, socket: u32) -> Result<Message, Refusal> {
        if let Some(rest) = self.take_rest(socket) {
            return Ok(rest);
        }
        self.check_receive(socket)?;
        self.release_held(shard, socket);
        match self.find_readable(shard, socket) {
            Some(key) => Ok(self.take_message(socket, key)),
            None => Err(Refusal::WouldBlock),
        }
    }

    /// A peer who has a whole message.
    pub(super) fn find_readable(&mut self, shard: &mut Shard, socket: u32) -> Option<u32> {
        self.next_readable(shard, socket).or_else(|| {
            self.poll_pipes(shard);
            self.next_readable(shard, socket)
        })
    }

    /// Takes a message of a peer who has one.
    pub(super) fn take_message(&mut self, socket: u32, key: u32) -> Message {
        self.sockets[socket as usize].receiving.advance();
        let message = self.peers[key as usize].inbound.pop().expect("readable");
        self.accept(socket, key, message)
    }

    /// The user gets a message: what that means to the socket.
    pub(super) fn accept(&mut self, socket: u32, key: u32, mut message: Message) -> Message {
        let core = &mut self.sockets[socket as usize];
        let peer = &mut self.peers[key as usize];
        match &mut core.pattern {
            Pattern::Req { request, .. } => *request = Request::Idle,
            Pattern::Rep(service) => {
                let connection = peer.stats.connection;
                let envelope = message.take_envelope();
                *service = Service::Serving { connection, peer: key, envelope };
            }
            _ => {}
        }
        message
    }

    /// Whether [`Hub::try_recv`] would give a message now.
    pub(crate) fn is_readable(&mut self, shard: &mut Shard, socket: u32) -> bool {
        if self.has_more(socket) {
            return true;
        }
        if self.check_receive(socket).is_err() {
            return false;
        }
        let is_there = self.next_readable(shard, socket).is_some();
        // Whoever waits for a message waits for a whole one.
        is_there || self.release_held(shard, socket) && self.next_readable(shard, socket).is_some()
    }

    /// The peer whose turn it is and who has a whole message; decodes what is needed to know.
    #[inline]
    fn next_readable(&mut self, shard: &mut Shard, socket: u32) -> Option<u32> {
        loop {
            let PipeId(key) = self.sockets[socket as usize].receiving.current()?;
            if self.peers[key as usize].inbound.has_message() {
                return Some(key);
            }
            self.refill(shard, key);
        }
    }

    /// Decodes more of what the peer sent, takes up receiving again, or takes it off the fair queue.
    pub(super) fn refill(&mut self, shard: &mut Shard, key: u32) {
        let peer = &mut self.peers[key as usize];
        let socket = peer.socket as usize;
        if peer.pipe.is_some() {
            self.refill_pipe(shard, key);
        } else if peer.inbound.has_undecoded() {
            let core = &mut self.sockets[socket];
            let clock = shard.clock();
            let (pool, arena) = shard.memory();
            let (inbound, mut delivery) = peer.receiving(key, core, arena, clock);
            let refilled = inbound.refill(pool, &mut delivery);
            let answered = delivery.answered;
            if let Err(reason) = refilled {
                peer.inbound.discard_undecoded(shard.memory().0);
                self.disconnect(shard, key, reason);
            } else if answered {
                self.answer(shard, key);
            }
        }
        let peer = &mut self.peers[key as usize];
        if !peer.inbound.has_undecoded() && peer.inbound.is_stalled {
            self.arm(shard, key);
        }
        let peer = &mut self.peers[key as usize];
        if !peer.inbound.has_message() && !peer.has_undecoded() {
            self.sockets[socket].receiving.deactivate(PipeId(key));
            self.remove_if_done(shard, key);
        }
    }
}
