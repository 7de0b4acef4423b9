//! How a socket sends: choosing the pipe, queueing, flushing, and what waits without one.

use std::io;

use zring_engine::{Gather, Shard};

use super::{
    Hub, SUBSCRIPTION_BYTES_MAX, Timer,
    outbox::REFERENCE_BYTES_MIN,
    peer::{Peer, Phase},
    socket::{Pattern, Request, Service, SocketCore},
};
use crate::{
    error::{Error, Refusal},
    frame::Frame,
    message::{Message, Sendable},
    route::PipeId,
    socket_type::SocketType,
    wire::{encode_cancel, encode_subscribe},
};

/// Borrowed bodies up to this size are copied straight into the send arena.
const COPY_BYTES_MAX: usize = 32 << 10;

/// While a send is in flight, a burst turns the shard once per this many messages.
const TURN_MESSAGES: u32 = 64;

/// What goes out, borrowed where it is copied anyway.
enum Outgoing<'a> {
    Bytes(&'a [u8]),
    Message(&'a Message),
}

impl Outgoing<'_> {
    fn topic(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Message(message) => message.body(),
        }
    }

    #[inline]
    fn append_to(&self, peer: &mut Peer, shard: &mut Shard) {
        match self {
            Self::Bytes(bytes) => {
                peer.stats.bytes_out += bytes.len() as u64;
                peer.outbox.append(&mut shard.arena, false, bytes);
            }
            Self::Message(message) => {
                peer.stats.bytes_out += message.len() as u64;
                peer.outbox.append_message(&mut shard.arena, message);
            }
        }
    }
}

impl Hub {
    /// Sends one message. The payload is taken only on success.
    #[inline]
    pub(crate) fn try_send<P: Sendable>(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        if let Some(body) = payload.as_ref().and_then(Sendable::single_body) {
            // An owned body worth referencing is not copied, and neither is one that ends a longer message.
            let copies = body.len() < REFERENCE_BYTES_MIN
                || (P::IS_BORROWED && body.len() <= COPY_BYTES_MAX);
            if copies && self.sockets[socket as usize].partial.is_empty() {
                return self.route(shard, socket, &Outgoing::Bytes(body));
            }
        }
        self.try_send_message(shard, socket, payload)
    }

    #[inline(never)]
    fn try_send_message<P: Sendable>(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        // Whether it can go is asked first, so that a refused payload is left as it came.
        self.check_send(socket)?;
        let Some(payload) = payload.take() else { return Ok(()) };
        let mut message = payload.into_message();
        let partial = std::mem::take(&mut self.sockets[socket as usize].partial);
        if !partial.is_empty() {
            let frames = partial.into_iter().chain(message.into_frames());
            message = Message::from_frames(frames).expect("not empty");
        }
        self.route(shard, socket, &Outgoing::Message(&message))
    }

    /// Keeps a frame until the message it begins is sent.
    pub(crate) fn send_more(&mut self, socket: u32, frame: Frame) -> Result<(), Error> {
        let core = &mut self.sockets[socket as usize];
        if matches!(core.pattern, Pattern::Pull | Pattern::Sub(_)) {
            return Err(core.cannot_send());
        }
        core.partial.push(frame);
        Ok(())
    }

    /// Whether a message could be sent now; [`Error::WouldBlock`] if it would have to wait.
    pub(crate) fn check_send(&self, socket: u32) -> Result<(), Error> {
        let core = &self.sockets[socket as usize];
        let socket_type = core.socket_type;
        match &core.pattern {
            Pattern::Pub(_) | Pattern::Rep(Service::Serving { .. }) => Ok(()),
            Pattern::Push => self.check_room(core),
            Pattern::Req { request: Request::Idle, .. } => self.check_room(core),
            Pattern::Req { .. } if core.options.req_relaxed => self.check_room(core),
            Pattern::Req { .. } => {
                Err(Error::State { socket_type, turn: "receive the reply before the next request" })
            }
            Pattern::Rep(Service::Idle) => {
                Err(Error::State { socket_type, turn: "receive a request before sending a reply" })
            }
            Pattern::Pull | Pattern::Sub(_) => Err(core.cannot_send()),
        }
    }

    fn check_room(&self, core: &SocketCore) -> Result<(), Error> {
        let has_pipe = core.pending.is_empty() && core.sending.current().is_some();
        if has_pipe || core.pending.len() < core.pending_max() {
            return Ok(());
        }
        Err(Error::WouldBlock)
    }

