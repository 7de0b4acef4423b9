//! Connections from bind or connect to their end, and what happens to what they leave behind.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use zring_engine::{
    ConnId, FileFault, ListenerId, ResolveError, Shard, SockAddr,
    sys::{
        interface::lookup_local,
        net::{self, Family, SocketOptions},
        unix,
    },
};

use super::{
    Connector, Hub, Link, Listener, ListenerKind, Owner, Timer,
    peer::{Ending, Peer, Phase},
    socket::Pattern,
};
use crate::{
    endpoint::{BindTarget, ConnectTarget, Endpoint},
    error::Error,
    monitor::{DisconnectReason, EventKind, HandshakeFault, IoFault},
    options::Options,
    reconnect::Backoff,
    route::PipeId,
    wire::{Handshake, LocalPeer, PeerInfo, Progress, Violation, encode_subscribe},
};

/// A listener, the endpoint it really has, and its file if it has one.
type BoundStream = (ListenerId, Endpoint, Option<unix::BoundPath>);

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

fn bind(shard: &mut Shard, endpoint: &Endpoint, options: &Options) -> io::Result<BoundStream> {
    let backlog = options.backlog;
    let tcp = |shard: &mut Shard, addr| {
        let (id, addr) = shard.listen_tcp(addr, backlog, &socket_options(options))?;
        Ok((id, Endpoint::from(addr), None))
    };
    match endpoint.bind_target(options.ipv6) {
        BindTarget::Addr(addr) => tcp(shard, addr),
        BindTarget::Name { host, port } => {
            // A bind is rare and local: names of interfaces and of this host resolve without a network.
            tcp(shard, lookup_local(&host, port, options.ipv6).map_err(io::Error::other)?)
        }
        BindTarget::Unix(path) => {
            let (fd, bound) = unix::listen_unix(&path, backlog)?;
            Ok((shard.listen(fd), endpoint.clone(), Some(bound)))
        }
        BindTarget::UnixTemp => {
            let (fd, bound) = unix::listen_unix_temp(backlog)?;
            let endpoint = Endpoint::Ipc(bound.path().to_path_buf());
            Ok((shard.listen(fd), endpoint, Some(bound)))
        }
        BindTarget::UnixAbstract(name) => {
            let fd = unix::listen_abstract(&name, backlog)?;
            Ok((shard.listen(fd), endpoint.clone(), None))
        }
        BindTarget::Inproc(_) => unreachable!("bound without a stream"),
    }
}

impl Hub {
    /// Binds a socket; the connections that follow belong to it.
    pub(crate) fn bind(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        endpoint: &str,
    ) -> Result<(), Error> {
        let parsed: Endpoint = endpoint.parse()?;
        let (key, endpoint) = match &parsed {
            Endpoint::Inproc(name) => {
                let endpoint: Arc<str> = parsed.to_string().into();
                (self.bind_inproc(shard, socket, name, endpoint.clone())?, endpoint)
            }
            _ => self.bind_stream(shard, socket, endpoint, &parsed)?,
        };
        let core = &mut self.sockets[socket as usize];
        core.listeners.insert(endpoint.clone(), key);
        core.last_endpoint = Some(endpoint.clone());
        core.emit(&endpoint, None, EventKind::Listening);
        Ok(())
    }

    fn bind_stream(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        endpoint: &str,
        parsed: &Endpoint,
    ) -> Result<(u32, Arc<str>), Error> {
        let core = &mut self.sockets[socket as usize];
        let (id, bound, path) = bind(shard, parsed, &core.options).map_err(|error| {
            let kind = EventKind::BindFailed { error: IoFault::from(&error) };
            core.emit(&Arc::from(endpoint), None, kind);
            match error.kind() {
                io::ErrorKind::AddrInUse => Error::AddressInUse(endpoint.to_owned()),
                _ => Error::Io(error),
            }
        })?;
        let endpoint: Arc<str> = bound.to_string().into();
        let kind = ListenerKind::Stream { id, is_tcp: matches!(bound, Endpoint::Tcp { .. }), path };
        let listener = Listener { kind, socket, endpoint: endpoint.clone() };
        Ok((self.listeners.insert(listener) as u32, endpoint))
    }

