//! Waiting for readiness without holding the driver.

use std::{io, time::Duration};

use super::look::Looker;
use crate::{sync::Arc, sys::poller::Found};

/// A wait for readiness on any thread. Others may use the driver meanwhile: what they change in the poller counts at
/// once.
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

    /// Waits until something is ready, the shard is woken, a signal comes, or the time is up. While another thread
    /// waits as well, it returns at once.
    ///
    /// # Errors
    /// What the system said.
    pub fn wait(&mut self) -> io::Result<()> {
        self.looker.wait(&mut self.found, self.timeout)
    }
}
