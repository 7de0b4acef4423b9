//! Looking at the poller.

use std::{io, time::Duration};

use polling::Poller;

use crate::{
    sync::{AtomicBool, Ordering},
    sys::poller::{Found, look},
};

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
        let looked = look(&self.poller, found, timeout);
        self.is_waiting.store(false, Ordering::Release);
        looked
    }
}
