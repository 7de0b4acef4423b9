//! Subscriptions: the calls of a subscriber, and a publisher's count of its subscribers.

use zring_engine::Shard;

use super::{Hub, PeerKey, SocketKey};
use crate::{
    error::Error,
    pattern::{SUBSCRIPTION_BYTES_MAX, Subscription},
    wire::{encode_cancel, encode_subscribe},
};

/// Encodes a subscription command for a peer of this minor version.
pub(crate) fn encode(out: &mut Vec<u8>, command: Subscription<'_>, minor: u8) {
    match command {
        Subscription::Subscribe(prefix) => encode_subscribe(out, prefix, minor),
        Subscription::Cancel(prefix) => encode_cancel(out, prefix, minor),
    }
}

impl Hub {
    /// Changes the socket's subscriptions, and tells every publisher if the room says so.
    pub(crate) fn subscribe(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        change: Subscription<'_>,
    ) -> Result<(), Error> {
        let (bytes, max) = (change.prefix().len(), SUBSCRIPTION_BYTES_MAX);
        if bytes > max && matches!(change, Subscription::Subscribe(_)) {
            return Err(Error::SubscriptionTooLong { bytes, max });
        }
        let state = &mut self.sockets[socket];
        let is_news = state.room.subscribe(change).map_err(|misuse| state.misuse(misuse))?;
        if is_news {
            self.tell_peers(shard, socket, change);
        }
        Ok(())
    }

    fn tell_peers(&mut self, shard: &mut Shard, socket: SocketKey, command: Subscription<'_>) {
        let mut encoded = Vec::new();
        let is_ready = |key: &PeerKey| self.peers[*key].is_ready();
        let told: Vec<PeerKey> = self.sockets[socket].peers.keys().filter(is_ready).collect();
        for &key in &told {
            let peer = &mut self.peers[key];
            encoded.clear();
            encode(&mut encoded, command, peer.minor);
            peer.append_command(shard, &encoded);
            peer.flush(shard);
        }
        told.into_iter().for_each(|key| self.ring(shard, key));
        self.flushing.wants_flush = true;
    }

    /// How many subscribers a message with this topic would go to.
    pub(crate) fn subscribers(&mut self, socket: SocketKey, topic: &[u8]) -> Result<usize, Error> {
        let state = &mut self.sockets[socket];
        state.room.subscribers(topic).map_err(|misuse| state.misuse(misuse))
    }
}
