//! Sends of lists with files. The shard's thread makes the calls, and waits for writability with a poll on the ring.

use std::{
    io,
    os::fd::{BorrowedFd, RawFd},
};

use io_uring::{opcode, types};

use super::{
    Uring,
    slot::{Kind, Slot},
};
use crate::{
    buf::Gather,
    driver::{
        Completion, OpId, Token,
        files::{FileSend, Step},
    },
    sys::file,
};

impl Uring {
    pub(super) fn submit_files(
        &mut self,
        token: Token,
        fd: RawFd,
        gather: Gather,
        sent: usize,
    ) -> OpId {
        let send = Box::new(FileSend::new(gather, sent));
        let op = self.slots.insert(token, fd, Kind::Files { send, polls: false });
        // SAFETY: the shard keeps a descriptor open until the operations on it have ended.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let completion = match file::set_nonblocking(socket) {
            Ok(()) => self.proceed_files(op),
            Err(error) => Some(self.end_files(op, Some(error))),
        };
        completion.into_iter().for_each(|completion| self.end(completion));
        op
    }

    /// Queues a completion that no event of the ring announces.
    pub(super) fn end(&mut self, completion: Completion) {
        self.ended.push_back(completion);
        if let Some(shown) = self.waker.shown.get() {
            let _ = shown.signal();
        }
    }

    fn proceed_files(&mut self, op: OpId) -> Option<Completion> {
        let Self { slots, files, .. } = self;
        let slot = slots.find(op)?;
        let Kind::Files { send, polls } = &mut slot.kind else {
            unreachable!("told apart by the caller")
        };
        // SAFETY: as in `submit_files`.
        let socket = unsafe { BorrowedFd::borrow_raw(slot.fd) };
        match send.proceed(socket, op, files) {
            Step::Done => Some(self.end_files(op, None)),
            Step::Failed(error) => Some(self.end_files(op, Some(error))),
            Step::Cold => None,
            Step::Blocked => {
                *polls = true;
                let fd = types::Fd(slot.fd);
                let poll = opcode::PollAdd::new(fd, libc::POLLOUT as u32).build();
                self.push(poll.user_data(op.0));
                None
            }
        }
    }

    /// The poll of a send has ended: the socket is writable or broken, or the send was cancelled.
    pub(super) fn complete_files(&mut self, op: OpId, result: i32) -> Option<Completion> {
        let slot = self.slots.find(op).expect("checked by the caller");
        let Slot { cancelled, kind: Kind::Files { polls, .. }, .. } = slot else {
            unreachable!("checked by the caller")
        };
        *polls = false;
        if *cancelled {
            return Some(self.end_files(op, Some(cancellation())));
        }
        match super::outcome(result) {
            Ok(_) => self.proceed_files(op),
            Err(error) => Some(self.end_files(op, Some(error))),
        }
    }

    /// Takes the answers of the thread that reads files.
    pub(super) fn hear_files(&mut self) {
        for (op, outcome) in self.files.take_answers() {
            let kind = self.slots.find(op).map(|slot| &mut slot.kind);
            let Some(Kind::Files { send, polls }) = kind else { continue };
            if send.answer(outcome) {
                debug_assert!(!*polls, "it waits for one thing at a time");
                let completion = self.proceed_files(op);
                self.ended.extend(completion);
            }
        }
    }

    /// Ends a send of which the kernel has no operation.
    pub(super) fn end_files(&mut self, op: OpId, error: Option<io::Error>) -> Completion {
        let Slot { token, kind: Kind::Files { send, .. }, .. } = self.slots.remove(op) else {
            unreachable!("checked by the caller")
        };
        let FileSend { gather, sent, .. } = *send;
        Completion::Sent { token, gather, bytes: sent, error }
    }
}

pub(super) fn cancellation() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}
