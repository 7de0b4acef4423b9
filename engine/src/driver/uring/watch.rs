//! Busy-polled receives: a shard that spins reads its first few connections with plain `recv(2)` calls instead of
//! arming receives on the ring.
//!
//! A spinning thread has nothing better to do than to poll, and a `recv(2)` finds the bytes sooner than the socket's
//! wake-up, the task work it queues and the system call that runs it can announce them. Beyond [`WATCHED_MAX`]
//! connections the ring wins, because one look at it covers all.

use std::{io, os::fd::BorrowedFd};

use super::slot::{Kind, Slots};
use crate::{
    buf::Pool,
    driver::{Completion, OpId, Received},
    sys::net::try_recv,
};

/// How many connections are polled one by one.
const WATCHED_MAX: usize = 2;
/// How many rounds of polling a turn makes if it may wait.
const SPIN_ROUNDS: u32 = 32;
/// A buffer with less space left than this is given up for the next one.
const ROOM_BYTES_MIN: u32 = 4096;

/// The polled receives, and the buffer they fill.
#[derive(Debug, Default)]
pub(super) struct Watch {
    ops: Vec<OpId>,
    /// Receives that are no longer polled, for want of a buffer: the kernel may still have some.
    unserved: Vec<OpId>,
    buffer: Option<u16>,
    rounds: u32,
    /// The index of the next receive to poll in this round.
    turn: usize,
}

impl Watch {
    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.ops.len() < WATCHED_MAX
    }

    pub(super) fn add(&mut self, op: OpId) {
        self.ops.push(op);
    }

    /// Another receive has no buffer: gives this buffer back to the pool, and leaves all receives to the ring.
    #[cold]
    pub(super) fn yield_buffer(&mut self, pool: &mut Pool) {
        self.give_up();
        if let Some(buffer) = self.buffer.take() {
            let rest = pool.filled(buffer, 0, false);
            pool.release(rest);
        }
    }

    /// Stops polling all receives, so that they are armed on the ring instead.
    pub(super) fn give_up(&mut self) {
        self.unserved.append(&mut self.ops);
    }

    /// The next receive to arm on the ring instead.
    pub(super) fn pop_unserved(&mut self) -> Option<OpId> {
        self.unserved.pop()
    }

    pub(super) fn remove(&mut self, op: OpId) {
        self.ops.retain(|&other| other != op);
        self.turn = 0;
    }

    /// Begins a poll. `spins` sets how many rounds of polling it may make.
    pub(super) fn start(&mut self, spins: bool) {
        self.rounds = if spins { SPIN_ROUNDS } else { 1 };
        self.turn = 0;
    }

    /// Polls each connection once per round; `interrupted` ends the polling early.
    pub(super) fn look(
        &mut self,
        slots: &mut Slots,
        pool: &mut Pool,
        mut interrupted: impl FnMut() -> bool,
    ) -> Option<Completion> {
        while self.rounds > 0 && !self.ops.is_empty() {
            while let Some(&op) = self.ops.get(self.turn) {
                self.turn += 1;
                if let Some(completion) = self.ask(op, slots, pool) {
                    return Some(completion);
                }
            }
            self.turn = 0;
            self.rounds -= 1;
            if interrupted() {
                self.rounds = 0;
            }
        }
        None
    }

    fn ask(&mut self, op: OpId, slots: &mut Slots, pool: &mut Pool) -> Option<Completion> {
        let slot = slots.find(op).expect("a watched receive has its slot");
        let (token, fd) = (slot.token, slot.fd);
        let end = |this: &mut Self, slots: &mut Slots, received| {
            this.remove(op);
            slots.remove(op);
            Some(Completion::Received { token, received, more: false })
        };
        let Some(buffer) = self.buffer.or_else(|| pool.take_beyond()) else {
            self.remove(op);
            self.unserved.push(op);
            return None;
        };
        self.buffer = Some(buffer);
        let (at, room) = pool.room(buffer);
        // SAFETY: the shard keeps the connection's descriptor open until this receive has ended.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        // SAFETY: the room behind the filled part lies inside the buffer and is initialised: zeroed, or filled before.
        // There is no other reference to it: no chunk or lease reaches beyond the filled part.
        let into = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), room as usize) };
        match try_recv(fd, into) {
            Ok(0) => end(self, slots, Received::End),
            Ok(bytes) => {
                let bytes = bytes as u32;
                let keeps = room - bytes >= ROOM_BYTES_MIN;
                let chunk = pool.filled(buffer, bytes, keeps);
                if !keeps {
                    self.buffer = None;
                }
                // A read that did not fill the buffer took all there was: poll again only with the next poll of the
                // driver.
                if bytes == room {
                    self.turn -= 1;
                } else {
                    self.rounds = self.rounds.min(1);
                }
                Some(Completion::Received { token, received: Received::Bytes(chunk), more: true })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => end(self, slots, Received::Failed(error)),
        }
    }

    /// Ends one receive, if it is polled here.
    pub(super) fn cancel(&mut self, op: OpId, slots: &mut Slots) -> Option<Completion> {
        if !matches!(slots.find(op)?.kind, Kind::Watched) {
            return None;
        }
        let token = slots.remove(op).token;
        self.remove(op);
        let received = Received::Failed(io::Error::from_raw_os_error(libc::ECANCELED));
        Some(Completion::Received { token, received, more: false })
    }
}
