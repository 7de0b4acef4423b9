//! How a socket sends: the hub carries out the plan of the room.

pub(crate) mod content;
mod partial;

use zring_engine::Shard;

use self::content::{COPY_BYTES_MAX, Content, Loaded};
use super::{
    Hub, PeerKey, SocketKey,
    flush::{
        lane::Lane,
        outbox::{Bounds, REFERENCE_BYTES_MIN},
    },
    peer::Peer,
    socket::{Reserved, SocketState},
};
use crate::{
    error::{Error, Refusal},
    frame::{Frame, INLINE_BYTES_MAX},
    message::{Message, Sendable},
    pattern::{Head, Plan, SUBSCRIPTION_BYTES_MAX, Spread},
    wire::{FRAME_HEADER_BYTES_MAX, encode_header, short_header},
};

/// The empty frame in front of the body of a request or a reply.
const DELIMITER: [u8; 2] = short_header(true, 0);

impl Hub {
    /// Sends a short message of a type that sends by turn, in the fewest steps: the message joins others that wait in
    /// the same block for the end of a batch scope or a burst, or goes into a link. The block or the link must have
    /// room for another message behind it. Returns whether the message was sent; otherwise nothing was done.
    ///
    /// The outcome is that of [`Hub::send_by_turn`] and [`Hub::queued`].
    #[inline(always)]
    pub(crate) fn send_plain(&mut self, socket: SocketKey, body: &[u8]) -> bool {
        let Some(state) = self.sockets.get_mut(socket) else { return false };
        if !state.sends_plainly {
            return false;
        }
        let Some(key) = state.turn() else { return false };
        let Some(peer) = self.peers.get_mut(key) else { return false };
        let is_sent = match &mut peer.link {
            Some(link) => {
                let scope = (self.flushing.batches > 0).then_some(peer.is_dirty);
                let is_sent = link.send_plain(body, scope);
                // A message that is handed over counts as sent.
                peer.stats.messages_out += u64::from(is_sent);
                is_sent
            }
            None => {
                // A dirty peer is flushed when the batch scope ends.
                let below = Bounds::of(&state.options, self.flushing.burst.is_some());
                let room = peer.outbox.room(&below).filter(|_| peer.is_dirty);
                let Some(room) = room.filter(|room| peer.outbox.join_within(body, room)) else {
                    return false;
                };
                if self.flushing.burst.is_none() && state.sending.active_len() == 1 {
                    self.flushing.lane = Lane::open(socket, key, room);
                }
                true
            }
        };
        if is_sent {
            peer.stats.bytes_out += body.len() as u64;
            state.sending.advance();
        }
        is_sent
    }

    /// Sends one message. The payload is taken only on success.
    #[inline]
    pub(crate) fn try_send<P: Sendable>(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        if let Some(body) = payload.as_ref().and_then(Sendable::single_body) {
            // An owned body worth referencing is not copied, and neither is the last frame of a longer message.
            let state = &self.sockets[socket];
            let owned_max =
                if state.has_links { INLINE_BYTES_MAX } else { REFERENCE_BYTES_MIN - 1 };
            // One copy serves all subscribers. A single peer that takes the body at once needs no copy.
            let is_shared = state.facts.spread == Spread::Everywhere;
            let borrowed_max = if is_shared { COPY_BYTES_MAX } else { usize::MAX };
            let copies_max = if P::IS_BORROWED { borrowed_max } else { owned_max };
            if body.len() <= copies_max && state.partial.is_empty() {
                return self.route(shard, socket, &Content::Bytes(body));
            }
        }
        self.try_send_message(shard, socket, payload)
    }

    #[inline(never)]
    fn try_send_message<P: Sendable>(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        payload: &mut Option<P>,
    ) -> Result<(), Refusal> {
        // Check first whether the message can go, so that a refused payload is left untouched.
        let state = &self.sockets[socket];
        state.check_send()?;
        let partial = &state.partial.frames;
        let has_files = payload.as_ref().is_some_and(Sendable::has_files);
        let has_files = has_files || partial.iter().any(Frame::is_file);
        let loaded = match payload.as_ref().filter(|_| has_files) {
            Some(payload) => self.load_files(socket, payload).map(Some)?,
            None => None,
        };
        let Some(payload) = payload.take() else { return Ok(()) };
        let mut message = payload.into_message();
        let partial = std::mem::take(&mut self.sockets[socket].partial.frames);
        if !partial.is_empty() {
            message = message.behind(partial);
        }
        let content = match &loaded {
            Some(loaded) => Content::Files(&message, loaded),
            None => Content::Message(&message),
        };
        self.route(shard, socket, &content)
    }

