//! Waiting on descriptors of the user's together with a waker of ours.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    task::{Wake, Waker},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::eventfd::EventFd;
use crate::sync::Arc;

struct Signal(EventFd);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A full counter is readable already.
        let _ = self.0.signal();
    }
}

/// A descriptor that is readable while one of `fds` is. A descriptor stays in the set until all its duplicates are
/// closed.
///
/// # Errors
/// When the kernel refuses an epoll descriptor, or one of `fds` cannot be polled.
pub fn readable_with(fds: impl IntoIterator<Item = impl AsFd>) -> io::Result<OwnedFd> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for fd in fds {
        let data = epoll::EventData::new_u64(0);
        epoll::add(&poller, fd, data, epoll::EventFlags::IN)?;
    }
    Ok(poller)
}

/// A set of descriptors to wait on with `poll(2)`, and a waker that ends the wait.
#[derive(Default)]
pub struct PollSet {
    fds: Vec<(RawFd, PollFlags, PollFlags)>,
    signal: Option<Arc<Signal>>,
}

impl PollSet {
    /// Adds a descriptor, which has to stay open while the set is used.
    pub fn add(&mut self, fd: RawFd, readable: bool, writable: bool) {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, readable);
        events.set(PollFlags::OUT, writable);
        self.fds.push((fd, events, PollFlags::empty()));
    }

    /// Whether no descriptor was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fds.is_empty()
    }

    /// A waker that ends the wait from any thread.
    ///
    /// # Errors
    /// When the kernel refuses an eventfd.
    pub fn waker(&mut self) -> io::Result<Waker> {
        let signal = match &self.signal {
            Some(signal) => signal.clone(),
            None => self.signal.insert(Arc::new(Signal(EventFd::new()?))).clone(),
        };
        Ok(Waker::from(signal))
    }

    /// Waits until a descriptor is ready, the waker is used, or the time is up. A signal may end the wait, too.
    ///
    /// # Errors
    /// The error of `poll(2)`.
    #[allow(unsafe_code)]
    pub fn wait(&mut self, timeout_ns: Option<u64>) -> io::Result<()> {
        // SAFETY: the caller of `add` keeps the descriptor open; a closed one reads as `POLLNVAL`.
        let borrow = |&(fd, events, _): &(RawFd, PollFlags, PollFlags)| unsafe {
            PollFd::from_borrowed_fd(BorrowedFd::borrow_raw(fd), events)
        };
        let mut polled: Vec<PollFd<'_>> = self.fds.iter().map(borrow).collect();
        if let Some(signal) = &self.signal {
            polled.push(PollFd::from_borrowed_fd(signal.0.as_fd(), PollFlags::IN));
        }
        let timeout = timeout_ns.map(|ns| Timespec::try_from(Duration::from_nanos(ns)));
        let timeout = timeout.transpose().map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let results: Vec<_> = polled.iter().map(PollFd::revents).collect();
        for ((.., ready), result) in self.fds.iter_mut().zip(results) {
            *ready = result;
        }
        if let Some(signal) = &self.signal {
            signal.0.drain()?;
        }
        Ok(())
    }

    /// Whether each descriptor was readable and writable when the last wait ended, in the order of [`PollSet::add`].
    pub fn results(&self) -> impl Iterator<Item = (bool, bool)> {
        let broken = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        self.fds.iter().map(move |(.., ready)| {
            let is_broken = ready.intersects(broken);
            (
                is_broken || ready.contains(PollFlags::IN),
                is_broken || ready.contains(PollFlags::OUT),
            )
        })
    }
}

impl std::fmt::Debug for PollSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollSet").field("fds", &self.fds.len()).finish_non_exhaustive()
    }
}
