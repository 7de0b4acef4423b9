//! Messages that are taken as they arrive, frame by frame.

use zring_engine::{Shard, SharedMut};

use super::into::Pull;
use crate::{
    error::{Error, Refusal},
    frame::{Frame, FrameBuf},
    hub::{
        Hub, PeerKey, SocketKey,
        inbound::{
            Inbound,
            claim::{Claim, Places},
        },
        peer::Peer,
        socket::SocketState,
    },
    message::Message,
    pattern::Ahead,
};

/// Identifies the message that a caller takes as it arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamId {
    pub(crate) peer: PeerKey,
    connection: u64,
}

/// The message that a caller begins to take.
pub(crate) enum Begun {
    /// A message that is there whole.
    Whole(Message),
    Stream(StreamId),
}

/// The next frame.
pub(crate) enum Next {
    /// The frame, and whether others follow.
    Frame(Frame, bool),
    /// A large frame that has begun: its length, and whether others follow.
    Header(u64, bool),
    /// There is no further frame: the last one was skipped.
    End,
}

impl SocketState {
    /// How many frames of a peer's message under way are in front of the user's, if the message is known to be for the
    /// user and one of the user's frames has begun.
    fn streamable(&self, key: PeerKey, peer: &Peer) -> Option<usize> {
        let inbound = &peer.inbound;
        if inbound.is_streamed() || inbound.claim_number() != 0 || !inbound.is_inside_message() {
            return None;
        }
        let Ahead::Known(hidden) = self.ahead(key, peer) else { return None };
        (inbound.parts().len() > hidden || inbound.held_bytes().is_some()).then_some(hidden)
    }
}

impl Hub {
    /// Begins to take a message as it arrives: a whole message, or else a message that has begun.
    pub(crate) fn begin_stream(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
    ) -> Result<Begun, Refusal> {
        let state = &mut self.sockets[socket];
        if let Some(rest) = state.take_rest() {
            return Ok(Begun::Whole(rest));
        }
        state.check_receive()?;
        state.set_holds(state.watchers.shown.is_none());
        if let Some(key) = self.find_readable(shard, socket) {
            return Ok(Begun::Whole(self.take_message(socket, key)));
        }
        let Some((key, hidden)) = self.find_streamable(shard, socket) else {
            return Err(Refusal::WouldBlock);
        };
        let peer = &mut self.peers[key];
        let mut envelope = peer.inbound.begin_stream(hidden);
        let connection = peer.stats.connection;
        self.sockets[socket].reading.held.retain(|&held| held != key);
        // The delimiter is not part of the envelope that leads the reply back.
        envelope.pop();
        let mut begun = Message::new();
        begun.add_envelope(envelope.into_iter());
        self.accept(socket, key, begun);
        Ok(Begun::Stream(StreamId { peer: key, connection }))
    }

    /// Finds a peer whose message has begun. If there is none, the held bodies are received into memory of their own.
    fn find_streamable(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
    ) -> Option<(PeerKey, usize)> {
        let state = &self.sockets[socket];
        let mut found = state.peers.keys().filter_map(|key| {
            let peer = self.peers.get(key).filter(|peer| peer.is_ready())?;
            Some((key, state.streamable(key, peer)?))
        });
        if let Some(found) = found.next() {
            return Some(found);
        }
        drop(found);
        for key in std::mem::take(&mut self.sockets[socket].reading.held) {
            self.release_one(shard, socket, key);
        }
        None
    }

    /// The next frame of a message that is taken as it arrives.
    pub(crate) fn next_streamed(
        &mut self,
        shard: &mut Shard,
        stream: StreamId,
    ) -> Result<Next, Refusal> {
        if self.streamed(stream)?.wants_refill() {
            self.refill(shard, stream.peer);
        }
        let inbound = self.streamed(stream)?;
        while let Some((frame, more)) = inbound.next_streamed() {
            match frame {
                Some(frame) => return Ok(Next::Frame(frame, more)),
                None if more => {}
                None => return Ok(Next::End),
            }
        }
        let (bytes, more) = inbound.under_way().ok_or(Refusal::WouldBlock)?;
        Ok(Next::Header(bytes, more))
    }

    /// Receives all of the large frame that has begun, into memory of its own.
    pub(crate) fn own_streamed(&mut self, shard: &mut Shard, stream: StreamId) {
        if let Ok(true) = self.is_streamed_held(stream) {
            self.peers[stream.peer].inbound.own_body();
            self.arm_anew(shard, stream.peer);
        }
    }

    /// Skips the large frame that has begun.
    pub(crate) fn skip_streamed(&mut self, shard: &mut Shard, stream: StreamId) {
        if let Ok(inbound) = self.streamed(stream) {
            inbound.skip_frame();
            self.arm_anew(shard, stream.peer);
        }
    }