    /// Reads the content of a message with files that has to be in memory, before anything is done with the message.
    #[cold]
    fn load_files<P: Sendable>(&mut self, socket: SocketKey, payload: &P) -> Result<Loaded, Error> {
        let state = &self.sockets[socket];
        let partial = state.partial.frames.iter().cloned();
        let frames: Vec<Frame> = partial.chain(payload.to_frames()).collect();
        let Some(first) = frames.first() else { return Ok(Loaded::default()) };
        let needs_topic = first.is_file() && state.facts.spread == Spread::Everywhere;
        let topic = needs_topic.then(|| load_topic(first)).transpose()?;
        if !self.goes_by_link(socket, topic.as_ref().unwrap_or(first).bytes()) {
            return Ok(Loaded { topic, message: None });
        }
        let frames: Result<Vec<Frame>, _> = frames.iter().map(Frame::read).collect();
        let message = Message::from_frames(frames.map_err(Error::FileRead)?);
        Ok(Loaded { topic, message })
    }

    /// Whether a message that is sent now may go to a peer within the process.
    fn goes_by_link(&mut self, socket: SocketKey, topic: &[u8]) -> bool {
        let state = &self.sockets[socket];
        let is_link = |key| self.peers.get(key).is_some_and(|peer: &Peer| peer.link.is_some());
        if !state.has_links {
            return false;
        }
        if state.facts.rotates {
            return self
                .reserved_peer(state.partial.reserved)
                .or_else(|| state.turn())
                .is_some_and(is_link);
        }
        if state.facts.spread != Spread::Everywhere {
            return state.peers.keys().any(is_link);
        }
        let mut matched = std::mem::take(&mut self.scratch.matched);
        let state = &mut self.sockets[socket];
        state.room.matches(topic, &mut matched);
        let has_link = matched.drain(..).filter_map(|slot| state.peers.get(slot)).any(is_link);
        self.scratch.matched = matched;
        has_link
    }

    #[inline]
    fn route(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        content: &Content<'_>,
    ) -> Result<(), Refusal> {
        // One comparison decides for types that send by turn, which are about nothing but throughput.
        if self.sockets[socket].sends_plainly {
            return self.send_by_turn(shard, socket, content);
        }
        self.carry_out(shard, socket, content)
    }

    /// Sends a message as it stands, for a type that sends by turn.
    #[inline]
    fn send_by_turn(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        content: &Content<'_>,
    ) -> Result<(), Refusal> {
        match self.sockets[socket].turn() {
            Some(key) => {
                self.hand_to(shard, key, content, None);
                Ok(())
            }
            None => self.send_pending(socket, content),
        }
    }

    /// No peer has room: the message waits for the first peer with room, if a peer is expected.
    #[cold]
    fn send_pending(&mut self, socket: SocketKey, content: &Content<'_>) -> Result<(), Refusal> {
        let state = &mut self.sockets[socket];
        if !state.may_wait() {
            return Err(Refusal::WouldBlock);
        }
        state.pending.push_back(content.to_message(None));
        Ok(())
    }

    /// Asks the room where a message goes, and sends it there.
    #[inline(never)]
    fn carry_out(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        content: &Content<'_>,
    ) -> Result<(), Refusal> {
        let state = &mut self.sockets[socket];
        state.check_send()?;
        let reserved = state.end_partial();
        match state.room.route(&state.options) {
            Plan::InTurn { head, supersedes } => {
                if supersedes {
                    self.supersede(socket);
                }
                self.send_in_turn(shard, socket, content, head, reserved);
            }
            Plan::To { peer, head } => match state.peers.get(peer) {
                Some(key) => self.send_to(shard, key, content, &head),
                None => state.stats.messages_dropped += 1,
            },
            Plan::Each => self.publish(shard, socket, content),
            Plan::Lost => state.stats.messages_dropped += 1,
        }
        let state = &mut self.sockets[socket];
        if state.facts.has_state {
            // Other calls may be possible now.
            self.waiting.touch(state);
        }
        Ok(())
    }

    /// Gives a message to the peer whose turn it is, or has it wait for one.
    fn send_in_turn(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        content: &Content<'_>,
        head: Head,
        reserved: Reserved,
    ) {
        if let Some(key) = self.reserved_peer(reserved) {
            let peer = &mut self.peers[key];
            peer.is_reserved = false;
            self.sockets[socket].room.given(peer.slot);
            return self.enqueue(shard, key, content, &head);
        }
        let state = &mut self.sockets[socket];
        match state.turn() {
            Some(key) => {
                state.room.given(self.peers[key].slot);
                self.hand_to(shard, key, content, Some(&head));
            }
            None => state.pending.push_back(content.to_message(Some(head))),
        }
    }

