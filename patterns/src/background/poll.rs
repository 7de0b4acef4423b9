//! Waiting on several sockets and on foreign descriptors.

use std::{task::Waker, time::Duration};

use zring_engine::{
    Clock, Parker,
    lead::Waiter,
    sys::{AsSocket, BorrowedSocket, borrow, poll::PollSet, raw},
};

use crate::{
    deadline::deadline_ns,
    error::Error,
    hub::SocketKey,
    interest::{POLLIN, POLLOUT},
    reactor::Reactor,
    socket::{Listing, Socket},
};

#[derive(Debug)]
enum What<'a> {
    Socket(&'a Socket),
    Fd(BorrowedSocket<'a>),
}

/// A socket or descriptor to wait on, the events wanted, and the events found.
#[derive(Debug)]
pub struct PollItem<'a> {
    what: What<'a>,
    events: u8,
    ready: u8,
}

impl<'a> PollItem<'a> {
    /// Waits for `events` ([`POLLIN`], [`POLLOUT`], or both with `|`) on a socket.
    #[must_use]
    pub fn new(socket: &'a Socket, events: u8) -> Self {
        Self { what: What::Socket(socket), events, ready: 0 }
    }

    /// Waits for `events` on a descriptor, which on Windows is a socket. An error or a hang-up counts as readable and
    /// as writable, as far as asked for.
    #[must_use]
    pub fn from_fd(fd: &'a impl AsSocket, events: u8) -> Self {
        Self { what: What::Fd(borrow(fd)), events, ready: 0 }
    }

    /// Whether there is something to receive or to read at once, as of the last [`poll`].
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.ready & POLLIN != 0
    }

    /// Whether a send or a write would be accepted at once, as of the last [`poll`].
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.ready & POLLOUT != 0
    }

    fn socket(&self) -> Option<&'a Socket> {
        match self.what {
            What::Socket(socket) => Some(socket),
            What::Fd(_) => None,
        }
    }

    fn check(&mut self, reactor: &mut Reactor, key: SocketKey) -> Result<(), Error> {
        reactor.check()?;
        self.ready = reactor.readiness(key, self.events);
        Ok(())
    }
}

