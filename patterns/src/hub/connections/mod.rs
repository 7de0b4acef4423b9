//! Connections from their beginning to their end: listeners, connectors, handshakes, heartbeats, closing.

mod closing;
mod connect;
mod heartbeat;
mod listen;

use std::{io, sync::Arc};

use zring_engine::{
    ConnId, FileFault, Shard,
    sys::net::{self, SocketOptions},
};

use super::{
    ConnectorKey, Hub, Owner, PeerKey, SocketKey, Stage, Timer,
    peer::{Ending, Peer, Phase},
    subscribe::encode,
};
use crate::{
    monitor::{DisconnectReason, EventKind, HandshakeFault, IoFault},
    options::Options,
    wire::{Handshake, LocalPeer, PeerInfo, Progress, Violation},
};

/// How a connection came to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opened {
    Accepted,
    Connected(ConnectorKey),
}

impl Opened {
    pub(crate) fn connector(self) -> Option<ConnectorKey> {
        match self {
            Self::Accepted => None,
            Self::Connected(key) => Some(key),
        }
    }

    pub(crate) fn event(self, peer: &Arc<str>) -> EventKind {
        match self {
            Self::Accepted => EventKind::Accepted { peer: peer.clone() },
            Self::Connected(_) => EventKind::Connected,
        }
    }
}

fn socket_options(options: &Options) -> SocketOptions {
    SocketOptions {
        sndbuf_bytes: options.sndbuf,
        rcvbuf_bytes: options.rcvbuf,
        keepalive: net::Keepalive {
            enabled: options.tcp_keepalive,
            idle: options.tcp_keepalive_idle,
            interval: options.tcp_keepalive_intvl,
            retries: options.tcp_keepalive_cnt,
        },
        v6only: false,
    }
}

impl Hub {
    /// Adds a peer to the table of the hub, to its socket's peers, and to its connector.
    pub(crate) fn add_peer(&mut self, mut peer: Peer) -> PeerKey {
        let key = self.peers.vacant_key();
        peer.slot = self.sockets[peer.socket].peers.add(key);
        if let Some(connector) = peer.connector {
            self.connectors[connector].stage = Stage::Up(key);
        }
        self.peers.insert(peer)
    }

    /// A transport connection is up: the handshake begins.
    fn start_peer(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        conn: ConnId,
        opened: Opened,
        endpoint: Arc<str>,
    ) {
        let state = &mut self.sockets[socket];
        let handshake = Handshake::new(LocalPeer {
            socket_type: state.facts.socket_type,
            routing_id: state.options.routing_id().to_vec(),
        });
        let phase = Phase::Handshaking(Box::new(handshake));
        let number = state.number_of(conn);
        let mut peer =
            Peer::new(socket, opened.connector(), phase, number, endpoint, &state.options);
        peer.conn = Some(conn);
        if let Some(fd) = shard.fd(conn) {
            let name = net::peer_name(fd);
            let name = name.map_or_else(|gone| gone.to_string(), |name| name.to_string());
            peer.stats.address = name.into();
        }
        state.emit_of(&mut self.waiting, &peer.stats, opened.event(&peer.stats.address));
        let deadline_ns = state.options.handshake_ivl_ns().map(|ivl_ns| shard.now_ns() + ivl_ns);
        if let Phase::Handshaking(handshake) = &mut peer.phase {
            handshake.poll_transmit(&mut peer.hello);
        }
        peer.flush(shard);
        let key = self.add_peer(peer);
        self.set_owner(conn, Owner::Peer(key));
        self.peers[key].timer = deadline_ns.map(|at| shard.arm_timer(at, Timer::Peer(key).token()));
        shard.receive_ring(conn);
    }

    /// Feeds bytes to the handshake; returns how many of them it consumed.
    pub(crate) fn handle_handshake(
        &mut self,
        shard: &mut Shard,
        key: PeerKey,
        bytes: &[u8],
    ) -> usize {
        let peer = &mut self.peers[key];
        let Phase::Handshaking(handshake) = &mut peer.phase else { return 0 };
        let handled = handshake.handle_input(bytes);
        handshake.poll_transmit(&mut peer.hello);
        peer.flush(shard);
        match handled {
            Ok((consumed, Progress::NeedMore)) => consumed,
            Ok((consumed, Progress::Established(info))) => {
                self.established(shard, key, *info);
                consumed
            }
            Err(violation) => {
                self.fail_handshake(shard, key, violation.into());
                bytes.len()
            }
        }
    }

    pub(crate) fn established(&mut self, shard: &mut Shard, key: PeerKey, info: PeerInfo) {
        let peer = &mut self.peers[key];
        let kind = EventKind::HandshakeDone {
            socket_type: info.socket_type,
            routing_id: info.routing_id.clone().into(),
            minor: info.minor,
        };
        peer.establish(info);
        if let Some(timer) = peer.timer.take() {
            shard.cancel_timer(timer);
        }
        let state = &mut self.sockets[peer.socket];
        state.emit_of(&mut self.waiting, &peer.stats, kind);
        state.note_ready(true);
        state.stats.handshakes_done += 1;
        let max = state.facts.peers_max;
        if state.peers.ready > max {
            return self.disconnect(shard, key, DisconnectReason::TooManyPeers { max });
        }
        let slot = peer.slot;
        if state.facts.rotates {
            state.sending.attach(slot, key.0);
            state.sending.activate(slot);
        }
        let mut encoded = Vec::new();
        state.room.attach(key.pipe(), &mut |command| {
            encoded.clear();
            encode(&mut encoded, command, peer.minor);
            peer.append_command(shard, &encoded);
        });
        // Every peer is on the fair queue, inactive at first.
        state.receiving.attach(slot, key.0);
        if peer.minor == 1 && peer.heartbeats {
            peer.heartbeat.on_established(shard.now_ns());
            self.watch_heartbeat(shard, key);
        } else {
            peer.heartbeats = false;
        }
        let peer = &mut self.peers[key];
        peer.flush(shard);
        let (socket, connector) = (peer.socket, peer.connector);
        self.ring(shard, key);
        if let Some(connector) = connector {
            self.connectors[connector].backoff.reset();
        }
        self.drain_pending(shard, socket);
        self.touch(socket);
    }

    /// The connection failed, in its handshake or later.
    pub(crate) fn fail(&mut self, shard: &mut Shard, key: PeerKey, error: &io::Error) {
        let fault = IoFault::from(error);
        match self.peers[key].phase {
            Phase::Handshaking(_) => self.fail_handshake(shard, key, fault.into()),
            _ => match FileFault::within(error) {
                Some(file) => self.disconnect(shard, key, DisconnectReason::File(file.clone())),
                None => self.disconnect(shard, key, fault.into()),
            },
        }
    }

    pub(crate) fn fail_handshake(&mut self, shard: &mut Shard, key: PeerKey, why: HandshakeFault) {
        let peer = &mut self.peers[key];
        if !matches!(peer.phase, Phase::Handshaking(_)) {
            return;
        }
        let state = &mut self.sockets[peer.socket];
        state.stats.handshakes_failed += 1;
        state.stats.violations += u64::from(matches!(why, HandshakeFault::Violation(_)));
        // While an ERROR command is still on its way out, the connection stays open; the completion of that send closes
        // it.
        let is_refusing = matches!(&why, HandshakeFault::Violation(violation)
            if !matches!(violation, Violation::PeerError { .. }))
            && (!peer.hello.is_empty() || peer.outbox.is_in_flight());
        peer.phase = Phase::Closing(Ending::Handshake(why));
        if !is_refusing {
            self.close_conn(shard, key);
        }
    }
}
