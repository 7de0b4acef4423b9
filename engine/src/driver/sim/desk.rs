//! The operations of one driver, from submission to the last completion.

use std::{
    collections::{BTreeMap, BTreeSet},
    task::Wake,
};

use super::net::{Event, Net, Role, Socket, SocketId};
use crate::{
    buf::{FileFault, Gather},
    driver::{Direct, Token, rest_of},
    sync::{Arc, AtomicBool, OnceLock, Ordering},
    sys::eventfd::EventFd,
};

/// One operation of one driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpRef {
    pub(crate) driver: usize,
    /// An id is never used twice.
    pub(crate) id: u64,
}

/// The kind and the state of an operation.
#[derive(Debug)]
pub(crate) enum Work {
    Accept,
    Connect {
        /// The port to connect to; `None` if the simulator has no such address.
        port: Option<u16>,
        /// Whether it has ended, and the error if there was one.
        outcome: Option<Option<i32>>,
    },
    Receive {
        /// The receive was armed while the driver had no buffer.
        is_starved: bool,
        /// The receive ends with the first bytes.
        once: bool,
    },
    Direct(Direct),
    Readable,
    Send {
        gather: Gather,
        sent: usize,
        error: Option<i32>,
        /// The file's fault, if that is the reason.
        fault: Option<FileFault>,
    },
}

#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) token: Token,
    pub(crate) socket: SocketId,
    pub(crate) work: Work,
    pub(crate) is_cancelled: bool,
    /// The operation is in [`Desk::ready`].
    is_ready: bool,
    /// The operation will be in [`Desk::ready`] later.
    is_late: bool,
}

/// Wakes a driver, and the turner that turns it, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    /// For the driver: its waker was called.
    pub(crate) is_woken: AtomicBool,
    /// For the scheduler: something happened since the shard was last turned.
    pub(crate) is_rung: AtomicBool,
    pub(crate) shown: OnceLock<Arc<EventFd>>,
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.is_rung.store(true, Ordering::Release);
        if let Some(event_fd) = self.shown.get() {
            let _ = event_fd.signal();
        }
    }
}

impl Wake for Bell {
    fn wake(self: std::sync::Arc<Self>) {
        self.wake_by_ref();
    }

    // The caller may hold any lock, so this takes none.
    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.ring();
    }
}

/// One driver's side of the network.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    pub(crate) ops: BTreeMap<u64, Op>,
    /// Operations that have something to report, in no order.
    pub(crate) ready: Vec<u64>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) sockets: BTreeSet<SocketId>,
    /// The turner that turned it last.
    pub(crate) turner: Option<usize>,
    /// How many buffers of the pool the driver has.
    pub(crate) buffers: usize,
    pub(super) ids: u64,
}

impl Desk {
    pub(crate) fn has_news(&self) -> bool {
        !self.ready.is_empty() || self.bell.is_woken.load(Ordering::Acquire)
    }
}

/// The place on a socket where an operation of this kind is noted.
fn place<'a>(socket: &'a mut Socket, work: &Work) -> &'a mut Option<OpRef> {
    match work {
        Work::Accept | Work::Connect { .. } => &mut socket.setup,
        Work::Receive { .. } | Work::Direct(_) | Work::Readable => &mut socket.receive,
        Work::Send { .. } => &mut socket.send,
    }
}

impl Net {
    pub(crate) fn op(&mut self, op: OpRef) -> Option<&mut Op> {
        self.desks[op.driver].ops.get_mut(&op.id)
    }

    /// Takes an operation over; [`Net::start`] begins it.
    pub(crate) fn add_op(
        &mut self,
        driver: usize,
        token: Token,
        socket: SocketId,
        work: Work,
    ) -> OpRef {
        let desk = &mut self.desks[driver];
        desk.ids += 1;
        let op = OpRef { driver, id: desk.ids };
        let at = place(self.sockets.get_mut(&socket).expect("checked: it is open"), &work);
        assert!(at.is_none(), "a second {} on socket {socket}", name(&work));
        *at = Some(op);
        self.note(Some(driver), name(&work), op.id, socket);
        let state =
            Op { token, socket, work, is_cancelled: false, is_ready: false, is_late: false };
        self.desks[driver].ops.insert(op.id, state);
        op
    }

