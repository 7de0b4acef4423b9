//! How a socket sends: choosing the pipe, queueing, flushing, and what waits without one.

use zring_engine::{Shard, copies::Site};

use super::{
    Hub,
    lane::Lane,
    outbox::{Bounds, REFERENCE_BYTES_MIN},
    peer::Peer,
    receive::SUBSCRIPTION_BYTES_MAX,
    socket::{Pattern, Request, Service, SocketCore},
};
use crate::{
    error::{Error, Refusal},
    frame::{Frame, INLINE_BYTES_MAX},
    message::{Message, Sendable},
    route::PipeId,
    socket_type::SocketType,
    wire::{FRAME_HEADER_BYTES_MAX, encode_header, short_header},
};

/// Borrowed bodies up to this size are copied straight into the send arena.
const COPY_BYTES_MAX: usize = 32 << 10;

/// The empty frame in front of the body of a request or a reply.
const DELIMITER: [u8; 2] = short_header(true, 0);

/// What goes out, borrowed where it is copied anyway.
enum Outgoing<'a> {
    Bytes(&'a [u8]),
    Message(&'a Message),
    /// A message with files in it, and what had to be read of them.
    Files(&'a Message, &'a Loaded),
}

/// What of a message with files has to be in memory.
#[derive(Debug, Default)]
struct Loaded {
    /// What subscriptions are compared with, if the first frame is a file.
    topic: Option<Frame>,
    /// All of it, if it goes to a peer within the process.
    message: Option<Message>,
}

/// What is to stand in front of a message on its way.
#[derive(Debug, Clone, Copy, Default)]
struct Head<'a> {
    frames: &'a [Frame],
    /// An empty frame follows them.
    is_delimited: bool,
}

impl Outgoing<'_> {
    fn topic(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Message(message) => message.body(),
            Self::Files(message, loaded) => {
                loaded.topic.as_ref().unwrap_or(message.first()).bytes()
            }
        }
    }

    /// The body, if it is one frame in memory.
    fn single_body(&self) -> Option<&[u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Message(message) => message.single_body(),
            Self::Files(..) => None,
        }
    }

    /// The message itself.
    fn to_message(&self) -> Message {
        match self {
            Self::Bytes(bytes) => Message::single(Frame::copy_at(Site::Pending, bytes)),
            Self::Message(message) | Self::Files(message, _) => (*message).clone(),
        }
    }

    /// Queues the message for a peer.
    #[inline]
    fn append_to(&self, peer: &mut Peer, shard: &mut Shard, head: Head<'_>) {
        if peer.pipe.is_some() {
            return self.hand_over(peer, head);
        }
        for frame in head.frames {
            peer.outbox.append_frame(&mut shard.arena, true, frame);
            peer.stats.bytes_out += frame.len() as u64;
        }
        if head.is_delimited {
            peer.outbox.append(&mut shard.arena, true, &[]);
        }
        match self {
            Self::Bytes(bytes) => {
                peer.stats.bytes_out += bytes.len() as u64;
                if bytes.len() <= COPY_BYTES_MAX {
                    peer.outbox.append(&mut shard.arena, false, bytes);
                } else {
                    peer.outbox.append_message(&mut shard.arena, &Message::from(*bytes));
                }
            }
            Self::Message(message) | Self::Files(message, _) => {
                peer.stats.bytes_out += message.len() as u64;
                peer.outbox.append_message(&mut shard.arena, message);
            }
        }
    }
}

impl Outgoing<'_> {
    /// As [`Outgoing::append_to`], for a peer in the same process.
    #[inline(never)]
    fn hand_over(&self, peer: &mut Peer, head: Head<'_>) {
        let Some(pipe) = &mut peer.pipe else { return };
        let small = self.single_body().filter(|_| head.frames.is_empty());
        let bytes = match small.filter(|body| pipe.push_small(body, head.is_delimited)) {
            Some(body) => body.len(),
            None => {
                let copied;
                let message = match self {
                    Self::Bytes(bytes) => {
                        copied = Message::from(*bytes);
                        &copied
                    }
                    Self::Message(message) => *message,
                    Self::Files(_, loaded) => {
                        loaded.message.as_ref().expect("read before it was routed to a pipe")
                    }
                };
                pipe.push_message(head.frames, head.is_delimited, message);
                message.len()
            }
        };
        peer.stats.bytes_out += bytes as u64;
        // Handed over is as good as sent: the other end takes it even if this one goes.
        peer.stats.messages_out += 1;
    }
}

