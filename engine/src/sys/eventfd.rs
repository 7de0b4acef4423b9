//! An owned `eventfd(2)`, by which one thread wakes another that sleeps in the kernel.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// A non-blocking, close-on-exec event counter. Readable while the counter is above zero.
///
/// Signals add up: any number of [`signal`](EventFd::signal) calls before one
/// [`drain`](EventFd::drain) make the descriptor readable once.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// Creates a counter at zero.
    ///
    /// # Errors
    /// The process or the system is out of descriptors or memory (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub fn new() -> io::Result<EventFd> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(EventFd { fd })
    }

    /// Makes the descriptor readable. Callable from any thread; never blocks.
    ///
    /// # Errors
    /// None is known for a valid eventfd; the result is passed on rather than hidden.
    pub fn signal(&self) -> io::Result<()> {
        loop {
            match rustix::io::write(&self.fd, &1u64.to_ne_bytes()) {
                // A full counter is readable already, and a signal needs no more.
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Resets the counter to zero and returns how many signals it held (0: none). Never blocks.
    ///
    /// # Errors
    /// None is known for a valid eventfd; the result is passed on rather than hidden.
    pub fn drain(&self) -> io::Result<u64> {
        let mut count = [0u8; 8];
        loop {
            match rustix::io::read(&self.fd, &mut count) {
                Ok(_) => return Ok(u64::from_ne_bytes(count)),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_add_up_and_drain_to_zero() {
        let event = EventFd::new().unwrap();
        assert_eq!(event.drain().unwrap(), 0);
        event.signal().unwrap();
        event.signal().unwrap();
        assert_eq!(event.drain().unwrap(), 2);
        assert_eq!(event.drain().unwrap(), 0);
    }

    #[test]
    fn a_full_counter_still_takes_a_signal() {
        let event = EventFd::new().unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.signal().unwrap();
        assert_eq!(event.drain().unwrap(), u64::MAX - 1);
    }

    #[test]
    fn another_thread_makes_it_readable() {
        use rustix::event::{PollFd, PollFlags, poll};

        let event = EventFd::new().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| event.signal().unwrap());
            let mut polled = [PollFd::new(&event, PollFlags::IN)];
            assert_eq!(poll(&mut polled, None).unwrap(), 1);
        });
        assert_eq!(event.drain().unwrap(), 1);
    }
}
