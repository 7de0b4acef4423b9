//! The operations that a handler may start on its connections.

use std::{io, net::SocketAddr};

use socket2::SockAddr;

use super::Shard;
use crate::{
    buf::{Gather, Registered},
    conn::{Conn, ConnId, ListenerId, Receive},
    driver::{Direct, Driver, OpId, Submission, Token},
    error::Error,
    sys::{
        BorrowedSocket, OwnedSocket, borrow,
        net::{Family, Progress, SocketOptions},
    },
};

impl Shard {
    pub(super) fn insert(&mut self, fd: OwnedSocket, listener: bool) -> ConnId {
        self.generation = (self.generation + 1) & (u32::MAX >> 1);
        let generation = self.generation;
        let index = self.conns.insert(Conn::new(fd, generation, listener)) as u32;
        ConnId { index, generation }
    }

    pub(super) fn find(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.index()).filter(|conn| conn.generation == id.generation)
    }

    /// The connection behind a completion's token. It exists, because a connection's operations end before it does.
    pub(super) fn by_token(&mut self, token: Token) -> (ConnId, &mut Conn) {
        let id = ConnId { index: token as u32, generation: (token >> 32) as u32 };
        let conn = self.find(id).expect("a connection outlives its operations");
        (id, conn)
    }

    /// Takes over a listening socket and accepts on it.
    pub fn listen(&mut self, fd: OwnedSocket) -> ListenerId {
        let id = ListenerId(self.insert(fd, true));
        self.accept(id);
        id
    }

    /// Accepts again after [`crate::Handler::on_accept_failed`] said that accepting had ended.
    pub fn accept(&mut self, ListenerId(id): ListenerId) {
        let Some(conn) = self.find(id).filter(|conn| conn.setup.is_none() && !conn.closing) else {
            return;
        };
        let fd = conn.raw();
        let op = self.driver.submit(id.to_u64(), Submission::Accept { fd });
        self.conns[id.index()].setup = Some(op);
    }

    /// Stops listening. The descriptor is closed once the last operation on it has ended.
    pub fn close_listener(&mut self, ListenerId(id): ListenerId) {
        self.close(id);
    }

    /// Gives up a connection on which no operation was started yet, as in [`crate::Handler::on_accepted`]. Returns its
    /// descriptor, which another shard can [`Shard::adopt`]. `None` when the id is stale or an operation is in flight.
    pub fn give_up(&mut self, id: ConnId) -> Option<OwnedSocket> {
        let conn = self.find(id)?;
        if conn.closing || conn.listener || !conn.is_quiet() {
            return None;
        }
        Some(self.conns.remove(id.index()).fd)
    }

    /// Takes over a connected socket as if this shard had accepted it. Nothing is received until asked for.
    pub fn adopt(&mut self, fd: OwnedSocket) -> ConnId {
        self.driver.adopt(&fd);
        self.insert(fd, false)
    }

    /// Listens on a TCP address; with port 0 the system chooses a port. Returns the address that the socket really has.
    ///
    /// # Errors
    /// As [`crate::sys::net::listen_tcp`].
    pub fn listen_tcp(
        &mut self,
        address: SocketAddr,
        backlog: u32,
        options: &SocketOptions,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        let (fd, address) = self.driver.listen_tcp(address, backlog, options)?;
        Ok((self.listen(fd), address))
    }

    /// Makes a socket and connects it; [`crate::Handler::on_connected`] tells the result.
    ///
    /// # Errors
    /// As [`crate::sys::net::connect_socket`].
    pub fn connect_to(
        &mut self,
        family: Family,
        address: SockAddr,
        options: &SocketOptions,
    ) -> io::Result<ConnId> {
        let fd = self.driver.connect_socket(family, options)?;
        Ok(self.connect(fd, address))
    }

    /// Connects an unconnected socket; [`crate::Handler::on_connected`] tells the result.
    pub fn connect(&mut self, fd: OwnedSocket, address: SockAddr) -> ConnId {
        let id = self.insert(fd, false);
        let fd = self.conns[id.index()].raw();
        let submission = Submission::Connect { fd, address: Box::new(address) };
        let op = self.driver.submit(id.to_u64(), submission);
        self.conns[id.index()].setup = Some(op);
        id
    }

    /// The connection's descriptor, unless the id is stale.
    #[must_use]
    pub fn fd(&self, id: ConnId) -> Option<BorrowedSocket<'_>> {
        let conn = self.conns.get(id.index())?;
        (conn.generation == id.generation).then(|| borrow(&conn.fd))
    }

    /// The listener's descriptor, unless the id is stale.
    #[must_use]
    pub fn listener_fd(&self, ListenerId(id): ListenerId) -> Option<BorrowedSocket<'_>> {
        self.fd(id)
    }

    /// Receives into the pool until stopped.
    ///
    /// # Panics
    /// If the connection receives already.
    pub fn receive_ring(&mut self, id: ConnId) {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return };
        assert_eq!(conn.receive, Receive::Idle, "one receive at a time");
        if self.starved.is_empty() {
            self.submit_receive(id, false);
        } else {
            self.queue_up(id);
        }
    }

    /// Receives once into given memory.
    ///
    /// # Panics
    /// If the connection receives already, or if there is no room to receive into.
    pub fn receive_direct(&mut self, id: ConnId, direct: Direct) {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return };
        assert_eq!(conn.receive, Receive::Idle, "one receive at a time");
        assert!(direct.rest > 0 || direct.spill.capacity() > 0, "nowhere to receive to");
        assert!(direct.rest == 0 || direct.body.is_some(), "no memory for the body");
        let fd = conn.raw();
        let op = self.driver.submit(id.to_u64(), Submission::ReceiveDirect { fd, direct });
        self.conns[id.index()].receive = Receive::Direct { op, stopping: false };
    }

    /// Receives the bytes that are available now into the caller's memory: into `body`, then into the spare capacity of
    /// `spill`. Returns how many bytes that was. `None`: no bytes are available, or the id is stale. `Some(0)`: the
    /// peer has ended its side in order. The memory is not touched after the return.
    ///
    /// # Errors
    /// The kernel's error; the caller has to close the connection.
    ///
    /// # Panics
    /// If a receive other than [`Shard::await_readable`] is armed: bytes would come out of order.
    pub fn try_receive(
        &mut self,
        id: ConnId,
        body: &mut [u8],
        spill: &mut Vec<u8>,
    ) -> io::Result<Option<usize>> {
        let conn = self.conns.get(id.index()).filter(|conn| conn.generation == id.generation);
        let Some(conn) = conn.filter(|conn| !conn.closing) else { return Ok(None) };
        let is_free = matches!(conn.receive, Receive::Idle | Receive::Awaiting { .. });
        assert!(is_free, "one receive at a time");
        let received = self.driver.try_receive(borrow(&conn.fd), body, spill)?;
        self.stats.bytes_in += received.unwrap_or(0) as u64;
        Ok(received)
    }

    /// Makes zeroed memory to receive into ([`Shard::try_receive`]). If the shard runs on an io_uring that supports it,
    /// the memory is registered there ([`Registered::is_fixed`]). Its pages are as
    /// [`Config::pool_memory`](crate::Config::pool_memory) says.
    ///
    /// # Errors
    /// [`Error::Config`] if the length is not 1 to [`Registered::BYTES_MAX`]; [`Error::PoolMemory`];
    /// [`Error::Register`] if the kernel refuses, beyond `RLIMIT_MEMLOCK` or 1,024 registrations.
    pub fn register(&mut self, len: usize) -> Result<Registered, Error> {
        let mut memory = Registered::open(len, &self.config.pool_memory)?;
        let is_fixed = self.driver.register(&mut memory)?;
        memory.set_fixed(is_fixed);
        Ok(memory)
    }

    /// Takes a registration back. Call it before the memory is dropped.
    pub fn unregister(&mut self, memory: &Registered) {
        self.driver.unregister(memory);
    }

    /// Waits until there is something to receive; [`crate::Handler::on_readable`] follows once. It may come without a
    /// reason. Does nothing if the connection waits already.
    ///
    /// # Panics
    /// If the connection receives.
    pub fn await_readable(&mut self, id: ConnId) {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return };
        if matches!(conn.receive, Receive::Awaiting { .. }) {
            return;
        }
        assert_eq!(conn.receive, Receive::Idle, "one receive at a time");
        let fd = conn.raw();
        let op = self.driver.submit(id.to_u64(), Submission::AwaitReadable { fd });
        self.conns[id.index()].receive = Receive::Awaiting { op, stopping: false };
    }

    /// Asks for the end of the receive. [`crate::Handler::on_receive_end`] follows, unless the connection was not
    /// receiving, or a direct receive completes with bytes and the handler then arms the next one. Bytes that arrive in
    /// between are still delivered.
    pub fn receive_stop(&mut self, id: ConnId) {
        let Some(conn) = self.find(id) else { return };
        match &mut conn.receive {
            Receive::Idle => {}
            Receive::Starved { stopping } => {
                if !std::mem::replace(stopping, true) {
                    self.note_ended(id);
                }
            }
            Receive::Ring { op, stopping }
            | Receive::Direct { op, stopping }
            | Receive::Awaiting { op, stopping } => {
                *stopping = true;
                let op = *op;
                self.driver.cancel(op);
            }
        }
    }

    /// Whether a receive is armed, or waits for a buffer or for readability.
    #[must_use]
    pub fn is_receiving(&self, id: ConnId) -> bool {
        self.conns
            .get(id.index())
            .is_some_and(|conn| conn.generation == id.generation && conn.receive != Receive::Idle)
    }

    /// How far the peer has come with the bytes that were sent to it.
    #[must_use]
    pub fn progress(&mut self, id: ConnId) -> Progress {
        match self.conns.get(id.index()).filter(|conn| conn.generation == id.generation) {
            Some(conn) => self.driver.progress(borrow(&conn.fd), conn.send),
            None => Progress::default(),
        }
    }

    /// Sends all of `gather`; [`crate::Handler::on_sent`] gives it back. One send at a time. The send reaches the
    /// kernel with the next [`Shard::flush`] or turn.
    ///
    /// # Errors
    /// The list comes back at once when the id is stale or the connection is being closed.
    ///
    /// # Panics
    /// If a send is in flight already.
    pub fn send(&mut self, id: ConnId, gather: Gather) -> Result<(), Gather> {
        self.send_rest(id, gather, 0)
    }

    /// Sends as many of `bytes` as the kernel takes at once, without an operation; returns how many. The caller sends
    /// the rest, if any, with [`Shard::send_rest`].
    ///
    /// # Panics
    /// If a send is in flight already.
    #[inline]
    pub fn try_send(&mut self, id: ConnId, bytes: &[u8]) -> usize {
        match self.conns.get(id.index()) {
            Some(conn) if conn.accepts_sends(id) => self.driver.try_send(borrow(&conn.fd), bytes),
            _ => 0,
        }
    }

    /// As [`Shard::try_send`], for a list.
    ///
    /// # Panics
    /// If a send is in flight already.
    pub fn try_send_list(&mut self, id: ConnId, gather: &Gather) -> usize {
        match self.conns.get(id.index()) {
            Some(conn) if conn.accepts_sends(id) => {
                self.driver.try_send_list(borrow(&conn.fd), gather)
            }
            _ => 0,
        }
    }

    /// As [`Shard::try_send`], for a body and the bytes in front of it.
    ///
    /// # Panics
    /// If a send is in flight already.
    pub fn try_send_behind(&mut self, id: ConnId, head: &[u8], body: &[u8]) -> usize {
        match self.conns.get(id.index()) {
            Some(conn) if conn.accepts_sends(id) => {
                self.driver.try_send_behind(borrow(&conn.fd), head, body)
            }
            _ => 0,
        }
    }

    /// As [`Shard::send`], for a list whose first `sent` bytes the kernel has taken already.
    /// [`crate::Handler::on_sent`] includes them in its count.
    ///
    /// # Errors
    /// As [`Shard::send`].
    ///
    /// # Panics
    /// If a send is in flight already.
    pub fn send_rest(&mut self, id: ConnId, gather: Gather, sent: usize) -> Result<(), Gather> {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return Err(gather) };
        assert!(conn.send.is_none(), "one send at a time");
        let fd = conn.raw();
        let op = self.driver.submit(id.to_u64(), Submission::Send { fd, gather, sent });
        self.conns[id.index()].send = Some(op);
        Ok(())
    }

    /// Closes a connection: cancels its operations, then [`crate::Handler::on_closed`] follows. Sends that end
    /// meanwhile are still reported; received bytes are dropped.
    pub fn close(&mut self, id: ConnId) {
        let Some(conn) = self.find(id).filter(|conn| !conn.closing) else { return };
        conn.closing = true;
        let receive = match conn.receive {
            Receive::Ring { op, .. }
            | Receive::Direct { op, .. }
            | Receive::Awaiting { op, .. } => Some(op),
            Receive::Idle | Receive::Starved { .. } => None,
        };
        let ops: [Option<OpId>; 3] = [receive, conn.send, conn.setup];
        if ops.iter().all(Option::is_none) {
            self.note_ended(id);
        }
        for op in ops.into_iter().flatten() {
            self.driver.cancel(op);
        }
    }
}
