//! Receiving into the caller's memory.
//!
//! While a socket is received from in this way, a body of more than 32 KiB is held at its header: nothing receives it
//! until an attempt claims it. The attempt then receives as much as is there straight into the caller's memory, and
//! waits for more to become readable. So the kernel has that memory only while the attempt runs.

use zring_engine::{ConnId, Shard};

use crate::hub::{
    Hub, PeerKey, SocketKey,
    inbound::claim::{Claim, Finished, Places},
    peer::Peer,
    socket::SocketState,
};
use crate::{
    error::Refusal,
    frame::{Frame, FrameBuf},
    message::Message,
    monitor::DisconnectReason,
    pattern::{Ahead, Begun, Takes},
};

/// How much one attempt receives before other work has its turn.
const ATTEMPT_BYTES_MAX: usize = 1 << 20;

/// The outcome of a receive for a claimed body.
pub(crate) enum Pull {
    Whole,
    /// The memory is full, or the attempt has received enough.
    Full,
    /// More of the body is still to arrive.
    Waits,
    Lost,
}

impl SocketState {
    /// How many frames in front of a message under way are not the user's; [`Ahead::Unknown`]: the message is not for
    /// the user, or not yet known to be.
    pub(crate) fn ahead(&self, peer: &Peer) -> Ahead {
        let begun = Begun { frames: peer.inbound.parts(), body: peer.inbound.held_beginning() };
        self.room.ahead(peer.slot, begun, &self.options)
    }
}

impl Hub {
    /// Holds a peer's large body until a caller says where it is to go.
    pub(crate) fn hold(&mut self, key: PeerKey) {
        let peer = &self.peers[key];
        let state = &mut self.sockets[peer.socket];
        if !state.reading.held.contains(&key) && !peer.inbound.is_streaming() {
            state.reading.held.push_back(key);
        }
        self.waiting.touch(state);
    }

    /// Stops holding large bodies: they are received into memory of their own. Returns whether a body was held.
    pub(crate) fn release_held(&mut self, shard: &mut Shard, socket: SocketKey) -> bool {
        let state = &mut self.sockets[socket];
        if !state.reading.holds && state.reading.held.is_empty() {
            return false;
        }
        state.set_holds(false);
        let held = std::mem::take(&mut state.reading.held);
        for &key in &held {
            self.release_one(shard, socket, key);
        }
        !held.is_empty()
    }

    /// Has a held body received into memory of its own.
    pub(crate) fn release_one(&mut self, shard: &mut Shard, socket: SocketKey, key: PeerKey) {
        let peer = self.peers.get_mut(key).filter(|peer| peer.socket == socket);
        // A claimed body is received by its caller already.
        let Some(peer) = peer.filter(|peer| peer.inbound.held_bytes().is_some()) else { return };
        peer.inbound.own_body();
        self.arm_anew(shard, key);
    }

    /// Whether there is more of the message that was received last.
    pub(crate) fn has_more(&self, socket: SocketKey) -> bool {
        !self.sockets[socket].reading.rest.is_empty()
    }

    /// The next frame of the message that was received last.
    pub(crate) fn next_of_rest(&mut self, socket: SocketKey) -> Option<Frame> {
        let state = &mut self.sockets[socket];
        let frame = state.reading.rest.pop_front()?;
        state.note_reading();
        Some(frame)
    }

    /// Drops the rest of the message that was received last. Returns how many frames were dropped.
    pub(crate) fn drop_rest(&mut self, socket: SocketKey) -> usize {
        let state = &mut self.sockets[socket];
        let frames = std::mem::take(&mut state.reading.rest).len();
        state.note_reading();
        frames
    }

    /// Keeps the frames of a message behind those that were taken, to be taken one after the other. Each frame is moved
    /// once, so that taking a message of any number of frames takes time in proportion.
    pub(crate) fn keep_rest(&mut self, socket: SocketKey, rest: impl IntoIterator<Item = Frame>) {
        let state = &mut self.sockets[socket];
        // Another thread may have left frames here, too.
        state.reading.rest.extend(rest);
        state.note_reading();
    }

