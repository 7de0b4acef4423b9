//! Waiting on several sockets of one context.

use std::time::Duration;

use super::{Context, Socket};
use crate::{
    error::{Error, Refusal},
    interest::{POLLIN, POLLOUT},
    reactor::Reactor,
};

/// A socket to wait on, the events wanted, and the events found.
#[derive(Debug)]
pub struct PollItem<'a> {
    socket: &'a Socket,
    events: u8,
    ready: u8,
}

impl<'a> PollItem<'a> {
    /// Waits for `events` ([`POLLIN`], [`POLLOUT`], or both with `|`) on a socket.
    #[must_use]
    pub fn new(socket: &'a Socket, events: u8) -> Self {
        Self { socket, events, ready: 0 }
    }

    /// Whether `recv` would give a message at once, as of the last [`poll`].
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.ready & POLLIN != 0
    }

    /// Whether `send` would take a message at once, as of the last [`poll`].
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.ready & POLLOUT != 0
    }

    fn check(&mut self, reactor: &mut Reactor) -> bool {
        self.ready = reactor.readiness(self.socket.key(), self.events);
        self.ready != 0
    }
}

/// Waits until one of the sockets is ready, at most `timeout` (`None`: for ever). Returns how many are ready; 0 when
/// the time is up. An empty list returns 0 at once.
///
/// # Errors
/// [`Error::ForeignSocket`] when the sockets belong to different contexts, [`Error::Io`].
///
/// ```
/// use std::time::Duration;
/// use zring::{SocketType, inline::{Context, POLLIN, PollItem, poll}};
/// # fn main() -> Result<(), zring::Error> {
/// let context = Context::new()?;
/// let pull = context.socket(SocketType::Pull)?;
/// pull.bind("tcp://127.0.0.1:*")?;
/// let mut items = [PollItem::new(&pull, POLLIN)];
/// assert_eq!(poll(&mut items, Some(Duration::ZERO))?, 0);
/// assert!(!items[0].is_readable());
/// # Ok(())
/// # }
/// ```
pub fn poll(items: &mut [PollItem<'_>], timeout: Option<Duration>) -> Result<usize, Error> {
    let Some(first) = items.first() else { return Ok(0) };
    let context: Context = first.socket.context().clone();
    if !items.iter().all(|item| item.socket.belongs_to(&context)) {
        return Err(Error::ForeignSocket);
    }
    let mut reactor = context.reactor.borrow_mut();
    let ready = reactor.wait_for(timeout, |reactor| {
        match items.iter_mut().filter_map(|item| item.check(reactor).then_some(())).count() {
            0 => Err(Refusal::WouldBlock),
            ready => Ok(ready),
        }
    });
    match ready {
        Err(Refusal::WouldBlock) => Ok(0),
        ready => Ok(ready?),
    }
}