    /// Stops listening at an endpoint, given as bound or in canonical form. Accepted connections live on.
    pub(crate) fn unbind(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        endpoint: &str,
    ) -> Result<(), Error> {
        let canonical = endpoint.parse::<Endpoint>()?.to_string();
        let core = &mut self.sockets[socket as usize];
        let Some(key) = core.listeners.remove(canonical.as_str()) else {
            return Err(Error::UnknownEndpoint(endpoint.to_owned()));
        };
        self.close_listener(shard, key);
        Ok(())
    }

    pub(super) fn close_listener(&mut self, shard: &mut Shard, key: u32) {
        let listener = self.listeners.remove(key as usize);
        match &listener.kind {
            ListenerKind::Stream { id, path, .. } => {
                if let Some(path) = path {
                    // The file may be gone or replaced: either way it is not ours any more.
                    let _ = path.unlink_if_ours();
                }
                shard.close_listener(*id);
            }
            ListenerKind::Inproc { name, .. } => self.inproc.unbind(name),
        }
        self.sockets[listener.socket as usize].emit(&listener.endpoint, None, EventKind::Closed);
    }

    /// Connects a socket, now and again after every loss until told otherwise.
    pub(crate) fn connect(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        endpoint: &str,
    ) -> Result<(), Error> {
        let parsed: Endpoint = endpoint.parse()?;
        let target = parsed.connect_target()?;
        // What this system never has is said at once, rather than tried for ever.
        match &target {
            ConnectTarget::Unix(_) => unix::check()?,
            ConnectTarget::UnixAbstract(name) => unix::abstract_addr(name).map(drop)?,
            _ => {}
        }
        let is_stream = target.inproc_name().is_none();
        let core = &mut self.sockets[socket as usize];
        let endpoint: Arc<str> = parsed.to_string().into();
        let backoff = Backoff::new(core.options.reconnect_ivl, core.options.reconnect_ivl_max);
        core.last_endpoint = Some(endpoint.clone());
        let connector =
            Connector { socket, endpoint, target, backoff, link: Link::Up, stopped: false };
        let key = self.connectors.insert(connector) as u32;
        let core = &mut self.sockets[socket as usize];
        core.connectors.push(key);
        core.note_connector(true, is_stream);
        // Messages may wait for it.
        self.touch(socket);
        self.try_connect(shard, key);
        Ok(())
    }

    /// Ends one connection made by `connect` to this endpoint and stops trying.
    pub(crate) fn disconnect_endpoint(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        endpoint: &str,
    ) -> Result<(), Error> {
        let canonical = endpoint.parse::<Endpoint>()?.to_string();
        let core = &self.sockets[socket as usize];
        let found = core.connectors.iter().copied().find(|&key| {
            let connector = &self.connectors[key as usize];
            *connector.endpoint == *canonical && !connector.stopped
        });
        let key = found.ok_or_else(|| Error::UnknownEndpoint(endpoint.to_owned()))?;
        self.stop_connector(shard, key);
        Ok(())
    }

    /// Stops a connector and ends the connection it has.
    pub(super) fn stop_connector(&mut self, shard: &mut Shard, key: u32) {
        let connector = &mut self.connectors[key as usize];
        connector.stopped = true;
        match &connector.link {
            Link::Waiting(timer) => shard.cancel_timer(*timer),
            Link::Resolving(_) | Link::Offered(_) => {}
            Link::Unbound(_) => self.withdraw(key),
            Link::Piped(peer) => {
                let peer = *peer;
                return self.end_locally(shard, peer);
            }
            Link::Connecting { conn, .. } => {
                let conn = *conn;
                self.set_owner(conn, Owner::Nobody);
                shard.close(conn);
            }
            Link::Up => {
                let peer = self.peers.iter().find(|(_, peer)| peer.connector == Some(key));
                if let Some((peer, _)) = peer {
                    // The connector goes when the connection has seen its end.
                    return self.end_locally(shard, peer as u32);
                }
            }
        }
        self.remove_connector(key);
    }