impl Hub {
    /// Does all that a short message of PUSH needs where there is nothing to decide: it joins others that wait for the end
    /// of a batch scope or a burst in the same block, or goes into a pipe, and leaves room for another one. Returns whether
    /// that was so; else nothing was done.
    ///
    /// It does as [`Hub::push`] and [`Hub::queued`] would, in a fraction of the steps.
    #[inline(always)]
    pub(crate) fn send_plain(&mut self, socket: u32, body: &[u8]) -> bool {
        let Some(core) = self.sockets.get_mut(socket as usize) else { return false };
        let is_plain = core.socket_type == SocketType::Push && core.partial.is_empty();
        let PipeId(key) = match core.sending.current() {
            Some(pipe) if is_plain && core.pending.is_empty() => pipe,
            _ => return false,
        };
        let Some(peer) = self.peers.get_mut(key as usize) else { return false };
        let is_sent = match &mut peer.pipe {
            Some(pipe) => {
                let scope = (self.batches > 0).then_some(peer.is_dirty);
                let is_sent = pipe.send_plain(body, scope);
                // Handed over is as good as sent.
                peer.stats.messages_out += u64::from(is_sent);
                is_sent
            }
            None => {
                // One that is dirty is sent when the batch ends.
                let below = Bounds::of(&core.options, self.burst.is_some());
                let room = peer.outbox.room(&below).filter(|_| peer.is_dirty);
                let Some(room) = room.filter(|room| peer.outbox.join_within(body, room)) else {
                    return false;
                };
                if self.burst.is_none() && core.sending.active_len() == 1 {
                    self.lane = Lane::open(socket, key, room);
                }
                true
            }
        };
        if is_sent {
            peer.stats.bytes_out += body.len() as u64;
            core.sending.advance();
        }
        is_sent
    }

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
            let core = &self.sockets[socket as usize];
            let owned_max = if core.has_pipes { INLINE_BYTES_MAX } else { REFERENCE_BYTES_MIN - 1 };
            // One copy serves all subscribers, and none is needed where there is one peer who takes it at once.
            let is_shared = matches!(core.pattern, Pattern::Pub(_));
            let borrowed_max = if is_shared { COPY_BYTES_MAX } else { usize::MAX };
            let copies_max = if P::IS_BORROWED { borrowed_max } else { owned_max };
            if body.len() <= copies_max && core.partial.is_empty() {
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
        let partial = &self.sockets[socket as usize].partial;
        let has_files = payload.as_ref().is_some_and(Sendable::has_files);
        let has_files = has_files || partial.iter().any(Frame::is_file);
        let loaded = match payload.as_ref().filter(|_| has_files) {
            Some(payload) => self.load_files(socket, payload).map(Some)?,
            None => None,
        };
        let Some(payload) = payload.take() else { return Ok(()) };
        let mut message = payload.into_message();
        let partial = std::mem::take(&mut self.sockets[socket as usize].partial);
        if !partial.is_empty() {
            message = message.behind(partial);
        }
        let outgoing = match &loaded {
            Some(loaded) => Outgoing::Files(&message, loaded),
            None => Outgoing::Message(&message),
        };
        self.route(shard, socket, &outgoing)
    }

    /// Reads what has to be in memory of a message with files, before anything is done with it.
    #[cold]
    fn load_files<P: Sendable>(&mut self, socket: u32, payload: &P) -> Result<Loaded, Error> {
        let core = &self.sockets[socket as usize];
        let frames: Vec<Frame> = core.partial.iter().cloned().chain(payload.to_frames()).collect();
        let Some(first) = frames.first() else { return Ok(Loaded::default()) };
        let needs_topic = first.is_file() && matches!(core.pattern, Pattern::Pub(_));
        let topic = needs_topic.then(|| load_topic(first)).transpose()?;
        if !self.goes_by_pipe(socket, topic.as_ref().unwrap_or(first).bytes()) {
            return Ok(Loaded { topic, message: None });
        }
        let frames: Result<Vec<Frame>, _> = frames.iter().map(Frame::read).collect();
        let message = Message::from_frames(frames.map_err(Error::FileRead)?);
        Ok(Loaded { topic, message })
    }

    /// Whether a message that is sent now goes to a peer within the process.
    fn goes_by_pipe(&mut self, socket: u32, topic: &[u8]) -> bool {
        let core = &self.sockets[socket as usize];
        let is_pipe = |key: u32| self.peers.get(key as usize).is_some_and(|it| it.pipe.is_some());
        match &core.pattern {
            Pattern::Push if !core.pending.is_empty() => false,
            Pattern::Push | Pattern::Req { .. } => {
                core.sending.current().is_some_and(|PipeId(key)| is_pipe(key))
            }
            Pattern::Rep(Service::Serving { peer, .. }) => is_pipe(*peer),
            Pattern::Pub(_) if core.has_pipes => self.publishes_to_pipe(socket, topic),
            _ => false,
        }
    }

