//! Waiting on several sockets of one context.

use std::time::Duration;

use super::{Context, Socket};
use crate::{
    core::Core,
    error::{Error, Refusal},
};

/// Interest in, or readiness for, receiving.
pub const POLLIN: u8 = 1;
/// Interest in, or readiness for, sending.
pub const POLLOUT: u8 = 2;

/// A socket to wait on, what for, and what came of it.
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

    fn check(&mut self, core: &mut Core) -> bool {
        self.ready = core.readiness(self.socket.key(), self.events);
        self.ready != 0
    }
}

/// Waits until one of the sockets is ready, at most `timeout` (`None`: for ever). Returns how many are ready; 0 when
/// the time is up. An empty list returns 0 at once.
///
/// # Errors
/// [`Error::ForeignSocket`] when they belong to different contexts, [`Error::Io`].
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
    let mut core = context.core.borrow_mut();
    let ready = core.wait_for(timeout, |core| {
        match items.iter_mut().filter_map(|item| item.check(core).then_some(())).count() {
            0 => Err(Refusal::WouldBlock),
            ready => Ok(ready),
        }
    });
    match ready {
        Err(Refusal::WouldBlock) => Ok(0),
        ready => Ok(ready?),
    }
}
