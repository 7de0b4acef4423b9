//! How connections and sockets end, and what becomes of the messages that they leave.

use zring_engine::Shard;

use crate::{
    hub::{
        Hub, PeerKey, SocketKey, Timer,
        peer::{Ending, Phase},
        socket::SocketState,
    },
    message::Message,
    monitor::{DisconnectReason, EventKind, HandshakeFault},
    pattern::{Fate, Sends},
    route::PipeId,
};

impl Hub {
    /// The user closes the socket: its listeners are closed at once, its connections when the messages queued for them
    /// are sent or the linger time is up.
    pub(crate) fn close_socket(&mut self, shard: &mut Shard, socket: SocketKey) {
        let state = &mut self.sockets[socket];
        state.closing.is_lingering = true;
        let linger = state.options.linger;
        let listeners = std::mem::take(&mut state.endpoints.listeners);
        self.drop_partial(shard, socket);
        for key in listeners.into_values() {
            self.close_listener(shard, key);
        }
        self.refuse_arrivals(shard, socket);
        if let Some(linger) = linger {
            let linger_ns = u64::try_from(linger.as_nanos()).unwrap_or(u64::MAX);
            if linger_ns == 0 {
                return self.linger_expired(shard, socket);
            }
            let at_ns = shard.now_ns().saturating_add(linger_ns);
            let timer = shard.arm_timer(at_ns, Timer::Linger(socket).token());
            self.sockets[socket].closing.timer = Some(timer);
        }
        self.finish_linger(shard, socket);
    }

    /// Messages of the socket whose send has not completed.
    pub(crate) fn unsent(&self, socket: SocketKey) -> u64 {
        self.queued_for_peers(socket) + self.sockets[socket].pending.reported()
    }

    fn queued_for_peers(&self, socket: SocketKey) -> u64 {
        let state = &self.sockets[socket];
        // A type that does not send queues only subscriptions, and their loss does no harm.
        if state.facts.sends == Sends::Never {
            return 0;
        }
        state.peers.keys().map(|key| u64::from(self.peers[key].outbox.messages())).sum()
    }

    /// Closes the connections of a lingering socket if nothing is left to send. The socket is removed when they are
    /// gone.
    pub(crate) fn finish_linger(&mut self, shard: &mut Shard, socket: SocketKey) {
        let Some(state) = self.sockets.get(socket) else { return };
        if !state.closing.is_lingering {
            return;
        }
        let is_clear = self.queued_for_peers(socket) == 0;
        state.note_clear(is_clear);
        if !is_clear {
            return;
        }
        if !state.pending.is_empty() {
            if state.expects_peers() || !state.peers.is_empty() {
                return;
            }
            self.give_up_pending(socket);
        }
        // Messages that another share loses may still go out through this share.
        if self.sockets[socket].are_shares_clear() {
            self.end_socket(shard, socket);
        }
    }

    pub(crate) fn linger_expired(&mut self, shard: &mut Shard, socket: SocketKey) {
        self.sockets[socket].closing.timer = None;
        self.give_up_pending(socket);
        let queued = self.queued_for_peers(socket);
        let state = &mut self.sockets[socket];
        state.closing.unsent += queued;
        state.closing.gave_up = true;
        state.note_clear(true);
        self.end_socket(shard, socket);
    }

    fn give_up_pending(&mut self, socket: SocketKey) {
        let state = &mut self.sockets[socket];
        let dropped = state.pending.clear() as u64;
        state.closing.unsent += dropped;
        state.stats.messages_dropped += dropped;
    }

    fn end_socket(&mut self, shard: &mut Shard, socket: SocketKey) {
        let state = &mut self.sockets[socket];
        state.closing.has_ended = true;
        if let Some(timer) = state.closing.timer.take() {
            shard.cancel_timer(timer);
        }
        for key in self.sockets[socket].endpoints.connectors.clone() {
            if !self.connectors[key].stopped {
                self.stop_connector(shard, key);
            }
        }
        for key in self.sockets[socket].peers.to_keys() {
            self.end_locally(shard, key);
            self.remove_if_done(shard, key);
        }
    }

    /// Removes a closed socket that has nothing left. Returns how many messages were given up, or `None` if the socket
    /// still has something left.
    pub(crate) fn reap_socket(&mut self, socket: SocketKey) -> Option<u64> {
        let state = &self.sockets[socket];
        // A socket without connections may still wait for a peer that takes its messages.
        let has_some = !state.endpoints.connectors.is_empty() || !state.peers.is_empty();
        if !state.closing.has_ended || has_some {
            return None;
        }
        Some(self.sockets.remove(socket).closing.unsent)
    }
}

impl Hub {
    /// Ends a connection by decision of this side.
    pub(crate) fn end_locally(&mut self, shard: &mut Shard, key: PeerKey) {
        match self.peers[key].phase {
            Phase::Handshaking(_) => self.fail_handshake(shard, key, HandshakeFault::LocalClose),
            _ => self.disconnect(shard, key, DisconnectReason::LocalClose),
        }
    }

