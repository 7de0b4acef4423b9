//! Waiters for a change of a socket, on shards that several threads or tasks use.

use std::{io, task::Waker};

use zring_engine::{
    lead::Woken,
    sys::{OwnedSocket, borrow, eventfd::EventFd},
};

use super::{Hub, SocketKey, socket::SocketState};

/// The number of waiters, and the wakers that are due.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    number: u64,
    count: usize,
    woken: Woken,
}

impl Waiting {
    /// A socket has changed: its waiters are to look again.
    #[inline]
    pub(crate) fn touch(&mut self, state: &mut SocketState) {
        if !state.watchers.waiters.is_empty() || state.watchers.shown.is_some() {
            self.wake(state);
        }
    }

    #[cold]
    fn wake(&mut self, state: &mut SocketState) {
        self.count -= state.watchers.waiters.len();
        for (_, waker) in state.watchers.waiters.drain(..) {
            self.woken.push(waker);
        }
        if let Some((event_fd, is_readable)) = &mut state.watchers.shown
            && !std::mem::replace(is_readable, true)
        {
            // A full counter is readable already.
            let _ = event_fd.signal();
        }
    }
}

impl Hub {
    /// A socket has changed: its waiters are to look again.
    #[inline]
    pub(crate) fn touch(&mut self, socket: SocketKey) {
        if let Some(state) = self.sockets.get_mut(socket) {
            self.waiting.touch(state);
        }
    }

    /// Adds a waiter: the waker is called when the socket changes, or at once if the socket is gone. The returned
    /// number serves to remove the waiter.
    pub(crate) fn enlist(&mut self, socket: SocketKey, waker: Waker) -> u64 {
        self.waiting.number += 1;
        match self.sockets.get_mut(socket) {
            Some(state) => {
                state.watchers.waiters.push((self.waiting.number, waker));
                self.waiting.count += 1;
            }
            None => self.waiting.woken.push(waker),
        }
        self.waiting.number
    }

    /// Removes a waiter of [`Hub::enlist`] that has not been woken yet.
    pub(crate) fn delist(&mut self, socket: SocketKey, number: u64) {
        let Some(state) = self.sockets.get_mut(socket) else { return };
        if let Some(at) = state.watchers.waiters.iter().position(|&(other, _)| other == number) {
            state.watchers.waiters.swap_remove(at);
            self.waiting.count -= 1;
        }
    }

    /// A descriptor that shows changes of the socket. It is readable from now on until a call would block, and again
    /// after each change.
    pub(crate) fn event_fd(&mut self, socket: SocketKey) -> io::Result<OwnedSocket> {
        let state = &mut self.sockets[socket];
        let (event_fd, _) = match &mut state.watchers.shown {
            Some(shown) => shown,
            shown => {
                let event_fd = EventFd::new()?;
                event_fd.signal()?;
                shown.insert((event_fd, true))
            }
        };
        borrow(event_fd).try_clone_to_owned()
    }

    /// A call would have blocked: the descriptor becomes unreadable until the next change.
    #[inline]
    pub(crate) fn note_blocked(&mut self, socket: SocketKey) {
        if let Some((event_fd, is_readable @ true)) = &mut self.sockets[socket].watchers.shown {
            *is_readable = false;
            // The descriptor was readable, so there is a count to drain.
            let _ = event_fd.drain();
        }
    }

    /// Whether any socket has waiters.
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiting.count > 0
    }

    #[inline]
    pub(crate) fn has_woken(&self) -> bool {
        !self.waiting.woken.is_empty()
    }

    pub(crate) fn take_woken(&mut self) -> Woken {
        std::mem::take(&mut self.waiting.woken)
    }

    /// Has all waiters of all sockets look again.
    pub(crate) fn touch_all(&mut self) {
        for state in self.sockets.values_mut() {
            self.waiting.touch(state);
        }
    }
}
