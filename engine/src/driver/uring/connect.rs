//! Connects. If the backlog of a Unix-domain listener is full, the kernel refuses the connect (a blocking one would
//! wait, but io_uring's does not) and never tells when there is room. The driver tries again after a growing pause.

use std::{io, os::fd::RawFd, time::Duration};

use io_uring::{opcode, squeue, types};
use socket2::SockAddr;

use super::{
    Uring, outcome,
    slot::{Kind, Slot},
};
use crate::driver::{Completion, OpId, RETRY_PAUSE_MAX, RETRY_PAUSE_MIN, Token};

/// A pause between two attempts.
#[derive(Debug)]
pub(super) struct Pause {
    length: Duration,
    /// The time that the timeout's entry points at.
    time: types::Timespec,
    is_over: bool,
}

pub(super) fn entry(fd: RawFd, address: &SockAddr) -> squeue::Entry {
    opcode::Connect::new(types::Fd(fd), address.as_ptr().cast(), address.len()).build()
}

impl Uring {
    /// An attempt has ended, or the pause after one.
    pub(super) fn complete_connect(
        &mut self,
        op: OpId,
        token: Token,
        result: i32,
    ) -> Option<Completion> {
        let slot = self.slots.find(op).expect("checked by the caller");
        let Slot { fd, cancelled, kind: Kind::Connect { address, pause }, .. } = slot else {
            unreachable!("checked by the caller")
        };
        let paused = pause.as_deref_mut().filter(|pause| !pause.is_over);
        let again = if let Some(pause) = paused.filter(|_| result == -libc::ETIME) {
            pause.is_over = true;
            Some(entry(*fd, address))
        } else if result == -libc::EAGAIN && address.is_unix() {
            let length = pause.as_ref().map_or(RETRY_PAUSE_MIN, |pause| pause.length * 2);
            let length = length.min(RETRY_PAUSE_MAX);
            let time = types::Timespec::from(length);
            let pause = pause.insert(Box::new(Pause { length, time, is_over: false }));
            Some(opcode::Timeout::new(&raw const pause.time).build())
        } else {
            None
        };
        if let Some(entry) = again.filter(|_| !*cancelled) {
            self.push(entry.user_data(op.0));
            return None;
        }
        let result = match self.slots.remove(op) {
            slot if slot.cancelled && result < 0 => {
                Err(io::Error::from_raw_os_error(libc::ECANCELED))
            }
            _ => outcome(result).map(drop),
        };
        Some(Completion::Connected { token, result })
    }
}