    /// Removes an operation at its last completion.
    pub(crate) fn remove_op(&mut self, op: OpRef) -> Op {
        let state = self.desks[op.driver].ops.remove(&op.id).expect("an operation ends once");
        let socket = self.sockets.get_mut(&state.socket).expect("it outlives its operations");
        assert_eq!(place(socket, &state.work).take(), Some(op), "an operation ends once");
        state
    }

    pub(crate) fn start(&mut self, op: OpRef, has_buffer: bool) {
        let Some(state) = self.desks[op.driver].ops.get_mut(&op.id) else { return };
        let socket = state.socket;
        match &mut state.work {
            Work::Connect { .. } => return self.start_connect(op),
            Work::Send { .. } if self.random.chance(self.faults.short_ppm) => {
                let ns = self.delay_ns();
                return self.after(ns, Event::Progress(op));
            }
            Work::Send { .. } => return self.progress(op),
            Work::Receive { is_starved, .. } => *is_starved = !has_buffer,
            Work::Accept | Work::Direct(_) | Work::Readable => {}
        }
        if !has_buffer || self.has_something(socket) {
            self.finish(op);
        }
    }

    /// Whether an accept or a receive finds something.
    pub(crate) fn has_something(&self, socket: SocketId) -> bool {
        match &self.sockets[&socket].role {
            Role::Listener { backlog, .. } => !backlog.is_empty(),
            Role::Stream(stream) => !stream.inbox.is_empty() || stream.is_ended || stream.is_broken,
            Role::Fresh => true,
        }
    }

    /// An operation goes on after one of its completions.
    pub(crate) fn go_on(&mut self, op: OpRef) {
        let Some(state) = self.op(op) else { return };
        let (socket, is_cancelled) = (state.socket, state.is_cancelled);
        if is_cancelled {
            self.report(op);
        } else if self.has_something(socket) {
            self.finish(op);
        }
    }

    /// Reports the operation, now or a little later.
    pub(crate) fn finish(&mut self, op: OpRef) {
        if self.op(op).is_none_or(|state| state.is_ready || state.is_late) {
            return;
        }
        match self.late_ns() {
            Some(ns) => {
                self.op(op).expect("just seen").is_late = true;
                self.note(Some(op.driver), "late", op.id, ns);
                self.after(ns, Event::Report(op));
            }
            None => self.report(op),
        }
    }

    pub(crate) fn report(&mut self, op: OpRef) {
        let desk = &mut self.desks[op.driver];
        let Some(state) = desk.ops.get_mut(&op.id) else { return };
        state.is_late = false;
        if !std::mem::replace(&mut state.is_ready, true) {
            desk.ready.push(op.id);
            desk.bell.ring();
        }
    }

    /// Picks one of the operations that have something to report.
    pub(crate) fn pick_ready(&mut self, driver: usize) -> Option<OpRef> {
        let at = match self.desks[driver].ready.len() {
            0 => return None,
            len => self.random.below(len as u64) as usize,
        };
        let desk = &mut self.desks[driver];
        let id = desk.ready.swap_remove(at);
        desk.ops.get_mut(&id).expect("only operations in flight are ready").is_ready = false;
        Some(OpRef { driver, id })
    }

    pub(crate) fn cancel(&mut self, op: OpRef) {
        if self.op(op).is_none() {
            return;
        }
        if self.random.chance(self.faults.cancel_race_ppm) {
            let ns = self.delay_ns();
            self.note(Some(op.driver), "cancel late", op.id, ns);
            self.after(ns, Event::Cancel(op));
        } else {
            self.cancel_now(op);
        }
    }

