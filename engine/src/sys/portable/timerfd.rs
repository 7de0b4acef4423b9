//! Stands in for Linux's `timerfd_create(2)`: a timer cannot be made, so its methods are unreachable.

use std::{convert::Infallible, io, time::Duration};

use super::{AsSocket, BorrowedSocket};

/// A timer that other event loops could wait on; there is none on this system.
#[derive(Debug)]
pub struct TimerFd(Infallible);

impl TimerFd {
    /// Refuses: the system has no such timer.
    ///
    /// # Errors
    /// `Unsupported`.
    pub fn new() -> io::Result<Self> {
        let why = "this system has no timers for foreign event loops";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    /// Never called: there is no timer.
    ///
    /// # Errors
    /// None.
    pub fn set(&self, _after: Duration) -> io::Result<()> {
        match self.0 {}
    }

    /// Never called: there is no timer.
    ///
    /// # Errors
    /// None.
    pub fn drain(&self) -> io::Result<bool> {
        match self.0 {}
    }
}

#[cfg(unix)]
impl AsSocket for TimerFd {
    fn as_fd(&self) -> BorrowedSocket<'_> {
        match self.0 {}
    }
}

#[cfg(windows)]
impl AsSocket for TimerFd {
    fn as_socket(&self) -> BorrowedSocket<'_> {
        match self.0 {}
    }
}
