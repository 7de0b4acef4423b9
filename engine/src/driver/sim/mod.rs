//! The simulated driver: a seeded, faulty network in memory, under a virtual clock.
//!
//! Part of [`crate::sim`], which says how to use it. A real descriptor names each simulated socket; nothing but its
//! number is used. Only TCP addresses exist. All of them belong to one host, and only the port counts.

mod buffers;
mod complete;
mod desk;
mod fault;
mod net;
#[cfg(test)]
mod tests;
mod trace;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::PoisonError,
    task::Waker,
};

pub use fault::{Faults, Random};
pub(crate) use net::{Event, Net};

use self::{
    buffers::Buffers,
    complete::new_descriptor,
    desk::{Bell, Desk, OpRef, Work},
    net::{Role, SocketId},
};
use super::{Completion, Driver, OpId, Submission, Token, Wait};
use crate::{
    buf::{Gather, Pool},
    config::{Config, DriverChoice},
    error::Error,
    lead, sim,
    sync::{Arc, Mutex, Ordering},
    sys::{
        eventfd::EventFd,
        net::{Family, Progress, SocketOptions},
    },
};

/// How long a spinning shard polls at most.
const SPIN_NS_MAX: u64 = 20_000;

/// A request that waits for the next flush.
#[derive(Debug)]
enum Queued {
    Start(OpRef),
    Cancel(OpRef),
}

/// See the module.
pub struct Sim {
    net: Arc<Mutex<Net>>,
    /// The index of its desk.
    index: usize,
    queue: Vec<Queued>,
    buffers: Buffers,
    bell: Arc<Bell>,
}

/// A wait in the driver's world.
#[derive(Debug)]
pub struct Parking {
    net: Arc<Mutex<Net>>,
    index: usize,
    until_ns: Option<u64>,
}

pub(crate) fn lock(net: &Mutex<Net>) -> std::sync::MutexGuard<'_, Net> {
    net.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a configuration asks for the simulator.
pub(super) fn is_wanted(choice: DriverChoice) -> bool {
    match choice {
        DriverChoice::Sim => true,
        DriverChoice::Auto | DriverChoice::PreferReady => sim::current_net().is_some(),
        DriverChoice::Uring | DriverChoice::Ready => false,
    }
}

/// The inode behind a descriptor's number, if it is open.
fn inode(fd: RawFd) -> Option<u64> {
    // SAFETY: `stat` is plain integers, for which zero is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `fstat` writes into `stat` alone. For a number that is not open it returns an error and does nothing
    // else.
    let outcome = unsafe { libc::fstat(fd, &raw mut stat) };
    (outcome == 0).then_some(stat.st_ino)
}

impl Sim {
    /// Opens a driver of the world that runs on the calling thread.
    ///
    /// # Errors
    /// [`Error::NoDriver`] outside of a world.
    pub fn open(config: &Config) -> Result<(Self, Pool), Error> {
        let net = sim::current_net().ok_or(Error::NoDriver)?;
        let mut locked = lock(&net);
        let bell = Arc::<Bell>::default();
        let index = locked.desks.len();
        let turner = locked.turner;
        locked.desks.push(Desk { bell: bell.clone(), turner, ..Desk::default() });
        // Without faults every shard has the same geometry.
        let is_faulty = locked.faults.short_ppm > 0;
        let is_whole = is_faulty && locked.random.below(2) == 0;
        let uses_beyond = is_faulty && locked.random.below(2) == 0;
        locked.note(Some(index), "open", u64::from(is_whole), u64::from(uses_beyond));
        drop(locked);
        let geometry = if is_whole { config.pool_whole } else { config.pool };
        let mut pool = Pool::open(geometry, &config.pool_memory, !config.shared)?;
        let buffers = Buffers::new(is_whole, uses_beyond);
        let mut this = Self { net, index, queue: Vec::new(), buffers, bell };
        pool.set_waker(this.waker());
        this.provide(&mut pool);
        Ok((this, pool))
    }

