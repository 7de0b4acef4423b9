//! Listeners: from `bind` to `unbind`, and the connections they accept.

use std::{io, sync::Arc};

use zring_engine::{
    ConnId, ListenerId, Shard,
    sys::{
        interface::lookup_local,
        net::{self, Family},
        unix,
    },
};

use super::{Opened, socket_options};
use crate::{
    endpoint::{BindTarget, Endpoint},
    error::Error,
    hub::{Hub, Listener, ListenerKey, ListenerKind, Owner, SocketKey},
    monitor::{EventKind, IoFault},
    options::Options,
};

/// A listener, the endpoint that it is really bound to, and its socket file if there is one.
type BoundStream = (ListenerId, Endpoint, Option<unix::BoundPath>);

fn bind(shard: &mut Shard, endpoint: &Endpoint, options: &Options) -> io::Result<BoundStream> {
    let backlog = options.backlog;
    let tcp = |shard: &mut Shard, addr| {
        let (id, addr) = shard.listen_tcp(addr, backlog, &socket_options(options))?;
        Ok((id, Endpoint::from(addr), None))
    };
    match endpoint.bind_target(options.ipv6) {
        BindTarget::Addr(addr) => tcp(shard, addr),
        BindTarget::Name { host, port } => {
            // A bind is rare, and names of interfaces and of this host resolve locally, without a network.
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
    /// Binds a socket; the accepted connections belong to it.
    pub(crate) fn bind(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
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
        let state = &mut self.sockets[socket];
        state.endpoints.listeners.insert(endpoint.clone(), key);
        state.endpoints.last = Some(endpoint.clone());
        state.emit(&mut self.waiting, &endpoint, EventKind::Listening);
        Ok(())
    }

    fn bind_stream(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        endpoint: &str,
        parsed: &Endpoint,
    ) -> Result<(ListenerKey, Arc<str>), Error> {
        let state = &mut self.sockets[socket];
        let (id, bound, path) = bind(shard, parsed, &state.options).map_err(|error| {
            let kind = EventKind::BindFailed { error: IoFault::from(&error) };
            state.emit(&mut self.waiting, &Arc::from(endpoint), kind);
            match error.kind() {
                io::ErrorKind::AddrInUse => Error::AddressInUse(endpoint.to_owned()),
                _ => Error::Io(error),
            }
        })?;
        let endpoint: Arc<str> = bound.to_string().into();
        let kind = ListenerKind::Stream { id, is_tcp: matches!(bound, Endpoint::Tcp { .. }), path };
        let listener = Listener { kind, socket, endpoint: endpoint.clone() };
        Ok((self.add_listener(listener), endpoint))
    }

    /// Stops listening at an endpoint, given as bound or in canonical form. Accepted connections live on.
    pub(crate) fn unbind(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        endpoint: &str,
    ) -> Result<(), Error> {
        let canonical = endpoint.parse::<Endpoint>()?.to_string();
        let state = &mut self.sockets[socket];
        let Some(key) = state.endpoints.listeners.remove(canonical.as_str()) else {
            return Err(Error::UnknownEndpoint(endpoint.to_owned()));
        };
        self.close_listener(shard, key);
        Ok(())
    }

    pub(crate) fn close_listener(&mut self, shard: &mut Shard, key: ListenerKey) {
        let listener = self.listeners.remove(key);
        match &listener.kind {
            ListenerKind::Stream { id, path, .. } => {
                if let Some(path) = path {
                    // The file may be gone or replaced: either way it is not ours any more.
                    let _ = path.unlink_if_ours();
                }
                self.set_owner_at(id.index(), Owner::Nobody);
                shard.close_listener(*id);
            }
            ListenerKind::Inproc { name, .. } => self.pipes.inproc.unbind(name),
        }
        let state = &mut self.sockets[listener.socket];
        state.emit(&mut self.waiting, &listener.endpoint, EventKind::Closed);
    }

    /// Keeps a listener, to be found by its key and by the engine's id.
    pub(in crate::hub) fn add_listener(&mut self, listener: Listener) -> ListenerKey {
        let index = listener.stream_id().map(ListenerId::index);
        let key = self.listeners.insert(listener);
        if let Some(index) = index {
            self.set_owner_at(index, Owner::Listener(key));
        }
        key
    }

    pub(crate) fn listener_of(&self, id: ListenerId) -> Option<ListenerKey> {
        match self.owner_at(id.index()) {
            Owner::Listener(key) if self.listeners.get(key)?.stream_id() == Some(id) => Some(key),
            _ => None,
        }
    }

    pub(crate) fn accepted(&mut self, shard: &mut Shard, listener: ListenerId, conn: ConnId) {
        let Some(key) = self.listener_of(listener) else { return shard.close(conn) };
        let Listener { socket, endpoint, kind } = &self.listeners[key];
        let is_tcp = matches!(kind, ListenerKind::Stream { is_tcp: true, .. });
        let (socket, endpoint) = (*socket, endpoint.clone());
        if !self.pass_on(shard, socket, conn, is_tcp, &endpoint) {
            self.begin_accepted(shard, socket, conn, is_tcp, endpoint);
        }
    }

    /// Starts an accepted connection as one of this socket's.
    pub(crate) fn begin_accepted(
        &mut self,
        shard: &mut Shard,
        socket: SocketKey,
        conn: ConnId,
        is_tcp: bool,
        endpoint: Arc<str>,
    ) {
        let state = &self.sockets[socket];
        if let Some(fd) = shard.fd(conn) {
            let family = if is_tcp { Family::V4 } else { Family::Unix };
            // If the peer is gone already, the first receive shows that.
            let _ = net::accepted_options(fd, family, &socket_options(&state.options));
        }
        self.start_peer(shard, socket, conn, Opened::Accepted, endpoint);
    }
}
