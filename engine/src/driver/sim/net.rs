//! The simulated network: one host with its ports and streams, and the events to come.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    os::fd::RawFd,
    task::Waker,
};

use super::{
    desk::{Desk, OpRef},
    fault::{Faults, Random},
    trace::Trace,
};
use crate::{
    sync::{Arc, Ordering},
    sys::eventfd::EventFd,
};

/// Names a socket of the world; never used twice.
pub(crate) type SocketId = u64;

/// The delay of even the fastest network.
const HOP_NS: u64 = 1_000;
/// A connect to a listener with a full backlog is tried again after this.
const RETRY_NS: u64 = 1_000_000;
const FIRST_PORT: u16 = 49_152;

/// An event of the network at a certain time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A send goes on.
    Progress(OpRef),
    /// A connect reaches the other side.
    Connect(OpRef),
    /// A finished operation is reported.
    Report(OpRef),
    /// A cancellation takes effect.
    Cancel(OpRef),
    /// Bytes reach the other end.
    Arrive { from: SocketId, to: SocketId, bytes: Vec<u8> },
    /// The end of a direction reaches the other end.
    End { to: SocketId },
    /// The other end reports that there is no connection.
    Reset { to: SocketId },
    /// A fault breaks a connection.
    Tear { from: SocketId, to: SocketId },
    /// A descriptor for event loops becomes readable.
    Alarm(Arc<EventFd>),
    /// A task sleeps until now; the scheduler wakes it.
    Wake(Waker),
}

/// Bytes that wait to be received.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    taken: usize,
}

