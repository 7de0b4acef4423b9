//! Looks at the poller.

use std::{io, time::Duration};

use polling::Poller;

use crate::{
    sync::{AtomicBool, Ordering},
    sys::poller::{Found, look},
};

/// The poller. One thread at a time waits on it, and any number of threads change it meanwhile.
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
        // A notifier that is full has notified already. No other error is known.
        let _ = self.poller.notify();
    }

    /// Waits until something is ready, a thread notifies, a signal comes, or the time is up. Returns at once while
    /// another thread waits, because that thread would take the events that are meant for this one.
    pub(super) fn wait(&self, found: &mut Found, timeout: Option<Duration>) -> io::Result<()> {
        found.clear();
        if self.is_waiting.swap(true, Ordering::Acquire) {
            // The other thread was told to leave, and may need this core for that.
            std::thread::yield_now();
            return Ok(());
        }
        let looked = look(&self.poller, found, timeout);
        self.is_waiting.store(false, Ordering::Release);
        looked
    }
}
