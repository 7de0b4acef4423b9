//! Waiting for readiness without holding the driver.

use std::{io, time::Duration};

use super::look::Looker;
use crate::{sync::Arc, sys::poller::Found};

/// A wait for readiness on any thread. Other threads may use the driver meanwhile: their changes to the poller take
/// effect at once.
#[derive(Debug)]
pub struct Parking {
    looker: Arc<Looker>,
    pub(super) found: Found,
    timeout: Option<Duration>,
}

impl Parking {
    pub(super) fn new(looker: Arc<Looker>, found: Found, timeout: Option<Duration>) -> Self {
        Self { looker, found, timeout }
    }

    /// Waits until something is ready, the shard is woken, a signal comes, or the time is up. Returns at once while
    /// another thread waits.
    ///
    /// # Errors
    /// The system's error.
    pub fn wait(&mut self) -> io::Result<()> {
        self.looker.wait(&mut self.found, self.timeout)
    }
}
