//! How connections and sockets end, and what becomes of what they leave behind.

use zring_engine::Shard;

use super::{
    Hub, Timer,
    peer::{Ending, Peer, Phase},
    socket::{Pattern, Request, SocketCore},
};
use crate::{
    monitor::{DisconnectReason, EventKind, HandshakeFault},
    route::PipeId,
};

impl Hub {
    /// The user is done with the socket: listeners go at once, connections when what is queued for them
    /// is sent. Returns whether that is the case already.
    pub(crate) fn close_socket(&mut self, shard: &mut Shard, socket: u32) {
        let core = &mut self.sockets[socket as usize];
        core.lingering = true;
        core.partial.clear();
        let linger = core.options.linger;
        for key in std::mem::take(&mut core.listeners).into_values() {
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
            self.sockets[socket as usize].linger_timer = Some(timer);
        }
        self.finish_linger(shard, socket);
    }

    /// Messages of the socket whose send has not completed.
    pub(crate) fn unsent(&self, socket: u32) -> u64 {
        self.queued_for_peers(socket) + self.sockets[socket as usize].pending.reported()
    }

    fn queued_for_peers(&self, socket: u32) -> u64 {
        if matches!(self.sockets[socket as usize].pattern, Pattern::Sub(_)) {
            return 0;
        }
        self.peers_of(socket).map(|(_, peer)| u64::from(peer.outbox.messages())).sum()
    }

    fn peers_of(&self, socket: u32) -> impl Iterator<Item = (u32, &Peer)> {
        let peers = self.peers.iter().map(|(key, peer)| (key as u32, peer));
        peers.filter(move |(_, peer)| peer.socket == socket)
    }

    /// A lingering socket goes on to close its connections when nothing is left to send, and is gone when
    /// they are.
    pub(super) fn finish_linger(&mut self, shard: &mut Shard, socket: u32) {
        let Some(core) = self.sockets.get(socket as usize) else { return };
        if !core.lingering {
            return;
        }
        let is_clear = self.queued_for_peers(socket) == 0;
        core.note_clear(is_clear);
        if !is_clear {
            return;
        }
        if !core.pending.is_empty() {
            if core.expects_peers() || self.peers_of(socket).next().is_some() {
                return;
            }
            self.give_up_pending(socket);
        }
        // What another part loses may still go out by this one.
        if self.sockets[socket as usize].are_parts_clear() {
            self.end_socket(shard, socket);
        }
    }

    pub(super) fn linger_expired(&mut self, shard: &mut Shard, socket: u32) {
        self.sockets[socket as usize].linger_timer = None;
        self.give_up_pending(socket);
        let queued = self.queued_for_peers(socket);
        let core = &mut self.sockets[socket as usize];
        core.unsent += queued;
        core.gave_up = true;
        core.note_clear(true);
        self.end_socket(shard, socket);
    }

    fn give_up_pending(&mut self, socket: u32) {
        let core = &mut self.sockets[socket as usize];
        let dropped = core.pending.clear() as u64;
        core.unsent += dropped;
        core.stats.messages_dropped += dropped;
    }

    fn end_socket(&mut self, shard: &mut Shard, socket: u32) {
        let core = &mut self.sockets[socket as usize];
        core.ended = true;
        if let Some(timer) = core.linger_timer.take() {
            shard.cancel_timer(timer);
        }
        for key in self.sockets[socket as usize].connectors.clone() {
            if !self.connectors[key as usize].stopped {
                self.stop_connector(shard, key);
            }
        }
        let keys: Vec<u32> = self.peers_of(socket).map(|(key, _)| key).collect();
        for key in keys {
            self.end_locally(shard, key);
            self.remove_if_done(shard, key);
        }
    }

    /// Whether a closed socket has nothing left; then it is removed. Returns messages given up.
    pub(crate) fn reap_socket(&mut self, socket: u32) -> Option<u64> {
        let core = &self.sockets[socket as usize];
        // One without connections may still wait for somebody who takes its messages.
        if !core.ended || !core.connectors.is_empty() || self.peers_of(socket).next().is_some() {
            return None;
        }
        Some(self.sockets.remove(socket as usize).unsent)
    }
}

impl Hub {
    /// Ends a connection because this side wants so.
    pub(super) fn end_locally(&mut self, shard: &mut Shard, key: u32) {
        match self.peers[key as usize].phase {
            Phase::Handshaking(_) => self.fail_handshake(shard, key, HandshakeFault::LocalClose),
            _ => self.disconnect(shard, key, DisconnectReason::LocalClose),
        }
    }