    /// The socket behind a descriptor that an operation is submitted for.
    fn socket(net: &Net, fd: RawFd) -> SocketId {
        let id = net.by_fd.get(&fd).copied();
        let id = id.unwrap_or_else(|| panic!("descriptor {fd} is no socket of the simulator's"));
        let is_open = net.sockets[&id].name == inode(fd).map(|inode| (fd, inode));
        assert!(is_open, "an operation on socket {id}, whose descriptor {fd} was closed");
        id
    }

    /// Closes the sockets whose descriptors were closed without [`Driver::close`].
    fn notice_closed(net: &mut Net, index: usize) {
        for id in net.idle_sockets(&net.desks[index].sockets) {
            let name = net.sockets[&id].name;
            if name != name.and_then(|(fd, _)| Some((fd, inode(fd)?))) {
                net.close(id);
                net.desks[index].sockets.remove(&id);
            }
        }
    }

    fn hand_over(&mut self) {
        let mut net = lock(&self.net);
        Self::notice_closed(&mut net, self.index);
        let has_buffer = self.buffers.has_some();
        for queued in self.queue.drain(..) {
            match queued {
                Queued::Start(op) => net.start(op, has_buffer),
                Queued::Cancel(op) => net.cancel(op),
            }
        }
    }

    fn has_news(&self) -> bool {
        lock(&self.net).desks[self.index].has_news()
    }

    /// Notes which turner turns this driver.
    fn look_around(&mut self) {
        let mut net = lock(&self.net);
        if let Some(turner) = net.turner {
            net.desks[self.index].turner = Some(turner);
        }
        drop(net);
        if let Some(event_fd) = self.bell.shown.get() {
            // Drain before looking, so that any later completion makes the descriptor readable again.
            let _ = event_fd.drain();
        }
    }
}