    fn remove_connector(&mut self, key: u32) {
        let connector = self.connectors.remove(key as usize);
        let core = &mut self.sockets[connector.socket as usize];
        core.connectors.retain(|&other| other != key);
        core.note_connector(false, connector.target.inproc_name().is_none());
        core.emit(&connector.endpoint, None, EventKind::Closed);
        self.waiting.touch(core);
    }

    pub(super) fn try_connect(&mut self, shard: &mut Shard, key: u32) {
        let connector = &mut self.connectors[key as usize];
        let core = &mut self.sockets[connector.socket as usize];
        core.emit(&connector.endpoint, None, EventKind::Connecting);
        let address = match &connector.target {
            ConnectTarget::Addr(addr) => Ok((Family::from(addr), SockAddr::from(*addr))),
            ConnectTarget::Inproc(name) => {
                let name = name.clone();
                return self.connect_inproc(shard, key, &name);
            }
            ConnectTarget::Unix(path) => unix::path_addr(path).map(|addr| (Family::Unix, addr)),
            ConnectTarget::UnixAbstract(name) => {
                unix::abstract_addr(name).map(|addr| (Family::Unix, addr))
            }
            ConnectTarget::Name { host, port } => {
                self.resolve_number = self.resolve_number.wrapping_add(1);
                connector.link = Link::Resolving(self.resolve_number);
                let token = u64::from(self.resolve_number) << 32 | u64::from(key);
                if let Err(fault) = shard.resolve(host, *port, core.options.ipv6, token) {
                    self.connect_failed(shard, key, &io::Error::other(fault));
                }
                return;
            }
        };
        match address {
            Ok((family, address)) => self.start_connect(shard, key, family, address, Vec::new()),
            Err(error) => self.connect_failed(shard, key, &error),
        }
    }

    pub(super) fn resolved(
        &mut self,
        shard: &mut Shard,
        token: u64,
        result: Result<Vec<SocketAddr>, ResolveError>,
    ) {
        let key = token as u32;
        let number = (token >> 32) as u32;
        let is_awaited = self
            .connectors
            .get(key as usize)
            .is_some_and(|connector| matches!(connector.link, Link::Resolving(it) if it == number));
        if !is_awaited {
            return;
        }
        match result {
            Ok(mut addrs) => {
                addrs.reverse();
                self.connect_next(shard, key, addrs, &io::ErrorKind::AddrNotAvailable.into());
            }
            Err(fault) => self.connect_failed(shard, key, &io::Error::other(fault)),
        }
    }

    /// Tries the next address of a name (the last of `addrs`), or gives this attempt up.
    fn connect_next(
        &mut self,
        shard: &mut Shard,
        key: u32,
        mut addrs: Vec<SocketAddr>,
        error: &io::Error,
    ) {
        match addrs.pop() {
            Some(addr) => {
                self.start_connect(shard, key, Family::from(&addr), SockAddr::from(addr), addrs);
            }
            None => self.connect_failed(shard, key, error),
        }
    }

    fn start_connect(
        &mut self,
        shard: &mut Shard,
        key: u32,
        family: Family,
        address: SockAddr,
        others: Vec<SocketAddr>,
    ) {
        let connector = &mut self.connectors[key as usize];
        let core = &self.sockets[connector.socket as usize];
        match shard.connect_to(family, address, &socket_options(&core.options)) {
            Ok(conn) => {
                connector.link = Link::Connecting { conn, others };
                self.set_owner(conn, Owner::Connector(key));
            }
            Err(error) => self.connect_next(shard, key, others, &error),
        }
    }

