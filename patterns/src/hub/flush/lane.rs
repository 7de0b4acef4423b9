//! The lane: the open block that the next short message of a socket joins without another check.
//!
//! In a batch scope of an inline context, one message after the other joins the open block of the only peer. The
//! conditions for that are checked once, when the lane is opened. Any other access to the hub closes the lane
//! ([`ReactorCell`](crate::inline)), so nothing can have changed while it is open.

use super::outbox::{Bounds, Room};
use crate::hub::{Hub, PeerKey, SocketKey};

/// The key of no socket: the table would be too large.
const NONE: SocketKey = SocketKey(u32::MAX);

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    socket: SocketKey,
    peer: PeerKey,
    room: Room,
}

impl Default for Lane {
    fn default() -> Self {
        Self::CLOSED
    }
}

impl Lane {
    pub(crate) const CLOSED: Self =
        Self { socket: NONE, peer: PeerKey(u32::MAX), room: Room::NONE };

    /// A message of this socket joined the block of this peer, the socket's only one; the block still has `room`.
    pub(crate) fn open(socket: SocketKey, peer: PeerKey, room: Room) -> Self {
        Self { socket, peer, room }
    }
}

impl Hub {
    /// Closes the lane, before the hub is used for anything but a send in the lane.
    #[inline(always)]
    pub(crate) fn close_lane(&mut self) {
        self.flushing.lane.socket = NONE;
    }

    /// Opens the lane after a message that was sent in another way, if the message waits in a block for the end of a
    /// batch scope.
    pub(crate) fn open_lane(&mut self, socket: SocketKey) {
        let state = &self.sockets[socket];
        let is_plain = state.sends_plainly && state.sending.active_len() == 1;
        let Some(key) = state.turn().filter(|_| is_plain) else { return };
        let peer = &self.peers[key];
        if self.flushing.burst.is_none() && peer.is_dirty && peer.link.is_none() {
            let room = peer.outbox.room(&Bounds::of(&state.options, false));
            self.flushing.lane = room.map_or(Lane::CLOSED, |room| Lane::open(socket, key, room));
        }
    }

    /// Sends a short message if the lane is this socket's and has room for it. Returns whether it did.
    #[inline(always)]
    pub(crate) fn send_in_lane(&mut self, socket: SocketKey, body: &[u8]) -> bool {
        let Lane { socket: owner, peer, room } = &self.flushing.lane;
        if *owner != socket {
            return false;
        }
        let Some(peer) = self.peers.get_mut(*peer) else { return false };
        let is_sent = peer.outbox.join_within(body, room);
        if is_sent {
            peer.stats.bytes_out += body.len() as u64;
        }
        is_sent
    }

    /// As [`Hub::send_in_lane`], for a body of `len` bytes that `fill` writes in place, over zeros.
    ///
    /// # Errors
    /// Returns `fill` if the lane is not this socket's or has no room; nothing was done then.
    #[inline(always)]
    pub(crate) fn send_in_lane_with<F: FnOnce(&mut [u8])>(
        &mut self,
        socket: SocketKey,
        len: usize,
        fill: F,
    ) -> Result<(), F> {
        let Lane { socket: owner, peer, room } = &self.flushing.lane;
        if *owner != socket {
            return Err(fill);
        }
        let Some(peer) = self.peers.get_mut(*peer) else { return Err(fill) };
        peer.outbox.join_within_with(len, room, fill)?;
        peer.stats.bytes_out += len as u64;
        Ok(())
    }
}
