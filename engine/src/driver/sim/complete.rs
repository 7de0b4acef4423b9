//! How operations end. The content of a completion is decided when the driver asks for it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use super::{
    buffers::Buffers,
    desk::{Op, OpRef, Work},
    inode,
    net::{Net, Role, Socket, SocketId},
};
use crate::{
    buf::Pool,
    driver::{Completion, Direct, Received},
    sys::net::{self, Family, SocketOptions},
};

fn failed(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// The state of a socket, as a receive finds it.
enum Found {
    Bytes(usize),
    End,
    Broken(i32),
    Nothing,
}

impl Net {
    /// The next completion of an operation that has something to report; `None` if it has nothing to report any more.
    pub(super) fn complete(
        &mut self,
        op: OpRef,
        buffers: &mut Buffers,
        pool: &mut Pool,
    ) -> Option<Completion> {
        let state = self.op(op).expect("only operations in flight are ready");
        let (socket, is_cancelled) = (state.socket, state.is_cancelled);
        // A cancelled operation may still find something before it ends.
        let gives_up = is_cancelled && !self.random.chance(self.faults.cancel_race_ppm);
        let state = self.op(op).expect("just seen");
        let completion = match &state.work {
            Work::Accept => self.complete_accept(op, socket, is_cancelled, gives_up),
            Work::Connect { .. } => Some(self.complete_connect(op)),
            Work::Send { .. } => self.complete_send(op),
            Work::Receive { is_starved, once } => {
                let how = (*is_starved, *once);
                let cancelled = (is_cancelled, gives_up);
                self.complete_receive(op, socket, cancelled, how, buffers, pool)
            }
            Work::Direct(_) => self.complete_direct(op, socket, is_cancelled, gives_up),
            Work::Readable => {
                let is_there = !gives_up && self.has_something(socket);
                let result = if is_there { Ok(()) } else { Err(failed(libc::ECANCELED)) };
                (is_there || is_cancelled).then(|| {
                    let token = self.remove_op(op).token;
                    Completion::Readable { token, result }
                })
            }
        };
        let is_last = self.op(op).is_none();
        self.note(Some(op.driver), if is_last { "ended" } else { "went on" }, op.id, socket);
        completion
    }

    fn complete_accept(
        &mut self,
        op: OpRef,
        listener: SocketId,
        is_cancelled: bool,
        gives_up: bool,
    ) -> Option<Completion> {
        let fails = self.random.chance(self.faults.accept_fail_ppm);
        let Some(Role::Listener { backlog, .. }) =
            self.sockets.get_mut(&listener).map(|socket| &mut socket.role)
        else {
            return Some(self.end_accept(op, Err(failed(libc::EINVAL))));
        };
        if gives_up || backlog.is_empty() {
            let cancelled = || self.end_accept(op, Err(failed(libc::ECANCELED)));
            return is_cancelled.then(cancelled);
        }
        if fails {
            self.note(Some(op.driver), "accept failed", op.id, listener);
            return Some(self.end_accept(op, Err(failed(libc::EMFILE))));
        }
        let waiting = backlog.pop_front().expect("just seen");
        let accepted = match new_descriptor(Family::V4, &SocketOptions::default()) {
            Ok(fd) => fd,
            Err(error) => return Some(self.end_accept(op, Err(error))),
        };
        self.name(op.driver, waiting, &accepted);
        if is_cancelled || self.random.chance(self.faults.accept_end_ppm) {
            return Some(self.end_accept(op, Ok(accepted)));
        }
        self.go_on(op);
        let token = self.op(op).expect("it goes on").token;
        Some(Completion::Accepted { token, result: Ok(accepted), more: true })
    }

    fn end_accept(&mut self, op: OpRef, result: io::Result<OwnedFd>) -> Completion {
        let token = self.remove_op(op).token;
        Completion::Accepted { token, result, more: false }
    }

    fn complete_connect(&mut self, op: OpRef) -> Completion {
        let Op { token, work: Work::Connect { outcome, .. }, .. } = self.remove_op(op) else {
            unreachable!("checked by the caller")
        };
        let error = outcome.unwrap_or(Some(libc::ECANCELED));
        Completion::Connected { token, result: error.map_or(Ok(()), |errno| Err(failed(errno))) }
    }

    fn complete_send(&mut self, op: OpRef) -> Option<Completion> {
        let says_why = self.random.below(2) == 0;
        let Op { token, work: Work::Send { gather, sent, error, fault }, is_cancelled, .. } =
            self.remove_op(op)
        else {
            unreachable!("checked by the caller")
        };
        let is_short = sent < gather.bytes();
        if is_short && sent > 0 {
            self.note(Some(op.driver), "send cut", op.id, sent as u64);
        }
        assert!(!is_short || is_cancelled || error.is_some(), "a short send has a reason");
        // If a cancellation cuts a send that has taken something, the error may be missing.
        let cancelled = is_cancelled && (says_why || sent == 0);
        let error = error.or(cancelled.then_some(libc::ECANCELED)).filter(|_| is_short);
        let error = fault.map(io::Error::from).or(error.map(failed));
        Some(Completion::Sent { token, gather, bytes: sent, error })
    }

    fn look(&mut self, socket: SocketId) -> Found {
        let Some(stream) = self.sockets.get_mut(&socket).and_then(Socket::stream) else {
            return Found::Broken(libc::ENOTCONN);
        };
        if !stream.inbox.is_empty() {
            return Found::Bytes(stream.inbox.len());
        }
        if stream.is_broken {
            return stream.take_error().map_or(Found::End, Found::Broken);
        }
        if stream.is_ended { Found::End } else { Found::Nothing }
    }

    fn complete_receive(
        &mut self,
        op: OpRef,
        socket: SocketId,
        (is_cancelled, gives_up): (bool, bool),
        (is_starved, once): (bool, bool),
        buffers: &mut Buffers,
        pool: &mut Pool,
    ) -> Option<Completion> {
        if gives_up {
            return Some(self.end_receive(op, Received::Failed(failed(libc::ECANCELED))));
        }
        if is_starved {
            self.note(Some(op.driver), "no buffer", op.id, socket);
            return Some(self.end_receive(op, Received::NoBuffer));
        }
        let len = match self.look(socket) {
            Found::Bytes(len) => len,
            Found::End => return Some(self.end_receive(op, Received::End)),
            Found::Broken(errno) => {
                return Some(self.end_receive(op, Received::Failed(failed(errno))));
            }
            Found::Nothing => {
                let cancelled = || Received::Failed(failed(libc::ECANCELED));
                return is_cancelled.then(|| self.end_receive(op, cancelled()));
            }
        };
        let runs_dry = self.random.chance(self.faults.no_buffer_ppm);
        let picked = buffers.pick(pool, &mut self.random).filter(|_| !runs_dry);
        let Some((buffer, room)) = picked else {
            self.note(Some(op.driver), "no buffer", op.id, socket);
            return Some(self.end_receive(op, Received::NoBuffer));
        };
        let piece = self.piece(len.min(room) as u64) as usize;
        let Self { sockets, random, faults, .. } = self;
        let stream = sockets.get_mut(&socket).and_then(Socket::stream).expect("just seen");
        let chunk = buffers.fill(buffer, stream.inbox.take(piece), pool, random, faults);
        self.made_room(socket);
        let ends = if is_cancelled {
            self.random.below(2) == 0
        } else {
            self.random.chance(self.faults.receive_end_ppm)
        };
        if ends || once {
            let what = if ends { "ended with bytes" } else { "one piece" };
            self.note(Some(op.driver), what, op.id, piece as u64);
            return Some(self.end_receive(op, Received::Bytes(chunk)));
        }
        self.go_on(op);
        let token = self.op(op).expect("it goes on").token;
        Some(Completion::Received { token, received: Received::Bytes(chunk), more: true })
    }

    fn end_receive(&mut self, op: OpRef, received: Received) -> Completion {
        let token = self.remove_op(op).token;
        Completion::Received { token, received, more: false }
    }

    fn complete_direct(
        &mut self,
        op: OpRef,
        socket: SocketId,
        is_cancelled: bool,
        gives_up: bool,
    ) -> Option<Completion> {
        let found = if gives_up { Found::Broken(libc::ECANCELED) } else { self.look(socket) };
        let len = match found {
            Found::Nothing if is_cancelled => return Some(self.fail_direct(op, libc::ECANCELED)),
            Found::Nothing => return None,
            Found::Broken(errno) => return Some(self.fail_direct(op, errno)),
            Found::End => 0,
            Found::Bytes(len) => len,
        };
        let Op { token, work: Work::Direct(mut direct), .. } = self.remove_op(op) else {
            unreachable!("checked by the caller")
        };
        let room = room(&mut direct);
        let fits = if room == direct.rest { room + direct.spill.capacity() } else { room };
        let bytes = self.piece(len.min(fits) as u64) as usize;
        if let Some(stream) = self.sockets.get_mut(&socket).and_then(Socket::stream) {
            put(&mut direct, room, stream.inbox.take(bytes));
            self.made_room(socket);
        }
        Some(Completion::ReceivedDirect { token, direct, result: Ok(bytes) })
    }

    /// Receives without waiting.
    pub(super) fn take_now(
        &mut self,
        driver: usize,
        socket: SocketId,
        body: &mut [u8],
        spill: &mut Vec<u8>,
    ) -> io::Result<Option<usize>> {
        let len = match self.look(socket) {
            Found::Nothing => return Ok(None),
            Found::End => return Ok(Some(0)),
            Found::Broken(errno) => return Err(failed(errno)),
            Found::Bytes(len) => len,
        };
        let room = body.len() + spill.capacity() - spill.len();
        let bytes = self.piece(len.min(room) as u64) as usize;
        let body_bytes = bytes.min(body.len());
        let Some(stream) = self.sockets.get_mut(&socket).and_then(Socket::stream) else {
            return Ok(None);
        };
        let (first, spilled) = stream.inbox.take(bytes).split_at(body_bytes);
        body[..body_bytes].copy_from_slice(first);
        spill.extend_from_slice(spilled);
        self.made_room(socket);
        self.note(Some(driver), "received at once", socket, bytes as u64);
        Ok(Some(bytes))
    }

    fn fail_direct(&mut self, op: OpRef, errno: i32) -> Completion {
        let Op { token, work: Work::Direct(direct), .. } = self.remove_op(op) else {
            unreachable!("checked by the caller")
        };
        Completion::ReceivedDirect { token, direct, result: Err(failed(errno)) }
    }

    /// Ties a socket to its descriptor.
    pub(super) fn name(&mut self, driver: usize, id: SocketId, fd: &OwnedFd) {
        let number = fd.as_raw_fd();
        // The number is free again, so the socket that had it was closed.
        if let Some(old) = self.by_fd.remove(&number) {
            self.close(old);
        }
        let inode = inode(number).expect("an open descriptor");
        self.sockets.get_mut(&id).expect("just made").name = Some((number, inode));
        self.by_fd.insert(number, id);
        self.desks[driver].sockets.insert(id);
    }
}

/// Room in the body's memory.
fn room(direct: &mut Direct) -> usize {
    match direct.body.as_mut().filter(|_| direct.rest > 0) {
        Some(body) => body.spare(direct.rest).1,
        None => 0,
    }
}

fn put(direct: &mut Direct, room: usize, bytes: &[u8]) {
    let (body_bytes, spilled) = bytes.split_at(bytes.len().min(room));
    if let Some(body) = direct.body.as_mut().filter(|_| !body_bytes.is_empty()) {
        body.extend_from_slice(body_bytes);
        direct.rest -= body_bytes.len();
    }
    direct.spill.extend_from_slice(spilled);
}

/// A real socket that is never connected: its descriptor names a simulated socket. Unlike a duplicate of another
/// descriptor it has an inode of its own, so a reused number is recognised; and options can be set on it.
pub(super) fn new_descriptor(family: Family, options: &SocketOptions) -> io::Result<OwnedFd> {
    match family {
        Family::V4 | Family::V6 => net::connect_socket(Family::V4, options),
        Family::Unix => {
            let error = "the simulator knows TCP addresses only";
            Err(io::Error::new(io::ErrorKind::Unsupported, error))
        }
    }
}