    pub(super) fn connected(
        &mut self,
        shard: &mut Shard,
        key: u32,
        conn: ConnId,
        result: io::Result<()>,
    ) {
        let connector = &mut self.connectors[key as usize];
        let link = std::mem::replace(&mut connector.link, Link::Up);
        let others = match link {
            Link::Connecting { others, .. } => others,
            _ => Vec::new(),
        };
        match result {
            Ok(()) => {
                let (socket, endpoint) = (connector.socket, connector.endpoint.clone());
                let core = &mut self.sockets[socket as usize];
                core.emit(&endpoint, Some(core.number_of(conn)), EventKind::Connected);
                self.start_peer(shard, socket, conn, Some(key), endpoint);
            }
            Err(error) => {
                self.set_owner(conn, Owner::Nobody);
                shard.close(conn);
                self.connect_next(shard, key, others, &error);
            }
        }
    }

    fn connect_failed(&mut self, shard: &mut Shard, key: u32, error: &io::Error) {
        let connector = &self.connectors[key as usize];
        let kind = EventKind::ConnectFailed { error: IoFault::from(error) };
        self.sockets[connector.socket as usize].emit(&connector.endpoint, None, kind);
        self.retry(shard, key);
    }

    /// Waits, then connects again; unless the connector is to go.
    pub(super) fn retry(&mut self, shard: &mut Shard, key: u32) {
        if self.connectors[key as usize].stopped {
            return self.remove_connector(key);
        }
        let random = self.random();
        let connector = &mut self.connectors[key as usize];
        let delay_ns = connector.backoff.next_delay_ns(random);
        let timer = shard.arm_timer(shard.now_ns() + delay_ns, Timer::Reconnect(key).token());
        connector.link = Link::Waiting(timer);
        let core = &mut self.sockets[connector.socket as usize];
        core.stats.retries += 1;
        let kind = EventKind::Retried { delay: Duration::from_nanos(delay_ns) };
        core.emit(&connector.endpoint, None, kind);
    }

    pub(super) fn accepted(&mut self, shard: &mut Shard, listener: ListenerId, conn: ConnId) {
        let Some(key) = self.listener_of(listener) else { return shard.close(conn) };
        let Listener { socket, endpoint, kind } = &self.listeners[key as usize];
        let is_tcp = matches!(kind, ListenerKind::Stream { is_tcp: true, .. });
        let (socket, endpoint) = (*socket, endpoint.clone());
        if !self.pass_on(shard, socket, conn, is_tcp, &endpoint) {
            self.begin_accepted(shard, socket, conn, is_tcp, endpoint);
        }
    }

    /// An accepted connection is to be this socket's.
    pub(super) fn begin_accepted(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        conn: ConnId,
        is_tcp: bool,
        endpoint: Arc<str>,
    ) {
        let core = &mut self.sockets[socket as usize];
        let mut peer_name = String::new();
        if let Some(fd) = shard.fd(conn) {
            let family = if is_tcp { Family::V4 } else { Family::Unix };
            // A peer that is gone already shows when it is read from.
            let _ = net::accepted_options(fd, family, &socket_options(&core.options));
            peer_name =
                net::peer_name(fd).map_or_else(|gone| gone.to_string(), |it| it.to_string());
        }
        let kind = EventKind::Accepted { peer: peer_name.into() };
        core.emit(&endpoint, Some(core.number_of(conn)), kind);
        self.start_peer(shard, socket, conn, None, endpoint);
    }

    /// A transport connection is up: the handshake begins.
    fn start_peer(
        &mut self,
        shard: &mut Shard,
        socket: u32,
        conn: ConnId,
        connector: Option<u32>,
        endpoint: Arc<str>,
    ) {
        let core = &self.sockets[socket as usize];
        let handshake = Handshake::new(LocalPeer {
            socket_type: core.socket_type,
            routing_id: core.options.routing_id().to_vec(),
        });
        let phase = Phase::Handshaking(Box::new(handshake));
        let number = core.number_of(conn);
        let mut peer = Peer::new(socket, connector, phase, number, endpoint, &core.options);
        peer.conn = Some(conn);
        let deadline_ns = core.options.handshake_ivl_ns().map(|ivl_ns| shard.now_ns() + ivl_ns);
        if let Phase::Handshaking(handshake) = &mut peer.phase {
            handshake.poll_transmit(&mut peer.hello);
        }
        peer.flush(shard);
        let key = self.peers.insert(peer) as u32;
        self.set_owner(conn, Owner::Peer(key));
        self.peers[key as usize].timer =
            deadline_ns.map(|at| shard.arm_timer(at, Timer::Peer(key).token()));
        shard.receive_ring(conn);
    }

