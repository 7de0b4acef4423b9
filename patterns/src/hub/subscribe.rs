//! SUB's subscriptions, and who has them at PUB.

use zring_engine::Shard;

use super::{Hub, SUBSCRIPTION_BYTES_MAX, socket::Pattern};
use crate::{
    error::Error,
    wire::{encode_cancel, encode_subscribe},
};

impl Hub {
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
        let mut told = Vec::new();
        for (key, peer) in &mut self.peers {
            if peer.socket == socket && peer.is_ready() {
                encoded.clear();
                encode(&mut encoded, peer.minor);
                peer.append_command(shard, &encoded);
                peer.flush(shard);
                told.push(key as u32);
            }
        }
        told.into_iter().for_each(|key| self.ring(shard, key));
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