    #[inline]
    fn route(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        outgoing: &Outgoing<'_>,
    ) -> Result<(), Refusal> {
        // One comparison for the pattern that is about nothing but throughput.
        if self.sockets[socket as usize].socket_type == SocketType::Push {
            return self.push(shard, socket, outgoing);
        }
        self.route_otherwise(shard, socket, outgoing)
    }

    #[inline(never)]
    fn route_otherwise(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        outgoing: &Outgoing<'_>,
    ) -> Result<(), Refusal> {
        match &self.sockets[socket as usize].pattern {
            Pattern::Push => self.push(shard, socket, outgoing),
            Pattern::Pub(_) => {
                self.publish(shard, socket, outgoing);
                Ok(())
            }
            Pattern::Req { .. } => self.request(shard, socket, outgoing),
            Pattern::Rep(_) => self.reply(shard, socket, outgoing),
            Pattern::Pull | Pattern::Sub(_) => {
                Err(self.sockets[socket as usize].cannot_send().into())
            }
        }
    }

    #[inline]
    fn push(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        outgoing: &Outgoing<'_>,
    ) -> Result<(), Refusal> {
        let core = &mut self.sockets[socket as usize];
        let Some(PipeId(key)) = core.sending.current().filter(|_| core.pending.is_empty()) else {
            return self.push_pending(socket, outgoing);
        };
        let peer = &mut self.peers[key as usize];
        outgoing.append_to(peer, shard);
        spend_credit(core, peer, key);
        self.queued(shard, key);
        Ok(())
    }

    /// Nobody has room: the message waits for whoever has it first, if anybody is expected.
    #[cold]
    fn push_pending(&mut self, socket: u32, outgoing: &Outgoing<'_>) -> Result<(), Refusal> {
        let core = &mut self.sockets[socket as usize];
        if core.pending.len() >= core.pending_max() {
            return Err(Refusal::WouldBlock);
        }
        core.pending.push_back(match outgoing {
            Outgoing::Bytes(bytes) => Message::from(*bytes),
            Outgoing::Message(message) => (*message).clone(),
        });
        Ok(())
    }

    fn publish(&mut self, shard: &mut Shard, socket: u32, outgoing: &Outgoing<'_>) {
        let core = &mut self.sockets[socket as usize];
        let Pattern::Pub(trie) = &mut core.pattern else { return };
        let mut matched = std::mem::take(&mut self.matched);
        trie.matches(outgoing.topic(), &mut |PipeId(key)| matched.push(key));
        for &key in &matched {
            let peer = &mut self.peers[key as usize];
            if peer.is_full(&core.options) {
                // A slow subscriber loses messages, never the publisher's time.
                peer.stats.stalls_out += u64::from(!std::mem::replace(&mut peer.is_stalled, true));
                peer.stats.messages_dropped += 1;
                continue;
            }
            outgoing.append_to(peer, shard);
        }
        let batching = self.batches > 0;
        for &key in &matched {
            self.queue_or_flush(shard, key, batching);
        }
        matched.clear();
        self.matched = matched;
    }

    fn request(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        outgoing: &Outgoing<'_>,
    ) -> Result<(), Refusal> {
        self.check_send(socket)?;
        let core = &mut self.sockets[socket as usize];
        let correlate = core.options.req_correlate;
        let Pattern::Req { request, id } = &mut core.pattern else {
            unreachable!("routed by type")
        };
        *id = id.wrapping_add(1);
        let id = id.to_be_bytes();
        // A request that still waits for a peer is given up for the newer one (relaxed).
        core.stats.messages_dropped += core.pending.len() as u64;
        core.pending.clear();
        let Some(PipeId(key)) = core.sending.current() else {
            *request = Request::Waiting { peer: None };
            let delimiter = std::iter::once(Frame::new());
            let head = correlate.then(|| Frame::from(&id)).into_iter().chain(delimiter);
            let body: Vec<Frame> = match outgoing {
                Outgoing::Bytes(bytes) => vec![Frame::from(*bytes)],
                Outgoing::Message(message) => message.frames().cloned().collect(),
            };
            core.pending.extend(Message::from_frames(head.chain(body)));
            return Ok(());
        };
        *request = Request::Waiting { peer: Some(key) };
        let peer = &mut self.peers[key as usize];
        if correlate {
            peer.outbox.append(&mut shard.arena, true, &id);
        }
        peer.outbox.append(&mut shard.arena, true, &[]);
        outgoing.append_to(peer, shard);
        spend_credit(core, peer, key);
        self.queued(shard, key);
        Ok(())
    }