    pub(crate) fn cancel_now(&mut self, op: OpRef) {
        let Some(state) = self.op(op) else { return };
        if state.is_cancelled {
            return;
        }
        let is_send = matches!(state.work, Work::Send { .. });
        if is_send && self.random.chance(self.faults.cancel_race_ppm) {
            self.progress(op);
        }
        let state = self.op(op).expect("a send that goes on stays");
        state.is_cancelled = true;
        self.note(Some(op.driver), "cancelled", op.id, 0);
        self.report(op);
    }

    /// A send goes on: the network takes as many bytes as it has room for, or a piece of them.
    pub(crate) fn progress(&mut self, op: OpRef) {
        let Some(state) = self.op(op).filter(|state| !state.is_cancelled) else { return };
        let socket = state.socket;
        let Work::Send { gather, sent, error, .. } = &state.work else {
            unreachable!("only sends progress")
        };
        let rest = (gather.bytes() - sent) as u64;
        if rest == 0 || error.is_some() {
            return self.finish(op);
        }
        if let Some(refusal) = self.refusal(socket) {
            let Some(Op { work: Work::Send { error, .. }, .. }) = self.op(op) else { return };
            *error = Some(refusal);
            return self.finish(op);
        }
        let room = self.space(socket).min(rest);
        if room == 0 {
            self.note(Some(op.driver), "send waits", op.id, socket);
            // The send goes on when the other end receives.
            return;
        }
        let piece = self.piece(room);
        let Some(Op { work: Work::Send { gather, sent, error, fault }, .. }) = self.op(op) else {
            return;
        };
        let bytes = match copy(gather, *sent, piece as usize) {
            Ok(bytes) => bytes,
            Err(met) => {
                (*error, *fault) = (Some(libc::EIO), Some(met));
                return self.finish(op);
            }
        };
        *sent += bytes.len();
        let is_all = bytes.len() as u64 == rest;
        self.carry(socket, bytes);
        if is_all {
            self.finish(op);
        } else {
            let ns = self.delay_ns();
            self.after(ns, Event::Progress(op));
        }
    }

    /// The error of a send on this socket; `None` if bytes can be sent. The connection's own error is reported once.
    pub(crate) fn refusal(&mut self, socket: SocketId) -> Option<i32> {
        let Some(stream) = self.sockets.get_mut(&socket).and_then(Socket::stream) else {
            return Some(libc::EPIPE);
        };
        stream.is_broken.then(|| stream.take_error().unwrap_or(libc::EPIPE))
    }

    /// The socket and the port of a connect, unless the connect was cancelled.
    pub(crate) fn connect_target(&mut self, op: OpRef) -> Option<(SocketId, Option<u16>)> {
        let state = self.op(op).filter(|state| !state.is_cancelled)?;
        let Work::Connect { port, .. } = state.work else { unreachable!("only connects arrive") };
        Some((state.socket, port))
    }

    pub(crate) fn end_connect(&mut self, op: OpRef, error: Option<i32>) {
        if let Some(Op { work: Work::Connect { outcome, .. }, .. }) = self.op(op) {
            *outcome = Some(error);
        }
        self.finish(op);
    }
}

pub(crate) fn name(work: &Work) -> &'static str {
    match work {
        Work::Accept => "accept",
        Work::Connect { .. } => "connect",
        Work::Receive { .. } => "receive",
        Work::Direct(_) => "receive direct",
        Work::Readable => "await readable",
        Work::Send { .. } => "send",
    }
}

/// Copies up to `len` bytes of the list behind the first `skip`: as many as lie in memory or in one file.
fn copy(gather: &Gather, skip: usize, len: usize) -> Result<Vec<u8>, FileFault> {
    if let Some((region, at)) = gather.file_at(skip) {
        let mut bytes = vec![0; len.min(region.len() - at)];
        region.read_at(at, &mut bytes)?;
        return Ok(bytes);
    }
    let mut bytes = Vec::with_capacity(len);
    for part in rest_of(gather, skip) {
        let missing = len - bytes.len();
        bytes.extend_from_slice(&part[..part.len().min(missing)]);
    }
    Ok(bytes)
}
