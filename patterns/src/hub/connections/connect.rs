//! Connectors: from `connect` to `disconnect`, through every attempt between.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use zring_engine::{
    ConnId, ResolveError, Shard, SockAddr,
    sys::{net::Family, unix},
};

use super::{Opened, socket_options};
use crate::{
    endpoint::{ConnectTarget, Endpoint},
    error::Error,
    hub::{Connector, ConnectorKey, Hub, Owner, SocketKey, Stage, Timer},
    monitor::{EventKind, IoFault},
    reconnect::Backoff,
};

impl Hub {
    /// Connects a socket, and connects it again after every loss until told to stop.
    pub(crate) fn connect(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        endpoint: &str,
    ) -> Result<(), Error> {
        let parsed: Endpoint = endpoint.parse()?;
        let target = parsed.connect_target()?;
        // An address that this system never supports is refused at once, rather than tried for ever.
        match &target {
            ConnectTarget::Unix(_) => unix::check()?,
            ConnectTarget::UnixAbstract(name) => unix::abstract_addr(name).map(drop)?,
            _ => {}
        }
        let is_stream = target.inproc_name().is_none();
        let state = &mut self.sockets[socket];
        let endpoint: Arc<str> = parsed.to_string().into();
        let backoff = Backoff::new(state.options.reconnect_ivl, state.options.reconnect_ivl_max);
        state.endpoints.last = Some(endpoint.clone());
        let connector =
            Connector { socket, endpoint, target, backoff, stage: Stage::Idle, stopped: false };
        let key = self.connectors.insert(connector);
        let state = &mut self.sockets[socket];
        state.endpoints.connectors.push(key);
        state.note_connector(true, is_stream);
        // Messages may wait for the connector from now on.
        self.touch(socket);
        self.try_connect(shard, key);
        Ok(())
    }

    /// Ends one connection made by `connect` to this endpoint and stops trying.
    pub(crate) fn disconnect_endpoint(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        endpoint: &str,
    ) -> Result<(), Error> {
        let canonical = endpoint.parse::<Endpoint>()?.to_string();
        let state = &self.sockets[socket];
        let found = state.endpoints.connectors.iter().copied().find(|&key| {
            let connector = &self.connectors[key];
            *connector.endpoint == *canonical && !connector.stopped
        });
        let key = found.ok_or_else(|| Error::UnknownEndpoint(endpoint.to_owned()))?;
        self.stop_connector(shard, key);
        Ok(())
    }

    /// Stops a connector and ends the connection it has.
    pub(crate) fn stop_connector(&mut self, shard: &mut Shard, key: ConnectorKey) {
        let connector = &mut self.connectors[key];
        connector.stopped = true;
        match &connector.stage {
            Stage::Waiting(timer) => shard.cancel_timer(*timer),
            Stage::Resolving(_) | Stage::Offered(_) => {}
            Stage::Unbound(_) => self.withdraw(key),
            Stage::Connecting { conn, .. } => {
                let conn = *conn;
                self.set_owner(conn, Owner::Nobody);
                shard.close(conn);
            }
            Stage::Up(peer) => {
                // The connector is removed when the connection has ended.
                let peer = *peer;
                return self.end_locally(shard, peer);
            }
            Stage::Idle => {}
        }
        self.remove_connector(key);
    }

    fn remove_connector(&mut self, key: ConnectorKey) {
        let connector = self.connectors.remove(key);
        let state = &mut self.sockets[connector.socket];
        state.endpoints.connectors.retain(|&other| other != key);
        state.note_connector(false, connector.target.inproc_name().is_none());
        state.emit(&mut self.waiting, &connector.endpoint, EventKind::Closed);
        // Messages cannot wait for the connector any more.
        self.waiting.touch(state);
    }

    pub(crate) fn try_connect(&mut self, shard: &mut Shard, key: ConnectorKey) {
        let connector = &mut self.connectors[key];
        let state = &mut self.sockets[connector.socket];
        state.emit(&mut self.waiting, &connector.endpoint, EventKind::Connecting);
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
                connector.stage = Stage::Resolving(self.resolve_number);
                let token = u64::from(self.resolve_number) << 32 | u64::from(key.0);
                if let Err(fault) = shard.resolve(host, *port, state.options.ipv6, token) {
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

    pub(crate) fn resolved(
        &mut self,
        shard: &mut Shard,
        token: u64,
        result: Result<Vec<SocketAddr>, ResolveError>,
    ) {
        let key = ConnectorKey(token as u32);
        let number = (token >> 32) as u32;
        let is_awaited = self.connectors.get(key).is_some_and(
            |connector| matches!(connector.stage, Stage::Resolving(it) if it == number),
        );
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
        key: ConnectorKey,
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
        key: ConnectorKey,
        family: Family,
        address: SockAddr,
        others: Vec<SocketAddr>,
    ) {
        let connector = &mut self.connectors[key];
        let state = &self.sockets[connector.socket];
        match shard.connect_to(family, address, &socket_options(&state.options)) {
            Ok(conn) => {
                connector.stage = Stage::Connecting { conn, others };
                self.set_owner(conn, Owner::Connector(key));
            }
            Err(error) => self.connect_next(shard, key, others, &error),
        }
    }

    pub(crate) fn connected(
        &mut self,
        shard: &mut Shard,
        key: ConnectorKey,
        conn: ConnId,
        result: io::Result<()>,
    ) {
        let connector = &mut self.connectors[key];
        let others = match std::mem::replace(&mut connector.stage, Stage::Idle) {
            Stage::Connecting { others, .. } => others,
            _ => Vec::new(),
        };
        match result {
            Ok(()) => {
                let (socket, endpoint) = (connector.socket, connector.endpoint.clone());
                self.start_peer(shard, socket, conn, Opened::Connected(key), endpoint);
            }
            Err(error) => {
                self.set_owner(conn, Owner::Nobody);
                shard.close(conn);
                self.connect_next(shard, key, others, &error);
            }
        }
    }

    fn connect_failed(&mut self, shard: &mut Shard, key: ConnectorKey, error: &io::Error) {
        let connector = &self.connectors[key];
        let kind = EventKind::ConnectFailed { error: IoFault::from(error) };
        let state = &mut self.sockets[connector.socket];
        state.emit(&mut self.waiting, &connector.endpoint, kind);
        self.retry(shard, key);
    }

    /// Waits, then connects again; removes a connector that was told to stop.
    pub(crate) fn retry(&mut self, shard: &mut Shard, key: ConnectorKey) {
        if self.connectors[key].stopped {
            return self.remove_connector(key);
        }
        let random = self.random();
        let connector = &mut self.connectors[key];
        let delay_ns = connector.backoff.next_delay_ns(random);
        let timer = shard.arm_timer(shard.now_ns() + delay_ns, Timer::Reconnect(key).token());
        connector.stage = Stage::Waiting(timer);
        let state = &mut self.sockets[connector.socket];
        state.stats.retries += 1;
        let kind = EventKind::Retried { delay: Duration::from_nanos(delay_ns) };
        state.emit(&mut self.waiting, &connector.endpoint, kind);
    }
}