    fn reply(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        outgoing: &Outgoing<'_>,
    ) -> Result<(), Refusal> {
        self.check_send(socket)?;
        let core = &mut self.sockets[socket as usize];
        let Pattern::Rep(service) = &mut core.pattern else { unreachable!("routed by type") };
        let Service::Serving { connection, peer: key, envelope } = std::mem::take(service) else {
            unreachable!("checked above")
        };
        let peer = self.peers.get_mut(key as usize);
        let Some(peer) = peer.filter(|it| it.stats.connection == connection && it.is_ready())
        else {
            // The requester is gone: nobody else wants this reply.
            core.stats.messages_dropped += 1;
            return Ok(());
        };
        if peer.is_full(&core.options) {
            peer.stats.stalls_out += 1;
            peer.stats.messages_dropped += 1;
            return Ok(());
        }
        for frame in &envelope {
            peer.outbox.append_frame(&mut shard.arena, true, frame);
        }
        peer.outbox.append(&mut shard.arena, true, &[]);
        outgoing.append_to(peer, shard);
        self.queued(shard, key);
        Ok(())
    }

    /// Gives waiting messages to whoever has room, in order. What the kernel takes at once makes room again
    /// without a completion, so this goes on until nothing waits or nobody has room.
    pub(super) fn drain_pending(&mut self, shard: &mut Shard, socket: u32) {
        while self.drain_round(shard, socket) {}
        // A lingering socket whose last message went out just now has no completion to wait for.
        self.finish_linger(shard, socket);
    }

    /// One round over the peers with room. Returns whether another one may get further.
    fn drain_round(&mut self, shard: &mut Shard, socket: u32) -> bool {
        let Some(core) = self.sockets.get_mut(socket as usize) else { return false };
        let batching = self.batches > 0;
        let mut touched = std::mem::take(&mut self.matched);
        while let Some(PipeId(key)) = core.sending.current().filter(|_| !core.pending.is_empty()) {
            let Some(message) = core.pending.pop_front() else { break };
            if let Pattern::Req { request: Request::Waiting { peer }, .. } = &mut core.pattern {
                *peer = Some(key);
            }
            let peer = &mut self.peers[key as usize];
            Outgoing::Message(&message).append_to(peer, shard);
            spend_credit(core, peer, key);
            if !touched.contains(&key) {
                touched.push(key);
            }
        }
        let has_moved = !touched.is_empty();
        for &key in &touched {
            self.queue_or_flush(shard, key, batching);
        }
        touched.clear();
        self.matched = touched;
        has_moved && !self.sockets[socket as usize].pending.is_empty()
    }

    /// Something was queued for the peer: it goes out at once, or with the batch.
    #[inline]
    fn queued(&mut self, shard: &mut Shard, key: u32) {
        let batching = self.batches > 0;
        let peer = &self.peers[key as usize];
        if batching && peer.is_dirty && !peer.outbox.has_full_block() {
            return;
        }
        self.queue_or_flush(shard, key, batching);
    }

    #[inline(never)]
    fn queue_or_flush(&mut self, shard: &mut Shard, key: u32, batching: bool) {
        let peer = &mut self.peers[key as usize];
        if batching && !peer.outbox.has_full_block() {
            if !peer.is_dirty {
                peer.is_dirty = true;
                self.dirty.push(key);
            }
        } else if peer.outbox.is_in_flight() {
            // In a burst, looking at the completion queue once in a while is enough.
            self.wants_turn |= !batching || peer.outbox.messages().is_multiple_of(TURN_MESSAGES);
        } else {
            peer.flush_now(shard);
            self.wants_flush |= peer.outbox.is_in_flight();
            regain_credit(&mut self.sockets[peer.socket as usize], peer, key);
        }
    }

    pub(crate) fn open_batch(&mut self) {
        self.batches += 1;
    }

    /// Ends a batch scope; the outermost submits everything.
    pub(crate) fn close_batch(&mut self, shard: &mut Shard) {
        self.batches -= 1;
        if self.batches == 0 {
            self.flush_dirty(shard);
        }
    }