    /// Receives one message, or the rest of one, into the caller's memory. Returns how many frames were received, and
    /// whether there are more. `claim` is `None` at the caller's first attempt. After a last attempt without success
    /// the caller calls [`Hub::unclaim`].
    pub(crate) fn try_recv_into(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        frames: &mut [FrameBuf<'_>],
        claim: &mut Option<Claim>,
    ) -> Result<(usize, bool), Refusal> {
        if self.has_more(socket) {
            return Ok(self.scatter_rest(socket, frames));
        }
        let state = &mut self.sockets[socket];
        state.check_receive()?;
        // A foreign event loop is told only of whole messages, so no body may be held while a loop watches the socket.
        state.set_holds(state.watchers.shown.is_none());
        loop {
            if claim.as_ref().is_some_and(|claim| !self.is_valid(claim)) {
                *claim = None;
            }
            if let Some(received) = self.take_claimed(socket, frames, claim) {
                return Ok(received);
            }
            if let Some(key) = self.find_readable(shard, socket) {
                self.unclaim(shard, claim, frames);
                let message = self.take_message(socket, key);
                return Ok(self.scatter(socket, message, frames, Places::default()));
            }
            if claim.is_none() && !self.claim_held(shard, socket, frames, claim) {
                return Err(Refusal::WouldBlock);
            }
            let Some(held) = claim else { return Err(Refusal::WouldBlock) };
            let Some((at, _)) = held.body else {
                if self.claim_next(shard, held, frames) {
                    continue;
                }
                if self.sockets[socket].reading.held.is_empty() {
                    return Err(Refusal::WouldBlock);
                }
                self.unclaim(shard, claim, frames);
                continue;
            };
            let key = held.peer;
            let (bytes, pulled) = self.pull(shard, key, frames[at].rest_mut());
            frames[at].advance(bytes);
            match pulled {
                Pull::Full => {
                    // There is more, but other work has its turn first.
                    if let Some(conn) = self.peers[key].conn {
                        self.await_claimed(shard, conn);
                    }
                    return Err(Refusal::WouldBlock);
                }
                // Another peer may be faster: waiting for the rest of one peer's body must not keep the other peers
                // out.
                Pull::Waits if !self.sockets[socket].reading.held.is_empty() => {
                    self.unclaim(shard, claim, frames);
                }
                Pull::Waits => return Err(Refusal::WouldBlock),
                Pull::Lost => *claim = None,
                Pull::Whole => {
                    if let Some(received) = self.finish_pull(shard, frames, claim) {
                        return Ok(received);
                    }
                }
            }
        }
    }

    pub(crate) fn is_valid(&self, claim: &Claim) -> bool {
        let peer = self.peers.get(claim.peer);
        let peer = peer.filter(|peer| peer.stats.connection == claim.connection);
        peer.is_some_and(|peer| peer.inbound.claim_number() == claim.number)
    }

    /// Claims the first held body that has a place in `frames`; bodies without a place are received into memory of
    /// their own.
    fn claim_held(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        frames: &mut [FrameBuf<'_>],
        claim: &mut Option<Claim>,
    ) -> bool {
        while let Some(key) = self.sockets[socket].reading.held.pop_front() {
            let state = &self.sockets[socket];
            let peer = self.peers.get(key);
            let Some(peer) = peer.filter(|peer| peer.socket == socket && peer.is_ready()) else {
                continue;
            };
            if peer.inbound.held_bytes().is_none() || peer.inbound.is_streaming() {
                continue;
            }
            let Some((at, hidden)) = place(state, peer, frames) else {
                self.release_one(shard, socket, key);
                continue;
            };
            self.claims += 1;
            let connection = peer.stats.connection;
            let (number, placed) = (self.claims, Places::default());
            let mut held = Claim { peer: key, connection, number, hidden, body: None, placed };
            self.claim_body(&mut held, at, frames);
            *claim = Some(held);
            return true;
        }
        false
    }

    /// Claims a later held body of the claimed message, if that body has a place in `frames`, too.
    fn claim_next(
        &mut self,
        shard: &mut Shard,
        claim: &mut Claim,
        frames: &mut [FrameBuf<'_>],
    ) -> bool {
        let peer = &self.peers[claim.peer];
        let socket = peer.socket;
        let state = &mut self.sockets[socket];
        if peer.inbound.held_bytes().is_none() {
            return false;
        }
        state.reading.held.retain(|&key| key != claim.peer);
        let Some((at, _)) = place(state, peer, frames) else {
            self.release_one(shard, socket, claim.peer);
            return false;
        };
        self.claim_body(claim, at, frames);
        true
    }

    fn claim_body(&mut self, claim: &mut Claim, at: usize, frames: &mut [FrameBuf<'_>]) {
        let frame = &mut frames[at];
        self.peers[claim.peer].inbound.claim(claim.number, frame);
        claim.body = Some((at, frame.len()));
    }

    /// Receives the bytes of a claimed body that are there. Returns how much of `memory` they fill.
    pub(crate) fn pull(
        &mut self,
        shard: &mut Shard,
        key: PeerKey,
        memory: &mut [u8],
    ) -> (usize, Pull) {
        let peer = &self.peers[key];
        let Some(conn) = peer.conn.filter(|_| peer.is_ready()) else { return (0, Pull::Waits) };
        let room = memory.len().min(ATTEMPT_BYTES_MAX);
        let mut filled = 0;
        while let Some((rest, spill)) = self.peers[key].inbound.claimed_rest() {
            if rest == 0 {
                return (filled, Pull::Whole);
            }
            if filled == room {
                break;
            }
            let body_bytes = (room - filled).min(usize::try_from(rest).unwrap_or(usize::MAX));
            // The bytes that follow the body are received only with its last bytes.
            let no_spill = &mut Vec::new();
            let spill = if body_bytes as u64 == rest { spill } else { no_spill };
            match shard.try_receive(conn, &mut memory[filled..filled + body_bytes], spill) {
                Ok(Some(0)) => {
                    self.disconnect(shard, key, DisconnectReason::PeerClosedInMessage);
                    return (filled, Pull::Lost);
                }
                Ok(Some(bytes)) => {
                    let bytes = bytes.min(body_bytes);
                    filled += bytes;
                    let peer = &mut self.peers[key];
                    peer.stats.bytes_into += bytes as u64;
                    peer.inbound.note_claimed(bytes as u64);
                }
                Ok(None) => {
                    self.await_claimed(shard, conn);
                    return (filled, Pull::Waits);
                }
                Err(error) => {
                    self.fail(shard, key, &error);
                    return (filled, Pull::Lost);
                }
            }
        }
        (filled, Pull::Full)
    }

    pub(crate) fn await_claimed(&mut self, shard: &mut Shard, conn: ConnId) {
        shard.await_readable(conn);
        self.flushing.wants_flush = true;
    }

    /// A claimed body is whole: finishes the body, and the message if the body is all of it.
    fn finish_pull(
        &mut self,
        shard: &mut Shard,
        frames: &mut [FrameBuf<'_>],
        claim: &mut Option<Claim>,
    ) -> Option<(usize, bool)> {
        let held = claim.as_mut()?;
        let (at, _) = held.body.take()?;
        held.placed.add(at);
        let finished = self.decode_direct(shard, held.peer, |inbound, delivery| {
            inbound.finish_claimed(&frames[at], delivery)
        });
        match finished {
            Finished::Placed => None,
            Finished::Refused => {
                *claim = None;
                None
            }
            Finished::Message => {
                *claim = None;
                frames[1..].iter_mut().for_each(FrameBuf::clear);
                Some((1, false))
            }
        }
    }

    /// Takes the claimed message if it is whole.
    fn take_claimed(
        &mut self,
        socket: SocketKey,
        frames: &mut [FrameBuf<'_>],
        claim: &mut Option<Claim>,
    ) -> Option<(usize, bool)> {
        let Claim { peer: key, placed, .. } = *claim.as_ref()?;
        let message = self.peers[key].inbound.take_claimed()?;
        let message = self.accept(socket, key, message);
        // Has the fair queue look at the peer again, so that a peer that is gone is removed.
        let slot = self.peers[key].slot;
        self.sockets[socket].receiving.activate(slot);
        let received = self.scatter(socket, message, frames, placed);
        *claim = None;
        Some(received)
    }

    /// Copies a message into the caller's memory, except the frames that lie there already, and keeps the frames that
    /// have no place there.
    pub(crate) fn scatter(
        &mut self,
        socket: SocketKey,
        message: Message,
        frames: &mut [FrameBuf<'_>],
        placed: Places,
    ) -> (usize, bool) {
        let count = message.frame_count();
        let taken = count.min(frames.len());
        for (at, (frame, body)) in frames.iter_mut().zip(message.frames()).enumerate() {
            if !placed.contains(at) {
                frame.take(body.bytes());
            }
        }
        frames[taken..].iter_mut().for_each(FrameBuf::clear);
        if count > taken {
            self.keep_rest(socket, message.into_frames().into_iter().skip(taken));
        }
        (taken, count > taken)
    }

    /// Copies the next frames of the message that was received last into the caller's memory.
    pub(crate) fn scatter_rest(
        &mut self,
        socket: SocketKey,
        frames: &mut [FrameBuf<'_>],
    ) -> (usize, bool) {
        let mut taken = 0;
        for frame in frames {
            match self.next_of_rest(socket) {
                Some(body) => {
                    frame.take(body.bytes());
                    taken += 1;
                }
                None => frame.clear(),
            }
        }
        (taken, self.has_more(socket))
    }

    /// Whether a whole message is there.
    pub(crate) fn has_whole(&mut self, shard: &mut Shard, socket: SocketKey) -> bool {
        self.sockets[socket].check_receive().is_ok() && self.find_readable(shard, socket).is_some()
    }

    /// The caller gives up: the bytes of a message that have arrived stay with its peer, and the rest follows them
    /// there. So the bytes of a body are copied twice at most, however often callers begin to wait for them.
    pub(crate) fn unclaim(
        &mut self,
        shard: &mut Shard,
        claim: &mut Option<Claim>,
        frames: &mut [FrameBuf<'_>],
    ) {
        let Some(claim) = claim.take().filter(|claim| self.is_valid(claim)) else { return };
        let peer = &mut self.peers[claim.peer];
        peer.inbound.unclaim(&claim, frames);
        frames.iter_mut().for_each(FrameBuf::clear);
        let state = &mut self.sockets[peer.socket];
        if peer.inbound.has_message() {
            state.receiving.activate(peer.slot);
            self.waiting.touch(state);
        }
        if claim.body.is_some() {
            self.arm_anew(shard, claim.peer);
        } else {
            self.arm(shard, claim.peer);
            self.flushing.wants_flush = true;
        }
    }
}

/// The index in `frames` of the frame that a held body belongs to, if the body has a place there, and how many frames
/// are in front of the user's first frame.
fn place(state: &SocketState, peer: &Peer, frames: &[FrameBuf<'_>]) -> Option<(usize, usize)> {
    let inbound = &peer.inbound;
    let is_last = !inbound.held_has_more();
    let is_topic = state.takes == Takes::Matching && inbound.parts().is_empty();
    let hidden = match state.ahead(peer) {
        // The topic of a longer message is compared when the message is whole, so the topic has to lie in the message.
        _ if is_topic && !is_last => return None,
        Ahead::Known(hidden) => hidden,
        // A message of one frame is judged when it is whole.
        Ahead::Likely(hidden) if is_last => hidden,
        Ahead::Likely(_) | Ahead::Unknown => return None,
    };
    let at = inbound.parts().len().checked_sub(hidden)?;
    let bytes = inbound.held_bytes()?;
    let frame = frames.get(at).filter(|_| at < Places::MAX);
    let has_room = frame.is_some_and(|frame| frame.capacity() as u64 >= bytes);
    has_room.then_some((at, hidden))
}