impl Inbox {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn extend(&mut self, bytes: &[u8]) {
        if self.taken > self.bytes.len() / 2 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the first `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> &[u8] {
        let start = self.taken;
        self.taken += len;
        &self.bytes[start..self.taken]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.taken = 0;
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) peer: SocketId,
    /// Bytes that have arrived and were not received yet.
    pub(crate) inbox: Inbox,
    /// How many bytes were sent and have not arrived yet.
    in_flight_bytes: u64,
    /// When the last of the bytes on their way to this end arrive.
    inbound_until_ns: u64,
    /// The other end's direction has ended.
    pub(crate) is_ended: bool,
    pub(crate) is_broken: bool,
    /// Why it is broken, until an operation has reported it.
    error: Option<i32>,
}

impl Stream {
    fn new(peer: SocketId) -> Self {
        Self {
            peer,
            inbox: Inbox::default(),
            in_flight_bytes: 0,
            inbound_until_ns: 0,
            is_ended: false,
            is_broken: false,
            error: None,
        }
    }

    /// Takes the error, which is reported once.
    pub(crate) fn take_error(&mut self) -> Option<i32> {
        self.error.take()
    }
}

#[derive(Debug)]
pub(crate) enum Role {
    Fresh,
    Listener { port: u16, backlog: VecDeque<SocketId>, backlog_max: usize },
    Stream(Stream),
}

/// # Invariants
/// - At most one receive, one send and one connect or accept are in flight on a socket.
/// - A socket is in the table exactly as long as its descriptor is open (or it waits in a backlog).
#[derive(Debug)]
pub(crate) struct Socket {
    /// Its descriptor and the descriptor's inode; `None` in a backlog.
    pub(crate) name: Option<(RawFd, u64)>,
    pub(crate) role: Role,
    pub(crate) receive: Option<OpRef>,
    pub(crate) send: Option<OpRef>,
    pub(crate) setup: Option<OpRef>,
}

impl Socket {
    pub(crate) fn is_idle(&self) -> bool {
        self.receive.is_none() && self.send.is_none() && self.setup.is_none()
    }

    pub(crate) fn stream(&mut self) -> Option<&mut Stream> {
        match &mut self.role {
            Role::Stream(stream) => Some(stream),
            _ => None,
        }
    }
}

/// The state of a world that its drivers share.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) is_healed: bool,
    pub(crate) now_ns: u64,
    pub(crate) sockets: BTreeMap<SocketId, Socket>,
    pub(crate) by_fd: BTreeMap<RawFd, SocketId>,
    pub(crate) desks: Vec<Desk>,
    pub(crate) trace: Trace,
    /// The turner that is being called.
    pub(crate) turner: Option<usize>,
    ports: BTreeMap<u16, SocketId>,
    next_port: u16,
    next_id: u64,
    events: BTreeMap<(u64, u64), Event>,
}

impl Net {
    pub(crate) fn new(seed: u64, faults: &Faults, now_ns: u64) -> Self {
        let mut random = Random::new(seed);
        let faults = faults.draw(&mut random);
        Self {
            random,
            faults,
            is_healed: false,
            now_ns,
            sockets: BTreeMap::new(),
            by_fd: BTreeMap::new(),
            desks: Vec::new(),
            trace: Trace::default(),
            turner: None,
            ports: BTreeMap::new(),
            next_port: FIRST_PORT,
            next_id: 0,
            events: BTreeMap::new(),
        }
    }

    pub(crate) fn heal(&mut self) {
        self.is_healed = true;
        self.faults.heal();
        self.note(None, "heal", 0, 0);
    }

    pub(crate) fn note(&mut self, driver: Option<usize>, what: &'static str, a: u64, b: u64) {
        self.trace.note(self.now_ns, driver, what, a, b);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    // Time.

    pub(crate) fn at(&mut self, at_ns: u64, event: Event) {
        let id = self.id();
        self.events.insert((at_ns, id), event);
    }

    pub(crate) fn after(&mut self, ns: u64, event: Event) {
        self.at(self.now_ns + ns, event);
    }

    /// How long bytes are on their way.
    pub(crate) fn delay_ns(&mut self) -> u64 {
        HOP_NS + self.random.below(self.faults.delay_ns_max + 1)
    }

    fn slow_ns(&mut self) -> u64 {
        self.delay_ns() + self.random.below(self.faults.slow_ns_max + 1)
    }

    pub(crate) fn next_event_ns(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at_ns, _), _)| *at_ns)
    }

    /// Handles the next event that is due. Returns a waker that the caller has to call without the network's lock.
    pub(crate) fn happen(&mut self) -> Option<Waker> {
        if self.next_event_ns().is_none_or(|at_ns| at_ns > self.now_ns) {
            return None;
        }
        let (_, event) = self.events.pop_first()?;
        match event {
            Event::Wake(waker) => return Some(waker),
            Event::Progress(op) => self.progress(op),
            Event::Connect(op) => self.reach(op),
            Event::Report(op) => self.report(op),
            Event::Cancel(op) => self.cancel_now(op),
            Event::Arrive { from, to, bytes } => self.arrive(from, to, &bytes),
            Event::End { to } => self.end(to),
            Event::Reset { to } => self.break_off(to),
            Event::Tear { from, to } if !self.is_healed => {
                self.note(None, "torn", from, to);
                self.break_off(from);
                self.break_off(to);
            }
            Event::Tear { .. } => {}
            Event::Alarm(event_fd) => drop(event_fd.signal()),
        }
        None
    }

    // Sockets.

    pub(crate) fn add_socket(&mut self, role: Role) -> SocketId {
        let id = self.id();
        let socket = Socket { name: None, role, receive: None, send: None, setup: None };
        self.sockets.insert(id, socket);
        id
    }

    /// Takes a port for a listener: the given one, or one that is free.
    pub(crate) fn add_listener(
        &mut self,
        port: u16,
        backlog_max: usize,
    ) -> Option<(SocketId, u16)> {
        let port = if port == 0 { self.free_port()? } else { port };
        if self.ports.contains_key(&port) {
            return None;
        }
        let id = self.add_socket(Role::Listener { port, backlog: VecDeque::new(), backlog_max });
        self.ports.insert(port, id);
        Some((id, port))
    }

    fn free_port(&mut self) -> Option<u16> {
        for _ in FIRST_PORT..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            if !self.ports.contains_key(&port) {
                return Some(port);
            }
        }
        None
    }

    /// The socket's descriptor was closed.
    pub(crate) fn close(&mut self, id: SocketId) {
        if !self.sockets.get(&id).is_none_or(Socket::is_idle) {
            // A thread that unwinds has failed already: a second panic would hide the report of the first one.
            assert!(std::thread::panicking(), "socket {id} was closed under an operation");
            return;
        }
        let Some(socket) = self.sockets.remove(&id) else { return };
        if let Some((fd, _)) = socket.name.filter(|(fd, _)| self.by_fd.get(fd) == Some(&id)) {
            self.by_fd.remove(&fd);
        }
        self.note(None, "close", id, 0);
        match socket.role {
            Role::Fresh => {}
            Role::Listener { port, backlog, .. } => {
                self.ports.remove(&port);
                backlog.into_iter().for_each(|waiting| self.refuse(waiting));
            }
            Role::Stream(stream) if stream.is_broken => {}
            Role::Stream(stream) => {
                // As on Linux, a close over unread bytes is a reset.
                let to = stream.peer;
                let is_rude = !stream.inbox.is_empty();
                let at_ns = self.arrival_ns(to);
                self.at(at_ns, if is_rude { Event::Reset { to } } else { Event::End { to } });
            }
        }
    }

    /// Resets a connection that no listener accepts any more.
    fn refuse(&mut self, waiting: SocketId) {
        let socket = self.sockets.remove(&waiting);
        let Some(Role::Stream(Stream { peer, .. })) = socket.map(|socket| socket.role) else {
            unreachable!("a backlog holds connections")
        };
        let at_ns = self.arrival_ns(peer);
        self.at(at_ns, Event::Reset { to: peer });
    }

    // Connects.

    pub(crate) fn start_connect(&mut self, op: OpRef) {
        let is_slow = self.random.chance(self.faults.slow_ppm);
        let ns = if is_slow { self.slow_ns() } else { self.delay_ns() };
        self.after(ns, Event::Connect(op));
    }

    fn reach(&mut self, op: OpRef) {
        let Some((id, port)) = self.connect_target(op) else { return };
        let listener = port.and_then(|port| self.ports.get(&port).copied());
        let fails = self.random.chance(self.faults.connect_fail_ppm);
        let error = match listener {
            None => Some(libc::ECONNREFUSED),
            Some(_) if self.random.chance(self.faults.refuse_ppm) => Some(libc::ECONNREFUSED),
            Some(_) if fails && self.random.below(2) == 0 => Some(libc::ETIMEDOUT),
            Some(_) if fails => Some(libc::EHOSTUNREACH),
            Some(_) => None,
        };
        let (Some(listener), None) = (listener, error) else {
            self.note(Some(op.driver), "refused", id, error.unwrap_or(0) as u64);
            return self.end_connect(op, error);
        };
        let peer = self.add_socket(Role::Stream(Stream::new(id)));
        let Some(Role::Listener { backlog, backlog_max, .. }) =
            self.sockets.get_mut(&listener).map(|socket| &mut socket.role)
        else {
            unreachable!("ports name listeners")
        };
        if backlog.len() >= *backlog_max {
            self.sockets.remove(&peer);
            self.note(Some(op.driver), "backlog full", id, 0);
            return self.after(RETRY_NS, Event::Connect(op));
        }
        backlog.push_back(peer);
        let accept = self.sockets[&listener].setup;
        let socket = self.sockets.get_mut(&id).expect("open while it connects");
        socket.role = Role::Stream(Stream::new(peer));
        self.note(Some(op.driver), "connected", id, peer);
        if self.random.chance(self.faults.reset_ppm) {
            let ns = self.slow_ns();
            self.after(ns, Event::Tear { from: id, to: peer });
        }
        self.end_connect(op, None);
        accept.into_iter().for_each(|accept| self.finish(accept));
    }

    // Streams.

    /// How many more bytes the sender may send.
    pub(crate) fn space(&self, id: SocketId) -> u64 {
        let Some(Socket { role: Role::Stream(stream), .. }) = self.sockets.get(&id) else {
            return 0;
        };
        let unread = match self.sockets.get(&stream.peer).map(|peer| &peer.role) {
            Some(Role::Stream(peer)) => peer.inbox.len() as u64,
            _ => 0,
        };
        self.faults.window_bytes_max.saturating_sub(stream.in_flight_bytes + unread)
    }

    /// How many of so many bytes are transferred at a time.
    pub(crate) fn piece(&mut self, bytes: u64) -> u64 {
        if bytes > 1 && self.random.chance(self.faults.short_ppm) {
            // Each power of two is an equally likely bound: tiny pieces are frequent, and so are large ones.
            let bits = self.random.between(0, u64::from(bytes.ilog2()));
            return self.random.between(1, bytes.min(1 << (bits + 1)));
        }
        bytes
    }

    /// The arrival time of something sent now, never before that of something sent earlier.
    fn arrival_ns(&mut self, to: SocketId) -> u64 {
        let at_ns = self.now_ns + self.delay_ns();
        match self.sockets.get_mut(&to).and_then(Socket::stream) {
            Some(stream) => {
                stream.inbound_until_ns = stream.inbound_until_ns.max(at_ns);
                stream.inbound_until_ns
            }
            None => at_ns,
        }
    }

    /// Takes bytes from a sender.
    pub(crate) fn carry(&mut self, from: SocketId, bytes: Vec<u8>) {
        let stream = self.sockets.get_mut(&from).and_then(Socket::stream).expect("a stream sends");
        stream.in_flight_bytes += bytes.len() as u64;
        let to = stream.peer;
        let at_ns = self.arrival_ns(to);
        self.at(at_ns, Event::Arrive { from, to, bytes });
        if self.random.chance(self.faults.reset_ppm) {
            let ns = self.random.below(2 * self.faults.delay_ns_max + HOP_NS);
            self.after(ns, Event::Tear { from, to });
        }
    }

    fn arrive(&mut self, from: SocketId, to: SocketId, bytes: &[u8]) {
        let len = bytes.len() as u64;
        self.note(None, "arrive", to, len);
        if let Some(stream) = self.sockets.get_mut(&from).and_then(Socket::stream) {
            stream.in_flight_bytes -= len;
        }
        let Some(socket) = self.sockets.get_mut(&to) else {
            let at_ns = self.arrival_ns(from);
            return self.at(at_ns, Event::Reset { to: from });
        };
        let receive = socket.receive;
        let stream = socket.stream().expect("bytes arrive at streams");
        if !stream.is_broken {
            stream.inbox.extend(bytes);
            receive.into_iter().for_each(|op| self.finish(op));
        }
    }

    fn end(&mut self, to: SocketId) {
        self.note(None, "end", to, 0);
        let Some(socket) = self.sockets.get_mut(&to) else { return };
        let receive = socket.receive;
        socket.stream().expect("streams end").is_ended = true;
        receive.into_iter().for_each(|op| self.finish(op));
    }

    /// Breaks one end of a connection: bytes on their way are lost, and sometimes the unread ones, too.
    fn break_off(&mut self, to: SocketId) {
        let discards = self.faults.reset_ppm > 0 && self.random.below(2) == 0;
        let Some(socket) = self.sockets.get_mut(&to) else { return };
        let (receive, send) = (socket.receive, socket.send);
        let Some(stream) = socket.stream().filter(|stream| !stream.is_broken) else { return };
        stream.is_broken = true;
        stream.error = Some(libc::ECONNRESET);
        if discards {
            stream.inbox.clear();
        }
        self.note(None, "reset", to, u64::from(discards));
        receive.into_iter().for_each(|op| self.finish(op));
        send.into_iter().for_each(|op| self.progress(op));
    }

    /// Bytes were received: a sender that waited for room goes on.
    pub(crate) fn made_room(&mut self, id: SocketId) {
        let Some(peer) = self.sockets.get_mut(&id).and_then(Socket::stream).map(|it| it.peer)
        else {
            return;
        };
        if let Some(send) = self.sockets.get(&peer).and_then(|peer| peer.send) {
            let ns = self.delay_ns();
            self.after(ns, Event::Progress(send));
        }
    }

    /// A turner is about to look at its shards, or has just done so: their bells are silent again.
    pub(crate) fn quieten(&self, turner: usize) {
        for desk in self.desks.iter().filter(|desk| desk.turner == Some(turner)) {
            desk.bell.is_rung.store(false, Ordering::Release);
        }
    }

    /// The delay of a completion; `None` if it is on time.
    pub(crate) fn late_ns(&mut self) -> Option<u64> {
        let is_late = self.random.chance(self.faults.late_ppm);
        is_late.then(|| self.slow_ns())
    }

    /// Sockets of a driver that have no operation, in order.
    pub(crate) fn idle_sockets(&self, sockets: &BTreeSet<SocketId>) -> Vec<SocketId> {
        let is_idle = |id: &&SocketId| self.sockets.get(id).is_some_and(Socket::is_idle);
        sockets.iter().filter(is_idle).copied().collect()
    }
}