    fn publishes_to_pipe(&mut self, socket: u32, topic: &[u8]) -> bool {
        let mut matched = std::mem::take(&mut self.matched);
        if let Pattern::Pub(trie) = &mut self.sockets[socket as usize].pattern {
            trie.matches(topic, &mut |PipeId(key)| matched.push(key));
        }
        let has_pipe = matched.iter().any(|&key| self.peers[key as usize].pipe.is_some());
        matched.clear();
        self.matched = matched;
        has_pipe
    }

    /// Keeps a frame until the message it begins is sent.
    pub(crate) fn send_more(&mut self, socket: u32, frame: Frame) -> Result<(), Error> {
        self.check_sends(socket)?;
        self.sockets[socket as usize].partial.push(frame);
        Ok(())
    }

    /// Whether sockets of its type send at all.
    pub(crate) fn check_sends(&self, socket: u32) -> Result<(), Error> {
        let core = &self.sockets[socket as usize];
        match core.pattern {
            Pattern::Pull | Pattern::Sub(_) => Err(core.cannot_send()),
            _ => Ok(()),
        }
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
        if core.has_room() || core.pending.len() < core.pending_max() {
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
        self.hand_to(shard, key, outgoing, Head::default());
        Ok(())
    }

    /// Gives a message to a peer that has room, and the next peer its turn.
    #[inline]
    fn hand_to(&mut self, shard: &mut Shard, key: u32, outgoing: &Outgoing<'_>, head: Head<'_>) {
        let is_sent = self.send_alone(shard, key, outgoing, head);
        let peer = &mut self.peers[key as usize];
        if !is_sent {
            outgoing.append_to(peer, shard, head);
        }
        spend_credit(&mut self.sockets[peer.socket as usize], peer, key);
        if !is_sent {
            self.queued(shard, key);
        }
    }

    /// Sends a large body from where it lies, the caller's memory even, if nothing is in front of it and nothing has to
    /// wait for others. In the good case that is all there is to do. What the kernel has no room for follows, and so does
    /// a copy of it all if it was the caller's. Returns whether that was so; else nothing was done.
    #[inline]
    fn send_alone(
        &mut self,
        shard: &mut Shard,
        key: u32,
        outgoing: &Outgoing<'_>,
        head: Head<'_>,
    ) -> bool {
        let is_large = |body: &&[u8]| body.len() >= REFERENCE_BYTES_MIN;
        match outgoing.single_body().filter(is_large) {
            Some(body) if head.frames.is_empty() => {
                self.send_body(shard, key, outgoing, head.is_delimited, body)
            }
            _ => false,
        }
    }

    #[inline(never)]
    fn send_body(
        &mut self,
        shard: &mut Shard,
        key: u32,
        outgoing: &Outgoing<'_>,
        is_delimited: bool,
        body: &[u8],
    ) -> bool {
        if !self.peers[key as usize].may_send_alone() {
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
        let start = if is_delimited { 0 } else { DELIMITER.len() };
        let head = &head[start..DELIMITER.len() + header_bytes];

        let peer = &mut self.peers[key as usize];
        let sent = peer.send_alone(shard, head, body);
        if sent == head.len() + body.len() {
            peer.stats.bytes_out += body.len() as u64;
            peer.stats.messages_out += 1;
        } else {
            outgoing.append_to(peer, shard, Head { frames: &[], is_delimited });
            peer.send_rest(shard, sent);
            self.wants_flush = true;
        }
        self.note_sent(shard, batching);
        true
    }

    /// Nobody has room: the message waits for whoever has it first, if anybody is expected.
    #[cold]
    fn push_pending(&mut self, socket: u32, outgoing: &Outgoing<'_>) -> Result<(), Refusal> {
        let core = &mut self.sockets[socket as usize];
        if core.pending.len() >= core.pending_max() {
            return Err(Refusal::WouldBlock);
        }
        core.pending.push_back(outgoing.to_message());
        Ok(())
    }

    fn publish(&mut self, shard: &mut Shard, socket: u32, outgoing: &Outgoing<'_>) {
        let core = &mut self.sockets[socket as usize];
        let below = Bounds::of(&core.options, self.burst.is_some());
        let Pattern::Pub(trie) = &mut core.pattern else { return };
        let mut matched = std::mem::take(&mut self.matched);
        trie.matches(outgoing.topic(), &mut |PipeId(key)| matched.push(key));
        let single = outgoing.single_body();
        // Those for whom it waits with others need nothing else.
        matched.retain(|&key| {
            let peer = &mut self.peers[key as usize];
            if peer.is_dirty
                && peer.pipe.is_none()
                && let Some(body) = single
                && peer.outbox.join(body, &below)
            {
                peer.stats.bytes_out += body.len() as u64;
                return false;
            }
            if peer.is_full(&core.options) {
                // A slow subscriber loses messages, never the publisher's time.
                peer.stats.stalls_out += u64::from(!std::mem::replace(&mut peer.is_stalled, true));
                peer.stats.messages_dropped += 1;
            } else {
                outgoing.append_to(peer, shard, Head::default());
            }
            true
        });
        if !matched.is_empty() {
            let batching = self.is_batching(shard);
            for &key in &matched {
                self.queue_or_flush(shard, key, batching);
            }
            self.note_sent(shard, batching);
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
        self.discard_reply(socket);
        let core = &mut self.sockets[socket as usize];
        let correlate = core.options.req_correlate;
        let Pattern::Req { request, id } = &mut core.pattern else {
            unreachable!("routed by type")
        };
        *id = id.wrapping_add(1);
        let id = id.to_be_bytes();
        // A request that still waits for a peer is given up for the newer one (relaxed).
        core.stats.messages_dropped += core.pending.clear() as u64;
        let Some(PipeId(key)) = core.sending.current() else {
            *request = Request::Waiting { peer: None };
            let delimiter = std::iter::once(Frame::new());
            let head = correlate.then(|| Frame::from(&id)).into_iter().chain(delimiter);
            let body = outgoing.to_message().into_frames();
            if let Some(message) = Message::from_frames(head.chain(body)) {
                core.pending.push_back(message);
            }
            return Ok(());
        };
        *request = Request::Waiting { peer: Some(key) };
        let id = Frame::from(&id);
        let frames = if correlate { std::slice::from_ref(&id) } else { &[] };
        self.hand_to(shard, key, outgoing, Head { frames, is_delimited: true });
        Ok(())
    }

    /// A reply that nobody took is given up for a newer request (relaxed), whose reply it would pass for.
    fn discard_reply(&mut self, socket: u32) {
        let core = &self.sockets[socket as usize];
        if !matches!(core.pattern, Pattern::Req { request: Request::Replied, .. }) {
            return;
        }
        for (_, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.socket == socket) {
            while peer.inbound.pop().is_some() {
                peer.stats.messages_dropped += 1;
            }
        }
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
        let head = Head { frames: &envelope, is_delimited: true };
        if !self.send_alone(shard, key, outgoing, head) {
            outgoing.append_to(&mut self.peers[key as usize], shard, head);
            self.queued(shard, key);
        }
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
        let batching = self.batches > 0;
        let Some(core) = self.sockets.get_mut(socket as usize) else { return false };
        let mut touched = std::mem::take(&mut self.matched);
        while let Some(PipeId(key)) = core.sending.current().filter(|_| !core.pending.is_empty()) {
            let Some(message) = core.pending.pop_front() else { break };
            if let Pattern::Req { request: Request::Waiting { peer }, .. } = &mut core.pattern {
                *peer = Some(key);
            }
            let peer = &mut self.peers[key as usize];
            let needs_bytes = peer.pipe.is_some() && message.has_files();
            let Ok(message) = (if needs_bytes { message.read() } else { Ok(message) }) else {
                core.drop_unreadable();
                self.waiting.touch(core);
                continue;
            };
            Outgoing::Message(&message).append_to(peer, shard, Head::default());
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
        if has_moved && self.sockets[socket as usize].pending.is_empty() {
            self.tell_lingering(socket);
        }
        has_moved && !self.sockets[socket as usize].pending.is_empty()
    }
}

/// As much of a file's body as a subscription can be long.
pub(crate) fn load_topic(first: &Frame) -> Result<Frame, Error> {
    first.load(SUBSCRIPTION_BYTES_MAX).map_err(Error::FileRead)
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

/// Sends have completed: the peer may have room again. Returns whether it takes part again because of that.
#[inline]
pub(super) fn regain_credit(core: &mut SocketCore, peer: &mut Peer, key: u32) -> bool {
    if peer.is_full(&core.options) {
        return false;
    }
    peer.is_stalled = false;
    core.sending.activate(PipeId(key))
}

impl SocketCore {
    pub(crate) fn cannot_send(&self) -> Error {
        Error::Unsupported { socket_type: self.socket_type, operation: "send" }
    }

    /// A message that waited cannot be read from its file, and is lost. A request will have no reply then.
    pub(crate) fn drop_unreadable(&mut self) {
        self.stats.messages_dropped += 1;
        self.stats.file_faults += 1;
        if let Pattern::Req { request, .. } = &mut self.pattern {
            *request = Request::Idle;
        }
    }
}
