//! Where the next short message of a socket goes without another look.
//!
//! In a batch scope of an inline context one message of PUSH after the other joins the block that is open for the only
//! peer. What makes that right is looked at once, when the lane is opened: whatever else gets at the hub closes it
//! ([`CoreCell`](crate::inline)), so that nothing can have changed while it is open.

use super::{
    Hub,
    outbox::{Bounds, Room},
};
use crate::{route::PipeId, socket_type::SocketType};

/// No socket: the table would be too large.
const NONE: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    socket: u32,
    peer: u32,
    room: Room,
}

impl Lane {
    pub(super) const CLOSED: Self = Self { socket: NONE, peer: NONE, room: Room::NONE };

    /// A message of this socket joined the block of this peer, its only one, where there is so much room.
    pub(super) fn open(socket: u32, peer: u32, room: Room) -> Self {
        Self { socket, peer, room }
    }
}

impl Hub {
    /// Something else is about to be done than to send in the lane.
    #[inline(always)]
    pub(crate) fn close_lane(&mut self) {
        self.lane.socket = NONE;
    }

    /// Opens the lane behind a message that went another way, if it waits in a block for the end of a batch scope.
    pub(crate) fn open_lane(&mut self, socket: u32) {
        let core = &self.sockets[socket as usize];
        let is_plain = core.socket_type == SocketType::Push
            && core.sending.active_len() == 1
            && core.partial.is_empty()
            && core.pending.is_empty();
        let Some(PipeId(key)) = core.sending.current().filter(|_| is_plain) else { return };
        let peer = &self.peers[key as usize];
        if self.burst.is_none() && peer.is_dirty && peer.pipe.is_none() {
            let room = peer.outbox.room(&Bounds::of(&core.options, false));
            self.lane = room.map_or(Lane::CLOSED, |room| Lane::open(socket, key, room));
        }
    }

    /// Sends a short message if the lane is this socket's and has room for it. Returns whether it did.
    #[inline(always)]
    pub(crate) fn send_in_lane(&mut self, socket: u32, body: &[u8]) -> bool {
        let Lane { socket: owner, peer, room } = &self.lane;
        if *owner != socket {
            return false;
        }
        let Some(peer) = self.peers.get_mut(*peer as usize) else { return false };
        let is_sent = peer.outbox.join_within(body, room);
        if is_sent {
            peer.stats.bytes_out += body.len() as u64;
        }
        is_sent
    }

    /// As [`Hub::send_in_lane`], for a body of `len` bytes that `fill` writes over zeros where it is sent from.
    ///
    /// # Errors
    /// `fill`, where nothing was done.
    #[inline(always)]
    pub(crate) fn send_in_lane_with<F: FnOnce(&mut [u8])>(
        &mut self,
        socket: u32,
        len: usize,
        fill: F,
    ) -> Result<(), F> {
        let Lane { socket: owner, peer, room } = &self.lane;
        if *owner != socket {
            return Err(fill);
        }
        let Some(peer) = self.peers.get_mut(*peer as usize) else { return Err(fill) };
        peer.outbox.join_within_with(len, room, fill)?;
        peer.stats.bytes_out += len as u64;
        Ok(())
    }
}
