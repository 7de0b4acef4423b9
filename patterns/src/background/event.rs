//! A descriptor for foreign event loops.

use std::os::fd::OwnedFd;

use crate::{error::Error, socket::Socket};

impl Socket {
    /// A descriptor for other event loops (epoll, poll, an async runtime): it polls readable while something may have
    /// changed since a call on the socket last answered [`Error::WouldBlock`]. After it was readable, receive (or send)
    /// with `try_*` until that would block; only then wait for it again. It may be readable in vain.
    ///
    /// # Errors
    /// When the operating system refuses an eventfd.
    pub fn event_fd(&self) -> Result<OwnedFd, Error> {
        let mut core = self.core();
        Ok(core.hub.event_fd(self.key())?)
    }
}
