//! Carries on operations whose descriptors are ready.

use std::{
    cmp::Reverse,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    time::Instant,
};

use socket2::MaybeUninitSlice;

use super::{
    Ready,
    slots::{Kind, Slot},
};
use crate::{
    buf::{Pool, SharedMut},
    driver::{
        Completion, Direct, OpId, RETRY_PAUSE_MAX, Received,
        files::{FileSend, Step},
        is_transient,
    },
    sys::{
        BorrowedSocket, RawSocket, borrow_raw,
        net::{self, Connecting},
    },
};

/// How often one descriptor is read from in one turn while others wait.
const READS_PER_TURN_MAX: u32 = 8;
/// How many connections one listener accepts in one turn.
const ACCEPTS_PER_TURN_MAX: u32 = 64;
/// A buffer with less space left than this is given up for the next one.
const ROOM_BYTES_MIN: u32 = 4096;

/// The descriptor of an operation under way.
fn borrow<'a>(fd: RawSocket) -> BorrowedSocket<'a> {
    // SAFETY: the shard keeps a descriptor open until the operations on it have ended.
    unsafe { borrow_raw(fd) }
}

impl Ready {
    /// Ends an operation early; `None` when it has ended already.
    pub(super) fn abort(&mut self, op: OpId, error: io::Error) -> Option<Completion> {
        let Slot { token, kind, .. } = self.finish(op)?;
        Some(match kind {
            Kind::Accept => Completion::Accepted { token, result: Err(error), more: false },
            Kind::Connect { .. } => Completion::Connected { token, result: Err(error) },
            Kind::Receive { .. } => {
                Completion::Received { token, received: Received::Failed(error), more: false }
            }
            Kind::Direct(direct) => {
                Completion::ReceivedDirect { token, direct, result: Err(error) }
            }
            Kind::Readable => Completion::Readable { token, result: Err(error) },
            Kind::Send { gather, sent } => {
                Completion::Sent { token, gather, bytes: sent, error: Some(error) }
            }
            Kind::Files(send) => {
                let FileSend { gather, sent, .. } = *send;
                Completion::Sent { token, gather, bytes: sent, error: Some(error) }
            }
        })
    }

    fn finish(&mut self, op: OpId) -> Option<Slot> {
        let slot = self.slots.remove(op)?;
        if let Some(index) = slot.source {
            self.sources.detach(index, op);
        }
        Some(slot)
    }

    /// Waits until the descriptor of a connect or a send becomes writable.
    fn wait_to_write(&mut self, op: OpId) -> Option<Completion> {
        let slot = self.slots.find(op).expect("the caller holds the slot");
        let index = match slot.source {
            // The operation stays armed until it ends.
            Some(_) => return None,
            None => self.sources.enter(slot.fd),
        };
        let source = self.sources.get(index);
        debug_assert!(source.write.is_none(), "one connect or send at a time");
        source.write = Some(op);
        self.wait_for(op, index).err()
    }

    pub(super) fn attempt_connect(&mut self, op: OpId) {
        let Some(Slot { token, fd, kind: Kind::Connect { address, pause }, .. }) =
            self.slots.find(op)
        else {
            return;
        };
        let token = *token;
        let completion = match net::try_connect(borrow(*fd), address) {
            Ok(Connecting::Done) => {
                self.finish(op);
                Some(Completion::Connected { token, result: Ok(()) })
            }
            Ok(Connecting::Started) => self.wait_to_write(op),
            Ok(Connecting::BacklogFull) => {
                let at = Instant::now() + *pause;
                *pause = (*pause * 2).min(RETRY_PAUSE_MAX);
                self.retry_at(at, op);
                None
            }
            Err(error) => self.abort(op, error),
        };
        completion.into_iter().for_each(|completion| self.end(completion));
    }

    fn retry_at(&mut self, at: Instant, op: OpId) {
        self.retries.push(Reverse((at, op.0)));
        if self.parked > 0 {
            // The timeouts of the parked threads do not include this retry.
            self.looker.notify();
        }
        if self.alarm.is_some() {
            self.alarm_at(at);
        }
    }

    pub(super) fn alarm_at(&mut self, at: Instant) {
        if let Some(alarm) = &mut self.alarm {
            alarm.set(at);
        }
    }