    /// Submits what batch scopes have queued so far.
    pub(crate) fn flush_dirty(&mut self, shard: &mut Shard) {
        // One connection is served soonest by a call of its own, several by one submission for all.
        let is_alone = self.dirty.len() == 1;
        while let Some(key) = self.dirty.pop() {
            let peer = &mut self.peers[key as usize];
            peer.is_dirty = false;
            if is_alone {
                self.queue_or_flush(shard, key, false);
            } else {
                peer.flush(shard);
                self.wants_flush = true;
            }
        }
    }

    /// A send ended.
    pub(super) fn sent(
        &mut self,
        shard: &mut Shard,
        key: u32,
        gather: Gather,
        bytes: usize,
        error: Option<io::Error>,
    ) {
        let peer = &mut self.peers[key as usize];
        let socket = peer.socket;
        if bytes < gather.bytes() {
            peer.cut = Some((gather, bytes));
            if let Some(error) = error.filter(|_| !matches!(peer.phase, Phase::Closing(_))) {
                self.fail(shard, key, &error);
            }
            return;
        }
        let messages = peer.outbox.complete(&mut shard.arena, gather);
        peer.stats.messages_out += u64::from(messages);
        match peer.phase {
            Phase::Handshaking(_) => return peer.flush(shard),
            Phase::Ready => {}
            // The ERROR command of a refused handshake is out.
            Phase::Closing(_) if peer.hello.is_empty() => return self.close_conn(shard, key),
            Phase::Closing(_) => return peer.flush(shard),
            Phase::Gone => return,
        }
        let core = &mut self.sockets[socket as usize];
        regain_credit(core, peer, key);
        if !core.pending.is_empty() {
            self.drain_pending(shard, socket);
        }
        let peer = &mut self.peers[key as usize];
        peer.flush(shard);
        if self.sockets[socket as usize].lingering {
            self.finish_linger(shard, socket);
        }
    }

    /// SUB: tells every publisher.
    pub(crate) fn subscribe(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        prefix: &[u8],
    ) -> Result<(), Error> {
        if prefix.len() > SUBSCRIPTION_BYTES_MAX {
            let (bytes, max) = (prefix.len(), SUBSCRIPTION_BYTES_MAX);
            return Err(Error::SubscriptionTooLong { bytes, max });
        }
        let core = &mut self.sockets[socket as usize];
        let socket_type = core.socket_type;
        let Pattern::Sub(subscriptions) = &mut core.pattern else {
            return Err(Error::Unsupported { socket_type, operation: "subscribe" });
        };
        if subscriptions.subscribe(prefix) {
            self.tell_publishers(shard, socket, |out, minor| encode_subscribe(out, prefix, minor));
        }
        Ok(())
    }

    /// SUB: takes one subscription of this prefix back.
    pub(crate) fn unsubscribe(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        prefix: &[u8],
    ) -> Result<(), Error> {
        let core = &mut self.sockets[socket as usize];
        let socket_type = core.socket_type;
        let Pattern::Sub(subscriptions) = &mut core.pattern else {
            return Err(Error::Unsupported { socket_type, operation: "unsubscribe" });
        };
        if subscriptions.unsubscribe(prefix) == Some(true) {
            self.tell_publishers(shard, socket, |out, minor| encode_cancel(out, prefix, minor));
        }
        Ok(())
    }

    fn tell_publishers(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        encode: impl Fn(&mut Vec<u8>, u8),
    ) {
        let mut encoded = Vec::new();
        for (_, peer) in &mut self.peers {
            if peer.socket == socket && peer.is_ready() {
                encoded.clear();
                encode(&mut encoded, peer.minor);
                peer.outbox.append_command(&mut shard.arena, &encoded);
                peer.flush(shard);
            }
        }
        self.wants_flush = true;
    }

    /// How many subscribers a message with this topic would go to.
    pub(crate) fn subscribers(&mut self, socket: u32, topic: &[u8]) -> Result<usize, Error> {
        let core = &mut self.sockets[socket as usize];
        let socket_type = core.socket_type;
        match &mut core.pattern {
            Pattern::Pub(trie) => Ok(trie.count_for(topic)),
            _ => Err(Error::Unsupported { socket_type, operation: "have subscribers" }),
        }
    }
}

