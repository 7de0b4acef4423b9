//! A descriptor for foreign event loops.

use zring_engine::sys::{OwnedSocket, poll::readable_with};

use crate::{error::Error, socket::Socket};

impl Socket {
    /// A descriptor for other event loops (epoll, poll, an async runtime). It is readable while something may have
    /// changed since a call on the socket last returned [`Error::WouldBlock`]. When it was readable, receive (or send)
    /// with `try_*` until that would block, and then, if the socket is monitored, take events until there are none.
    /// Only then wait for the descriptor again. It may be readable in vain.
    ///
    /// # Errors
    /// [`Error::Io`]: the operating system refuses an eventfd, or is not Linux (`Unsupported`); the futures of the
    /// socket work in every event loop.
    pub fn event_fd(&self) -> Result<OwnedSocket, Error> {
        let mut descriptors = Vec::new();
        self.each(|reactor, key| descriptors.push(reactor.hub.event_fd(key)));
        let mut descriptors = descriptors.into_iter().collect::<Result<Vec<_>, _>>()?;
        match descriptors.pop() {
            Some(only) if descriptors.is_empty() => Ok(only),
            // An epoll descriptor is readable while one of its descriptors is.
            last => Ok(readable_with(descriptors.iter().chain(&last))?),
        }
    }
}