    pub(super) fn retry_connects(&mut self, now: Instant) {
        while let Some(&Reverse((at, op))) = self.retries.peek() {
            if at > now {
                break;
            }
            self.retries.pop();
            self.attempt_connect(OpId(op));
        }
    }

    pub(super) fn proceed_write(&mut self, op: OpId) -> Option<Completion> {
        let slot = self.slots.find(op)?;
        match slot.kind {
            Kind::Connect { .. } => {}
            Kind::Files(_) => return self.proceed_files(op),
            _ => return self.proceed_send(op),
        }
        let (token, fd) = (slot.token, slot.fd);
        let result = net::connected(borrow(fd));
        self.finish(op);
        Some(Completion::Connected { token, result })
    }

    /// Sends as much as the kernel takes at once. A full send buffer, or the bound of one attempt, ends the turn's work
    /// for this send.
    pub(super) fn proceed_send(&mut self, op: OpId) -> Option<Completion> {
        let slot = self.slots.find(op)?;
        let Kind::Send { gather, sent } = &mut slot.kind else {
            unreachable!("connects do not come here")
        };
        if *sent < gather.bytes() {
            match self.calls.send_list(borrow(slot.fd), gather, *sent) {
                Ok(bytes) => *sent += bytes,
                Err(error) if is_transient(&error) => {}
                Err(error) => return self.abort(op, error),
            }
        }
        if *sent < gather.bytes() {
            return self.wait_to_write(op);
        }
        let Slot { token, kind: Kind::Send { gather, sent }, .. } = self.finish(op)? else {
            unreachable!("checked above")
        };
        Some(Completion::Sent { token, gather, bytes: sent, error: None })
    }

    /// As [`Ready::proceed_send`], for a list with files in it.
    pub(super) fn proceed_files(&mut self, op: OpId) -> Option<Completion> {
        let Self { slots, files, .. } = self;
        let slot = slots.find(op)?;
        let Kind::Files(send) = &mut slot.kind else { unreachable!("told apart by the caller") };
        match send.proceed(borrow(slot.fd), op, files) {
            Step::Blocked => self.wait_to_write(op),
            Step::Cold => {
                // Stop waiting for the socket: it may be writable all the while, and no report of that is wanted.
                if let Some(index) = slot.source.take() {
                    self.sources.detach(index, op);
                }
                None
            }
            Step::Failed(error) => self.abort(op, error),
            Step::Done => {
                let Slot { token, kind: Kind::Files(send), .. } = self.finish(op)? else {
                    unreachable!("checked above")
                };
                let FileSend { gather, sent, .. } = *send;
                Some(Completion::Sent { token, gather, bytes: sent, error: None })
            }
        }
    }

    /// Takes the answers of the thread that reads files.
    pub(super) fn hear_files(&mut self) {
        for (op, outcome) in self.files.take_answers() {
            let kind = self.slots.find(op).map(|slot| &mut slot.kind);
            let Some(Kind::Files(send)) = kind else { continue };
            if send.answer(outcome)
                && let Some(completion) = self.proceed_files(op)
            {
                self.end(completion);
            }
        }
    }

    pub(super) fn proceed_read(
        &mut self,
        index: usize,
        op: OpId,
        pool: &mut Pool,
    ) -> Option<Completion> {
        let slot = self.slots.find(op)?;
        match slot.kind {
            Kind::Accept => self.proceed_accept(index, op),
            Kind::Receive { once } => self.proceed_receive(index, op, once, pool),
            Kind::Direct(_) => self.proceed_direct(index, op),
            Kind::Readable => {
                self.sources.get(index).is_hot = false;
                let Slot { token, .. } = self.finish(op)?;
                Some(Completion::Readable { token, result: Ok(()) })
            }
            Kind::Connect { .. } | Kind::Send { .. } | Kind::Files(_) => {
                unreachable!("nothing to read for these")
            }
        }
    }

    fn proceed_accept(&mut self, index: usize, op: OpId) -> Option<Completion> {
        let slot = self.slots.find(op)?;
        let (token, fd) = (slot.token, slot.fd);
        while self.sources.get(index).may_read(self.turn, ACCEPTS_PER_TURN_MAX) {
            match net::try_accept(borrow(fd)) {
                Ok(accepted) => {
                    self.sources.note_readable(index);
                    return Some(Completion::Accepted { token, result: Ok(accepted), more: true });
                }
                // The peer gave this connection up before it was accepted. The next one may be there.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if is_transient(&error) => return None,
                Err(error) => return self.abort(op, error),
            }
        }
        None
    }