    /// Drops the rest of the message.
    pub(crate) fn abandon_stream(&mut self, shard: &mut Shard, stream: StreamId) {
        let Ok(inbound) = self.streamed(stream) else { return };
        inbound.abandon_stream();
        // There was no room to decode the rest of the message that has arrived. No call may come that would decode it
        // now, and the peer could not send on.
        if inbound.has_undecoded() {
            self.refill(shard, stream.peer);
        }
        if self.peers.get(stream.peer).is_some_and(|it| it.stats.connection == stream.connection) {
            self.arm_anew(shard, stream.peer);
            self.remove_if_done(shard, stream.peer);
        }
    }

    /// Claims the large frame that has begun, for `frame`.
    pub(crate) fn claim_streamed(
        &mut self,
        stream: StreamId,
        frame: &mut FrameBuf<'_>,
    ) -> Result<Claim, Refusal> {
        self.claims += 1;
        let number = self.claims;
        self.streamed(stream)?.claim(number, frame);
        let StreamId { peer, connection } = stream;
        let body = Some((0, frame.len()));
        Ok(Claim { peer, connection, number, hidden: 0, body, placed: Places::default() })
    }

    /// Claims the large frame that has begun, to be taken in pieces. Returns the first piece.
    pub(crate) fn claim_pieces(&mut self, stream: StreamId) -> Result<SharedMut, Refusal> {
        self.claims += 1;
        let number = self.claims;
        Ok(self.streamed(stream)?.claim_pieces(number))
    }

    /// Receives more of a claimed frame. Returns how many bytes were received, and whether the frame is whole.
    pub(crate) fn pull_streamed(
        &mut self,
        shard: &mut Shard,
        stream: StreamId,
        memory: &mut [u8],
    ) -> Result<(usize, bool), Refusal> {
        self.streamed(stream)?;
        let (bytes, pulled) = self.pull(shard, stream.peer, memory);
        match pulled {
            Pull::Whole => {
                self.finish_streamed(shard, stream.peer);
                Ok((bytes, true))
            }
            Pull::Lost => Err(Error::PeerLost.into()),
            Pull::Waits if bytes == 0 => Err(Refusal::WouldBlock),
            Pull::Waits | Pull::Full => Ok((bytes, false)),
        }
    }

    /// There is more of a claimed frame, but other work has its turn first.
    pub(crate) fn go_on<T>(&mut self, shard: &mut Shard, stream: StreamId) -> Result<T, Refusal> {
        if let Some(conn) = self.peers[stream.peer].conn {
            self.await_claimed(shard, conn);
        }
        Err(Refusal::WouldBlock)
    }

    /// Whether the frame that has begun is held until a caller says where it is to go. Otherwise the frame is on its
    /// way into memory of its own, or is there already.
    pub(crate) fn is_streamed_held(&mut self, stream: StreamId) -> Result<bool, Refusal> {
        let inbound = self.streamed(stream)?;
        if inbound.has_come() {
            return Ok(false);
        }
        if inbound.held_bytes().is_some() {
            return Ok(true);
        }
        if inbound.is_about_to_be_held() { Err(Refusal::WouldBlock) } else { Ok(false) }
    }

    /// Finishes a claimed frame that is whole and was taken.
    fn finish_streamed(&mut self, shard: &mut Shard, key: PeerKey) {
        self.decode_direct(shard, key, |inbound, delivery| {
            let decoded = inbound.finish_taken(delivery);
            // Remove the entry that stands for the frame: the frame must not be taken again.
            inbound.next_streamed();
            ((), decoded)
        });
    }

    /// A caller gives up the claim on a frame that is not whole: the frame is received into memory of its own.
    pub(crate) fn unclaim_streamed(
        &mut self,
        shard: &mut Shard,
        claim: &Claim,
        frame: FrameBuf<'_>,
    ) {
        if self.is_valid(claim) {
            self.peers[claim.peer].inbound.unclaim(claim, &[frame]);
            self.arm_anew(shard, claim.peer);
        }
    }

    /// The peer's inbound half, unless the peer was lost.
    fn streamed(&mut self, stream: StreamId) -> Result<&mut Inbound, Refusal> {
        let peer = self.peers.get_mut(stream.peer);
        let peer = peer.filter(|peer| peer.stats.connection == stream.connection);
        let is_lost = |inbound: &Inbound| !inbound.is_streamed();
        match peer {
            Some(peer)
                if !is_lost(&peer.inbound) && (peer.is_ready() || peer.inbound.is_set_aside()) =>
            {
                Ok(&mut peer.inbound)
            }
            _ => Err(Error::PeerLost.into()),
        }
    }
}