    /// Feeds the handshake; returns how many bytes it consumed.
    pub(super) fn handle_handshake(&mut self, shard: &mut Shard, key: u32, bytes: &[u8]) -> usize {
        let peer = &mut self.peers[key as usize];
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

    pub(super) fn established(&mut self, shard: &mut Shard, key: u32, info: PeerInfo) {
        let peer = &mut self.peers[key as usize];
        let kind = EventKind::HandshakeDone {
            socket_type: info.socket_type,
            routing_id: info.routing_id.clone().into(),
            minor: info.minor,
        };
        peer.establish(info);
        if let Some(timer) = peer.timer.take() {
            shard.cancel_timer(timer);
        }
        let core = &mut self.sockets[peer.socket as usize];
        core.emit(&peer.stats.endpoint, Some(peer.stats.connection), kind);
        core.note_ready(true);
        core.stats.handshakes_done += 1;
        let pipe = PipeId(key);
        match &core.pattern {
            Pattern::Push | Pattern::Req { .. } => {
                core.sending.attach(pipe);
                core.sending.activate(pipe);
            }
            Pattern::Sub(subscriptions) => {
                let mut encoded = Vec::new();
                for prefix in subscriptions.iter() {
                    encoded.clear();
                    encode_subscribe(&mut encoded, &prefix, peer.minor);
                    peer.append_command(shard, &encoded);
                }
            }
            Pattern::Pull | Pattern::Pub(_) | Pattern::Rep(_) => {}
        }
        // Everybody is on the fair queue, inactive: what a pattern does not receive never gets there.
        core.receiving.attach(pipe);
        if peer.minor == 1 && peer.heartbeats {
            peer.heartbeat.on_established(shard.now_ns());
            self.watch_heartbeat(shard, key);
        } else {
            peer.heartbeats = false;
        }
        let peer = &mut self.peers[key as usize];
        peer.flush(shard);
        let (socket, connector) = (peer.socket, peer.connector);
        self.ring(shard, key);
        if let Some(connector) = connector {
            self.connectors[connector as usize].backoff.reset();
        }
        self.drain_pending(shard, socket);
        self.touch(socket);
    }

    /// The connection failed, whatever it was doing.
    pub(super) fn fail(&mut self, shard: &mut Shard, key: u32, error: &io::Error) {
        let fault = IoFault::from(error);
        match self.peers[key as usize].phase {
            Phase::Handshaking(_) => self.fail_handshake(shard, key, fault.into()),
            _ => match FileFault::within(error) {
                Some(file) => self.disconnect(shard, key, DisconnectReason::File(file.clone())),
                None => self.disconnect(shard, key, fault.into()),
            },
        }
    }

    pub(super) fn fail_handshake(&mut self, shard: &mut Shard, key: u32, why: HandshakeFault) {
        let peer = &mut self.peers[key as usize];
        if !matches!(peer.phase, Phase::Handshaking(_)) {
            return;
        }
        let core = &mut self.sockets[peer.socket as usize];
        core.stats.handshakes_failed += 1;
        core.stats.violations += u64::from(matches!(why, HandshakeFault::Violation(_)));
        // An ERROR command may still be on its way out; then its completion closes the connection, or
        // the handshake's deadline does.
        let is_refusing = matches!(&why, HandshakeFault::Violation(violation)
            if !matches!(violation, Violation::PeerError { .. }))
            && (!peer.hello.is_empty() || peer.outbox.is_in_flight());
        peer.phase = Phase::Closing(Ending::Handshake(why));
        if !is_refusing {
            self.close_conn(shard, key);
        }
    }
}
