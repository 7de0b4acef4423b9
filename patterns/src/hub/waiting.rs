//! Who waits for a socket to change, on shards that several threads or tasks use.

use std::{io, task::Waker};

use zring_engine::{
    lead::Woken,
    sys::{OwnedSocket, borrow, eventfd::EventFd},
};

use super::{Hub, socket::SocketCore};

/// Who waits, and who has waited long enough.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    number: u64,
    count: usize,
    woken: Woken,
}

impl Waiting {
    /// Something about a socket has changed: whoever waits for it looks again.
    #[inline]
    pub(super) fn touch(&mut self, core: &mut SocketCore) {
        if !core.waiters.is_empty() || core.shown.is_some() {
            self.wake(core);
        }
    }

    #[cold]
    fn wake(&mut self, core: &mut SocketCore) {
        self.count -= core.waiters.len();
        for (_, waker) in core.waiters.drain(..) {
            self.woken.push(waker);
        }
        if let Some((event_fd, is_readable)) = &mut core.shown
            && !std::mem::replace(is_readable, true)
        {
            // A full counter is readable already.
            let _ = event_fd.signal();
        }
    }
}

impl Hub {
    /// Something about a socket has changed.
    #[inline]
    pub(super) fn touch(&mut self, socket: u32) {
        if let Some(core) = self.sockets.get_mut(socket as usize) {
            self.waiting.touch(core);
        }
    }

    /// Has a waker called when the socket changes; the number takes that back. A socket that is gone calls it at
    /// once.
    pub(crate) fn enlist(&mut self, socket: u32, waker: Waker) -> u64 {
        self.waiting.number += 1;
        match self.sockets.get_mut(socket as usize) {
            Some(core) => {
                core.waiters.push((self.waiting.number, waker));
                self.waiting.count += 1;
            }
            None => self.waiting.woken.push(waker),
        }
        self.waiting.number
    }

    /// Takes back what [`Hub::enlist`] did, if it has not come to it yet.
    pub(crate) fn delist(&mut self, socket: u32, number: u64) {
        let Some(core) = self.sockets.get_mut(socket as usize) else { return };
        if let Some(at) = core.waiters.iter().position(|&(other, _)| other == number) {
            core.waiters.swap_remove(at);
            self.waiting.count -= 1;
        }
    }

    /// A descriptor that is readable from now on, until a call would block, and after each change.
    pub(crate) fn event_fd(&mut self, socket: u32) -> io::Result<OwnedSocket> {
        let core = &mut self.sockets[socket as usize];
        let (event_fd, _) = match &mut core.shown {
            Some(shown) => shown,
            shown => {
                let event_fd = EventFd::new()?;
                event_fd.signal()?;
                shown.insert((event_fd, true))
            }
        };
        borrow(event_fd).try_clone_to_owned()
    }

    /// A call would have blocked: the descriptor shows the next change.
    #[inline]
    pub(crate) fn note_blocked(&mut self, socket: u32) {
        if let Some((event_fd, is_readable @ true)) = &mut self.sockets[socket as usize].shown {
            *is_readable = false;
            // It was readable, so there is something to take.
            let _ = event_fd.drain();
        }
    }

    /// Whether anybody waits.
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

    /// Everybody looks again.
    pub(crate) fn touch_all(&mut self) {
        for (_, core) in &mut self.sockets {
            self.waiting.touch(core);
        }
    }
}