impl Driver for Sim {
    fn listen_tcp(
        &mut self,
        address: SocketAddr,
        backlog: u32,
        options: &SocketOptions,
    ) -> io::Result<(OwnedFd, SocketAddr)> {
        let fd = new_descriptor(Family::V4, options)?;
        let mut net = lock(&self.net);
        Self::notice_closed(&mut net, self.index);
        let (id, port) = net
            .add_listener(address.port(), backlog.max(1) as usize)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRINUSE))?;
        net.name(self.index, id, &fd);
        net.note(Some(self.index), "listen", id, u64::from(port));
        Ok((fd, SocketAddr::new(address.ip(), port)))
    }

    fn connect_socket(&mut self, family: Family, options: &SocketOptions) -> io::Result<OwnedFd> {
        let fd = new_descriptor(family, options)?;
        let mut net = lock(&self.net);
        let id = net.add_socket(Role::Fresh);
        net.name(self.index, id, &fd);
        Ok(fd)
    }

    fn adopt(&mut self, fd: &OwnedFd) {
        let mut net = lock(&self.net);
        let id = Self::socket(&net, fd.as_raw_fd());
        for desk in &mut net.desks {
            desk.sockets.remove(&id);
        }
        net.desks[self.index].sockets.insert(id);
    }

    fn close(&mut self, fd: OwnedFd) {
        let mut net = lock(&self.net);
        let id = Self::socket(&net, fd.as_raw_fd());
        net.close(id);
        net.desks[self.index].sockets.remove(&id);
        // Close it with the lock held, so that no other socket gets the number before this one is gone.
        drop(fd);
    }

    fn submit(&mut self, token: Token, submission: Submission) -> OpId {
        let (fd, work) = match submission {
            Submission::Accept { fd } => (fd, Work::Accept),
            Submission::Connect { fd, address } => {
                let port = address.as_socket().map(|address| address.port());
                (fd, Work::Connect { port, outcome: None })
            }
            Submission::Receive { fd, once } => (fd, Work::Receive { is_starved: false, once }),
            Submission::AwaitReadable { fd } => (fd, Work::Readable),
            Submission::ReceiveDirect { fd, direct } => {
                assert!(direct.spill.is_empty(), "the spill area must be empty");
                (fd, Work::Direct(direct))
            }
            Submission::Send { fd, gather, sent } => {
                let segments = gather.segments().len();
                assert!(segments <= super::SEGMENTS_PER_SEND_MAX, "too many segments in one send");
                (fd, Work::Send { gather, sent, error: None, fault: None })
            }
        };
        let mut net = lock(&self.net);
        let socket = Self::socket(&net, fd);
        let op = net.add_op(self.index, token, socket, work);
        self.queue.push(Queued::Start(op));
        OpId(op.id)
    }

    fn try_send(&mut self, fd: BorrowedFd<'_>, bytes: &[u8]) -> usize {
        let net = &mut *lock(&self.net);
        let socket = Self::socket(net, fd.as_raw_fd());
        assert!(net.sockets[&socket].send.is_none(), "two sends at once on socket {socket}");
        let is_open = |role: &Role| matches!(role, Role::Stream(stream) if !stream.is_broken);
        let mut room = net.space(socket).min(bytes.len() as u64);
        if room == 0 || !is_open(&net.sockets[&socket].role) {
            return 0;
        }
        if net.random.chance(net.faults.short_ppm) {
            room = if net.random.below(4) == 0 { 0 } else { net.piece(room) };
        }
        if room > 0 {
            net.carry(socket, bytes[..room as usize].to_vec());
        }
        net.note(Some(self.index), "try_send", socket, room);
        room as usize
    }

    fn try_send_behind(&mut self, fd: BorrowedFd<'_>, head: &[u8], body: &[u8]) -> usize {
        match self.try_send(fd, head) {
            sent if sent == head.len() => sent + self.try_send(fd, body),
            sent => sent,
        }
    }

    fn try_send_list(&mut self, fd: BorrowedFd<'_>, gather: &Gather) -> usize {
        if gather.has_files() {
            return 0;
        }
        let mut sent = 0;
        for segment in gather.segments() {
            let bytes = self.try_send(fd, segment.bytes());
            sent += bytes;
            if bytes < segment.len() {
                break;
            }
        }
        sent
    }

    fn try_receive(
        &mut self,
        fd: BorrowedFd<'_>,
        body: &mut [u8],
        spill: &mut Vec<u8>,
    ) -> io::Result<Option<usize>> {
        let net = &mut *lock(&self.net);
        let socket = Self::socket(net, fd.as_raw_fd());
        net.take_now(self.index, socket, body, spill)
    }

    fn progress(&mut self, _fd: BorrowedFd<'_>, send: Option<OpId>) -> Progress {
        let Some(op) = send else { return Progress::default() };
        let state = &mut *lock(&self.net);
        let sent = match state.op(OpRef { driver: self.index, id: op.0 }).map(|op| &op.work) {
            Some(Work::Send { sent, .. }) => *sent as u64,
            _ => 0,
        };
        Progress { taken: (op.0 << 32).wrapping_add(sent), is_pending: true }
    }

    fn cancel(&mut self, op: OpId) {
        self.queue.push(Queued::Cancel(OpRef { driver: self.index, id: op.0 }));
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_over();
        Ok(())
    }

    fn poll(&mut self, wait: Wait) -> io::Result<()> {
        self.hand_over();
        self.look_around();
        let mut locked = lock(&self.net);
        let net = &mut *locked;
        let now_ns = net.now_ns;
        let until_ns = match wait {
            Wait::No => Some(now_ns),
            Wait::Spin => Some(now_ns + net.random.between(1, SPIN_NS_MAX)),
            Wait::Park(timeout_ns) => timeout_ns.map(|ns| now_ns.saturating_add(ns)),
        };
        let is_woken_early = wait != Wait::No && net.random.chance(net.faults.spurious_ppm);
        drop(locked);
        if is_woken_early {
            lock(&self.net).note(Some(self.index), "woken early", 0, 0);
        }
        if wait == Wait::No || is_woken_early {
            return sim::pass(&self.net);
        }
        sim::wait(&self.net, "a shard that is turned", until_ns, || self.has_news())
    }

    fn park(&mut self, timeout_ns: Option<u64>) -> io::Result<Option<super::Parking>> {
        self.hand_over();
        self.look_around();
        if self.has_news() {
            return Ok(None);
        }
        let until_ns = timeout_ns.map(|ns| lock(&self.net).now_ns.saturating_add(ns));
        let parking = Parking { net: self.net.clone(), index: self.index, until_ns };
        Ok(Some(super::Parking::Sim(parking)))
    }

    fn unpark(&mut self, _parking: super::Parking) {}

    fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    fn next(&mut self, pool: &mut Pool) -> Option<Completion> {
        let Self { net, index, buffers, bell, .. } = self;
        let mut net = lock(net);
        // A wake waits for its turn like every completion: a wake that comes back each time must not keep others out.
        let is_its_turn = bell.is_woken.load(Ordering::Acquire) && net.random.below(2) == 0;
        let woken = || bell.is_woken.swap(false, Ordering::AcqRel).then_some(Completion::Woken);
        if is_its_turn {
            return woken();
        }
        loop {
            let Some(op) = net.pick_ready(*index) else { return woken() };
            let completion = net.complete(op, buffers, pool);
            net.desks[*index].buffers = buffers.len();
            if completion.is_some() {
                return completion;
            }
        }
    }

    fn buffers(&self, _pool: &Pool) -> usize {
        self.buffers.len()
    }

    fn provide(&mut self, pool: &mut Pool) -> usize {
        let taken = self.buffers.provide(pool);
        lock(&self.net).desks[self.index].buffers = self.buffers.len();
        taken
    }

    fn in_flight(&self) -> usize {
        lock(&self.net).desks[self.index].ops.len()
    }

    fn shut_down(&mut self, _pool: &mut Pool) -> bool {
        if std::thread::panicking() {
            // The world has failed; its state may be halfway through a change.
            return false;
        }
        self.hand_over();
        let net = &mut *lock(&self.net);
        let ids: Vec<u64> = net.desks[self.index].ops.keys().copied().collect();
        for id in ids {
            let op = OpRef { driver: self.index, id };
            // The network may take another piece of a send before the send is cut.
            if net.random.chance(net.faults.cancel_race_ppm)
                && matches!(net.op(op).map(|state| &state.work), Some(Work::Send { .. }))
            {
                net.progress(op);
            }
            net.remove_op(op);
        }
        net.desks[self.index].ready.clear();
        net.note(Some(self.index), "shut down", 0, 0);
        true
    }

    fn waker(&self) -> Waker {
        Waker::from(self.bell.clone())
    }

    fn alarm(&mut self, after_ns: u64) {
        if let Some(event_fd) = self.bell.shown.get() {
            lock(&self.net).after(after_ns, Event::Alarm(event_fd.clone()));
        }
    }

    fn event_fd(&mut self) -> io::Result<BorrowedFd<'_>> {
        if self.bell.shown.get().is_none() {
            let event_fd = EventFd::new()?;
            // Completions from before did not signal the new descriptor.
            event_fd.signal()?;
            let _ = self.bell.shown.set(Arc::new(event_fd));
        }
        Ok(self.bell.shown.get().expect("made above").as_fd())
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // As in `shut_down`.
            return;
        }
        let mut net = lock(&self.net);
        // The shard's descriptors are closed with it, not one by one.
        for id in std::mem::take(&mut net.desks[self.index].sockets) {
            net.close(id);
        }
        let desk = &mut net.desks[self.index];
        desk.buffers = 0;
        desk.turner = None;
    }
}

impl lead::Wait for Parking {
    fn wait(&mut self) -> io::Result<()> {
        let has_news = || lock(&self.net).desks[self.index].has_news();
        sim::wait(&self.net, "a parked shard", self.until_ns, has_news)
    }
}

impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim").field("index", &self.index).finish_non_exhaustive()
    }
}
