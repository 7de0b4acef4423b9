//! An owned `timerfd_create(2)`: a descriptor that becomes readable at a given time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A non-blocking, close-on-exec, one-shot timer on the monotonic clock.
#[derive(Debug)]
pub struct TimerFd {
    fd: OwnedFd,
}

impl TimerFd {
    /// Creates a timer that is not set.
    ///
    /// # Errors
    /// The process or the system is out of descriptors or memory (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub fn new() -> io::Result<TimerFd> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(TimerFd { fd: timerfd_create(TimerfdClockId::Monotonic, flags)? })
    }

    /// Makes the descriptor readable after `after`, and unreadable until then; zero: never.
    ///
    /// # Errors
    /// `InvalidInput` for a time that the system cannot express.
    pub fn set(&self, after: Duration) -> io::Result<()> {
        let seconds = after.as_secs().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: seconds, tv_nsec: after.subsec_nanos().into() };
        let timer = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }

    /// Makes the descriptor unreadable; returns whether the timer had expired. Never blocks.
    ///
    /// # Errors
    /// None is known for a valid timer; the result is passed on rather than hidden.
    pub fn drain(&self) -> io::Result<bool> {
        let mut count = [0u8; 8];
        loop {
            match rustix::io::read(&self.fd, &mut count) {
                Ok(_) => return Ok(true),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::net::is_readable;

    #[test]
    fn it_rings_once_and_not_before() {
        let timer = TimerFd::new().unwrap();
        assert!(!timer.drain().unwrap());
        timer.set(Duration::from_secs(3600)).unwrap();
        assert!(!is_readable(timer.as_fd()).unwrap());
        timer.set(Duration::from_nanos(1)).unwrap();
        while !is_readable(timer.as_fd()).unwrap() {
            std::thread::yield_now();
        }
        assert!(timer.drain().unwrap());
        assert!(!timer.drain().unwrap() && !is_readable(timer.as_fd()).unwrap());
        timer.set(Duration::MAX).unwrap_err();
    }
}