/// Waits until one of the items is ready, at most `timeout` (`None`: for ever). Returns how many are ready; 0 when
/// the time is up. An empty list returns 0 at once. The sockets may belong to different contexts.
///
/// # Errors
/// [`Error::Terminated`], or [`Error::Io`].
///
/// ```
/// use std::{io::Write, net::{TcpListener, TcpStream}};
/// use zring::{Context, PollItem, SocketType, inline::POLLIN, poll};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let context = Context::new()?;
/// let pull = context.socket(SocketType::Pull)?;
/// pull.bind("tcp://127.0.0.1:*")?;
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut here = TcpStream::connect(listener.local_addr()?)?;
/// let (there, _) = listener.accept()?;
/// here.write_all(b"x")?;
/// let mut items = [PollItem::new(&pull, POLLIN), PollItem::from_fd(&there, POLLIN)];
/// assert_eq!(poll(&mut items, None)?, 1);
/// assert!(!items[0].is_readable() && items[1].is_readable());
/// # Ok(())
/// # }
/// ```
pub fn poll(items: &mut [PollItem<'_>], timeout: Option<Duration>) -> Result<usize, Error> {
    let Some(first) = items.first() else { return Ok(0) };
    let clock = Clock::new();
    let until_ns = deadline_ns(clock, timeout);
    if let Some(socket) = first.socket()
        && items.iter().all(|item| item.socket().is_some_and(|other| other.shares_shard(socket)))
    {
        return poll_shard(socket, items, until_ns);
    }
    poll_apart(items, until_ns, clock)
}

/// The items are sockets of one shard, which the caller can turn while it waits.
fn poll_shard(
    socket: &Socket,
    items: &mut [PollItem<'_>],
    until_ns: Option<u64>,
) -> Result<usize, Error> {
    let mut group = Group { items, numbers: Vec::new() };
    match socket.context().lead(*socket.place()).wait(until_ns, &mut group)? {
        Some(ready) => ready,
        None => Ok(0),
    }
}

struct Group<'a, 'b> {
    items: &'a mut [PollItem<'b>],
    numbers: Vec<u64>,
}

impl Waiter<Reactor> for Group<'_, '_> {
    type Output = Result<usize, Error>;

    fn attempt(&mut self, reactor: &mut Reactor) -> Option<Self::Output> {
        loop {
            for item in &mut *self.items {
                let key = item.socket().expect("only sockets are grouped").key();
                if let Err(error) = item.check(reactor, key) {
                    return Some(Err(error));
                }
            }
            let ready = count_ready(self.items);
            if ready > 0 || !reactor.flush() {
                return (ready > 0).then_some(Ok(ready));
            }
        }
    }

    fn enlist(&mut self, reactor: &mut Reactor, waker: &Waker) {
        let keys = self.items.iter().filter_map(|item| item.socket().map(Socket::key));
        self.numbers.extend(keys.map(|key| reactor.hub.enlist(key, waker.clone())));
    }

    fn delist(&mut self, reactor: &mut Reactor) {
        let keys = self.items.iter().filter_map(|item| item.socket().map(Socket::key));
        for (key, number) in keys.zip(self.numbers.drain(..)) {
            reactor.hub.delist(key, number);
        }
    }
}

fn count_ready(items: &[PollItem<'_>]) -> usize {
    items.iter().filter(|item| item.ready != 0).count()
}

/// The items are sockets of several shards, or descriptors: each of them wakes the caller.
fn poll_apart(
    items: &mut [PollItem<'_>],
    until_ns: Option<u64>,
    clock: Clock,
) -> Result<usize, Error> {
    let mut set = PollSet::default();
    for item in items.iter() {
        if let What::Fd(fd) = item.what {
            set.add(raw(&fd), item.events & POLLIN != 0, item.events & POLLOUT != 0);
        }
    }
    let parker = Parker::current();
    let waker = if set.is_empty() { parker.waker() } else { set.waker()? };
    loop {
        let mut enlisted: Vec<(usize, Listing)> = Vec::new();
        let looked = look(items, &waker, &mut enlisted);
        let is_over = until_ns.is_some_and(|at_ns| clock.now_ns() >= at_ns);
        let ready = looked.as_ref().map_or(0, |()| count_ready(items));
        let left_ns = until_ns.map(|at_ns| at_ns.saturating_sub(clock.now_ns()));
        let timeout_ns = if ready > 0 || is_over || looked.is_err() { Some(0) } else { left_ns };
        let waited = if !set.is_empty() {
            set.wait(timeout_ns)
        } else {
            if timeout_ns != Some(0) {
                parker.park(timeout_ns);
            }
            Ok(())
        };
        for (at, mut listing) in enlisted {
            if let What::Socket(socket) = &items[at].what {
                listing.delist(socket);
            }
        }
        looked?;
        waited?;
        take_fds(items, &set);
        let ready = count_ready(items);
        if ready > 0 || is_over {
            return Ok(ready);
        }
    }
}

/// Checks every socket. Those that are not ready will wake the caller.
fn look(
    items: &mut [PollItem<'_>],
    waker: &Waker,
    enlisted: &mut Vec<(usize, Listing)>,
) -> Result<(), Error> {
    for (at, item) in items.iter_mut().enumerate() {
        let Some(socket) = item.socket() else { continue };
        item.ready = socket.readiness(item.events)?;
        if item.ready == 0 {
            let mut listing = Listing::default();
            listing.enlist(socket, waker);
            enlisted.push((at, listing));
            // Check again: a message may have arrived before we enlisted.
            item.ready = socket.readiness(item.events)?;
        }
    }
    Ok(())
}

fn take_fds(items: &mut [PollItem<'_>], set: &PollSet) {
    let fds = items.iter_mut().filter(|item| matches!(item.what, What::Fd(_)));
    for (item, (readable, writable)) in fds.zip(set.results()) {
        item.ready = (if readable { POLLIN } else { 0 }) | (if writable { POLLOUT } else { 0 });
        item.ready &= item.events;
    }
}

impl Socket {
    fn shares_shard(&self, other: &Self) -> bool {
        let is_together = self.apart().is_none() && other.apart().is_none();
        is_together
            && std::ptr::eq(
                self.context().lead(*self.place()),
                other.context().lead(*other.place()),
            )
    }
}