    /// A newer message takes the place of the one before. Drops the reply to the older message, which would pass for a
    /// reply to the newer one, and the older message if it still waits for a peer.
    fn supersede(&mut self, socket: SocketKey) {
        let state = &mut self.sockets[socket];
        for key in state.peers.keys() {
            let peer = &mut self.peers[key];
            while peer.inbound.pop().is_some() {
                peer.stats.messages_dropped += 1;
            }
        }
        state.stats.messages_dropped += state.pending.clear() as u64;
    }

    /// Gives a message to a peer that has room, and passes the turn to the next peer.
    #[inline]
    fn hand_to(
        &mut self,
        shard: &mut Shard,
        key: PeerKey,
        content: &Content<'_>,
        head: Option<&Head>,
    ) {
        let is_sent = self.send_unqueued(shard, key, content, head);
        let peer = &mut self.peers[key];
        if !is_sent {
            content.append_to(peer, shard, head);
        }
        spend_credit(&mut self.sockets[peer.socket], peer);
        if !is_sent {
            self.queued(shard, key);
        }
    }

    /// Sends a message to one peer and no other. A peer whose queue is full does not get it.
    fn send_to(&mut self, shard: &mut Shard, key: PeerKey, content: &Content<'_>, head: &Head) {
        let peer = &mut self.peers[key];
        let state = &mut self.sockets[peer.socket];
        if peer.is_full(&state.options) {
            peer.stats.stalls_out += 1;
            peer.stats.messages_dropped += 1;
        } else {
            self.enqueue(shard, key, content, head);
        }
    }

    /// Sends a message to a peer that was found to have room for it.
    fn enqueue(&mut self, shard: &mut Shard, key: PeerKey, content: &Content<'_>, head: &Head) {
        let is_sent = self.send_unqueued(shard, key, content, Some(head));
        let peer = &mut self.peers[key];
        let state = &mut self.sockets[peer.socket];
        if is_sent {
            regain_credit(state, peer);
            return;
        }
        content.append_to(peer, shard, Some(head));
        if peer.is_full(&state.options) {
            state.sending.deactivate(peer.slot);
        }
        self.queued(shard, key);
    }

    fn publish(&mut self, shard: &mut Shard, socket: SocketKey, content: &Content<'_>) {
        let state = &mut self.sockets[socket];
        let below = Bounds::of(&state.options, self.flushing.burst.is_some());
        let mut matched = std::mem::take(&mut self.scratch.matched);
        state.room.matches(content.topic(), &mut matched);
        let single = content.single_body();
        let SocketState { peers: roster, options, .. } = state;
        // For a subscriber whose open block the message joins, nothing else is to be done.
        matched.retain(|&slot| {
            let Some(key) = roster.get(slot) else { return false };
            let peer = &mut self.peers[key];
            if peer.is_dirty
                && peer.link.is_none()
                && let Some(body) = single
                && peer.outbox.join(body, &below)
            {
                peer.stats.bytes_out += body.len() as u64;
                return false;
            }
            if peer.is_full(options) {
                // A slow subscriber loses messages and never delays the publisher.
                peer.stats.stalls_out += u64::from(!std::mem::replace(&mut peer.is_stalled, true));
                peer.stats.messages_dropped += 1;
            } else {
                content.append_to(peer, shard, None);
            }
            true
        });
        if !matched.is_empty() {
            let batching = self.is_batching(shard);
            for &slot in &matched {
                if let Some(key) = self.sockets[socket].peers.get(slot) {
                    self.queue_or_flush(shard, key, batching);
                }
            }
            self.note_sent(shard, batching);
        }
        matched.clear();
        self.scratch.matched = matched;
    }

    /// Sends a large body from where it lies, even from the caller's memory, if nothing is queued in front of it and it
    /// does not have to wait for other messages. If the kernel takes all of it, nothing is left to do. Otherwise the
    /// rest is sent from the queue, as a copy if the memory is the caller's. Returns whether the body was sent in this
    /// way; otherwise nothing was done.
    #[inline]
    fn send_unqueued(
        &mut self,
        shard: &mut Shard,
        key: PeerKey,
        content: &Content<'_>,
        head: Option<&Head>,
    ) -> bool {
        let is_large = |body: &&[u8]| body.len() >= REFERENCE_BYTES_MIN;
        match content.single_body().filter(is_large) {
            Some(body) if head.is_none_or(Head::is_plain) => {
                self.send_body(shard, key, content, head, body)
            }
            _ => false,
        }
    }