    /// Ends an established connection: the peer takes no part in routing from here on.
    pub(crate) fn disconnect(&mut self, shard: &mut Shard, key: PeerKey, why: DisconnectReason) {
        let peer = &mut self.peers[key];
        if !peer.is_ready() {
            return;
        }
        let state = &mut self.sockets[peer.socket];
        state.note_ready(false);
        state.stats.violations += u64::from(matches!(
            why,
            DisconnectReason::Violation(_)
                | DisconnectReason::TooManyFrames { .. }
                | DisconnectReason::TooManySubscriptions { .. }
                | DisconnectReason::TooManySubscriptionBytes { .. }
        ));
        state.stats.file_faults += u64::from(matches!(why, DisconnectReason::File(_)));
        state.sending.detach(peer.slot);
        state.room.detach(key.pipe());
        peer.stats.subscriptions = 0;
        self.waiting.touch(state);
        peer.phase = Phase::Closing(Ending::Ready(why));
        self.close_conn(shard, key);
    }

    pub(crate) fn close_conn(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        if let Some(timer) = peer.timer.take() {
            shard.cancel_timer(timer);
        }
        match peer.conn {
            Some(conn) => shard.close(conn),
            None => self.end_link(key),
        }
    }

    /// The connection has had its last completion: its unsent messages are requeued or dropped, and an event reports
    /// its end to the user.
    pub(crate) fn closed(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        let (socket, connector) = (peer.socket, peer.connector);
        let cut = peer.cut.take();
        let mut recovered = peer.outbox.recover(cut);
        peer.stats.messages_out += recovered.handed;
        let state = &mut self.sockets[socket];
        let unsent = recovered.unsent.len() as u64;
        let was_ready = matches!(peer.phase, Phase::Closing(Ending::Ready(_)));
        let bytes: u64 = recovered.unsent.iter().map(|message| message.len() as u64).sum();
        peer.stats.bytes_out -= bytes;
        let broke_off =
            matches!(&peer.phase, Phase::Closing(Ending::Ready(DisconnectReason::File(_))));
        if broke_off && unsent > 0 {
            // The first unsent message contains the faulty file, so it cannot be sent to any peer.
            recovered.unsent.remove(0);
            state.room.spoiled(Some(key.pipe()));
        }
        let rest = recovered.unsent.len() as u64;
        let is_requeued = was_ready && rest > 0 && state.requeue(key.pipe(), recovered.unsent);
        let requeued = if is_requeued { rest } else { 0 };
        let counts = was_ready && state.facts.sends != Sends::Never;
        let dropped = if counts { unsent - requeued } else { 0 };
        peer.stats.messages_requeued += requeued;
        peer.stats.messages_dropped += dropped;
        let kind = match std::mem::replace(&mut peer.phase, Phase::Gone) {
            Phase::Closing(Ending::Ready(why)) => EventKind::Disconnected {
                why,
                messages_in: peer.stats.messages_in,
                messages_out: peer.stats.messages_out,
                messages_requeued: requeued,
                messages_dropped: dropped,
            },
            Phase::Closing(Ending::Handshake(why)) => EventKind::HandshakeFailed { why },
            Phase::Handshaking(_) | Phase::Ready | Phase::Gone => {
                unreachable!("only closing connections are closed")
            }
        };
        state.emit_of(&mut self.waiting, &peer.stats, kind);
        peer.connector = None;
        if connector.is_none() && peer.conn.is_some() {
            state.note_load(false);
        }
        self.remove_if_done(shard, key);
        if let Some(connector) = connector {
            self.retry(shard, connector);
        }
        self.drain_pending(shard, socket);
        self.tell_lingering(socket);
        self.touch(socket);
    }

    /// Removes a peer that is gone and has no messages left to take.
    pub(crate) fn remove_if_done(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        let state = &mut self.sockets[peer.socket];
        let has_some =
            peer.inbound.has_message() || peer.inbound.is_set_aside() || peer.has_undecoded();
        let keeps = has_some && !state.closing.is_lingering;
        if !peer.is_gone() || keeps {
            return;
        }
        peer.inbound.discard_undecoded(shard.memory().0);
        state.receiving.detach(peer.slot);
        state.reading.held.retain(|&held| held != key);
        state.room.forget(key.pipe());
        state.peers.remove(peer.slot);
        state.stats.add(&peer.stats);
        if peer.is_dirty {
            self.flushing.dirty.retain(|&dirty| dirty != key);
        }
        self.waiting.touch(state);
        self.peers.remove(key);
    }
}

impl SocketState {
    /// Puts the unsent messages of a lost connection in front of all waiting messages, in order, unless the room drops
    /// them or the linger time is up. Returns whether they were requeued.
    fn requeue(&mut self, peer: PipeId, unsent: Vec<Message>) -> bool {
        let goes_on = self.room.lost(peer) == Fate::Requeue && !self.closing.gave_up;
        if goes_on {
            self.pending.push_all_front(unsent);
        }
        goes_on
    }
}
