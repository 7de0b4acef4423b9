//! Receiving into memory of the caller's.
//!
//! A body of more than 32 KiB is held at its header while a socket is received from in this way: nothing receives it
//! until an attempt claims it. The attempt then asks the kernel itself, into the caller's memory, for as much as is
//! there, and awaits more; so the kernel has that memory only while the attempt runs.

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

/// How much one attempt receives before others have a turn.
const ATTEMPT_BYTES_MAX: usize = 1 << 20;

/// The outcome of asking the kernel for a claimed body.
pub(crate) enum Pull {
    Whole,
    /// There is no more room for it, or it was enough for an attempt.
    Full,
    /// There is more to come.
    Waits,
    Lost,
}

impl SocketState {
    /// How many frames in front of a message under way are not the user's; [`Ahead::Unknown`]: the message is not for
    /// the user, or not yet known to be.
    pub(crate) fn ahead(&self, key: PeerKey, peer: &Peer) -> Ahead {
        let begun = Begun { frames: peer.inbound.parts(), body: peer.inbound.held_beginning() };
        self.room.ahead(key.pipe(), begun, &self.options)
    }
}

impl Hub {
    /// A peer's large body waits for a caller that says where it is to go.
    pub(crate) fn hold(&mut self, key: PeerKey) {
        let peer = &self.peers[key];
        let state = &mut self.sockets[peer.socket];
        if !state.reading.held.contains(&key) && !peer.inbound.is_streaming() {
            state.reading.held.push_back(key);
        }
        self.waiting.touch(state);
    }

    /// No caller says any more where large bodies are to go: held bodies go on into memory of their own. Returns whether
    /// there was one.
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
        // A claimed body is being seen to.
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

    /// Drops the rest of the message that was received last. Returns how many frames that was.
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
        // Another thread may have left something, too.
        state.reading.rest.extend(rest);
        state.note_reading();
    }

    /// Receives one message, or what is left of one, into the caller's memory. Returns how many frames that was, and
    /// whether there are more. `claim` is `None` at the caller's first attempt; after the last one without
    /// success [`Hub::unclaim`] follows.
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
        // A foreign event loop is to learn of a message, which then has to be there.
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
                    // There is more, but others have a turn before.
                    if let Some(conn) = self.peers[key].conn {
                        self.await_claimed(shard, conn);
                    }
                    return Err(Refusal::WouldBlock);
                }
                // Another peer may be faster; one that waits here for the rest of a body must not keep others out.
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

    /// Claims the first held body that has a place in `frames`; the others are received into memory of their own.
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
            let Some((at, hidden)) = place(state, key, peer, frames) else {
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

    /// A later frame of the claimed message may have a place, too.
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
        let Some((at, _)) = place(state, claim.peer, peer, frames) else {
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

    /// Receives what is there of a claimed body. Returns how much of `memory` that filled.
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
            // Bytes behind the body are received with its last part only.
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

    /// A claimed body is whole: the message may be, too.
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
        // So that a peer that is gone is forgotten.
        let slot = self.peers[key].slot;
        self.sockets[socket].receiving.activate(slot);
        let received = self.scatter(socket, message, frames, placed);
        *claim = None;
        Some(received)
    }

    /// Copies a message to where the caller wants it, as far as it does not lie there already, and keeps the rest.
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

    /// Copies the next frames of the message that was received last to where the caller wants them.
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

    /// Whether a message is there whole.
    pub(crate) fn has_whole(&mut self, shard: &mut Shard, socket: SocketKey) -> bool {
        self.sockets[socket].check_receive().is_ok() && self.find_readable(shard, socket).is_some()
    }

    /// The caller gives up: what has come of a message stays with its peer, and the rest follows it there. So the bytes
    /// of a body are copied twice at most, however often a caller begins to wait for them.
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

/// Which frame a held body is of, if it has a place there, and how many are in front of the user's first.
fn place(
    state: &SocketState,
    key: PeerKey,
    peer: &Peer,
    frames: &[FrameBuf<'_>],
) -> Option<(usize, usize)> {
    let inbound = &peer.inbound;
    let is_last = !inbound.held_has_more();
    let is_topic = state.takes == Takes::Matching && inbound.parts().is_empty();
    let hidden = match state.ahead(key, peer) {
        // The topic of a longer message is compared when the message is whole, and has to be there then.
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