    #[inline(never)]
    fn send_body(
        &mut self,
        shard: &mut Shard,
        key: PeerKey,
        content: &Content<'_>,
        plain_head: Option<&Head>,
        body: &[u8],
    ) -> bool {
        if !self.peers[key].may_send_unqueued() {
            return false;
        }
        let batching = self.is_batching(shard);
        if batching && !self.is_load(body.len()) {
            return false;
        }
        let mut header = [0; FRAME_HEADER_BYTES_MAX];
        let header_bytes = encode_header(&mut header, false, false, body.len() as u64);
        let mut head = [0; DELIMITER.len() + FRAME_HEADER_BYTES_MAX];
        let (delimiter, rest) = head.split_at_mut(DELIMITER.len());
        delimiter.copy_from_slice(&DELIMITER);
        rest.copy_from_slice(&header);
        let is_delimited = plain_head.is_some_and(|head| head.is_delimited);
        let start = if is_delimited { 0 } else { DELIMITER.len() };
        let head = &head[start..DELIMITER.len() + header_bytes];

        let peer = &mut self.peers[key];
        let sent = peer.send_unqueued(shard, head, body);
        if sent == head.len() + body.len() {
            peer.stats.bytes_out += body.len() as u64;
            peer.stats.messages_out += 1;
        } else {
            content.append_to(peer, shard, plain_head);
            peer.send_rest(shard, sent);
            self.flushing.wants_flush = true;
        }
        self.note_sent(shard, batching);
        true
    }

    /// The options have changed: a peer may have gained or lost room, and other calls may be possible.
    pub(crate) fn apply_options(&mut self, shard: &mut Shard, socket: SocketKey) {
        let state = &mut self.sockets[socket];
        for key in state.peers.to_keys() {
            let peer = &mut self.peers[key];
            if !regain_credit(state, peer) && peer.is_full(&state.options) {
                state.sending.deactivate(peer.slot);
            }
        }
        self.waiting.touch(state);
        if !state.pending.is_empty() {
            self.drain_pending(shard, socket);
        }
    }

    /// Gives waiting messages to the peers that have room, in order. A message that the kernel takes at once makes room
    /// again without a completion, so this goes on until no message waits or no peer has room.
    pub(crate) fn drain_pending(&mut self, shard: &mut Shard, socket: SocketKey) {
        while self.drain_round(shard, socket) {}
        // A lingering socket whose last message went out just now has no completion to wait for.
        self.finish_linger(shard, socket);
    }

    /// One round over the peers with room. Returns whether another round may send more.
    fn drain_round(&mut self, shard: &mut Shard, socket: SocketKey) -> bool {
        let batching = self.flushing.batches > 0;
        let Some(state) = self.sockets.get_mut(socket) else { return false };
        let mut touched = std::mem::take(&mut self.scratch.touched);
        while !state.pending.is_empty()
            && let Some(key) = state.sending.current_tag().map(PeerKey)
        {
            let Some(message) = state.pending.pop_front() else { break };
            let peer = &mut self.peers[key];
            state.room.given(peer.slot);
            let needs_bytes = peer.link.is_some() && message.has_files();
            let Ok(message) = (if needs_bytes { message.read() } else { Ok(message) }) else {
                state.drop_unreadable();
                self.waiting.touch(state);
                continue;
            };
            Content::Message(&message).append_to(peer, shard, None);
            spend_credit(state, peer);
            if touched.last() != Some(&key) {
                touched.push(key);
            }
        }
        let has_moved = !touched.is_empty();
        touched.sort_unstable();
        touched.dedup();
        for &key in &touched {
            self.queue_or_flush(shard, key, batching);
        }
        touched.clear();
        self.scratch.touched = touched;
        if has_moved && self.sockets[socket].pending.is_empty() {
            self.tell_lingering(socket);
        }
        has_moved && !self.sockets[socket].pending.is_empty()
    }
}

/// The beginning of a file's body, as long as a subscription can be.
pub(crate) fn load_topic(first: &Frame) -> Result<Frame, Error> {
    first.load(SUBSCRIPTION_BYTES_MAX).map_err(Error::FileRead)
}

/// Uses up one message of the peer's credit, and passes the turn to the next peer.
#[inline]
fn spend_credit(state: &mut SocketState, peer: &mut Peer) {
    if peer.is_full(&state.options) {
        peer.stats.stalls_out += 1;
        state.sending.deactivate(peer.slot);
    } else {
        state.sending.advance();
    }
}

/// Sends have completed: a peer that has room again takes turns again. Returns whether it did not before.
#[inline]
pub(crate) fn regain_credit(state: &mut SocketState, peer: &mut Peer) -> bool {
    if peer.is_full(&state.options) {
        return false;
    }
    peer.is_stalled = false;
    state.sending.activate(peer.slot)
}
