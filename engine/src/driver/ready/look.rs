//! Looking at the poller.

use std::{io, time::Duration};

use polling::{Event, Poller};

use crate::sync::{AtomicBool, Ordering};

/// Descriptors that one look reports at most; the others come with the next one.
const EVENTS_MAX: usize = 256;

/// What a look found.
pub(super) struct Found {
    events: Vec<Event>,
    #[cfg(not(target_os = "linux"))]
    raw: polling::Events,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Found").field(&self.events).finish()
    }
}

impl Default for Found {
    fn default() -> Self {
        Self {
            events: Vec::with_capacity(EVENTS_MAX),
            #[cfg(not(target_os = "linux"))]
            raw: polling::Events::with_capacity(
                std::num::NonZeroUsize::new(EVENTS_MAX).expect("not zero"),
            ),
        }
    }
}

impl Found {
    pub(super) fn clear(&mut self) {
        self.events.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Event> {
        self.events.iter()
    }
}

/// The poller, which one thread waits on at a time and any number use otherwise.
#[derive(Debug)]
pub(super) struct Looker {
    pub(super) poller: Poller,
    is_waiting: AtomicBool,
}

impl Looker {
    pub(super) fn new(poller: Poller) -> Self {
        Self { poller, is_waiting: AtomicBool::new(false) }
    }

    /// Ends the wait that is under way, or the next one.
    pub(super) fn notify(&self) {
        // A notifier that is full has told already; nothing else is known to fail.
        let _ = self.poller.notify();
    }

    /// Waits until something is ready, somebody notifies, a signal comes, or the time is up. While another thread
    /// waits it returns at once: whoever waited first would take what is meant for the other.
    pub(super) fn wait(&self, found: &mut Found, timeout: Option<Duration>) -> io::Result<()> {
        found.clear();
        if self.is_waiting.swap(true, Ordering::Acquire) {
            // The other one was told to leave and may need this core for that.
            std::thread::yield_now();
            return Ok(());
        }
        let looked = self.look(found, timeout);
        self.is_waiting.store(false, Ordering::Release);
        looked
    }

    /// `epoll_wait` on the poller's own descriptor: the crate's wait costs four more system calls, to arm its timer
    /// and its notifier. Only for the notifier itself the crate has to be asked.
    #[cfg(target_os = "linux")]
    fn look(&self, found: &mut Found, timeout: Option<Duration>) -> io::Result<()> {
        use std::{mem::MaybeUninit, os::fd::AsFd};

        use rustix::event::{
            Timespec,
            epoll::{self, EventFlags},
        };

        /// The key that the crate keeps for its notifier.
        const NOTIFIER: u64 = u64::MAX;
        // A time that is too long to be told is as good as none.
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let mut raw = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        let raw = match epoll::wait(self.poller.as_fd(), &mut raw, timeout.as_ref()) {
            Ok((raw, _)) => raw,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let broken = EventFlags::ERR | EventFlags::HUP;
        for event in raw {
            if event.data.u64() == NOTIFIER {
                let mut rest = polling::Events::new();
                self.poller.wait(&mut rest, Some(Duration::ZERO))?;
                found.events.extend(rest.iter());
                continue;
            }
            let flags = event.flags;
            found.events.push(Event::new(
                event.data.u64() as usize,
                flags.intersects(EventFlags::IN | EventFlags::PRI | broken),
                flags.intersects(EventFlags::OUT | broken),
            ));
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn look(&self, found: &mut Found, timeout: Option<Duration>) -> io::Result<()> {
        found.raw.clear();
        self.poller.wait(&mut found.raw, timeout)?;
        found.events.extend(found.raw.iter());
        Ok(())
    }
}
