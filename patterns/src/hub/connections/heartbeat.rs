//! Deadlines of a peer: the handshake's, then the heartbeat's.

use zring_engine::Shard;

use crate::hub::{
    Hub, PeerKey, Timer,
    peer::{Peer, Phase},
};
use crate::{
    monitor::{DisconnectReason, HandshakeFault},
    wire::{HeartbeatAction, encode_ping},
};

impl Peer {
    /// Whether the peer has not answered because bytes in front of the PING are still on their way to the peer. On a
    /// slow network a PING waits behind a large message, here and in the kernel, for longer than the peer may be
    /// silent. Bytes that the peer acknowledges meanwhile are as good as an answer.
    fn is_progressing(&mut self, shard: &mut Shard) -> bool {
        let Some(conn) = self.conn else { return false };
        let progress = shard.progress(conn);
        let is_further = progress.is_pending && progress.taken != self.taken;
        self.taken = progress.taken;
        is_further && self.heartbeat.handle_progress(shard.now_ns())
    }
}

impl Hub {
    /// Arms the peer's timer for the heartbeat's next deadline.
    pub(crate) fn watch_heartbeat(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        if let Some(timer) = peer.timer.take() {
            shard.cancel_timer(timer);
        }
        if let Some(deadline_ns) = peer.heartbeat.poll_timeout() {
            peer.timer = Some(shard.arm_timer(deadline_ns, Timer::Peer(key).token()));
        }
    }

    /// A PING was answered: sends the answer, and from now on watches the TTL that the PING asked for.
    pub(crate) fn answer(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        if !peer.is_ready() {
            // The connection had ended when the PING was decoded: a timer would outlive the peer.
            return;
        }
        peer.flush(shard);
        peer.heartbeats = true;
        self.watch_heartbeat(shard, key);
    }

    pub(crate) fn peer_timer(&mut self, shard: &mut Shard, key: PeerKey) {
        let peer = &mut self.peers[key];
        peer.timer = None;
        match peer.phase {
            Phase::Handshaking(_) => {
                return self.fail_handshake(shard, key, HandshakeFault::Timeout);
            }
            Phase::Ready => {}
            Phase::Closing(_) | Phase::Gone => return,
        }
        let awaits_answer = peer.heartbeat.awaits_answer();
        match peer.heartbeat.handle_timeout(shard.now_ns()) {
            HeartbeatAction::None => {}
            HeartbeatAction::SendPing => {
                if let Some(conn) = peer.conn.filter(|_| !awaits_answer) {
                    peer.taken = shard.progress(conn).taken;
                }
                let mut ping = Vec::with_capacity(32);
                encode_ping(&mut ping, peer.heartbeat.ttl_ds(), &[]);
                peer.outbox.append_command(&mut shard.arena, &ping);
                peer.flush(shard);
            }
            HeartbeatAction::Expired if peer.is_progressing(shard) => {}
            HeartbeatAction::Expired => {
                return self.disconnect(shard, key, DisconnectReason::HeartbeatTimeout);
            }
        }
        self.watch_heartbeat(shard, key);
    }
}
