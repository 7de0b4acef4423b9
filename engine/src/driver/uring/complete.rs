//! Translates the kernel's completions.

use std::{
    io,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use io_uring::cqueue;

use super::{ALARM, CANCEL, Kind, Uring, WAKE, goes_on, outcome};
use crate::{
    buf::Pool,
    driver::{Completion, OpId, Received, Token},
    sync::Ordering,
};

impl Uring {
    pub(super) fn complete(
        &mut self,
        entry: &cqueue::Entry,
        pool: &mut Pool,
    ) -> Option<Completion> {
        match entry.user_data() {
            CANCEL | ALARM => return None,
            WAKE => return Some(self.complete_wake(entry)),
            _ => {}
        }
        let op = OpId(entry.user_data());
        let Some(slot) = self.slots.find(op) else {
            debug_assert!(false, "completion of an operation that has ended: {op:?}");
            return None;
        };
        let token = slot.token;
        match slot.kind {
            Kind::Accept => Some(self.complete_accept(op, token, entry)),
            Kind::Connect { .. } => self.complete_connect(op, token, entry.result()),
            Kind::Receive { once } => Some(self.complete_receive(op, token, once, entry, pool)),
            Kind::Watched => unreachable!("never submitted"),
            Kind::Readable => {
                self.slots.remove(op);
                Some(Completion::Readable { token, result: outcome(entry.result()).map(drop) })
            }
            Kind::Direct { .. } => Some(self.complete_direct(op, entry.result())),
            Kind::Send { .. } | Kind::Held { .. } if cqueue::notif(entry.flags()) => {
                self.complete_notification(op, entry.result())
            }
            Kind::Send { .. } => self.complete_send(op, entry),
            Kind::Held { .. } => unreachable!("its send was answered"),
            Kind::Files { .. } => self.complete_files(op, entry.result()),
        }
    }

    fn complete_wake(&mut self, entry: &cqueue::Entry) -> Completion {
        let _ = self.waker.park.drain();
        // Clear the flag after the drain: the other way round, the drain could take the signal of the next wake.
        self.waker.is_woken.swap(false, Ordering::AcqRel);
        if !cqueue::more(entry.flags()) {
            self.arm_wake();
        }
        self.hear_files();
        Completion::Woken
    }

    fn complete_accept(&mut self, op: OpId, token: Token, entry: &cqueue::Entry) -> Completion {
        let more = cqueue::more(entry.flags());
        if !more {
            self.slots.remove(op);
        }
        // SAFETY: a successful accept hands over a fresh descriptor without another owner.
        let result = outcome(entry.result()).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
        Completion::Accepted { token, result, more }
    }

    fn complete_receive(
        &mut self,
        op: OpId,
        token: Token,
        once: bool,
        entry: &cqueue::Entry,
        pool: &mut Pool,
    ) -> Completion {
        let mut more = cqueue::more(entry.flags());
        // A receive without bytes consumed no part of a shared buffer, whatever the flags say: several kernels forget
        // F_BUF_MORE there and go on filling the buffer.
        let uses_buffer = entry.result() > 0 || self.features.incremental.is_none();
        let buffer = cqueue::buffer_select(entry.flags()).filter(|_| uses_buffer);
        let chunk = buffer.map(|buffer| {
            let bytes = entry.result().max(0) as u32;
            pool.filled(buffer, bytes, cqueue::buffer_more(entry.flags()))
        });
        let received = match (chunk, entry.result()) {
            (Some(chunk), 1..) => Received::Bytes(chunk),
            (chunk, result) => {
                if let Some(chunk) = chunk {
                    pool.release(chunk);
                }
                match result {
                    0 => Received::End,
                    result if result == -libc::ENOBUFS => Received::NoBuffer,
                    result => Received::Failed(io::Error::from_raw_os_error(-result)),
                }
            }
        };
        if matches!(received, Received::NoBuffer) {
            self.watch.yield_buffer(pool);
            self.arm_unserved();
        }
        if !more {
            let slot = self.slots.find(op).expect("checked by the caller");
            let (fd, cancelled) = (slot.fd, slot.cancelled);
            let again = self.features.multishot.is_none()
                && !once
                && !cancelled
                && matches!(received, Received::Bytes(_));
            if again {
                let entry = self.receive_entry(fd, false);
                self.push(entry.user_data(op.0));
                more = true;
            } else {
                self.slots.remove(op);
            }
        }
        Completion::Received { token, received, more }
    }

    fn complete_direct(&mut self, op: OpId, result: i32) -> Completion {
        let slot = self.slots.remove(op);
        let Kind::Direct { mut direct, room, message } = slot.kind else {
            unreachable!("checked by the caller")
        };
        self.slots.give_message(message);
        let result = outcome(result).map(|bytes| bytes as usize);
        if let Ok(bytes) = result {
            // SAFETY: the kernel filled the vector in order, and never more than it holds.
            unsafe { direct.filled(room, bytes) };
        }
        Completion::ReceivedDirect { token: slot.token, direct, result }
    }

    fn complete_send(&mut self, op: OpId, entry: &cqueue::Entry) -> Option<Completion> {
        if self.note_answer(op, entry) {
            return None;
        }
        let result = entry.result();
        let slot = self.slots.find(op).expect("checked by the caller");
        let (fd, cancelled) = (slot.fd, slot.cancelled);
        let Kind::Send { gather, sent, zero_copy, .. } = &mut slot.kind else {
            unreachable!("checked by the caller")
        };
        *sent += result.max(0) as usize;
        if result > 0 && !cancelled {
            if !zero_copy.asks && goes_on(gather.bytes() - *sent) {
                // SAFETY: the shard keeps a descriptor open until the operations on it have ended.
                let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                // An error shows again when the rest is submitted.
                *sent += self.calls.send_list(fd, gather, *sent).unwrap_or(0);
            }
            if *sent < gather.bytes() {
                self.push_send(op);
                return None;
            }
        }
        self.end_send(op, result)
    }
}