    fn proceed_receive(
        &mut self,
        index: usize,
        op: OpId,
        once: bool,
        pool: &mut Pool,
    ) -> Option<Completion> {
        let slot = self.slots.find(op)?;
        let (token, fd) = (slot.token, slot.fd);
        if self.buffer.is_none() {
            if self.begun == pool.config().with_kernel {
                self.sources.postpone(index);
                return None;
            }
            self.buffer = pool.take_beyond();
            self.begun += 1;
        }
        let Some(buffer) = self.buffer else {
            self.finish(op);
            let received = Received::NoBuffer;
            return Some(Completion::Received { token, received, more: false });
        };
        let (at, room) = pool.room(buffer);
        // SAFETY: the room behind the filled part lies inside the buffer and is initialised: zeroed, or filled before.
        // There is no other reference to it: no chunk or lease reaches beyond the filled part.
        let into = unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), room as usize) };
        let received = match net::try_recv(borrow(fd), into) {
            Ok(0) => Received::End,
            Ok(bytes) => {
                let bytes = bytes as u32;
                let keeps = room - bytes >= ROOM_BYTES_MIN;
                let chunk = pool.filled(buffer, bytes, keeps);
                self.buffer = self.buffer.filter(|_| keeps);
                if once {
                    self.finish(op);
                }
                self.note_read(index, bytes == room);
                let received = Received::Bytes(chunk);
                return Some(Completion::Received { token, received, more: !once });
            }
            Err(error) if is_transient(&error) => {
                self.sources.get(index).is_hot = false;
                return None;
            }
            Err(error) => Received::Failed(error),
        };
        self.finish(op);
        Some(Completion::Received { token, received, more: false })
    }

    /// Notes a read. `filled`: the read took as many bytes as it had room for.
    fn note_read(&mut self, index: usize, filled: bool) {
        let turn = self.turn;
        let source = self.sources.get(index);
        source.is_hot = source.may_read(turn, READS_PER_TURN_MAX) && filled;
        if source.is_hot && source.read.is_some() {
            self.sources.note_readable(index);
        }
    }

    fn proceed_direct(&mut self, index: usize, op: OpId) -> Option<Completion> {
        let slot = self.slots.find(op)?;
        let fd = slot.fd;
        let Kind::Direct(direct) = &mut slot.kind else { unreachable!("checked by the caller") };
        let (result, has_filled) = match receive_direct(borrow(fd), direct) {
            Ok((bytes, room)) => (Ok(bytes), bytes == room),
            Err(error) if is_transient(&error) => {
                self.sources.get(index).is_hot = false;
                return None;
            }
            Err(error) => (Err(error), false),
        };
        let Slot { token, kind: Kind::Direct(direct), .. } = self.finish(op)? else {
            unreachable!("checked above")
        };
        self.note_read(index, has_filled);
        Some(Completion::ReceivedDirect { token, direct, result })
    }
}

/// Receives into the body's spare capacity and then, if the whole rest of the body fits there, into the spill area.
/// Returns how many bytes it received, and how many it had room for.
fn receive_direct(fd: BorrowedSocket<'_>, direct: &mut Direct) -> io::Result<(usize, usize)> {
    let rest = direct.rest;
    let body: &mut [MaybeUninit<u8>] = match direct.body.as_mut().filter(|_| rest > 0) {
        Some(body) => {
            let (at, len) = SharedMut::spare(body, rest);
            // SAFETY: spare capacity of the body's own memory, which stays where it is while it is borrowed.
            unsafe { std::slice::from_raw_parts_mut(at.as_ptr().cast(), len) }
        }
        None => &mut [],
    };
    let room = body.len();
    let spill = direct.spill.spare_capacity_mut();
    // Bytes reach the spill area only if the whole body fits in front of it.
    let spill = if room == rest { spill } else { &mut [] };
    let all = room + spill.len();
    let mut parts = [MaybeUninitSlice::new(body), MaybeUninitSlice::new(spill)];
    // An empty part in front serves no purpose: leave it out.
    let parts = if room == 0 { &mut parts[1..] } else { &mut parts[..] };
    let bytes = net::try_recv_vectored(fd, parts)?;
    // SAFETY: the kernel filled the parts in order, with `bytes` bytes in all.
    unsafe { direct.filled(room, bytes) };
    Ok((bytes, all))
}