/// One message of the peer's credit is used up; the next peer has its turn.
#[inline]
fn spend_credit(core: &mut SocketCore, peer: &mut Peer, key: u32) {
    if peer.is_full(&core.options) {
        peer.stats.stalls_out += 1;
        core.sending.deactivate(PipeId(key));
    } else {
        core.sending.advance();
    }
}

/// Sends have completed: the peer may have room again.
#[inline]
fn regain_credit(core: &mut SocketCore, peer: &mut Peer, key: u32) {
    if !peer.is_full(&core.options) {
        peer.is_stalled = false;
        if core.sending.is_attached(PipeId(key)) {
            core.sending.activate(PipeId(key));
        }
    }
}

impl SocketCore {
    pub(crate) fn cannot_send(&self) -> Error {
        Error::Unsupported { socket_type: self.socket_type, operation: "send" }
    }
}

impl Hub {
    /// The user is done with the socket: listeners go at once, connections when what is queued for them
    /// is sent. Returns whether that is the case already.
    pub(crate) fn close_socket(&mut self, shard: &mut Shard, socket: u32) {
        let core = &mut self.sockets[socket as usize];
        core.lingering = true;
        core.partial.clear();
        let linger = core.options.linger;
        for key in std::mem::take(&mut core.listeners).into_values() {
            self.close_listener(shard, key);
        }
        if let Some(linger) = linger {
            let linger_ns = u64::try_from(linger.as_nanos()).unwrap_or(u64::MAX);
            if linger_ns == 0 {
                return self.linger_expired(shard, socket);
            }
            let at_ns = shard.now_ns().saturating_add(linger_ns);
            let timer = shard.arm_timer(at_ns, Timer::Linger(socket).token());
            self.sockets[socket as usize].linger_timer = Some(timer);
        }
        self.finish_linger(shard, socket);
    }

    /// Messages of the socket whose send has not completed.
    pub(crate) fn unsent(&self, socket: u32) -> u64 {
        let queued = self.peers_of(socket).map(|(_, peer)| u64::from(peer.outbox.messages()));
        let core = &self.sockets[socket as usize];
        let counts = !matches!(core.pattern, Pattern::Sub(_));
        queued.filter(|_| counts).sum::<u64>() + core.pending.len() as u64
    }

    fn peers_of(&self, socket: u32) -> impl Iterator<Item = (u32, &Peer)> {
        let peers = self.peers.iter().map(|(key, peer)| (key as u32, peer));
        peers.filter(move |(_, peer)| peer.socket == socket)
    }

    /// A lingering socket goes on to close its connections when nothing is left to send, and is gone when
    /// they are.
    pub(super) fn finish_linger(&mut self, shard: &mut Shard, socket: u32) {
        let Some(core) = self.sockets.get(socket as usize) else { return };
        if !core.lingering || self.unsent(socket) > 0 {
            return;
        }
        self.end_socket(shard, socket);
    }

    pub(super) fn linger_expired(&mut self, shard: &mut Shard, socket: u32) {
        let unsent = self.unsent(socket);
        let core = &mut self.sockets[socket as usize];
        core.linger_timer = None;
        core.unsent += unsent;
        core.stats.messages_dropped += core.pending.len() as u64;
        core.pending.clear();
        core.gave_up = true;
        self.end_socket(shard, socket);
    }

    fn end_socket(&mut self, shard: &mut Shard, socket: u32) {
        if let Some(timer) = self.sockets[socket as usize].linger_timer.take() {
            shard.cancel_timer(timer);
        }
        for key in self.sockets[socket as usize].connectors.clone() {
            if !self.connectors[key as usize].stopped {
                self.stop_connector(shard, key);
            }
        }
        let keys: Vec<u32> = self.peers_of(socket).map(|(key, _)| key).collect();
        for key in keys {
            self.end_locally(shard, key);
            self.remove_if_done(shard, key);
        }
    }

    /// Whether a closed socket has nothing left; then it is removed. Returns messages given up.
    pub(crate) fn reap_socket(&mut self, socket: u32) -> Option<u64> {
        let core = &self.sockets[socket as usize];
        if !core.lingering || !core.connectors.is_empty() || self.peers_of(socket).next().is_some()
        {
            return None;
        }
        Some(self.sockets.remove(socket as usize).unsent)
    }
}