    /// Ends an established connection: it takes no part in routing from here on.
    pub(super) fn disconnect(&mut self, shard: &mut Shard, key: u32, why: DisconnectReason) {
        let peer = &mut self.peers[key as usize];
        if !peer.is_ready() {
            return;
        }
        let core = &mut self.sockets[peer.socket as usize];
        core.note_ready(false);
        core.stats.violations += u64::from(matches!(
            why,
            DisconnectReason::Violation(_)
                | DisconnectReason::TooManyFrames { .. }
                | DisconnectReason::TooManySubscriptions { .. }
                | DisconnectReason::TooManySubscriptionBytes { .. }
        ));
        core.stats.file_faults += u64::from(matches!(why, DisconnectReason::File(_)));
        core.sending.detach(PipeId(key));
        self.waiting.touch(core);
        if let Pattern::Pub(trie) = &mut core.pattern {
            trie.remove_pipe(PipeId(key));
            peer.stats.subscriptions = 0;
        }
        peer.phase = Phase::Closing(Ending::Ready(why));
        self.close_conn(shard, key);
    }

    pub(super) fn close_conn(&mut self, shard: &mut Shard, key: u32) {
        let peer = &mut self.peers[key as usize];
        if let Some(timer) = peer.timer.take() {
            shard.cancel_timer(timer);
        }
        match peer.conn {
            Some(conn) => shard.close(conn),
            None => self.end_pipe(key),
        }
    }

    /// The connection has seen its last completion: what it had not handed over goes elsewhere, and
    /// the user learns of its end.
    pub(super) fn closed(&mut self, shard: &mut Shard, key: u32) {
        let peer = &mut self.peers[key as usize];
        let (socket, connector) = (peer.socket, peer.connector);
        let cut = peer.cut.take();
        let mut recovered = peer.outbox.recover(cut);
        peer.stats.messages_out += recovered.handed;
        let core = &mut self.sockets[socket as usize];
        let unsent = recovered.unsent.len() as u64;
        let was_ready = matches!(peer.phase, Phase::Closing(Ending::Ready(_)));
        let bytes: u64 = recovered.unsent.iter().map(|message| message.len() as u64).sum();
        peer.stats.bytes_out -= bytes;
        let broke_off =
            matches!(&peer.phase, Phase::Closing(Ending::Ready(DisconnectReason::File(_))));
        if broke_off && unsent > 0 {
            // The first one is what the file is part of: nobody can be sent it.
            recovered.unsent.remove(0);
            give_up_request(core, key);
        }
        let rest = recovered.unsent.len() as u64;
        let goes_on = was_ready && core.requeues() && requeue(core, key, recovered.unsent);
        let requeued = if goes_on { rest } else { 0 };
        let dropped = if was_ready && !core.is_subscriber() { unsent - requeued } else { 0 };
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
        core.emit(&peer.stats.endpoint, Some(peer.stats.connection), kind);
        peer.connector = None;
        if connector.is_none() && peer.conn.is_some() {
            core.note_load(false);
        }
        self.remove_if_done(shard, key);
        if let Some(connector) = connector {
            self.retry(shard, connector);
        }
        self.drain_pending(shard, socket);
        self.tell_lingering(socket);
        self.touch(socket);
    }

    /// Forgets a peer that is gone and from whom nothing is left to take.
    pub(super) fn remove_if_done(&mut self, shard: &mut Shard, key: u32) {
        let peer = &mut self.peers[key as usize];
        let core = &mut self.sockets[peer.socket as usize];
        let has_some =
            peer.inbound.has_message() || peer.inbound.is_set_aside() || peer.has_undecoded();
        let keeps = has_some && !core.lingering;
        if !peer.is_gone() || keeps {
            return;
        }
        peer.inbound.discard_undecoded(shard.memory().0);
        core.receiving.detach(PipeId(key));
        core.held.retain(|&held| held != key);
        core.stats.add(&peer.stats);
        if peer.is_dirty {
            self.dirty.retain(|&dirty| dirty != key);
        }
        self.waiting.touch(core);
        self.peers.remove(key as usize);
    }
}

/// A request that cannot be sent has no reply: another one may follow.
fn give_up_request(core: &mut SocketCore, key: u32) {
    if let Pattern::Req { request, .. } = &mut core.pattern
        && matches!(request, Request::Waiting { peer: Some(peer) } if *peer == key)
    {
        *request = Request::Idle;
    }
}

/// Puts what a dead connection left in front of everything that waits, in order; or does not, because nobody
/// waits for it any more.
fn requeue(core: &mut SocketCore, key: u32, unsent: Vec<crate::message::Message>) -> bool {
    if let Pattern::Req { request, .. } = &mut core.pattern {
        match request {
            Request::Waiting { peer } if *peer == Some(key) => *peer = None,
            // A request that was given up meanwhile.
            _ => return false,
        }
    }
    core.pending.push_all_front(unsent);
    true
}

impl SocketCore {
    fn is_subscriber(&self) -> bool {
        matches!(self.pattern, Pattern::Sub(_))
    }
}
