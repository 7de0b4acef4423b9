//! Stands in for Linux's `eventfd(2)`: a counter cannot be made, so its methods are unreachable.

use std::{convert::Infallible, io};

use super::{AsSocket, BorrowedSocket};

/// A counter that other event loops could wait on; there is none on this system.
#[derive(Debug)]
pub struct EventFd(Infallible);

impl EventFd {
    /// Refuses: the system has no such counter.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn new() -> io::Result<Self> {
        let why = "this system has no descriptors for foreign event loops";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    /// Never called: there is no counter.
    ///
    /// # Errors
    /// None.
    pub fn signal(&self) -> io::Result<()> {
        match self.0 {}
    }

    /// Never called: there is no counter.
    ///
    /// # Errors
    /// None.
    pub fn drain(&self) -> io::Result<u64> {
        match self.0 {}
    }
}

#[cfg(unix)]
impl AsSocket for EventFd {
    fn as_fd(&self) -> BorrowedSocket<'_> {
        match self.0 {}
    }
}

#[cfg(windows)]
impl AsSocket for EventFd {
    fn as_socket(&self) -> BorrowedSocket<'_> {
        match self.0 {}
    }
}
