//! Events of a socket: recorded, taken, waited for.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{Home, Socket};
use crate::{
    error::{Error, Refusal},
    hub::SocketKey,
    lock::lock,
    monitor::{Event, EventQueue},
    reactor::Reactor,
};

impl<C: Home> Socket<C> {
    /// Starts to record events. At most `capacity` wait to be taken; further ones are counted as lost
    /// ([`SocketStats::events_lost`](crate::SocketStats::events_lost)). 0 stops recording.
    pub fn monitor(&self, capacity: usize) {
        let events = (capacity > 0).then(|| Arc::new(Mutex::new(EventQueue::new(capacity))));
        self.each(|reactor, key| {
            reactor.hub.sockets[key].events.clone_from(&events);
            // Wake calls that wait for an event: if recording has stopped, none will come.
            reactor.hub.touch(key);
        });
    }

    /// Takes the oldest event, if there is one. Never waits.
    #[must_use]
    pub fn next_event(&self) -> Option<Event> {
        let events = self.reactor().hub.sockets[self.key()].events.clone()?;
        lock(&events).pop()
    }

    /// Waits for the next event, at most `timeout` (`None`: for ever), and takes it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use zring::{EventKind, SocketType, inline::Context};
    /// # let context = Context::new()?;
    /// let (push, pull) = (context.socket(SocketType::Push)?, context.socket(SocketType::Pull)?);
    /// push.monitor(100);
    /// pull.bind("tcp://127.0.0.1:*")?;
    /// push.connect(&pull.last_endpoint().unwrap())?;
    /// loop {
    ///     let event = push.recv_event(Some(Duration::from_secs(5)))?;
    ///     println!("{event}");
    ///     if let EventKind::HandshakeDone { .. } = event.kind {
    ///         break;
    ///     }
    /// }
    /// # Ok::<(), zring::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the time is up, [`Error::NotMonitored`] without [`Socket::monitor`],
    /// [`Error::Terminated`].
    pub fn recv_event(&self, timeout: Option<Duration>) -> Result<Event, Error> {
        Ok(self.wait_for(timeout, |reactor| self.attempt_event(reactor))?)
    }

    pub(crate) fn attempt_event(&self, reactor: Option<&mut Reactor>) -> Result<Event, Refusal> {
        match reactor {
            Some(reactor) => attempt_event(reactor, self.key()),
            None => attempt_event(&mut self.reactor(), self.key()),
        }
    }
}

/// Events from before the context was terminated can still be taken.
fn attempt_event(reactor: &mut Reactor, key: SocketKey) -> Result<Event, Refusal> {
    let events = reactor.hub.sockets[key].events.as_ref().ok_or(Error::NotMonitored)?;
    if let Some(event) = lock(events).pop() {
        return Ok(event);
    }
    reactor.check_refusal()?;
    Err(Refusal::WouldBlock)
}
