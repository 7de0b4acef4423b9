//! A message that is sent frame by frame.
//!
//! The frames wait at the socket until the last one comes, and then go out as one message. With the first frame room
//! for one message is reserved. So only the first frame can be refused, and the last frame never has to wait. If the
//! peer with that room is lost meanwhile, the message goes to another peer or waits for one, as the unsent messages of
//! a lost connection do.

use super::{Hub, PeerKey, Refusal, Reserved, SocketKey, SocketState, regain_credit, spend_credit};
use zring_engine::Shard;

use crate::{
    frame::Frame,
    pattern::{Reserve, Sends},
};

impl Hub {
    /// Keeps a frame of a message whose last frame comes with [`Hub::try_send`]. The frame is taken only on success.
    pub(crate) fn send_more(
        &mut self,
        socket: SocketKey,
        frame: &mut Option<Frame>,
    ) -> Result<(), Refusal> {
        if self.sockets[socket].partial.is_empty() {
            self.begin_partial(socket)?;
        }
        let state = &mut self.sockets[socket];
        state.sends_plainly = false;
        state.partial.frames.extend(frame.take());
        Ok(())
    }

    /// Whether a message in frames may be begun.
    pub(crate) fn check_begin(&self, socket: SocketKey) -> Result<(), Refusal> {
        let state = &self.sockets[socket];
        state.room.begin(&state.options).map_err(|misuse| state.misuse(misuse))?;
        Ok(())
    }

    fn begin_partial(&mut self, socket: SocketKey) -> Result<(), Refusal> {
        let state = &mut self.sockets[socket];
        let reserve = state.room.begin(&state.options).map_err(|misuse| state.misuse(misuse))?;
        state.partial.reserved = match (reserve, state.turn()) {
            (Reserve::Nothing, _) => Reserved::Nothing,
            (Reserve::Turn, Some(key)) => {
                let peer = &mut self.peers[key];
                peer.is_reserved = true;
                // The reservation uses up the peer's turn and a message of its credit, in place of the message.
                spend_credit(state, peer);
                Reserved::Peer { key, connection: peer.stats.connection }
            }
            (Reserve::Turn, None) if state.may_wait() => Reserved::Pending,
            (Reserve::Turn, None) => return Err(Refusal::WouldBlock),
        };
        Ok(())
    }

    /// Drops the frames of a message that was begun. Returns how many there were.
    pub(crate) fn drop_partial(&mut self, shard: &mut Shard, socket: SocketKey) -> usize {
        let state = &mut self.sockets[socket];
        let frames = std::mem::take(&mut state.partial.frames).len();
        let reserved = state.end_partial();
        if let Some(key) = self.reserved_peer(reserved) {
            let peer = &mut self.peers[key];
            peer.is_reserved = false;
            let state = &mut self.sockets[socket];
            regain_credit(state, peer);
            self.waiting.touch(state);
            // The room may be for a message that waits.
            self.drain_waiting(shard, socket);
        }
        frames
    }

    /// The peer that has the reserved room, unless it was lost.
    pub(crate) fn reserved_peer(&self, reserved: Reserved) -> Option<PeerKey> {
        let Reserved::Peer { key, connection } = reserved else { return None };
        let peer = self.peers.get(key)?;
        (peer.stats.connection == connection && peer.is_ready()).then_some(key)
    }
}

impl SocketState {
    /// Ends the message in frames that is under way. Returns the room that was reserved for it.
    pub(crate) fn end_partial(&mut self) -> Reserved {
        self.sends_plainly = self.facts.sends == Sends::ByTurn;
        std::mem::take(&mut self.partial.reserved)
    }
}
