//! Waiting on sockets of the user's together with a waker of ours, through the same poller as the readiness driver.

use std::{
    io,
    task::{Wake, Waker},
    time::Duration,
};

use polling::{Event, Events, PollMode, Poller};

use super::{AsSocket, OwnedSocket, RawSocket, borrow_raw};
use crate::sync::Arc;

struct Signal(Poller);

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A poller with a pending notification ends the wait all the same.
        let _ = self.0.notify();
    }
}

/// One descriptor for several sockets: not available on this system.
///
/// # Errors
/// `Unsupported`.
pub fn readable_with(_sockets: impl IntoIterator<Item = impl AsSocket>) -> io::Result<OwnedSocket> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The interest in one socket, over all items that name it.
#[derive(Clone, Copy)]
struct Polled {
    socket: RawSocket,
    wanted: (bool, bool),
    ready: (bool, bool),
}

/// A set of sockets to wait on, and a waker that ends the wait.
#[derive(Default)]
pub struct PollSet {
    /// For each item, the index in `sockets` and its interest.
    items: Vec<(usize, bool, bool)>,
    sockets: Vec<Polled>,
    signal: Option<Arc<Signal>>,
    /// How many of `sockets` are registered with the poller.
    added: usize,
    events: Option<Events>,
}

impl PollSet {
    /// Adds a socket, which has to stay open while the set is used.
    pub fn add(&mut self, socket: RawSocket, readable: bool, writable: bool) {
        let known = self.sockets.iter().position(|polled| polled.socket == socket);
        let at = known.unwrap_or(self.sockets.len());
        if known.is_none() {
            self.sockets.push(Polled { socket, wanted: (false, false), ready: (false, false) });
        }
        let (reads, writes) = &mut self.sockets[at].wanted;
        (*reads, *writes) = (*reads || readable, *writes || writable);
        self.items.push((at, readable, writable));
    }

    /// Whether no socket was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn signal(&mut self) -> io::Result<Arc<Signal>> {
        if let Some(signal) = &self.signal {
            return Ok(signal.clone());
        }
        Ok(self.signal.insert(Arc::new(Signal(Poller::new()?))).clone())
    }

    /// A waker that ends the wait from any thread.
    ///
    /// # Errors
    /// When the system refuses a poller.
    pub fn waker(&mut self) -> io::Result<Waker> {
        Ok(Waker::from(self.signal()?))
    }

    /// Waits until a socket is ready, the waker is used, or the time is up.
    ///
    /// # Errors
    /// The system's error, for example when an item is no socket.
    #[allow(unsafe_code)]
    pub fn wait(&mut self, timeout_ns: Option<u64>) -> io::Result<()> {
        let signal = self.signal()?;
        for polled in &self.sockets[self.added..] {
            let event = Event::new(self.added, polled.wanted.0, polled.wanted.1);
            // SAFETY: the caller of `add` keeps the socket open; it leaves the poller when the set is dropped.
            unsafe { signal.0.add_with_mode(polled.socket, event, PollMode::Level)? };
            self.added += 1;
        }
        let events = self.events.get_or_insert_with(Events::new);
        events.clear();
        signal.0.wait(events, timeout_ns.map(Duration::from_nanos))?;
        self.sockets.iter_mut().for_each(|polled| polled.ready = (false, false));
        for event in events.iter() {
            self.sockets[event.key].ready = (event.readable, event.writable);
        }
        Ok(())
    }

    /// Whether each item was readable and writable when the last wait ended, in the order of [`PollSet::add`].
    pub fn results(&self) -> impl Iterator<Item = (bool, bool)> {
        self.items.iter().map(|&(at, readable, writable)| {
            let ready = self.sockets[at].ready;
            (readable && ready.0, writable && ready.1)
        })
    }
}

impl Drop for PollSet {
    fn drop(&mut self) {
        let Some(signal) = &self.signal else { return };
        for polled in &self.sockets[..self.added] {
            // SAFETY: the caller of `add` keeps the socket open while the set exists.
            #[allow(unsafe_code)]
            let _ = signal.0.delete(unsafe { borrow_raw(polled.socket) });
        }
    }
}

impl std::fmt::Debug for PollSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollSet").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::sys::raw;

    #[test]
    fn sockets_show_what_they_are_ready_for_and_a_waker_ends_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (there, _) = listener.accept().unwrap();
        let mut set = PollSet::default();
        assert!(set.is_empty());
        set.add(raw(&there), true, false);
        set.wait(Some(0)).unwrap();
        assert_eq!(set.results().collect::<Vec<_>>(), [(false, false)]);
        let waker = set.waker().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake_by_ref());
            set.wait(None).unwrap();
        });
        here.write_all(b"x").unwrap();
        while set.results().next() != Some((true, false)) {
            set.wait(None).unwrap();
        }
        // The same socket again, with another interest; readiness is reported as long as it lasts.
        let mut set = PollSet::default();
        set.add(raw(&there), true, false);
        set.add(raw(&there), true, true);
        for _ in 0..2 {
            while !set.results().eq([(true, false), (true, true)]) {
                set.wait(None).unwrap();
            }
        }
        drop(here);
    }
}
